//! Too much at once, and going away in the middle of it.

use std::time::Duration;

use cellbus_harness::{
    guard::LogGuard,
    net::{Net, Settings},
    seeds::for_each_seed,
    sim::{LinkSettings, SimNet},
};
use cellbus_sim::{
    figures::show,
    ledger::Work,
    load::Load,
    trees::two_levels,
    views::{epoch, report},
};
use tokio::time::Instant;

const BUDGET: Duration = Duration::from_secs(10);

#[test]
fn g_25_a_cell_whose_handlers_are_full_says_so_at_once_and_answers_everything_else() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut settings = Settings::default();
        settings.cell.handlers.running = 8;
        let tree = "server -> relay -> site-1; server -> site-2";
        let mut net = Net::prepared(seed, tree, Some(SimNet::new(seed)), settings);
        net.start_all().await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/slow", Work::Endless).await;
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        load.ledger().serve(net.cell("relay"), "task/ping", Work::AtOnce).await;
        for _ in 0..8 {
            load.send(net.cell("site-1"), "server", "task/slow", BUDGET);
        }
        net.advance(Duration::from_millis(200)).await;
        let begun = Instant::now();
        let site = net.cell("site-1");
        let full = site.request("server", "task/slow", "more").await.unwrap_err();
        assert_eq!((full.status().code(), full.by().unwrap().as_str()), ("OVERLOADED", "server"));
        assert!(begun.elapsed() < Duration::from_millis(60), "{:?}", begun.elapsed());
        // One cell alone fills half of the room. Another finds a place.
        load.ask(net.cell("site-2"), "server", "task/ping", BUDGET).await;
        for from in ["relay.site-1", "site-2"] {
            assert_eq!(net.cell(from).request("server", "cell/ping", "p").await.unwrap(), "p");
            load.ask(net.cell(from), "relay", "task/ping", BUDGET).await;
        }
        assert_eq!(load.ledger().executions("more"), 0);
        let verdict = load.verdict().await;
        show("handlers full", seed, &verdict);
        assert_eq!((verdict.ok, verdict.unknown, verdict.refused), (3, 4, 4), "{verdict}");
        net.advance(Duration::from_secs(1)).await;
        // What could not be done in its budget has been given up, and there is room again.
        assert_eq!(report(net.cell("server")).await.handling, 0);
        net.finish().await;
    });
}

