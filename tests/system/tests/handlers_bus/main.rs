//! What a cell does with the messages that its handlers are for: each over links in memory, and over QUIC
//! through a relay.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use cellbus_channels::{Bus, Delivery, Failure, HandlerOptions, Reply, from_fn};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};

mod at_once;
mod batches;
mod bundles;
mod cancelling;
mod filters;
mod later;
mod load;
mod order;
mod panics;
mod repeats;
mod requests;

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";

/// Runs a scenario on both carriers.
fn both<F: Future<Output = ()>>(scenario: impl Fn(Net) -> F + Copy) {
    let _log = LogGuard::start();
    both_watched(scenario);
}

/// The same, for a scenario that announces what it will log.
fn both_watched<F: Future<Output = ()>>(scenario: impl Fn(Net) -> F + Copy) {
    run_paused(1, |seed| async move { scenario(Net::up(seed, TREE).await).await });
    run_paused(2, |seed| async move {
        scenario(Net::over_quic(SimNet::new(seed), TREE).await).await;
    });
}

/// What happened, in order. Clones are one list.
#[derive(Clone, Debug, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, text: impl Into<String>) {
        self.0.lock().expect("no panic in between").push(text.into());
    }

    fn read(&self) -> Vec<String> {
        self.0.lock().expect("no panic in between").clone()
    }
}

fn bus(net: &Net, cell: &str) -> Bus {
    net.cell(cell).running.bus()
}

/// Registers a handler.
async fn serve<F, Fut>(net: &Net, cell: &str, target: &str, options: HandlerOptions, handler: F)
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    let target: cellbus_channels::ChannelTopic = target.parse().expect("a target");
    let registered = bus(net, cell).handle_with(target, options, from_fn(handler)).await;
    registered.expect("nobody else handles it");
}

/// Registers a handler that notes when it begins and ends, works for as many milliseconds as the payload
/// says, and replies with it.
async fn works(net: &Net, cell: &str, target: &str, options: HandlerOptions) -> Diary {
    let diary = Diary::default();
    let noted = diary.clone();
    serve(net, cell, target, options, move |delivery| {
        let (diary, text) = (noted.clone(), text(&delivery.payload));
        diary.note(format!("+{text}"));
        let ms = text.split(' ').next_back().and_then(|ms| ms.parse().ok()).unwrap_or(0);
        async move {
            if ms > 0 {
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            diary.note(format!("-{text}"));
            Ok(delivery.payload.into())
        }
    })
    .await;
    diary
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn request(
    net: &Net,
    from: &str,
    to: &str,
    target: &str,
    payload: &str,
) -> cellbus_channels::RequestBuilder {
    bus(net, from)
        .request(to.parse().expect("a cell"), target.parse().expect("a target"))
        .payload(payload.to_owned())
        .budget(Duration::from_secs(10))
}
