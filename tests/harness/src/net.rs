//! A whole network of cells in one process and one thread, on a paused clock.
//!
//! ```no_run
//! use cellbus_harness::{net::Net, seeds::run_paused};
//!
//! run_paused(1, |seed| async move {
//!     let mut net = Net::up(seed, "server -> relay -> site-1; relay -> site-2").await;
//!     net.cell("server").echoes("task/ping").await;
//!     assert_eq!(net.cell("site-1").request("server", "task/ping", "hi").await.unwrap(), "hi");
//!     net.finish().await;
//! });
//! ```
//!
//! The cells are the product's own: the same actors, filter and protocol as between machines. Links are
//! in memory ([`Net::up`]), or QUIC with TLS over a simulated network ([`Net::over_quic`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::{ChannelTopic, Failure, Fqcn, HandlerOptions, Reply, RequestError, from_fn};
use cellbus_proto::{
    directory::Directory,
    envelope::Incarnation,
    identity::{CellKind, Identity},
    name::Segment,
    policy::{Effect, Pattern, Policy, Rule},
};
use cellbus_runtime::{
    cell::{CellSettings, CellState, InspectReport, Roster},
    clock::WallClock,
    endpoint::EndpointSettings,
    host::{CellStart, RunningCell},
    own::Own,
    tls::PinnedPeers,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::sim::{SimAuthority, SimNet};

mod carry;
mod lists;
mod tree;

pub use self::carry::Wires;
use self::{
    carry::{Carriage, Quic},
    tree::Tree,
};

/// Seconds since 1970 at the start of every simulation.
pub const NOW: u64 = 1_800_000_000;

/// A network of cells.
pub struct Net {
    seed: u64,
    tree: Arc<Tree>,
    authority: SimAuthority,
    directory: Arc<Directory>,
    policy: Arc<Policy>,
    wall: WallClock,
    carriage: Carriage,
    cells: BTreeMap<Fqcn, TestCell>,
    counters: BTreeMap<Fqcn, u64>,
    next_link: Arc<AtomicU64>,
    settings: Settings,
}

/// Figures that a test may change before the cells start.
#[derive(Clone, Default)]
pub struct Settings {
    /// Of every cell.
    pub cell: CellSettings,
    /// Of every endpoint.
    pub endpoint: EndpointSettings,
    /// How long the certificates of cells count; for years where nothing is said.
    pub leaf_life: Option<Duration>,
}

/// One cell of the network.
#[derive(Clone)]
pub struct TestCell {
    /// The product's own handle.
    pub running: RunningCell,
    calls: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug)]
struct TreeRoster {
    own: Fqcn,
    tree: Arc<Tree>,
}

impl Roster for TreeRoster {
    fn child_kind(&self, name: &Fqcn) -> Option<CellKind> {
        (self.tree.parent_of(name)? == &self.own).then(|| self.tree.kind_of(name))?
    }

    fn kind_of(&self, name: &Fqcn) -> Option<CellKind> {
        self.tree.kind_of(name)
    }
}

/// Everybody may talk to everybody on the channels `task` and `notes`, topics `ping`, `slow`, `count`, `fetch`,
/// `submit` and `progress`.
#[must_use]
pub fn open_policy() -> Vec<Rule> {
    let topics = ["ping", "slow", "count", "fetch", "submit", "progress"];
    ["task", "notes"]
        .into_iter()
        .map(|channel| {
            let topics = topics.iter().map(|topic| topic.parse().expect("a topic")).collect();
            let channel = channel.parse().expect("a channel");
            Rule::new(Effect::Allow, Pattern::Any, Pattern::Any, channel, topics)
        })
        .collect()
}

impl Net {
    /// Starts the cells of `tree`, linked in memory, and waits until all are registered.
    ///
    /// Each part of `tree`, between `;` or line ends, is a path `parent -> child -> ..`. The first name is
    /// the server; a cell with children is a relay, one without a site; one whose name starts with `job`
    /// is a job cell of what it stands below.
    pub async fn up(seed: u64, tree: &str) -> Self {
        let mut net = Self::new(seed, tree, Carriage::memory(), Settings::default());
        net.start_all().await;
        net
    }

    /// The same over QUIC and a simulated network with the settings of `sim`.
    pub async fn over_quic(sim: SimNet, tree: &str) -> Self {
        let seed = sim.seed();
        let mut net = Self::new(seed, tree, Carriage::Quic(Quic::new(sim)), Settings::default());
        net.start_all().await;
        net
    }

    /// A network whose cells are started one by one with [`Self::start`].
    #[must_use]
    pub fn prepared(seed: u64, tree: &str, sim: Option<SimNet>, settings: Settings) -> Self {
        let carriage = match sim {
            Some(sim) => Carriage::Quic(Quic::new(sim)),
            None => Carriage::memory(),
        };
        Self::new(seed, tree, carriage, settings)
    }

