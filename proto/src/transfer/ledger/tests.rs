use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    codec::{Octets, body::Blob},
    name::Segment,
    testing::at,
    transfer::{TransferId, reference::tests::reference},
};

const NOW: u64 = 1_800_000_000;

fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

fn terms() -> Terms {
    Terms { project: "study".into(), expected: None, quorum: None, signed: true }
}

fn ledger() -> Ledger {
    Ledger::new(at(0), Arc::new(reference()), terms()).unwrap()
}

fn fetch(nonce: u8) -> Fetch {
    let id = TransferId::from_bytes([7; 16]);
    Fetch { id, generation: 1, offset: 0, nonce: Octets([nonce; 16]), have: false, digest: None }
}

fn ask(ledger: &mut Ledger, who: &str, fetch: &Fetch) -> Result<Answer, FetchRefusal> {
    ledger.handle_fetch(at(1), NOW, Receiver { name: &name(who), job: None }, fetch, true)
}

fn receipt(nonce: u8) -> Receipt {
    Receipt {
        id: TransferId::from_bytes([7; 16]),
        generation: 1,
        nonce: Octets([nonce; 16]),
        size: 20,
        digest: Some(Digest::of(&[0; 20])),
        outcome: 0,
        signature: Some(Blob(vec![1])),
    }
}

fn give(ledger: &mut Ledger, who: &str, receipt: &Receipt) -> Result<Receipted, ReceiptRefusal> {
    ledger.handle_receipt(&name(who), receipt, |_, signature| signature == [1])
}

#[test]
fn a_transfer_is_complete_when_every_expected_receiver_has_given_a_good_receipt() {
    let mut ledger = ledger();
    let answer = ask(&mut ledger, "site-1", &fetch(1)).unwrap();
    assert_eq!((answer.size, answer.offset, answer.data), (Some(20), 0, true));
    ask(&mut ledger, "site-2", &fetch(2)).unwrap();
    assert!(ledger.handle_served(at(2), &name("site-1"), 20), "sent is not settled");
    assert_eq!(ledger.end_of(&name("site-1")), None);
    assert_eq!(give(&mut ledger, "site-1", &receipt(1)), Ok(Receipted::Settled));
    assert_eq!(ledger.outcome(), None);
    assert_eq!(give(&mut ledger, "site-2", &receipt(2)), Ok(Receipted::Settled));
    let outcome = Arc::clone(ledger.outcome().unwrap());
    assert_eq!((outcome.verdict, outcome.quorum_met), (Verdict::Completed, true));
    assert_eq!((outcome.stored, outcome.expected), (2, 2));
    assert_eq!(ledger.close(Status::TransferCancelled), outcome, "settled once");
}

#[test]
fn a_receipt_that_comes_again_is_confirmed_and_counts_once() {
    let mut ledger = ledger();
    ask(&mut ledger, "site-1", &fetch(1)).unwrap();
    assert_eq!(give(&mut ledger, "site-1", &receipt(1)), Ok(Receipted::Settled));
    ledger.close(Status::TransferCancelled);
    let have = Fetch { offset: 20, have: true, ..fetch(2) };
    let answer = ask(&mut ledger, "site-1", &have).unwrap();
    assert!(!answer.data, "who has it gets no byte");
    assert_eq!(give(&mut ledger, "site-1", &receipt(2)), Ok(Receipted::Again));
    assert_eq!(give(&mut ledger, "site-1", &receipt(1)), Err(ReceiptRefusal::Stale));
    let failed = Receipt { outcome: 128, digest: None, ..receipt(2) };
    assert_eq!(give(&mut ledger, "site-1", &failed), Err(ReceiptRefusal::Contradicts));
    assert_eq!((ledger.counts().receipts, ledger.counts().repeated), (1, 1));
    assert_eq!(ask(&mut ledger, "site-2", &fetch(3)), Err(FetchRefusal::Closed));
}

