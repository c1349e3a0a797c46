//! Records are made by registration and by nothing else, whatever else happens and in whatever order.

use std::time::Duration;

use cellbus_harness::{
    guard::LogGuard,
    net::{Net, Settings},
    seeds::{for_each_seed, run_paused, run_paused_within},
};

const TREE: &str = "server -> relay -> site-1; server -> site-2";
/// One behind a relay, one directly below the server.
const CELLS: [&str; 2] = ["relay.site-1", "site-2"];

/// What may happen to a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Beats,
    Quit,
    Unlink,
    Kill,
    Bye,
}

const EVENTS: [Event; 5] = [Event::Beats, Event::Quit, Event::Unlink, Event::Kill, Event::Bye];
const LENGTH: u32 = 4;

async fn holder(net: &Net, at: &str, name: &str) -> Option<String> {
    let report = net.cell(at).running.inspect().await.expect("it runs");
    report.registered.into_iter().find(|peer| peer.name == name).map(|peer| peer.incarnation)
}

async fn happen(net: &mut Net, event: Event, name: &str) {
    let parent = if name == "site-2" { "server" } else { "relay" };
    match event {
        Event::Beats => net.advance(Duration::from_secs(3)).await,
        Event::Quit => {
            // Whoever has quit already is told that its token is revoked.
            let _ = net.cell(name).request("server", "cell/quit", "").await;
        }
        Event::Unlink => {
            net.unlink(name, parent);
            net.advance(Duration::from_secs(2)).await;
        }
        Event::Kill => {
            net.crash(name).await;
            net.advance(Duration::from_secs(6)).await;
            net.restart(name);
            net.advance(Duration::from_secs(1)).await;
        }
        Event::Bye => {
            net.drain(name).await;
            assert_eq!(holder(net, "server", name).await, None, "it said bye");
            net.restart(name);
            net.advance(Duration::from_secs(1)).await;
        }
    }
}

#[test]
fn f_28_in_every_order_of_events_a_record_is_there_only_if_a_registration_came_last() {
    let _log = LogGuard::start();
    run_paused_within(Duration::from_secs(48 * 3600), 1, |seed| async move {
        let mut settings = Settings::default();
        settings.cell.returns_per_minute = 1000;
        let mut net = Net::prepared(seed, TREE, None, settings);
        net.start_all().await;
        for number in 0..EVENTS.len().pow(LENGTH) {
            let order: Vec<Event> = (0..LENGTH)
                .map(|digit| EVENTS[number / EVENTS.len().pow(digit) % EVENTS.len()])
                .collect();
            for name in CELLS {
                let mut registered = true;
                for event in &order {
                    happen(&mut net, *event, name).await;
                    registered = match event {
                        Event::Beats => registered,
                        Event::Quit => false,
                        Event::Unlink | Event::Kill | Event::Bye => true,
                    };
                    let held = holder(&net, "server", name).await;
                    assert_eq!(held.is_some(), registered, "{name} after {event:?} of {order:?}");
                    let pong = net.cell(name).request("server", "cell/ping", "x").await;
                    assert_eq!(
                        pong.is_ok(),
                        registered,
                        "{name} after {event:?} of {order:?}: {pong:?}"
                    );
                    if registered {
                        let own = net.cell(name).running.own().incarnation;
                        let wanted = format!("{}-{:016x}", own.counter, own.nonce);
                        assert_eq!(held, Some(wanted), "{name} after {event:?} of {order:?}");
                    }
                }
                if !registered {
                    happen(&mut net, Event::Unlink, name).await;
                }
            }
        }
        net.advance(Duration::from_secs(2)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn g_33_a_process_that_is_killed_and_back_at_once_takes_its_name_over() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::up(seed, TREE).await;
        for name in CELLS {
            for counter in 2..=3 {
                net.crash(name).await;
                net.restart(name);
                // Its predecessor has two seconds to answer.
                net.wait_ready(Duration::from_secs(3)).await;
                let held = holder(&net, "server", name).await.expect("it is registered");
                assert!(held.starts_with(&format!("{counter}-")), "{name}: {held}");
                let pong = net.cell("server").request(name, "cell/ping", "x").await;
                assert_eq!(pong.unwrap(), "x", "{name} is reached where it is now");
                net.advance(Duration::from_secs(6)).await;
                assert!(
                    holder(&net, "server", name).await.is_some(),
                    "{name}: the old link took it"
                );
            }
        }
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn a_cell_whose_registration_is_gone_registers_again_before_its_token_ends() {
    let _log = LogGuard::start();
    run_paused(1, |seed| async move {
        let mut settings = Settings::default();
        settings.cell.token_life_s = 60;
        settings.endpoint.link.renew_after = Duration::from_secs(30);
        let mut net = Net::prepared(seed, TREE, None, settings);
        net.start_all().await;
        for name in CELLS {
            net.cell(name).request("server", "cell/quit", "").await.expect("it is registered");
            assert_eq!(net.cell(name).running.own().epoch(), 1);
        }
        net.advance(Duration::from_secs(34)).await;
        for name in CELLS {
            assert_eq!(net.cell(name).running.own().epoch(), 2, "{name} did not register again");
            assert!(holder(&net, "server", name).await.is_some());
            assert_eq!(net.cell(name).request("server", "cell/ping", "x").await.unwrap(), "x");
        }
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn a_renewal_that_the_server_cannot_be_asked_for_is_tried_again() {
    let _log = LogGuard::start();
    run_paused(1, |seed| async move {
        let mut settings = Settings::default();
        settings.cell.token_life_s = 60;
        settings.endpoint.link.renew_after = Duration::from_secs(30);
        let mut net = Net::prepared(seed, TREE, None, settings);
        net.start_all().await;
        let before = net.cell("site-1").running.own().token();
        // The relay loses its token for the moment of the renewal: its own requests are refused.
        let relay = net.cell("relay").running.own();
        net.advance(Duration::from_millis(27_500)).await;
        let token = relay.token();
        relay.set_token(None);
        net.advance(Duration::from_secs(8)).await;
        if relay.token().is_none() {
            relay.set_token(token);
        }
        net.advance(Duration::from_secs(15)).await;
        assert_ne!(net.cell("site-1").running.own().token(), before, "no new token");
        for _ in 0..60 {
            net.advance(Duration::from_secs(2)).await;
            assert_eq!(net.cell("site-1").request("server", "cell/ping", "x").await.unwrap(), "x");
        }
        assert_eq!(net.cell("site-1").running.own().epoch(), 1, "nobody had to register again");
        net.finish().await;
    });
}
