//! Certificates that nobody should have, and how a handshake ends with them.

use std::{sync::Arc, time::Duration};

use cellbus_attacks::{
    Closed, Forger, Papers, RawPeer, Target, attack,
    papers::{now_unix, self_signed, set_dates, uri_name},
    peer::{Dialling, Tickets, closed},
};
use cellbus_proto::{
    codec::{Frame, body::Hello},
    envelope::Lane,
    status::Status,
};
use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

const X: &str = "cell://attacks/client/x?org=attacks";

/// How a connection ends that must not come about.
async fn refused(target: &Target, dialling: Dialling) -> Closed {
    match dialling.connect(target.address("server")).await {
        // In TLS 1.3 one who dials is done before the other end has seen its certificate.
        Ok((connection, _endpoint)) => {
            // Whatever is sent at once is not read.
            if let Ok((mut stream, _recv)) = connection.open_bi().await {
                let _ = stream.write_all(b"too early").await;
            }
            closed(&connection).await
        }
        Err(error) => Closed::from_error(&error),
    }
}

/// The connection ends with a TLS alert that says nothing about why.
fn assert_alert(end: &Closed) {
    let Closed::Transport(code, reason) = end else { panic!("not by an alert: {end:?}") };
    assert!((0x100..0x200).contains(code), "{end:?}");
    for told in ["expired", "usage", "issuer", "name", "project", "attacks", "URI"] {
        assert!(!reason.contains(told), "a probe learns {told:?} from {end:?}");
    }
}

#[test]
fn s_01_no_certificate_but_a_good_one_gets_past_the_handshake() {
    attack(async |target, guard| {
        guard.expect("certificate refused");
        let (ours, others) = (target.forger(), Forger::of_another_project());
        let now = now_unix();
        let eku = |usages: Vec<ExtendedKeyUsagePurpose>| {
            ours.forge(X, |params| params.extended_key_usages = usages)
        };
        let two_names = |params: &mut rcgen::CertificateParams| {
            params.subject_alt_names.push(uri_name("cell://attacks/client/z?org=attacks"));
        };
        let cases: Vec<(&str, Papers, Status)> = vec![
            ("other CA", others.forge(X, |_| {}), Status::Unauthenticated),
            ("self-signed", self_signed(X), Status::Unauthenticated),
            ("expired", ours.forge(X, |p| set_dates(p, now - 900, now - 30)), Status::CertExpired),
            (
                "not yet valid",
                ours.forge(X, |p| set_dates(p, now + 60, now + 900)),
                Status::CertExpired,
            ),
            ("EKU of a server", eku(vec![ExtendedKeyUsagePurpose::ServerAuth]), Status::CertKind),
            ("no EKU", eku(vec![]), Status::CertKind),
            ("any EKU", eku(vec![ExtendedKeyUsagePurpose::Any]), Status::CertKind),
            ("other EKU", eku(vec![ExtendedKeyUsagePurpose::CodeSigning]), Status::CertKind),
            ("two URIs", ours.forge(X, two_names), Status::CertName),
            ("no URI", ours.forge(X, |p| p.subject_alt_names.clear()), Status::CertName),
            ("no URI form", ours.forge("spiffe://attacks/client/x", |_| {}), Status::CertName),
            ("no organisation", ours.forge("cell://attacks/client/x", |_| {}), Status::CertName),
            (
                "unknown key",
                ours.forge("cell://attacks/client/x?org=attacks&admin=1", |_| {}),
                Status::CertName,
            ),
            (
                "other project",
                ours.forge("cell://other/client/x?org=attacks", |_| {}),
                Status::CertName,
            ),
            (
                "unknown kind",
                ours.forge("cell://attacks/robot/x?org=attacks", |_| {}),
                Status::CertKind,
            ),
            (
                "job of nobody",
                ours.forge("cell://attacks/job/server.job-1?org=attacks", |_| {}),
                Status::CertKind,
            ),
        ];
        for (what, papers, status) in cases {
            let before = target.look().await;
            let read = target.inspect("server").await.counters.bytes_in;
            assert_alert(&refused(target, Dialling::honest(&papers)).await);
            let wanted = [("server", status, 1), ("server", Status::Unauthenticated, 1)];
            target.assert_refused(&before, &wanted).await;
            let report = target.inspect("server").await;
            assert_eq!(report.links.len(), 2, "{what}: {:?}", report.links);
            // Beats of honest cells may have been read, never nine bytes alone.
            let more = report.counters.bytes_in - read;
            assert!(more == 0 || more > 9, "{what}: {more} bytes were read");
        }
    });
}

