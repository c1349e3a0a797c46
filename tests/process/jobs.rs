//! Processes of a job: none outlives what it belongs to.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::driver::{Doomed, Place, Process, Running, SOON, descendants, until};

/// Five seconds that a process may take to notice, and what a busy machine adds.
const NOTICED: Duration = Duration::from_secs(10);

/// Starts a demo whose job takes a while, and waits until all of it runs.
fn long_demo(place: &Place) -> (Running, Doomed) {
    let running = place.start(&["demo", "-o", "jsonl", "--rounds", "1000"]);
    running.out.wait_json("round", 2 * SOON, |event| (event["event"] == "round").then_some(()));
    let processes: BTreeSet<Process> = running.descendants().into_iter().collect();
    assert_eq!(processes.len(), 7, "four job cells and three trainers");
    (running, Doomed(processes))
}

fn does(process: Process, verb: &str) -> bool {
    process.arguments().and_then(|words| words.last().cloned()).as_deref() == Some(verb)
}

fn assert_gone<'a>(processes: impl IntoIterator<Item = &'a Process>) {
    let begun = Instant::now();
    for process in processes {
        let left = NOTICED.saturating_sub(begun.elapsed());
        until("the end of what belongs to nobody", left, || (!process.lives()).then_some(()));
    }
}

#[test]
fn c_12_a_site_that_is_killed_takes_its_jobs_with_it() {
    let place = Place::new();
    let (running, processes) = long_demo(&place);
    let _killed_at_the_end = running.kill();
    assert_gone(&processes.0);
}

#[test]
fn c_12_a_site_that_is_killed_takes_even_a_job_cell_that_hangs() {
    let place = Place::new();
    let (running, processes) = long_demo(&place);
    let hung =
        *processes.0.iter().find(|process| does(**process, "job-cell")).expect("four of them");
    hung.signal(Signal::STOP);
    let below = descendants(hung);
    let _killed_at_the_end = running.kill();
    let is_other = |process: &&Process| **process != hung && !below.contains(process);
    assert_gone(processes.0.iter().filter(is_other));
    // Nobody can end well while it is stopped; as soon as it runs again it has to.
    hung.signal(Signal::CONT);
    assert_gone([&hung].into_iter().chain(&below));
}

#[test]
fn c_12_a_job_cell_that_is_killed_takes_its_trainer_with_it_and_the_job_fails() {
    let place = Place::new();
    let (running, processes) = long_demo(&place);
    let with_trainer = |process: &&Process| !descendants(**process).is_empty();
    let cell = *processes.0.iter().find(with_trainer).expect("three of them have a trainer");
    let trainer = descendants(cell);
    cell.signal(Signal::KILL);
    assert_gone(&trainer);
    assert_job_failed(running, &processes.0);
}

#[test]
fn c_12_a_trainer_that_is_killed_ends_its_job() {
    let place = Place::new();
    let (running, processes) = long_demo(&place);
    let trainer =
        processes.0.iter().find(|process| does(**process, "trainer")).expect("three of them");
    trainer.signal(Signal::KILL);
    assert_job_failed(running, &processes.0);
}

/// Asserts that the demo says at which site the job failed, and leaves none of its processes.
fn assert_job_failed(running: Running, processes: &BTreeSet<Process>) {
    let exit = running.exit(2 * SOON);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let envelope = exit.envelope();
    let message = envelope["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("the job failed at ") && message.contains("site-"), "{envelope}");
    assert_gone(processes);
}
