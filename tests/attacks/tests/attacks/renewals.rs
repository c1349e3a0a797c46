//! Another certificate on a connection that goes on: another's, without its key, or for another connection.

use bytes::Bytes;
use cellbus_attacks::{Forger, Outcome, Papers, RawPeer, attack};
use cellbus_proto::{
    codec::body::{self, Blob, NewCertificate},
    envelope::Lane,
    status::Status,
    transcript::{RenewCertificateFacts, RenewLinkFacts},
    well_known::{RENEW_CERTIFICATE, RENEW_LINK, SystemTopic},
};

/// A machine that is busy with other things says nothing about certificates.
const STARVED: &str = "the event loop was kept from its work";
const X: &str = "cell://attacks/client/x?org=attacks";

/// What `key` signs for a link of `x` to the server, with these papers in front of it.
fn for_link(x: &RawPeer, new: &Papers, key: &Papers, exporter: &[u8; 32]) -> Bytes {
    let signable = RenewLinkFacts {
        project: "attacks",
        cell: "x",
        neighbour: "server",
        old_leaf: &x.papers.hash(),
        new_leaf: &new.hash(),
        exporter,
    }
    .signable();
    signed(new, key.sign(&signable))
}

fn for_server(x: &RawPeer, new: &Papers, key: &Papers) -> Bytes {
    let signable = RenewCertificateFacts {
        project: "attacks",
        cell: "x",
        server: "server",
        old_leaf: &x.papers.hash(),
        new_leaf: &new.hash(),
    }
    .signable();
    signed(new, key.sign(&signable))
}

fn signed(new: &Papers, signature: Vec<u8>) -> Bytes {
    let chain = new.chain.iter().map(|der| Blob(der.to_vec())).collect();
    body::encode(&NewCertificate { chain, signature: Blob(signature) })
}

async fn ask(x: &mut RawPeer, to: &str, topic: SystemTopic, body: Bytes) -> Outcome {
    let mut request = x.request(to, "task/fetch");
    request.header.target = topic.into();
    request.header.lane = Lane::Control;
    request.payload = body;
    x.ask(request).await
}

#[test]
fn g_52_nobody_goes_on_with_a_certificate_that_is_not_his_or_whose_key_he_has_not() {
    attack(async |target, guard| {
        guard.tolerate(STARVED);
        guard.expect("another certificate was refused");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mine = target.papers("x");
        let next = target.forger().forge(X, |_| {});
        let site = target.papers("site-2");
        let forge = |uri: &str| target.forger().forge(uri, |_| {});
        let (other_org, relay) = (
            forge("cell://attacks/client/x?org=else"),
            forge("cell://attacks/relay/x?org=attacks"),
        );
        let stranger = Forger::of_another_project().forge(X, |_| {});
        let here = x.exporter;
        let cases = [
            ("another cell's", for_link(&x, &site, &site, &here), Status::CertName),
            ("another organisation", for_link(&x, &other_org, &other_org, &here), Status::CertName),
            ("another kind", for_link(&x, &relay, &relay, &here), Status::CertName),
            ("another root", for_link(&x, &stranger, &stranger, &here), Status::BadSignature),
            ("without its key", for_link(&x, &next, &mine, &here), Status::BadSignature),
            ("another connection", for_link(&x, &next, &next, &[7; 32]), Status::BadSignature),
            ("no chain", signed(&next.with_chain(Vec::new()), Vec::new()), Status::BadSignature),
            ("no body", Bytes::from_static(b"x"), Status::BadFrame),
        ];
        for (what, body, status) in cases {
            let before = target.look().await;
            let outcome = ask(&mut x, "server", RENEW_LINK, body).await;
            assert_eq!(outcome, Outcome::returned(status, "server"), "{what}");
            target.assert_refused(&before, &[("server", status, 1)]).await;
        }
        let cases = [
            ("another cell's", for_server(&x, &site, &site), Status::CertName),
            ("another organisation", for_server(&x, &other_org, &other_org), Status::CertName),
            ("another root", for_server(&x, &stranger, &stranger), Status::BadSignature),
            ("without its key", for_server(&x, &next, &mine), Status::BadSignature),
            ("for a link", for_link(&x, &next, &next, &here), Status::BadSignature),
        ];
        for (what, body, status) in cases {
            let outcome = ask(&mut x, "server", RENEW_CERTIFICATE, body).await;
            assert_eq!(outcome, Outcome::returned(status, "server"), "{what}");
        }
        let fetch = x.request("server", "task/fetch");
        assert!(matches!(x.ask(fetch).await, Outcome::Replied(_)), "it is who it was");
    });
}

#[test]
fn g_52_a_renewal_for_another_or_to_another_is_refused() {
    attack(async |target, guard| {
        guard.tolerate(STARVED);
        guard.tolerate("another certificate was refused");
        guard.expect("BAD_SIGNATURE");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let next = target.forger().forge(X, |_| {});
        let body = for_link(&x, &next, &next, &x.exporter);
        let far = ask(&mut x, "relay.site-1", RENEW_LINK, body.clone()).await;
        assert_eq!(far, Outcome::returned(Status::NotDirect, "relay.site-1"));
        // Without the proof of the old key the server hears nothing of a new one.
        let body = for_server(&x, &next, &next);
        x.signs = false;
        let unproven = ask(&mut x, "server", RENEW_CERTIFICATE, body.clone()).await;
        assert_eq!(unproven, Outcome::returned(Status::BadSignature, "server"));
        x.signs = true;
        let good = ask(&mut x, "server", RENEW_CERTIFICATE, body).await;
        assert!(matches!(good, Outcome::Replied(_)), "{good:?}");
        let body = for_link(&x, &next, &next, &x.exporter);
        let good = ask(&mut x, "server", RENEW_LINK, body.clone()).await;
        assert!(matches!(good, Outcome::Replied(_)), "{good:?}");
        let fetch = x.request("server", "task/fetch");
        assert!(matches!(x.ask(fetch).await, Outcome::Replied(_)), "what was sent before counts");
        // What was good once is for a certificate that this link does not go by any more.
        let again = ask(&mut x, "server", RENEW_LINK, body).await;
        assert_eq!(again, Outcome::returned(Status::BadSignature, "server"));
    });
}