    fn new(seed: u64, tree: &str, carriage: Carriage, settings: Settings) -> Self {
        let tree = Arc::new(Tree::parse(tree));
        let project: Segment = "harness".parse().expect("a project");
        let mut authority = SimAuthority::new(&project, seed, NOW);
        if let Some(life) = settings.leaf_life {
            authority = authority.with_leaf_life(life);
        }
        Self {
            seed,
            authority,
            directory: Arc::new(tree.directory()),
            policy: Arc::new(Policy::new(1, open_policy())),
            wall: WallClock::starting_at(NOW),
            carriage,
            cells: BTreeMap::new(),
            counters: BTreeMap::new(),
            next_link: Arc::new(AtomicU64::new(1)),
            tree,
            settings,
        }
    }

    /// The names of all cells, parents first.
    #[must_use]
    pub fn names(&self) -> Vec<Fqcn> {
        self.tree.names()
    }

    /// Starts every cell of the tree and waits until all are registered.
    ///
    /// # Panics
    /// When one runs already, or is not registered within a minute of simulated time.
    pub async fn start_all(&mut self) {
        for name in self.tree.names() {
            self.start(name.as_str());
        }
        self.wait_ready(Duration::from_secs(60)).await;
    }

    /// Where a cell is on the simulated network, to change what its paths are like.
    ///
    /// # Panics
    /// When the links are in memory, or the cell was never started.
    #[must_use]
    #[track_caller]
    pub fn host(&self, name: &str) -> SocketAddr {
        self.carriage.host(&self.tree.full(name)).expect("a cell that was started, over QUIC")
    }

    /// Waits until every cell that runs is registered.
    ///
    /// # Panics
    /// When one is not within `limit` of simulated time.
    pub async fn wait_ready(&self, limit: Duration) {
        for (name, cell) in &self.cells {
            let ready = tokio::time::timeout(limit, cell.running.wait_for(CellState::Ready)).await;
            assert!(ready.is_ok(), "{name} is {:?} after {limit:?}", cell.running.state());
        }
    }

    /// Starts a cell that does not run. Every start is a new incarnation.
    ///
    /// # Panics
    /// When the cell is not in the tree or runs already.
    pub fn start(&mut self, name: &str) {
        let counter = self.counters.get(&self.tree.full(name)).copied().unwrap_or(0) + 1;
        let nonce = ChaCha8Rng::seed_from_u64(self.seed ^ counter ^ hash(name)).random();
        self.start_as(name, Incarnation { counter, nonce });
    }

    /// Starts a cell as a given incarnation: a copy of another, or one restored from a backup.
    ///
    /// # Panics
    /// When the cell is not in the tree or runs already.
    pub fn start_as(&mut self, name: &str, incarnation: Incarnation) {
        let name = self.tree.full(name);
        assert!(!self.cells.contains_key(&name), "{name} runs already");
        let cell = self.build(&name, incarnation, false);
        self.counters.insert(name.clone(), incarnation.counter);
        self.cells.insert(name, cell);
    }

    /// Ends a cell, if it runs, and starts it as a given incarnation; waits until it is registered.
    ///
    /// # Panics
    /// When it is not within a minute of simulated time.
    pub async fn start_as_again(&mut self, name: &str, incarnation: Incarnation) {
        if self.cells.contains_key(&self.tree.full(name)) {
            self.drain(name).await;
        }
        self.start_as(name, incarnation);
        self.wait_ready(Duration::from_secs(60)).await;
    }

    /// Starts a second process with the same identity, as from a copied disk. It is not one of the
    /// network's cells; the caller stops it.
    #[must_use]
    pub fn start_copy(&mut self, name: &str, incarnation: Incarnation) -> TestCell {
        let name = self.tree.full(name);
        self.build(&name, incarnation, true)
    }

    fn identity(&self, name: &Fqcn) -> Identity {
        let kind = self.tree.kind_of(name).expect("a cell of the tree");
        let own_name = match kind {
            CellKind::Job => name.clone(),
            CellKind::Server | CellKind::Relay | CellKind::Client | CellKind::Admin => {
                name.base().parse::<Segment>().expect("a segment").into()
            }
        };
        Identity {
            project: "harness".parse().expect("a project"),
            kind,
            name: own_name,
            org: "org".parse().expect("an org"),
            role: None,
        }
    }