#[test]
fn w_33_late_foreign_and_wrong_receipts_are_refused_and_counted() {
    let mut ledger = ledger();
    ask(&mut ledger, "site-1", &fetch(1)).unwrap();
    let cases = [
        ("site-3", receipt(1), ReceiptRefusal::Foreign),
        ("site-2", receipt(1), ReceiptRefusal::Stale),
        ("site-1", receipt(2), ReceiptRefusal::Stale),
        ("site-1", Receipt { generation: 2, ..receipt(1) }, ReceiptRefusal::Stale),
        (
            "site-1",
            Receipt { id: TransferId::from_bytes([8; 16]), ..receipt(1) },
            ReceiptRefusal::Foreign,
        ),
        (
            "site-1",
            Receipt { signature: Some(Blob(vec![2])), ..receipt(1) },
            ReceiptRefusal::BadSignature,
        ),
        ("site-1", Receipt { signature: None, ..receipt(1) }, ReceiptRefusal::NotSigned),
        ("site-1", Receipt { size: 19, ..receipt(1) }, ReceiptRefusal::WrongDigest),
        (
            "site-1",
            Receipt { digest: Some(Digest::of(b"")), ..receipt(1) },
            ReceiptRefusal::WrongDigest,
        ),
    ];
    for (who, receipt, refusal) in &cases {
        assert_eq!(give(&mut ledger, who, receipt), Err(*refusal), "{receipt:?}");
    }
    assert_eq!(ledger.end_of(&name("site-1")), None);
    let counts = ledger.counts();
    assert_eq!((counts.foreign, counts.stale, counts.unsigned), (2, 3, 2));
    assert_eq!((counts.wrong_digest, counts.receipts), (2, 0));
    assert_eq!(ledger.close(Status::TransferExpired).verdict, Verdict::Failed);
}

#[test]
fn nobody_outside_the_audience_gets_a_byte_or_a_place_in_the_books() {
    let mut ledger = ledger();
    assert_eq!(ask(&mut ledger, "site-3", &fetch(1)), Err(FetchRefusal::NotForThem));
    assert_eq!(ledger.counts().foreign_fetches, 1);
    assert_eq!(ledger.progress_of(&name("site-3")), None);
    let of_job = Reference { audience: Audience::Job("job-1".parse().unwrap()), ..reference() };
    let mut ledger = Ledger::new(at(0), Arc::new(of_job), terms()).unwrap();
    let [own, foreign]: [Segment; 2] = ["job-1", "job-2"].map(|job| job.parse().unwrap());
    for (job, let_in) in [(Some(&own), true), (Some(&foreign), false), (None, false)] {
        let who = name("site-1.job-1");
        let answer = ledger.handle_fetch(at(1), NOW, Receiver { name: &who, job }, &fetch(1), true);
        assert_eq!(answer.is_ok(), let_in);
    }
    give(&mut ledger, "site-1.job-1", &receipt(1)).unwrap();
    let outcome = ledger.close(Status::TransferExpired);
    assert_eq!((outcome.verdict, outcome.quorum_met), (Verdict::Failed, false));
    assert_eq!(outcome.ends.len(), 1, "who came unexpected is named all the same");
}

#[test]
fn fetches_that_cannot_be_are_refused() {
    let mut ledger = ledger();
    ask(&mut ledger, "site-1", &fetch(1)).unwrap();
    let other = TransferId::from_bytes([8; 16]);
    let cases = [
        (Fetch { id: other, ..fetch(2) }, FetchRefusal::Unknown, Status::TransferUnknown),
        (Fetch { generation: 2, ..fetch(2) }, FetchRefusal::SourceChanged, Status::SourceChanged),
        (Fetch { offset: 21, ..fetch(2) }, FetchRefusal::BadOffset, Status::BadFrame),
        (Fetch { have: true, ..fetch(2) }, FetchRefusal::BadOffset, Status::BadFrame),
        (fetch(1), FetchRefusal::BadNonce, Status::BadFrame),
        (fetch(0), FetchRefusal::BadNonce, Status::BadFrame),
    ];
    for (bad, refusal, status) in cases {
        assert_eq!(ask(&mut ledger, "site-1", &bad), Err(refusal));
        assert_eq!(refusal.status(), status);
    }
    assert_eq!(give(&mut ledger, "site-1", &receipt(1)), Ok(Receipted::Settled));
    let site = name("site-2");
    let who = Receiver { name: &site, job: None };
    let late = ledger.handle_fetch(at(1), 1_900_000_000, who, &fetch(3), true);
    assert_eq!(late, Err(FetchRefusal::Expired));
}

