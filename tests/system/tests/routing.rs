//! Messages find their way, or come back and say why.

use std::time::Duration;

use cellbus_channels::{Class, Status};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};

const TREE: &str =
    "server -> relay -> site-1 -> job-1; relay -> site-2; server -> site-3; server -> job-1";

/// Runs `test` over links in memory, and over QUIC through a relay.
fn scenario<F: Future<Output = ()>>(test: impl Fn(Net) -> F) {
    let _log = LogGuard::start();
    run_paused(1, async |seed| test(Net::up(seed, TREE).await).await);
    run_paused(2, async |seed| test(Net::over_quic(SimNet::new(seed), TREE).await).await);
}

#[test]
fn a_request_reaches_any_cell_by_any_route() {
    scenario(|net| async move {
        for name in ["server", "relay", "site-1", "site-2", "site-3"] {
            net.cell(name).echoes("task/ping").await;
        }
        let cells = ["server", "relay", "relay.site-1", "relay.site-2", "site-3"];
        for from in cells {
            for to in cells {
                let reply = net.cell(from).request(to, "task/ping", from).await;
                assert_eq!(reply.as_deref().ok(), Some(from), "{from} -> {to}: {reply:?}");
            }
        }
        net.finish().await;
    });
}

#[test]
fn j_13_job_cells_talk_within_their_job_and_to_their_parent_only() {
    scenario(|net| async move {
        for name in ["server", "site-1", "site-2", "server.job-1"] {
            net.cell(name).echoes("task/ping").await;
        }
        let job = net.cell("relay.site-1.job-1");
        assert_eq!(job.request("server.job-1", "task/ping", "a").await.unwrap(), "a");
        assert_eq!(job.request("relay.site-1", "task/ping", "b").await.unwrap(), "b");
        for to in ["server", "relay.site-2"] {
            let refused = job.request(to, "task/ping", "c").await.unwrap_err();
            assert_eq!(refused.status(), Status::JobScope);
        }
        assert_eq!(net.cell("server").calls(), Vec::<String>::new());
        net.finish().await;
    });
}

#[test]
fn g_08_what_does_not_exist_is_refused_at_once_by_the_first_cell_that_knows() {
    scenario(|net| async move {
        let begun = tokio::time::Instant::now();
        let nowhere =
            net.cell("site-1").request("relay.site-9", "task/ping", "x").await.unwrap_err();
        assert_eq!((nowhere.status(), nowhere.by().unwrap().as_str()), (Status::NoRoute, "relay"));
        let nobody = net.cell("site-1").request("site-3", "task/ping", "x").await.unwrap_err();
        assert_eq!((nobody.status(), nobody.by().unwrap().as_str()), (Status::NoHandler, "site-3"));
        assert_eq!(nobody.class(), Class::Refused);
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        net.finish().await;
    });
}

#[test]
fn g_07_a_denied_request_is_answered_with_its_code_and_the_cell_that_refused() {
    scenario(|net| async move {
        net.cell("server").echoes("task/ping").await;
        let denied = net.cell("site-1").request("server", "ops/deploy", "v2").await.unwrap_err();
        assert_eq!(denied.status(), Status::TopicDenied);
        assert_eq!(denied.by().unwrap().as_str(), "relay.site-1");
        assert!(net.cell("server").calls().is_empty());
        net.finish().await;
    });
}

