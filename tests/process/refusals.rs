//! What cannot be started: said at once, with the place that is wrong, and without a trace.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use crate::driver::{Answer, Federation, Place, entries};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// A place with a topology that is in order.
fn place_with_file() -> (Place, String) {
    let place = Place::new();
    let text = Federation::topology("127.0.0.1:0", "127.0.0.1:0", "");
    let file = place.write("study.toml", text).display().to_string();
    (place, file)
}

/// Starts `file` in every way, and asserts that each is refused with `code`, with `named` in what is
/// said to people, and with nothing created or changed.
fn assert_refused(place: &Place, file: &str, state: &Path, code: &str, named: &str) {
    let before = entries(place.dir());
    let state = state.display().to_string();
    for more in [&[][..], &["--only", "site-1"], &["--processes"]] {
        let answer = place.ask(&[&["up", file, "--state", &state], more].concat());
        assert_eq!(answer.refusal(), (4, code), "{more:?} {answer:#?}");
        assert!(said(&answer).contains(named), "{more:?}: no {named} in {answer:#?}");
        assert_eq!(entries(place.dir()), before, "{more:?}");
    }
}

/// Everything that people read.
fn said(answer: &Answer) -> String {
    answer.err.join("\n")
}

#[test]
fn a_topology_that_is_none_starts_nothing() {
    let place = Place::new();
    let directory = place.dir().join("directory.toml");
    fs::create_dir(&directory).expect("the place is new");
    for (name, content) in [
        ("missing.toml", None),
        ("directory.toml", None),
        ("garbage.toml", Some(&b"\x00\x01[[[ =\n"[..])),
        ("cut.toml", Some(b"[project]\nname = \"study")),
        ("latin.toml", Some(b"[project]\nname = \"\xe4\"\n")),
        ("empty.toml", Some(b"")),
    ] {
        if let Some(content) = content {
            place.write(name, content);
        }
        let file = place.dir().join(name).display().to_string();
        assert_refused(&place, &file, &place.state(), "CONFIG", name);
    }
}

#[test]
fn a_cell_that_the_topology_does_not_have_is_not_started() {
    let (place, file) = place_with_file();
    let before = entries(place.dir());
    let state = place.state().display().to_string();
    let answer = place.ask(&["up", &file, "--state", &state, "--only", "site-9"]);
    assert_eq!(answer.refusal(), (4, "CONFIG"), "{answer:#?}");
    assert!(said(&answer).contains("study.toml has no cell `site-9`"), "{answer:#?}");
    assert!(said(&answer).contains("site-1"), "it says which there are: {answer:#?}");
    assert_eq!(entries(place.dir()), before);
}

#[test]
fn without_credentials_nothing_is_started_and_nothing_made() {
    let place = Place::new();
    let text = Federation::topology("127.0.0.1:0", "127.0.0.1:0", "");
    let file = place.write("study.toml", text.replace("dev = true", "dev = false"));
    let file = file.display().to_string();
    assert_refused(&place, &file, &place.state(), "START", "cell.key");
    let named = place.state().join("server/credentials").display().to_string();
    let answer = place.ask_cell(&["up", &file]);
    assert!(said(&answer).contains(&named), "{answer:#?}");
}

#[test]
fn s2_04_state_that_others_could_touch_is_refused() {
    let (place, file) = place_with_file();
    let shared = place.dir().join("shared");
    fs::create_dir(&shared).expect("the place is new");
    mode(&shared, 0o777);
    let named = shared.display().to_string();
    assert_refused(&place, &file, &shared.join("state"), "START", &named);

    fs::create_dir(place.state()).expect("the place is new");
    for readable in [0o755, 0o750, 0o701] {
        mode(&place.state(), readable);
        let named = place.state().display().to_string();
        assert_refused(&place, &file, &place.state(), "START", &named);
    }
}

#[test]
fn s2_04_state_that_is_no_directory_is_refused() {
    let (place, file) = place_with_file();
    let taken = place.write("taken", "somebody's notes");
    assert_refused(&place, &file, &taken, "START", "taken");
    assert_eq!(fs::read_to_string(&taken).expect("it is there"), "somebody's notes");

    let elsewhere = place.dir().join("elsewhere");
    fs::create_dir(&elsewhere).expect("the place is new");
    mode(&elsewhere, 0o700);
    symlink(&elsewhere, place.dir().join("link")).expect("the place is new");
    assert_refused(&place, &file, &place.dir().join("link"), "START", "link");
}

#[test]
fn s2_04_a_cell_whose_directory_others_can_read_is_not_started() {
    let (place, file) = place_with_file();
    fs::create_dir_all(place.state().join("site-1")).expect("the place is new");
    mode(&place.state(), 0o700);
    mode(&place.state().join("site-1"), 0o755);
    let state = place.state().display().to_string();
    let answer = place.ask(&["up", &file, "--only", "site-1", "--state", &state]);
    assert_eq!(answer.refusal(), (4, "START"), "{answer:#?}");
    assert!(said(&answer).contains(&format!("{state}/site-1")), "{answer:#?}");
    let made = entries(&place.state().join("site-1"));
    assert_eq!(made.len(), 1, "nothing was put there: {made:#?}");
    assert_eq!(made[0].mode, 0o755, "it is for its owner to decide");
}
