//! What the gate makes of rules: who the origin is by its token, what must be sealed, what a change of
//! rules does to what is on its way.

use super::*;
use crate::policy::{Direction, Effect};

fn allow(from: &str, to: &str) -> Rule {
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    let topics = vec!["fetch".parse().unwrap()];
    Rule::new(Effect::Allow, from, to, "task".parse().unwrap(), topics)
}

/// The gate of `relay`, where `site-1` is run by `acme` and the rest by `hq`, with these rules.
fn ruled(rules: Vec<Rule>) -> Gate {
    let org = |text: &str| text.parse::<Segment>().unwrap();
    let cells = [
        ("server", CellKind::Server, "hq"),
        ("relay", CellKind::Relay, "hq"),
        ("site-3", CellKind::Client, "hq"),
        ("relay.site-1", CellKind::Client, "acme"),
        ("relay.site-2", CellKind::Client, "hq"),
    ];
    let directory = Directory::from_iter(cells.map(|(at, kind, by)| (name(at), kind, org(by))));
    let mut gate = gate();
    gate.directory = Arc::new(directory);
    gate.set_policy(Arc::new(Policy::new(4, rules)), NOW);
    gate.former = Former::default();
    gate
}

/// A request whose origin is run by `org`, by its token.
fn run_by(org: &str, from: &str, to: &str) -> Envelope {
    let mut message = bare(from, to, "task/fetch");
    let claims = Claims { org: org.parse().unwrap(), ..claims(from, kind_of(from)) };
    message.header.token = Some(signer().sign(&claims));
    message
}

fn server() -> Peer {
    peer(0, "server", Phase::Active)
}

#[test]
fn the_organisation_of_a_sender_is_what_its_token_says_and_nothing_else() {
    let mut gate = ruled(vec![allow("org:acme", "server")]);
    let permit = Permit::Rule { revision: 4, rule: 0 };
    let good = run_by("acme", "relay.site-1", "server");
    assert_eq!(status(&mut gate, good.clone(), &site_1()), Ok(permit));
    // The topology says acme; the token does not.
    let other = run_by("hq", "relay.site-1", "server");
    assert_eq!(status(&mut gate, other, &site_1()), Err(Status::TopicDenied));
    let mut headers = run_by("hq", "relay.site-1", "server");
    headers.header.extras.get_or_insert_default().headers = bytes::Bytes::from_static(b"org=acme");
    assert_eq!(status(&mut gate, headers, &site_1()), Err(Status::TopicDenied));
}

#[test]
fn the_organisation_of_a_receiver_is_what_the_topology_says_and_unknown_equals_none() {
    let mut gate = ruled(vec![allow("server", "org:acme"), allow("server", "org:org")]);
    for (to, passes) in [
        ("relay.site-1", true),
        ("relay.site-1.job-1", true),
        ("relay.site-2", false),
        ("relay.site-9", false),
    ] {
        let outcome = status(&mut gate, run_by("hq", "server", to), &server());
        assert_eq!(outcome.is_ok(), passes, "{to}: {outcome:?}");
    }
}

#[test]
fn a_direction_is_that_of_the_request_for_its_answer_too() {
    let up = Rule { direction: Some(Direction::Up), ..allow("*", "*") };
    let mut gate = ruled(vec![up]);
    let from = |from: &str, to: &str| run_by("hq", from, to);
    assert!(status(&mut gate, from("relay.site-1", "server"), &site_1()).is_ok());
    let down = from("server", "relay.site-1");
    assert_eq!(status(&mut gate, down.clone(), &server()), Err(Status::TopicDenied));
    let across = from("relay.site-1", "relay.site-2");
    assert_eq!(status(&mut gate, across, &site_1()), Err(Status::TopicDenied));
    let mut reply = down;
    reply.header.kind = Kind::Reply { to: 1 };
    assert!(status(&mut gate, reply, &server()).is_ok(), "it answers a request that went up");
}

