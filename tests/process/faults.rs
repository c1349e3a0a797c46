//! Processes that stop without ending: short stops are nothing, long ones are a loss that heals.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::driver::{Federation, SOON, last, until};

/// Five seconds that a neighbour may take, and what a busy machine adds.
const SEEN: Duration = Duration::from_secs(15);

fn since(row: &Value) -> u64 {
    row["since_ms"].as_u64().unwrap_or_else(|| panic!("{row}"))
}

fn link(federation: &Federation, at: &str, cell: &str) -> Value {
    federation.peer(at, cell).unwrap_or_else(|| panic!("{at} has no link to {cell}"))
}

#[test]
fn f_07_a_server_that_stops_for_two_seconds_loses_no_link() {
    let federation = Federation::up();
    federation.wait_whole();
    let before = (link(&federation, "relay-a", "server"), link(&federation, "server", "relay-a"));
    let lives = Federation::CELLS.map(|cell| federation.status(cell)["incarnation"].clone());
    let begun = Instant::now();
    federation.of("server").signal(Signal::STOP);
    last(Duration::from_secs(2));
    federation.of("server").signal(Signal::CONT);
    assert!(federation.pings("site-1", "server"));
    assert!(federation.pings("server", "site-2"));
    let after = (link(&federation, "relay-a", "server"), link(&federation, "server", "relay-a"));
    let passed = u64::try_from(begun.elapsed().as_millis()).expect("it is short");
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        // A link that had been lost would be younger than the stop.
        assert!(since(&after) >= since(&before) + 2000, "{before} {after}");
        assert!(since(&after) <= since(&before) + passed + 1000, "{before} {after}");
    }
    assert_eq!(Federation::CELLS.map(|cell| federation.status(cell)["incarnation"].clone()), lives);
}

#[test]
fn f_08_a_server_that_stops_for_long_is_missed_and_found_again() {
    let federation = Federation::up();
    federation.wait_whole();
    federation.of("server").signal(Signal::STOP);
    until("the relay has missed the server", SEEN, || {
        federation.peer("relay-a", "server").is_none().then_some(())
    });
    let status = federation.status("relay-a");
    assert_eq!(status["uplink_state"], "connecting", "{status}");
    let refused = federation.ask("site-1", &["ping", "server", "--count", "1", "--budget", "60s"]);
    assert_eq!(refused.exit, 1, "no time is wasted on it: {refused:#?}");
    federation.of("server").signal(Signal::CONT);
    federation.wait_whole();
    assert_eq!(federation.starts_of("server"), 1, "it is the same process");
}

#[test]
fn g_31_a_site_that_stops_for_long_is_dropped_and_registers_again() {
    let federation = Federation::up();
    federation.wait_whole();
    let lives = federation.status("site-1")["incarnation"].clone();
    let stopped = Instant::now();
    federation.of("site-1").signal(Signal::STOP);
    until("the relay has dropped the site", SEEN, || {
        federation.peer("relay-a", "site-1").is_none().then_some(())
    });
    until("the server knows that nobody is there", SOON, || {
        let rows = federation.ask("server", &["cells"]).data();
        let rows = rows.as_array().expect("rows");
        let row = rows.iter().find(|row| row["name"] == "relay-a.site-1").expect("it is listed");
        (row["state"] == "closed").then_some(())
    });
    let ping = ["ping", "relay-a.site-1", "--count", "1", "--budget", "60s"];
    let refused = federation.ask("server", &ping);
    assert_eq!(refused.exit, 1, "no time is wasted on it: {refused:#?}");
    assert!(federation.pings("site-2", "server"), "the others notice nothing");
    last(Duration::from_secs(8).saturating_sub(stopped.elapsed()));
    federation.of("site-1").signal(Signal::CONT);
    federation.wait_whole();
    assert_eq!(federation.status("site-1")["incarnation"], lives, "it is the same process");
    assert!(since(&link(&federation, "relay-a", "site-1")) < 60_000);
}
