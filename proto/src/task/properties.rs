//! What holds for every course of events.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    Board, Fetched, Posting, Worker,
    wire::{self, Fetch, Given, Progress, Submit, Verdict},
};
use crate::{codec::Octets, name::Fqcn, testing::at};

#[derive(Clone, Debug)]
enum Step {
    Post { sites: u8 },
    Fetch { site: u8, worker: u8 },
    Submit { site: u8, worker: u8, task: u64, attempt: u32 },
    End { task: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u8..8).prop_map(|sites| Step::Post { sites }),
        (0_u8..3, 0_u8..3).prop_map(|(site, worker)| Step::Fetch { site, worker }),
        (0_u8..3, 0_u8..3, 0_u64..6, 0_u32..4).prop_map(|(site, worker, task, attempt)| {
            Step::Submit { site, worker, task, attempt }
        }),
        (0_u64..6).prop_map(|task| Step::End { task }),
    ]
}

fn name(site: u8) -> Fqcn {
    format!("site-{site}").parse().unwrap()
}

fn worker(worker: u8) -> Worker {
    Octets([worker; 16])
}

proptest! {
    #[test]
    fn c_09_only_the_last_who_was_given_a_task_can_submit_it_and_only_once(
        steps in prop::collection::vec(step(), 0..80)
    ) {
        let mut board = Board::default();
        let mut holder: BTreeMap<(u64, u8), (u8, u32)> = BTreeMap::new();
        let mut accepted: BTreeMap<(u64, u8), u32> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Post { sites } => {
                    let sites = (0..3).filter(|at| sites >> at & 1 == 1).map(name).collect();
                    board.post(at(0), Posting::of_all(sites, Duration::from_secs(1)));
                }
                Step::Fetch { site, worker: by } => {
                    if let Fetched::Task(given) = board.fetch(&name(site), worker(by)) {
                        let before = holder.insert((given.task, site), (by, given.attempt));
                        let expected = before.map_or(1, |(old, attempt)| attempt + u32::from(old != by));
                        prop_assert_eq!(given.attempt, expected);
                        prop_assert!(!accepted.contains_key(&(given.task, site)));
                    }
                }
                Step::Submit { site, worker: by, task, attempt } => {
                    let verdict = board.judge(&name(site), worker(by), task, attempt);
                    let is_holder = holder.get(&(task, site)) == Some(&(by, attempt));
                    match verdict {
                        Ok(()) => {
                            prop_assert!(is_holder);
                            board.accept(at(0), &name(site), task).unwrap();
                            *accepted.entry((task, site)).or_default() += 1;
                        }
                        Err(Verdict::Before) => prop_assert!(is_holder && accepted.contains_key(&(task, site))),
                        Err(Verdict::Late) => prop_assert!(is_holder),
                        Err(Verdict::Stale) => prop_assert!(!is_holder),
                        Err(other) => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::End { task } => board.end(task),
            }
        }
        prop_assert!(accepted.values().all(|times| *times == 1));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let message = Bytes::from(bytes);
        let _ = wire::decode::<Fetch>(&message);
        let _ = wire::decode::<Given>(&message);
        let _ = wire::decode::<Submit>(&message);
        let _ = wire::decode::<Verdict>(&message);
        let _ = wire::decode::<Progress>(&message);
    }
}
