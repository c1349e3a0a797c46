//! Parents that are none, and a relay that has a certificate and no scruples, towards its own child.

use std::time::Duration;

use bytes::Bytes;
use cellbus_attacks::{
    Closed, Forger, Outcome, Papers, RawPeer, Target, attack,
    papers::now_unix,
    rogue_parent::{Caught, RogueParent},
};
use cellbus_cells::node::NodeCell;
use cellbus_proto::{
    codec::{
        Frame, Octets,
        body::{
            self, Blob, ChallengeChild, ChildChallenge, ChildRegistered, HelloOk, RegisterChild,
            Registered, SignedServerKey, WireIncarnation,
        },
    },
    directory::Directory,
    envelope::{Address, Common, Envelope, Flags, Header, Incarnation, Kind, Lane},
    identity::{CellKind, Identity},
    name::Fqcn,
    policy::Policy,
    status::Status,
    token::Token,
    well_known::{BYE, CHALLENGE_CHILD, PING, REGISTER_CHILD},
};
use cellbus_runtime::{
    authority::{OwnCertificate, mint_job},
    carrier::DialTarget,
    cell::{CellSettings, CellState, Roster},
    clock::WallClock,
    endpoint::EndpointSettings,
    host::{CellStart, RunningCell},
    own::Own,
    quic::{Checks, QuicPort},
    quic_settings::{QuicSettings, QuicTransport},
    tls::Roots,
};
use std::sync::Arc;

pub(crate) fn name(text: &str) -> Fqcn {
    text.parse().expect("a name")
}

/// A rogue in the place of relay-x, and the honest site-9 that dials it.
pub(crate) async fn rogue(target: &Target, papers: &Papers) -> (RogueParent, NodeCell) {
    let parent = RogueParent::listen(papers, name("relay-x"), CellKind::Relay);
    let child = target.start_below("site-9", "relay-x", parent.address()).await;
    (parent, child)
}

/// A message of a parent to its child.
fn message(from: &str, to: &str, target: &str, token: Option<Token>, sequence: u64) -> Envelope {
    Envelope {
        header: Header {
            kind: Kind::Request,
            sequence,
            common: Arc::new(Common {
                origin: Address::exact(name(from), Incarnation { counter: 1, nonce: 1 }),
                destination: Address::any(name(to)),
                target: target.parse().expect("a channel and topic"),
                token,
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 5000,
            hops_left: 5,
            extras: None,
        },
        payload: Bytes::from_static(b"order"),
    }
}

pub(crate) async fn refusals(cell: &RunningCell, status: Status) -> u64 {
    let report = cell.inspect().await.expect("it runs");
    report.counters.refused.get(status.code()).copied().unwrap_or(0)
}

pub(crate) async fn until_refused(target: &Target, cell: &RunningCell, status: Status, count: u64) {
    let what = format!("{count} refusals with {status}");
    target.until(&what, async || refusals(cell, status).await == count).await;
}

#[test]
fn s_01_a_child_tells_nothing_to_a_parent_with_a_bad_certificate() {
    attack(async |target, guard| {
        guard.expect("certificate refused");
        const RELAY: &str = "cell://attacks/relay/relay-x?org=attacks";
        let ours = target.forger();
        let now = now_unix();
        let bad = [
            Forger::of_another_project().forge(RELAY, |_| {}),
            cellbus_attacks::papers::self_signed(RELAY),
            ours.forge(RELAY, |params| {
                cellbus_attacks::papers::set_dates(params, now - 900, now - 30)
            }),
            // Others of the project: another relay, a site, and a relay's name without a relay's usage.
            target.papers("relay"),
            target.papers("site-1"),
            ours.forge(RELAY, |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ];
        let (mut parent, child) = rogue(target, &bad[0]).await;
        for papers in &bad {
            parent.show(papers);
            // The first one may have begun before it was shown.
            for _ in 0..2 {
                let end = parent.handshake().await.map(drop).expect_err("the child refuses");
                assert!(matches!(end, Closed::Transport(0x100..0x200, _)), "{end:?}");
            }
        }
        assert_ne!(child.running().state(), CellState::Ready);
        assert_eq!(target.calls(), []);
    });
}

#[test]
fn p_03_hello_ok_can_say_nothing_but_what_was_dialled() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let (parent, child) = rogue(target, &target.papers("relay-x")).await;
        type Lie = fn(&mut HelloOk);
        let lies: [Lie; 6] = [
            |ok| ok.name = name("server"),
            |ok| ok.name = name("relay"),
            |ok| ok.kind = CellKind::Server,
            |ok| ok.version = 2,
            |ok| ok.challenge.server = name("relay-x"),
            |ok| ok.incarnation = WireIncarnation(0, 1),
        ];
        for lie in lies {
            let mut caught = parent.catch().await;
            let mut ok = caught.hello_ok(&caught.challenge([7; 32]));
            lie(&mut ok);
            caught.send(&Frame::HelloOk(ok)).await;
            assert_eq!(caught.closed().await, Closed::unauthenticated());
        }
        until_refused(target, child.running(), Status::CertName, 6).await;
        assert_ne!(child.running().state(), CellState::Ready);
    });
}

