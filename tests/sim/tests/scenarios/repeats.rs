//! The simulation itself: the same seed gives the same run.

use std::time::Duration;

use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::run_paused,
    sim::{LinkSettings, SimNet, Traffic},
};
use cellbus_sim::{figures::show, ledger::Work, load::Load, trees::two_levels};

/// Two relays and six sites in bad weather; a relay is killed, a path is cut, and all is well again.
async fn run(seed: u64) -> (u64, Traffic, String) {
    let sim = SimNet::new(seed);
    sim.set_default(LinkSettings { loss: 0.05, duplicate: 0.02, ..LinkSettings::default() });
    let mut net = Net::over_quic(sim.clone(), &two_levels(2, 3)).await;
    let load = Load::default();
    load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
    for round in 0..40 {
        for site in 1..=6 {
            let from = net.cell(&format!("site-{site}"));
            load.send(from, "server", "task/ping", Duration::from_secs(3));
        }
        match round {
            10 => net.crash("relay-1").await,
            20 => net.restart("relay-1"),
            25 => net.cut("relay-2", "server"),
            35 => net.heal("relay-2", "server"),
            _ => {}
        }
        net.advance(Duration::from_millis(250)).await;
    }
    net.wait_ready(Duration::from_secs(60)).await;
    let verdict = load.verdict().await.to_string();
    net.advance(Duration::from_secs(5)).await;
    (sim.trace_hash(), sim.traffic(), verdict)
}

#[test]
fn the_same_seed_gives_the_same_packets_at_the_same_times() {
    let _log = LogGuard::start();
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 1..=5 {
        let (first, second) = (run_paused(seed, run), run_paused(seed, run));
        show("repeats", seed, format!("{first:?}"));
        assert_eq!(first, second, "seed {seed}");
        hashes.insert(first.0);
    }
    assert_eq!(hashes.len(), 5, "another seed gives another run");
}
