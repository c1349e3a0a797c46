//! One running cell: its three actors, started together, watched, and started again together.
//!
//! A handler that panics ends its own request only. When an actor itself ends, nothing of the cell is
//! trusted any more: every link is closed and all three start afresh, the filter knowing nobody.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix::{Actor, Addr};
use cellbus_channels::{Bus, HandleError, Handler, HandlerOptions, Selector};
use cellbus_proto::{
    admission::{Gate, Permit},
    challenge::ChallengeBook,
    directory::Directory,
    envelope::{Address, Common, Envelope, Flags, Header, Kind, Lane},
    name::{ChannelTopic, Fqcn, Segment},
    policy::Policy,
    route::Hop,
    status::Status,
    token::TokenVerifier,
    trust::{BanChange, Bundle},
    well_known::{SystemTopic, is_reserved},
};
use tokio::sync::{oneshot, watch};

use crate::{
    bus::CellTransport,
    carrier::{Accept, Dial},
    cell::{
        BeginDrain, Busy, Cell, CellParts, CellSettings, CellState, ChangeBans, Forgive, Halt,
        HandlerTable, InspectCell, InspectReport, JobTable, ListsTaken, Root, RootError, Roster,
        SayBye, TakeLists,
    },
    clock,
    endpoint::{Endpoint, EndpointSettings, EndpointStart, StopLinking},
    filter::{AuthFilter, Explain, InTransit, SetCell, SetLists, SetPolicy},
    link::Health,
    lists::ChangeRefused,
    own::Own,
    seam::{EndNotice, Ended, post},
};

use self::listed_roster::ListedRoster;
pub use self::{
    issued::{AskError, Renewing},
    renewal::{RenewError, Renewal},
};

mod issued;
mod listed_roster;
mod renewal;

/// Everything that a cell is made of.
#[derive(Clone)]
pub struct CellStart {
    /// Who it is.
    pub own: Arc<Own>,
    /// Message policy.
    pub policy: Arc<Policy>,
    /// The cells of the project.
    pub directory: Arc<Directory>,
    /// Who may attach.
    pub roster: Arc<dyn Roster>,
    /// How the parent is dialled.
    pub dial: Option<Arc<dyn Dial>>,
    /// How children come.
    pub accept: Option<Arc<dyn Accept>>,
    /// Figures of the cell.
    pub cell: CellSettings,
    /// Figures of the endpoint and its links.
    pub endpoint: EndpointSettings,
    /// Forwarding steps that a message may take.
    pub hops_max: u8,
}

#[derive(Clone)]
struct Group {
    filter: Addr<AuthFilter>,
    cell: Addr<Cell>,
    endpoint: Addr<Endpoint>,
}

/// A cell that runs on this thread.
#[derive(Clone)]
pub struct RunningCell {
    own: Arc<Own>,
    handlers: HandlerTable,
    jobs: JobTable,
    state: watch::Receiver<CellState>,
    group: watch::Receiver<Option<Group>>,
    cell: watch::Receiver<Option<Addr<Cell>>>,
    stop: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    accept: Option<Arc<dyn Accept>>,
    policy: LatestPolicy,
}

/// The policy that holds now: what a cell that starts again starts with.
#[derive(Clone, Debug)]
struct LatestPolicy(Arc<Mutex<Arc<Policy>>>);

impl LatestPolicy {
    fn new(policy: &Arc<Policy>) -> Self {
        Self(Arc::new(Mutex::new(Arc::clone(policy))))
    }

    fn get(&self) -> Arc<Policy> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, policy: &Arc<Policy>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(policy);
    }
}

/// A handler that is registered for as long as this is kept.
#[derive(Debug)]
#[must_use = "dropping it takes the handler away"]
pub struct Serving {
    handlers: HandlerTable,
    selector: Selector,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.handlers.remove(&self.selector);
    }
}

/// Starts a cell on this thread, which must be one of actix.
///
/// # Errors
/// [`RootError`] when the server cannot make its token key.
pub fn start(mut start: CellStart) -> Result<RunningCell, RootError> {
    let (state_tx, state) = watch::channel(CellState::Starting);
    let (group_tx, group) = watch::channel(None);
    let (cell_tx, cell) = watch::channel(None);
    let (stop_tx, stop) = oneshot::channel();
    let handlers = HandlerTable::default();
    let jobs = JobTable::default();
    let policy = LatestPolicy::new(&start.policy);
    start.roster = Arc::new(ListedRoster::new(&start.own, start.roster));
    let first = Group::start(&start, &handlers, &jobs, &state_tx)?;
    let running = RunningCell {
        own: Arc::clone(&start.own),
        handlers: handlers.clone(),
        jobs: jobs.clone(),
        state,
        group,
        cell,
        stop: Arc::new(Mutex::new(Some(stop_tx))),
        accept: start.accept.clone(),
        policy: policy.clone(),
    };
    let publish = move |group: Option<Group>| {
        cell_tx.send_replace(group.as_ref().map(|group| group.cell.clone()));
        group_tx.send_replace(group);
    };
    publish(Some(first.0.clone()));
    actix::spawn(supervise(start, policy, (handlers, jobs), state_tx, first, publish, stop));
    Ok(running)
}