#[test]
fn g_04_a_request_ends_with_its_budget_and_its_late_reply_is_counted() {
    scenario(|net| async move {
        net.cell("server").echoes_after("task/slow", Duration::from_secs(3)).await;
        let begun = tokio::time::Instant::now();
        let late = net
            .cell("site-1")
            .request_within("server", "task/slow", "x", Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!((late.status(), late.class()), (Status::Deadline, Class::Unknown));
        assert!(begun.elapsed() <= Duration::from_millis(1250));
        net.finish().await;
    });
}

#[test]
fn a_cut_link_times_out_and_a_dead_one_returns() {
    scenario(|net| async move {
        net.cell("server").echoes("task/ping").await;
        net.cut("server", "relay");
        let silent = net
            .cell("site-1")
            .request_within("server", "task/ping", "x", Duration::from_secs(2))
            .await
            .unwrap_err();
        assert_eq!(silent.status(), Status::Deadline);
        net.advance(Duration::from_secs(5)).await;
        let dead = net.cell("site-1").request("server", "task/ping", "x").await.unwrap_err();
        assert_eq!((dead.status(), dead.by().unwrap().as_str()), (Status::NoRoute, "relay"));
        net.heal("server", "relay");
        net.advance(Duration::from_secs(15)).await;
        assert_eq!(net.cell("site-1").request("server", "task/ping", "y").await.unwrap(), "y");
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn a_broadcast_gives_one_outcome_for_every_cell() {
    scenario(|net| async move {
        for name in ["site-1", "site-2"] {
            net.cell(name).echoes("task/ping").await;
        }
        let to =
            ["relay.site-1", "relay.site-2", "site-3", "site-9"].map(|name| name.parse().unwrap());
        let target = "task/ping".parse().unwrap();
        let bus = net.cell("server").running.bus();
        let message = bus.multicast(to, target).payload("all").budget(Duration::from_secs(5));
        let outcomes = message.send().await.all().await;
        let ok = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
        assert_eq!((outcomes.len(), ok), (4, 2));
        net.finish().await;
    });
}

#[test]
fn a_publish_arrives_once_and_a_denied_one_is_told_at_once() {
    scenario(|net| async move {
        net.cell("server").echoes("notes/ping").await;
        let bus = net.cell("site-1").running.bus();
        let to: cellbus_channels::Fqcn = "server".parse().unwrap();
        bus.request(to.clone(), "notes/ping".parse().unwrap())
            .payload("n")
            .publish()
            .await
            .unwrap();
        assert!(bus.request(to, "ops/x".parse().unwrap()).publish().await.is_err());
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(net.cell("server").calls(), ["n"]);
        net.finish().await;
    });
}

#[test]
fn g_40_a_handler_that_panics_ends_its_own_request_and_nothing_else() {
    let log = LogGuard::start();
    log.expect("a handler panicked");
    log.expect_panic("asked to panic");
    run_paused(1, |seed| async move {
        let net = Net::up(seed, TREE).await;
        net.cell("server").panics_on("task/slow").await;
        net.cell("server").echoes("task/ping").await;
        let failed = net.cell("site-1").request("server", "task/slow", "x").await.unwrap_err();
        assert_eq!((failed.status(), failed.class()), (Status::HandlerPanic, Class::Unknown));
        assert_eq!(net.cell("site-1").request("server", "task/ping", "y").await.unwrap(), "y");
        net.finish().await;
    });
}

#[test]
fn s1_03_a_cell_that_says_bye_is_gone_from_every_table_at_once() {
    let _log = LogGuard::start();
    run_paused(1, |seed| async move {
        let mut net = Net::up(seed, "server -> relay -> site-1; relay -> site-2").await;
        net.drain("site-1").await;
        net.advance(Duration::from_millis(500)).await;
        let reports = net.inspect().await;
        let named = |cell: &str| {
            let report = &reports[cell];
            report.registered.iter().any(|peer| peer.name.contains("site-1"))
                || report.links.iter().any(|link| link.peer.contains("site-1"))
        };
        assert!(!named("relay") && !named("server"));
        net.finish().await;
    });
}

#[test]
fn a_request_that_was_passed_on_comes_back_when_a_link_further_on_is_lost() {
    scenario(|mut net| async move {
        net.cell("site-3").echoes_after("task/slow", Duration::from_secs(60)).await;
        let asker = net.cell("site-1").running.bus();
        let to = "site-3".parse().unwrap();
        let request =
            asker.request(to, "task/slow".parse().unwrap()).budget(Duration::from_secs(50));
        let asked = tokio::time::Instant::now();
        let waiting = actix_rt::spawn(request.send());
        net.advance(Duration::from_millis(500)).await;
        assert_eq!(net.cell("site-3").calls().len(), 1, "it was executed");
        net.crash("site-3").await;
        let lost = waiting.await.unwrap().unwrap_err();
        assert_eq!((lost.status(), lost.class()), (Status::PeerLost, Class::Unknown));
        assert_eq!(lost.by().unwrap().as_str(), "server", "the cell that lost the link");
        assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
        net.finish().await;
    });
}
