//! Rules that change under running cells: what is on its way, what comes next, and cells that start again.

use std::time::Duration;

use cellbus_channels::{RequestError, Status};
use cellbus_harness::{
    guard::LogGuard,
    net::{Net, open_policy},
    seeds::run_paused,
    sim::SimNet,
};
use cellbus_proto::policy::{Direction, Rule};

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";

/// Runs `test` over links in memory, and over QUIC through a relay.
fn scenario<F: Future<Output = ()>>(test: impl Fn(Net) -> F) {
    let _log = LogGuard::start();
    run_paused(1, async |seed| test(Net::up(seed, TREE).await).await);
    run_paused(2, async |seed| test(Net::over_quic(SimNet::new(seed), TREE).await).await);
}

fn detail(error: &RequestError) -> String {
    let RequestError::Returned { detail, .. } = error else { panic!("not returned: {error}") };
    String::from_utf8_lossy(detail).into_owned()
}

#[test]
fn what_is_being_worked_on_is_answered_and_the_next_one_is_refused_before_it_leaves() {
    scenario(|mut net| async move {
        net.cell("site-2").echoes_after("task/slow", Duration::from_secs(2)).await;
        let asking = net.cell("site-1").clone();
        let early = tokio::task::spawn_local(async move {
            asking.request("relay.site-2", "task/slow", "early").await
        });
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(net.cell("site-2").calls(), ["early"], "it is being worked on");

        net.set_policy(Vec::new());
        let refused = net.cell("site-1").request("relay.site-2", "task/slow", "late").await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.status(), Status::TopicDenied);
        assert_eq!(refused.by().map(|by| by.as_str()), Some("relay.site-1"));
        assert_eq!(detail(&refused), "no rule of revision 2 allows it");
        assert_eq!(early.await.unwrap().as_deref().ok(), Some("early"));
        assert_eq!(net.cell("site-2").calls(), ["early"], "the late one has reached nobody");

        net.set_policy(open_policy());
        let reply = net.cell("site-1").request("relay.site-2", "task/slow", "again").await;
        assert_eq!(reply.as_deref().ok(), Some("again"));
        net.finish().await;
    });
}

#[test]
fn a_direction_holds_on_every_route() {
    scenario(|mut net| async move {
        for name in ["server", "relay", "site-1", "site-2", "site-3"] {
            net.cell(name).echoes("task/ping").await;
        }
        let only = |direction| -> Vec<Rule> {
            let rules = open_policy().into_iter();
            rules.map(|rule| Rule { direction: Some(direction), ..rule }).collect()
        };
        let routes = [
            ("site-1", "server", Direction::Up),
            ("site-1", "relay", Direction::Up),
            ("server", "relay.site-2", Direction::Down),
            ("server", "site-3", Direction::Down),
            ("relay", "relay.site-1", Direction::Down),
            ("site-1", "relay.site-2", Direction::Across),
            ("site-1", "site-3", Direction::Across),
            ("site-3", "relay", Direction::Across),
        ];
        for direction in [Direction::Up, Direction::Down, Direction::Across] {
            net.set_policy(only(direction));
            for (from, to, way) in routes {
                let outcome = net.cell(from).request(to, "task/ping", "x").await;
                let status = outcome.map_err(|error| error.status()).map(|_| ());
                let wanted = if way == direction { Ok(()) } else { Err(Status::TopicDenied) };
                assert_eq!(status, wanted, "{from} -> {to}, where only {direction} may pass");
            }
        }
        net.finish().await;
    });
}

#[test]
fn a_cell_that_starts_again_by_itself_keeps_the_rules_that_hold() {
    let log = LogGuard::start();
    log.expect("an actor ended; the cell starts again");
    run_paused(1, |seed| async move {
        let mut net = Net::up(seed, TREE).await;
        net.cell("server").echoes("task/ping").await;
        net.set_policy(Vec::new());
        net.cell("server").running.policy_in_force().await;
        net.cell("site-3").running.crash_filter();
        net.advance(Duration::from_secs(5)).await;
        net.wait_ready(Duration::from_secs(60)).await;
        let refused = net.cell("site-3").request("server", "task/ping", "x").await.unwrap_err();
        assert_eq!(refused.status(), Status::TopicDenied);
        assert_eq!(refused.by().map(|by| by.as_str()), Some("site-3"), "by its own gate");
        assert_eq!(detail(&refused), "no rule of revision 2 allows it");
    });
    drop(log);
}
