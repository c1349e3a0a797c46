use super::*;
use crate::{
    testing::{at, at_ms},
    transfer::{chunk_head, reference::tests::reference, trailer_bytes},
};

const CONTENT: &[u8] = b"twenty bytes of them";

fn described(generation: u64) -> Arc<Reference> {
    let mut reference = reference();
    reference.digest = Some(Digest::of(CONTENT));
    reference.generation = generation;
    Arc::new(reference)
}

fn settings() -> PullSettings {
    PullSettings { sync_every: 8, ..PullSettings::default() }
}

fn pull() -> Pull {
    Pull::new(at(0), described(1), settings())
}

fn poll(pull: &mut Pull, now: Instant) -> Step {
    pull.poll(now, || [1; 16])
}

fn answer(fetch: &Fetch) -> Answer {
    Answer {
        id: fetch.id,
        generation: fetch.generation,
        size: Some(20),
        size_max: 20,
        offset: fetch.offset,
        data: !fetch.have,
        digest: Some(Digest::of(CONTENT)),
    }
}

/// Opens an attempt, waiting as long as it asks to.
fn open(pull: &mut Pull, mut now: Instant) -> Fetch {
    for _ in 0..4 {
        let step = poll(pull, now);
        if let Step::Open(fetch) = step {
            let digest = pull.reference().digest;
            let answer = Answer { digest, ..answer(&fetch) };
            assert_eq!(pull.handle_answer(now, &answer), Ok(()));
            return fetch;
        }
        if let Step::Wait { until } = step {
            now = until.unwrap_or(now);
        } else {
            assert!(matches!(step, Step::Close | Step::Rewind { .. }), "{step:?}");
        }
    }
    panic!("nothing was opened");
}

fn chunk(bytes: &[u8]) -> Bytes {
    [&chunk_head(bytes.len())[..], bytes].concat().into()
}

fn trailer(digest: Digest) -> Bytes {
    trailer_bytes(&Trailer { size: 20, digest, generation: 1 })
}

/// Feeds all of `input`; what came out.
fn feed(pull: &mut Pull, now: Instant, mut input: Bytes) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(data) = pull.handle_bytes(now, &mut input).unwrap() {
        out.extend_from_slice(&data);
    }
    assert!(input.is_empty());
    out
}

fn sync(pull: &mut Pull, now: Instant) -> u64 {
    let step = poll(pull, now);
    let Step::Sync { to } = step else { panic!("{step:?}") };
    pull.handle_synced(now, to);
    to
}

#[test]
fn a_transfer_is_verified_then_committed_once_then_confirmed_and_settled() {
    let mut pull = pull();
    let fetch = open(&mut pull, at(0));
    assert_eq!((fetch.offset, fetch.have), (0, false));
    assert_eq!(feed(&mut pull, at(1), chunk(&CONTENT[..10])), &CONTENT[..10]);
    assert_eq!(sync(&mut pull, at(1)), 8);
    assert_eq!(feed(&mut pull, at(1), chunk(&CONTENT[10..])), &CONTENT[10..]);
    assert_eq!(sync(&mut pull, at(1)), 16);
    assert!(matches!(poll(&mut pull, at(1)), Step::Wait { .. }), "nothing before the trailer");
    assert_eq!(feed(&mut pull, at(1), trailer(Digest::of(CONTENT))), b"");
    let digest = Digest::of(CONTENT);
    assert_eq!(poll(&mut pull, at(1)), Step::Commit { size: 20, digest });
    assert_eq!(poll(&mut pull, at(9999)), Step::Wait { until: None }, "a commit has no deadline");
    pull.handle_committed(at(9999));
    let Step::Confirm(receipt) = poll(&mut pull, at(9999)) else { panic!("no receipt") };
    assert_eq!((receipt.outcome(), receipt.size, receipt.digest), (Ok(()), 20, Some(digest)));
    assert_eq!(receipt.nonce, fetch.nonce);
    pull.handle_committed(at(9999));
    assert!(matches!(poll(&mut pull, at(9999)), Step::Wait { until: Some(_) }));
    assert_eq!(feed(&mut pull, at(9999), Bytes::from_static(&[1])), b"");
    let end = PullEnd::Stored { size: 20, digest, told: Told::Settled };
    assert_eq!(poll(&mut pull, at(9999)), Step::Close);
    assert_eq!(poll(&mut pull, at(9999)), Step::Done(end));
    assert_eq!(poll(&mut pull, at(9999)), Step::Done(end));
}

