//! Signed lists: who is on one is out within a second, everywhere, and whoever brings an old one changes nothing.
//!
//! Every scenario is run over links in memory and over QUIC on a simulated network.

#[path = "trust/roster.rs"]
mod roster;
#[path = "conduits/cells.rs"]
#[expect(dead_code, reason = "other tests serve more")]
mod streams;

use std::{collections::BTreeMap, time::Duration};

use cellbus_channels::{Broken, Status};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};
use cellbus_proto::{
    codec::Octets,
    trust::{BanChange, Bundle, ListKind, Reason, RevokedLeaf},
};
use cellbus_runtime::lists::ChangeRefused;

use self::streams::{Serving, open, read_all, serve, whole};

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
const SECOND: Duration = Duration::from_secs(1);

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

/// What a listed cell does to the log: it goes on trying.
fn refusals(log: &LogGuard) {
    log.expect("link closed");
    log.tolerate("certificate refused");
    log.tolerate("signed list was refused");
}

async fn links(net: &Net, cell: &str) -> Vec<String> {
    let report = net.cell(cell).running.inspect().await.expect("it runs");
    let mut peers: Vec<String> = report.links.into_iter().map(|link| link.peer).collect();
    peers.sort();
    peers
}

async fn registered(net: &Net, cell: &str) -> Vec<String> {
    let report = net.cell(cell).running.inspect().await.expect("it runs");
    report.registered.into_iter().map(|peer| peer.name).collect()
}

async fn refused(net: &Net, cell: &str) -> BTreeMap<String, u64> {
    let report = net.cell(cell).running.inspect().await.expect("it runs");
    report.counters.refused.iter().map(|(code, count)| (code.to_string(), *count)).collect()
}

fn version(net: &Net, cell: &str, kind: ListKind) -> u64 {
    net.cell(cell).running.own().lists.view().versions().of(kind)
}

/// `site-1` is out, and stays out.
async fn assert_out(net: &Net, code: &str) {
    assert_eq!(links(net, "relay").await, ["relay.site-2", "server"]);
    for at in ["server", "relay"] {
        let held = registered(net, at).await;
        assert!(!held.contains(&"relay.site-1".to_owned()), "{at}: {held:?}");
    }
    let asked = net.cell("site-3").request("relay.site-1", "task/ping", "hi").await;
    assert_eq!(asked.expect_err("it is out").status(), Status::NoRoute);
    net.advance(Duration::from_secs(60)).await;
    assert_eq!(links(net, "relay").await, ["relay.site-2", "server"], "it has tried");
    let counted = refused(net, "relay").await;
    assert!(counted.get(code).is_some_and(|count| *count > 1), "{counted:?}");
    let other = net.cell("site-2").request("server", "task/ping", "hi").await;
    assert_eq!(other.expect("the other works"), "hi");
}

#[test]
fn p_26_a_revoked_cell_behind_a_relay_is_out_within_a_second_and_its_stream_with_it() {
    const LEN: usize = 8 << 20;
    scenario(refusals, |net| async move {
        net.cell("server").echoes("task/ping").await;
        let heard = serve(&net, "server", Serving::Flood(whole(LEN))).await;
        let mut opened = open(&net, "site-1", "server").await.unwrap();
        let mut other = open(&net, "site-2", "server").await.unwrap();
        let mut told =
            ["server", "site-1"].map(|cell| net.cell(cell).running.own().notices.turned_out());
        let begun = tokio::time::Instant::now();
        let taken = net.give("server", &net.revocations(1, &["site-1"])).await.unwrap();
        assert_eq!((taken.taken[0].before, taken.taken[0].version), (0, 1));
        let (read, end) = read_all(&mut opened.conduit.recv).await;
        assert!(read.len() < LEN && end == Err(Broken::Lost), "{} bytes, {end:?}", read.len());
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        net.advance(SECOND.saturating_sub(begun.elapsed())).await;
        for cell in ["server", "relay", "site-2", "site-3"] {
            assert_eq!(version(&net, cell, ListKind::Revocations), 1, "{cell}");
        }
        for told in &mut told {
            assert_eq!(told.try_recv().unwrap().as_str(), "relay.site-1", "its jobs end by this");
        }
        let (read, end) = read_all(&mut other.conduit.recv).await;
        // Whoever gave the bytes lets go when they are written: the other one was left alone.
        assert!(
            read.len() > LEN / 2 && end == Err(Broken::Cancelled),
            "{} bytes, {end:?}",
            read.len()
        );
        drop((opened, other));
        assert_eq!(heard.lock().unwrap().ends, [Broken::Lost]);
        assert_out(&net, "CERT_REVOKED").await;

        // The next list is without it.
        net.give("server", &net.revocations(2, &[])).await.unwrap();
        net.wait_ready(Duration::from_secs(60)).await;
        assert_eq!(net.cell("site-1").request("server", "task/ping", "hi").await.unwrap(), "hi");
        net.finish().await;
    });
}