/// Keeps the group running until it is told to stop, or ends too often.
async fn supervise(
    mut start: CellStart,
    policy: LatestPolicy,
    (handlers, jobs): (HandlerTable, JobTable),
    state: watch::Sender<CellState>,
    mut current: (Group, [Ended; 3]),
    publish: impl Fn(Option<Group>),
    mut stop: oneshot::Receiver<()>,
) {
    const WINDOW: Duration = Duration::from_secs(60);
    const RESTARTS_MAX: usize = 5;
    let mut restarts: Vec<std::time::Instant> = Vec::new();
    loop {
        let (group, [filter, cell, endpoint]) = current;
        let ended = tokio::select! {
            biased;
            _ = &mut stop => None,
            () = filter.wait() => Some("filter"),
            () = cell.wait() => Some("cell"),
            () = endpoint.wait() => Some("endpoint"),
        };
        group.halt();
        let Some(what) = ended else { break };
        let name = &start.own.name;
        tracing::error!(cell = %name, actor = what, "an actor ended; the cell starts again");
        publish(None);
        state.send_replace(CellState::Starting);
        let now = clock::now();
        restarts.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        restarts.push(now);
        if restarts.len() > RESTARTS_MAX {
            tracing::error!(cell = %name, "the cell ended too often and stays down");
            break;
        }
        tokio::time::sleep(Duration::from_millis(100 << restarts.len().min(6))).await;
        start.own.set_token(None);
        start.policy = policy.get();
        current = match Group::start(&start, &handlers, &jobs, &state) {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(cell = %name, %error, "the cell cannot start");
                break;
            }
        };
        publish(Some(current.0.clone()));
        // What was set before the new group could be told.
        let latest = policy.get();
        if !Arc::ptr_eq(&latest, &start.policy) {
            start.own.protection.set_policy(Arc::clone(&latest));
            // Fails only when the filter has ended, which the next round sees.
            let _ = post(&current.0.filter, SetPolicy(latest));
        }
    }
    publish(None);
    state.send_replace(CellState::Stopped);
}

impl Group {
    fn start(
        start: &CellStart,
        handlers: &HandlerTable,
        jobs: &JobTable,
        state: &watch::Sender<CellState>,
    ) -> Result<(Self, [Ended; 3]), RootError> {
        let own = &start.own;
        let life = start.cell.challenge_life;
        let root = own.is_root().then(|| Root::new(own, life, jobs.clone())).transpose()?;
        let (filter_notice, filter_ended) = EndNotice::new();
        let (cell_notice, cell_ended) = EndNotice::new();
        let (endpoint_notice, endpoint_ended) = EndNotice::new();
        let tokens = TokenVerifier::new(own.identity.project.clone());
        let mut gate = Gate::new(Arc::clone(&start.policy), Arc::clone(&start.directory), tokens);
        gate.set_hops_max(start.hops_max);
        let lists = own.lists.view();
        gate.set_lists(lists.clone());
        own.protection.set_policy(Arc::clone(&start.policy));
        let filter = AuthFilter::new(Arc::clone(own), gate, filter_notice).start();
        let cell = Cell::new(CellParts {
            own: Arc::clone(own),
            filter: filter.clone(),
            root,
            roster: Arc::clone(&start.roster),
            handlers: handlers.clone(),
            settings: start.cell.clone(),
            state: state.clone(),
            end: cell_notice,
        })
        .start();
        // Each fails only when the filter has ended, which the supervisor sees.
        let _ = post(&filter, SetCell(cell.clone()));
        let _ = post(&filter, SetLists(lists));
        let book = ChallengeBook::new(start.cell.challenge_life, ChallengeBook::<u64>::MAX);
        let endpoint = Endpoint::new(EndpointStart {
            own: Arc::clone(own),
            cell: cell.clone(),
            filter: filter.clone(),
            roster: Arc::clone(&start.roster),
            challenges: Arc::new(Mutex::new(book)),
            dial: start.dial.clone(),
            accept: start.accept.clone(),
            settings: start.endpoint.clone(),
            end: endpoint_notice,
        })
        .start();
        Ok((Self { filter, cell, endpoint }, [filter_ended, cell_ended, endpoint_ended]))
    }