#[test]
fn g_41_after_a_loss_it_goes_on_where_it_is() {
    let mut pull = pull();
    open(&mut pull, at(0));
    feed(&mut pull, at(0), chunk(&CONTENT[..7]));
    pull.handle_lost();
    let Step::Wait { until: Some(until) } = poll(&mut pull, at(0)) else { panic!("no wait") };
    let waits = until - at(0);
    assert!((Duration::from_millis(125)..=Duration::from_millis(250)).contains(&waits));
    assert_eq!(open(&mut pull, until).offset, 7);
}

#[test]
fn w_47_waits_grow_with_failures_in_a_row_and_progress_makes_them_short_again() {
    let mut pull = pull();
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(matches!(poll(&mut pull, now), Step::Open(_)));
        pull.handle_return(now, Status::NoRoute, None);
        let Step::Wait { until: Some(until) } = pull.poll(now, || [255; 16]) else { panic!() };
        waits.push((until - now).as_millis());
        now = until;
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    open(&mut pull, now);
    feed(&mut pull, now, chunk(b"t"));
    pull.handle_lost();
    let Step::Wait { until: Some(until) } = pull.poll(now, || [255; 16]) else { panic!() };
    assert_eq!((until - now).as_millis(), 250);
}

#[test]
fn silence_ends_the_attempt_and_patience_ends_the_pull() {
    let mut pull = pull();
    open(&mut pull, at(0));
    feed(&mut pull, at(10), chunk(b"t"));
    assert_eq!(poll(&mut pull, at(10)), Step::Wait { until: Some(at(40)) });
    assert_eq!(poll(&mut pull, at_ms(39_999)), Step::Wait { until: Some(at(40)) });
    assert_eq!(poll(&mut pull, at(40)), Step::Close);
    for second in 41..310 {
        let step = poll(&mut pull, at(second));
        if let Step::Open(fetch) = step {
            // A holder that answers and sends nothing makes no progress.
            pull.handle_answer(at(second), &answer(&fetch)).unwrap();
        } else {
            assert!(matches!(step, Step::Wait { .. } | Step::Close), "{step:?}");
        }
    }
    let mut steps = Vec::new();
    while steps.last() != Some(&Step::Done(PullEnd::Failed(Status::TransferStalled))) {
        steps.push(poll(&mut pull, at(310)));
        assert!(steps.len() < 5, "{steps:?}");
    }
}

#[test]
fn f_37_a_changed_source_starts_again_at_zero_and_an_old_or_foreign_reference_does_not() {
    let mut changed = (*described(2)).clone();
    changed.digest = None;
    let foreign = Reference { holder: "site-2".parse().unwrap(), ..changed.clone() };
    for bad in [None, Some((*described(1)).clone()), Some(foreign)] {
        let mut pull = pull();
        poll(&mut pull, at(0));
        pull.handle_return(at(0), Status::SourceChanged, bad.map(Arc::new));
        assert_eq!(poll(&mut pull, at(0)), Step::Done(PullEnd::Failed(Status::SourceChanged)));
    }
    let mut pull = pull();
    open(&mut pull, at(0));
    feed(&mut pull, at(0), chunk(&CONTENT[..7]));
    pull.handle_lost();
    let Step::Wait { until: Some(until) } = poll(&mut pull, at(0)) else { panic!() };
    assert!(matches!(poll(&mut pull, until), Step::Open(_)));
    pull.handle_return(until, Status::SourceChanged, Some(Arc::new(changed)));
    assert_eq!(poll(&mut pull, until), Step::Rewind { to: 0 });
    let fetch = open(&mut pull, at(9));
    assert_eq!((fetch.offset, fetch.generation), (0, 2));
    assert_eq!((pull.progress().generation, pull.progress().bytes), (2, 0));
}

