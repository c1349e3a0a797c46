//! Paths that go dark, both ways or one way, for a while.

use std::time::Duration;

use cellbus_harness::{guard::LogGuard, net::Net, seeds::for_each_seed, sim::SimNet};
use cellbus_sim::{
    figures::{Spans, show},
    ledger::Work,
    load::Load,
    views::{View, epoch, until, view},
};
use tokio::time::Instant;

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
const BUDGET: Duration = Duration::from_secs(10);
/// From the end of the dark to the registration.
const BACK: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// How long the two ends of a link may disagree, and how long a link that is dead may seem alive.
const AGREE: Duration = Duration::from_secs(5);
const BOTH: View = View { child: true, parent: true };
const NEITHER: View = View { child: false, parent: false };

/// What was seen of a link while it was dark and until it was back.
#[derive(Debug, Default)]
struct Seen {
    /// Whether it was lost.
    lost: bool,
    /// Longest time during which one end had it and the other had not.
    one_sided: Duration,
    /// From the end of the dark to the registration.
    back: Duration,
}

/// Cuts the link of `child` for `dark`, and watches it until both ends have it.
async fn blackhole(net: &Net, child: &str, parent: &str, dark: Duration) -> Seen {
    let before = epoch(net, child);
    let mut seen = Seen::default();
    let mut differ: Option<Instant> = None;
    let begun = Instant::now();
    net.cut(child, parent);
    let mut healed: Option<Instant> = None;
    loop {
        let now = view(net, child, parent).await;
        seen.lost |= now != BOTH;
        differ = (now.child != now.parent).then(|| differ.unwrap_or_else(Instant::now));
        seen.one_sided = seen.one_sided.max(differ.map_or(Duration::ZERO, |since| since.elapsed()));
        if let Some(healed) = healed {
            if now == BOTH && healed.elapsed() > Duration::from_secs(2) {
                break;
            }
            assert!(healed.elapsed() < Duration::from_secs(60), "{child} never came back");
        } else if begun.elapsed() >= dark {
            net.heal(child, parent);
            healed = Some(Instant::now());
        }
        if now != BOTH {
            seen.back = healed.map_or(Duration::ZERO, |healed| healed.elapsed());
        }
        net.advance(LOOK).await;
    }
    // Both may have lost it and come back between two looks.
    seen.lost |= epoch(net, child) != before;
    seen
}

#[test]
fn f_09_a_blackhole_below_two_and_a_half_seconds_ends_no_link() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4, 5, 6], |seed| async move {
        let net = Net::over_quic(SimNet::new(seed), TREE).await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        for (index, dark) in [500, 1000, 1500, 2000, 2250, 2400, 2490].into_iter().enumerate() {
            // The beats are at any moment of their second when it begins.
            net.advance(Duration::from_millis(1000 + 150 * index as u64 + 37 * seed)).await;
            for (child, parent) in [("relay", "server"), ("site-1", "relay")] {
                load.send(net.cell("site-1"), "server", "task/ping", BUDGET);
                let seen = blackhole(&net, child, parent, Duration::from_millis(dark)).await;
                assert!(!seen.lost, "{child} lost its link in {dark} ms of dark");
            }
        }
        let verdict = load.verdict().await;
        show("F-09 requests in the dark", seed, &verdict);
        assert_eq!(verdict.ok, verdict.len(), "{verdict}");
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_09_after_a_blackhole_of_any_length_both_ends_agree_and_the_link_is_back() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let net = Net::over_quic(SimNet::new(seed), TREE).await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        let mut back = Vec::new();
        let mut one_sided = Vec::new();
        let halves = (5..=20).map(|halves| halves * 500).chain([12_000, 15_000, 20_000, 30_000]);
        for dark in halves.map(Duration::from_millis) {
            for (child, parent) in [("relay", "server"), ("site-1", "relay")] {
                net.advance(Duration::from_millis(1370)).await;
                load.send(net.cell("site-1"), "server", "task/ping", BUDGET);
                let seen = blackhole(&net, child, parent, dark).await;
                assert!(dark <= AGREE || seen.lost, "{child} kept its link for {dark:?} of dark");
                assert!(seen.one_sided <= AGREE, "{child} after {dark:?}: {seen:?}");
                assert!(seen.back <= BACK, "{child} after {dark:?}: {seen:?}");
                back.push(seen.back);
                one_sided.push(seen.one_sided);
                let again = || async {
                    net.cell("site-1").request("server", "cell/ping", "x").await.is_ok()
                };
                until("site-1 reaches the server", Duration::from_secs(5), again).await;
            }
        }
        show("F-09 back after healing", seed, back.into_iter().collect::<Spans>());
        show("F-09 one end alone", seed, one_sided.into_iter().collect::<Spans>());
        let verdict = load.verdict().await;
        show("F-09 requests in the dark", seed, &verdict);
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_10_a_cut_in_one_direction_ends_the_link_at_both_ends_within_five_seconds() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4], |seed| async move {
        let net = Net::over_quic(SimNet::new(seed), TREE).await;
        let mut took = Vec::new();
        for (child, parent) in [("relay", "server"), ("site-1", "relay"), ("site-3", "server")] {
            for (from, to) in [(child, parent), (parent, child)] {
                net.advance(Duration::from_millis(1000 + 230 * seed)).await;
                net.cut_one_way(from, to);
                let ended = || async { view(&net, child, parent).await == NEITHER };
                took.push(until("both ends end the link", AGREE, ended).await);
                net.heal(from, to);
                let back = || async { view(&net, child, parent).await == BOTH };
                until("the link is back", Duration::from_secs(10), back).await;
                net.wait_ready(Duration::from_secs(5)).await;
            }
        }
        show("F-10 both ends have ended it", seed, took.into_iter().collect::<Spans>());
        // The leaves of the relay register again with the next echo.
        net.advance(Duration::from_secs(2)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}
