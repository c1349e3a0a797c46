//! Certificates that are renewed under load: nothing fails, no link is made again, and the old one is good for nothing.
//!
//! Every scenario is run over links in memory and over QUIC on a simulated network.

#[path = "conduits/cells.rs"]
#[expect(dead_code, reason = "other tests serve more")]
mod streams;

use std::{cell::Cell, rc::Rc, time::Duration};

use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};
use cellbus_proto::{
    codec::Octets,
    status::Status,
    trust::{Reason, RevokedLeaf},
};
use cellbus_runtime::host::RenewError;

use self::streams::{Serving, open, read_all, serve, whole};

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
const PAIRS: [(&str, &str); 6] = [
    ("site-1", "server"),
    ("server", "relay.site-1"),
    ("site-2", "relay.site-1"),
    ("site-3", "relay.site-1"),
    ("site-1", "relay"),
    ("relay", "site-3"),
];

fn scenario<F: Future<Output = ()>>(announce: fn(&LogGuard), test: impl Fn(Net) -> F) {
    for is_quic in [false, true] {
        let log = LogGuard::start();
        announce(&log);
        run_paused(1, async |seed| match is_quic {
            false => test(Net::up(seed, TREE).await).await,
            true => test(Net::over_quic(SimNet::new(seed), TREE).await).await,
        });
    }
}

async fn links(net: &Net) -> Vec<(String, u64)> {
    let mut links: Vec<(String, u64)> = Vec::new();
    for (name, report) in net.inspect().await {
        links.extend(report.links.iter().map(|link| (name.clone(), link.link)));
    }
    links
}

/// Requests between every pair, one after the other, until they are told to stop.
struct Load {
    stop: Rc<Cell<bool>>,
    running: Vec<tokio::task::JoinHandle<u32>>,
}

impl Load {
    async fn start(net: &Net) -> Self {
        for cell in ["server", "relay", "site-1", "site-3"] {
            net.cell(cell).echoes("task/ping").await;
        }
        let stop = Rc::new(Cell::new(false));
        let one = |(from, to): (&'static str, &'static str)| {
            let (cell, stop) = (net.cell(from).clone(), Rc::clone(&stop));
            tokio::task::spawn_local(async move {
                let mut answered = 0;
                let mut turns = tokio::time::interval(Duration::from_millis(40));
                while !stop.get() {
                    turns.tick().await;
                    let reply = cell.request(to, "task/ping", "hi").await;
                    assert_eq!(reply.expect("no request fails"), "hi", "{from} -> {to}");
                    answered += 1;
                }
                answered
            })
        };
        Self { running: PAIRS.map(one).into(), stop }
    }

    /// How many were answered: all of them, or this panics.
    async fn stop(self) -> u32 {
        self.stop.set(true);
        let mut answered = 0;
        for one in self.running {
            answered += one.await.expect("no request fails");
        }
        answered
    }
}

#[test]
fn g_52_f_24_every_cell_renews_its_certificate_under_load_and_no_request_fails() {
    scenario(
        |_| {},
        |net| async move {
            let before = links(&net).await;
            let load = Load::start(&net).await;
            net.advance(Duration::from_secs(1)).await;
            let mut old = Vec::new();
            for (number, cell) in (1..).zip(["site-1", "relay", "server", "site-3", "site-1"]) {
                let renewed = net.renew(cell, number).await.unwrap();
                assert_eq!(renewed.again, [], "{cell}");
                assert_eq!(net.cell(cell).running.own().certificate().hash(), renewed.new);
                old.push(renewed.old);
                net.advance(Duration::from_secs(2)).await;
            }
            // What was renewed can be revoked: nobody goes by it any more.
            let mut list = net.revocations(1, &[]);
            for leaf in old {
                let reason = Reason::Superseded;
                list.revoke_leaf(RevokedLeaf { leaf: Octets(leaf), reason, until: None });
            }
            net.give("server", &list).await.unwrap();
            net.advance(Duration::from_secs(5)).await;
            let answered = load.stop().await;
            assert!(answered > 1000, "{answered}");
            // Longer than a token lives: those that were given before have ended.
            net.advance(Duration::from_secs(1000)).await;
            for (from, to) in PAIRS {
                assert_eq!(net.cell(from).request(to, "task/ping", "hi").await.unwrap(), "hi");
            }
            assert_eq!(links(&net).await, before, "no link was made again");
            net.finish().await;
        },
    );
}