    fn build(&mut self, name: &Fqcn, incarnation: Incarnation, is_copy: bool) -> TestCell {
        let certificate = self.authority.certificate(&self.identity(name));
        let parent = self.tree.parent_of(name).cloned();
        if self.tree.kind_of(name) == Some(CellKind::Job)
            && let Some(parent) = &parent
        {
            self.carriage.pins(parent).add(certificate.hash());
        }
        let own = Arc::new(Own::new(
            name.clone(),
            self.tree.root().clone(),
            parent.clone(),
            incarnation,
            certificate,
            Arc::new(self.authority.roots().separate()),
            self.wall,
        ));
        let accept = self.carriage.accept(&own, &self.identity(name), is_copy);
        let dial = parent.as_ref().map(|parent| {
            let parent_identity = self.identity(parent);
            let parent_leaf = self.authority.certificate(&parent_identity).hash();
            self.carriage.dial(&own, &self.identity(name), parent, parent_leaf, is_copy)
        });
        let mut endpoint = self.settings.endpoint.clone();
        let rng = Mutex::new(ChaCha8Rng::seed_from_u64(self.seed ^ hash(name.as_str())));
        endpoint.random = Arc::new(move || rng.lock().expect("no panic in between").random());
        let next = Arc::clone(&self.next_link);
        endpoint.next_link = Arc::new(move || next.fetch_add(1, Ordering::Relaxed));
        let running = cellbus_runtime::host::start(CellStart {
            own,
            policy: Arc::clone(&self.policy),
            directory: Arc::clone(&self.directory),
            roster: Arc::new(TreeRoster { own: name.clone(), tree: Arc::clone(&self.tree) }),
            dial,
            accept: Some(accept),
            cell: self.settings.cell.clone(),
            endpoint,
            hops_max: 16,
        })
        .expect("the server makes its token key");
        if name == self.tree.root() {
            for job in
                self.tree.names().iter().filter(|n| self.tree.kind_of(n) == Some(CellKind::Job))
            {
                let parent = self.tree.parent_of(job).expect("a job cell has a parent");
                running.allow_job(parent.clone(), job.base().parse().expect("a segment"), true);
            }
        }
        TestCell { running, calls: Arc::default() }
    }

    /// A running cell, by its full or base name.
    ///
    /// # Panics
    /// When no such cell runs.
    #[must_use]
    #[track_caller]
    pub fn cell(&self, name: &str) -> &TestCell {
        let full = self.tree.full(name);
        self.cells.get(&full).unwrap_or_else(|| panic!("{full} does not run"))
    }

    /// Replaces the policy everywhere.
    pub fn set_policy(&mut self, rules: Vec<Rule>) {
        self.policy = Arc::new(Policy::new(self.policy.revision + 1, rules));
        for cell in self.cells.values() {
            cell.running.set_policy(Arc::clone(&self.policy));
        }
    }

    /// Loses everything between two neighbours from now on, without telling either.
    pub fn cut(&self, a: &str, b: &str) {
        self.carriage.cut(&self.tree, &self.tree.full(a), &self.tree.full(b), true, true);
    }

