use proptest::prelude::*;

use super::{window::WINDOW, *};
use crate::testing::at;

fn start(name: &str, nonce: u64, sequence: u64) -> RequestId {
    let incarnation = Incarnation { counter: 1, nonce };
    RequestId { origin: name.parse().unwrap(), incarnation, sequence }
}

fn id(sequence: u64) -> RequestId {
    start("site-1", 1, sequence)
}

fn dedupe() -> Dedupe<u64> {
    Dedupe::new(DedupeLimits::default())
}

#[test]
fn g_12_what_comes_twice_is_executed_once_and_answered_alike() {
    let mut dedupe = dedupe();
    assert_eq!(dedupe.begin(at(0), &id(7), at(9), false), Seen::New);
    assert_eq!(dedupe.begin(at(1), &id(7), at(9), false), Seen::Running);
    dedupe.finish(&id(7), 77, 10);
    assert_eq!(dedupe.begin(at(2), &id(7), at(9), false), Seen::Done(77));
    assert_eq!(dedupe.begin(at(2), &id(6), at(9), false), Seen::New, "an earlier one, late");
    assert_eq!(dedupe.begin(at(2), &start("site-1", 2, 7), at(9), false), Seen::New);
    assert_eq!(dedupe.begin(at(2), &start("site-2", 1, 7), at(9), false), Seen::New);
    assert_eq!(dedupe.begin(at(9), &id(7), at(20), false), Seen::Forgotten, "its time is over");
    assert_eq!(dedupe.bytes(), 0);
}

#[test]
fn what_was_refused_may_come_again() {
    let mut dedupe = dedupe();
    assert_eq!(dedupe.begin(at(0), &id(7), at(9), false), Seen::New);
    dedupe.undo(&id(7));
    assert_eq!(dedupe.begin(at(1), &id(7), at(9), false), Seen::New);
}

#[test]
fn below_the_window_nothing_is_executed_but_what_is_alive_is_still_known() {
    let mut dedupe = dedupe();
    dedupe.begin(at(0), &id(1), at(5), false);
    dedupe.finish(&id(1), 11, 0);
    assert_eq!(dedupe.begin(at(1), &id(2 + WINDOW), at(9), false), Seen::New);
    assert_eq!(dedupe.begin(at(1), &id(1), at(9), false), Seen::Done(11), "alive");
    assert_eq!(dedupe.begin(at(1), &id(2), at(9), false), Seen::Stale);
    assert_eq!(dedupe.begin(at(6), &id(1), at(9), false), Seen::Stale, "its time is over");
    assert_eq!(dedupe.begin(at(6), &id(2), at(9), true), Seen::New, "once more does no harm");
}

#[test]
fn an_answer_too_large_to_keep_is_not_made_a_second_time() {
    let mut dedupe = dedupe();
    dedupe.begin(at(0), &id(1), at(9), false);
    dedupe.finish(&id(1), 11, DedupeLimits::default().answer_bytes + 1);
    assert_eq!(dedupe.begin(at(1), &id(1), at(9), false), Seen::Forgotten);
    assert_eq!(dedupe.begin(at(1), &id(1), at(9), true), Seen::New, "unless that does no harm");
    dedupe.finish_unanswered(&id(1));
    assert_eq!(dedupe.begin(at(1), &id(1), at(9), false), Seen::Forgotten);
}

#[test]
fn answers_are_bounded_per_origin_and_in_all() {
    let limits = DedupeLimits { origin_bytes: 100, total_bytes: 150, ..DedupeLimits::default() };
    let mut dedupe = Dedupe::new(limits);
    for sequence in 1..=10 {
        dedupe.begin(at(0), &id(sequence), at(9), false);
        dedupe.finish(&id(sequence), sequence, 20);
    }
    assert_eq!(dedupe.bytes(), 100);
    assert_eq!(dedupe.begin(at(0), &id(5), at(9), false), Seen::Forgotten);
    assert_eq!(dedupe.begin(at(0), &id(6), at(9), false), Seen::Done(6));
    for sequence in 1..=4 {
        let other = start("site-2", 1, sequence);
        dedupe.begin(at(0), &other, at(9), false);
        dedupe.finish(&other, sequence, 20);
    }
    assert_eq!(dedupe.bytes(), 140);
    assert_eq!(dedupe.begin(at(0), &id(7), at(9), false), Seen::Forgotten);
}

