//! Signed lists: forged, old, out of place, and kept from others; and what a revoked cell can still do.

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_attacks::{
    Closed, Outcome, Papers, RawPeer, Target, attack,
    peer::{Dialling, closed},
};
use cellbus_proto::{
    codec::body::{self, Blob},
    envelope::{Address, Common, Kind, Lane},
    name::Segment,
    status::Status,
    trust::{
        BanChange, BanList, Bundle, List, ListKind, ListsHeld, Reason, RevocationList, RevokedName,
        Signed, Versions,
    },
    well_known::{LISTS, LISTS_HELD, SystemTopic},
};
use cellbus_runtime::lists::ListSigner;

use super::relay::relay_with_leaf;

/// A machine that is busy with other things says nothing about lists.
const STARVED: &str = "the event loop was kept from its work";

fn segment(text: &str) -> Segment {
    text.parse().expect("a name")
}

/// Signs with the key of the project's own authority.
fn signer(target: &Target) -> ListSigner {
    let dir = target.root().join("pki/authority");
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("it was minted");
    ListSigner::from_pem(&read("root.crt"), &read("root.key")).expect("they belong together")
}

fn revoking(version: u64, name: &str) -> RevocationList {
    let mut list = RevocationList::empty(segment("attacks"));
    list.revoke_name(RevokedName { name: segment(name), reason: Reason::Ceased, until: None });
    RevocationList { version, issued: 1_700_000_000, ..list }
}

/// A list as somebody with these papers would sign it.
fn forged<L: List>(list: &L, papers: &Papers, with_chain: bool) -> Signed {
    let chain = papers.chain.iter().filter(|_| with_chain).map(|der| Blob(der.to_vec())).collect();
    let mut signed = Signed::unsigned(list, chain);
    signed.signature = Blob(papers.sign(&signed.signable(L::KIND)));
    signed
}

async fn publish(x: &mut RawPeer, to: &str, topic: SystemTopic, body: Bytes) {
    let mut message = x.request(to, "task/fetch");
    message.header.kind = Kind::Publish;
    message.header.target = topic.into();
    message.header.lane = Lane::Control;
    message.payload = body;
    x.send(message).await;
}

/// Time in which a neighbour that brought a bad list is not listened to.
async fn wait_out(target: &Target, x: &mut RawPeer) {
    for _ in 0..11 {
        x.beat_and_wait().await;
        target.pass(Duration::from_secs(1)).await;
    }
}

fn held(target: &Target, cell: &str) -> Versions {
    target.cell(cell).own().lists.view().versions()
}

/// Lists that nobody may take over, as what they are brought, and what they are refused with.
fn bad_lists(target: &Target) -> Vec<(Signed, ListKind, Status)> {
    use ListKind::{Bans, Revocations};
    let genuine = signer(target);
    let sign = |list: &RevocationList| genuine.sign(list).expect("it signs");
    let mine = target.papers("x");
    let lead = target.forger().forge("cell://attacks/admin/eve?org=attacks&role=lead", |_| {});
    let uri = "cell://attacks/admin/eve?org=attacks&role=signer";
    let stranger = cellbus_attacks::Forger::of_another_project().forge(uri, |_| {});
    let list = revoking(9, "site-2");
    let mut changed = sign(&list);
    changed.content = Blob(body::encode(&revoking(9, "site-1")).to_vec());
    let other = RevocationList { project: segment("other"), ..list.clone() };
    let bans = BanList::empty(segment("attacks"), "server".parse().expect("a name"));
    let ban = BanChange::Ban { name: segment("site-2"), reason: String::new() };
    let bans = bans.changed(ban, 1_700_000_000).expect("a ban");
    vec![
        (forged(&list, &mine, true), Revocations, Status::BadSignature),
        (forged(&list, &mine, false), Revocations, Status::BadSignature),
        (forged(&list, &lead, true), Revocations, Status::BadSignature),
        (forged(&list, &stranger, true), Revocations, Status::BadSignature),
        (changed, Revocations, Status::BadSignature),
        (forged(&bans, &mine, true), Bans, Status::BadSignature),
        (sign(&list), Bans, Status::BadFrame),
        (sign(&other), Revocations, Status::Forbidden),
        (sign(&revoking(4, "x")), Revocations, Status::StaleList),
        (sign(&revoking(5, "x")), Revocations, Status::StaleList),
    ]
}

#[test]
fn atk_049_a_list_that_is_forged_or_old_or_another_changes_nothing() {
    const CASES: usize = 10;
    for case in 0..CASES {
        attack(async |target, guard| {
            guard.tolerate(STARVED);
            guard.expect("signed list was refused");
            let current = signer(target).sign(&revoking(5, "site-9")).expect("it signs");
            let given = Bundle::of(ListKind::Revocations, current);
            target.cell("server").take_lists(given).await.expect("it is good");
            let mut x = RawPeer::registered(target, "server", "x").await;
            let mut cases = bad_lists(target);
            assert_eq!(cases.len(), CASES);
            let (signed, kind, status) = cases.swap_remove(case);
            let before = target.look().await;
            let bundle = body::encode(&Bundle::of(kind, signed));
            publish(&mut x, "server", LISTS, bundle.clone()).await;
            publish(&mut x, "server", LISTS, bundle.clone()).await;
            x.settle(Lane::Control).await;
            // The second one is not looked at.
            let counted = [("server", status, 1), ("server", Status::RateLimit, 1)];
            target.assert_refused(&before, &counted).await;
            for cell in ["server", "relay", "site-1"] {
                let revocations = 5;
                target
                    .until("the good one is everywhere", async || {
                        held(target, cell) == Versions { revocations, ..Versions::default() }
                    })
                    .await;
            }
            wait_out(target, &mut x).await;
            publish(&mut x, "server", LISTS, bundle).await;
            x.settle(Lane::Control).await;
            target.assert_refused(&before, &[counted[0], counted[1], counted[0]]).await;
            assert!(x.lives(), "what it says does not end its connection");
        });
    }
}