#[test]
fn f_37_a_full_disk_goes_back_to_what_is_durable_and_goes_on_when_there_is_room() {
    let mut pull = pull();
    open(&mut pull, at(0));
    feed(&mut pull, at(0), chunk(&CONTENT[..9]));
    assert_eq!(sync(&mut pull, at(0)), 8);
    feed(&mut pull, at(0), chunk(&CONTENT[9..15]));
    pull.handle_sink_failed(at(1), Status::StorageFull);
    assert_eq!(poll(&mut pull, at(1)), Step::Close);
    assert_eq!(poll(&mut pull, at(1)), Step::Rewind { to: 8 });
    // What was being made durable then meets the same.
    pull.handle_sink_failed(at(1), Status::StorageFull);
    assert!(matches!(poll(&mut pull, at(1)), Step::Wait { .. }));
    pull.handle_sink_failed(at(2), Status::StorageFull);
    assert_eq!(open(&mut pull, at(5)).offset, 8);
    feed(&mut pull, at(5), chunk(&CONTENT[8..]));
    assert_eq!(sync(&mut pull, at(5)), 16);
    feed(&mut pull, at(5), trailer(Digest::of(CONTENT)));
    let digest = Digest::of(CONTENT);
    assert_eq!(poll(&mut pull, at(5)), Step::Commit { size: 20, digest });
    pull.handle_commit_failed(at(5), Status::StorageFull);
    assert!(matches!(poll(&mut pull, at(6)), Step::Wait { .. }));
    assert_eq!(poll(&mut pull, at(15)), Step::Commit { size: 20, digest });
    pull.handle_commit_failed(at(15), Status::StorageDegraded);
    let Step::Confirm(receipt) = poll(&mut pull, at(15)) else { panic!("no receipt") };
    assert_eq!((receipt.outcome(), receipt.digest), (Err(Status::StorageDegraded), None));
}

#[test]
fn bytes_of_another_digest_are_never_committed() {
    let mut pull = pull();
    let mut wrong = CONTENT.to_vec();
    wrong[3] ^= 1;
    for (round, second) in [(1, 0), (2, 9)] {
        assert_eq!(open(&mut pull, at(second)).offset, 0);
        feed(&mut pull, at(second), chunk(&wrong[..16]));
        assert_eq!((sync(&mut pull, at(second)), sync(&mut pull, at(second))), (8, 16));
        feed(&mut pull, at(second), chunk(&wrong[16..]));
        // What the holder says of its own bytes does not help against the reference.
        feed(&mut pull, at(second), trailer(Digest::of(&wrong)));
        if round == 1 {
            assert_eq!(poll(&mut pull, at(second)), Step::Close);
            assert_eq!(poll(&mut pull, at(second)), Step::Rewind { to: 0 });
        }
    }
    let Step::Confirm(receipt) = poll(&mut pull, at(9)) else { panic!("no receipt") };
    assert_eq!(receipt.outcome(), Err(Status::DigestMismatch));
    assert_eq!(poll(&mut pull, at(9)), Step::Close);
    assert_eq!(poll(&mut pull, at(9)), Step::Done(PullEnd::Failed(Status::DigestMismatch)));
}

#[test]
fn a_receipt_that_got_lost_is_given_again_and_no_byte_is_asked_for() {
    let digest = Digest::of(CONTENT);
    let mut pull = Pull::stored(at(0), described(1), settings(), 20, digest);
    let fetch = open(&mut pull, at(0));
    assert_eq!((fetch.offset, fetch.have), (20, true));
    assert!(matches!(poll(&mut pull, at(0)), Step::Confirm(_)));
    pull.handle_lost();
    let again = open(&mut pull, at(5));
    assert!(again.have && matches!(poll(&mut pull, at(5)), Step::Confirm(_)));
    feed(&mut pull, at(5), Bytes::from_static(&[0]));
    assert_eq!(poll(&mut pull, at(5)), Step::Close);
    let end = PullEnd::Stored { size: 20, digest, told: Told::Refused };
    assert_eq!(poll(&mut pull, at(5)), Step::Done(end));
}