#[test]
fn p_26_a_revoked_certificate_is_out_whatever_the_name() {
    scenario(refusals, |net| async move {
        net.cell("server").echoes("task/ping").await;
        let leaf = Octets(net.cell("site-1").running.own().certificate().hash());
        let mut list = net.revocations(1, &[]);
        list.revoke_leaf(RevokedLeaf { leaf, reason: Reason::KeyCompromise, until: None });
        net.give("server", &list).await.unwrap();
        net.advance(SECOND).await;
        assert_out(&net, "CERT_REVOKED").await;
        net.finish().await;
    });
}

#[test]
fn p_25_a_banned_cell_is_out_until_it_is_let_in_again() {
    scenario(refusals, |net| async move {
        net.cell("server").echoes("task/ping").await;
        let name = || "site-1".parse().unwrap();
        let ban = || BanChange::Ban { name: name(), reason: "floods".to_owned() };
        net.change_bans(ban()).await.unwrap();
        net.advance(SECOND).await;
        assert_out(&net, "DISABLED").await;
        for cell in ["server", "relay", "site-2", "site-3"] {
            assert_eq!(version(&net, cell, ListKind::Bans), 1, "{cell}");
        }
        assert!(matches!(net.change_bans(ban()).await, Err(ChangeRefused::Change(_))));
        let elsewhere = net.cell("relay").running.change_bans(ban()).await;
        assert!(matches!(elsewhere, Err(ChangeRefused::NotServer)));
        net.change_bans(BanChange::Unban { name: name() }).await.unwrap();
        net.wait_ready(Duration::from_secs(60)).await;
        assert_eq!(net.cell("site-1").request("server", "task/ping", "hi").await.unwrap(), "hi");
        net.finish().await;
    });
}

#[test]
fn p_25_a_cell_that_was_removed_registers_again_and_its_old_token_is_good_nowhere() {
    scenario(
        |_| {},
        |net| async move {
            net.cell("server").echoes("task/ping").await;
            let before = net.cell("site-1").running.own().token().unwrap();
            let until = net.cell("server").running.own().wall.unix();
            let end = BanChange::End { name: "site-1".parse().unwrap(), until };
            net.change_bans(end).await.unwrap();
            net.advance(Duration::from_secs(5)).await;
            assert!(links(&net, "relay").await.contains(&"relay.site-1".to_owned()));
            let after = net.cell("site-1").running.own().token().unwrap();
            assert_ne!(before, after);
            let again = net.cell("site-1").request("server", "task/ping", "hi").await;
            assert_eq!(again.unwrap(), "hi");
            net.cell("site-1").running.own().set_token(Some(before));
            let old = net.cell("site-1").request("server", "task/ping", "old").await.unwrap_err();
            assert_eq!(old.status(), Status::TokenRevoked);
            assert_eq!(net.cell("server").calls(), ["hi"]);
            net.cell("site-1").running.own().set_token(Some(after));
            net.finish().await;
        },
    );
}

