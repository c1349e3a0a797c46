//! The federation under attack, and what of it must not change.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cellbus_cells::node::{Node, NodeCell};
use cellbus_proto::{name::Fqcn, status::Status, well_known};
use cellbus_runtime::{
    cell::InspectReport,
    host::RunningCell,
    secret_file::{create_private_dir, write_secret_file},
};
use tempfile::TempDir;
use tokio::{sync::Notify, time::timeout};

use crate::papers::{Forger, Papers};

pub use self::calls::{Call, Seen};
use self::calls::{Calls, handle_everything};

mod calls;

const CELLS: &str = r#"
[project]
name = "attacks"
dev = true
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:0"
[[cell]]
name = "relay"
kind = "relay"
parent = "server"
listen = "127.0.0.1:0"
[[cell]]
name = "relay-x"
kind = "relay"
parent = "server"
listen = "127.0.0.1:0"
[[cell]]
name = "site-1"
kind = "client"
parent = "relay"
[[cell]]
name = "site-4"
kind = "client"
parent = "relay"
[[cell]]
name = "y"
kind = "client"
parent = "relay"
[[cell]]
name = "site-2"
kind = "client"
parent = "server"
[[cell]]
name = "x"
kind = "client"
parent = "server"
[[cell]]
name = "z"
kind = "client"
parent = "server"
[[cell]]
name = "site-8"
kind = "client"
parent = "relay-x"
[[cell]]
name = "site-9"
kind = "client"
parent = "relay-x"
[[allow]]
from = "kind:client"
to = "server"
channel = "task"
topics = ["fetch", "slow"]
[[allow]]
from = "server"
to = "*"
channel = "task"
topics = ["fetch", "slow"]
[[allow]]
from = "kind:client"
to = "kind:client"
channel = "share"
topics = ["read"]
[limits]
reconnect_base_ms = 20
reconnect_cap_ms = 200
"#;

/// The honest cells, parents first.
const HONEST: [&str; 5] = ["server", "relay", "site-2", "site-1", "site-4"];
/// Base names whose rows in tables are the attacker's own.
const HOSTILE: [&str; 6] = ["x", "y", "z", "relay-x", "site-8", "site-9"];
/// Time for what is on its way to arrive.
const PATIENCE: Duration = Duration::from_secs(8);

/// The running federation.
pub struct Target {
    node: RefCell<Node>,
    cells: BTreeMap<&'static str, NodeCell>,
    calls: Calls,
    release: Arc<Notify>,
    root: PathBuf,
    _dir: TempDir,
}

/// What the honest cells held and had counted at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    tables: BTreeMap<&'static str, BTreeSet<String>>,
    refused: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    calls: usize,
}