#[test]
fn atk_072_a_relay_cannot_be_the_server_for_its_leaf() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let papers = target.papers("relay-x");
        let (parent, child) = rogue(target, &papers).await;
        let server_chain: Vec<Blob> =
            target.papers("server").chain.iter().map(|der| Blob(der.to_vec())).collect();
        let own_chain: Vec<Blob> = papers.chain.iter().map(|der| Blob(der.to_vec())).collect();
        let key = |chain: &[Blob]| SignedServerKey {
            server: name("server"),
            incarnation: WireIncarnation(1, 1),
            key: Octets([9; 32]),
            chain: chain.to_vec(),
            signature: Blob(papers.sign(b"anything")),
        };
        // The acknowledgement is missing, or good, and the key of the tokens is the relay's own invention.
        for (acknowledges, chain) in
            [(false, &server_chain), (true, &server_chain), (true, &own_chain), (true, &Vec::new())]
        {
            let mut caught = parent.catch().await;
            let challenge = caught.challenge([7; 32]);
            let (to, _) = caught.proof(&challenge).await;
            let signature =
                if acknowledges { caught.acknowledgement(&challenge) } else { Blob(vec![0; 70]) };
            let registered = Registered {
                signature,
                token: Blob(vec![1; 100]),
                server_key: key(chain),
                epoch: 1,
            };
            caught.answer(to, &registered).await;
            assert_eq!(caught.closed().await, Closed::unauthenticated());
        }
        until_refused(target, child.running(), Status::BadSignature, 4).await;
        assert_ne!(child.running().state(), CellState::Ready);
        assert_eq!(target.calls(), []);
    });
}

/// The rogue relay registers its honest child at the server, as a relay should, to be believed.
pub(crate) async fn believed(
    target: &Target,
    upwards: &mut RawPeer,
    parent: &RogueParent,
    child: &NodeCell,
) -> Caught {
    let mut ask = async |topic: cellbus_proto::well_known::SystemTopic, body: Bytes| {
        let mut request = upwards.request("server", "task/fetch");
        request.header.target = topic.into();
        request.header.lane = Lane::Control;
        request.payload = body;
        let outcome = upwards.ask(request).await;
        let Outcome::Replied(body) = outcome else { panic!("{outcome:?}") };
        body
    };
    let mut caught = parent.catch().await;
    let leaf = caught.hello.name.clone();
    let body = ask(CHALLENGE_CHILD, body::encode(&ChallengeChild { child: leaf.clone() })).await;
    let ChildChallenge { nonce } = body::decode_exact(&body).expect("a challenge");
    let challenge = caught.challenge(nonce.0);
    let (to, proof) = caught.proof(&challenge).await;
    let body = body::encode(&RegisterChild {
        child: leaf,
        incarnation: caught.hello.incarnation,
        chain: caught.child_chain().iter().map(|der| Blob(der.to_vec())).collect(),
        signature: proof.end_to_end,
        job: None,
    });
    let body = ask(REGISTER_CHILD, body).await;
    let ChildRegistered { token, server_key } = body::decode_exact(&body).expect("a registration");
    let signature = caught.acknowledgement(&challenge);
    caught.answer(to, &Registered { signature, token, server_key, epoch: 1 }).await;
    target
        .until("site-9 is registered", async || child.running().state() == CellState::Ready)
        .await;
    caught
}

