//! The cell: routes, handlers, outstanding requests and the registrations of its children.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, SpawnHandle};
use cellbus_channels::{Event, RequestError};
use cellbus_proto::{
    admission::Admitted,
    envelope::{Envelope, Header, Incarnation, Kind},
    exchange::Exchange,
    identity::CellKind,
    name::{Fqcn, Segment},
    registry::{Registry, Returns},
    route::{Hop, LinkId, Routes},
    status::Status,
    transfer::ShareSettings,
    well_known,
};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::{
    clock,
    conduits::Bounds,
    filter::{AuthFilter, Inbound, RemovePeer, SetRoutes},
    link::{Link, Say},
    outbox::Outbox,
    own::Own,
    seam::{EndNotice, Pacer, post},
};

mod ask;
mod handlers;
mod inspect;
mod lists;
mod notices;
mod ping;
mod probe;
mod protect;
mod registrar;
mod renewal;
mod root;

pub(crate) use self::renewal::note_issued;
pub use self::{
    ask::{
        Answer, Ask, AskMany, Below, FailOwn, GRACE, GiveUp, GiveUpMany, LeaseFor, SubmitMany,
        TakeAsks,
    },
    handlers::{HandlerDone, HandlerLimits, HandlerReply, HandlerTable, Resume},
    inspect::{InspectCell, InspectReport, LinkReport, PeerReport},
    lists::{ChangeBans, CompareLists, ListsTaken, TakeLists},
    notices::Notices,
    ping::{PingAnswer, PingNeighbour},
    registrar::{ChallengeFor, LinkLeft, RegisterPeer, RegisteredPeer, RenewPeer},
    renewal::{AnnounceBy, LinksToRenew, Renewed},
    root::{JobTable, Root, RootError},
};
use self::{
    ask::{Asking, Waiter},
    handlers::Handlers,
    lists::Listing,
    protect::Protector,
    registrar::Registrar,
};
pub(crate) use self::{
    ask::{check_outgoing, millis, publish_of},
    protect::{KeyOf, SubmitProtected},
    registrar::random_nonce,
    root::announcement_signable,
};

/// The actor that is a cell.
#[derive(Debug)]
pub struct Cell {
    own: Arc<Own>,
    filter: Addr<AuthFilter>,
    routes: Routes,
    links: BTreeMap<LinkId, LinkInfo>,
    registry: Registry<Holder>,
    exchange: Exchange<Waiter>,
    asking: Asking,
    expiry: Option<(Instant, SpawnHandle)>,
    handlers: Handlers,
    protector: Protector,
    /// What the message in hand has emitted.
    gathered: std::cell::RefCell<Option<Vec<Envelope>>>,
    root: Option<Root>,
    registrar: Registrar,
    listing: Listing,
    roster: Arc<dyn Roster>,
    settings: CellSettings,
    state: watch::Sender<CellState>,
    pacer: Pacer,
    /// When what is being done now began: asked of the clock once for many messages.
    moment: Option<Instant>,
    _end: EndNotice,
}

/// Who may attach below this cell.
pub trait Roster: Send + Sync + std::fmt::Debug {
    /// The kind that the cell `name` must be of, if it may attach to this cell directly.
    fn child_kind(&self, name: &Fqcn) -> Option<CellKind>;

    /// The kind of any cell of the project, wherever it attaches.
    fn kind_of(&self, name: &Fqcn) -> Option<CellKind>;
}

/// How a registered cell is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its link, for a direct child.
    pub link: Option<LinkId>,
    /// Its parent.
    pub via: Fqcn,
}

/// What the cell knows of a link.
#[derive(Debug)]
pub(crate) struct LinkInfo {
    pub(crate) name: Fqcn,
    pub(crate) kind: CellKind,
    pub(crate) is_parent: bool,
    pub(crate) incarnation: Incarnation,
    pub(crate) link: Addr<Link>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) since: Instant,
    pub(crate) health: Arc<crate::link::Health>,
}

/// Where a cell is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellState {
    /// It has been started.
    Starting,
    /// It dials its parent, or registers there.
    Connecting,
    /// It is registered; messages flow.
    Ready,
    /// It takes nothing new.
    Draining,
    /// It has ended.
    Stopped,
}

