//! What the board decides, and what the messages look like.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    Board, Fetched, Posting, Standing, Worker,
    wire::{self, BadMessage, Fetch, Given, Progress, Submit, Task, Verdict},
};
use crate::{codec::Octets, name::Fqcn, testing::at};

const A: Worker = Octets([1; 16]);
const B: Worker = Octets([2; 16]);

fn site(name: &str) -> Fqcn {
    name.parse().unwrap()
}

fn posting(sites: &[&str]) -> Posting {
    Posting::of_all(sites.iter().map(|name| site(name)).collect(), Duration::from_secs(60))
}

fn given(fetched: Fetched) -> (u64, u32) {
    match fetched {
        Fetched::Task(given) => (given.task, given.attempt),
        Fetched::Nothing | Fetched::Over => panic!("no task: {fetched:?}"),
    }
}

#[test]
fn c_09_a_result_is_accepted_once() {
    let mut board = Board::default();
    let task = board.post(at(0), posting(&["a", "b"]));
    assert_eq!(given(board.fetch(&site("a"), A)), (task, 1));
    assert_eq!(board.judge(&site("a"), A, task, 1), Ok(()));
    board.accept(at(1), &site("a"), task).unwrap();
    assert_eq!(board.judge(&site("a"), A, task, 1), Err(Verdict::Before));
    board.end(task);
    assert_eq!(board.judge(&site("a"), A, task, 1), Err(Verdict::Before), "also when it is over");
}

#[test]
fn c_09_another_worker_of_the_site_takes_over_and_the_old_attempt_is_stale() {
    let mut board = Board::default();
    let task = board.post(at(0), posting(&["a"]));
    board.fetch(&site("a"), A);
    assert_eq!(given(board.fetch(&site("a"), B)), (task, 2));
    assert_eq!(
        board.judge(&site("a"), A, task, 1),
        Err(Verdict::Stale),
        "the late one of attempt 1"
    );
    assert_eq!(board.judge(&site("a"), A, task, 2), Err(Verdict::Stale), "another's attempt");
    assert_eq!(board.advance(&site("a"), A, task, 1, 0.5), None);
    assert_eq!(board.judge(&site("a"), B, task, 2), Ok(()));
}

#[test]
fn the_same_worker_is_told_the_same_again() {
    let mut board = Board::default();
    let task = board.post(at(0), posting(&["a"]));
    for again in [false, true, true] {
        let expected = super::Assignment { task, attempt: 1, again };
        assert_eq!(board.fetch(&site("a"), A), Fetched::Task(expected));
    }
}

#[test]
fn atk_111_no_site_submits_for_another_nor_what_was_given_to_nobody() {
    let mut board = Board::default();
    let task = board.post(at(0), posting(&["a", "b"]));
    board.fetch(&site("a"), A);
    assert_eq!(board.judge(&site("b"), A, task, 1), Err(Verdict::Stale));
    assert_eq!(board.judge(&site("c"), A, task, 1), Err(Verdict::Stale));
    assert_eq!(board.judge(&site("a"), A, task + 1, 1), Err(Verdict::Stale));
    assert_eq!(board.judge(&site("a"), A, 0, 1), Err(Verdict::Stale));
    assert!(board.accept(at(1), &site("c"), task).is_err());
    assert_eq!(board.progress(task).unwrap()[&site("a")], 0.0);
}

#[test]
fn what_comes_after_the_end_is_late() {
    let mut board = Board::default();
    let task = board.post(at(0), posting(&["a"]));
    board.fetch(&site("a"), A);
    board.end(task);
    assert_eq!(board.judge(&site("a"), A, task, 1), Err(Verdict::Late));
    assert_eq!(board.fetch(&site("a"), A), Fetched::Nothing);
    for _ in 0..300 {
        let next = board.post(at(0), posting(&["a"]));
        board.end(next);
    }
    assert_eq!(board.judge(&site("a"), A, task, 1), Err(Verdict::Late), "also when forgotten");
    board.close();
    assert_eq!(board.fetch(&site("a"), A), Fetched::Over);
}