#[test]
fn atk_073_a_relay_that_is_believed_still_speaks_for_nobody_but_itself() {
    attack(async |target, guard| {
        guard.expect("message refused");
        let mut upwards = RawPeer::registered(target, "server", "relay-x").await;
        let own = upwards.token.clone();
        let (parent, child) = rogue(target, &target.papers("relay-x")).await;
        let mut caught = believed(target, &mut upwards, &parent, &child).await;
        let before = target.look().await;
        let leaf = "relay-x.site-9";
        let attempts = [
            // As the server, without and with a token that is not the server's.
            ("server", leaf, None, Status::NoToken),
            ("server", leaf, own.clone(), Status::TokenWrongConn),
            ("site-2", leaf, own.clone(), Status::TokenWrongConn),
            // As the leaf itself, and as one of its jobs.
            (leaf, leaf, own.clone(), Status::OriginMismatch),
            ("relay-x.site-9.job-1", leaf, own.clone(), Status::OriginMismatch),
            // As itself: no rule lets it.
            ("relay-x", leaf, own.clone(), Status::TopicDenied),
            // For somebody else, through the leaf.
            ("relay-x", "site-2", own.clone(), Status::TopicDenied),
        ];
        let mut expected = std::collections::BTreeMap::new();
        for (number, (from, to, token, status)) in attempts.into_iter().enumerate() {
            let number = u64::try_from(number).expect("few") + 1;
            caught.send_message(message(from, to, "task/fetch", token, number)).await;
            *expected.entry(status).or_insert(0) += 1;
        }
        for (status, count) in expected {
            until_refused(target, child.running(), status, count).await;
        }
        // An exempt request goes upwards only, and a bye only to the neighbour itself.
        let mut bye = message("server", leaf, "task/fetch", own.clone(), 90);
        (bye.header.target, bye.header.lane) = (BYE.into(), Lane::Control);
        caught.send_message(bye).await;
        until_refused(target, child.running(), Status::OriginMismatch, 3).await;
        assert_eq!(child.running().state(), CellState::Ready);
        assert_eq!(target.calls(), [], "an order was obeyed");
        assert!(target.look().await.unchanged_since(&before));
    });
}

#[test]
fn g_31_a_parent_that_echoes_beats_and_reads_no_lane_is_left() {
    attack(async |target, guard| {
        guard.expect("the lane is stuck");
        let mut upwards = RawPeer::registered(target, "server", "relay-x").await;
        let (parent, child) = rogue(target, &target.papers("relay-x")).await;
        let mut caught = believed(target, &mut upwards, &parent, &child).await;
        let bus = child.running().bus();
        let asked = bus.request(name("server"), "task/fetch".parse().expect("a topic"));
        let waiting = tokio::spawn(asked.budget(Duration::from_secs(120)).send());
        let (begun, connection) = (tokio::time::Instant::now(), caught.connection.clone());
        let end = loop {
            assert!(begun.elapsed() < Duration::from_secs(60), "beats alone are believed");
            tokio::select! {
                biased;
                end = connection.closed() => break Closed::from_error(&end),
                () = target.pass(Duration::from_secs(5)) => {}
                () = caught.expect_frame(|_| None::<()>) => {}
            }
        };
        assert_eq!(end, Closed::Application(3, "the lane is stuck".to_owned()));
        assert!(begun.elapsed() > Duration::from_secs(24), "{:?}", begun.elapsed());
        assert_eq!(refusals(child.running(), Status::SlowConsumer).await, 1);
        let lost = waiting.await.expect("it does not panic").unwrap_err();
        assert_eq!(lost.status(), Status::PeerLost);
    });
}