#[test]
fn g_52_a_stream_goes_on_while_both_of_its_ends_and_the_relay_renew() {
    const LEN: usize = 8 << 20;
    scenario(
        |_| {},
        |net| async move {
            serve(&net, "server", Serving::Give(whole(LEN))).await;
            let mut opened = open(&net, "site-1", "server").await.unwrap();
            for (number, cell) in (1..).zip(["site-1", "relay", "server"]) {
                net.renew(cell, number).await.unwrap();
            }
            let (read, end) = read_all(&mut opened.conduit.recv).await;
            assert_eq!((read.len(), end), (LEN, Ok(())));
            drop(opened);
            net.finish().await;
        },
    );
}

#[test]
fn what_is_not_the_cells_own_or_not_the_projects_is_not_shown() {
    scenario(
        |log| log.tolerate("another certificate was refused"),
        |net| async move {
            net.cell("server").echoes("task/ping").await;
            let site = net.cell("site-1").running.clone();
            let shown = site.own().certificate().hash();
            assert!(matches!(net.renew("site-1", 0).await, Err(RenewError::Same)));
            let of_another = net.cell("site-2").running.own().certificate();
            assert!(matches!(site.renew(of_another).await, Err(RenewError::Holder)));
            let stranger = cellbus_harness::sim::SimAuthority::new(
                &"harness".parse().unwrap(),
                99,
                cellbus_harness::net::NOW,
            );
            let theirs = stranger.certificate(&site.own().identity);
            assert!(matches!(site.renew(theirs).await, Err(RenewError::Chain(_))));
            // Nobody has the server go on with a certificate for another, or without the new key.
            let forged = net.cell("site-1").request("server", "cell/renew_certificate", "x").await;
            assert_eq!(forged.unwrap_err().status(), Status::BadFrame);
            let forged = net.cell("site-1").request("relay", "cell/renew_link", "x").await;
            assert_eq!(forged.unwrap_err().status(), Status::BadFrame);
            assert_eq!(site.own().certificate().hash(), shown);
            assert_eq!(
                net.cell("site-1").request("server", "task/ping", "hi").await.unwrap(),
                "hi"
            );
            net.finish().await;
        },
    );
}

#[test]
fn a_renewal_that_the_server_does_not_hear_of_changes_nothing() {
    scenario(
        |log| log.tolerate("link closed"),
        |mut net| async move {
            let shown = net.cell("site-1").running.own().certificate().hash();
            net.crash("server").await;
            let failed = net.renew("site-1", 1).await;
            assert!(matches!(failed, Err(RenewError::Server(_))), "{failed:?}");
            assert_eq!(net.cell("site-1").running.own().certificate().hash(), shown);
            net.restart("server");
            net.wait_ready(Duration::from_secs(60)).await;
            net.advance(Duration::from_secs(10)).await;
            let renewed = net.renew("site-1", 1).await.unwrap();
            assert_eq!(renewed.again, []);
            net.finish().await;
        },
    );
}

#[test]
fn v_20_a_project_goes_from_one_root_to_the_next_and_both_generations_talk() {
    scenario(
        |_| {},
        |net| async move {
            for cell in ["server", "relay", "site-1", "site-3"] {
                net.cell(cell).echoes("task/ping").await;
            }
            let before = links(&net).await;
            let next = cellbus_harness::sim::SimAuthority::new(
                &"harness".parse().unwrap(),
                99,
                cellbus_harness::net::NOW,
            );
            let cells = ["site-1", "site-2", "site-3", "relay", "server"];
            let own = |cell: &str| net.cell(cell).running.own().clone();
            let old_roots = own("server").roots.ders();
            let both = [old_roots.clone(), next.roots().ders()].concat();
            for cell in cells {
                own(cell).roots.replace(both.clone()).unwrap();
            }
            for cell in cells {
                let certificate = next.certificate(&own(cell).identity);
                let renewed = net.cell(cell).running.renew(certificate).await.unwrap();
                assert_eq!(renewed.again, [], "{cell}");
                for (from, to) in PAIRS {
                    let reply = net.cell(from).request(to, "task/ping", "hi").await;
                    assert_eq!(reply.unwrap(), "hi", "{from} -> {to} after {cell}");
                }
            }
            for cell in cells {
                own(cell).roots.replace(next.roots().ders()).unwrap();
            }
            net.advance(Duration::from_secs(1000)).await;
            for (from, to) in PAIRS {
                assert_eq!(net.cell(from).request(to, "task/ping", "hi").await.unwrap(), "hi");
            }
            assert_eq!(links(&net).await, before, "no link was made again");
            net.finish().await;
        },
    );
}