    /// Whether handlers are running, or requests outstanding: its own, and those that it has passed on.
    async fn is_busy(&self) -> bool {
        self.cell.send(Busy).await.is_ok_and(|busy| busy > 0)
            || self.filter.send(InTransit).await.is_ok_and(|requests| requests > 0)
    }

    fn halt(&self) {
        // Each fails only for an actor that has ended.
        let _ = post(&self.endpoint, Halt);
        let _ = post(&self.cell, Halt);
        let _ = post(&self.filter, Halt);
    }
}

impl RunningCell {
    /// Who it is.
    #[must_use]
    pub fn own(&self) -> &Arc<Own> {
        &self.own
    }

    /// Its place on the bus.
    #[must_use]
    pub fn bus(&self) -> Bus {
        Bus::new(Arc::new(CellTransport {
            own: Arc::clone(&self.own),
            cell: self.cell.clone(),
            handlers: self.handlers.clone(),
            state: self.state.clone(),
            leases: Arc::default(),
        }))
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> CellState {
        *self.state.borrow()
    }

    /// Waits until it is in `state` or beyond.
    pub async fn wait_for(&self, state: CellState) {
        let mut watch = self.state.clone();
        // Ends also when the cell is gone.
        let _ = watch.wait_for(|now| *now >= state).await;
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.accept.as_ref()?.address()
    }

    /// Registers a handler for a topic of the system that this cell's role answers. Messages for it start
    /// in order and do not wait for each other.
    ///
    /// # Errors
    /// [`HandleError::Taken`].
    pub fn handle_system(
        &self,
        topic: SystemTopic,
        handler: impl Handler,
    ) -> Result<(), HandleError> {
        const SYSTEM_CONCURRENCY: u32 = 1024;
        let options = HandlerOptions::concurrent(SYSTEM_CONCURRENCY);
        self.handlers.add(Selector::Exact(topic.into()), options, Arc::new(handler))
    }

    /// Registers a handler until what is returned is dropped.
    ///
    /// # Errors
    /// [`HandleError::Taken`], and [`HandleError::Reserved`] for a channel of the system.
    pub fn serve(
        &self,
        selector: Selector,
        options: HandlerOptions,
        handler: impl Handler,
    ) -> Result<Serving, HandleError> {
        let channel = match &selector {
            Selector::Exact(target) => Some(target.channel()),
            Selector::Channel(channel) => Some(channel),
            Selector::All => None,
        };
        if let Some(channel) = channel.filter(|channel| is_reserved(channel)) {
            return Err(HandleError::Reserved(channel.to_string()));
        }
        self.handlers.add(selector.clone(), options, Arc::new(handler))?;
        Ok(Serving { handlers: self.handlers.clone(), selector })
    }

    fn group(&self) -> Option<Group> {
        self.group.borrow().clone()
    }

    /// Its report; `None` while it does not run.
    pub async fn inspect(&self) -> Option<InspectReport> {
        self.group()?.cell.send(InspectCell).await.ok()
    }

    /// Lets the cell of `job` register below `at`, or no longer. Only the server decides on that.
    pub fn allow_job(&self, at: Fqcn, job: Segment, allow: bool) {
        self.jobs.allow(at, job, allow);
    }

    /// Takes a new message policy, which also holds should the cell start again. Handlers that have failed
    /// get another chance.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        self.policy.set(&policy);
        self.own.protection.set_policy(Arc::clone(&policy));
        // Leases are of messages that the former policy wanted no seal of.
        self.own.advance_generation();
        if let Some(group) = self.group() {
            // Fails only when the filter has ended.
            let _ = post(&group.filter, SetPolicy(policy));
            // The same of the cell.
            let _ = post(&group.cell, Forgive);
        }
    }

    /// Takes signed lists over, where they are newer than what is held and good, and hands them on. They are
    /// in force here when this returns. Of several, those before the one that is refused are taken over.
    ///
    /// # Errors
    /// [`ChangeRefused`], for the first that is not taken over.
    pub async fn take_lists(&self, bundle: Bundle) -> Result<ListsTaken, ChangeRefused> {
        let group = self.group().ok_or(ChangeRefused::Ending)?;
        let taken = group.cell.send(TakeLists(bundle)).await.unwrap_or(Err(ChangeRefused::Ending));
        self.lists_in_force(&group).await;
        taken
    }

