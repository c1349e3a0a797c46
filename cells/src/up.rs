//! Running cells until somebody says stop.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cellbus_proto::{name::Fqcn, renewal::RenewedBy, topology::Topology};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    control::{ProblemRow, ReloadOutcome, ReloadReply},
    door::DoorSettings,
    job::{JobHost, OpenCluster},
    metrics::MetricsListener,
    node::{Node, NodeCell, Reload, RulesSource, UpError},
};

pub mod processes;

/// What happens while cells run, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum UpEvent {
    /// A cell has been started.
    Started {
        /// Full name.
        cell: Fqcn,
        /// Where it listens.
        address: Option<String>,
    },
    /// Whoever is invited may ask to join from now on.
    JoinDoor {
        /// Full name of the cell that has the door.
        cell: Fqcn,
        /// Where it listens, UDP.
        address: String,
    },
    /// Figures are given from now on.
    Metrics {
        /// Where.
        address: String,
    },
    /// A cell is registered; messages flow.
    Ready {
        /// Full name.
        cell: Fqcn,
        /// Milliseconds since the start.
        after_ms: u64,
    },
    /// A cell takes nothing new.
    Draining {
        /// Full name.
        cell: Fqcn,
    },
    /// A cell has ended.
    Stopped {
        /// Full name.
        cell: Fqcn,
        /// Whether it finished what it had accepted.
        clean: bool,
    },
    /// The topology file was read again, and cells decide by its rules where they differ.
    Reloaded {
        /// Who asked for it.
        by: String,
        /// Revision of the rules before.
        from: u64,
        /// Revision of the rules now.
        to: u64,
        /// What changed in the rules.
        changes: Vec<String>,
        /// What else differs, and needs a restart.
        needs_restart: Vec<String>,
    },
    /// The topology file was read again and is not good; the rules are those of before.
    ReloadRefused {
        /// Who asked for it.
        by: String,
        /// What is wrong with it, with line and column.
        problems: Vec<String>,
    },
}

/// How running ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpEnd {
    /// Everything that was accepted was finished.
    Drained,
    /// A second signal, or the deadline, ended what was still running.
    Aborted,
    /// Every process ended because its cell cannot be started, and has said why.
    NotStarted,
}

/// What a second signal says to cells that drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondSignal {
    /// End at once.
    Ends,
    /// Nothing: whoever launched this process kills it where patience ends.
    SaysNothing,
}

/// SIGTERM and SIGINT, either of which asks to stop.
pub struct StopSignals {
    term: Signal,
    int: Signal,
    last: Option<Instant>,
}

impl StopSignals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system gives no signal handler.
    pub fn listen() -> std::io::Result<Self> {
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { term, int, last: None })
    }

    /// Waits for the next one. What comes within a moment of the last one is the same wish: some
    /// signal the process and then its group.
    pub async fn next(&mut self) {
        const MOMENT: Duration = Duration::from_millis(300);
        loop {
            tokio::select! {
                _ = self.term.recv() => {}
                _ = self.int.recv() => {}
            }
            let now = Instant::now();
            if self.last.is_none_or(|last| now.saturating_duration_since(last) > MOMENT) {
                self.last = Some(now);
                return;
            }
        }
    }
}

/// Makes whatever this process and those that it starts create be for its owner alone, from the first
/// moment on: sockets get their mode only after they are there.
pub fn keep_to_owner() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// The names of all cells of a topology, parents before their children.
#[must_use]
pub fn tree_order(topology: &Topology) -> Vec<String> {
    let mut cells: Vec<_> = topology.cells().iter().collect();
    // The server stands above everything, though its name is as long as that of its children.
    cells.sort_by_key(|cell| (cell.parent.is_some(), cell.fqcn.depth()));
    cells.iter().map(|cell| cell.name.to_string()).collect()
}

