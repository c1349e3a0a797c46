//! A topology that runs, in one process and in several: what its cells say.

use std::time::Duration;

use serde_json::Value;

use crate::driver::{Federation, Place, Running, SOON, until};

/// The answer of a cell that has nothing to wait for comes long before this.
const AT_ONCE: Duration = Duration::from_secs(15);

fn start(place: &Place, more: &[&str]) -> Running {
    let text = Federation::topology("127.0.0.1:0", "127.0.0.1:0", "");
    let file = place.write("study.toml", text);
    let (file, state) = (file.display().to_string(), place.state().display().to_string());
    place.start(&[&["up", &file, "--state", &state, "-o", "jsonl", "-v"], more].concat())
}

/// Waits until every cell says that it is ready.
fn wait_ready(place: &Place) {
    for cell in Federation::CELLS {
        until(&format!("{cell} is ready"), 2 * SOON, || {
            let answer = place.ask_cell(&["status", cell]);
            (answer.envelope["data"]["state"] == "ready").then_some(())
        });
    }
}

fn names(rows: &Value) -> Vec<&str> {
    let rows = rows.as_array().expect("rows");
    let mut names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    names.sort_unstable();
    names
}

/// What the commands that ask a running cell say about this federation.
fn examine(place: &Place) {
    let ask = |arguments: &[&str]| place.ask_cell(arguments);
    for (cell, kind, parent) in [
        ("server", "server", Value::Null),
        ("relay-a", "relay", "server".into()),
        ("relay-a.site-1", "client", "relay-a".into()),
    ] {
        let status = ask(&["status", cell]).data();
        assert_eq!(status["cell"], cell);
        assert_eq!((&status["kind"], &status["parent"]), (&kind.into(), &parent));
        assert_eq!((&status["state"], &status["project"]), (&"ready".into(), &"study".into()));
    }
    let cells = ask(&["cells"]).data();
    assert_eq!(names(&cells), ["relay-a", "relay-a.site-1", "relay-a.site-2", "server"]);
    assert!(cells.as_array().expect("rows").iter().all(|row| row["state"] == "active"), "{cells}");
    let peers = ask(&["peers", "relay-a"]).data();
    assert_eq!(names(&peers), ["relay-a.site-1", "relay-a.site-2", "server"]);
    assert_eq!(names(&ask(&["peers", "site-1"]).data()), ["relay-a"]);
    let peers = ask(&["peers", "server"]).data();
    assert_eq!(names(&peers), ["relay-a"], "what is behind a neighbour is no neighbour");

    // From one site over the relay to the other, and from the server down.
    for (at, to) in
        [("site-1", "relay-a.site-2"), ("server", "relay-a.site-1"), ("site-2", "server")]
    {
        let pings = ask(&["ping", to, "--at", at, "--count", "2"]).data();
        let rows = pings["rows"].as_array().expect("rows");
        assert!(rows.len() == 2 && rows.iter().all(|row| row["rtt_us"].is_u64()), "{pings}");
    }
    let pong = ask(&["request", "relay-a.site-1", "cell/ping", "--payload", "hello"]).data();
    assert_eq!(pong["payload"]["utf8"], "hello");

    examine_refusals(place);
}

