//! Links end when they are dead, come back when they can, and the tables say so.

use std::{collections::BTreeSet, time::Duration};

use cellbus_harness::{
    guard::LogGuard,
    net::Net,
    seeds::{for_each_seed, run_paused_within},
};

const TREE: &str = "server -> r1 -> s1; r1 -> s2; server -> r2 -> s3; server -> s4";
/// Every link, child first.
const LINKS: [(&str, &str); 6] = [
    ("r1", "server"),
    ("r2", "server"),
    ("s4", "server"),
    ("r1.s1", "r1"),
    ("r1.s2", "r1"),
    ("r2.s3", "r2"),
];
const CELLS: [&str; 7] = ["server", "r1", "r2", "s4", "r1.s1", "r1.s2", "r2.s3"];

/// What of a link is lost.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Both,
    Up,
    Down,
}

impl Cut {
    fn apply(self, net: &Net, (child, parent): (&str, &str)) {
        match self {
            Self::Both => net.cut(child, parent),
            Self::Up => net.cut_one_way(child, parent),
            Self::Down => net.cut_one_way(parent, child),
        }
    }
}

/// The links that the cells have, child first; both ends of each have it.
async fn links(net: &Net) -> BTreeSet<(String, String)> {
    let (mut up, mut down) = (BTreeSet::new(), BTreeSet::new());
    for (cell, report) in net.inspect().await {
        for link in report.links {
            if link.is_parent {
                up.insert((cell.clone(), link.peer));
            } else {
                down.insert((link.peer, cell.clone()));
            }
        }
    }
    assert_eq!(up, down, "children and parents disagree");
    up
}

async fn everybody_reaches_everybody(net: &Net) {
    for from in CELLS {
        for to in CELLS {
            let pong = net.cell(from).request(to, "cell/ping", "x").await;
            assert!(pong.is_ok(), "{from} -> {to}: {pong:?}");
        }
    }
}

#[test]
fn f_14_after_every_cut_of_one_or_two_links_the_tables_are_those_of_the_topology() {
    let _log = LogGuard::start();
    let limit = Duration::from_secs(6 * 3600);
    run_paused_within(limit, 1, |seed| async move {
        let net = Net::up(seed, TREE).await;
        let all: BTreeSet<(String, String)> =
            LINKS.iter().map(|(child, parent)| (child.to_string(), parent.to_string())).collect();
        let mut cases = 0;
        for (index, first) in LINKS.into_iter().enumerate() {
            for second in LINKS.into_iter().skip(index) {
                for kind in [Cut::Both, Cut::Up, Cut::Down] {
                    let dark = BTreeSet::from([first, second]);
                    dark.iter().for_each(|link| kind.apply(&net, *link));
                    net.advance(Duration::from_secs(6)).await;
                    let left: BTreeSet<_> = all
                        .iter()
                        .filter(|(child, parent)| {
                            !dark.contains(&(child.as_str(), parent.as_str()))
                        })
                        .cloned()
                        .collect();
                    assert_eq!(links(&net).await, left, "{kind:?} of {dark:?}");
                    for (child, parent) in &dark {
                        let gone = net.cell(parent).request(child, "cell/ping", "x").await;
                        assert_eq!(gone.unwrap_err().status().code(), "NO_ROUTE", "{dark:?}");
                    }
                    dark.iter().for_each(|(child, parent)| net.heal(child, parent));
                    // A dial that began in the dark takes five seconds, and a second one is spread.
                    net.advance(Duration::from_secs(12)).await;
                    assert_eq!(links(&net).await, all, "after {kind:?} of {dark:?}");
                    net.assert_tables().await;
                    everybody_reaches_everybody(&net).await;
                    net.advance(Duration::from_secs(1)).await;
                    net.assert_no_leaks().await;
                    cases += 1;
                }
            }
        }
        assert_eq!(cases, 63);
        net.finish().await;
    });
}

#[test]
fn g_36_a_link_whose_end_is_told_leaves_every_table_at_once() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let net = Net::up(seed, TREE).await;
        for (child, parent) in LINKS {
            net.unlink(child, parent);
            net.advance(Duration::from_millis(100)).await;
            let reports = net.inspect().await;
            let linked = reports[parent].links.iter().any(|link| link.peer == *child);
            let registered = |cell: &str| reports[cell].registered.iter().any(|p| p.name == *child);
            // Unless it is back already: the first redial comes within a second.
            let back = reports[child].links.iter().any(|link| link.is_parent);
            assert!(back || !(linked || registered(parent) || registered("server")), "{child}");
            net.advance(Duration::from_secs(3)).await;
        }
        net.assert_tables().await;
        everybody_reaches_everybody(&net).await;
        net.finish().await;
    });
}

#[test]
fn g_32_a_cell_goes_on_dialling_a_parent_that_is_away_for_an_hour() {
    let _log = LogGuard::start();
    run_paused_within(Duration::from_secs(3 * 3600), 1, |seed| async move {
        let mut net = Net::up(seed, TREE).await;
        net.drain("s4").await;
        net.crash("r1").await;
        net.advance(Duration::from_secs(3600)).await;
        net.restart("r1");
        // Ten seconds at most between two attempts.
        net.advance(Duration::from_secs(11)).await;
        net.restart("s4");
        net.wait_ready(Duration::from_secs(2)).await;
        net.assert_tables().await;
        net.finish().await;
    });
}
