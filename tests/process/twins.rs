//! Two processes for one cell: the one that holds the name notices nothing.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::driver::{Federation, SOON, entries};

/// Copies what lies below `from` to `to`, except files with the name `without`.
fn copy(from: &Path, to: &Path, without: &str) {
    for entry in entries(from) {
        let below = entry.path.strip_prefix(from).expect("it is below");
        let target = to.join(below);
        if entry.is_dir {
            fs::create_dir(&target).expect("the target is new");
        } else if entry.is_socket || entry.path.ends_with(without) {
            continue;
        } else {
            fs::copy(&entry.path, &target).expect("it is ours");
        }
        let mode = fs::Permissions::from_mode(entry.mode);
        fs::set_permissions(&target, mode).expect("it is ours");
    }
}

#[test]
fn a_state_directory_that_is_in_use_is_refused_with_who_uses_it() {
    let federation = Federation::up();
    federation.wait_whole();
    let link = federation.peer("relay-a", "site-1").expect("it is registered");
    let before = entries(&federation.place.state());
    let starts = federation.starts_of("site-1");
    let state = federation.place.state().display().to_string();
    for only in [&["--only", "site-1"][..], &[]] {
        let second =
            federation.place.ask(&[&["up", federation.file(), "--state", &state], only].concat());
        assert_eq!(second.refusal(), (4, "START"), "{second:#?}");
        let cell = if only.is_empty() { "server" } else { "site-1" };
        let holder = federation.of(cell).process().pid.to_string();
        assert!(second.message().contains(&format!("{state}/{cell}")), "{second:#?}");
        assert!(second.message().contains(&format!("process {holder}")), "{second:#?}");
    }
    assert_eq!(entries(&federation.place.state()), before);
    assert_eq!(federation.starts_of("site-1"), starts);
    let after = federation.peer("relay-a", "site-1").expect("it is still registered");
    assert!(after["since_ms"].as_u64() >= link["since_ms"].as_u64(), "{link} {after}");
    assert!(federation.pings("server", "site-1"));
}

#[test]
fn f_27_a_copy_of_a_site_is_refused_and_the_holder_notices_nothing() {
    let federation = Federation::up();
    federation.wait_whole();
    let before = federation.peer("relay-a", "site-1").expect("it is registered");
    let life = federation.status("site-1")["incarnation"].clone();
    let twin_state = federation.place.dir().join("twin");
    copy(&federation.place.state(), &twin_state, "incarnation");

    let state = twin_state.display().to_string();
    let arguments =
        ["up", federation.file(), "--only", "site-1", "--state", &state, "-o", "jsonl", "-v"];
    let twin = federation.place.start(&arguments);
    twin.err.wait_json("a warning about the name", SOON, |event| {
        let text = event["fields"]["message"].as_str()?;
        (event["level"] == "WARN" && text.contains("holds the name")).then_some(())
    });
    twin.err.wait_json("the code", SOON, |event| {
        (event["fields"]["code"] == "DUPLICATE_NAME").then_some(())
    });
    let counters = |cell: &str| federation.ask(cell, &["inspect"]).data()["counters"].clone();
    let refused = &counters("relay-a")["refused"];
    assert_eq!(refused["DUPLICATE_NAME"], 1, "{refused}");
    let status = federation.place.ask(&["status", "site-1", "--state", &state]).data();
    assert_eq!(status["state"], "connecting", "{status}");

    let after = federation.peer("relay-a", "site-1").expect("it is still registered");
    assert!(after["since_ms"].as_u64() > before["since_ms"].as_u64(), "{before} {after}");
    assert!(federation.pings("server", "site-1"));
    assert!(federation.pings("site-1", "site-2"));
    let site = federation.status("site-1");
    assert_eq!((&site["state"], &site["incarnation"]), (&"ready".into(), &life));
    let report = federation.ask("relay-a", &["inspect"]).data();
    let registered = report["registered"].as_array().expect("rows");
    let row = registered.iter().find(|row| row["name"] == "relay-a.site-1").expect("it is there");
    assert_eq!(row["incarnation"], life, "the record is that of the holder");
}
