//! A relay with a good certificate and bad intentions, and leaves that mistake their relay for the server.

use std::time::Duration;

use bytes::Bytes;
use cellbus_attacks::{Outcome, Papers, RawPeer, Target, attack, attack_with};
use cellbus_proto::{
    codec::body::{
        self, Blob, ChallengeChild, ChildChallenge, ChildRegistered, DetachChild, RegisterChild,
        RenewChild, WireIncarnation,
    },
    envelope::{Envelope, Kind, Lane},
    name::Fqcn,
    status::Status,
    token::Token,
    transcript::EndToEndFacts,
    well_known::{
        CHALLENGE_CHILD, DETACH_CHILD, REGISTER, REGISTER_CHILD, RENEW_CHILD, SystemTopic,
    },
};

fn name(text: &str) -> Fqcn {
    text.parse().expect("a name")
}

/// A request of `relay` to the server on a topic of the system.
fn to_server(relay: &mut RawPeer, topic: SystemTopic, body: Bytes) -> Envelope {
    let mut request = relay.request("server", "task/fetch");
    request.header.target = topic.into();
    request.header.lane = Lane::Control;
    request.payload = body;
    request
}

/// Asks for a nonce for `child`.
async fn challenge(relay: &mut RawPeer, child: &str) -> Result<[u8; 32], Outcome> {
    let body = body::encode(&ChallengeChild { child: name(child) });
    let request = to_server(relay, CHALLENGE_CHILD, body);
    match relay.ask(request).await {
        Outcome::Replied(body) => {
            let ChildChallenge { nonce } = body::decode_exact(&body).expect("a challenge");
            Ok(nonce.0)
        }
        refused @ Outcome::Returned(..) => Err(refused),
    }
}

/// What `child` would sign for the server.
fn proof(papers: &Papers, child: &str, parent: &str, nonce: &[u8; 32]) -> Blob {
    let facts = EndToEndFacts {
        project: "attacks",
        child,
        parent,
        server: "server",
        server_nonce: nonce,
        child_leaf: &papers.hash(),
    };
    Blob(papers.sign(&facts.signable()))
}

/// Brings the proof of `child` to the server.
async fn bring(relay: &mut RawPeer, child: &str, papers: &Papers, signature: Blob) -> Outcome {
    let body = body::encode(&RegisterChild {
        child: name(child),
        incarnation: WireIncarnation(1, 1),
        chain: papers.chain.iter().map(|der| Blob(der.to_vec())).collect(),
        signature,
        job: None,
    });
    let request = to_server(relay, REGISTER_CHILD, body);
    relay.ask(request).await
}

/// A relay that has registered site-9, whose key it was lent.
pub(super) async fn relay_with_leaf(target: &Target) -> (RawPeer, Token) {
    let mut relay = RawPeer::registered(target, "server", "relay-x").await;
    let token = add_leaf(target, &mut relay, "site-9").await;
    (relay, token)
}

/// Registers a leaf of `relay`, which was lent its key; gives the leaf's token.
async fn add_leaf(target: &Target, relay: &mut RawPeer, leaf: &str) -> Token {
    let papers = target.papers(leaf);
    let name = format!("relay-x.{leaf}");
    let nonce = challenge(relay, &name).await.expect("it is its child");
    let signature = proof(&papers, &name, "relay-x", &nonce);
    let outcome = bring(relay, &name, &papers, signature).await;
    let Outcome::Replied(body) = outcome else { panic!("{outcome:?}") };
    let ChildRegistered { token, .. } = body::decode_exact(&body).expect("a registration");
    Token::from_bytes(token.0.into()).expect("a token")
}

#[test]
fn atk_014_a_registration_does_not_pass_through_a_relay() {
    attack(async |target, guard| {
        guard.expect("NOT_DIRECT");
        let mut y = RawPeer::registered(target, "relay", "y").await;
        let before = target.look().await;
        for (to, token) in [("server", None), ("server", y.token.clone()), ("relay.site-1", None)] {
            let mut register = y.request(to, "task/fetch");
            register.header.target = REGISTER.into();
            register.header.lane = Lane::Control;
            register.header.token = token;
            assert_eq!(
                y.ask(register).await,
                Outcome::returned(Status::NotDirect, "relay"),
                "{to}"
            );
        }
        target.assert_refused(&before, &[("relay", Status::NotDirect, 3)]).await;
    });
}

#[test]
fn atk_021_a_challenge_that_is_answered_too_late_is_gone() {
    attack(async |target, _| {
        let mut relay = RawPeer::registered(target, "server", "relay-x").await;
        let leaf = target.papers("site-9");
        let nonce = challenge(&mut relay, "relay-x.site-9").await.expect("it is its child");
        for _ in 0..31 {
            relay.beat_and_wait().await;
            target.pass(Duration::from_secs(1)).await;
        }
        let before = target.look().await;
        let signature = proof(&leaf, "relay-x.site-9", "relay-x", &nonce);
        let outcome = bring(&mut relay, "relay-x.site-9", &leaf, signature.clone()).await;
        assert_eq!(outcome, Outcome::returned(Status::ChallengeExpired, "server"));
        let outcome = bring(&mut relay, "relay-x.site-9", &leaf, signature).await;
        assert_eq!(outcome, Outcome::returned(Status::NoChallenge, "server"));
        let refused = [("server", Status::ChallengeExpired, 1), ("server", Status::NoChallenge, 1)];
        target.assert_refused(&before, &refused).await;
        assert!(!target.holds("server", "relay-x.site-9").await.1);
    });
}