#[test]
fn a_refusal_names_the_revision_and_the_rule_that_decided() {
    let deny = Rule { effect: Effect::Deny, ..allow("site-2", "*") };
    let mut gate = ruled(vec![allow("*", "server"), deny]);
    let peer_2 = peer(2, "relay.site-2", Phase::Active);
    let mut refuse =
        |message, peer: &Peer| gate.admit(at(0), NOW, message, Arrival::Link(peer)).unwrap_err();
    let denied = refuse(run_by("hq", "relay.site-2", "server"), &peer_2);
    assert_eq!(denied.ruling, Some(Ruling::Denied { revision: 4, rule: 1 }));
    let nothing = refuse(run_by("acme", "relay.site-1", "relay.site-2"), &site_1());
    assert_eq!(nothing.ruling, Some(Ruling::NoRule { revision: 4 }));
    let system = refuse(envelope("relay.site-1", "server", "cell/nothing"), &site_1());
    assert_eq!(system.ruling, Some(Ruling::BuiltIn));
    let mut forged = run_by("acme", "relay.site-1", "server");
    forged.header.token = None;
    assert_eq!(refuse(forged, &site_1()).ruling, None, "no rule was asked");
}

#[test]
fn p_28_what_must_be_sealed_passes_sealed_and_no_other_way() {
    let sealing = Policy::new(5, vec![allow("*", "*")]).sealing(["task".parse().unwrap()]);
    let mut gate = ruled(Vec::new());
    gate.set_policy(Arc::new(sealing), NOW);
    let ask = || {
        let mut message = run_by("acme", "relay.site-1", "server");
        message.payload = bytes::Bytes::from_static(b"weights");
        message
    };
    let sealed = |mut message: Envelope| {
        message.header.flags = message.header.flags.with(Flags::SEALED);
        message
    };
    let first = ask();
    let refused = gate.admit(at(0), NOW, first.clone(), Arrival::Link(&site_1())).unwrap_err();
    assert_eq!((refused.status, refused.consequence), (Status::NotSealed, Consequence::Answer));
    assert_eq!(refused.ruling, Some(Ruling::Unsealed { revision: 5 }));
    // The same allocations, so that a remembered verdict would be found.
    let mut same = first.clone();
    same.header.flags = Flags::SEALED;
    assert!(status(&mut gate, same, &site_1()).is_ok());
    assert_eq!(status(&mut gate, first, &site_1()), Err(Status::NotSealed), "nor from memory");

    let mut reply = run_by("hq", "server", "relay.site-1");
    reply.header.kind = Kind::Reply { to: 1 };
    let receipt = reply.clone();
    reply.payload = bytes::Bytes::from_static(b"answer");
    assert_eq!(status(&mut gate, reply.clone(), &server()), Err(Status::NotSealed));
    assert!(status(&mut gate, sealed(reply), &server()).is_ok());
    assert!(status(&mut gate, receipt, &server()).is_ok(), "a receipt says nothing");
    let mut back = run_by("hq", "server", "relay.site-1");
    back.header.kind = Kind::Return { to: 1, status: Status::NoRoute, by: name("server") };
    assert!(status(&mut gate, back, &server()).is_ok());

    let mut empty = ask();
    empty.payload = bytes::Bytes::new();
    assert_eq!(status(&mut gate, empty.clone(), &site_1()), Err(Status::NotSealed));
    empty.header.flags = Flags::PROBE;
    assert!(status(&mut gate, empty.clone(), &site_1()).is_ok(), "it is not delivered");
    empty.header.flags = Flags::PROBE.with(Flags::RECEIPT);
    assert_eq!(status(&mut gate, empty, &site_1()), Err(Status::NotSealed));
    assert!(status(&mut gate, envelope("relay.site-1", "server", "cell/ping"), &site_1()).is_ok());
}

#[test]
fn who_may_not_send_it_at_all_is_told_that_and_not_to_seal_it() {
    let mut gate = ruled(Vec::new());
    gate.set_policy(Arc::new(Policy::new(5, Vec::new()).sealing(["task".parse().unwrap()])), NOW);
    let message = run_by("acme", "relay.site-1", "server");
    assert_eq!(status(&mut gate, message, &site_1()), Err(Status::TopicDenied));
}

#[test]
fn sealing_holds_within_a_job_too_and_not_within_a_cell() {
    let mut gate = ruled(Vec::new());
    gate.set_policy(Arc::new(Policy::new(5, Vec::new()).sealing(["task".parse().unwrap()])), NOW);
    let mut family = envelope("relay.site-1.job-1", "server.job-1", "task/fetch");
    assert_eq!(status(&mut gate, family.clone(), &site_1()), Err(Status::NotSealed));
    family.header.flags = Flags::SEALED;
    assert_eq!(status(&mut gate, family, &site_1()), Ok(Permit::Job));
    let own = envelope("relay", "relay", "task/fetch");
    assert!(gate.admit(at(0), NOW, own, Arrival::Local).is_ok());
}