impl Target {
    /// Starts it, and waits until every cell is registered.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn up(limits: &str) -> Self {
        let dir = tempfile::tempdir().expect("there is a place for temporary files");
        let root = dir.path().join("state");
        let text = format!("{CELLS}{limits}\n");
        let parsed = cellbus_proto::topology::parse(&text).expect("the topology is one");
        let mut node = Node::prepare(parsed.topology, root.clone()).expect("state can be made");
        let (calls, release) = (Calls::default(), Arc::new(Notify::new()));
        let mut cells = BTreeMap::new();
        for name in HONEST {
            let cell = node.start(name).expect("the cell starts");
            if name == "server" || name == "relay" {
                cell.ready().await;
            }
            handle_everything(name, cell.running(), &calls, &release).await;
            cells.insert(name, cell);
        }
        for cell in cells.values() {
            cell.ready().await;
        }
        let target = Self { node: RefCell::new(node), cells, calls, release, root, _dir: dir };
        target
            .until("every site is in the server's table", async || {
                target.inspect("server").await.registered.len() == HONEST.len() - 1
            })
            .await;
        target
    }

    /// A running cell.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    pub fn cell(&self, name: &str) -> &RunningCell {
        self.node_cell(name).running()
    }

    /// A running cell, with its state.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    pub fn node_cell(&self, name: &str) -> &NodeCell {
        self.cells.get(name).expect("one of the honest cells")
    }

    /// Starts a provisioned child of `parent`, which is made to dial `at` instead, with everything that reaches its
    /// handlers noted as for the others.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_below(&self, name: &'static str, parent: &str, at: SocketAddr) -> NodeCell {
        let dir = self.root.join(parent);
        create_private_dir(&dir).expect("a directory can be made");
        write_secret_file(&dir.join("address"), at.to_string().as_bytes()).expect("and a file");
        let cell = self.node.borrow_mut().start(name).expect("the cell starts");
        handle_everything(name, cell.running(), &self.calls, &self.release).await;
        cell
    }

    /// Where `name` listens.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn address(&self, name: &str) -> SocketAddr {
        self.cell(name).address().expect("it listens")
    }

    /// Full name of a provisioned cell.
    ///
    /// # Panics
    /// When there is no such cell.
    #[must_use]
    pub fn full_name(&self, name: &str) -> Fqcn {
        let node = self.node.borrow();
        node.topology().cell(name).expect("a cell of the topology").fqcn.clone()
    }

    /// State of the project.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The certificate and key with which a cell was provisioned.
    #[must_use]
    pub fn papers(&self, name: &str) -> Papers {
        Papers::load(&self.root, name)
    }

    /// Issues with the key of the project's own authority.
    #[must_use]
    pub fn forger(&self) -> Forger {
        Forger::of_project(&self.root)
    }

    /// What a cell says about itself.
    ///
    /// # Panics
    /// When it is down for too long.
    pub async fn inspect(&self, name: &str) -> InspectReport {
        let asked = first(async || self.cell(name).inspect().await);
        asked.await.expect("the cell runs")
    }

    /// Everything that reached a handler.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// Lets one handler of the topic `slow` answer.
    pub fn release_slow(&self) {
        self.release.notify_one();
    }

    /// What is to be compared afterwards.
    pub async fn look(&self) -> Snapshot {
        let (mut tables, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for name in HONEST {
            let report = self.inspect(name).await;
            tables.insert(name, honest_rows(&report));
            refused.insert(name, report.counters.refused);
        }
        Snapshot { tables, refused, calls: self.calls.lock().len() }
    }

    /// Fails unless, since `before`, exactly these refusals were counted at these cells, no handler was called, and
    /// the tables of every cell hold the same honest links and registrations.
    ///
    /// # Panics
    /// When that is not so within a few seconds.
    pub async fn assert_refused(&self, before: &Snapshot, wanted: &[(&str, Status, u64)]) {
        self.assert_changes(before, wanted, 0).await;
    }

    /// [`Self::assert_refused`], with this many calls of handlers, which the attacker was free to make.
    ///
    /// # Panics
    /// When that is not so within a few seconds.
    pub async fn assert_changes(
        &self,
        before: &Snapshot,
        wanted: &[(&str, Status, u64)],
        calls: usize,
    ) {
        let mut expected: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (at, status, count) in wanted {
            *expected.entry((*at, status.code())).or_default() += count;
        }
        let mut found = String::new();
        let settled = first(async || {
            let now = self.look().await;
            let refused = now.refused_since(before);
            let called = now.calls - before.calls;
            found = format!("refused {refused:?}, calls {called}, {:#?}", now.tables);
            (refused == expected && now.tables == before.tables && called == calls).then_some(())
        });
        let outcome = settled.await;
        assert!(
            outcome.is_some(),
            "wanted {expected:?} and {calls} calls, found {found}; before {:#?}; {:?}",
            before.tables,
            self.calls.lock()
        );
    }

    /// How often `by` has refused with `status` since `before`.
    pub async fn refused_since(&self, before: &Snapshot, by: &str, status: Status) -> u64 {
        let refused = self.look().await.refused_since(before);
        refused.get(&(by, status.code())).copied().unwrap_or(0)
    }

    /// Whether `by` has a link to, and a registration of, the cell with this full name.
    pub async fn holds(&self, by: &str, name: &str) -> (bool, bool) {
        let report = self.inspect(by).await;
        let linked = report.links.iter().any(|link| link.peer == name);
        (linked, report.registered.iter().any(|peer| peer.name == name))
    }

    /// Waits until `by` has, or has not, a link to and a registration of the cell with this full name.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until_holds(&self, by: &str, name: &str, wanted: (bool, bool)) {
        let what = format!("{by} holds {name} {wanted:?}");
        self.until(&what, async || self.holds(by, name).await == wanted).await;
    }

    /// Waits until `by` has forgotten the cell with this full name.
    ///
    /// # Panics
    /// When it does not.
    pub async fn until_gone(&self, by: &str, name: &str) {
        self.until_holds(by, name, (false, false)).await;
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let outcome = first(async || condition().await.then_some(())).await;
        assert!(outcome.is_some(), "never: {what}");
    }

    /// Lets `span` pass on every clock, in steps in between which everything is sent and read; takes little time.
    pub async fn pass(&self, span: Duration) {
        const STEP: Duration = Duration::from_millis(100);
        let mut left = span;
        while !left.is_zero() {
            let step = left.min(STEP);
            tokio::time::pause();
            tokio::time::advance(step).await;
            tokio::time::resume();
            // Real time, in which the packets of this step are sent, read and answered.
            tokio::time::sleep(Duration::from_millis(2)).await;
            left -= step;
        }
    }

    /// Fails unless every honest site reaches the server and back, and the server every site.
    ///
    /// # Panics
    /// When one does not within a few seconds.
    pub async fn assert_calm(&self) {
        for name in HONEST {
            let cell = self.cell(name);
            timeout(PATIENCE, cell.wait_for(cellbus_runtime::cell::CellState::Ready))
                .await
                .expect("an honest cell gets ready");
        }
        for (from, to) in [
            ("site-1", "server"),
            ("site-2", "server"),
            ("site-4", "server"),
            ("server", "relay"),
            ("server", "site-1"),
            ("server", "site-2"),
            ("site-2", "site-4"),
        ] {
            self.ping(from, to).await;
        }
    }

    /// A ping from one honest cell to another.
    ///
    /// # Panics
    /// When it is not answered.
    pub async fn ping(&self, from: &str, to: &str) {
        let bus = self.cell(from).bus();
        let request = bus.request(self.full_name(to), well_known::PING.into());
        let reply = request.payload(&b"honest"[..]).budget(PATIENCE).send().await;
        match reply {
            Ok(reply) => assert_eq!(reply.payload, &b"honest"[..]),
            Err(error) => panic!("{from} does not reach {to}: {error}"),
        }
    }
}

