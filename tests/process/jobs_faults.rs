//! What becomes of a job when something of it is killed at any time: nothing of it is left, and what is said is true.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::driver::{Doomed, Process, Running, SOON, Study, outcome, until};

/// Ten seconds in which the end of one part ends the others, and what a busy machine adds.
const RECONCILED: Duration = Duration::from_secs(20);

/// A job whose parts all run for a long time.
fn long(study: &Study, name: &str, site: &str) -> Running {
    let dir = study.describe(name, "hold seconds = 1000", site, "");
    let running = study.run(&dir);
    study.wait_running(&running);
    running
}

fn assert_ends(study: &Study, running: Running, want: &str) -> Value {
    let exit = running.exit(RECONCILED + SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), want), "{envelope}");
    study.assert_nothing_left();
    envelope
}

#[test]
fn a_program_that_is_killed_ends_its_job() {
    let study = Study::up();
    let running = long(&study, "fold", "hold seconds = 1000");
    study.program("site-2").signal(Signal::KILL);
    let envelope = assert_ends(&study, running, "failed");
    let detail = envelope["data"]["detail"].as_str().unwrap_or_default();
    assert_eq!(detail, "relay-a.site-2: killed by signal 9");
}

#[test]
fn a_job_cell_that_is_killed_takes_its_program_along_and_ends_its_job() {
    let study = Study::up();
    let running = long(&study, "fold", "forks");
    study.job_cell("site-1").signal(Signal::KILL);
    let envelope = assert_ends(&study, running, "failed");
    let detail = envelope["data"]["detail"].as_str().unwrap_or_default();
    assert_eq!(detail, "relay-a.site-1: killed by signal 9");
}

#[test]
fn a_program_of_the_server_that_is_killed_ends_its_job() {
    let study = Study::up();
    let running = long(&study, "fold", "hold seconds = 1000");
    study.program("server").signal(Signal::KILL);
    let envelope = assert_ends(&study, running, "failed");
    let detail = envelope["data"]["detail"].as_str().unwrap_or_default();
    assert_eq!(detail, "server: killed by signal 9");
}

#[test]
fn f_39_when_a_relay_dies_the_parts_behind_it_are_lost_and_end_once_it_is_back() {
    let mut study = Study::up();
    let running = long(&study, "fold", "hold seconds = 1000");
    study.cells.kill("relay-a");
    let exit = running.exit(RECONCILED + 2 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), "lost"), "{envelope}");
    study.cells.start("relay-a");
    study.cells.wait_ready("relay-a");
    until("the end of what nobody wants", 4 * SOON, || study.processes().is_empty().then_some(()));
    study.assert_nothing_left();
}

/// When something is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The job has been accepted, and that is all that is known of it.
    Starting,
    /// Its parts were told to end, and ignore it.
    Ending,
}

#[test]
fn g_45_whichever_cell_is_killed_while_a_job_starts_or_ends_nothing_is_left_and_its_end_is_true() {
    let mut study = Study::up();
    for victim in ["relay-a", "site-1", "server"] {
        for moment in [Moment::Starting, Moment::Ending] {
            let name = format!("fold-{victim}-{moment:?}").to_lowercase();
            let dir = study.describe(&name, "hold seconds = 1000", "stubborn", "");
            let running = study.run(&dir);
            match moment {
                Moment::Starting => {
                    let is_job = |line: &Value| (line["event"] == "job").then_some(());
                    running.out.wait_json("a job that starts", SOON, is_job);
                }
                Moment::Ending => {
                    study.wait_running(&running);
                    study.ask(&["cancel", &name, "--no-wait"]).data();
                }
            }
            let below = study.cells.take(victim).kill();
            let said = (victim != "server").then(|| running.exit(RECONCILED + 2 * SOON));
            study.cells.start(victim);
            study.cells.wait_ready(victim);
            let shown = study.show(&name);
            let end = shown["outcome"].as_str().unwrap_or("none").to_owned();
            // Nothing that was killed, or cancelled, has done what it was for.
            let allowed: &[&str] = match moment {
                Moment::Starting => &["lost", "failed"],
                Moment::Ending => &["lost", "aborted"],
            };
            assert!(allowed.contains(&end.as_str()), "{victim} {moment:?}: {shown}");
            if let Some(said) = said {
                assert_eq!(outcome(&said).1, end, "{victim} {moment:?}: what was said stays true");
            }
            until("the end of everything of the job", 4 * SOON, || {
                study.processes().is_empty().then_some(())
            });
            assert_gone_in_time(&below);
            study.assert_nothing_left();
            study.cells.wait_whole();
        }
    }
}

#[test]
fn g_45_whoever_of_a_job_is_killed_while_it_ends_it_ends_as_it_was_told() {
    let study = Study::up();
    for (round, victim) in ["server", "site-1"].into_iter().enumerate() {
        for is_program in [false, true] {
            let name = format!("fold-{round}-{is_program}");
            let running = long(&study, &name, "stubborn");
            let process = if is_program { study.program(victim) } else { study.job_cell(victim) };
            study.ask(&["cancel", &name, "--no-wait"]).data();
            process.signal(Signal::KILL);
            let exit = running.exit(RECONCILED + SOON);
            let (code, ended, envelope) = outcome(&exit);
            assert_eq!((code, ended.as_str()), (Some(1), "aborted"), "{envelope}");
            study.assert_nothing_left();
        }
    }
}

fn assert_gone_in_time(doomed: &Doomed) {
    for process in &doomed.0 {
        until("the end of what a dead cell had started", SOON, || (!process.lives()).then_some(()));
    }
}

