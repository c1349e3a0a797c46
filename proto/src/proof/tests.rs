use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::{
    envelope::{Address, Common, Extras, Incarnation, Lane, TraceContext},
    name::Fqcn,
    sealing,
    status::Status,
};

const NOW: u64 = 1_900_000_000_000;

fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

fn start(counter: u64) -> Incarnation {
    Incarnation { counter, nonce: 9 }
}

fn header() -> Header {
    Header {
        kind: Kind::Request,
        sequence: 7,
        common: Arc::new(Common {
            origin: Address::exact(name("server"), start(3)),
            destination: Address::any(name("relay.site-1")),
            target: well_known::JOB_START.into(),
            token: None,
            lane: Lane::Control,
            flags: Flags::default(),
        }),
        budget_ms: 5000,
        hops_left: 4,
        extras: None,
    }
}

fn with(change: impl FnOnce(&mut Header)) -> Header {
    let mut header = header();
    change(&mut header);
    header
}

fn extras(change: impl FnOnce(&mut Extras)) -> Header {
    with(|header| change(header.extras.get_or_insert_default()))
}

/// Every field that is signed, changed.
fn changed() -> Vec<(&'static str, Header)> {
    let by = name("relay");
    vec![
        ("as it was", header()),
        ("origin", with(|h| h.origin = Address::exact(name("relay"), start(3)))),
        ("counter", with(|h| h.origin = Address::exact(name("server"), start(4)))),
        (
            "nonce",
            with(|h| {
                let start = Incarnation { counter: 3, nonce: 8 };
                h.origin = Address::exact(name("server"), start);
            }),
        ),
        ("destination", with(|h| h.destination = Address::any(name("relay.site-2")))),
        ("topic", with(|h| h.target = well_known::JOB_STOP.into())),
        ("channel", with(|h| h.target = "other/job_start".parse().unwrap())),
        ("sequence", with(|h| h.sequence = 8)),
        ("publish", with(|h| h.kind = Kind::Publish)),
        ("reply", with(|h| h.kind = Kind::Reply { to: 7 })),
        ("reply to another", with(|h| h.kind = Kind::Reply { to: 8 })),
        ("return", with(|h| h.kind = Kind::Return { to: 7, status: Status::Loop, by: by.clone() })),
        (
            "return of another status",
            with(|h| h.kind = Kind::Return { to: 7, status: Status::NoRoute, by: by.clone() }),
        ),
        (
            "return by another",
            with(|h| {
                h.kind = Kind::Return { to: 7, status: Status::NoRoute, by: name("server") };
            }),
        ),
        ("flags", with(|h| h.flags = Flags::RETRY)),
        ("empty content type", extras(|e| e.content_type = Some("".into()))),
        ("content type", extras(|e| e.content_type = Some("text/plain".into()))),
        ("headers", extras(|e| e.headers = b"h".to_vec().into())),
    ]
}

#[test]
fn p_12_no_two_messages_that_differ_in_a_signed_field_are_signed_alike() {
    type Sign = fn(&Header) -> Vec<u8>;
    let ways: [Sign; 3] = [
        |h| control_signable("study", h, b"payload", NOW),
        |h| sealing::associated_data("study", h),
        |h| sealing::signable("study", h, &[7; 32], b"payload", NOW),
    ];
    let mut all = BTreeSet::new();
    for (way, sign) in ways.into_iter().enumerate() {
        for (what, header) in changed() {
            assert!(all.insert(sign(&header)), "{what}, {way}");
        }
    }
    for other in [
        control_signable("other", &header(), b"payload", NOW),
        control_signable("study", &header(), b"payloae", NOW),
        control_signable("study", &header(), b"payload", NOW + 1),
        sealing::associated_data("other", &header()),
        sealing::signable("other", &header(), &[7; 32], b"payload", NOW),
        sealing::signable("study", &header(), &[8; 32], b"payload", NOW),
        sealing::signable("study", &header(), &[7; 32], b"", NOW),
        sealing::signable("study", &header(), &[7; 32], b"payload", NOW - 1),
    ] {
        assert!(all.insert(other));
    }
}

#[test]
fn what_hops_change_is_not_signed() {
    let signed = control_signable("study", &header(), b"payload", NOW);
    let on_the_way = [
        with(|h| (h.budget_ms, h.hops_left, h.lane) = (1, 1, Lane::Bulk)),
        with(|h| h.destination = Address::exact(name("relay.site-1"), start(1))),
        extras(|e| e.trace = Some(TraceContext([1; 25]))),
    ];
    for header in on_the_way {
        assert_eq!(control_signable("study", &header, b"payload", NOW), signed);
    }
}