#[test]
fn a_message_of_a_parent_that_has_not_let_the_child_in_reaches_no_handler() {
    attack(async |target, guard| {
        guard.tolerate("link closed");
        let (parent, child) = rogue(target, &target.papers("relay-x")).await;
        let server = target.cell("server").own().token();
        let mut caught = parent.catch().await;
        let challenge = caught.challenge([7; 32]);
        let ok = caught.hello_ok(&challenge);
        caught.send(&Frame::HelloOk(ok)).await;
        for (number, lane) in [Lane::Control, Lane::Interactive].into_iter().enumerate() {
            let number = u64::try_from(number).expect("few") + 1;
            let mut order =
                message("server", "relay-x.site-9", "task/fetch", server.clone(), number);
            order.header.lane = lane;
            caught.send_message(order).await;
        }
        target.ping("site-2", "server").await;
        target.pass(Duration::from_millis(500)).await;
        assert_eq!(target.calls(), []);
        assert_ne!(child.running().state(), CellState::Ready);
    });
}

#[derive(Debug)]
struct Nobody;

impl Roster for Nobody {
    fn child_kind(&self, _: &Fqcn) -> Option<CellKind> {
        None
    }

    fn kind_of(&self, _: &Fqcn) -> Option<CellKind> {
        None
    }
}

#[test]
fn atk_158_a_job_cell_has_its_filter_too() {
    attack(async |target, guard| {
        guard.tolerate("link closed");
        guard.expect("certificate refused");
        let job = name("site-2.job-1");
        let identity = Identity {
            project: "attacks".parse().expect("a name"),
            kind: CellKind::Job,
            name: job.clone(),
            org: "attacks".parse().expect("a name"),
            role: None,
        };
        let issued = mint_job(&identity, now_unix()).expect("a certificate can be made");
        let certificate = OwnCertificate::try_from(&issued).expect("a pair");
        let (site, stranger) = (target.papers("site-2"), target.papers("site-1"));
        let wall = WallClock::system();
        let own = Arc::new(Own::new(
            job.clone(),
            name("server"),
            Some(name("site-2")),
            Incarnation { counter: 1, nonce: 1 },
            certificate,
            Arc::new(Roots::new(vec![target.forger().root()]).expect("roots")),
            wall,
        ));
        let transport = QuicTransport::new(QuicSettings::default()).expect("settings");
        let port = QuicPort::dialling(&transport, ([127, 0, 0, 1], 0).into()).expect("a port");
        let checks = Checks { wall, counters: Arc::clone(&own.counters) };
        // One that is not pinned comes first, then the pinned one, which sends before it has let the job in.
        for (papers, pinned) in [(&stranger, false), (&site, true)] {
            let parent = RogueParent::listen(papers, name("site-2"), CellKind::Client);
            let at = DialTarget::Host(parent.address().to_string());
            let dial =
                port.dial_pinned(&own.certificate(), site.hash(), at, &checks).expect("it dials");
            let cell = cellbus_runtime::host::start(CellStart {
                own: Arc::clone(&own),
                policy: Arc::new(Policy::new(1, Vec::new())),
                directory: Arc::new(Directory::default()),
                roster: Arc::new(Nobody),
                dial: Some(dial),
                accept: None,
                cell: CellSettings::default(),
                endpoint: EndpointSettings::default(),
                hops_max: 16,
            })
            .expect("it starts");
            if pinned {
                let mut caught = parent.catch().await;
                let challenge = caught.challenge([7; 32]);
                caught.proof(&challenge).await;
                let server = target.cell("server").own().token();
                for (number, topic) in ["task/fetch", "cell/ping"].into_iter().enumerate() {
                    let number = u64::try_from(number).expect("few") + 1;
                    let mut order =
                        message("server", "site-2.job-1", topic, server.clone(), number);
                    order.header.lane = Lane::Control;
                    if topic == "cell/ping" {
                        order.header.target = PING.into();
                    }
                    caught.send_message(order).await;
                }
                target.pass(Duration::from_millis(500)).await;
                let report = cell.inspect().await.expect("it runs");
                assert_eq!((report.counters.delivered, report.counters.accepted), (0, 0));
            } else {
                let end = parent.handshake().await.map(drop).expect_err("the job refuses");
                assert!(matches!(end, Closed::Transport(0x100..0x200, _)), "{end:?}");
            }
            assert_ne!(cell.state(), CellState::Ready);
            cell.stop();
            cell.wait_for(CellState::Stopped).await;
        }
    });
}