#[test]
fn expiry_ends_nothing_that_is_under_way_and_begins_nothing_new() {
    let expires = reference().expires_unix;
    let (late, week) = (expires + 1, expires + 7 * 24 * 3600);
    let patience = Duration::from_secs(60);
    let [one, two] = ["site-1", "site-2"].map(name);
    let mut ledger = ledger();
    let ask = |ledger: &mut Ledger, name: &Fqcn, nonce| {
        ledger.handle_fetch(at(1000), late, Receiver { name, job: None }, &fetch(nonce), true)
    };
    assert_eq!(ask(&mut ledger, &one, 1), Err(FetchRefusal::Expired));
    let early = Receiver { name: &one, job: None };
    ledger.handle_fetch(at(1), NOW, early, &fetch(1), true).unwrap();
    ledger.handle_conduit(at(1), &one, true);
    assert_eq!(ledger.expire(at(900), late, patience), Some(at(960)), "it may be fetching still");
    assert_eq!(ledger.end_of(&two), Some(End::Failed(Status::TransferExpired)));
    ledger.handle_conduit(at(1000), &one, false);
    assert!(ask(&mut ledger, &one, 2).is_ok(), "its way was lost, and it goes on");
    assert_eq!(ask(&mut ledger, &two, 3), Err(FetchRefusal::Expired));
    assert_eq!(ledger.expire(at(1050), late, patience), Some(at(1060)));
    assert_eq!((ledger.end_of(&one), ledger.outcome()), (None, None));
    assert_eq!(ledger.expire(at(1060), late, patience), None);
    assert_eq!(ledger.end_of(&one), Some(End::Failed(Status::TransferExpired)));
    assert_eq!(ask(&mut ledger, &one, 4), Err(FetchRefusal::Expired));
    assert_eq!(ledger.outcome().map(|outcome| outcome.stored), Some(0));

    // Who only holds a conduit open does not do so for ever.
    let mut ledger = Ledger::new(at(0), Arc::new(reference()), terms()).unwrap();
    ledger.handle_fetch(at(1), NOW, early, &fetch(1), true).unwrap();
    ledger.handle_conduit(at(1), &one, true);
    assert_eq!(ledger.expire(at(900), week - 1, patience), Some(at(960)));
    let ever = ledger.handle_fetch(at(900), week, early, &fetch(5), true);
    assert_eq!(ever, Err(FetchRefusal::Expired));
    assert_eq!(ledger.expire(at(900), week, patience), None);
    assert!(ledger.outcome().is_some());
}

#[test]
fn who_is_told_to_come_again_is_not_away() {
    let late = reference().expires_unix + 1;
    let patience = Duration::from_secs(60);
    let mut ledger = ledger();
    ask(&mut ledger, "site-1", &fetch(1)).unwrap();
    ledger.handle_conduit(at(1), &name("site-1"), true);
    ledger.handle_conduit(at(10), &name("site-1"), false);
    ledger.handle_seen(at(65), &name("site-1"));
    assert_eq!(ledger.expire(at(70), late, patience), Some(at(125)));
    assert_eq!(ledger.expire(at(125), late, patience), None);
    assert_eq!(ledger.end_of(&name("site-1")), Some(End::Failed(Status::TransferExpired)));
}

#[test]
fn it_is_under_way_while_somebody_reads_it_who_has_not_ended() {
    let mut ledger = ledger();
    ask(&mut ledger, "site-1", &fetch(1)).unwrap();
    assert!(!ledger.is_under_way(), "let in, and not there yet");
    ledger.handle_conduit(at(1), &name("site-1"), true);
    assert!(ledger.is_under_way());
    assert_eq!(give(&mut ledger, "site-1", &receipt(1)), Ok(Receipted::Settled));
    assert!(!ledger.is_under_way(), "it has everything");
    ask(&mut ledger, "site-2", &fetch(2)).unwrap();
    ledger.handle_conduit(at(2), &name("site-2"), true);
    assert!(ledger.is_under_way());
    ledger.handle_conduit(at(3), &name("site-2"), false);
    assert!(!ledger.is_under_way(), "its way is lost");
}

