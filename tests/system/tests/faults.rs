//! Rows of the fault matrix about load, leaving and refusals: each over links in memory, and over QUIC through a relay.
//!
//! Those that need a path with a rate, a process or a file are in `tests/sim` and `tests/process`; those of handlers
//! and conduits beside what else is tested of them.

use std::time::Duration;

use cellbus_channels::{Bus, Bytes, ChannelTopic, Fqcn};
use cellbus_harness::{
    guard::LogGuard,
    net::{Net, Settings},
    seeds::run_paused,
    sim::SimNet,
};
use tokio::time::Instant;
use tracing::Level;

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
const MIB: usize = 1 << 20;

/// Runs a scenario over links in memory, and then over QUIC.
fn over_both(scenario: impl AsyncFn(Net)) {
    run_paused(1, async |seed| scenario(Net::up(seed, TREE).await).await);
    run_paused(2, async |seed| {
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

/// How long a ping of the system takes.
async fn ping(net: &Net, from: &str, to: &str) -> Duration {
    let begun = Instant::now();
    net.cell(from).request(to, "cell/ping", "p").await.expect("it is answered");
    begun.elapsed()
}

#[test]
fn f_19_a_neighbour_that_takes_nothing_costs_a_bounded_piece_of_memory_and_nobody_else() {
    const PART: usize = 256 << 10;
    let log = LogGuard::start();
    log.tolerate("link");
    over_both(async |net| {
        net.cut("site-1", "relay");
        let (relay, part) = (bus(&net, "relay"), Bytes::from(vec![7; PART]));
        let mut taken = 0;
        for _ in 0..128 {
            let to = relay.request(name("relay.site-1"), target("notes/count"));
            let sent = to.payload(part.clone()).budget(Duration::from_millis(10)).publish().await;
            taken += usize::from(sent.is_ok());
        }
        assert!(taken > 1 && taken * PART <= 17 * MIB, "{taken} of 128 parts were taken");
        let queued = |report: &cellbus_runtime::cell::InspectReport| {
            report.links.iter().map(|link| link.queued_bytes).sum::<usize>()
        };
        assert!(queued(&net.inspect().await["relay"]) <= 8 * MIB);
        let others = [("site-2", "server"), ("server", "relay.site-2"), ("site-3", "relay")];
        for (from, to) in others {
            let took = ping(&net, from, to).await;
            assert!(took < Duration::from_secs(1), "{from} -> {to}: {took:?}");
        }
        net.advance(Duration::from_secs(10)).await;
        let reports = net.inspect().await;
        let relay = &reports["relay"];
        assert!(relay.links.iter().all(|link| link.peer != "relay.site-1"), "it is given up");
        assert_eq!(queued(relay), 0, "and what waited for it is kept no longer");
        net.heal("site-1", "relay");
        net.advance(Duration::from_secs(15)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_22_cells_that_start_all_at_once_behind_relays_are_registered_within_ten_seconds() {
    const SITES: usize = 60;
    let _log = LogGuard::start();
    let mut tree = "server -> relay-1; server -> relay-2".to_owned();
    for site in 1..=SITES {
        tree.push_str(&format!("; relay-{} -> site-{site}", 1 + site % 2));
    }
    for is_quic in [false, true] {
        run_paused(1, async |seed| {
            let sim = is_quic.then(|| SimNet::new(seed));
            let mut net = Net::prepared(seed, &tree, sim, Settings::default());
            let begun = Instant::now();
            for cell in net.names() {
                net.start(cell.as_str());
            }
            net.wait_ready(Duration::from_secs(10)).await;
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
            net.assert_tables().await;
            let last = format!("relay-{}.site-{SITES}", 1 + SITES % 2);
            ping(&net, "server", &last).await;
            net.finish().await;
        });
    }
}

#[test]
fn f_41_a_relay_that_leaves_under_a_load_loses_nothing_that_was_asked() {
    const ASKED: usize = 40;
    let _log = LogGuard::start();
    over_both(async |mut net| {
        net.cell("server").echoes_after("task/slow", Duration::from_millis(300)).await;
        let asked: Vec<_> = (0..ASKED)
            .map(|number| {
                let site = net.cell(if number % 2 == 0 { "site-1" } else { "site-2" }).clone();
                let text = number.to_string();
                actix_rt::spawn(async move { site.request("server", "task/slow", &text).await })
            })
            .collect();
        net.advance(Duration::from_millis(100)).await;
        net.drain("relay").await;
        for (number, one) in asked.into_iter().enumerate() {
            let reply = one.await.expect("it does not panic");
            assert_eq!(reply.ok(), Some(number.to_string()));
        }
        assert_eq!(net.cell("server").calls().len(), ASKED, "each was executed once");
        net.restart("relay");
        net.wait_ready(Duration::from_secs(60)).await;
        net.advance(Duration::from_secs(5)).await;
        ping(&net, "site-1", "server").await;
        net.finish().await;
    });
}

#[test]
fn f_43_a_flood_of_what_is_refused_is_a_line_a_second_and_delays_nobody() {
    const FLOOD: usize = 5_000;
    const LINES_MAX: usize = 4;
    let log = LogGuard::keeping(100_000, Level::INFO);
    over_both(async |net| {
        net.cell("server").echoes("task/ping").await;
        let before = log.last_events().len();
        let begun = Instant::now();
        let site = bus(&net, "site-1");
        for number in 0..FLOOD {
            // The relay knows no such cell; no rule allows the other one.
            let to = site.request(name("relay.site-9"), target("notes/count"));
            to.publish().await.expect("it is the relay that knows");
            let denied = site.request(name("server"), target("ops/deploy")).publish().await;
            assert!(denied.is_err(), "it may not pass");
            if number % 1000 == 0 {
                let took = ping(&net, "site-2", "server").await;
                assert!(took < Duration::from_secs(1), "{took:?}");
            }
        }
        net.advance(Duration::from_secs(1)).await;
        let relay = net.cell("relay").running.own().clone();
        let buried: u64 = relay.dead_letters.report(0, None).counts.iter().map(|c| c.count).sum();
        assert_eq!(buried, FLOOD as u64, "every one is counted");
        let lines = log.last_events().len() - before;
        let seconds = usize::try_from(begun.elapsed().as_secs()).expect("it is short");
        assert!(lines > 0 && lines <= LINES_MAX * (seconds + 1), "{lines} lines in {seconds} s");
        net.finish().await;
    });
}
