//! Cells that serve and fetch.

use std::time::Duration;

use cellbus_channels::{
    Bytes, Fqcn,
    transfer::{
        FetchError, FetchOptions, Fetched, ServeOptions, Served, SignedReference, Sink, Source,
        Transfers,
    },
};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};

pub const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
pub const MIB: usize = 1 << 20;

/// Runs `test` over links in memory and over QUIC on a simulated network.
pub fn scenario<F: Future<Output = ()>>(announce: fn(&LogGuard), test: impl Fn(Net) -> F) {
    for is_quic in [false, true] {
        let log = LogGuard::start();
        announce(&log);
        run_paused(1, async |seed| match is_quic {
            false => test(Net::up(seed, TREE).await).await,
            true => test(Net::over_quic(SimNet::new(seed), TREE).await).await,
        });
    }
}

pub fn transfers(net: &Net, cell: &str) -> Transfers {
    net.cell(cell).running.bus().transfers()
}

pub fn to(receivers: &[&str]) -> ServeOptions {
    let receivers = receivers.iter().map(|name| name.parse::<Fqcn>().expect("a cell name"));
    ServeOptions::new("task/fetch".parse().expect("a channel and topic"), receivers)
}

pub async fn serve(
    net: &Net,
    cell: &str,
    source: impl Into<Source>,
    options: ServeOptions,
) -> Served {
    transfers(net, cell).serve(source, options).await.expect("it is served")
}

pub async fn fetch(
    net: &Net,
    cell: &str,
    reference: &SignedReference,
    sink: Sink,
) -> Result<Fetched, FetchError> {
    transfers(net, cell).fetch(reference, sink, FetchOptions::default()).await
}

/// So many bytes, of which no two places look alike.
pub fn whole(len: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A minute of simulated time: what takes longer hangs.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(300), what).await.expect("it hangs")
}
