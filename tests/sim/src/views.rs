//! What two neighbours think of the link between them, and how long until something is so.

use std::time::Duration;

use cellbus_harness::net::{Net, TestCell};
use cellbus_runtime::cell::InspectReport;
use tokio::time::Instant;

/// How often the cells are asked.
const LOOK: Duration = Duration::from_millis(10);

/// Whether each end has the link, as seen at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The child is registered at its parent.
    pub child: bool,
    /// The parent has a link to the child.
    pub parent: bool,
}

/// The report of `cell`, whose full name the report says.
///
/// # Panics
/// When it does not run.
pub async fn report(cell: &TestCell) -> InspectReport {
    cell.running.inspect().await.expect("it runs")
}

/// What `child` and `parent` think of their link.
pub async fn view(net: &Net, child: &str, parent: &str) -> View {
    let (child, parent) = (report(net.cell(child)).await, report(net.cell(parent)).await);
    View {
        child: child.links.iter().any(|link| link.is_parent),
        parent: parent.links.iter().any(|link| link.peer == child.cell),
    }
}

/// How often the cell has registered.
#[must_use]
pub fn epoch(net: &Net, name: &str) -> u64 {
    net.cell(name).running.own().epoch()
}

/// Waits until `is_so`, asked every ten milliseconds, and gives how long it took.
///
/// # Panics
/// When it is not so within `limit`.
pub async fn until<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> F,
) -> Duration {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
    begun.elapsed()
}

/// Waits until every one of `names` is registered at `parent`, and gives how long each took.
///
/// # Panics
/// When one is not within `limit`.
pub async fn registrations(parent: &TestCell, names: &[String], limit: Duration) -> Vec<Duration> {
    let begun = Instant::now();
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < names.len() {
        for peer in report(parent).await.registered {
            seen.entry(peer.name).or_insert_with(|| begun.elapsed());
        }
        seen.retain(|name, _| names.contains(name));
        let took = begun.elapsed();
        assert!(took < limit, "{} of {} registered after {took:?}", seen.len(), names.len());
        tokio::time::sleep(LOOK).await;
    }
    seen.into_values().collect()
}