#[test]
fn who_claims_to_be_many_crowds_out_nobody_but_himself() {
    let mut dedupe = dedupe();
    assert_eq!(dedupe.begin(at(0), &id(1), at(9), false), Seen::New);
    for nonce in 0..4 {
        assert_eq!(dedupe.begin(at(0), &start("evil", nonce, 1), at(9), false), Seen::New);
    }
    assert_eq!(dedupe.begin(at(0), &start("evil", 4, 1), at(9), false), Seen::Full);
    assert_eq!(dedupe.begin(at(0), &id(1), at(9), false), Seen::Running);
    assert_eq!(dedupe.begin(at(9), &start("evil", 4, 1), at(20), false), Seen::New);
    assert_eq!(dedupe.origins(), 5);
}

#[test]
fn origins_and_live_ids_are_bounded() {
    let limits = DedupeLimits { origins: 2, live: 3, ..DedupeLimits::default() };
    let mut dedupe = Dedupe::<u64>::new(limits);
    let of = |name: &str, sequence| start(name, 1, sequence);
    assert_eq!(dedupe.begin(at(0), &of("a", 1), at(2), false), Seen::New);
    assert_eq!(dedupe.begin(at(0), &of("b", 1), at(9), false), Seen::New);
    assert_eq!(dedupe.begin(at(0), &of("c", 1), at(9), false), Seen::Full);
    assert_eq!(dedupe.begin(at(2), &of("c", 1), at(9), false), Seen::New, "a has nothing alive");
    assert_eq!(dedupe.begin(at(2), &of("c", 2), at(9), false), Seen::New);
    assert_eq!(dedupe.begin(at(2), &of("c", 3), at(9), false), Seen::Full);
    assert_eq!(dedupe.begin(at(2), &of("c", 1), at(9), false), Seen::Running);
}

proptest! {
    /// Whatever comes in whatever order, no id is executed twice, and memory is bounded.
    #[test]
    fn g_12_nothing_is_executed_twice(
        events in prop::collection::vec((0u8..6, 0u64..3, 1u64..20, 0u64..3, 0usize..80), 0..200),
    ) {
        let limits = DedupeLimits {
            origins: 2, starts: 2, live: 16, answer_bytes: 60, origin_bytes: 100, total_bytes: 150,
        };
        let mut dedupe = Dedupe::new(limits);
        let (mut executed, mut running) = (BTreeSet::new(), BTreeSet::new());
        let mut now = 0u64;
        for (event, origin, sequence, wait, size) in events {
            now += wait;
            let stride = WINDOW / 8;
            let id = start(["a", "b", "c"][origin as usize], 1, sequence * stride);
            match event {
                0..=2 => match dedupe.begin(at(now), &id, at(now + 4), false) {
                    // What was forgotten with its whole origin is beyond what is promised.
                    Seen::New => { running.insert(id.clone()); executed.insert(id); }
                    Seen::Running => prop_assert!(running.contains(&id)),
                    Seen::Done(answer) => {
                        prop_assert_eq!(answer, id.sequence);
                        prop_assert!(executed.contains(&id) && !running.contains(&id));
                    }
                    Seen::Forgotten => prop_assert!(executed.contains(&id)),
                    Seen::Stale | Seen::Full => {}
                },
                3 => if running.remove(&id) { dedupe.finish(&id, id.sequence, size); },
                4 => if running.remove(&id) { dedupe.finish_unanswered(&id); },
                _ => if running.remove(&id) { executed.remove(&id); dedupe.undo(&id); },
            }
            prop_assert!(dedupe.bytes() <= 150 && dedupe.origins() <= 2);
            prop_assert!(dedupe.deadlines.len() <= 16);
            let live: usize = dedupe.origins.values().map(|origin| origin.live.len()).sum();
            prop_assert_eq!(live, dedupe.deadlines.len());
            let kept: usize = dedupe.origins.values().map(|origin| origin.bytes).sum();
            prop_assert_eq!(kept, dedupe.bytes());
        }
    }
}