#[test]
fn atk_053_without_a_certificate_nothing_is_read() {
    attack(async |target, _| {
        let before = target.look().await;
        let nobody = Dialling { papers: None, ..Dialling::honest(&target.papers("x")) };
        assert_alert(&refused(target, nobody).await);
        target.assert_refused(&before, &[("server", Status::Unauthenticated, 1)]).await;
        assert_eq!(target.inspect("server").await.links.len(), 2);
    });
}

#[test]
fn atk_030_the_name_in_the_uri_counts_and_the_common_name_does_not() {
    attack(async |target, guard| {
        guard.expect("CERT_NAME");
        let forger = target.forger();
        let named = |uri: &str, common_name: &str| {
            let set = |params: &mut rcgen::CertificateParams| {
                params.distinguished_name.push(DnType::CommonName, common_name);
            };
            forger.forge(uri, set)
        };
        let before = target.look().await;
        // Says it is x in the common name and in HELLO, and is z by its URI.
        let papers = named("cell://attacks/client/z?org=attacks", "x");
        let mut x = RawPeer::connect_with(target, "server", "x", &papers).await;
        x.say_hello().await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::CertName, 1)]).await;
        // Calls itself the server in the common name, and is no more than x.
        let papers = named(X, "server");
        let mut x = RawPeer::connect_with(target, "server", "x", &papers).await;
        x.register().await.expect("the URI is x's");
        let peer = |report: cellbus_runtime::cell::InspectReport| {
            report.registered.into_iter().find(|peer| peer.name == "x")
        };
        let peer = peer(target.inspect("server").await).expect("x is registered");
        assert_eq!((peer.kind.as_str(), peer.org.as_str()), ("client", "attacks"));
    });
}

#[test]
fn atk_032_a_cell_is_let_in_only_as_the_kind_that_it_is() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let forger = target.forger();
        let before = target.look().await;
        for kind in ["relay", "server", "admin"] {
            let papers = forger.forge(&format!("cell://attacks/{kind}/x?org=attacks"), |_| {});
            let mut x = RawPeer::connect_with(target, "server", "x", &papers).await;
            x.say_hello().await;
            assert_eq!(x.closed().await, Closed::unauthenticated(), "{kind}");
        }
        // A site's certificate for the name of a relay.
        let papers = forger.forge("cell://attacks/client/relay-x?org=attacks", |_| {});
        let mut relay = RawPeer::connect_with(target, "server", "relay-x", &papers).await;
        relay.say_hello().await;
        assert_eq!(relay.closed().await, Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::CertKind, 4)]).await;
        // A console that no topology knows.
        let papers = forger.forge("cell://attacks/admin/alice?org=attacks&role=lead", |_| {});
        let mut alice = RawPeer::connect_with(target, "server", "x", &papers).await;
        alice.me = "alice".parse().expect("a name");
        alice.say_hello().await;
        assert_eq!(alice.closed().await, Closed::unauthenticated());
        let refused = [("server", Status::CertKind, 4), ("server", Status::NotDirect, 1)];
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn atk_033_a_certificate_that_may_sign_others_is_no_cells() {
    attack(async |target, guard| {
        guard.expect("certificate refused");
        let before = target.look().await;
        let signs = target.forger().forge(X, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        });
        assert_alert(&refused(target, Dialling::honest(&signs)).await);
        target
            .until("it is counted", async || {
                target.refused_since(&before, "server", Status::Unauthenticated).await >= 1
            })
            .await;
        assert!(target.look().await.unchanged_since(&before));
    });
}

