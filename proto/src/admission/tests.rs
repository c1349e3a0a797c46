use proptest::prelude::*;

use super::*;
use crate::{
    codec::Octets,
    envelope::{Address, Common, Flags, Incarnation, Lane},
    policy::{Pattern, Rule},
    testing::at,
    token::{ServerKey, TokenSigner},
};

mod rules;

const NOW: u64 = 1_800_000_000;
const SERVER: Incarnation = Incarnation { counter: 1, nonce: 7 };

fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

fn signer() -> TokenSigner {
    TokenSigner::new(&[1; 32])
}

fn leaf(of: &str) -> [u8; 32] {
    crate::transcript::sha256(of.as_bytes())
}

fn claims(subject: &str, kind: CellKind) -> Claims {
    let subject = name(subject);
    Claims {
        version: Claims::VERSION,
        issuer: name("server"),
        project: "study".parse().unwrap(),
        via: subject.parent().unwrap_or_else(|| name("server")),
        kind,
        org: "org".parse().unwrap(),
        server_counter: SERVER.counter,
        server_nonce: SERVER.nonce,
        issued: NOW,
        expires: NOW + 900,
        id: Octets([1; 16]),
        leaf: Octets(leaf(subject.as_str())),
        job: (kind == CellKind::Job).then(|| subject.base().parse().unwrap()),
        subject,
    }
}

fn kind_of(subject: &str) -> CellKind {
    directory().kind_of(&name(subject)).unwrap_or(CellKind::Client)
}

fn directory() -> Directory {
    Directory::from_iter([
        (name("server"), CellKind::Server),
        (name("relay"), CellKind::Relay),
        (name("site-3"), CellKind::Client),
        (name("relay.site-1"), CellKind::Client),
        (name("relay.site-2"), CellKind::Client),
    ])
}

/// The gate of `relay`, between the server and two sites, with one rule: sites may `task/fetch` at the
/// server.
fn gate() -> Gate {
    let rule = Rule::new(
        crate::policy::Effect::Allow,
        Pattern::Prefix("site-".into()),
        Pattern::Name("server".parse().unwrap()),
        "task".parse().unwrap(),
        vec!["fetch".parse().unwrap()],
    );
    let policy = Policy::new(3, vec![rule]);
    let mut tokens = TokenVerifier::new("study".parse().unwrap());
    tokens.set_server(ServerKey {
        server: name("server"),
        incarnation: SERVER,
        key: signer().public_key(),
    });
    let mut gate = Gate::new(Arc::new(policy), Arc::new(directory()), tokens);
    let mut routes = Routes::new(name("relay"), false);
    routes.set_uplink(Some(LinkId(0)));
    routes.insert_child(name("relay.site-1"), LinkId(1));
    routes.insert_child(name("relay.site-2"), LinkId(2));
    gate.set_routes(Arc::new(routes));
    gate
}

fn peer(link: u64, subject: &str, phase: Phase) -> Peer {
    Peer {
        link: LinkId(link),
        name: name(subject),
        kind: kind_of(subject),
        org: "org".parse().unwrap(),
        leaf: leaf(subject),
        is_parent: subject == "server",
        phase,
    }
}

fn envelope(from: &str, to: &str, target: &str) -> Envelope {
    let mut envelope = bare(from, to, target);
    envelope.header.token = Some(signer().sign(&claims(from, kind_of(from))));
    envelope
}