#[test]
fn a_quorum_is_told_apart_from_completion_and_a_failure_may_be_made_good_until_the_end() {
    let quorum = Terms { quorum: Some(1), ..terms() };
    let mut ledger = Ledger::new(at(0), Arc::new(reference()), quorum).unwrap();
    ask(&mut ledger, "site-1", &fetch(1)).unwrap();
    let failed = Receipt { outcome: 128, digest: None, size: 3, ..receipt(1) };
    let said = give(&mut ledger, "site-1", &failed);
    assert_eq!(said, Ok(Receipted::Failed(Status::StorageFull)));
    ask(&mut ledger, "site-1", &fetch(2)).unwrap();
    assert_eq!(give(&mut ledger, "site-1", &receipt(2)), Ok(Receipted::Settled));
    ledger.decline(&name("site-2"), Status::NoRoute);
    let outcome = Arc::clone(ledger.outcome().unwrap());
    assert_eq!((outcome.verdict, outcome.quorum_met, outcome.stored), (Verdict::Failed, true, 1));
    ask(&mut ledger, "site-2", &fetch(3)).unwrap();
    assert_eq!(give(&mut ledger, "site-2", &receipt(3)), Ok(Receipted::Late));
    assert_eq!(ledger.outcome(), Some(&outcome), "settled once");
}

#[test]
fn what_was_stored_of_an_earlier_content_does_not_complete_a_later_one() {
    let mut ledger = ledger();
    ask(&mut ledger, "site-1", &fetch(1)).unwrap();
    give(&mut ledger, "site-1", &receipt(1)).unwrap();
    let same = Arc::new(reference());
    assert_eq!(ledger.change_source(at(2), same), Err(BadReference::Generation));
    let changed = Reference { generation: 2, digest: None, ..reference() };
    ledger.change_source(at(2), Arc::new(changed)).unwrap();
    assert_eq!(ask(&mut ledger, "site-2", &fetch(1)), Err(FetchRefusal::SourceChanged));
    let second = |nonce| Fetch { generation: 2, ..fetch(nonce) };
    ask(&mut ledger, "site-2", &second(5)).unwrap();
    let told = Receipt { generation: 2, ..receipt(5) };
    assert_eq!(give(&mut ledger, "site-2", &told), Err(ReceiptRefusal::NotServed));
    assert!(ledger.set_source(20, Digest::of(&[0; 20])));
    assert!(!ledger.set_source(20, Digest::of(&[1; 20])));
    assert_eq!(give(&mut ledger, "site-2", &told), Ok(Receipted::Settled));
    let outcome = ledger.outcome().unwrap();
    assert_eq!((outcome.verdict, outcome.stored), (Verdict::Failed, 1));
}

proptest! {
    /// A model that knows only who has given a good receipt.
    #[test]
    fn completed_means_that_all_have_said_so_and_it_is_said_once(
        events in prop::collection::vec((0u8..5, 0usize..3, 0u8..4), 0..60),
    ) {
        let mut ledger = ledger();
        let names = ["site-1", "site-2", "site-3"];
        let mut nonces = [0; 3];
        let (mut good, mut ended) = (BTreeSet::new(), BTreeSet::new());
        let mut first: Option<Outcome> = None;
        for (event, who, nonce) in events {
            let site = names[who];
            match event {
                0 | 1 => {
                    let let_in = ask(&mut ledger, site, &fetch(nonce)).is_ok();
                    prop_assert_eq!(let_in, who < 2 && nonce != 0 && nonces[who] != nonce);
                    if let_in { nonces[who] = nonce; }
                }
                2 | 3 => {
                    let counts = who < 2 && nonce != 0 && nonces[who] == nonce;
                    let failed = event == 3;
                    let told = if failed {
                        Receipt { outcome: 128, digest: None, ..receipt(nonce) }
                    } else {
                        receipt(nonce)
                    };
                    let said = give(&mut ledger, site, &told);
                    prop_assert_eq!(said.is_ok(), counts && !(failed && good.contains(&who)));
                    let is_first = said == Ok(Receipted::Settled) || said == Ok(Receipted::Late);
                    prop_assert_eq!(is_first, counts && !failed && good.insert(who) );
                    if counts { ended.insert(who); }
                }
                _ => {
                    ledger.decline(&name(site), Status::NoRoute);
                    if who < 2 { ended.insert(who); }
                }
            }
            match (&first, ledger.outcome()) {
                (Some(first), outcome) => prop_assert_eq!(Some(first), outcome.map(|o| &**o)),
                (None, Some(outcome)) => {
                    prop_assert_eq!(ended.len(), 2);
                    let all = good.len() == 2;
                    prop_assert_eq!(outcome.verdict == Verdict::Completed, all);
                    first = Some((**outcome).clone());
                }
                (None, None) => prop_assert!(ended.len() < 2),
            }
        }
    }
}