#[test]
fn a_restarted_receiver_rebuilds_the_digest_from_its_part() {
    let mut pull = Pull::resume(at(0), described(1), settings(), 12);
    assert_eq!(poll(&mut pull, at(0)), Step::Rebuild { to: 12 });
    pull.rebuild(at(0), &CONTENT[..5]);
    assert!(matches!(poll(&mut pull, at(0)), Step::Wait { until: None }));
    // The part may be longer than what was noted of it.
    pull.rebuild(at(0), b"y bytesgarbage");
    assert_eq!(open(&mut pull, at(0)).offset, 12);
    feed(&mut pull, at(0), chunk(&CONTENT[12..]));
    sync(&mut pull, at(0));
    feed(&mut pull, at(0), trailer(Digest::of(CONTENT)));
    assert!(matches!(poll(&mut pull, at(0)), Step::Commit { .. }));
    let mut lost = Pull::resume(at(0), described(1), settings(), 12);
    poll(&mut lost, at(0));
    lost.handle_part_lost(at(0));
    assert_eq!(poll(&mut lost, at(0)), Step::Rewind { to: 0 });
    assert_eq!(open(&mut lost, at(0)).offset, 0);
    let mut longer = Pull::resume(at(0), described(1), settings(), 21);
    assert_eq!(poll(&mut longer, at(0)), Step::Rewind { to: 0 });
    assert_eq!(open(&mut longer, at(0)).offset, 0);
}

#[test]
fn no_more_is_handed_out_than_twice_what_is_made_durable_at_once() {
    let mut pull = pull();
    open(&mut pull, at(0));
    let mut input = chunk(CONTENT);
    let mut out = 0;
    while let Some(data) = pull.handle_bytes(at(0), &mut input).unwrap() {
        out += data.len();
    }
    assert_eq!((out, input.len(), pull.takes_bytes()), (16, 4, false));
    assert_eq!(sync(&mut pull, at(0)), 8);
    assert!(pull.takes_bytes());
    assert_eq!(feed(&mut pull, at(0), input), &CONTENT[16..]);
}

#[test]
fn whoever_hashes_elsewhere_is_asked_for_the_digest() {
    let mut pull = pull();
    let mut digester = pull.take_digester().unwrap();
    assert!(pull.take_digester().is_none());
    open(&mut pull, at(0));
    digester.update(&feed(&mut pull, at(0), chunk(&CONTENT[..16])));
    sync(&mut pull, at(0));
    sync(&mut pull, at(0));
    digester.update(&feed(&mut pull, at(0), chunk(&CONTENT[16..])));
    feed(&mut pull, at(0), trailer(Digest::of(CONTENT)));
    assert_eq!(poll(&mut pull, at(0)), Step::Digest);
    assert_eq!(poll(&mut pull, at(0)), Step::Wait { until: None });
    pull.handle_digest(at(0), digester.finish());
    assert!(matches!(poll(&mut pull, at(0)), Step::Commit { .. }));
}

#[test]
fn g_49_giving_up_tells_the_holder_and_cannot_undo_what_is_in_its_place() {
    let mut pull = pull();
    open(&mut pull, at(0));
    feed(&mut pull, at(0), chunk(b"t"));
    assert!(pull.cancel());
    let Step::Confirm(receipt) = poll(&mut pull, at(0)) else { panic!("no receipt") };
    assert_eq!((receipt.outcome(), receipt.size), (Err(Status::TransferCancelled), 1));
    assert_eq!(poll(&mut pull, at(0)), Step::Close);
    assert_eq!(poll(&mut pull, at(0)), Step::Done(PullEnd::Failed(Status::TransferCancelled)));
    assert!(!pull.cancel());
    let mut late = Pull::stored(at(0), described(1), settings(), 20, Digest::of(CONTENT));
    assert!(!late.cancel());
    assert!(matches!(poll(&mut late, at(0)), Step::Done(PullEnd::Stored { .. })));
}