#[test]
fn what_is_no_list_is_counted_and_nothing_else() {
    attack(async |target, guard| {
        guard.tolerate(STARVED);
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        publish(&mut x, "server", LISTS, Bytes::from_static(b"\x93\xc0\xc0")).await;
        publish(&mut x, "server", LISTS_HELD, Bytes::from_static(b"no list")).await;
        x.settle(Lane::Control).await;
        target.assert_refused(&before, &[("server", Status::BadFrame, 2)]).await;
    });
}

#[test]
fn nobody_speaks_about_lists_to_a_cell_that_is_no_neighbour_of_his() {
    attack(async |target, guard| {
        guard.tolerate(STARVED);
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let good = signer(target).sign(&revoking(7, "site-2")).expect("it signs");
        let bundle = body::encode(&Bundle::of(ListKind::Revocations, good));
        publish(&mut x, "relay.site-1", LISTS, bundle).await;
        let asks = ListsHeld { versions: Versions::default(), ask: true };
        publish(&mut x, "relay", LISTS_HELD, body::encode(&asks)).await;
        x.settle(Lane::Control).await;
        let counted = [("relay.site-1", Status::NotDirect, 1), ("relay", Status::NotDirect, 1)];
        let counted =
            counted.map(|(cell, status, count)| (cell.rsplit('.').next().unwrap(), status, count));
        target.assert_refused(&before, &counted).await;
        assert_eq!(held(target, "site-1"), Versions::default());
    });
}

#[test]
fn p_26_p_33_a_revoked_peer_is_cut_off_at_once_and_no_way_leads_back() {
    attack(async |target, guard| {
        guard.tolerate(STARVED);
        guard.expect("CERT_REVOKED");
        let x = RawPeer::registered(target, "server", "x").await;
        target.until_holds("server", "x", (true, true)).await;
        let good = signer(target).sign(&revoking(1, "x")).expect("it signs");
        let begun = std::time::Instant::now();
        let given = Bundle::of(ListKind::Revocations, good);
        target.cell("server").take_lists(given).await.expect("it is good");
        assert_eq!(x.closed().await, Closed::Application(5, "CERT_REVOKED".to_owned()));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        target.until_gone("server", "x").await;
        target
            .until("the relay has the list", async || held(target, "relay").revocations == 1)
            .await;
        // Another certificate of the same name is no way back, at any cell.
        let other = target.forger().forge("cell://attacks/client/x?org=attacks", |_| {});
        for papers in [target.papers("x"), other] {
            let before = target.look().await;
            for at in ["server", "relay"] {
                let end = match Dialling::honest(&papers).connect(target.address(at)).await {
                    Ok((connection, _endpoint)) => closed(&connection).await,
                    Err(error) => Closed::from_error(&error),
                };
                // An alert that says no more than that.
                assert!(matches!(end, Closed::Transport(..)), "{at}: {end:?}");
            }
            for at in ["server", "relay"] {
                target
                    .until("both have counted it", async || {
                        target.refused_since(&before, at, Status::CertRevoked).await > 0
                    })
                    .await;
            }
        }
        target.assert_calm().await;
    });
}

#[test]
fn p_26_a_relay_that_keeps_a_list_to_itself_does_not_keep_a_revoked_leaf_alive() {
    attack(async |target, guard| {
        guard.tolerate(STARVED);
        guard.tolerate("CERT_REVOKED");
        let (mut relay, token) = relay_with_leaf(target).await;
        let fetch = |relay: &mut RawPeer| {
            let mut fetch = relay.request("server", "task/fetch");
            fetch.header.common = Arc::new(Common {
                origin: relay.address_of("relay-x.site-9"),
                destination: Address::any("server".parse().expect("a name")),
                token: Some(token.clone()),
                ..(*fetch.header.common).clone()
            });
            fetch
        };
        let good = fetch(&mut relay);
        assert!(matches!(relay.ask(good).await, Outcome::Replied(_)), "it is registered");
        let list = signer(target).sign(&revoking(1, "site-9")).expect("it signs");
        let given = Bundle::of(ListKind::Revocations, list);
        target.cell("server").take_lists(given).await.expect("it is good");
        let before = target.look().await;
        let late = fetch(&mut relay);
        assert_eq!(relay.ask(late).await, Outcome::returned(Status::CertRevoked, "server"));
        target.assert_refused(&before, &[("server", Status::CertRevoked, 1)]).await;
        assert!(!target.holds("server", "relay-x.site-9").await.1);
    });
}