#[test]
fn a_rule_that_goes_refuses_the_next_request_and_lets_answers_to_earlier_ones_pass() {
    let mut gate = ruled(vec![allow("site-*", "server")]);
    let request = || run_by("acme", "relay.site-1", "server");
    let mut reply = run_by("hq", "server", "relay.site-1");
    reply.header.kind = Kind::Reply { to: 1 };
    let mut foreign = run_by("hq", "server", "relay.site-1");
    foreign.header.kind = Kind::Reply { to: 1 };
    foreign.header.target = "task/submit".parse().unwrap();
    assert!(status(&mut gate, request(), &site_1()).is_ok());
    assert!(status(&mut gate, reply.clone(), &server()).is_ok());

    gate.set_policy(Arc::new(Policy::new(5, Vec::new())), NOW);
    assert_eq!(status(&mut gate, request(), &site_1()), Err(Status::TopicDenied));
    assert_eq!(
        status(&mut gate, reply.clone(), &server()),
        Ok(Permit::Rule { revision: 4, rule: 0 })
    );
    assert_eq!(status(&mut gate, foreign, &server()), Err(Status::TopicDenied));
    // Through another change as well, and not for ever.
    gate.set_policy(Arc::new(Policy::new(6, Vec::new())), NOW + 10);
    let mut reply_at = |now, token_issued| {
        let mut reply = reply.clone();
        let claims = Claims {
            org: "hq".parse().unwrap(),
            issued: token_issued,
            expires: token_issued + 900,
            ..claims("server", CellKind::Server)
        };
        reply.header.token = Some(signer().sign(&claims));
        gate.admit(at(0), now, reply, Arrival::Link(&server())).map_err(|refused| refused.status)
    };
    assert!(reply_at(NOW + 3599, NOW + 3000).is_ok());
    assert_eq!(reply_at(NOW + 3600, NOW + 3000).map(|_| ()), Err(Status::TopicDenied));
}

#[test]
fn a_rule_that_comes_lets_the_next_request_pass() {
    let mut gate = ruled(Vec::new());
    let request = run_by("acme", "relay.site-1", "server");
    assert_eq!(status(&mut gate, request.clone(), &site_1()), Err(Status::TopicDenied));
    gate.set_policy(Arc::new(Policy::new(5, vec![allow("site-1", "server")])), NOW);
    let permit = Permit::Rule { revision: 5, rule: 0 };
    assert_eq!(status(&mut gate, request, &site_1()), Ok(permit));
    assert_eq!(gate.policy().revision, 5);
}

#[test]
fn a_request_that_is_thought_of_is_judged_with_its_reasons() {
    let mut sealed = allow("site-1", "server");
    sealed.seal = true;
    let policy = Policy::new(4, vec![sealed, Rule { effect: Effect::Deny, ..allow("*", "relay") }]);
    let gate = ruled(Vec::new());
    let of = |from: &str, to: &str, target: &str| {
        account(&policy, &gate.directory, &name(from), &name(to), &target.parse().unwrap())
    };
    let passes = of("relay.site-1", "server", "task/fetch");
    assert_eq!((passes.permitting_rule(), passes.seal), (Some(0), true));
    assert_eq!((passes.direction, passes.ruling), (Direction::Up, None));
    let denied = of("relay.site-1", "relay", "task/fetch");
    assert_eq!((denied.outcome, denied.denying_rule()), (Err(Status::TopicDenied), Some(1)));
    assert!(denied.near.is_empty(), "a rule decided; no other one was nearly it");
    let none = of("relay.site-2", "server", "task/fetch");
    assert_eq!(none.ruling, Some(Ruling::NoRule { revision: 4 }));
    assert_eq!(none.near.len(), 1);
    assert_eq!(
        of("relay.site-1", "server", "cell/ping").outcome,
        Ok(Permit::System(well_known::PING))
    );
    let direct = of("relay.site-1", "relay", "task/register");
    assert_eq!((direct.outcome, direct.ruling), (Err(Status::NotDirect), Some(Ruling::BuiltIn)));
    assert_eq!(of("nobody", "server", "task/fetch").ruling, Some(Ruling::Unknown));
}