#[test]
fn what_may_pass_is_asked_again_and_what_is_forbidden_is_not() {
    for status in [Status::PeerLost, Status::Deadline, Status::Overloaded, Status::TokenExpired] {
        let mut pull = pull();
        poll(&mut pull, at(0));
        pull.handle_return(at(0), status, None);
        assert!(matches!(poll(&mut pull, at(0)), Step::Wait { .. }), "{status}");
    }
    for status in [Status::Forbidden, Status::TopicDenied, Status::TransferExpired] {
        let mut pull = pull();
        poll(&mut pull, at(0));
        pull.handle_return(at(0), status, None);
        assert_eq!(poll(&mut pull, at(0)), Step::Done(PullEnd::Failed(status)));
    }
    let mut pull = pull();
    for (second, over) in [(0, false), (29, false), (40, true)] {
        while !matches!(poll(&mut pull, at(second)), Step::Open(_)) {}
        pull.handle_return(at(second), Status::TransferUnknown, None);
        let is_over = matches!(poll(&mut pull, at(second)), Step::Done(_));
        assert_eq!(is_over, over, "a holder that restarts may not serve it yet");
    }
}

#[test]
fn an_answer_to_another_fetch_and_bytes_out_of_turn_end_the_attempt() {
    type Change = fn(&mut Answer);
    let changes: [Change; 6] = [
        |a| a.generation = 2,
        |a| a.offset = 1,
        |a| a.size = Some(19),
        |a| a.size = None,
        |a| a.id = crate::transfer::TransferId::from_bytes([0; 16]),
        |a| (a.size, a.size_max) = (Some(21), 21),
    ];
    for change in changes {
        let mut pull = pull();
        let Step::Open(fetch) = poll(&mut pull, at(0)) else { panic!() };
        let mut bad = answer(&fetch);
        change(&mut bad);
        assert!(pull.handle_answer(at(0), &bad).is_err(), "{bad:?}");
        assert_eq!(poll(&mut pull, at(0)), Step::Close);
        assert!(matches!(poll(&mut pull, at(0)), Step::Wait { .. }));
    }
    let mut early = pull();
    open(&mut early, at(0));
    feed(&mut early, at(0), chunk(CONTENT).slice(..20));
    let mut pull = pull();
    open(&mut pull, at(0));
    let mut short = trailer(Digest::of(CONTENT));
    assert!(pull.handle_bytes(at(0), &mut short).is_err(), "a trailer before all bytes");
    assert_eq!(poll(&mut pull, at(0)), Step::Close);
}

#[test]
fn more_than_was_announced_or_fits_is_not_taken() {
    let small = PullSettings { size_cap: 19, ..settings() };
    let mut pull = Pull::new(at(0), described(1), small);
    assert_eq!(poll(&mut pull, at(0)), Step::Done(PullEnd::Failed(Status::TooLarge)));
    let mut unknown = (*described(1)).clone();
    (unknown.size, unknown.digest) = (None, None);
    unknown.parts.clear();
    let mut pull = Pull::new(at(0), Arc::new(unknown), small);
    let Step::Open(fetch) = poll(&mut pull, at(0)) else { panic!() };
    pull.handle_answer(at(0), &Answer { size: None, digest: None, ..answer(&fetch) }).unwrap();
    let mut input = chunk(&CONTENT[..8]);
    pull.handle_bytes(at(0), &mut input).unwrap();
    sync(&mut pull, at(0));
    let mut input = chunk(&[0; 12]);
    assert_eq!(pull.handle_bytes(at(0), &mut input).unwrap().unwrap().len(), 8);
    sync(&mut pull, at(0));
    assert!(pull.handle_bytes(at(0), &mut input).is_err());
    let Step::Confirm(receipt) = poll(&mut pull, at(0)) else { panic!("no receipt") };
    assert_eq!((receipt.outcome(), receipt.size), (Err(Status::TooLarge), 16));
}