    /// Changes whom the server does not let in, at every cell. In force here when this returns.
    ///
    /// # Errors
    /// [`ChangeRefused`]; nothing has changed then.
    pub async fn change_bans(&self, change: BanChange) -> Result<ListsTaken, ChangeRefused> {
        let group = self.group().ok_or(ChangeRefused::Ending)?;
        let taken = group.cell.send(ChangeBans(change)).await.unwrap_or(Err(ChangeRefused::Ending));
        self.lists_in_force(&group).await;
        taken
    }

    async fn lists_in_force(&self, group: &Group) {
        // Messages to an actor keep their order; one that has ended decides on nothing.
        let _ = group.filter.send(InTransit).await;
    }

    /// Waits until every message from now on is decided by the policy that was set last.
    pub async fn policy_in_force(&self) {
        if let Some(group) = self.group() {
            // Messages to an actor keep their order; one that has ended decides on nothing.
            let _ = group.filter.send(InTransit).await;
        }
    }

    /// What this cell would do with a request of its own, and by which permit.
    ///
    /// # Errors
    /// The code that it would be refused with.
    pub async fn explain(&self, to: Fqcn, target: ChannelTopic) -> Result<(Permit, Hop), Status> {
        let header = Header {
            kind: Kind::Request,
            sequence: self.own.next_sequence(),
            common: Arc::new(Common {
                origin: Arc::clone(&self.own.address),
                destination: Address::any(to),
                target,
                token: self.own.token(),
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 1000,
            hops_left: 0,
            extras: None,
        };
        let group = self.group().ok_or(Status::ShuttingDown)?;
        let envelope = Envelope { header, payload: bytes::Bytes::new() };
        group.filter.send(Explain(envelope)).await.unwrap_or(Err(Status::ShuttingDown))
    }

    /// Ends the filter as a fault would. The cell closes its links and starts again.
    pub fn crash_filter(&self) {
        if let Some(group) = self.group() {
            // Fails only when the filter has ended.
            let _ = post(&group.filter, Halt);
        }
    }

    /// Takes nothing new, finishes what was accepted within `deadline`, says bye to every neighbour and
    /// stops. `true` when everything was finished in time.
    pub async fn drain(&self, deadline: Duration) -> bool {
        const LOOK: Duration = Duration::from_millis(10);
        let Some(group) = self.group() else { return true };
        // Each fails only for an actor that has ended.
        let _ = post(&group.endpoint, StopLinking);
        let _ = post(&group.cell, BeginDrain);
        let finished = tokio::time::timeout(deadline, async {
            while group.is_busy().await {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await
        .is_ok();
        self.say_bye(&group).await;
        self.stop();
        self.wait_for(CellState::Stopped).await;
        finished
    }

    async fn say_bye(&self, group: &Group) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let told = group.cell.send(SayBye).await.unwrap_or_default();
        let all = async {
            for health in &told {
                health.wait_closed().await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::debug!(cell = %self.own.name, "a neighbour did not answer the bye");
        }
        if let Some(accept) = &self.accept {
            // Ends early where nobody has anything to ask any more. It would go on, with nobody to speak to,
            // for as long as a dial to a parent that is gone, or the handshake of a caller.
            let _ = tokio::time::timeout(farewell(&told), accept.wait_idle()).await;
        }
    }

    /// Ends at once. Requests that are outstanding end as closed.
    pub fn stop(&self) {
        let sender = self.stop.lock().ok().and_then(|mut stop| stop.take());
        if let Some(sender) = sender {
            // Fails only when the supervisor has ended.
            let _ = sender.send(());
        }
    }
}

/// How long what was closed has to be said again to a neighbour that has missed it: three probe timeouts
/// of the slowest connection.
///
/// # Source
/// RFC 9000 section 10.2; a probe timeout as in RFC 9002 section 6.2.1, with the variation of the round trip
/// at its first value and the acknowledgement delay at its default.
fn farewell(told: &[Arc<Health>]) -> Duration {
    const ACK_DELAY: Duration = Duration::from_millis(25);
    const LONGEST: Duration = Duration::from_secs(3);
    let round_trip = told.iter().map(|health| health.carrier().rtt_us).max().unwrap_or(0);
    let probe = 3 * Duration::from_micros(round_trip.min(1_000_000)) + ACK_DELAY;
    (3 * probe).min(LONGEST)
}

impl std::fmt::Debug for RunningCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunningCell({}, {})", self.own.name, self.state().as_str())
    }
}