#[test]
fn stragglers_are_waited_for_as_long_as_is_said() {
    let mut board = Board::default();
    let mut of_two = posting(&["a", "b", "c"]);
    (of_two.quorum, of_two.grace) = (2, Some(Duration::from_secs(5)));
    let task = board.post(at(0), of_two);
    let accept = |board: &mut Board, name: &str, now| {
        board.fetch(&site(name), A);
        board.accept(at(now), &site(name), task).unwrap();
    };
    accept(&mut board, "a", 10);
    assert_eq!(board.standing(at(11), task), Ok(Standing::Waiting { until: at(60) }));
    accept(&mut board, "b", 20);
    assert_eq!(board.standing(at(24), task), Ok(Standing::Waiting { until: at(25) }));
    assert_eq!(board.standing(at(25), task), Ok(Standing::Enough(vec![site("c")])));
    accept(&mut board, "c", 26);
    assert_eq!(board.standing(at(26), task), Ok(Standing::Complete));
}

#[test]
fn too_few_in_time_is_a_failure_that_names_who_is_missing() {
    let mut board = Board::default();
    let task = board.post(at(0), posting(&["a", "b"]));
    board.fetch(&site("a"), A);
    board.accept(at(1), &site("a"), task).unwrap();
    assert_eq!(board.standing(at(60), task), Ok(Standing::Failed(vec![site("b")])));
}

#[test]
fn progress_goes_forward_only() {
    let mut board = Board::default();
    let task = board.post(at(0), posting(&["a"]));
    board.fetch(&site("a"), A);
    let mut say = |done| board.advance(&site("a"), A, task, 1, done);
    assert_eq!(say(0.5), Some(0.5));
    for refused in [0.25, 1.5, f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(say(refused), None, "{refused}");
    }
    assert_eq!(say(0.75), Some(0.75));
}

#[test]
fn every_message_survives_the_way() {
    let task = Task {
        id: 7,
        attempt: 2,
        name: "train".to_owned(),
        round: Some(0),
        rounds: None,
        content_type: Some("application/vnd.safetensors".to_owned()),
    };
    for given in [Given::Nothing, Given::Task(task), Given::Over] {
        let message = wire::encode(&given, b"body");
        assert_eq!(wire::decode(&message), Ok((given, Bytes::from_static(b"body"))));
    }
    let verdicts = [Verdict::Accepted, Verdict::Before, Verdict::Late, Verdict::Stale];
    for verdict in verdicts.into_iter().chain([Verdict::Rejected("why".to_owned())]) {
        assert_eq!(wire::decode(&wire::encode(&verdict, b"")), Ok((verdict, Bytes::new())));
    }
    let submit = Submit {
        worker: A,
        task: 7,
        attempt: 2,
        weight: Some(100.0),
        metrics: BTreeMap::from([("loss".to_owned(), 0.5)]),
        content_type: None,
    };
    assert_eq!(wire::decode(&wire::encode(&submit, b"x")), Ok((submit, Bytes::from_static(b"x"))));
    let fetch = Fetch { worker: B, wait_ms: 5000 };
    assert_eq!(wire::decode(&wire::encode(&fetch, b"")), Ok((fetch, Bytes::new())));
    let progress = Progress { worker: A, task: 1, attempt: 1, done: 0.5, text: None };
    assert_eq!(wire::decode(&wire::encode(&progress, b"")), Ok((progress, Bytes::new())));
}

#[test]
fn a_fetch_is_these_bytes() {
    let fetch = wire::encode(&Fetch { worker: Octets([0xab; 16]), wait_ms: 1000 }, b"");
    let expected = format!("000000179301c410{}cd03e8", "ab".repeat(16));
    assert_eq!(hex::encode(&fetch), expected);
}

#[test]
fn what_is_no_message_is_refused_by_name() {
    let fetch = wire::encode(&Fetch { worker: A, wait_ms: 1 }, b"");
    let cases: [(Bytes, BadMessage); 6] = [
        (Bytes::new(), BadMessage::Short),
        (fetch.slice(..fetch.len() - 1), BadMessage::Short),
        (Bytes::from_static(&[0, 1, 0, 1]), BadMessage::Long),
        (wire::encode(&(2, A, 1), b""), BadMessage::Form("fetch")),
        (wire::encode(&(1, A, 1, 1), b""), BadMessage::Form("fetch")),
        (wire::encode(&(1, A), b""), BadMessage::Form("fetch")),
    ];
    for (message, expected) in cases {
        assert_eq!(wire::decode::<Fetch>(&message), Err(expected));
    }
    let nan = Progress { worker: A, task: 1, attempt: 1, done: f64::NAN, text: None };
    let nan = wire::encode(&nan, b"");
    assert_eq!(wire::decode::<Progress>(&nan), Err(BadMessage::Form("progress")));
}
