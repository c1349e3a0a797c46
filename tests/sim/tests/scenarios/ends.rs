//! Targets that are not there, senders that die in the middle, and actors that end.

use std::time::Duration;

use cellbus_channels::{Class, Status};
use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::for_each_seed,
    sim::{LinkSettings, SimNet},
};
use cellbus_runtime::cell::CellState;
use cellbus_sim::{
    figures::show,
    ledger::Work,
    load::Load,
    views::{epoch, report, until},
};
use tokio::time::Instant;

const TREE: &str =
    "server -> relay -> site-1 -> job-1; relay -> site-2; server -> site-3; server -> job-1";
const BUDGET: Duration = Duration::from_secs(10);
/// To a site behind the relay and back from a job at the server: six ways of 10 to 12 ms.
const ROUND_TRIP: Duration = Duration::from_millis(75);

#[test]
fn f_13_what_is_gone_or_never_was_is_refused_within_a_round_trip() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        let mut refused = Vec::new();
        net.drain("relay.site-1.job-1").await;
        net.drain("site-2").await;
        net.crash("site-3").await;
        net.advance(Duration::from_secs(6)).await;
        let never =
            [("relay.site-1", "relay.site-9"), ("relay.site-1", "site-9"), ("server", "x.y.z")];
        let drained = [("relay.site-1", "relay.site-2"), ("server", "relay.site-2")];
        let crashed = [("relay.site-1", "site-3"), ("server", "site-3"), ("relay", "site-3")];
        let job_ended = [("server.job-1", "relay.site-1.job-1")];
        let all = never.into_iter().chain(drained).chain(crashed).chain(job_ended);
        for (from, to) in all {
            let begun = Instant::now();
            let error = net.cell(from).request(to, "task/ping", "x").await.unwrap_err();
            let took = begun.elapsed();
            assert_eq!((error.status(), error.class()), (Status::NoRoute, Class::Refused), "{to}");
            assert!(took <= ROUND_TRIP, "{from} -> {to} took {took:?}");
            refused.push((to, took));
        }
        show("F-13", seed, format!("{refused:?}"));
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_35_a_message_whose_sender_dies_in_the_middle_of_it_is_not_a_message() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let sim = SimNet::new(seed);
        let mut net = Net::over_quic(sim.clone(), TREE).await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        // Eight seconds for a megabyte.
        let slow = LinkSettings { bits_per_second: Some(1_000_000), ..LinkSettings::default() };
        let victims = [
            ("site-3", "server", "site-3"),
            ("site-2", "relay", "site-2"),
            ("relay", "server", "site-1"),
        ];
        for (at, to, from) in victims {
            sim.set(net.host(at), net.host(to), slow.clone());
            load.send_padded(net.cell(from), "server", "task/ping", BUDGET, 900_000);
            net.advance(Duration::from_secs(2)).await;
            assert_eq!(load.open(), 1, "{from}: the message is under way");
            net.crash(at).await;
            net.advance(Duration::from_secs(6)).await;
            sim.set(net.host(at), net.host(to), LinkSettings::default());
            net.restart(at);
            net.wait_ready(Duration::from_secs(60)).await;
            net.advance(Duration::from_secs(2)).await;
        }
        let verdict = load.verdict().await;
        show("F-35", seed, &verdict);
        assert!(load.ledger().is_empty(), "a part of a message was taken for all of it");
        assert_eq!(verdict.unknown, 3, "{verdict}");
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn a_cell_whose_filter_ends_starts_closed_and_everybody_comes_back() {
    let log = LogGuard::start();
    log.expect("an actor ended; the cell starts again");
    log.tolerate("message refused");
    for_each_seed(&[1, 2, 3], |seed| async move {
        let net = Net::over_quic(SimNet::new(seed), TREE).await;
        let load = Load::default();
        for name in ["server", "relay.site-2", "server.job-1"] {
            load.ledger().serve(net.cell(name), "task/ping", Work::AtOnce).await;
        }
        load.ledger()
            .serve(net.cell("server"), "task/slow", Work::Lasting(Duration::from_millis(300)))
            .await;
        for victim in ["relay", "site-1", "server"] {
            for from in ["relay", "relay.site-1", "site-3"] {
                load.send(net.cell(from), "server", "task/slow", BUDGET);
                load.send(net.cell(from), "relay.site-2", "task/ping", BUDGET);
            }
            net.advance(Duration::from_millis(40)).await;
            let before = epoch(&net, "relay.site-1");
            net.cell(victim).running.crash_filter();
            let begun = Instant::now();
            let closed = || async { net.cell(victim).running.state() < CellState::Ready };
            until("the cell is closed", Duration::from_secs(1), closed).await;
            let again = || async { epoch(&net, "relay.site-1") > before };
            until("the leaf is registered again", Duration::from_secs(10), again).await;
            net.wait_ready(Duration::from_secs(10)).await;
            show("filter ended", seed, format!("{victim}: back after {:?}", begun.elapsed()));
            net.advance(Duration::from_secs(3)).await;
            for from in ["relay", "relay.site-1", "site-3"] {
                let pong = net
                    .cell(from)
                    .request("server", "task/ping", &format!("{victim}-{from}"))
                    .await;
                assert!(pong.is_ok(), "{from} after {victim}: {pong:?}");
            }
        }
        let verdict = load.verdict().await;
        show("filter ended", seed, &verdict);
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn a_registration_that_is_under_way_when_the_filter_ends_is_begun_again_soon() {
    let log = LogGuard::start();
    log.expect("an actor ended; the cell starts again");
    for_each_seed(&[1, 2], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        let mut longest = Duration::ZERO;
        for offset in (0..=150).step_by(10) {
            net.drain("site-2").await;
            net.advance(Duration::from_secs(61)).await;
            net.start("site-2");
            net.advance(Duration::from_millis(offset)).await;
            net.cell("relay").running.crash_filter();
            let begun = Instant::now();
            net.advance(Duration::from_millis(1)).await;
            net.wait_ready(Duration::from_secs(8)).await;
            longest = longest.max(begun.elapsed());
        }
        show("filter ended during a registration", seed, format!("back after {longest:?}"));
        net.advance(Duration::from_secs(3)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn a_relay_that_has_said_bye_tells_nothing_more() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        let before = report(net.cell("server")).await;
        net.drain("relay").await;
        net.advance(Duration::from_secs(1)).await;
        let after = report(net.cell("server")).await;
        assert_eq!(after.counters.refused, before.counters.refused, "it came too late");
        assert_eq!(after.registered.len(), 2, "{:?}", after.registered);
        assert_eq!(after.counters.delivered, before.counters.delivered, "{:?}", after.counters);
        net.restart("relay");
        net.wait_ready(Duration::from_secs(12)).await;
        net.advance(Duration::from_secs(2)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn g_31_a_lane_that_is_busy_for_minutes_is_not_taken_for_stuck() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2], |seed| async move {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), TREE).await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        // Eight seconds for each of these, either way.
        let slow = LinkSettings { bits_per_second: Some(1_000_000), ..LinkSettings::default() };
        sim.set_both(net.host("site-3"), net.host("server"), slow);
        for _ in 0..6 {
            let long = Duration::from_secs(200);
            load.send_padded(net.cell("site-3"), "server", "task/ping", long, 900_000);
        }
        net.advance(Duration::from_secs(100)).await;
        assert_eq!(epoch(&net, "site-3"), 1, "its link was closed");
        let verdict = load.verdict().await;
        show("G-31 busy", seed, &verdict);
        assert_eq!(verdict.ok, 6, "{verdict}");
        sim.set_both(net.host("site-3"), net.host("server"), LinkSettings::default());
        net.assert_tables().await;
        net.finish().await;
    });
}