#[test]
fn f_39_when_the_job_cell_of_the_server_dies_those_of_the_sites_end() {
    let study = Study::up();
    let running = long(&study, "fold", "hold seconds = 1000");
    let begun = Instant::now();
    study.job_cell("server").signal(Signal::KILL);
    let envelope = assert_ends(&study, running, "failed");
    assert!(begun.elapsed() < RECONCILED, "{:?}", begun.elapsed());
    let detail = envelope["data"]["detail"].as_str().unwrap_or_default();
    assert_eq!(detail, "server: killed by signal 9");
}

#[test]
fn g_45_when_a_site_dies_its_part_is_lost_and_the_others_end() {
    let mut study = Study::up();
    let running = long(&study, "fold", "hold seconds = 1000");
    let site = study.cells.take("site-1");
    let below = site.kill();
    assert_all_gone(&below);
    let exit = running.exit(RECONCILED + SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), "lost"), "{envelope}");
    assert_eq!(envelope["error_code"], "JOB_LOST");
    study.cells.start("site-1");
    study.cells.wait_ready("site-1");
    study.assert_nothing_left();
}

fn assert_all_gone(doomed: &Doomed) {
    assert!(!doomed.0.is_empty());
    assert_gone_in_time(doomed);
}

#[test]
fn j_20_a_server_that_is_started_again_says_that_its_jobs_are_lost_and_sites_end_them() {
    let mut study = Study::up();
    let running = long(&study, "fold", "hold seconds = 1000");
    let at_sites: BTreeSet<Process> = ["site-1", "site-2"]
        .into_iter()
        .flat_map(|cell| study.cells.of(cell).descendants())
        .collect();
    let server = study.cells.take("server");
    assert_all_gone(&server.kill());
    let cut = running.exit(SOON);
    assert_eq!(cut.code, Some(1), "nobody is there to say how it ends: {cut:?}");
    study.cells.start("server");
    study.cells.wait_ready("server");
    let known = study.show("fold");
    assert_eq!((&known["state"], &known["outcome"]), (&"ended".into(), &"lost".into()));
    for process in at_sites {
        until("the end of what nobody wants", 4 * SOON, || (!process.lives()).then_some(()));
    }
    study.assert_nothing_left();
    let dir = study.describe("fold", "hold seconds = 1", "exits code = 0", "");
    let again = study.run(&dir).exit(4 * SOON);
    let (_, ended, envelope) = outcome(&again);
    assert_eq!((ended.as_str(), &envelope["data"]["attempt"]), ("completed", &2.into()));
}

#[test]
fn j_15_an_abort_during_the_start_leaves_nothing() {
    let study = Study::up();
    for round in 0..4 {
        let name = format!("start-{round}");
        let dir = study.describe(&name, "hold seconds = 1000", "hold seconds = 1000", "");
        let running = study.run(&dir);
        let wanted = ["staged", "starting", "running"];
        running.out.wait_json("a job that starts", SOON, |line| {
            let parts = line["parts"].as_array()?;
            // Later in every round: nothing asked, the server asked, a site asked.
            let far = parts.iter().filter(|part| part["state"] != "staged").count();
            (wanted.iter().any(|state| line["state"] == *state) && far >= round.min(2))
                .then_some(())
        });
        assert_eq!(study.ask(&["cancel", &name]).data()["outcome"], "aborted");
        assert_ends(&study, running, "aborted");
    }
}

#[test]
fn atk_144_a_job_that_forks_away_is_ended_with_all_that_it_has_started() {
    let study = Study::up();
    let running = long(&study, "fold", "forks");
    let all = until("the forked processes", SOON, || {
        let all = study.processes();
        let sleeps =
            all.iter().filter(|process| process.arguments().is_some_and(|words| words == ["1000"]));
        // One at the server, and at each site the program and what it has let go of.
        (sleeps.count() >= 5).then_some(all)
    });
    assert_eq!(study.ask(&["cancel", "fold"]).data()["outcome"], "aborted");
    assert_ends(&study, running, "aborted");
    for process in all {
        until("the end of a process of the job", SOON, || (!process.lives()).then_some(()));
    }
}

#[test]
fn j_15_a_job_that_ignores_the_signal_is_killed() {
    let study = Study::up();
    let running = long(&study, "fold", "stubborn");
    let begun = Instant::now();
    assert_eq!(study.ask(&["cancel", "fold"]).data()["outcome"], "aborted");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_ends(&study, running, "aborted");
}

#[test]
fn j_32_a_job_that_floods_its_log_waits_and_hurts_nobody() {
    let study = Study::up();
    let dir = study.describe("flood", "hold seconds = 1000", "floods", "");
    let running = study.run(&dir);
    let lines = |line: &Value| (line["event"] == "job_log").then(|| line["number"].as_u64())?;
    running.out.wait_json("many lines", 4 * SOON, |line| (lines(line)? > 20_000).then_some(()));
    let begun = Instant::now();
    assert!(study.cells.pings("server", "site-1"), "the cells do what they do");
    assert!(begun.elapsed() < SOON);
    let kept = study.ask(&["logs", "flood"]).data();
    assert!(kept["count"].as_u64().is_some_and(|count| count <= 5000), "{}", kept["count"]);
    for cell in ["server", "site-1"] {
        let status = std::fs::read_to_string(study.cells.of(cell).process().file("status"));
        let status = status.expect("it runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        assert!(kib < 300 << 10, "{cell} holds {kib} KiB");
    }
    assert_eq!(study.ask(&["cancel", "flood"]).data()["outcome"], "aborted");
    drop(running);
    study.assert_nothing_left();
}
