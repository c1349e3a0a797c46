//! A tree as deep as trees get.

use std::time::Duration;

use cellbus_harness::{guard::LogGuard, net::Net, seeds::for_each_seed, sim::SimNet};
use cellbus_sim::{
    figures::show,
    ledger::Work,
    load::Load,
    views::{epoch, report, until},
};

const TREE: &str = "server -> r1 -> r2 -> r3 -> site -> job-1; server -> job-1; r2 -> side";
const SITE: &str = "r1.r2.r3.site";
const JOB: &str = "r1.r2.r3.site.job-1";
const BUDGET: Duration = Duration::from_secs(10);

/// Everybody who may talks to everybody who may listen.
async fn talk(net: &Net, load: &Load) {
    for (from, to) in [
        (SITE, "server"),
        ("server", SITE),
        ("r1.r2.side", SITE),
        (SITE, "r1.r2.side"),
        (JOB, "server.job-1"),
        (JOB, SITE),
        ("server.job-1", JOB),
    ] {
        load.ask(net.cell(from), to, "task/ping", BUDGET).await;
    }
}

async fn serve(net: &Net, load: &Load, names: &[&str]) {
    for name in names {
        load.ledger().serve(net.cell(name), "task/ping", Work::AtOnce).await;
    }
}

#[test]
fn a_deep_tree_outlives_its_relays_and_its_server() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let mut net = Net::over_quic(SimNet::new(seed), TREE).await;
        let load = Load::default();
        serve(&net, &load, &["server", "server.job-1", SITE, JOB, "r1.r2.side"]).await;
        talk(&net, &load).await;
        let before = load.verdict().await;
        show("deep tree", seed, &before);
        assert_eq!(before.ok, before.len(), "{before}");

        net.crash("r1").await;
        load.send(net.cell(SITE), "server", "task/ping", BUDGET);
        net.advance(Duration::from_secs(2)).await;
        net.restart("r1");
        let again = || async { epoch(&net, JOB) == 2 };
        let took = until("the job is registered again", Duration::from_secs(20), again).await;
        show("deep tree after r1", seed, format!("{took:?}"));
        net.advance(Duration::from_secs(2)).await;
        talk(&net, &load).await;

        net.crash("server").await;
        net.advance(Duration::from_secs(1)).await;
        net.restart("server");
        serve(&net, &load, &["server"]).await;
        let again = || async { epoch(&net, JOB) == 3 };
        let took = until("the job is registered again", Duration::from_secs(20), again).await;
        show("deep tree after the server", seed, format!("{took:?}"));
        net.wait_ready(Duration::from_secs(20)).await;
        net.advance(Duration::from_secs(2)).await;
        talk(&net, &load).await;

        let verdict = load.verdict().await;
        show("deep tree", seed, &verdict);
        assert!(verdict.ok >= 21, "{verdict}");
        assert_eq!(report(net.cell("server")).await.registered.len(), 7);
        net.assert_tables().await;
        net.finish().await;
    });
}
