//! Running cells until somebody says stop.

use std::{path::PathBuf, time::Duration};

use cellbus_proto::{name::Fqcn, topology::Topology};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout},
};

use crate::{
    job::JobHost,
    node::{Node, NodeCell, UpError},
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

/// Runs cells of `topology` in this process, with state below `root`, until a signal comes or every one
/// of them has been drained.
///
/// # Errors
/// [`UpError`] when a cell cannot be started; those that were are stopped again.
pub async fn run(
    topology: Topology,
    root: PathBuf,
    only: Option<&str>,
    second: SecondSignal,
    mut tell: impl FnMut(UpEvent),
) -> Result<UpEnd, UpError> {
    let mut signals = StopSignals::listen().ok();
    let drain_deadline = topology.limits.drain_deadline;
    let names = match only {
        Some(name) => vec![name.to_owned()],
        None => tree_order(&topology),
    };
    let mut node = Node::prepare(topology, root)?;
    let begun = cellbus_runtime::clock::now();
    let mut cells = Vec::new();
    let mut hosts = Vec::new();
    for name in &names {
        let cell = node.start(name)?;
        hosts.push(JobHost::serve(&cell, &node));
        let address = cell.running().address().filter(|_| cell.spec().listen.is_some());
        let address = address.map(|address| address.to_string());
        tell(UpEvent::Started { cell: cell.name().clone(), address });
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
