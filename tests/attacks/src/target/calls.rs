//! What reaches the handlers of honest cells.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cellbus_channels::{Delivery, HandlerOptions, Reply, Selector, from_fn};
use cellbus_runtime::host::RunningCell;
use tokio::sync::Notify;

/// What reached a handler of any honest cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The cell.
    pub at: String,
    /// Which of its handlers, as registered.
    pub handler: String,
    /// What arrived.
    pub delivery: Seen,
}

/// The parts of a delivery that tests compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The verified origin: name, kind, organisation and job.
    pub origin: String,
    /// Channel and topic.
    pub target: String,
    /// The payload.
    pub payload: Bytes,
    /// Its media type.
    pub content_type: Option<String>,
}

#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, at: &str, handler: &str, delivery: &Delivery) {
        let origin = &delivery.origin;
        let job = origin.job.as_ref().map(|job| format!(" {job}")).unwrap_or_default();
        let delivery = Seen {
            origin: format!("{} {} {}{job}", origin.name, origin.kind, origin.org),
            target: delivery.target.to_string(),
            payload: delivery.payload.clone(),
            content_type: delivery.content_type.as_ref().map(ToString::to_string),
        };
        self.lock().push(Call { at: at.to_owned(), handler: handler.to_owned(), delivery });
    }
}

/// Whatever reaches a handler is noted, whichever handler it is.
pub(super) async fn handle_everything(
    at: &'static str,
    cell: &RunningCell,
    calls: &Calls,
    release: &Arc<Notify>,
) {
    let target = |text: &str| Selector::Exact(text.parse().expect("a channel and topic"));
    let bus = cell.bus();
    let all_at_once = HandlerOptions::concurrent(u32::MAX);
    for (name, selector) in
        [("fetch", target("task/fetch")), ("read", target("share/read")), ("all", Selector::All)]
    {
        let calls = calls.clone();
        let handler = from_fn(move |delivery: Delivery| {
            calls.note(at, name, &delivery);
            async move { Ok(Reply::from(delivery.payload)) }
        });
        bus.handle_with(selector, all_at_once, handler).await.expect("nothing is registered yet");
    }
    let (calls, release) = (calls.clone(), Arc::clone(release));
    let slow = from_fn(move |delivery: Delivery| {
        calls.note(at, "slow", &delivery);
        let release = Arc::clone(&release);
        async move {
            release.notified().await;
            Ok(Reply::from(delivery.payload))
        }
    });
    bus.handle_with(target("task/slow"), all_at_once, slow)
        .await
        .expect("nothing is registered yet");
}
