//! Who may touch what cells keep, where no umask helps.

use std::collections::BTreeSet;

use rustix::process::Signal;

use crate::driver::{Entry, Federation, Place, Process, Running, SOON, entries, until};

fn wide(found: &[Entry]) -> Vec<String> {
    let wide = found.iter().filter(|entry| entry.is_open_to_others());
    wide.map(|entry| format!("{:o} {}", entry.mode, entry.path.display())).collect()
}

#[test]
fn s0_19_state_is_for_its_owner_under_any_umask() {
    for more in [&[][..], &["--processes"]] {
        let place = Place::new();
        let text = Federation::topology("127.0.0.1:0", "127.0.0.1:0", "");
        let file = place.write("study.toml", text);
        let (file, state) = (file.display().to_string(), place.state().display().to_string());
        let arguments = [&["up", &file, "--state", &state, "-o", "jsonl"][..], more].concat();
        let running = Running::start(place.command_after("umask 000", &arguments));
        for cell in Federation::CELLS {
            running.wait_event("ready", &Federation::full_name(cell));
        }
        assert_eq!(place.ask_cell(&["ping", "relay-a.site-1"]).exit, 0);
        assert_keeps_to_owner(&[vec![running.process()], running.descendants()].concat());
        let found = entries(&place.state());
        assert_eq!(wide(&found), Vec::<String>::new());
        let sockets = found.iter().filter(|entry| entry.is_socket).count();
        assert_eq!(sockets, Federation::CELLS.len(), "one control socket per cell: {found:#?}");
        assert!(found.iter().any(|entry| entry.path.ends_with("cell.key")), "{found:#?}");
        running.signal(Signal::TERM);
        let exit = running.exit(2 * SOON);
        assert_eq!(exit.code, Some(0), "{exit:#?}");
        assert_eq!(wide(&entries(&place.state())), Vec::<String>::new());
    }
}

/// A process that keeps nothing from others could make a file that is theirs for a moment.
fn assert_keeps_to_owner(processes: &[Process]) {
    for process in processes {
        // It may have ended in this moment.
        let Some(umask) = process.umask() else { continue };
        assert_eq!(umask, 0o077, "{:?}", process.arguments());
    }
}

#[test]
fn s0_19_processes_make_nothing_that_is_for_others_even_for_a_moment() {
    let place = Place::new();
    let arguments = ["demo", "-o", "jsonl", "--rounds", "1000"];
    let running = Running::start(place.command_after("umask 000", &arguments));
    running.out.wait_json("round", 2 * SOON, |event| (event["event"] == "round").then_some(()));
    let below = running.descendants();
    assert_eq!(below.len(), 7, "four job cells and three trainers");
    assert_keeps_to_owner(&[running.process()]);
    assert_keeps_to_owner(&below);
}

#[test]
fn s0_19_a_demo_is_for_its_owner_at_every_moment_under_any_umask() {
    let place = Place::new();
    let arguments = ["demo", "--keep", "--rounds", "200"];
    let running = Running::start(place.command_after("umask 000", &arguments));
    let mut seen: BTreeSet<Entry> = BTreeSet::new();
    until("the demo is done", 4 * SOON, || {
        seen.extend(entries(&place.temporary()));
        running.err.so_far().iter().any(|line| line.contains("cellbus cells --state")).then_some(())
    });
    seen.extend(entries(&place.temporary()));
    // The directory for temporary files itself is not the demo's.
    let seen: Vec<Entry> =
        seen.into_iter().filter(|entry| entry.path != place.temporary()).collect();
    assert_eq!(wide(&seen), Vec::<String>::new());
    let local = |entry: &&Entry| {
        entry.is_socket && entry.path.components().any(|c| c.as_os_str() == "jobs")
    };
    assert_eq!(seen.iter().filter(local).count(), 3, "one local socket per site: {seen:#?}");
    running.signal(Signal::INT);
    let exit = running.exit(SOON);
    assert_eq!(exit.code, Some(0), "{exit:#?}");
}
