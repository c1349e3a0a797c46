//! What was executed, over all cells and all their starts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cellbus_channels::{Failure, HandlerOptions, Reply, from_fn};
use cellbus_harness::net::TestCell;

/// The ledger of one scenario. Clones are one ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<String, u32>>>);

/// How long a handler works on a request before it replies with what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Not at all.
    AtOnce,
    /// So long.
    Lasting(Duration),
    /// For ever.
    Endless,
}

impl Ledger {
    /// Makes `cell` answer `target` with what it is sent, and notes every execution as it begins.
    ///
    /// # Panics
    /// When the cell handles `target` already.
    pub async fn serve(&self, cell: &TestCell, target: &str, work: Work) {
        let ledger = self.clone();
        let handler = from_fn(move |delivery| {
            let id = String::from_utf8_lossy(&delivery.payload);
            let id = id.split(' ').next().unwrap_or_default().to_owned();
            *ledger.lock().entry(id).or_default() += 1;
            async move {
                match work {
                    Work::AtOnce => {}
                    Work::Lasting(span) => tokio::time::sleep(span).await,
                    Work::Endless => std::future::pending::<()>().await,
                }
                Ok::<_, Failure>(Reply::from(delivery.payload))
            }
        });
        let target: cellbus_channels::ChannelTopic = target.parse().expect("a channel and topic");
        let options = HandlerOptions::concurrent(u32::MAX);
        let bus = cell.running.bus();
        bus.handle_with(target, options, handler).await.expect("nobody else handles it");
    }

    /// How often the request `id` was executed.
    #[must_use]
    pub fn executions(&self, id: &str) -> u32 {
        self.lock().get(id).copied().unwrap_or(0)
    }

    /// Requests that were executed at least once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing was executed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