/// A request without a token.
fn bare(from: &str, to: &str, target: &str) -> Envelope {
    let incarnation = Incarnation { counter: 1, nonce: 1 };
    Envelope {
        header: Header {
            kind: Kind::Request,
            sequence: 1,
            common: Arc::new(Common {
                origin: Address::exact(name(from), incarnation),
                destination: Address::any(name(to)),
                target: target.parse().unwrap(),
                token: None,
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 1000,
            hops_left: 255,
            extras: None,
        },
        payload: bytes::Bytes::new(),
    }
}

fn status(gate: &mut Gate, envelope: Envelope, peer: &Peer) -> Result<Permit, Status> {
    gate.admit(at(0), NOW, envelope, Arrival::Link(peer))
        .map(|admitted| admitted.permit())
        .map_err(|refused| refused.status)
}

fn site_1() -> Peer {
    peer(1, "relay.site-1", Phase::Active)
}

#[test]
fn what_a_rule_allows_passes_with_its_evidence_and_the_first_hop_sets_the_hops() {
    let admitted = gate()
        .admit(
            at(0),
            NOW,
            envelope("relay.site-1", "server", "task/fetch"),
            Arrival::Link(&site_1()),
        )
        .unwrap();
    assert_eq!(admitted.permit(), Permit::Rule { revision: 3, rule: 0 });
    assert_eq!(admitted.header().hops_left, Gate::HOPS_MAX, "255 was asked for");
    let Verified::Claims(claims) = admitted.verified() else { panic!("verified by token") };
    assert_eq!(claims.subject, name("relay.site-1"));
}

#[test]
fn s_20_nobody_but_the_system_uses_its_lane_and_no_hop_adds_hops() {
    let lane_and_hops = |from: &str, arrival: &Peer, target: &str| {
        let mut urgent = envelope(from, "server", target);
        urgent.header.lane = Lane::Control;
        let admitted = gate().admit(at(0), NOW, urgent, Arrival::Link(arrival)).unwrap();
        (admitted.header().lane, admitted.header().hops_left)
    };
    let site = site_1();
    let application = lane_and_hops("relay.site-1", &site, "task/fetch");
    assert_eq!(application, (Lane::Interactive, Gate::HOPS_MAX));
    let system = lane_and_hops("relay.site-1", &site, "cell/ping");
    assert_eq!(system, (Lane::Control, Gate::HOPS_MAX));
    // Not the first hop: the claims say that it registered behind this neighbour.
    let behind = lane_and_hops("relay.site-1", &peer(1, "relay", Phase::Active), "task/fetch");
    assert_eq!(behind, (Lane::Interactive, Gate::HOPS_MAX));
}

#[test]
fn g_07_a_return_gets_through_whatever_was_asked_for() {
    for target in ["task/fetch", "admin/shutdown", "cell/unheard_of", "cellnet.channel/stop"] {
        let mut failed = envelope("relay.site-1", "server", target);
        failed.header.kind =
            Kind::Return { to: 1, status: Status::TopicDenied, by: name("relay.site-1") };
        assert!(status(&mut gate(), failed, &site_1()).is_ok(), "{target}");
    }
}

#[test]
fn s1_08_a_gate_without_a_name_refuses_everything() {
    let policy = Arc::new(Policy::new(0, vec![]));
    let tokens = TokenVerifier::new("study".parse().unwrap());
    let mut gate = Gate::new(policy, Arc::new(directory()), tokens);
    for target in ["task/fetch", "cellnet.channel/bye", "task/register", "task/challenge"] {
        let refused = gate
            .admit(at(0), NOW, envelope("relay.site-1", "relay", target), Arrival::Link(&site_1()))
            .unwrap_err();
        assert_eq!(refused.consequence, Consequence::Close);
    }
}

#[test]
fn what_nothing_allows_is_refused_and_answered() {
    for (to, target) in [
        ("server", "task/submit"),
        ("relay.site-2", "task/fetch"),
        ("relay", "task/fetch"),
        ("server", "admin/shutdown"),
        ("nowhere", "task/fetch"),
        ("server", "cell/unheard_of"),
        ("server", "cell/job_ended_x"),
        ("relay.site-2", "cell/job_start"),
        ("server", "cellnet.channel/stop"),
    ] {
        let refused = gate()
            .admit(at(0), NOW, envelope("relay.site-1", to, target), Arrival::Link(&site_1()))
            .unwrap_err();
        assert_eq!(refused.status, Status::TopicDenied, "{to} {target}");
        assert_eq!(refused.consequence, Consequence::Answer);
    }
}

#[test]
fn atk_054_a_spoofed_origin_is_refused_in_silence() {
    for origin in ["server", "relay.site-2", "relay", "site-3", "relay.site-12", "relay.site-2.job"]
    {
        let refused = gate()
            .admit(at(0), NOW, envelope(origin, "server", "task/fetch"), Arrival::Link(&site_1()))
            .unwrap_err();
        assert_eq!(refused.status, Status::OriginMismatch, "{origin}");
        assert_eq!(refused.consequence, Consequence::Silence, "an answer would go to the victim");
    }
}

#[test]
fn atk_041_a_stolen_token_is_useless_on_another_connection() {
    let stolen = envelope("relay.site-2", "server", "task/fetch").header.token.clone();
    let mut message = envelope("relay.site-1", "server", "task/fetch");
    message.header.token = stolen;
    assert_eq!(status(&mut gate(), message, &site_1()), Err(Status::TokenWrongConn));
    let own = envelope("relay.site-1", "server", "task/fetch");
    let other_key = Peer { leaf: leaf("another certificate"), ..site_1() };
    assert_eq!(status(&mut gate(), own, &other_key), Err(Status::TokenWrongConn));
}

#[test]
fn atk_041_a_token_is_good_only_behind_the_cell_that_it_was_registered_through() {
    let behind = |via: &str| {
        let claims = Claims { via: name(via), ..claims("relay.site-1.job-1", CellKind::Job) };
        let mut message = envelope("relay.site-1.job-1", "relay.site-1", "task/fetch");
        message.header.token = Some(signer().sign(&claims));
        status(&mut gate(), message, &site_1())
    };
    assert_eq!(behind("relay.site-1"), Ok(Permit::Job));
    for elsewhere in ["server", "relay", "relay.site-2", "relay.site-10"] {
        assert_eq!(behind(elsewhere), Err(Status::TokenWrongConn), "{elsewhere}");
    }
}

#[test]
fn a_message_without_a_token_passes_in_no_direction_and_as_no_kind() {
    let kinds = [
        Kind::Publish,
        Kind::Request,
        Kind::Reply { to: 1 },
        Kind::Return { to: 1, status: Status::NoRoute, by: name("relay.site-1") },
    ];
    for kind in kinds {
        let mut up = envelope("relay.site-1", "server", "task/fetch");
        up.header.token = None;
        up.header.kind = kind.clone();
        assert_eq!(status(&mut gate(), up, &site_1()), Err(Status::NoToken));
        let mut down = envelope("server", "relay.site-1", "task/fetch");
        down.header.token = None;
        down.header.kind = kind;
        assert_eq!(
            status(&mut gate(), down, &peer(0, "server", Phase::Active)),
            Err(Status::NoToken)
        );
    }
}

#[test]
fn a_reply_is_judged_as_its_request_would_be() {
    let server = peer(0, "server", Phase::Active);
    let mut reply = envelope("server", "relay.site-1", "task/fetch");
    reply.header.kind = Kind::Reply { to: 4 };
    assert!(status(&mut gate(), reply.clone(), &server).is_ok());
    reply.header.target = "task/submit".parse().unwrap();
    assert_eq!(status(&mut gate(), reply, &server), Err(Status::TopicDenied));
    let unasked = envelope("server", "relay.site-1", "task/fetch");
    assert_eq!(status(&mut gate(), unasked, &server), Err(Status::TopicDenied));
}

#[test]
fn j_13_a_job_cell_reaches_its_own_job_and_its_parent_and_nothing_else() {
    let mut gate = gate();
    let from = "relay.site-1.job-1";
    let mut ask = |to: &str, target: &str| status(&mut gate, envelope(from, to, target), &site_1());
    assert_eq!(ask("server.job-1", "any/thing"), Ok(Permit::Job));
    assert_eq!(ask("relay.site-2.job-1", "any/thing"), Ok(Permit::Job));
    for to in ["server.job-2", "server", "relay.site-2", "relay.site-2.job-2", "site-3", "relay"] {
        assert_eq!(ask(to, "task/fetch"), Err(Status::JobScope), "{to}");
    }
    for to in ["server", "relay.site-2.job-2"] {
        assert_eq!(ask(to, "cell/ping"), Err(Status::TopicDenied), "{to}");
        assert_eq!(ask(to, "cell/cancel"), Err(Status::TopicDenied), "{to}");
        assert_eq!(ask(to, "cell/register_child"), Err(Status::TopicDenied), "{to}");
    }
    assert_eq!(ask("server.job-1", "cell/ping"), Ok(Permit::System(well_known::PING)));
    let cancels = Ok(Permit::System(well_known::CANCEL));
    assert_eq!(ask("server.job-1", "cell/cancel"), cancels);
    assert_eq!(ask("server.job-1", "cellnet.channel/x"), Err(Status::TopicDenied));
}

#[test]
fn tokens_of_the_past_and_of_nobody_are_refused_each_with_its_code() {
    let mut gate = gate();
    let message = || envelope("relay.site-1", "server", "task/fetch");
    gate.tokens().revoke_subject(name("relay.site-1"), NOW);
    assert_eq!(status(&mut gate, message(), &site_1()), Err(Status::TokenRevoked));
    let mut gate = self::gate();
    let late = gate.admit(at(0), NOW + 931, message(), Arrival::Link(&site_1())).unwrap_err();
    assert_eq!(late.status, Status::TokenExpired);
    let mut forged = message();
    let key = TokenSigner::new(&[9; 32]);
    forged.header.token = Some(key.sign(&claims("relay.site-1", CellKind::Client)));
    assert_eq!(status(&mut gate, forged, &site_1()), Err(Status::BadToken));
}

/// The three lines: an exempt message is let in without a token if, and only if, it is a request, from
/// exactly the neighbour, to exactly this cell, in a state that allows it, and small.
fn oracle(e: &Envelope, peer: &Peer, me: &str) -> bool {
    let addressed = e.header.kind == Kind::Request
        && e.header.destination.name.as_str() == me
        && e.header.origin.name == peer.name;
    let (state, cap) = match (e.header.target.to_string().as_str(), peer.phase) {
        ("cellnet.channel/bye", Phase::Challenged | Phase::Active | Phase::Draining) => (true, 0),
        ("task/challenge", Phase::Challenged | Phase::Active) => (!peer.is_parent, 8 << 10),
        ("task/register", Phase::Challenged) => (!peer.is_parent, 64 << 10),
        _ => (false, 0),
    };
    addressed && state && e.payload.len() <= cap
}

#[test]
fn s1_07_exactly_what_the_oracle_says_is_exempt() {
    let names = [
        "relay",
        "server",
        "relay.site-1",
        "relay.site-2",
        "relay.site-1.job",
        "site-3",
        "relay2",
        "relay.site",
        "rela",
        "relay.site-11",
        "relay.relay-2",
    ];
    let targets = [
        "cellnet.channel/bye",
        "task/challenge",
        "task/register",
        "task/bye",
        "cellnet.channel/register",
        "cellnet.channel/challenge",
        "hci_channel/register",
        "task/fetch",
        "cellnet.channel./bye",
        "cellnet.channel/bye.",
        "cellnet.channel/by",
        "task/registe",
        "cellnet/bye",
        "cell/ping",
    ];
    let kinds = [
        Kind::Publish,
        Kind::Request,
        Kind::Reply { to: 1 },
        Kind::Return { to: 1, status: Status::NoRoute, by: name("relay") },
    ];
    let peers = ["server", "relay.site-1"];
    let (mut gate, mut cases, mut exempt) = (gate(), 0u32, 0u32);
    for destination in names {
        for origin in names {
            for target in targets {
                for kind in &kinds {
                    for (link, neighbour) in peers.iter().enumerate() {
                        for phase in Phase::ALL {
                            for size in [0, 1, 8 << 10, (8 << 10) + 1, 64 << 10, (64 << 10) + 1] {
                                let mut e = bare(origin, destination, target);
                                e.header.kind = kind.clone();
                                e.payload = vec![0; size].into();
                                let peer = peer(link as u64, neighbour, phase);
                                let want = oracle(&e, &peer, "relay");
                                let got = gate.admit(at(0), NOW, e, Arrival::Link(&peer));
                                assert_eq!(
                                    got.is_ok(),
                                    want,
                                    "{origin} -> {destination} {target} {kind:?} {phase:?} {size} {neighbour}"
                                );
                                cases += 1;
                                exempt += u32::from(want);
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(cases >= 10_000 && exempt > 0, "{cases} cases, {exempt} exempt");
}

#[test]
fn s1_05_a_bye_for_another_is_refused_also_with_a_valid_token() {
    for to in ["server", "relay.site-2"] {
        let bye = envelope("relay.site-1", to, "cellnet.channel/bye");
        assert_eq!(status(&mut gate(), bye, &site_1()), Err(Status::NotDirect));
    }
    let for_another = envelope("relay.site-2", "relay", "cellnet.channel/bye");
    assert_eq!(status(&mut gate(), for_another, &site_1()), Err(Status::OriginMismatch));
    let mut register = envelope("relay.site-1", "server", "task/register");
    register.header.token = None;
    let challenged = peer(1, "relay.site-1", Phase::Challenged);
    assert_eq!(status(&mut gate(), register, &challenged), Err(Status::NotDirect), "S1-15");
}

#[test]
fn atk_008_and_009_a_bye_is_a_request_without_a_body() {
    let mut bye = envelope("relay.site-1", "relay", "cellnet.channel/bye");
    bye.header.kind = Kind::Reply { to: 1 };
    assert_eq!(status(&mut gate(), bye, &site_1()), Err(Status::ReplyUnsolicited));
    let mut bye = envelope("relay.site-1", "relay", "cellnet.channel/bye");
    bye.payload = bytes::Bytes::from_static(b"x");
    assert_eq!(status(&mut gate(), bye, &site_1()), Err(Status::TooLarge));
}

#[test]
fn this_cell_itself_may_speak_only_for_itself() {
    let mut gate = gate();
    let own = envelope("relay", "server", "cell/ping");
    assert!(gate.admit(at(0), NOW, own, Arrival::Local).is_ok());
    let other = envelope("relay.site-1", "server", "cell/ping");
    let refused = gate.admit(at(0), NOW, other, Arrival::Local).unwrap_err();
    assert_eq!(refused.status, Status::OriginMismatch);
    let bye = envelope("relay", "server", "cellnet.channel/bye");
    assert_eq!(gate.admit(at(0), NOW, bye, Arrival::Local).unwrap_err().status, Status::NotDirect);
}

proptest! {
    /// Whatever is admitted without an exemption came with a good token of its own origin, by the
    /// only link that leads there.
    #[test]
    fn nothing_is_admitted_without_evidence(
        origin in prop::sample::select(vec!["server", "relay", "relay.site-1", "relay.site-2", "site-3", "relay.site-1.job-1"]),
        token_of in prop::sample::select(vec!["server", "relay", "relay.site-1", "relay.site-2", "site-3", "relay.site-1.job-1"]),
        by in prop::sample::select(vec![(0u64, "server"), (1, "relay.site-1"), (2, "relay.site-2")]),
        to in prop::sample::select(vec!["server", "relay", "relay.site-1", "server.job-1"]),
        target in prop::sample::select(vec!["task/fetch", "cell/ping", "cell/quit", "x/y"]),
        phase in prop::sample::select(Phase::ALL.to_vec()),
    ) {
        let mut e = envelope(origin, to, target);
        e.header.token = envelope(token_of, to, target).header.token.clone();
        let peer = peer(by.0, by.1, phase);
        if status(&mut gate(), e, &peer).is_ok() {
            prop_assert_eq!(origin, token_of);
            prop_assert!(phase.carries_messages());
            let from_below = name(by.1).covers(&name(origin)) && by.1 != "server";
            let from_above = by.1 == "server" && !name("relay").covers(&name(origin));
            prop_assert!(from_below || from_above);
        }
    }
}