#[test]
fn what_makes_a_cell_act_needs_proof_and_answers_do_not() {
    for topic in SIGNED {
        assert!(must_be_signed(&with(|h| h.target = topic.into())), "{topic:?}");
        let reply = with(|h| (h.target, h.kind) = (topic.into(), Kind::Reply { to: 1 }));
        assert!(!must_be_signed(&reply), "{topic:?}");
    }
    for topic in [well_known::PING, well_known::CANCEL, well_known::CERTIFICATE] {
        assert!(!must_be_signed(&with(|h| h.target = topic.into())), "{topic:?}");
    }
    assert!(!must_be_signed(&with(|h| h.target = "task/job_start".parse().unwrap())));
}

fn proved(origin: &Address, sequence: u64, unix_ms: u64) -> Proved<'_> {
    Proved { origin, sequence, unix_ms, may_repeat: false, survives_restart: false }
}

fn origin() -> Arc<Address> {
    Address::exact(name("server"), start(3))
}

#[test]
fn p_24_a_proof_is_taken_once_for_each_start_of_its_origin() {
    let mut replays = Replays::new(NOW);
    let (here, later) = (origin(), Address::exact(name("server"), start(4)));
    assert_eq!(replays.take(NOW, &proved(&here, 5, NOW)), Ok(()));
    assert_eq!(replays.take(NOW, &proved(&here, 5, NOW)), Err(Replay::Taken));
    assert_eq!(replays.take(NOW, &proved(&here, 5, NOW + 1)), Err(Replay::Taken));
    // What was overtaken is no copy.
    assert_eq!(replays.take(NOW, &proved(&here, 4, NOW)), Ok(()));
    assert_eq!(replays.take(NOW, &proved(&later, 5, NOW)), Ok(()));
    let repeated = Proved { may_repeat: true, ..proved(&here, 5, NOW) };
    assert_eq!(replays.take(NOW, &repeated), Ok(()));
    assert_eq!(replays.take(NOW, &repeated), Ok(()));
}

#[test]
fn p_24_a_proof_is_good_for_two_minutes_and_a_wrong_clock_has_a_code_of_its_own() {
    let mut replays = Replays::new(0);
    let origin = origin();
    let (old, ahead) = (Replays::AGE_MAX_MS, Replays::AHEAD_MAX_MS);
    assert_eq!(replays.take(NOW, &proved(&origin, 1, NOW - old)), Ok(()));
    assert_eq!(replays.take(NOW, &proved(&origin, 2, NOW + ahead)), Ok(()));
    let too_old = replays.take(NOW, &proved(&origin, 3, NOW - old - 1)).unwrap_err();
    let too_new = replays.take(NOW, &proved(&origin, 3, NOW + ahead + 1)).unwrap_err();
    assert_eq!((too_old, too_old.status()), (Replay::Old { by_ms: old + 1 }, Status::ClockSkew));
    assert_eq!((too_new.status(), replays.len()), (Status::ClockSkew, 1));
    assert!(too_new.to_string().contains("compare the clocks"), "{too_new}");
    let repeated = Proved { may_repeat: true, ..proved(&origin, 1, NOW - old - 1) };
    assert_eq!(replays.take(NOW, &repeated), Err(too_old));
}

#[test]
fn p_24_what_was_signed_before_a_start_is_not_executed_after_it() {
    let mut replays = Replays::new(NOW);
    let origin = origin();
    assert_eq!(replays.take(NOW, &proved(&origin, 1, NOW - 1)), Err(Replay::BeforeStart));
    let harmless = Proved { survives_restart: true, ..proved(&origin, 1, NOW - 1) };
    assert_eq!(replays.take(NOW, &harmless), Ok(()));
    assert_eq!(Replay::BeforeStart.status(), Status::StaleId);
    assert!(!survives_restart(well_known::JOB_START) && survives_restart(well_known::QUIT));
}

#[test]
fn the_memory_of_proofs_is_bounded_and_what_is_forgotten_is_refused() {
    let mut replays = Replays::new(0);
    let here = origin();
    for sequence in 1..=Replays::PROOFS_MAX as u64 + 1 {
        assert_eq!(replays.take(NOW, &proved(&here, 2 * sequence, NOW)), Ok(()));
    }
    for sequence in [1, 2] {
        assert_eq!(replays.take(NOW, &proved(&here, sequence, NOW)), Err(Replay::Forgotten));
    }
    assert_eq!(replays.take(NOW, &proved(&here, 3, NOW)), Ok(()));
    for counter in 4..Replays::ORIGINS_MAX as u64 + 3 {
        let origin = Address::exact(name("server"), start(counter));
        assert_eq!(replays.take(NOW, &proved(&origin, 1, NOW)), Ok(()));
    }
    let one_more = Address::exact(name("site-1"), start(1));
    assert_eq!(replays.take(NOW, &proved(&one_more, 1, NOW)), Err(Replay::Full));
    let later = NOW + Replays::AGE_MAX_MS + 1;
    assert_eq!(replays.take(later, &proved(&one_more, 1, later)), Ok(()));
    assert_eq!(replays.len(), 1);
}
