//! What a sender can do, over links in memory and over QUIC through a relay.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cellbus_channels::{Bus, ChannelTopic, Fqcn, Reply, from_fn};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};

#[path = "operations_sent/budgets.rs"]
mod budgets;
#[path = "operations_sent/events.rs"]
mod events;
#[path = "operations_sent/fan.rs"]
mod fan;
#[path = "operations_sent/filters.rs"]
mod filters;
#[path = "operations_sent/options.rs"]
mod options;
#[path = "operations_sent/queues.rs"]
mod queues;
#[path = "operations_sent/replies.rs"]
mod replies;
#[path = "operations_sent/retries.rs"]
mod retries;
#[path = "operations_sent/typed.rs"]
mod typed;

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";

/// Runs a scenario over links in memory, and then over QUIC.
fn over_both(scenario: impl AsyncFn(Net)) {
    let _log = LogGuard::start();
    run_paused(1, async |seed| scenario(Net::up(seed, TREE).await).await);
    run_paused(1, async |seed| {
        scenario(Net::over_quic(SimNet::new(seed), TREE).await).await;
    });
}

fn name(text: &str) -> Fqcn {
    text.parse().expect("a cell name")
}

fn target(text: &str) -> ChannelTopic {
    text.parse().expect("a channel and topic")
}

fn bus(net: &Net, cell: &str) -> Bus {
    net.cell(cell).running.bus()
}

/// Counts handlers that have begun, and those that were dropped before their end.
#[derive(Clone, Default)]
struct Watch {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
}

/// A handler at work.
struct Running(Option<Arc<AtomicUsize>>);

impl Running {
    /// The handler has come to its end.
    fn finish(&mut self) {
        self.0 = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(dropped) = self.0.take() {
            dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Watch {
    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic in between").clone()
    }

    /// Has `cell` answer `at` with its own payload after `wait`.
    async fn on(&self, net: &Net, cell: &str, at: &str, wait: Duration) {
        let watch = self.clone();
        let handler = from_fn(move |delivery| {
            watch.begun.fetch_add(1, Ordering::SeqCst);
            let text = String::from_utf8_lossy(&delivery.payload).into_owned();
            watch.seen.lock().expect("no panic in between").push(text);
            let mut running = Running(Some(Arc::clone(&watch.dropped)));
            async move {
                tokio::time::sleep(wait).await;
                running.finish();
                Ok(Reply::from(delivery.payload))
            }
        });
        bus(net, cell).handle(target(at), handler).await.expect("nobody else handles it");
    }
}