#[test]
fn atk_021_on_the_link_itself_the_connection_ends_with_the_challenge() {
    attack_with("challenge_ttl_ms = 1000", async |target, guard| {
        guard.expect("NO_TOKEN");
        let before = target.look().await;
        let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
        let late = x.proof(&ok.challenge);
        target.pass(Duration::from_millis(1300)).await;
        x.send_exempt(REGISTER, body::encode(&late)).await;
        assert_eq!(x.closed().await, cellbus_attacks::Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::NoToken, 1)]).await;
        assert_eq!(target.holds("server", "x").await, (false, false));
    });
}

#[test]
fn atk_022_the_proof_of_a_child_needs_a_challenge_of_the_servers() {
    attack(async |target, _| {
        let mut relay = RawPeer::registered(target, "server", "relay-x").await;
        let leaf = target.papers("site-9");
        let before = target.look().await;
        let signature = proof(&leaf, "relay-x.site-9", "relay-x", &[7; 32]);
        let outcome = bring(&mut relay, "relay-x.site-9", &leaf, signature).await;
        assert_eq!(outcome, Outcome::returned(Status::NoChallenge, "server"));
        target.assert_refused(&before, &[("server", Status::NoChallenge, 1)]).await;
    });
}

#[test]
fn atk_024_and_072_a_relay_cannot_make_a_leaf_up_or_take_one_over() {
    attack(async |target, _| {
        let mut relay = RawPeer::registered(target, "server", "relay-x").await;
        let before = target.look().await;
        let mut refused = [("server", Status::CertName, 0), ("server", Status::NotDirect, 0)];
        for (child, at) in [
            ("relay-x.ghost", 0),
            ("relay-x.site-1", 0),
            ("relay-x.x", 0),
            ("relay.site-1", 1),
            ("site-2", 1),
            ("relay", 1),
            ("server", 1),
            ("relay-x", 1),
            ("relay-x.site-9.job-1", 1),
        ] {
            let status = refused[at].1;
            let asked = challenge(&mut relay, child).await;
            assert_eq!(asked, Err(Outcome::returned(status, "server")), "{child}");
            let papers = target.papers("relay-x");
            let signature = proof(&papers, child, "relay-x", &[7; 32]);
            let brought = bring(&mut relay, child, &papers, signature).await;
            assert_eq!(brought, Outcome::returned(status, "server"), "{child}");
            refused[at].2 += 2;
        }
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn atk_072_only_the_leafs_own_key_and_certificate_register_it() {
    attack(async |target, _| {
        let mut relay = RawPeer::registered(target, "server", "relay-x").await;
        let (leaf, own) = (target.papers("site-9"), target.papers("relay-x"));
        let child = "relay-x.site-9";
        let stranger = cellbus_attacks::Forger::of_another_project()
            .forge("cell://attacks/client/site-9?org=attacks", |_| {});
        let relay_named = target.forger().forge("cell://attacks/relay/site-9?org=attacks", |_| {});
        let other_site = target.papers("z");
        let before = target.look().await;
        let mut refused = Vec::new();
        let cases: [(&Papers, &Papers, &str, Status); 6] = [
            // The relay signs for the leaf, with the leaf's certificate or with its own.
            (&leaf, &own, "relay-x", Status::BadSignature),
            (&own, &own, "relay-x", Status::CertKind),
            // The leaf's proof is for another relay.
            (&leaf, &leaf, "relay", Status::BadSignature),
            // Other certificates of that name, and of that kind.
            (&stranger, &stranger, "relay-x", Status::BadSignature),
            (&relay_named, &relay_named, "relay-x", Status::CertKind),
            (&other_site, &other_site, "relay-x", Status::CertName),
        ];
        for (shown, signs, parent, status) in cases {
            let nonce = challenge(&mut relay, child).await.expect("it is its child");
            let facts = EndToEndFacts {
                project: "attacks",
                child,
                parent,
                server: "server",
                server_nonce: &nonce,
                child_leaf: &shown.hash(),
            };
            let signature = Blob(signs.sign(&facts.signable()));
            let outcome = bring(&mut relay, child, shown, signature).await;
            assert_eq!(outcome, Outcome::returned(status, "server"));
            refused.push(("server", status, 1));
            // Whatever came of it, the challenge is used up.
            let again =
                bring(&mut relay, child, &leaf, proof(&leaf, child, "relay-x", &nonce)).await;
            assert_eq!(again, Outcome::returned(Status::NoChallenge, "server"));
            refused.push(("server", Status::NoChallenge, 1));
        }
        target.assert_refused(&before, &refused).await;
        assert!(!target.holds("server", child).await.1);
    });
}

#[test]
fn a_relay_ends_and_renews_the_registrations_of_its_own_children_only() {
    attack(async |target, _| {
        let (mut relay, _) = relay_with_leaf(target).await;
        let victim = target.inspect("server").await.registered;
        let victim = victim.iter().find(|peer| peer.name == "relay.site-1").expect("registered");
        let (counter, nonce) = victim.incarnation.split_once('-').expect("two numbers");
        let incarnation = WireIncarnation(
            counter.parse().expect("a number"),
            u64::from_str_radix(nonce, 16).expect("a number"),
        );
        let before = target.look().await;
        for child in ["relay.site-1", "site-2", "relay", "server"] {
            let child = name(child);
            let detach = body::encode(&DetachChild { child: child.clone(), incarnation });
            let mut detach = to_server(&mut relay, DETACH_CHILD, detach);
            detach.header.kind = Kind::Publish;
            relay.send(detach).await;
            let renew = body::encode(&RenewChild { child, incarnation });
            let renew = to_server(&mut relay, RENEW_CHILD, renew);
            assert_eq!(relay.ask(renew).await, Outcome::returned(Status::PeerUnknown, "server"));
        }
        target.assert_refused(&before, &[("server", Status::PeerUnknown, 4)]).await;
        assert!(target.holds("server", "relay-x.site-9").await.1);
    });
}

#[test]
fn atk_069_a_relay_cannot_hand_on_more_hops_than_there_are() {
    attack(async |target, _| {
        let (mut relay, token) = relay_with_leaf(target).await;
        let mut z = RawPeer::registered(target, "server", "z").await;
        let before = target.look().await;
        let mut read = relay.request("z", "share/read");
        read.header.origin = relay.address_of("relay-x.site-9");
        read.header.token = Some(token);
        read.header.hops_left = 255;
        relay.send(read).await;
        let arrived = z.request_in().await;
        assert!(arrived.header.hops_left < 16, "{} hops left", arrived.header.hops_left);
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn atk_041_the_token_of_a_leaf_is_good_only_behind_its_own_relay() {
    attack(async |target, guard| {
        guard.expect("ORIGIN_MISMATCH");
        guard.expect("TOKEN_WRONG_CONN");
        let (mut relay, token) = relay_with_leaf(target).await;
        let before = target.look().await;
        // Of a leaf of another relay, under its name and under that of a leaf of this one.
        let stolen = target.cell("site-1").own().token();
        for (origin, token) in [
            ("relay.site-1", stolen.clone()),
            ("relay-x.site-9", stolen),
            ("relay-x", Some(token.clone())),
        ] {
            let mut fetch = relay.request("server", "task/fetch");
            fetch.header.origin = relay.address_of(origin);
            fetch.header.token = token;
            relay.send(fetch).await;
        }
        relay.settle(Lane::Interactive).await;
        let refused =
            [("server", Status::OriginMismatch, 1), ("server", Status::TokenWrongConn, 2)];
        target.assert_refused(&before, &refused).await;
        // And the leaf's own, brought by another neighbour.
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut fetch = x.request("server", "task/fetch");
        fetch.header.origin = x.address_of("relay-x.site-9");
        fetch.header.token = Some(token);
        x.send(fetch).await;
        x.settle(Lane::Interactive).await;
        target.assert_refused(&before, &[("server", Status::OriginMismatch, 1)]).await;
    });
}

#[test]
fn atk_074_the_token_of_one_leaf_is_no_good_for_another_of_the_same_relay() {
    attack(async |target, guard| {
        guard.expect("TOKEN_WRONG_CONN");
        let (mut relay, ninth) = relay_with_leaf(target).await;
        let eighth = add_leaf(target, &mut relay, "site-8").await;
        let before = target.look().await;
        for (origin, token) in [("site-8", ninth), ("site-9", eighth)] {
            let mut fetch = relay.request("server", "task/fetch");
            fetch.header.origin = relay.address_of(&format!("relay-x.{origin}"));
            fetch.header.token = Some(token);
            let outcome = relay.ask(fetch).await;
            assert_eq!(outcome, Outcome::returned(Status::TokenWrongConn, "server"), "{origin}");
        }
        target.assert_refused(&before, &[("server", Status::TokenWrongConn, 2)]).await;
    });
}

#[test]
fn a_site_asks_the_server_for_no_challenge_but_those_of_its_own_jobs() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        for (child, status) in [
            ("site-2", Status::NotDirect),
            ("relay.site-1", Status::NotDirect),
            ("site-2.job-1", Status::NotDirect),
            ("x.job-1.x2", Status::NotDirect),
        ] {
            let asked = challenge(&mut x, child).await;
            assert_eq!(asked, Err(Outcome::returned(status, "server")), "{child}");
        }
        target.assert_refused(&before, &[("server", Status::NotDirect, 4)]).await;
    });
}
