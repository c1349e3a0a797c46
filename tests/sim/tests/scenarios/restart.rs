//! Cells that are killed, and come back.

use std::time::Duration;

use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::for_each_seed,
    sim::{LinkSettings, SimNet},
};
use cellbus_sim::{
    figures::{Spans, show},
    ledger::Work,
    load::Load,
    trees::{star, two_levels},
    views::{epoch, registrations, report, until},
};

const CLIENTS: usize = 200;
const BUDGET: Duration = Duration::from_secs(10);

fn ms(span: u64) -> Duration {
    Duration::from_millis(span)
}

async fn answers(load: &Load, net: &Net, name: &str) {
    load.ledger().serve(net.cell(name), "task/ping", Work::AtOnce).await;
    load.ledger().serve(net.cell(name), "task/slow", Work::Lasting(ms(400))).await;
}

/// The server of 200 clients is killed with requests of all of them in flight, and is back after a second.
async fn the_server_of_200_is_killed(seed: u64, loss: f64) -> Spans {
    let sim = SimNet::new(seed);
    sim.set_default(LinkSettings { loss, ..LinkSettings::default() });
    let mut net = Net::over_quic(sim, &star(CLIENTS)).await;
    let names: Vec<String> = (1..=CLIENTS).map(|site| format!("site-{site}")).collect();
    let load = Load::default();
    answers(&load, &net, "server").await;
    for name in &names {
        load.send(net.cell(name), "server", "task/slow", BUDGET);
        load.send(net.cell(name), "server", "task/ping", BUDGET);
    }
    net.advance(ms(200)).await;
    for name in &names {
        load.send(net.cell(name), "server", "task/ping", BUDGET);
    }
    net.advance(ms(5)).await;
    net.crash("server").await;
    for name in &names {
        load.send(net.cell(name), "server", "task/ping", BUDGET);
    }
    net.advance(Duration::from_secs(1)).await;
    net.restart("server");
    answers(&load, &net, "server").await;
    let took = registrations(net.cell("server"), &names, Duration::from_secs(30)).await;
    net.wait_ready(Duration::from_secs(1)).await;
    for name in &names {
        load.send(net.cell(name), "server", "task/ping", BUDGET);
    }
    let verdict = load.verdict().await;
    show("F-01 requests", seed, &verdict);
    let after = verdict.outcomes.iter().rev().take(CLIENTS);
    assert!(after.into_iter().all(|outcome| outcome.result.is_ok()), "{verdict}");
    assert!(verdict.unknown > 0, "requests were in flight when the server was killed");
    net.assert_tables().await;
    net.finish().await;
    took.into_iter().collect()
}

#[test]
fn f_01_200_clients_of_a_killed_server_are_back_within_five_seconds() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let back = the_server_of_200_is_killed(seed, 0.0).await;
        show("F-01 registered again", seed, &back);
        assert!(back.percentile(50) <= ms(2500), "{back}");
        assert!(back.max() < Duration::from_secs(5), "{back}");
    });
}

#[test]
fn f_01_200_clients_of_a_killed_server_are_back_within_ten_seconds_at_five_percent_loss() {
    let _log = LogGuard::start();
    for_each_seed(&[4, 5, 6], |seed| async move {
        let back = the_server_of_200_is_killed(seed, 0.05).await;
        show("F-01 registered again at 5 % loss", seed, &back);
        assert!(back.percentile(99) < Duration::from_secs(5), "{back}");
        assert!(back.max() < Duration::from_secs(10), "{back}");
    });
}

/// Whether `cell` has a link to a parent that was started for the `counter`th time.
async fn knows_start(net: &Net, cell: &str, counter: u64) -> bool {
    let start = format!("{counter}-");
    let links = report(net.cell(cell)).await.links;
    links.iter().any(|link| link.is_parent && link.incarnation.starts_with(&start))
}