fn examine_refusals(place: &Place) {
    let ask = |arguments: &[&str]| place.ask_cell(arguments);
    let denied = ask(&["request", "relay-a.site-2", "ops/report", "--at", "site-1"]);
    assert_eq!(denied.refusal(), (6, "TOPIC_DENIED"), "{denied:#?}");
    assert_eq!((denied.by(), &denied.envelope["class"]), ("relay-a.site-1", &"refused".into()));

    let explain =
        |to: &str| ask(&["explain", "--from", "relay-a.site-1", "--to", to, "ops/report"]);
    let would = explain("relay-a.site-2");
    assert_eq!(would.refusal(), (6, "TOPIC_DENIED"), "{would:#?}");
    assert_eq!(would.envelope["data"]["verdict"], "refuse");
    let would = explain("server").data();
    assert_eq!(would["verdict"], "admit");
    assert!(would["rule"].as_str().is_some_and(|rule| rule.contains("ops")), "{would}");

    // Both at once, though there would be a minute for it.
    let nobody = ask(&["request", "server", "ops/report", "--at", "site-1", "--budget", "60s"]);
    assert_eq!(nobody.refusal(), (1, "NO_HANDLER"), "{nobody:#?}");
    assert_eq!(nobody.by(), "server");
    assert!(nobody.took < AT_ONCE, "{:?}", nobody.took);
    let nowhere = ask(&["request", "nobody", "cell/ping", "--at", "site-1", "--budget", "60s"]);
    assert_eq!(nowhere.refusal(), (1, "NO_ROUTE"), "{nowhere:#?}");
    assert!(nowhere.took < AT_ONCE, "{:?}", nowhere.took);
    let nowhere = ask(&["ping", "relay-a.site-9", "--budget", "60s", "--count", "1"]);
    assert_eq!(nowhere.refusal(), (1, "NO_ROUTE"), "{nowhere:#?}");
    assert!(nowhere.took < AT_ONCE, "{:?}", nowhere.took);

    let absent = ask(&["status", "site-9"]);
    assert_eq!(absent.refusal(), (2, "CELL_NOT_RUNNING"), "{absent:#?}");
}

#[test]
fn one_process_runs_every_cell() {
    let place = Place::new();
    let running = start(&place, &[]);
    for cell in Federation::CELLS {
        let name = Federation::full_name(cell);
        let started = running.wait_event("started", &name);
        assert_eq!(started["address"].is_string(), ["server", "relay-a"].contains(&cell));
        running.wait_event("ready", &name);
    }
    assert_eq!(running.descendants(), [], "no process but the one");
    wait_ready(&place);
    examine(&place);
}

#[test]
fn every_cell_can_have_a_process_of_its_own() {
    let place = Place::new();
    let running = start(&place, &["--processes"]);
    for cell in Federation::CELLS {
        running.wait_event("ready", &Federation::full_name(cell));
    }
    wait_ready(&place);
    let below = running.descendants();
    assert_eq!(below.len(), Federation::CELLS.len(), "one process per cell");
    for cell in Federation::CELLS {
        let its = |process: &crate::driver::Process| {
            process.arguments().is_some_and(|words| words.windows(2).any(|w| w == ["--only", cell]))
        };
        assert_eq!(below.iter().filter(|process| its(process)).count(), 1, "{cell}");
    }
    examine(&place);
}

#[test]
fn cells_that_are_started_one_by_one_find_each_other_in_any_order() {
    let mut federation = Federation::prepare("");
    for cell in ["site-1", "relay-a", "site-2", "server"] {
        federation.start(cell);
    }
    wait_ready(&federation.place);
    examine(&federation.place);
}

#[test]
fn a_process_that_dies_leaves_the_other_cells_running() {
    let place = Place::new();
    let running = start(&place, &["--processes"]);
    wait_ready(&place);
    let below = running.descendants();
    let site = below.iter().find(|process| {
        process.arguments().is_some_and(|words| words.windows(2).any(|w| w == ["--only", "site-2"]))
    });
    site.expect("it has a process").signal(rustix::process::Signal::KILL);
    let stopped = running.wait_event("stopped", "relay-a.site-2");
    assert_eq!(stopped["clean"], false);
    let pings = place.ask_cell(&["ping", "relay-a.site-1", "--count", "1"]).data();
    assert!(pings["rows"][0]["rtt_us"].is_u64(), "{pings}");
    assert_eq!(running.descendants().len(), Federation::CELLS.len() - 1);
}

#[test]
fn the_processes_of_a_launcher_that_is_killed_end_with_it() {
    let place = Place::new();
    let running = start(&place, &["--processes"]);
    wait_ready(&place);
    let below = running.kill();
    assert_eq!(below.0.len(), Federation::CELLS.len(), "one process per cell");
    for process in &below.0 {
        until("the end of a process without its launcher", SOON, || {
            (!process.lives()).then_some(())
        });
    }
}