/// What a process is started from besides its topology, where that is not a file alone.
#[derive(Clone, Debug)]
pub struct Given {
    /// Where the credentials of its one cell lie.
    pub credentials: PathBuf,
    /// Where its next certificate comes from, as far as is known.
    pub renewed_by: Option<RenewedBy>,
    /// How its topology is read again.
    pub rules: RulesSource,
    /// Whether it has a join door, and where.
    pub door: Option<DoorSettings>,
    /// How the launchers of clusters are opened.
    pub clusters: OpenCluster,
}

/// As [`run`], for one cell that was given its credentials: a kit.
///
/// # Errors
/// [`UpError`] when the cell cannot be started.
pub async fn run_given(
    topology: Topology,
    given: Given,
    file: &Path,
    root: PathBuf,
    cell: &str,
    tell: impl FnMut(UpEvent),
) -> Result<UpEnd, UpError> {
    let mut node = Node::prepare(topology, root)?;
    node.reads_rules_from(file);
    node.reads_rules_by(given.rules);
    node.takes_credentials_from(&given.credentials);
    node.is_renewed_by(given.renewed_by);
    if let Some(door) = given.door {
        node.opens_door(door);
    }
    node.opens_clusters_by(given.clusters);
    run_node(node, vec![cell.to_owned()], SecondSignal::Ends, tell).await
}

/// Runs cells of `topology`, which was read from `file`, in this process, with state below `root`, until a signal comes or every one
/// of them has been drained.
///
/// # Errors
/// [`UpError`] when a cell cannot be started; those that were are stopped again.
pub async fn run(
    topology: Topology,
    file: &Path,
    root: PathBuf,
    only: Option<&str>,
    second: SecondSignal,
    clusters: OpenCluster,
    tell: impl FnMut(UpEvent),
) -> Result<UpEnd, UpError> {
    let names = match only {
        Some(name) => vec![name.to_owned()],
        None => tree_order(&topology),
    };
    let mut node = Node::prepare(topology, root)?;
    node.reads_rules_from(file);
    node.opens_clusters_by(clusters);
    run_node(node, names, second, tell).await
}

async fn run_node(
    mut node: Node,
    names: Vec<String>,
    second: SecondSignal,
    mut tell: impl FnMut(UpEvent),
) -> Result<UpEnd, UpError> {
    let mut signals = StopSignals::listen().ok();
    let drain_deadline = node.topology().limits.drain_deadline;
    let rules = Arc::clone(node.rules());
    let mut news = rules.news();
    let mut hangups = hangups();
    // Before any cell: what cannot be listened on is said before anything runs.
    let _metrics = serve_metrics(&node, &mut tell).await?;
    let begun = cellbus_runtime::clock::now();
    let mut cells = Vec::new();
    let mut hosts = Vec::new();
    for name in &names {
        let cell = node.start(name)?;
        hosts.push(JobHost::serve(&cell, &node));
        let address = cell.running().address().filter(|_| cell.spec().listen.is_some());
        let address = address.map(|address| address.to_string());
        tell(UpEvent::Started { cell: cell.name().clone(), address });
        if let Some(address) = cell.door_address() {
            let (cell, address) = (cell.name().clone(), address.to_string());
            tell(UpEvent::JoinDoor { cell, address });
        }
        cells.push(cell);
    }
    let mut ready: FuturesUnordered<_> = cells
        .iter()
        .map(|cell| async move {
            cell.ready().await;
            cell.name().clone()
        })
        .collect();
    let mut leaving: FuturesUnordered<_> = cells
        .iter()
        .enumerate()
        .map(|(index, cell)| async move {
            cell.asked_to_leave().await;
            index
        })
        .collect();
    let mut left = vec![false; cells.len()];
    let mut end = UpEnd::Drained;
    loop {
        tokio::select! {
            biased;
            () = next_signal(&mut signals) => break,
            () = next_hangup(&mut hangups) => {
                let rules = Arc::clone(&rules);
                // Said in the log and told as an event; a cell goes on meanwhile.
                actix_rt::spawn(async move {
                    if let Err(error) = rules.reload("SIGHUP", false).await {
                        tracing::warn!(%error, "the topology file was not read again");
                    }
                });
            }
            Ok(()) = news.changed() => {
                if let Some(reload) = news.borrow_and_update().clone() {
                    tell(reload.into());
                }
            }
            Some(index) = leaving.next() => {
                let clean = drain(&cells[index], drain_deadline, &mut tell).await;
                left[index] = true;
                if !clean {
                    end = UpEnd::Aborted;
                }
                if left.iter().all(|left| *left) {
                    break;
                }
            }
            Some(cell) = ready.next() => {
                let after = cellbus_runtime::clock::now().saturating_duration_since(begun);
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                tell(UpEvent::Ready { cell, after_ms });
            }
        }
    }
    drop((ready, leaving));
    // Children first, so that nobody loses a parent that is still there.
    let remaining: Vec<&NodeCell> =
        cells.iter().zip(&left).filter(|(_, left)| !**left).map(|(cell, _)| cell).rev().collect();
    let stopping = async {
        let mut clean = true;
        for host in &hosts {
            host.stop_all().await;
        }
        for cell in remaining {
            clean &= drain(cell, drain_deadline, &mut tell).await;
        }
        node.finish().await;
        clean
    };
    tokio::select! {
        biased;
        clean = stopping => {
            if !clean {
                end = UpEnd::Aborted;
            }
        }
        () = next_signal(&mut signals), if second == SecondSignal::Ends => {
            for cell in &cells {
                cell.running().stop();
            }
            end = UpEnd::Aborted;
        }
    }
    Ok(end)
}