#[test]
fn f_02_nobody_keeps_a_server_that_was_restarted_within_100_ms() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4, 5, 6, 7, 8], |seed| async move {
        let tree = two_levels(2, 3) + "server -> site-7; server -> site-8; server -> site-9";
        let mut net = Net::over_quic(SimNet::new(seed), &tree).await;
        let load = Load::default();
        answers(&load, &net, "server").await;
        let direct = ["relay-1", "relay-2", "site-7", "site-8", "site-9"];
        let leaves: Vec<String> = (1..=6).map(|site| format!("site-{site}")).collect();
        let links: Vec<_> = leaves_links(&net, &leaves).await;
        let former = net.cell("site-7").running.own().token();
        net.advance(ms(500 + seed * 130)).await;
        for leaf in &leaves {
            load.send(net.cell(leaf), "server", "task/slow", BUDGET);
        }
        net.advance(ms(30)).await;
        net.crash("server").await;
        net.advance(ms(20 + seed * 10)).await;
        net.restart("server");
        answers(&load, &net, "server").await;

        let begun = tokio::time::Instant::now();
        let mut behind = Vec::new();
        for cell in direct {
            let limit = Duration::from_secs(4);
            until("the new start is known", limit, || knows_start(&net, cell, 2)).await;
            behind.push(begun.elapsed());
        }
        show("F-02 the new start is known", seed, behind.into_iter().collect::<Spans>());
        for leaf in &leaves {
            let again = || async { epoch(&net, leaf) == 2 };
            until("a leaf follows the echo", Duration::from_secs(3), again).await;
        }
        show("F-02 leaves registered again", seed, format!("{:?}", begun.elapsed()));
        assert_eq!(
            leaves_links(&net, &leaves).await,
            links,
            "leaves register on the link they had"
        );

        let own = net.cell("site-7").running.own();
        let present = own.token();
        assert_ne!(present, former);
        own.set_token(former);
        let refused =
            net.cell("site-7").request("server", "task/ping", "old-token").await.unwrap_err();
        assert_eq!(refused.status().code(), "TOKEN_REVOKED");
        assert_eq!(load.ledger().executions("old-token"), 0);
        own.set_token(present);

        for cell in direct.into_iter().chain(leaves.iter().map(String::as_str)) {
            load.ask(net.cell(cell), "server", "task/ping", BUDGET).await;
            assert_eq!(epoch(&net, cell), 2, "{cell} registered again once");
        }
        let verdict = load.verdict().await;
        show("F-02 requests", seed, &verdict);
        assert!(verdict.ok >= direct.len() + leaves.len(), "{verdict}");
        net.assert_tables().await;
        net.finish().await;
    });
}

async fn leaves_links(net: &Net, leaves: &[String]) -> Vec<u64> {
    let mut links = Vec::new();
    for leaf in leaves {
        links.extend(report(net.cell(leaf)).await.links.iter().map(|link| link.link));
    }
    links
}

#[test]
fn f_06_the_leaves_of_a_killed_relay_are_back_within_five_seconds_and_nobody_else_notices() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let tree = two_levels(1, 20) + "server -> site-21; server -> site-22";
        let mut net = Net::over_quic(SimNet::new(seed), &tree).await;
        let load = Load::default();
        answers(&load, &net, "server").await;
        let leaves: Vec<String> = (1..=20).map(|site| format!("relay-1.site-{site}")).collect();
        for leaf in &leaves {
            load.send(net.cell(leaf), "server", "task/slow", BUDGET);
        }
        net.advance(ms(100)).await;
        net.crash("relay-1").await;
        for _ in 0..10 {
            load.ask(net.cell("site-21"), "server", "task/ping", BUDGET).await;
            load.send(net.cell("site-3"), "server", "task/ping", BUDGET);
            net.advance(ms(50)).await;
        }
        net.restart("relay-1");
        let begun = tokio::time::Instant::now();
        let mut back = Vec::new();
        for leaf in &leaves {
            let again = || async { epoch(&net, leaf) == 2 };
            until("a leaf is registered again", Duration::from_secs(5), again).await;
            back.push(begun.elapsed());
        }
        let back: Spans = back.into_iter().collect();
        show("F-06 registered again", seed, &back);
        assert!(back.max() <= Duration::from_secs(5), "{back}");
        net.wait_ready(Duration::from_secs(1)).await;
        for leaf in &leaves {
            load.ask(net.cell(leaf), "server", "task/ping", BUDGET).await;
        }
        let verdict = load.verdict().await;
        show("F-06 requests", seed, &verdict);
        let siblings = verdict.spans_of(|outcome| outcome.from == "site-21");
        assert_eq!(siblings.len(), 10);
        assert!(siblings.max() < ms(50), "{siblings}");
        assert_eq!(epoch(&net, "site-21") + epoch(&net, "site-22"), 2);
        net.assert_tables().await;
        net.finish().await;
    });
}