impl CellState {
    /// The word for it in tables and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// Figures that a person may set.
#[derive(Clone, Debug)]
pub struct CellSettings {
    /// Budget of a request that states none.
    pub budget: Duration,
    /// Largest payload that travels in a message, in bytes.
    pub payload_max: usize,
    /// Requests outstanding at once.
    pub requests_max: usize,
    /// What handlers may hold.
    pub handlers: HandlerLimits,
    /// What may be spent on transfers that several receivers behind this cell share.
    pub share: ShareSettings,
    /// Where the bytes of these are kept, in files without a name. Default: where the system keeps
    /// temporary files.
    pub spool_dir: Option<PathBuf>,
    /// How often one child may leave and come back within a minute.
    pub returns_per_minute: usize,
    /// Life of a challenge.
    pub challenge_life: Duration,
    /// Life of a session token, in seconds.
    pub token_life_s: u64,
}

impl Default for CellSettings {
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(30),
            payload_max: 1 << 20,
            requests_max: Exchange::<()>::MAX,
            handlers: HandlerLimits::default(),
            share: ShareSettings::default(),
            spool_dir: None,
            returns_per_minute: Returns::PER_MINUTE,
            challenge_life: Duration::from_secs(30),
            token_life_s: 900,
        }
    }
}

/// Messages for this cell itself, let in by the filter.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Deliver {
    /// The messages, in the order in which they came.
    pub batch: Vec<Admitted>,
    /// Bytes of the sender's allowance, given back when the batch is done.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// A link is registered and carries messages.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LinkUp {
    /// The link.
    pub id: LinkId,
    /// Who is at the other end.
    pub name: Fqcn,
    /// Its kind.
    pub kind: CellKind,
    /// Whether it is the parent.
    pub is_parent: bool,
    /// Start of its process.
    pub incarnation: Incarnation,
    /// The link itself.
    pub link: Addr<Link>,
    /// Where messages to it wait.
    pub outbox: Arc<Outbox>,
    /// How it is doing.
    pub health: Arc<crate::link::Health>,
}

/// A link is no more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LinkDown(pub LinkId);

/// Takes no new requests, and says so.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BeginDrain;

/// Ends the actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Halt;

/// Whether handlers are running or requests outstanding.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct Busy;

/// Gives handlers that have failed another chance.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Forgive;

/// Says bye to every neighbour; the links close when they have answered, or after a second.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Arc<crate::link::Health>>")]
pub struct SayBye;

/// What a cell is made of.
pub struct CellParts {
    /// Its own side.
    pub own: Arc<Own>,
    /// The filter in front of it.
    pub filter: Addr<AuthFilter>,
    /// What only the server has.
    pub root: Option<Root>,
    /// Who may attach.
    pub roster: Arc<dyn Roster>,
    /// What answers its messages.
    pub handlers: HandlerTable,
    /// Figures.
    pub settings: CellSettings,
    /// Where its state is told.
    pub state: watch::Sender<CellState>,
    /// Told when it has ended.
    pub end: EndNotice,
}

impl Cell {
    /// A cell of these parts.
    #[must_use]
    pub fn new(parts: CellParts) -> Self {
        let CellParts { own, filter, root, roster, handlers, settings, state, end } = parts;
        let (payload_max, budget) = (settings.payload_max, settings.budget);
        own.set_payload_max(payload_max);
        let share = (settings.share, settings.spool_dir.clone());
        own.conduits.set_bounds(Bounds { filter: filter.clone(), payload_max, budget, share });
        Self {
            routes: Routes::new(own.name.clone(), own.is_root()),
            links: BTreeMap::new(),
            registry: Registry::new(Registry::<Holder>::MAX),
            exchange: Exchange::new(settings.requests_max),
            registrar: Registrar::new(settings.returns_per_minute),
            listing: Listing::default(),
            asking: Asking::default(),
            expiry: None,
            handlers: Handlers::new(handlers, settings.handlers),
            protector: Protector::new(&own),
            gathered: std::cell::RefCell::default(),
            own,
            filter,
            root,
            roster,
            settings,
            state,
            pacer: Pacer::default(),
            moment: None,
            _end: end,
        }
    }

    fn set_state(&self, next: CellState) {
        self.state.send_if_modified(|state| {
            let changes = *state != next && *state < CellState::Draining;
            if changes {
                *state = next;
            }
            changes
        });
    }

    fn publish_routes(&mut self) {
        self.asking.ways.clear();
        self.to_filter(SetRoutes(Arc::new(self.routes.clone())));
    }

    fn to_filter<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        AuthFilter: Handler<M>,
    {
        self.let_go();
        if post(&self.filter, message).is_err() {
            tracing::debug!(cell = %self.own.name, "the filter has ended");
        }
    }