    /// Loses everything from `from` to its neighbour `to`, and nothing the other way.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.carriage.cut(&self.tree, &self.tree.full(from), &self.tree.full(to), true, false);
    }

    /// Ends every cut between two neighbours.
    pub fn heal(&self, a: &str, b: &str) {
        self.carriage.cut(&self.tree, &self.tree.full(a), &self.tree.full(b), false, false);
    }

    /// Ends the link between two neighbours and tells both. Memory links only.
    pub fn unlink(&self, a: &str, b: &str) {
        self.carriage.sever(&self.tree, &self.tree.full(a), &self.tree.full(b));
    }

    /// Ends a cell as `kill -9` would: it says nothing to anybody.
    pub async fn crash(&mut self, name: &str) {
        let name = self.tree.full(name);
        let cell = self.cells.remove(&name).unwrap_or_else(|| panic!("{name} does not run"));
        self.carriage.silence(&self.tree, &name);
        cell.running.stop();
        cell.running.wait_for(CellState::Stopped).await;
        self.carriage.forget(&name);
    }

    /// Starts a crashed or drained cell again, as its next incarnation.
    pub fn restart(&mut self, name: &str) {
        self.start(name);
    }

    /// Drains a cell: it finishes, says bye and ends.
    pub async fn drain(&mut self, name: &str) {
        let name = self.tree.full(name);
        let cell = self.cells.remove(&name).unwrap_or_else(|| panic!("{name} does not run"));
        assert!(cell.running.drain(Duration::from_secs(10)).await, "{name} did not finish");
        self.carriage.forget(&name);
    }

    /// Lets simulated time pass.
    pub async fn advance(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    /// Reports of all cells that run, by full name.
    pub async fn inspect(&self) -> BTreeMap<String, InspectReport> {
        let mut reports = BTreeMap::new();
        for (name, cell) in &self.cells {
            let report = cell.running.inspect().await.expect("it runs");
            reports.insert(name.to_string(), report);
        }
        reports
    }

    /// Every cell's links are exactly those of the tree between cells that run.
    ///
    /// # Panics
    /// When a table differs from the topology.
    pub async fn assert_tables(&self) {
        for (name, report) in self.inspect().await {
            let name: Fqcn = name.parse().expect("a name");
            let linked: BTreeSet<String> =
                report.links.iter().map(|link| link.peer.clone()).collect();
            let wanted: BTreeSet<String> = self
                .cells
                .keys()
                .filter(|other| {
                    self.tree.parent_of(other) == Some(&name)
                        || self.tree.parent_of(&name) == Some(other)
                })
                .map(ToString::to_string)
                .collect();
            assert_eq!(linked, wanted, "links of {name}");
        }
    }

    /// Nothing waits, runs, is queued or is missing in any cell (G-06, C8).
    ///
    /// # Panics
    /// When something does.
    pub async fn assert_no_leaks(&self) {
        for (name, report) in self.inspect().await {
            let shown = format!("{name}: {report:#?}");
            assert_eq!(report.outstanding, 0, "requests outstanding at {shown}");
            assert_eq!(report.handling, 0, "handlers running at {shown}");
            assert_eq!(report.conduits, 0, "conduits running at {shown}");
            assert_eq!(report.counters.queued, 0, "messages queued at {shown}");
            assert_eq!(report.missing, 0, "messages missing at {shown}");
        }
    }

    /// Checks that nothing is left behind, then drains every cell, children first.
    ///
    /// # Panics
    /// When something is left behind or a cell does not end.
    pub async fn finish(mut self) {
        self.advance(Duration::from_secs(1)).await;
        self.assert_no_leaks().await;
        for name in self.tree.names().into_iter().rev() {
            if self.cells.contains_key(&name) {
                self.drain(name.as_str()).await;
            }
        }
    }
}

impl TestCell {
    /// Answers every request on `target` with its own payload, and remembers it.
    pub async fn echoes(&self, target: &str) {
        let calls = Arc::clone(&self.calls);
        let handler = from_fn(move |delivery| {
            let text = String::from_utf8_lossy(&delivery.payload).into_owned();
            calls.lock().expect("no panic in between").push(text);
            async move { Ok(Reply::from(delivery.payload)) }
        });
        self.running.bus().handle(parse(target), handler).await.expect("nobody else handles it");
    }

    /// Answers requests on `target` after `wait` of simulated time, all at once.
    pub async fn echoes_after(&self, target: &str, wait: Duration) {
        let calls = Arc::clone(&self.calls);
        let handler = from_fn(move |delivery| {
            let text = String::from_utf8_lossy(&delivery.payload).into_owned();
            calls.lock().expect("no panic in between").push(text);
            async move {
                tokio::time::sleep(wait).await;
                Ok(Reply::from(delivery.payload))
            }
        });
        let options = HandlerOptions::concurrent(u32::MAX);
        let bus = self.running.bus();
        bus.handle_with(parse(target), options, handler).await.expect("nobody else handles it");
    }

    /// Panics on every request on `target`.
    pub async fn panics_on(&self, target: &str) {
        let handler = from_fn(|delivery| async move {
            assert!(delivery.payload.is_empty() && delivery.target.is("x", "y"), "asked to panic");
            Err(Failure::failed("unreachable"))
        });
        self.running.bus().handle(parse(target), handler).await.expect("nobody else handles it");
    }

    /// What its handlers were called with, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no panic in between").clone()
    }

    /// Sends a request with a budget of ten seconds.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        to: &str,
        target: &str,
        payload: &str,
    ) -> Result<String, RequestError> {
        self.request_within(to, target, payload, Duration::from_secs(10)).await
    }

    /// Sends a request with a budget.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request_within(
        &self,
        to: &str,
        target: &str,
        payload: &str,
        budget: Duration,
    ) -> Result<String, RequestError> {
        let to = to.parse().expect("a cell name");
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let request = self.running.bus().request(to, parse(target)).payload(payload).budget(budget);
        let reply = request.send().await?;
        Ok(String::from_utf8(reply.payload.to_vec()).expect("text in, text out"))
    }
}

#[track_caller]
fn parse(target: &str) -> ChannelTopic {
    target.parse().unwrap_or_else(|error| panic!("{target}: {error}"))
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Where a host of the simulated network is.
fn host(index: usize) -> SocketAddr {
    let index = u16::try_from(index).expect("a small network");
    let [high, low] = index.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 4433))
}

/// Nothing of one parent's pins is shared with another.
type PinsByParent = BTreeMap<Fqcn, Arc<PinnedPeers>>;