impl Snapshot {
    /// Whether the honest links and registrations, and the number of calls, are those of `before`.
    #[must_use]
    pub fn unchanged_since(&self, before: &Self) -> bool {
        self.tables == before.tables && self.calls == before.calls
    }

    /// Whether the honest links and registrations are those of `before`.
    #[must_use]
    pub fn tables_unchanged_since(&self, before: &Self) -> bool {
        self.tables == before.tables
    }

    fn refused_since(&self, before: &Self) -> BTreeMap<(&'static str, &'static str), u64> {
        let mut since = BTreeMap::new();
        for (cell, codes) in &self.refused {
            for (code, count) in codes {
                let had = before.refused.get(cell).and_then(|codes| codes.get(code));
                let more = count - had.copied().unwrap_or(0);
                if more > 0 {
                    since.insert((*cell, *code), more);
                }
            }
        }
        since
    }
}

/// Links and registrations as text, without those of the attackers.
fn honest_rows(report: &InspectReport) -> BTreeSet<String> {
    let hostile = |name: &str| name.split('.').any(|segment| HOSTILE.contains(&segment));
    let links = report
        .links
        .iter()
        .filter(|link| !hostile(&link.peer))
        .map(|link| format!("link {} {} {}", link.link, link.peer, link.incarnation));
    let peers = report.registered.iter().filter(|peer| !hostile(&peer.name)).map(|peer| {
        format!("registered {} {} via {} {}", peer.name, peer.kind, peer.via, peer.incarnation)
    });
    links.chain(peers).collect()
}

/// The first thing that `look` finds, asked again and again; `None` where it finds nothing for too long.
async fn first<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let looked = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            // A cell that runs says nothing of itself unless it is asked.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, looked).await.ok()
}
