//! Transfers over paths that are narrow, shared, or change.

use std::time::Duration;

use cellbus_channels::transfer::{FetchOptions, Sink, Told};
use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::{for_each_seed, run_paused},
    sim::{LinkSettings, SimNet},
};
use tokio::time::Instant;

use super::cells::{MIB, TREE, serve, to, transfers, whole, within};

#[test]
fn f_11_a_path_that_takes_shorter_packets_for_a_while_holds_a_transfer_up_for_a_moment_only() {
    let _log = LogGuard::start();
    run_paused(1, async |seed| {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), TREE).await;
        let ends = (net.host("relay"), net.host("server"));
        let takes = |mtu| {
            let rate = Some(80_000_000);
            sim.set_both(
                ends.0,
                ends.1,
                LinkSettings { mtu, bits_per_second: rate, ..LinkSettings::default() },
            );
            sim.traffic_on(ends.1, ends.0).too_long
        };
        takes(1500);
        let sent = whole(32 * MIB);
        let served = serve(&net, "server", sent.clone(), to(&["relay.site-1"])).await;
        let (reference, options) = (served.reference(), FetchOptions::default());
        let fetching = transfers(&net, "site-1").fetch(&reference, Sink::memory(64 << 20), options);
        let mut progress = fetching.progress();
        let fetching = tokio::task::spawn_local(fetching);
        let mut until = async |bytes: usize| {
            let mut longest = Duration::ZERO;
            while progress.latest().bytes < bytes as u64 {
                let begun = Instant::now();
                within(progress.next()).await.expect("it goes on");
                longest = longest.max(begun.elapsed());
            }
            longest
        };
        until(8 * MIB).await;
        let before = takes(1280);
        let longest = until(20 * MIB).await;
        assert!(takes(1500) > before, "nothing was too long");
        assert!(longest <= Duration::from_secs(2), "it stood still for {longest:?}");
        let fetched = within(fetching).await.unwrap().unwrap();
        assert_eq!(fetched.told, Told::Settled);
        assert!(fetched.into_bytes() == sent);
        let (mtu, black_holes) = link_to_relay(&net).await;
        assert!(mtu < 1280 && black_holes > 0, "{mtu} {black_holes}");
        // The path is asked again a minute later, by what is sent then.
        net.advance(Duration::from_secs(61)).await;
        drop(served);
        let served = serve(&net, "server", whole(8 * MIB), to(&["relay.site-1"])).await;
        let (reference, options) = (served.reference(), FetchOptions::default());
        let again = transfers(&net, "site-1").fetch(&reference, Sink::memory(64 << 20), options);
        within(again).await.unwrap();
        let (mtu, after) = link_to_relay(&net).await;
        assert!(mtu > 1400 && after == black_holes, "{mtu} {after}");
        net.finish().await;
    });
}

/// What the server says of its link to the relay: the largest datagram, and how often such ones did not arrive.
async fn link_to_relay(net: &Net) -> (u16, u64) {
    let report = net.inspect().await.remove("server").expect("it runs");
    let link = report.links.iter().find(|link| link.peer == "relay").expect("it is up");
    (link.mtu, link.black_holes)
}

#[test]
fn f_11_packets_that_are_lost_at_random_are_not_taken_for_too_long() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), TREE).await;
        let lossy = LinkSettings {
            loss: 0.01,
            bits_per_second: Some(80_000_000),
            ..LinkSettings::default()
        };
        sim.set_both(net.host("relay"), net.host("server"), lossy);
        let sent = whole(32 * MIB);
        let served = serve(&net, "server", sent.clone(), to(&["relay.site-1"])).await;
        let (reference, sink) = (served.reference(), Sink::memory(64 << 20));
        let fetching = transfers(&net, "site-1").fetch(&reference, sink, FetchOptions::default());
        assert!(within(fetching).await.unwrap().into_bytes() == sent);
        assert!(sim.traffic_on(net.host("server"), net.host("relay")).dropped > 50);
        let (mtu, black_holes) = link_to_relay(&net).await;
        assert!(mtu > 1400 && black_holes == 0, "{mtu} {black_holes}");
        net.finish().await;
    });
}

/// Has two sites fetch 4 MiB each over the one line to their relay, which takes 8 Mbit/s; how far both are when the
/// first has everything.
async fn race(seed: u64, priorities: [u8; 2]) -> [u64; 2] {
    let sim = SimNet::new(seed);
    let net = Net::over_quic(sim.clone(), TREE).await;
    let narrow = LinkSettings { bits_per_second: Some(8_000_000), ..LinkSettings::default() };
    sim.set_both(net.host("relay"), net.host("server"), narrow);
    let (mut kept, mut running) = (Vec::new(), Vec::new());
    for (site, priority) in ["site-1", "site-2"].into_iter().zip(priorities) {
        let served = serve(&net, "server", whole(4 * MIB), to(&[&format!("relay.{site}")])).await;
        let options = FetchOptions::default().priority(priority);
        let sink = Sink::memory(8 << 20);
        let fetching = transfers(&net, site).fetch(&served.reference(), sink, options);
        running.push((fetching.progress(), tokio::task::spawn_local(fetching)));
        kept.push(served);
    }
    while running.iter().all(|(_, fetching)| !fetching.is_finished()) {
        net.advance(Duration::from_millis(50)).await;
    }
    let reached = [running[0].0.latest().bytes, running[1].0.latest().bytes];
    for (_, fetching) in running {
        within(fetching).await.expect("the test made it so").expect("the test made it so");
    }
    net.finish().await;
    reached
}

#[test]
fn transfers_that_share_a_link_get_the_same_of_it() {
    let _log = LogGuard::start();
    run_paused(1, async |seed| {
        let reached = race(seed, [3, 3]).await;
        let least = reached.iter().min().copied().unwrap();
        assert!(least >= 3 * MIB as u64, "{reached:?} of {}", 4 * MIB);
    });
}

#[test]
fn the_more_urgent_of_two_transfers_that_share_a_link_has_everything_before_the_other_has_half() {
    let _log = LogGuard::start();
    run_paused(1, async |seed| {
        let [later, sooner] = race(seed, [0, 9]).await;
        assert_eq!(sooner, 4 * MIB as u64);
        assert!(later <= 2 * MIB as u64, "{later}");
    });
}
