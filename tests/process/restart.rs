//! Crashes: the others see it, and everything comes back with the process.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use crate::driver::{Federation, SOON, until};

/// Five seconds that a neighbour may take, and what a busy machine adds.
const SEEN: Duration = Duration::from_secs(15);
/// No machine that these tests run on at all takes longer until everything is registered.
const BACK: Duration = Duration::from_secs(20);

/// Says a time that was measured; no test depends on it.
fn note(what: &str, time: Duration) {
    // Nobody reads it: then it was for nobody.
    let _ = writeln!(std::io::stderr(), "{what}: {:.2} s", time.as_secs_f64());
}

/// Asserts that after the start of `cell` everything reaches everything, and that only it was started anew.
fn assert_back(federation: &Federation, cell: &str, starts: &[u64], begun: Instant) {
    federation.wait_ready(cell);
    federation.wait_whole();
    let back = begun.elapsed();
    note(&format!("{cell} restarted, everything registered"), back);
    assert!(back < BACK, "{back:?}");
    for (other, before) in Federation::CELLS.into_iter().zip(starts) {
        let expected = before + u64::from(other == cell);
        assert_eq!(federation.starts_of(other), expected, "{other}");
    }
    let cells = federation.ask("server", &["cells"]).data();
    let rows = cells.as_array().expect("rows");
    assert_eq!(rows.len(), Federation::CELLS.len(), "every cell once: {cells}");
    assert!(rows.iter().all(|row| row["state"] == "active"), "{cells}");
}

fn starts(federation: &Federation) -> Vec<u64> {
    Federation::CELLS.iter().map(|cell| federation.starts_of(cell)).collect()
}

/// Kills `cell`, waits until `neighbours` have seen it, and starts it again.
fn kill_and_restart(cell: &'static str, neighbours: &[&str]) {
    let mut federation = Federation::up();
    federation.wait_whole();
    let before = starts(&federation);
    federation.kill(cell);
    let begun = Instant::now();
    for neighbour in neighbours {
        until(&format!("{neighbour} has seen that {cell} is gone"), SEEN, || {
            federation.peer(neighbour, cell).is_none().then_some(())
        });
    }
    note(&format!("{cell} killed, seen by {neighbours:?}"), begun.elapsed());
    let begun = Instant::now();
    federation.start(cell);
    assert_back(&federation, cell, &before, begun);
}

/// Kills `cell` and starts it again before anybody can have noticed.
fn replace(cell: &'static str) {
    let mut federation = Federation::up();
    federation.wait_whole();
    let before = starts(&federation);
    federation.kill(cell);
    let begun = Instant::now();
    federation.start(cell);
    assert_back(&federation, cell, &before, begun);
}

#[test]
fn f_01_a_server_that_was_killed_gets_everybody_back() {
    kill_and_restart("server", &["relay-a"]);
}

#[test]
fn f_06_a_relay_that_was_killed_gets_everybody_back() {
    kill_and_restart("relay-a", &["server", "site-1", "site-2"]);
}

#[test]
fn g_31_a_site_that_was_killed_is_missed_and_comes_back() {
    kill_and_restart("site-1", &["relay-a"]);
}

#[test]
fn f_02_a_server_that_is_replaced_at_once_gets_everybody_back() {
    replace("server");
}

#[test]
fn g_33_a_relay_that_is_replaced_at_once_gets_everybody_back() {
    replace("relay-a");
}

#[test]
fn g_33_a_site_that_is_replaced_at_once_is_known_as_the_new_one() {
    replace("site-1");
}

#[test]
fn a_parent_that_comes_back_on_another_port_is_found_there() {
    let mut federation = Federation::up_on_any_port();
    federation.wait_whole();
    for parent in ["server", "relay-a"] {
        let before = federation.address(parent);
        federation.kill(parent);
        federation.occupy(&before);
        federation.start(parent);
        federation.wait_ready(parent);
        assert_ne!(federation.address(parent), before, "somebody else has the old port");
        let begun = Instant::now();
        until("everything is registered again", SOON, || {
            federation.pings("server", "site-1").then_some(())
        });
        note(&format!("{parent} on another port"), begun.elapsed());
    }
}