/// The signal that asks to read the topology file again. At a terminal it means that the terminal is gone, and
/// ends this process as ever.
fn hangups() -> Option<Signal> {
    let at_terminal = std::io::stdin().is_terminal();
    (!at_terminal).then(|| signal(SignalKind::hangup()).ok()).flatten()
}

async fn next_hangup(hangups: &mut Option<Signal>) {
    let told = match hangups {
        Some(hangups) => hangups.recv().await,
        None => None,
    };
    if told.is_none() {
        std::future::pending::<()>().await;
    }
}

impl From<Reload> for UpEvent {
    fn from(Reload { by, reply }: Reload) -> Self {
        let ReloadReply { file, outcome, from, to, changes, needs_restart, problems, .. } = reply;
        if outcome != ReloadOutcome::Refused {
            return Self::Reloaded { by, from, to, changes, needs_restart };
        }
        let place = |place: Option<u64>| place.map(|place| format!(":{place}")).unwrap_or_default();
        let problems = problems.iter().map(|ProblemRow { code, message, line, column, .. }| {
            format!("{file}{}{}: {code}: {message}", place(*line), place(*column))
        });
        Self::ReloadRefused { by, problems: problems.collect() }
    }
}

/// Gives the figures of the cells where the topology says so, until what is returned is dropped.
async fn serve_metrics(
    node: &Node,
    tell: &mut impl FnMut(UpEvent),
) -> Result<Option<JoinSet<()>>, UpError> {
    let Some(address) = node.topology().metrics else { return Ok(None) };
    let listener = MetricsListener::bind(address)
        .await
        .map_err(|source| UpError::Metrics { address, source })?;
    tell(UpEvent::Metrics { address: listener.address().to_string() });
    let mut serving = JoinSet::new();
    serving.spawn(listener.serve(node.all_figures()));
    Ok(Some(serving))
}

async fn next_signal(signals: &mut Option<StopSignals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

async fn drain(cell: &NodeCell, deadline: Duration, tell: &mut impl FnMut(UpEvent)) -> bool {
    /// What says bye takes beyond what finishes work.
    const GOODBYE: Duration = Duration::from_secs(10);
    tell(UpEvent::Draining { cell: cell.name().clone() });
    let clean = timeout(deadline + GOODBYE, cell.running().drain(deadline)).await.unwrap_or(false);
    tell(UpEvent::Stopped { cell: cell.name().clone(), clean });
    clean
}
