//! The demo: its claims, its events, and that nothing of it stays.

use std::{collections::BTreeSet, fs};

use rustix::process::Signal;
use serde_json::Value;

use crate::driver::{Exit, Place, Process, Running, SOON, until};

/// Asserts that nothing of a demo that has ended is left: no file, and none of `processes`.
fn assert_nothing_left(place: &Place, processes: &BTreeSet<Process>) {
    let left: Vec<_> = fs::read_dir(place.temporary()).expect("it is there").flatten().collect();
    assert!(left.is_empty(), "files are left: {left:?}");
    for process in processes {
        assert!(!process.lives(), "{process:?} is left: {:?}", process.arguments());
    }
}

/// Waits for the end of `running`, and notes every process that it has had.
fn exit_and_processes(mut running: Running) -> (Exit, BTreeSet<Process>) {
    let mut processes = BTreeSet::new();
    until("the end of the demo", 4 * SOON, || {
        processes.extend(running.descendants());
        running.ended()
    });
    (running.exit(SOON), processes)
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("a report has checks");
    checks
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn the_demo_proves_its_claims_and_leaves_nothing() {
    let place = Place::new();
    let (exit, processes) = exit_and_processes(place.start(&["demo", "-o", "json", "-v"]));
    let envelope = exit.envelope();
    assert_eq!((exit.code, &envelope["status"]), (Some(0), &"ok".into()), "{exit:#?}");
    assert_eq!(exit.out.len(), 1, "one envelope and nothing else: {:?}", exit.out);
    let report = &envelope["data"];
    assert!(report["weights_max_abs_diff"].as_f64().is_some_and(|diff| diff <= 1e-9), "{report}");
    assert!(report["accuracy"].as_f64().is_some_and(|accuracy| accuracy > 0.9), "{report}");
    assert_eq!(report["denied_code"], "TOPIC_DENIED");
    assert_eq!(report["log_warn_or_error"], 0);
    for name in ["weights_max_abs_diff", "accuracy", "denied_code", "log_warn_or_error"] {
        assert_eq!(check(report, name)["ok"], true, "{name}");
    }
    assert_eq!(exit.loud(), Vec::<&String>::new());
    // Four job cells and three trainers; a demo so fast that one was never seen is no failure.
    assert!(!processes.is_empty(), "the job has processes of its own");
    assert_nothing_left(&place, &processes);
}

#[test]
fn in_a_container_whose_session_began_outside_it_does_the_same() {
    let place = Place::new();
    let probe = place.command_in_container(&["--version"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("skipped: this machine lets nobody have process numbers of their own");
        return;
    }
    let running = Running::start(place.command_in_container(&["demo", "-o", "json"]));
    let (exit, processes) = exit_and_processes(running);
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    assert_eq!(exit.envelope()["data"]["log_warn_or_error"], 0);
    assert_nothing_left(&place, &processes);
}

#[test]
fn rounds_are_told_as_they_come() {
    let place = Place::new();
    let exit = place.start(&["demo", "-o", "jsonl", "--rounds", "25"]).exit(4 * SOON);
    let events = exit.out.iter().map(|line| serde_json::from_str(line).expect("lines of JSON"));
    let events: Vec<Value> = events.collect();
    let rounds = events.iter().filter(|event| event["event"] == "round");
    let rounds: Vec<u64> = rounds.filter_map(|event| event["round"].as_u64()).collect();
    assert!(rounds.is_sorted() && rounds.last() == Some(&25), "{rounds:?}");
    assert!(events.iter().any(|event| event["event"] == "check" && event["name"] == "accuracy"));
    let (last, before) = events.split_last().expect("there is an envelope");
    assert!(before.iter().all(|event| event["event"].is_string()), "{before:?}");
    assert_eq!(last["status"], "ok", "{exit:#?}");
    assert_eq!(exit.code, Some(0));
}

#[test]
fn too_few_rounds_fail_the_claim_by_its_name() {
    let place = Place::new();
    let (exit, processes) =
        exit_and_processes(place.start(&["demo", "--rounds", "3", "-o", "json"]));
    let envelope = exit.envelope();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert_eq!(envelope["error_code"], "CHECK_FAILED");
    let message = envelope["message"].as_str().unwrap_or_default();
    assert!(message.ends_with(": accuracy"), "{message}");
    assert_eq!(check(&envelope["data"], "accuracy")["ok"], false);
    assert_eq!(check(&envelope["data"], "weights_max_abs_diff")["ok"], true);
    assert_nothing_left(&place, &processes);
}

#[test]
fn a_kept_demo_goes_on_until_it_is_interrupted() {
    let place = Place::new();
    let running = place.start(&["demo", "--keep", "--rounds", "25"]);
    let state = running.err.wait("where the cells are", 4 * SOON, |line| {
        let (_, rest) = line.split_once("`cellbus cells --state ")?;
        Some(rest.split_once('`')?.0.to_owned())
    });
    let cells = place.ask(&["cells", "--state", &state]).data();
    let names: Vec<&str> =
        cells.as_array().expect("rows").iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(
        names,
        ["server", "relay-a", "relay-a.site-1", "relay-a.site-2", "site-3"],
        "the job cells are gone, the others are there"
    );
    assert!(cells.as_array().expect("rows").iter().all(|row| row["state"] == "active"), "{cells}");
    assert_eq!(running.descendants(), [], "the job is over");
    running.signal(Signal::INT);
    let exit = running.exit(SOON);
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    assert_nothing_left(&place, &BTreeSet::new());
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let running = place.start(&["demo", "-o", "jsonl", "--rounds", "1000"]);
        running.out.wait_json("round", 2 * SOON, |event| (event["event"] == "round").then_some(()));
        let processes: BTreeSet<Process> = running.descendants().into_iter().collect();
        assert!(!processes.is_empty(), "the job runs");
        running.signal(signal);
        let exit = running.exit(SOON);
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        assert_eq!(exit.envelope()["error_code"], "UNFINISHED");
        assert_nothing_left(&place, &processes);
    }
}
