//! The signed roster: cells come and go while all others work.

use super::*;

/// Nine sites, three of them behind relays, and a tenth that nobody knows yet.
const TEN: &str = "server -> relay-a -> site-1; relay-a -> site-2; server -> relay-b -> site-3; \
    server -> site-4; server -> site-5; server -> site-6; server -> site-7; server -> site-8; \
    server -> site-9; relay-a -> site-10";

async fn prepared(is_quic: bool, seed: u64) -> Net {
    let sim = is_quic.then(|| SimNet::new(seed));
    let mut net = Net::prepared(seed, TEN, sim, cellbus_harness::net::Settings::default());
    for name in net.names() {
        if name.base() != "site-10" {
            net.start(name.as_str());
        }
    }
    net.wait_ready(Duration::from_secs(60)).await;
    net
}

#[test]
fn v_18_a_tenth_site_joins_while_nine_are_working() {
    for is_quic in [false, true] {
        let log = LogGuard::start();
        log.expect("link closed");
        run_paused(1, async |seed| {
            let mut net = prepared(is_quic, seed).await;
            net.cell("server").echoes("task/ping").await;
            net.give("server", &net.roster(1, &["site-10"])).await.unwrap();
            net.advance(SECOND).await;
            for name in net.names().iter().filter(|name| name.base() != "site-10") {
                assert_eq!(version(&net, name.as_str(), ListKind::Roster), 1, "{name}");
            }
            let linked: Vec<u64> = since(&net).await;

            net.start("site-10");
            net.advance(Duration::from_secs(20)).await;
            assert!(refused(&net, "relay-a").await["NOT_DIRECT"] > 0, "nobody knows it");
            assert_eq!(
                links(&net, "relay-a").await,
                ["relay-a.site-1", "relay-a.site-2", "server"]
            );

            let mut answered = 0;
            let nine: Vec<String> = (1..10).map(|number| format!("site-{number}")).collect();
            net.give("server", &net.roster(2, &[])).await.unwrap();
            while !links(&net, "relay-a").await.contains(&"relay-a.site-10".to_owned()) {
                for site in &nine {
                    net.cell(site).request("server", "task/ping", site).await.unwrap();
                    answered += 1;
                }
                net.advance(Duration::from_millis(100)).await;
            }
            net.wait_ready(Duration::from_secs(60)).await;
            assert!(answered >= 9, "all nine worked meanwhile");
            assert_eq!(
                net.cell("site-10").request("server", "task/ping", "10").await.unwrap(),
                "10"
            );
            // With the first echo at the latest it hears that there is a roster.
            net.advance(Duration::from_secs(3)).await;
            assert_eq!(version(&net, "site-10", ListKind::Roster), 2);
            let after: Vec<u64> = since(&net).await;
            let restarted = linked.iter().filter(|at| !after.contains(at)).count();
            assert_eq!(restarted, 0, "no link of the nine was made again");
            net.finish().await;
        });
    }
}

/// The numbers of all links but those of `site-10`.
async fn since(net: &Net) -> Vec<u64> {
    let reports = net.inspect().await;
    let links = reports.values().flat_map(|report| &report.links);
    links.filter(|link| !link.peer.ends_with("site-10")).map(|link| link.link).collect()
}

#[test]
fn p_10_a_cell_that_the_next_roster_leaves_out_is_out_and_an_old_roster_does_not_bring_it_back() {
    scenario(
        |log| {
            refusals(log);
            log.expect("signed list was refused");
        },
        |net| async move {
            net.cell("server").echoes("task/ping").await;
            net.give("server", &net.roster(1, &[])).await.unwrap();
            net.advance(SECOND).await;
            net.assert_tables().await;
            net.give("server", &net.roster(2, &["site-1"])).await.unwrap();
            net.advance(SECOND).await;
            assert_out(&net, "NOT_DIRECT").await;
            let refused = net.give("server", &net.roster(1, &[])).await.unwrap_err();
            assert!(matches!(refused, ChangeRefused::Refused(_)));
            net.advance(Duration::from_secs(30)).await;
            assert_eq!(links(&net, "relay").await, ["relay.site-2", "server"]);
            net.finish().await;
        },
    );
}

#[test]
fn a_roster_that_moves_a_cell_is_not_taken_over_by_it() {
    scenario(
        |log| log.expect("signed list was refused"),
        |net| async move {
            let mut moved = net.roster(1, &[]);
            let relay = moved.cells.iter_mut().find(|cell| cell.name.as_str() == "site-3").unwrap();
            relay.parent = Some("relay".parse().unwrap());
            assert!(net.give("site-3", &moved).await.is_err());
            assert_eq!(version(&net, "site-3", ListKind::Roster), 0);
            net.finish().await;
        },
    );
}
