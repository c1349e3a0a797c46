//! Ends that were asked for: nothing is lost, nothing is loud, and the impatient are heard.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::driver::{Exit, Federation, Place, Running, SOON, last, until};

fn start(place: &Place, more: &[&str]) -> Running {
    let text = Federation::topology("127.0.0.1:0", "127.0.0.1:0", "");
    let file = place.write("study.toml", text);
    let (file, state) = (file.display().to_string(), place.state().display().to_string());
    let arguments = ["up", &file, "--state", &state, "-o", "jsonl", "-v"];
    let running = place.start(&[&arguments, more].concat());
    for cell in Federation::CELLS {
        running.wait_event("ready", &Federation::full_name(cell));
    }
    running
}

/// The cells that said how they stopped, in this order, and whether all of them were done.
fn stops(exit: &Exit) -> (Vec<String>, bool) {
    let events = exit.out.iter().filter_map(|line| serde_json::from_str(line).ok());
    let stops: Vec<Value> = events.filter(|event: &Value| event["event"] == "stopped").collect();
    let cells = stops.iter().filter_map(|stop| stop["cell"].as_str().map(str::to_owned)).collect();
    (cells, stops.iter().all(|stop| stop["clean"] == true))
}

fn assert_drained(exit: &Exit) {
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    assert_eq!(exit.envelope()["data"]["end"], "drained");
    assert_eq!(exit.loud(), Vec::<&String>::new(), "an end that was asked for is no trouble");
}

/// Parents stop after their children, and every cell once.
fn assert_children_first(exit: &Exit) {
    let (cells, clean) = stops(exit);
    assert!(clean, "{exit:#?}");
    assert_eq!(cells.len(), Federation::CELLS.len(), "{cells:?}");
    assert_eq!(cells[2..], ["relay-a", "server"], "{cells:?}");
}

#[test]
fn s1_02_one_process_drains_without_a_loud_word() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let running = start(&place, &[]);
        let pings = place.ask_cell(&["ping", "relay-a.site-2", "--at", "site-1"]);
        assert_eq!(pings.exit, 0, "{pings:#?}");
        running.signal(signal);
        let exit = running.exit(2 * SOON);
        assert_drained(&exit);
        assert_children_first(&exit);
        let sockets = crate::driver::entries(&place.state());
        assert!(!sockets.iter().any(|entry| entry.is_socket), "sockets are left: {sockets:?}");
    }
}

#[test]
fn s1_02_processes_drain_without_a_loud_word() {
    let place = Place::new();
    let running = start(&place, &["--processes"]);
    let below = running.descendants();
    let pings = place.ask_cell(&["ping", "relay-a.site-2", "--at", "site-1"]);
    assert_eq!(pings.exit, 0, "{pings:#?}");
    running.signal(Signal::TERM);
    let exit = running.exit(2 * SOON);
    assert_drained(&exit);
    assert_children_first(&exit);
    assert!(!below.is_empty() && below.iter().all(|process| !process.lives()), "{below:?}");
}

#[test]
fn s1_02_any_cell_leaves_without_a_loud_word_of_any_other() {
    for order in [
        ["server", "relay-a", "site-1", "site-2"],
        ["relay-a", "site-1", "server", "site-2"],
        ["site-2", "site-1", "relay-a", "server"],
    ] {
        let mut federation = Federation::up();
        federation.wait_whole();
        for cell in order {
            let running = federation.take(cell);
            running.signal(Signal::TERM);
            let exit = running.exit(2 * SOON);
            assert_eq!(stops(&exit), (vec![Federation::full_name(cell)], true));
            assert_drained(&exit);
        }
    }
}

#[test]
fn g_70_a_cell_that_is_asked_to_drain_leaves_and_the_others_stay() {
    let mut federation = Federation::up();
    let accepted = federation.ask("site-1", &["drain"]).data();
    assert_eq!(
        (&accepted["cell"], &accepted["state"]),
        (&"relay-a.site-1".into(), &"draining".into())
    );
    assert_drained(&federation.take("site-1").exit(2 * SOON));
    until("the relay has noticed", SOON, || {
        federation.peer("relay-a", "site-1").is_none().then_some(())
    });
    assert!(federation.pings("site-2", "server"));
    let gone = federation.ask("server", &["request", "relay-a.site-1", "cell/ping"]);
    assert_eq!(gone.refusal().0, 1, "{gone:#?}");
}

/// A server that has asked a site that answers nobody, with links that wait for it.
fn server_that_waits() -> (Federation, Running) {
    let patient = "[limits]\nbeat_deadline_ms = 60000\nidle_timeout_ms = 120000";
    let mut federation = Federation::up_with(patient);
    federation.wait_whole();
    federation.of("site-1").signal(Signal::STOP);
    let asking = ["ping", "relay-a.site-1", "--count", "1", "--budget", "100s", "--at", "server"];
    let state = federation.place.state().display().to_string();
    let ping = federation.place.start(&[&asking[..], &["--state", &state]].concat());
    until("the request is on its way", SOON, || {
        let report = federation.ask("server", &["inspect"]).data();
        (report["outstanding"].as_u64() > Some(0)).then_some(())
    });
    let server = federation.take("server");
    server.signal(Signal::TERM);
    server.wait_event("draining", "server");
    // The ping lives as long as this, so that somebody waits for the answer.
    federation.keep(ping);
    (federation, server)
}

#[test]
fn g_70_what_was_asked_before_the_drain_is_waited_for() {
    let (federation, mut server) = server_that_waits();
    last(Duration::from_secs(1));
    assert!(server.ended().is_none(), "a request is outstanding");
    federation.of("site-1").signal(Signal::CONT);
    let exit = server.exit(2 * SOON);
    assert_drained(&exit);
    assert_eq!(stops(&exit), (vec!["server".to_owned()], true));
}

#[test]
fn g_70_a_second_signal_ends_at_once() {
    let (_federation, server) = server_that_waits();
    // Not so fast that the two could be one.
    last(Duration::from_secs(1));
    server.signal(Signal::TERM);
    let exit = server.exit(SOON);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert_eq!(exit.envelope()["error_code"], "UNFINISHED");
}

#[test]
fn g_70_one_wish_that_comes_as_two_signals_is_one() {
    for more in [&[][..], &["--processes"]] {
        let place = Place::new();
        let running = start(&place, more);
        // What a supervisor does that signals a process and its group. Two of one kind could become one
        // before anybody looks.
        for process in [vec![running.process()], running.descendants()].concat() {
            process.signal(Signal::TERM);
            process.signal(Signal::INT);
        }
        let exit = running.exit(2 * SOON);
        assert_drained(&exit);
        assert!(stops(&exit).1, "{exit:#?}");
    }
}