    /// Sends a message of this cell itself: through the filter, as everybody's.
    fn emit(&self, mut envelope: Envelope) {
        self.sign(&mut envelope);
        if let Some(gathered) = &mut *self.gathered.borrow_mut() {
            gathered.push(envelope);
            return;
        }
        self.to_filter(Inbound { from: Hop::Local, batch: vec![envelope], permit: None });
    }

    /// The time, as of the beginning of the batch or the end of its latest handler.
    fn now(&self) -> Instant {
        self.moment.unwrap_or_else(clock::now)
    }

    /// What `work` emits leaves in one batch.
    fn gathering<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.gathered.get_mut().get_or_insert_default();
        self.moment = Some(clock::now());
        let done = work(self);
        self.moment = None;
        self.let_go();
        *self.gathered.get_mut() = None;
        done
    }

    /// Lets go what has been gathered, before anything else reaches the filter.
    fn let_go(&self) {
        let batch = self.gathered.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default();
        let batch = self.own.bundle(batch);
        let inbound = Inbound { from: Hop::Local, batch, permit: None };
        if !inbound.batch.is_empty() && post(&self.filter, inbound).is_err() {
            tracing::debug!(cell = %self.own.name, "the filter has ended");
        }
    }

    fn take(&mut self, admitted: Admitted, ctx: &mut Context<Self>) {
        self.own.counters.deliver_many(admitted.count() as u64);
        if let Some(admitted) = self.protect_in(admitted, ctx) {
            self.take_clear(admitted, ctx);
        }
    }

    /// Takes a message that is what its origin sent, as far as that can be told.
    fn take_clear(&mut self, mut admitted: Admitted, ctx: &mut Context<Self>) {
        if admitted.header().kind.is_answer() {
            self.take_answer(admitted, ctx);
            return;
        }
        let here = Some(self.own.incarnation);
        let meant = admitted.header().destination.incarnation;
        if meant.is_some() && meant != here {
            return self.refuse_delivered(admitted, Status::PeerRestarted);
        }
        let now = self.now();
        let Some(budget_ms) = admitted.budget_left(now) else {
            return self.refuse_delivered(admitted, Status::ExpiredInQueue);
        };
        admitted.stamp_departure(now, || 0);
        if admitted.is_probe_only() {
            return self.answer_probe(admitted.header());
        }
        match admitted.header().target.system() {
            Some(well_known::CANCEL) => self.take_cancel(&admitted, ctx),
            Some(well_known::RENEW_LINK) => self.take_link_renewal(&admitted, ctx),
            Some(well_known::LISTS) => self.take_lists(&admitted),
            Some(well_known::LISTS_HELD) => self.take_lists_held(&admitted),
            Some(well_known::CERTIFICATE) => self.answer_certificate(admitted.header()),
            Some(well_known::PING) => {
                let envelope = admitted.into_envelope();
                self.answer(&envelope.header, envelope.payload, None);
            }
            Some(
                system @ (well_known::CHALLENGE_CHILD
                | well_known::REGISTER_CHILD
                | well_known::RENEW_CHILD
                | well_known::DETACH_CHILD
                | well_known::RENEW_CERTIFICATE
                | well_known::ISSUE_CERTIFICATE
                | well_known::QUIT),
            ) => self.take_registration(system, admitted, ctx),
            Some(_) | None => self.dispatch(admitted, budget_ms, ctx),
        }
    }

    /// Sends a reply to a request.
    fn answer(&self, request: &Header, payload: bytes::Bytes, content_type: Option<Arc<str>>) {
        let kind = Kind::Reply { to: request.sequence };
        if let Some(mut header) = self.own.answer(request, kind) {
            if content_type.is_some() {
                header.extras.get_or_insert_default().content_type = content_type;
            }
            self.emit_answer(request, Envelope { header, payload });
        }
    }

    /// Sends a return for a request; nothing where nobody waits.
    fn answer_failed(&self, request: &Header, status: Status, detail: bytes::Bytes) {
        let kind = Kind::Return { to: request.sequence, status, by: self.own.name.clone() };
        if let Some(header) = self.own.answer(request, kind) {
            self.emit_answer(request, Envelope { header, payload: detail });
        } else {
            self.own.counters.refuse(status);
        }
    }
}

