//! A cell that leaves is gone at once, and everybody who can hear it has heard so.

use std::time::Duration;

use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::for_each_seed,
    sim::{LinkSettings, SimNet},
};
use tokio::time::Instant;

const TREE: &str = "server -> relay -> site-1; relay -> site-2";
const AT_ONCE: Duration = Duration::from_secs(1);
const BUDGET: Duration = Duration::from_secs(5);

/// Lets the relay leave after the server has been gone for `gone`, over links like these; gives how long that took.
async fn leave(seed: u64, gone: Duration, links: LinkSettings) -> Duration {
    let sim = SimNet::new(seed);
    sim.set_default(links.clone());
    let mut net = Net::over_quic(sim.clone(), TREE).await;
    net.crash("server").await;
    net.advance(gone).await;
    let begun = Instant::now();
    assert!(net.cell("relay").running.drain(BUDGET).await, "nothing was asked of it");
    let took = begun.elapsed();
    // Its process ends. What is on its way arrives.
    sim.kill(net.host("relay"));
    net.advance(links.delay + links.jitter + Duration::from_millis(1)).await;
    for site in ["relay.site-1", "relay.site-2"] {
        let report = net.cell(site).running.inspect().await.expect("it runs");
        assert_eq!(report.links.len(), 0, "{site} was not told: {:?}", report.links);
    }
    took
}

#[test]
fn a_relay_whose_server_is_gone_leaves_at_once_and_its_children_are_told() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        // Long enough to be noticed, and then within a dial, or between two.
        for gone in [12_000, 12_700, 14_300, 17_100, 21_900, 33_300] {
            let gone = Duration::from_millis(gone);
            let took = leave(seed, gone, LinkSettings::default()).await;
            assert!(took < AT_ONCE, "{took:?} after {gone:?}");
        }
    });
}

#[test]
fn over_a_slow_path_that_loses_packets_a_relay_takes_the_time_to_tell_its_children() {
    const SEEDS: [u64; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let log = LogGuard::start();
    log.tolerate("link closed");
    for_each_seed(&SEEDS, |seed| async move {
        let delay = Duration::from_millis(150);
        let links = LinkSettings { delay, loss: 0.3, ..LinkSettings::default() };
        leave(seed, Duration::from_secs(14), links).await;
    });
}
