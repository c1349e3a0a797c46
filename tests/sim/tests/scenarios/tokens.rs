//! Session tokens over hours.

use std::{collections::BTreeSet, time::Duration};

use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::run_paused_within,
    sim::{LinkSettings, SimNet},
};
use cellbus_sim::{figures::show, ledger::Work, load::Load, views::epoch};

const TREE: &str = "server -> relay -> site-1 -> job-1; server -> job-1; server -> site-2";
const BUDGET: Duration = Duration::from_secs(10);
const HOURS: Duration = Duration::from_secs(2 * 3600);

#[test]
fn tokens_are_renewed_for_hours_and_nobody_registers_again() {
    let _log = LogGuard::start();
    for seed in [1, 2] {
        run_paused_within(2 * HOURS, seed, |seed| async move {
            let sim = SimNet::new(seed);
            let net = Net::over_quic(sim.clone(), TREE).await;
            if seed == 2 {
                sim.set_default(LinkSettings { loss: 0.02, ..LinkSettings::default() });
            }
            let load = Load::default();
            for name in ["server", "server.job-1", "site-2"] {
                load.ledger().serve(net.cell(name), "task/ping", Work::AtOnce).await;
            }
            let cells = ["relay", "relay.site-1", "relay.site-1.job-1", "site-2", "server.job-1"];
            let mut tokens = vec![BTreeSet::new(); cells.len()];
            let (job, site) = (net.cell("relay.site-1.job-1"), net.cell("relay.site-1"));
            for _ in 0..HOURS.as_secs() / 60 {
                net.advance(Duration::from_secs(60)).await;
                load.ask(site, "server", "task/ping", BUDGET).await;
                load.ask(job, "server.job-1", "task/ping", BUDGET).await;
                load.ask(net.cell("relay"), "site-2", "task/ping", BUDGET).await;
                for (seen, name) in tokens.iter_mut().zip(cells) {
                    let token = net.cell(name).running.own().token().expect("it is registered");
                    seen.insert(token.as_bytes().clone());
                }
            }
            let verdict = load.verdict().await;
            show("two hours", seed, &verdict);
            let used: Vec<usize> = tokens.iter().map(BTreeSet::len).collect();
            show("tokens", seed, format!("{cells:?} {used:?}"));
            assert_eq!(verdict.ok, 360, "{verdict}");
            // Half of 900 s is the age at which each is renewed.
            assert!(used.iter().all(|used| (15..=18).contains(used)), "{used:?}");
            assert!(cells.iter().all(|name| epoch(&net, name) == 1));
            net.assert_tables().await;
            net.finish().await;
        });
    }
}