impl Actor for Cell {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What waited for an actor before this one.
        ctx.notify(TakeAsks::of(&self.own));
        self.publish_routes();
        if self.own.is_root() {
            self.start_root(ctx);
            self.resign_bans();
            self.set_state(CellState::Ready);
        } else {
            self.set_state(CellState::Connecting);
        }
    }
}

impl Handler<Deliver> for Cell {
    type Result = ();

    fn handle(&mut self, Deliver { batch, permit }: Deliver, ctx: &mut Self::Context) {
        let count: usize = batch.iter().map(Admitted::count).sum();
        let weight = u32::try_from(count).unwrap_or(u32::MAX);
        self.gathering(|cell| {
            for admitted in batch {
                cell.take(admitted, ctx);
            }
        });
        drop(permit);
        self.pacer.pace(weight, ctx);
    }
}

impl Handler<LinkUp> for Cell {
    type Result = ();

    fn handle(&mut self, up: LinkUp, ctx: &mut Self::Context) {
        let LinkUp { id, name, kind, is_parent, incarnation, link, outbox, health } = up;
        if is_parent {
            self.routes.set_uplink(Some(id));
            self.own.advance_epoch();
            self.set_state(CellState::Ready);
        } else if let Some(old) =
            self.routes.insert_child(name.clone(), id).filter(|old| *old != id)
        {
            self.fail_link(old, ctx);
        }
        tracing::info!(cell = %self.own.name, peer = %name, link = id.0, "link is up");
        self.own.notices.tell(Event::LinkUp(name.clone()));
        let since = clock::now();
        let info = LinkInfo { name, kind, is_parent, incarnation, link, outbox, since, health };
        self.links.insert(id, info);
        self.publish_routes();
        // Who holds nothing hears from the first echo whether there is anything.
        if is_parent && self.own.lists.mark() != 0 {
            self.compare_lists(id);
        }
        self.look_for_ways(ctx);
    }
}

impl Handler<LinkDown> for Cell {
    type Result = ();

    fn handle(&mut self, LinkDown(id): LinkDown, ctx: &mut Self::Context) {
        // Routes first: what the filter returns of the outbox must not go out by this link again.
        let routed = self.routes.remove(id);
        if routed {
            self.publish_routes();
        }
        self.to_filter(RemovePeer(id));
        self.fail_link(id, ctx);
        // Also where no message ever flowed: a link can end while its registration is decided on.
        self.forget_child(id);
        self.listing.forget(id);
        let Some(info) = self.links.remove(&id) else { return };
        tracing::info!(cell = %self.own.name, peer = %info.name, link = id.0, "link is down");
        self.own.notices.tell(Event::LinkDown(info.name.clone()));
        if info.is_parent && self.routes.uplink().is_none() {
            self.set_state(CellState::Connecting);
        }
    }
}

impl Handler<BeginDrain> for Cell {
    type Result = ();

    fn handle(&mut self, _: BeginDrain, _: &mut Self::Context) {
        self.set_state(CellState::Draining);
        self.to_filter(crate::filter::StopTaking);
        for info in self.links.values() {
            // Fails only when the link has ended already.
            let _ = post(&info.link, Say::Drain);
        }
    }
}

impl Handler<Forgive> for Cell {
    type Result = ();

    fn handle(&mut self, _: Forgive, _: &mut Self::Context) {
        self.handlers.forgive();
    }
}

impl Handler<Halt> for Cell {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        for waiter in self.exchange.drain() {
            waiter.fail(RequestError::Closed);
        }
        for info in self.links.values() {
            // Fails only when the link has ended already.
            let _ =
                post(&info.link, Say::Close(crate::conn::CloseCode::Later, "the cell has ended"));
        }
        ctx.stop();
    }
}

impl Handler<Busy> for Cell {
    type Result = usize;

    fn handle(&mut self, _: Busy, _: &mut Self::Context) -> usize {
        self.outstanding() + self.handlers.running() + self.protector.len()
    }
}

impl Handler<SayBye> for Cell {
    type Result = actix::MessageResult<SayBye>;

    fn handle(&mut self, _: SayBye, _: &mut Self::Context) -> Self::Result {
        self.registrar.leaving = true;
        let mut told = Vec::new();
        for info in self.links.values() {
            if post(&info.link, Say::Bye).is_ok() {
                told.push(Arc::clone(&info.health));
            }
        }
        actix::MessageResult(told)
    }
}

/// The last segment of a cell name, as a segment.
fn base_segment(name: &Fqcn) -> Segment {
    name.base().parse().expect("the last segment of a name is a segment")
}