#[test]
fn atk_034_a_leaf_signs_no_other_leaf() {
    attack(async |target, guard| {
        guard.expect("certificate refused");
        let site = target.papers("z");
        let leaf = Forger::of_cell(&site);
        let forged = leaf.forge("cell://attacks/server/server?org=attacks", |_| {});
        let before = target.look().await;
        for chain in [
            vec![forged.chain[0].clone(), leaf.root()],
            vec![forged.chain[0].clone(), leaf.root(), target.forger().root()],
            vec![forged.chain[0].clone(); 9],
        ] {
            let papers = forged.with_chain(chain);
            assert_alert(&refused(target, Dialling::honest(&papers)).await);
        }
        target.assert_refused(&before, &[("server", Status::Unauthenticated, 6)]).await;
    });
}

#[test]
fn a_proof_for_the_certificate_of_another_is_no_proof() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let before = target.look().await;
        let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
        x.papers = x.papers.with_chain(target.papers("site-2").chain);
        let proof = x.proof(&ok.challenge);
        x.assert_proof_refused(&proof).await;
        target.assert_refused(&before, &[("server", Status::BadSignature, 1)]).await;
    });
}

#[test]
fn f_23_atk_037_a_certificate_that_ends_ends_its_connection_and_the_next_one_is_let_in() {
    attack(async |target, guard| {
        guard.expect("CERT_EXPIRED");
        guard.tolerate("certificate refused");
        let now = now_unix();
        let papers = target.forger().forge(X, |params| set_dates(params, now - 60, now + 40));
        let mut x = RawPeer::connect_with(target, "server", "x", &papers).await;
        x.register().await.expect("it has not ended yet");
        target.until_holds("server", "x", (true, true)).await;
        for _ in 0..20 {
            x.beat_and_wait().await;
            target.pass(Duration::from_secs(1)).await;
        }
        assert!(x.lives(), "it has not ended yet");
        let before = target.look().await;
        for _ in 0..25 {
            x.beat().await;
            target.pass(Duration::from_secs(1)).await;
        }
        assert_eq!(x.closed().await, Closed::protocol(Status::CertExpired));
        target.until_gone("server", "x").await;
        target.assert_refused(&before, &[("server", Status::CertExpired, 1)]).await;

        // Nothing of the session can be resumed, and what it was let in with is good for nothing any more.
        assert_alert(&refused(target, Dialling::honest(&papers)).await);
        let next = target.forger().forge(X, |params| set_dates(params, now, now + 900));
        let mut x = RawPeer::connect_with(target, "server", "x", &next).await;
        x.register().await.expect("it has another certificate");
        target.until_holds("server", "x", (true, true)).await;
    });
}

#[test]
fn atk_038_the_same_process_takes_its_name_over_and_a_copy_does_not() {
    attack(async |target, guard| {
        guard.expect("DUPLICATE_NAME");
        let mut first = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        // Another certificate of the same name.
        let other = target.forger().forge(X, |_| {});
        let mut copy = RawPeer::connect_with(target, "server", "x", &other).await;
        copy.incarnation.counter = 99;
        let (refused, ()) = tokio::join!(copy.register(), first.answer_ping());
        assert_eq!(refused.map(drop), Err(Status::DuplicateName));
        // The same one, in a process that is not newer, and in one that says it is.
        for counter in [1, 99] {
            let mut copy = RawPeer::connect(target, "server", "x").await;
            copy.incarnation.counter = counter;
            let (refused, ()) = tokio::join!(copy.register(), first.answer_ping());
            assert_eq!(refused.map(drop), Err(Status::DuplicateName));
        }
        target.assert_refused(&before, &[("server", Status::DuplicateName, 3)]).await;
        first.settle(Lane::Control).await;
        // The process itself comes again.
        let mut again = RawPeer::connect(target, "server", "x").await;
        again.incarnation = first.incarnation;
        again.register().await.expect("the same process");
        assert!(matches!(first.closed().await, Closed::Application(2, _)));
        again.settle(Lane::Control).await;
    });
}