#[test]
fn g_23_a_full_outbox_refuses_at_once_and_delays_no_beat() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut settings = Settings::default();
        settings.endpoint.link.outbox_max = 256 << 10;
        let sim = SimNet::new(seed);
        let tree = "server -> relay -> site-1; relay -> site-2; server -> site-3";
        let mut net = Net::prepared(seed, tree, Some(sim.clone()), settings);
        net.start_all().await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        load.ledger().serve(net.cell("relay.site-2"), "task/ping", Work::AtOnce).await;
        // One megabit: a flood of ten megabytes takes eighty seconds.
        let slow = LinkSettings { bits_per_second: Some(1_000_000), ..LinkSettings::default() };
        sim.set(net.host("relay"), net.host("server"), slow);
        for _ in 0..320 {
            load.send_padded(net.cell("site-1"), "server", "task/ping", BUDGET, 32 << 10);
        }
        for _ in 0..20 {
            net.advance(Duration::from_millis(250)).await;
            // Another way past the same relay is not in the way.
            load.ask(net.cell("site-1"), "relay.site-2", "task/ping", BUDGET).await;
            load.ask(net.cell("relay"), "server", "task/ping", BUDGET).await;
        }
        let verdict = load.verdict().await;
        show("outbox full", seed, &verdict);
        let overloaded = verdict.codes.get("OVERLOADED").copied().unwrap_or(0);
        assert!(overloaded > 200, "{verdict}");
        for outcome in
            verdict.outcomes.iter().filter(|o| o.result.is_err() && o.from == "relay.site-1")
        {
            let overloaded =
                outcome.result.as_ref().is_err_and(|e| e.status().code() == "OVERLOADED");
            assert!(!overloaded || outcome.took < Duration::from_secs(5), "{outcome:?}");
        }
        assert_eq!((epoch(&net, "relay"), epoch(&net, "relay.site-1")), (1, 1), "a link was lost");
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn g_21_a_flood_from_one_cell_delays_no_beat_and_no_neighbour() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2], |seed| async move {
        let net = Net::over_quic(SimNet::new(seed), &two_levels(1, 3)).await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        for _ in 0..60 {
            for _ in 0..200 {
                load.send(net.cell("site-1"), "server", "task/ping", BUDGET);
            }
            load.send(net.cell("site-2"), "server", "task/ping", BUDGET);
            net.advance(Duration::from_millis(100)).await;
        }
        let verdict = load.verdict().await;
        let others = verdict.spans_of(|outcome| outcome.from == "relay-1.site-2");
        show("flood", seed, &verdict);
        show("flood, a neighbour", seed, &others);
        assert_eq!(others.len(), 60, "{verdict}");
        assert!(others.max() < Duration::from_secs(1), "{others}");
        assert!(net.names().iter().all(|name| epoch(&net, name.as_str()) == 1), "a link was lost");
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn g_70_a_drain_under_load_loses_nothing_that_was_accepted() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        for victim in ["server", "relay-1", "relay-1.site-1"] {
            let mut net = Net::over_quic(SimNet::new(seed), &two_levels(2, 3)).await;
            let load = Load::default();
            let work = Work::Lasting(Duration::from_millis(1500));
            for name in ["server", "relay-1", "relay-1.site-1", "relay-2.site-4"] {
                load.ledger().serve(net.cell(name), "task/slow", work).await;
            }
            let pairs = [
                ("relay-1.site-1", "server"),
                ("relay-1.site-2", "relay-1.site-1"),
                ("relay-2.site-5", "relay-1"),
                ("relay-2.site-6", "relay-1.site-1"),
                ("server", "relay-2.site-4"),
                ("relay-1.site-3", "relay-2.site-4"),
                ("relay-2", "server"),
                ("server", "relay-1.site-1"),
            ];
            for number in 0..200 {
                let (from, to) = pairs[number % pairs.len()];
                load.send(net.cell(from), to, "task/slow", BUDGET);
                net.advance(Duration::from_millis(5)).await;
            }
            let late = net.cell("relay-1.site-2").clone();
            let more = load.clone();
            actix_rt::spawn(async move {
                for _ in 0..20 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    more.send(&late, "relay-1.site-1", "task/slow", BUDGET);
                    more.send(&late, "server", "task/slow", BUDGET);
                }
            });
            let begun = Instant::now();
            net.drain(victim).await;
            let took = begun.elapsed();
            net.advance(Duration::from_secs(2)).await;
            let verdict = load.verdict().await;
            show("G-70", seed, format!("{victim} drained in {took:?}: {verdict}"));
            assert_eq!(verdict.unknown, 0, "{victim}: {verdict}");
            assert!(verdict.ok >= 150, "{victim}: {verdict}");
            let known = ["DRAINING", "NO_ROUTE", "SHUTTING_DOWN"];
            assert!(verdict.codes.keys().all(|code| known.contains(code)), "{victim}: {verdict}");
            net.finish().await;
        }
    });
}

#[test]
fn g_70_a_relay_with_a_steady_stream_through_it_drains_no_longer_than_what_it_has_passed_on() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), &two_levels(2, 3)).await;
        let load = Load::default();
        let work = Work::Lasting(Duration::from_millis(1500));
        for name in ["server", "relay-1.site-1"] {
            load.ledger().serve(net.cell(name), "task/slow", work).await;
        }
        let (more, below, above) =
            (load.clone(), net.cell("relay-1.site-2").clone(), net.cell("relay-2.site-4").clone());
        actix_rt::spawn(async move {
            for _ in 0..200 {
                more.send(&below, "server", "task/slow", BUDGET);
                more.send(&below, "relay-1.site-1", "task/slow", BUDGET);
                more.send(&above, "relay-1.site-1", "task/slow", BUDGET);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        net.advance(Duration::from_secs(3)).await;
        let begun = Instant::now();
        net.drain("relay-1").await;
        let took = begun.elapsed();
        net.advance(Duration::from_secs(12)).await;
        let verdict = load.verdict().await;
        show("G-70 steady stream", seed, format!("drained in {took:?}: {verdict}"));
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(verdict.unknown, 0, "{verdict}");
        assert!(verdict.ok >= 150, "{verdict}");
        net.finish().await;
    });
}
