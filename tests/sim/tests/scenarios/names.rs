//! Who holds a name: copies, restarts, byes that come late and cells that have left.

use std::{net::SocketAddr, time::Duration};

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
    figures::{Spans, show},
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
fn f_27_a_copy_is_refused_whatever_its_start_and_the_holder_notices_nothing() {
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
            for copy in [start(5, 51), start(4, 52), start(6, 53)] {
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

/// Where the `number`th copy of this test is on the simulated network, counted from one.
fn copy_host(number: u16) -> SocketAddr {
    let [high, low] = (30_000 + number).to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 4433))
}

fn parent_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("server", |(parent, _)| parent)
}

#[test]
fn g_35_a_cell_is_killed_and_back_within_three_seconds_as_often_as_it_is_killed() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        let mut took = Vec::new();
        for name in ["relay.site-1", "site-3"] {
            for kill in 2..=6 {
                net.advance(Duration::from_millis(1370)).await;
                net.crash(name).await;
                net.restart(name);
                let begun = Instant::now();
                net.cell(name).running.wait_for(CellState::Ready).await;
                took.push(begun.elapsed());
                let held = holder(&net, name).await;
                assert!(held.is_some_and(|held| held.starts_with(&format!("{kill}-"))), "{name}");
                let pong = net.cell("server").request(name, "cell/ping", "x").await;
                assert_eq!(pong.unwrap(), "x", "{name} is reached where it is now");
            }
        }
        let took: Spans = took.into_iter().collect();
        show("G-35 killed and back", seed, &took);
        assert!(took.max() < Duration::from_secs(3), "{took}");
        net.advance(Duration::from_secs(6)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn f_27_a_holder_that_does_not_answer_is_replaced_and_stays_away_when_it_is_back() {
    let log = LogGuard::start();
    log.expect("another process holds");
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        for name in ["relay.site-1", "site-3"] {
            net.cut(name, parent_of(name));
            let copy = net.start_copy(name, start(9, 90));
            let ready = copy.running.wait_for(CellState::Ready);
            tokio::time::timeout(Duration::from_secs(3), ready).await.expect("the other one");
            net.heal(name, parent_of(name));
            let former = || async { net.cell(name).running.state() == CellState::Connecting };
            until("the former has no link", Duration::from_secs(5), former).await;
            net.advance(Duration::from_secs(60)).await;
            assert!(former().await, "{name} is back though another one answers");
            assert!(holder(&net, name).await.is_some_and(|held| held.starts_with("9-")));
            assert!(copy.running.state() == CellState::Ready, "the holder is undisturbed");
            assert_eq!(copy.running.own().epoch(), 1);
            assert!(copy.running.drain(BUDGET).await);
            net.cell(name).running.wait_for(CellState::Ready).await;
        }
        net.wait_ready(Duration::from_secs(60)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn g_35_of_two_that_live_and_take_turns_the_third_return_is_refused_for_ten_minutes() {
    let log = LogGuard::start();
    log.expect("another process holds");
    log.expect("take turns with a name");
    for_each_seed(&[1, 2], |seed| async move {
        let sim = SimNet::new(seed);
        let mut net = Net::over_quic(sim.clone(), TREE).await;
        for (number, name) in [(1, "relay.site-1"), (2, "site-3")] {
            let parent = parent_of(name).to_owned();
            let other = net.start_copy(name, start(9, 90));
            let copy_is_cut = |cut: bool| {
                let (copy, parent) = (copy_host(number), net.host(&parent));
                if cut { sim.cut(copy, parent) } else { sim.heal(copy, parent) }
            };
            let takes = async |start: &str| {
                let held = || async {
                    holder(&net, name).await.is_some_and(|held| held.starts_with(start))
                };
                until("it takes the name", Duration::from_secs(60), held).await;
            };
            net.cut(name, &parent);
            takes("9-").await;
            for returns in 1..=2 {
                let (mine, theirs) = if returns == 1 { ("1-", "9-") } else { ("9-", "1-") };
                copy_is_cut(returns == 1);
                if returns == 1 {
                    net.heal(name, &parent)
                } else {
                    net.cut(name, &parent)
                }
                takes(mine).await;
                copy_is_cut(false);
                net.advance(Duration::from_secs(40)).await;
                let held = holder(&net, name).await;
                assert!(held.is_some_and(|held| !held.starts_with(theirs)), "{returns}");
            }
            net.heal(name, &parent);
            copy_is_cut(true);
            let closed = Instant::now();
            while closed.elapsed() < Duration::from_secs(300) {
                net.advance(Duration::from_secs(1)).await;
                assert!(
                    net.cell(name).running.state() < CellState::Ready,
                    "{name}: a third return"
                );
            }
            copy_is_cut(false);
            takes("9-").await;
            assert!(other.running.drain(BUDGET).await);
            // Ten minutes after it the name is like any other.
            net.advance(Duration::from_secs(600)).await;
            net.cell(name).running.wait_for(CellState::Ready).await;
        }
        net.advance(Duration::from_secs(3)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn s1_14_a_cell_that_leaves_and_comes_back_all_the_time_waits_and_nobody_else_notices() {
    let log = LogGuard::start();
    log.expect("leaves and comes back too often");
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        let load = Load::default();
        load.ledger().serve(net.cell("server"), "task/ping", Work::AtOnce).await;
        for (name, parent) in [("relay.site-1", "relay"), ("site-3", "server")] {
            let refused =
                |net: &Net| net.cell(parent).running.own().counters.refused(Status::RateLimit);
            for _ in 1..=5 {
                net.drain(name).await;
                net.start(name);
                net.wait_ready(Duration::from_secs(1)).await;
            }
            assert_eq!(refused(&net), 0, "five returns are allowed");
            net.drain(name).await;
            net.start(name);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(40) {
                net.advance(Duration::from_secs(1)).await;
                assert!(net.cell(name).running.state() < CellState::Ready, "{name} is back");
                for other in ["relay.site-2", "relay"] {
                    load.ask(net.cell(other), "server", "task/ping", BUDGET).await;
                }
            }
            assert_eq!(holder(&net, name).await, None);
            assert!((1..=6).contains(&refused(&net)), "{}", refused(&net));
            net.wait_ready(Duration::from_secs(40)).await;
            assert_eq!(epoch(&net, "relay.site-2"), 1);
        }
        let verdict = load.verdict().await;
        show("S1-14 the others", seed, &verdict);
        assert_eq!(verdict.ok, verdict.len(), "{verdict}");
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
