//! Who holds a name: copies, restarts, byes that come late and cells that have left.

use std::time::Duration;

use cellbus_channels::Status;
use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::for_each_seed,
    sim::{LinkSettings, SimNet},
};
use cellbus_proto::envelope::Incarnation;
use cellbus_runtime::cell::CellState;
use cellbus_sim::{
    figures::show,
    ledger::Work,
    load::Load,
    views::{epoch, report, until},
};
use tokio::time::Instant;

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
const BUDGET: Duration = Duration::from_secs(5);

fn start(counter: u64, nonce: u64) -> Incarnation {
    Incarnation { counter, nonce }
}

/// Starts of `name` in the records of the server.
async fn holder(net: &Net, name: &str) -> Option<String> {
    let registered = report(net.cell("server")).await.registered;
    registered.into_iter().find(|peer| peer.name == name).map(|peer| peer.incarnation)
}

#[test]
fn f_27_a_copy_that_is_not_newer_is_refused_and_the_holder_notices_nothing() {
    let log = LogGuard::start();
    log.expect("another process holds");
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        for name in ["relay.site-1", "site-3"] {
            let held = holder(&net, name).await;
            net.start_as_again(name, start(5, 50)).await;
            let held_now = holder(&net, name).await;
            assert_ne!(held, held_now);
            for copy in [start(5, 51), start(4, 52)] {
                let copy = net.start_copy(name, copy);
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_secs(20) {
                    load.ask(net.cell(name), "server", "task/ping", BUDGET).await;
                    net.advance(Duration::from_millis(200)).await;
                    assert!(copy.running.state() < CellState::Ready, "{name}: the copy got in");
                }
                assert_eq!(holder(&net, name).await, held_now);
                assert_eq!(epoch(&net, name), 1, "{name} lost its link");
                copy.running.stop();
                copy.running.wait_for(CellState::Stopped).await;
            }
        }
        let verdict = load.verdict().await;
        show("F-27 the holder", seed, &verdict);
        assert_eq!(verdict.ok, verdict.len(), "{verdict}");
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_27_a_newer_start_takes_the_name_over_and_the_former_stays_away() {
    let log = LogGuard::start();
    log.expect("another process holds");
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        for name in ["relay.site-1", "site-3"] {
            let copy = net.start_copy(name, start(9, 90));
            let ready = copy.running.wait_for(CellState::Ready);
            tokio::time::timeout(Duration::from_secs(2), ready).await.expect("the newer one");
            let former = || async { net.cell(name).running.state() == CellState::Connecting };
            until("the former is told", Duration::from_secs(1), former).await;
            let superseded = Instant::now();
            let tried = || async {
                net.cell("server").running.own().counters.refused(Status::DuplicateName)
                    + net.cell("relay").running.own().counters.refused(Status::DuplicateName)
                    > 0
            };
            let before = tried().await;
            net.advance(Duration::from_secs(29)).await;
            assert_eq!(tried().await, before, "{name} stays away for thirty seconds");
            net.advance(Duration::from_secs(20)).await;
            assert!(holder(&net, name).await.is_some_and(|held| held.starts_with("9-")));
            assert!(copy.running.state() == CellState::Ready, "the newer one is undisturbed");
            show("F-27 former refused for", seed, format!("{:?}", superseded.elapsed()));
            assert!(copy.running.drain(BUDGET).await);
            net.cell(name).running.wait_for(CellState::Ready).await;
        }
        net.wait_ready(Duration::from_secs(60)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn g_35_of_copies_that_take_turns_the_third_is_refused_and_the_holder_stays() {
    let log = LogGuard::start();
    log.expect("another process holds");
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        for name in ["relay.site-1", "site-3"] {
            let second = net.start_copy(name, start(2, 20));
            second.running.wait_for(CellState::Ready).await;
            net.crash(name).await;
            net.advance(Duration::from_secs(3)).await;
            let third = net.start_copy(name, start(3, 30));
            third.running.wait_for(CellState::Ready).await;
            second.running.stop();
            net.advance(Duration::from_secs(3)).await;
            let held = holder(&net, name).await;
            net.start_as(name, start(4, 40));
            net.advance(Duration::from_secs(120)).await;
            assert!(net.cell(name).running.state() < CellState::Ready, "{name}: a third change");
            assert_eq!(holder(&net, name).await, held);
            assert_eq!(third.running.state(), CellState::Ready, "the holder is undisturbed");
            // Ten minutes after the changes the name is like any other.
            net.advance(Duration::from_secs(600)).await;
            net.cell(name).running.wait_for(CellState::Ready).await;
            assert!(holder(&net, name).await.is_some_and(|held| held.starts_with("4-")));
            third.running.stop();
            third.running.wait_for(CellState::Stopped).await;
        }
        net.advance(Duration::from_secs(3)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_28_a_cell_that_has_quit_is_not_revived_by_anything_it_goes_on_sending() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let net = Net::over_quic(SimNet::new(seed), TREE).await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        for name in ["relay.site-1", "site-3"] {
            let quit = net.cell(name).request("server", "cell/quit", "").await;
            assert!(quit.is_ok(), "{quit:?}");
            assert_eq!(holder(&net, name).await, None);
            for _ in 0..60 {
                // Heartbeats go on, and so does what it wants of others.
                load.ask(net.cell(name), "server", "task/ping", BUDGET).await;
                net.advance(Duration::from_secs(1)).await;
                assert_eq!(holder(&net, name).await, None, "{name} was revived");
            }
            assert!(load.ledger().is_empty(), "{name}");
            // Its token is not renewed; so it registers, and nothing less brings it back.
            assert_eq!(epoch(&net, name), 1);
            let again = || async { epoch(&net, name) == 2 };
            until("it registers again", Duration::from_secs(460), again).await;
            assert!(holder(&net, name).await.is_some());
        }
        let verdict = load.verdict().await;
        show("F-28 requests after quit", seed, &verdict);
        assert_eq!(verdict.codes.get("TOKEN_REVOKED"), Some(&120), "{verdict}");
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_28_a_bye_that_comes_late_does_not_touch_the_next_start() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4], |seed| async move {
        let sim = SimNet::new(seed);
        let mut net = Net::over_quic(sim.clone(), TREE).await;
        for (name, parent) in [("relay.site-1", "relay"), ("site-3", "server")] {
            let slow =
                LinkSettings { delay: Duration::from_millis(400), ..LinkSettings::default() };
            sim.set(net.host(name), net.host(parent), slow);
            let former = net.cell(name).clone();
            let leaving = actix_rt::spawn(async move { former.running.drain(BUDGET).await });
            net.advance(Duration::from_millis(5)).await;
            let next = net.start_copy(name, start(2, 20 + seed));
            let ready = next.running.wait_for(CellState::Ready);
            tokio::time::timeout(Duration::from_secs(3), ready).await.expect("the next start");
            assert!(leaving.await.expect("it does not panic"));
            sim.set(net.host(name), net.host(parent), LinkSettings::default());
            net.advance(Duration::from_secs(5)).await;
            assert!(holder(&net, name).await.is_some_and(|held| held.starts_with("2-")));
            assert_eq!(next.request("server", "cell/ping", "x").await.unwrap(), "x");
            assert!(next.running.drain(BUDGET).await);
            net.advance(Duration::from_secs(1)).await;
            assert_eq!(holder(&net, name).await, None);
            net.start_as_again(name, start(3, 30)).await;
        }
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_28_the_end_of_an_old_connection_does_not_touch_the_new_one_of_the_same_process() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4, 5, 6], |seed| async move {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), TREE).await;
        for (name, parent) in [("relay.site-1", "relay"), ("site-3", "server")] {
            // The child hears nothing and gives up; its close is lost, and it comes back at once.
            net.cut_one_way(parent, name);
            let gone = || async { net.cell(name).running.state() == CellState::Connecting };
            net.advance(Duration::from_millis(3000)).await;
            net.cut(name, parent);
            until("the child gives up", Duration::from_secs(3), gone).await;
            net.heal(name, parent);
            net.cell(name).running.wait_for(CellState::Ready).await;
            net.advance(Duration::from_secs(10)).await;
            assert!(holder(&net, name).await.is_some(), "{name} lost its record");
            let below = report(net.cell(parent)).await.registered;
            assert!(
                below.iter().any(|peer| peer.name == name && peer.direct),
                "{name} at {parent}"
            );
            assert_eq!(epoch(&net, name), 2);
        }
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_28_a_connection_that_ends_while_its_successor_registers_takes_no_record_with_it() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4, 5, 6, 7, 8], |seed| async move {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), TREE).await;
        let far = LinkSettings { delay: Duration::from_millis(1000), ..LinkSettings::default() };
        sim.set_both(net.host("relay"), net.host("server"), far);
        net.advance(Duration::from_secs(5)).await;
        net.cut_one_way("relay", "site-1");
        net.advance(Duration::from_millis(2900)).await;
        let gone = || async { net.cell("site-1").running.state() == CellState::Connecting };
        until("the relay is not heard", Duration::from_secs(3), || async {
            net.advance(Duration::from_millis(20)).await;
            net.cut("site-1", "relay");
            gone().await
        })
        .await;
        net.heal("site-1", "relay");
        net.cell("site-1").running.wait_for(CellState::Ready).await;
        net.advance(Duration::from_secs(20)).await;
        assert!(holder(&net, "relay.site-1").await.is_some(), "the record is gone");
        net.assert_tables().await;
        net.finish().await;
    });
}
