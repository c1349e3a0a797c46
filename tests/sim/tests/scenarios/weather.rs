//! Networks that lose, repeat, damage and reorder packets.

use std::time::Duration;

use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::for_each_seed,
    sim::{LinkSettings, SimNet},
};
use cellbus_sim::{
    figures::show,
    ledger::Work,
    load::Load,
    trees::{star, two_levels},
    views::{epoch, report},
};

const REQUESTS: usize = 10_000;
const BUDGET: Duration = Duration::from_secs(10);

#[test]
fn f_05_10_000_requests_through_bad_weather_are_each_executed_once() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), &two_levels(2, 4)).await;
        sim.set_default(LinkSettings {
            loss: 0.05,
            duplicate: 0.02,
            corrupt: 0.01,
            reorder: true,
            ..LinkSettings::default()
        });
        let load = Load::default();
        let cells: Vec<String> = net.names().iter().map(ToString::to_string).collect();
        for cell in &cells {
            load.ledger().serve(net.cell(cell), "task/ping", Work::AtOnce).await;
        }
        let before = sim.traffic();
        let sites: Vec<&String> = cells.iter().filter(|name| name.contains("site")).collect();
        for number in 0..REQUESTS {
            let from = sites[number % sites.len()];
            let to = &cells[(number / sites.len()) % cells.len()];
            load.send(net.cell(from), to, "task/ping", BUDGET);
            net.advance(Duration::from_millis(5)).await;
        }
        let verdict = load.verdict().await;
        show("F-05", seed, &verdict);
        show("F-05 packets", seed, format!("{:?} before {before:?}", sim.traffic()));
        assert_eq!(verdict.ok, REQUESTS, "{verdict}");
        assert_eq!(load.ledger().len(), REQUESTS);
        assert!(verdict.spans.percentile(99) <= Duration::from_secs(1), "{verdict}");
        for cell in cells.iter().filter(|cell| *cell != "server") {
            assert_eq!(epoch(&net, cell), 1, "{cell} lost its link");
        }
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn g_31_no_heartbeat_gives_a_false_alarm_in_ten_minutes_at_ten_percent_loss_each_way() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2], |seed| async move {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), &star(10)).await;
        let links = report(net.cell("server")).await.links;
        sim.set_default(LinkSettings { loss: 0.1, ..LinkSettings::default() });
        net.advance(Duration::from_secs(600)).await;
        let now = report(net.cell("server")).await.links;
        let ids = |links: &[cellbus_runtime::cell::LinkReport]| {
            links.iter().map(|link| link.link).collect::<Vec<_>>()
        };
        let traffic = sim.traffic();
        show("false alarms of 6,000 beats", seed, format!("0; {traffic:?}"));
        assert_eq!(ids(&now), ids(&links));
        for site in 1..=10 {
            assert_eq!(epoch(&net, &format!("site-{site}")), 1);
        }
        sim.set_default(LinkSettings::default());
        net.finish().await;
    });
}