#[test]
fn h_04_an_older_list_is_refused_and_a_server_that_was_set_back_hears_of_the_newer_one() {
    scenario(
        |log| {
            log.expect("signed list was refused");
            log.tolerate("link closed");
            log.tolerate("certificate refused");
        },
        |mut net| async move {
            net.give("server", &net.revocations(5, &["site-1"])).await.unwrap();
            for old in [net.revocations(4, &[]), net.revocations(5, &[])] {
                let refused = net.give("server", &old).await.unwrap_err();
                assert!(matches!(refused, ChangeRefused::Refused(_)), "{refused}");
            }
            net.advance(SECOND).await;
            assert_eq!(refused(&net, "server").await["STALE_LIST"], 2);
            assert!(!links(&net, "relay").await.contains(&"relay.site-1".to_owned()));
            // It comes back without what it had: its state is that of yesterday.
            net.crash("server").await;
            net.advance(Duration::from_secs(6)).await;
            net.restart("server");
            net.advance(Duration::from_secs(30)).await;
            assert_eq!(version(&net, "server", ListKind::Revocations), 5);
            assert!(!links(&net, "relay").await.contains(&"relay.site-1".to_owned()));
            net.finish().await;
        },
    );
}

#[test]
fn who_was_away_and_who_missed_a_list_get_it() {
    scenario(
        |log| log.tolerate("link closed"),
        |mut net| async move {
            net.drain("site-3").await;
            // Shorter than what ends a link: what is said meanwhile over a link in memory is lost.
            net.cut("site-2", "relay");
            net.give("server", &net.revocations(1, &["site-9"])).await.unwrap();
            net.advance(Duration::from_secs(2)).await;
            assert_eq!(version(&net, "site-2", ListKind::Revocations), 0);
            net.heal("site-2", "relay");
            net.restart("site-3");
            net.advance(Duration::from_secs(10)).await;
            for cell in ["site-2", "site-3"] {
                assert_eq!(version(&net, cell, ListKind::Revocations), 1, "{cell}");
            }
            net.finish().await;
        },
    );
}

#[test]
fn a_revoked_relay_takes_its_children_along_and_is_not_dialled() {
    scenario(refusals, |net| async move {
        net.cell("server").echoes("task/ping").await;
        net.give("server", &net.revocations(1, &["relay"])).await.unwrap();
        net.advance(SECOND).await;
        assert_eq!(links(&net, "server").await, ["site-3"]);
        assert_eq!(registered(&net, "server").await, ["site-3"]);
        // A site that has heard of it leaves the relay by itself.
        net.give("site-1", &net.revocations(1, &["relay"])).await.unwrap();
        net.advance(Duration::from_secs(30)).await;
        assert_eq!(links(&net, "site-1").await, [""; 0]);
        assert_eq!(net.cell("site-3").request("server", "task/ping", "hi").await.unwrap(), "hi");
        net.finish().await;
    });
}

#[test]
fn only_a_neighbour_speaks_about_lists_and_only_one_that_is_signed_counts() {
    scenario(
        |log| log.expect("signed list was refused"),
        |net| async move {
            let by_request = net.cell("site-3").request("server", "cell/give_lists", "x").await;
            assert_eq!(by_request.unwrap_err().status(), Status::NotDirect);
            let far = net.cell("site-3").request("relay.site-1", "cell/lists_held", "x").await;
            assert_eq!(far.unwrap_err().status(), Status::NotDirect);
            let mut forged = net.signer().sign(&net.revocations(9, &["site-1"])).unwrap();
            forged.signature = net.signer().sign(&net.revocations(8, &[])).unwrap().signature;
            let bundle = Bundle::of(ListKind::Revocations, forged);
            let got = net.cell("site-3").running.take_lists(bundle).await;
            assert!(matches!(got, Err(ChangeRefused::Refused(_))));
            for cell in ["server", "relay", "site-1", "site-2", "site-3"] {
                assert_eq!(version(&net, cell, ListKind::Revocations), 0, "{cell}");
            }
            net.finish().await;
        },
    );
}

#[test]
fn lists_hold_when_a_cells_actors_start_again() {
    scenario(
        |log| {
            refusals(log);
            log.expect("an actor ended");
            log.tolerate("another process holds");
        },
        |net| async move {
            net.give("server", &net.revocations(1, &["site-1"])).await.unwrap();
            net.advance(SECOND).await;
            net.cell("relay").running.crash_filter();
            net.advance(Duration::from_secs(60)).await;
            assert_eq!(links(&net, "relay").await, ["relay.site-2", "server"]);
            net.finish().await;
        },
    );
}
