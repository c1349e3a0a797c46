//! Parts of jobs that go on while their cell is away: taken over when it comes back, and never left behind.

use std::{collections::BTreeSet, fs, path::PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::driver::{Doomed, Process, Running, SOON, Study, outcome, until};

const SITE: &str = "site-1";

/// A job with one site whose part may be without its cell for so many seconds, and the file that it waits for.
fn patient(study: &Study, program: &str, detach_s: u32) -> (Running, PathBuf) {
    let file = study.cells.place.dir().join("may-end");
    let site = match program {
        "patient" => format!("patient file = \"{}\"", file.display()),
        other => other.to_owned(),
    };
    let more = format!("sites = [\"{SITE}\"]\ndetach_s = {detach_s}\n[budget]\nfinish_s = 300\n");
    let dir = study.describe("fold", "hold seconds = 2", &site, &more);
    let running = study.run(&dir);
    running.out.wait_json("what the program says", 2 * SOON, |line| {
        (line["event"] == "job_log" && line["text"] == "begun").then_some(())
    });
    running.out.wait_json("a running job", 2 * SOON, |line| {
        (line["event"] == "job" && line["state"] == "running").then_some(())
    });
    (running, file)
}

/// Kills the cell of the site, and gives what it had started.
fn kill_site(study: &mut Study) -> Doomed {
    let below = study.cells.take(SITE).kill();
    assert!(!below.0.is_empty(), "it had started something");
    below
}

fn start_site(study: &mut Study) {
    study.cells.start(SITE);
    study.cells.wait_ready(SITE);
}

fn wait_gone(what: &str, processes: &BTreeSet<Process>) {
    until(what, 2 * SOON, || processes.iter().all(|process| !process.lives()).then_some(()));
}

fn assert_outcome(running: Running, code: i32, want: &str) -> Value {
    let exit = running.exit(4 * SOON);
    let (found, ended, envelope) = outcome(&exit);
    assert_eq!((found, ended.as_str()), (Some(code), want), "{envelope}");
    envelope
}

/// No record says any longer that something may run.
fn assert_nothing_recorded(study: &Study) {
    let dir = study.cells.place.state().join(SITE).join("job-parts");
    until("no record of a part", SOON, || fs::read_dir(&dir).ok()?.next().is_none().then_some(()));
    study.assert_nothing_left();
}

#[test]
fn g_45_a_part_that_may_goes_on_without_its_cell_and_is_taken_over_by_the_next() {
    let mut study = Study::up();
    let (running, file) = patient(&study, "patient", 300);
    let begun = study.show("fold");
    let below = kill_site(&mut study);
    start_site(&mut study);
    let alive = below.0.iter().filter(|process| process.lives()).count();
    assert!(alive >= 2, "the job cell and its program: {below:?}");
    // The job cell comes back to its cell with the certificate that it has.
    until("the job cell at its cell", 2 * SOON, || {
        study.cells.peer(SITE, "relay-a.site-1.fold").map(drop)
    });
    let shown = study.show("fold");
    assert_eq!((&shown["attempt"], &shown["run"]), (&begun["attempt"], &begun["run"]));
    assert_eq!(shown["outcome"], Value::Null, "{shown}");
    fs::write(&file, "").expect("a temporary file");
    // Said to the cell that came back, through the pipe of the one that is gone.
    running.out.wait_json("its last line", 2 * SOON, |line| {
        (line["event"] == "job_log" && line["text"] == "done").then_some(())
    });
    assert_outcome(running, 0, "completed");
    wait_gone("the end of what had been taken over", &below.0);
    assert_nothing_recorded(&study);
}

#[test]
fn g_45_what_ends_while_its_cell_is_away_has_ended_as_it_did() {
    let mut study = Study::up();
    let (running, file) = patient(&study, "patient", 300);
    let below = kill_site(&mut study);
    fs::write(&file, "").expect("a temporary file");
    wait_gone("the end of the part, all by itself", &below.0);
    start_site(&mut study);
    assert_outcome(running, 0, "completed");
    assert_nothing_recorded(&study);
}

#[test]
fn g_45_a_cancelled_part_that_was_taken_over_ends() {
    let mut study = Study::up();
    let (running, _) = patient(&study, "patient", 300);
    let below = kill_site(&mut study);
    start_site(&mut study);
    assert_eq!(study.ask(&["cancel", "fold"]).data()["outcome"], "aborted");
    assert_outcome(running, 1, "aborted");
    wait_gone("the end of what had been taken over", &below.0);
    assert_nothing_recorded(&study);
}

#[test]
fn c_12_a_part_whose_cell_does_not_come_back_ends_by_itself() {
    let mut study = Study::up();
    let (running, _) = patient(&study, "patient", 3);
    let below = kill_site(&mut study);
    wait_gone("the end of a part that nobody comes back to", &below.0);
    assert_outcome(running, 1, "lost");
    start_site(&mut study);
    assert_nothing_recorded(&study);
}

#[test]
fn g_45_a_part_whose_cell_and_job_cell_are_killed_leaves_no_orphan_and_is_lost() {
    let mut study = Study::up();
    let (running, _) = patient(&study, "stubborn-patient", 300);
    let cell = study.job_cell(SITE);
    let below = kill_site(&mut study);
    cell.signal(Signal::KILL);
    start_site(&mut study);
    wait_gone("the end of what ignores signals and belongs to nobody", &below.0);
    assert_outcome(running, 1, "lost");
    assert_nothing_recorded(&study);
}

#[test]
fn j_21_a_job_does_not_outlive_its_cell_where_that_is_not_offered() {
    let study = Study::up();
    for (site, detach_s) in [("hold seconds = 1", 1), ("patient file = \"x\"", 601)] {
        let more = format!("detach_s = {detach_s}\n");
        let dir = study.describe("fold", "hold seconds = 1", site, &more);
        let exit = study.run(&dir).exit(2 * SOON);
        assert_eq!(exit.code, Some(6), "{exit:?}");
        assert_eq!(exit.envelope()["error_code"], "COMPONENT_NOT_ALLOWED");
    }
    assert_eq!(study.ask(&["ls"]).data().as_array().map(Vec::len), Some(0));
}