#[test]
fn atk_052_no_session_is_resumed_and_no_early_data_taken() {
    attack(async |target, _| {
        let tickets = Arc::new(Tickets::default());
        let papers = target.papers("x");
        let resuming = Dialling { resumes: Some(tickets.clone()), ..Dialling::honest(&papers) };
        let (name, config) = (resuming.server_name.clone(), resuming.config());
        let endpoint = cellbus_attacks::peer::endpoint();
        let address = target.address("server");
        let dial = || endpoint.connect_with(config.clone(), address, &name).expect("it dials");
        let parent = target.full_name("server");
        for _ in 0..2 {
            let connecting = match dial().into_0rtt() {
                Ok(_) => panic!("there was a ticket to send early data with"),
                Err(connecting) => connecting,
            };
            let connection = connecting.await.expect("the papers are good");
            let me = target.full_name("x");
            let mut x =
                RawPeer::over(connection, endpoint.clone(), &papers, me, parent.clone()).await;
            x.register().await.expect("the papers are good");
            // A ticket comes with the first packets after the handshake.
            x.beat_and_wait().await;
            assert_eq!(tickets.count(), 0, "a session can be resumed past a revocation");
            assert_eq!(tickets.address_tokens(), 0, "nobody asked to be known again");
            drop(x);
            target.until_gone("server", "x").await;
        }
    });
}

#[test]
fn atk_161_another_application_protocol_or_none_at_all_is_refused() {
    attack(async |target, _| {
        let papers = target.papers("x");
        let before = target.look().await;
        let offers: [&[&[u8]]; 6] = [
            &[],
            &[b"cellbus/0"],
            &[b"cellbus/2"],
            &[b"cellbus-admin/1"],
            &[b"h3"],
            &[b"cellbus/1 "],
        ];
        for offer in offers {
            let end = refused(target, Dialling::honest(&papers).alpn(offer)).await;
            assert_alert(&end);
        }
        target.assert_refused(&before, &[("server", Status::Unauthenticated, 6)]).await;
        assert_eq!(target.inspect("server").await.links.len(), 2);
    });
}

#[test]
fn s_03_who_asks_for_another_server_is_shown_no_certificate() {
    attack(async |target, _| {
        let papers = target.papers("x");
        let before = target.look().await;
        for name in ["server", "localhost", "127.0.0.1", "cell.cellbus.invalid.example"] {
            let other = Dialling { server_name: name.to_owned(), ..Dialling::honest(&papers) };
            let outcome = other.connect(target.address("server")).await.map(drop);
            let end = Closed::from_error(&outcome.expect_err("nobody of that name is here"));
            assert_alert(&end);
        }
        target.assert_refused(&before, &[("server", Status::Unauthenticated, 4)]).await;
    });
}

#[test]
fn a_hello_of_a_cell_that_was_never_provisioned_is_refused() {
    attack(async |target, guard| {
        guard.expect("NOT_DIRECT");
        let before = target.look().await;
        let papers = target.forger().forge("cell://attacks/client/ghost?org=attacks", |_| {});
        let mut ghost = RawPeer::connect_with(target, "server", "x", &papers).await;
        let hello = Hello { name: "ghost".parse().expect("a name"), ..ghost.hello() };
        ghost.send_frame(&Frame::Hello(hello)).await;
        assert_eq!(ghost.closed().await, Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::NotDirect, 1)]).await;
    });
}
