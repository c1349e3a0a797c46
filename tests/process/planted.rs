//! Links, pipes and directories where a file of ours is looked for, or would be put: nothing of another is changed,
//! and nothing waits for whoever might write.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use crate::{
    driver::{Federation, Place, Running, SOON, entries, until},
    kits::{passphrase, project},
};

const CONTENT: &str = "of somebody who has nothing to do with this\n";

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Link,
    Dangling,
    HardLink,
    Pipe,
    Directory,
}

/// A file that nobody may touch.
struct Victim {
    path: PathBuf,
    before: (u32, u64, String),
}

impl Victim {
    fn new(place: &Place) -> Self {
        let path = place.write("victim", CONTENT);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
        let before = Self::look(&path);
        Self { path, before }
    }

    fn look(path: &Path) -> (u32, u64, String) {
        let found = path.symlink_metadata().expect("it is there");
        (found.mode(), found.ino(), fs::read_to_string(path).expect("it is ours"))
    }

    /// Puts something in the place of `path`.
    fn plant(&self, planted: Planted, path: &Path) {
        // Where nothing is yet, there is nothing to remove.
        let _ = fs::remove_file(path);
        match planted {
            Planted::Link => symlink(&self.path, path).expect("the place is free"),
            Planted::Dangling => symlink(self.nowhere(), path).expect("the place is free"),
            Planted::HardLink => fs::hard_link(&self.path, path).expect("the place is free"),
            Planted::Pipe => {
                rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).expect("it is free");
            }
            Planted::Directory => fs::create_dir(path).expect("the place is free"),
        }
    }

    fn nowhere(&self) -> PathBuf {
        self.path.with_extension("nowhere")
    }

    fn assert_untouched(&self, what: &str) {
        assert_eq!(Self::look(&self.path), self.before, "{what}");
        assert!(!self.nowhere().exists(), "{what}: made where a link points");
    }
}

/// Files and sockets that a server has made, below its place.
fn made(state: &Path) -> Vec<PathBuf> {
    let below = |entry: &crate::driver::Entry| {
        let inside = entry.path.strip_prefix(state).expect("it was found there").to_owned();
        let is_authority = inside.starts_with("pki/authority");
        (!entry.path.is_dir() && !is_authority).then_some(inside)
    };
    entries(state).iter().filter_map(below).collect()
}

/// Starts a server whose state has something planted at `inside`, and says how that went.
fn start(net: &Federation, pristine: &Path, victim: &Victim, inside: &Path, planted: Planted) {
    let what = format!("{planted:?} at {}", inside.display());
    let state = net.place.dir().join("again");
    if state.exists() {
        fs::remove_dir_all(&state).expect("it is ours");
    }
    let copied = Command::new("cp").arg("-a").args([pristine, state.as_path()]).status();
    assert!(copied.expect("every system copies").success());
    victim.plant(planted, &state.join(inside));
    let state = state.to_str().expect("temporary paths are text");
    let words = ["up", net.file(), "--only", "server", "--state", state, "-o", "jsonl"];
    let mut running = net.place.start(&words);
    let ended = until(&format!("an end or a start, with a {what}"), SOON, || {
        if running.out.so_far().iter().any(|line| line.contains("\"ready\"")) {
            return Some(false);
        }
        running.ended().map(|_| true)
    });
    if !ended {
        running.signal(Signal::TERM);
    }
    let exit = running.exit(2 * SOON);
    victim.assert_untouched(&what);
    if ended {
        assert_eq!(exit.code, Some(4), "{what}: {exit:#?}");
        let name = inside.file_name().expect("a file").to_string_lossy().into_owned();
        let name = name.trim_end_matches(".lock").trim_end_matches(".sock");
        assert!(exit.envelope()["message"].to_string().contains(name), "{what}: {exit:#?}");
    }
}

fn every_file_of_a_server(kinds: &[Planted]) {
    let mut net = Federation::prepare("");
    net.start("server");
    net.of("server").wait_event("ready", "server");
    net.ask("server", &["cell", "ban", "site-1"]).data();
    let list = net.place.state().join("server/lists/bans.list");
    until("the list is on the disk", SOON, || list.exists().then_some(()));
    let found = made(&net.place.state());
    // Killed, so that its socket and locks stay.
    net.kill("server");
    let victim = Victim::new(&net.place);
    assert!(found.len() >= 9, "{found:#?}");
    for inside in &found {
        for kind in kinds {
            start(&net, &net.place.state(), &victim, inside, *kind);
        }
    }
}

#[test]
fn atk_097_a_link_in_the_place_of_any_file_of_a_cell_changes_nothing_where_it_points() {
    every_file_of_a_server(&[Planted::Link, Planted::Dangling]);
}

#[test]
fn atk_098_a_hard_link_pipe_or_directory_in_the_place_of_any_file_of_a_cell_keeps_nobody_waiting() {
    every_file_of_a_server(&[Planted::HardLink, Planted::Pipe, Planted::Directory]);
}

#[test]
fn atk_098_a_pipe_or_directory_that_is_given_for_a_file_is_refused_at_once() {
    let place = Place::new();
    let secret = passphrase(&place);
    place.write("project.toml", project("127.0.0.1:8002", "127.0.0.1:8003"));
    let victim = Victim::new(&place);
    for planted in [Planted::Pipe, Planted::Directory] {
        let bad = place.dir().join("bad");
        victim.plant(planted, &bad);
        for words in [
            &["up", "bad"][..],
            &["policy", "check", "bad"],
            &["config", "show", "bad"],
            &["provision", "bad", "--out", "fed", "--passphrase-file", &secret],
            &["provision", "project.toml", "--out", "fed", "--passphrase-file", "bad"],
            &["kit", "open", "bad", "--out", "fed", "--passphrase-file", &secret],
            &["join", "--invitation", "bad", "--kit", "fed"],
            &["cert", "inspect", "bad"],
            &["cert", "needs-renewal", "bad"],
            &[
                "cert",
                "revoke",
                "x",
                "--project",
                "study",
                "--list",
                "bad",
                "--cert",
                "bad",
                "--key",
                "bad",
            ],
            &["roster", "sign", "bad", "--list", "fed", "--cert", "bad", "--key", "bad"],
            &["trust", "show", "bad"],
            &["trust", "push", "bad", "--state", "fed"],
            &["transfer", "put", "bad", "site-1", "--state", "fed"],
            &["doctor", "--from", "bad"],
        ] {
            let answer = place.ask(words);
            assert_eq!(answer.exit, 4, "{words:?}: {answer:#?}");
            assert!(!place.dir().join("fed").exists(), "{words:?}");
        }
        match planted {
            Planted::Directory => fs::remove_dir(&bad),
            Planted::Link | Planted::Dangling | Planted::HardLink | Planted::Pipe => {
                fs::remove_file(&bad)
            }
        }
        .expect("it is ours");
    }
}

#[test]
fn atk_097_what_a_command_writes_never_goes_where_a_link_points() {
    let place = Place::new();
    let secret = passphrase(&place);
    place.write("project.toml", project("127.0.0.1:8002", "127.0.0.1:8003"));
    place.ask(&["provision", "project.toml", "--out", "fed", "--passphrase-file", &secret]).data();
    let victim = Victim::new(&place);
    let kit = "fed/kits-0001/site-1";
    let elsewhere = place.dir().join("elsewhere");
    fs::create_dir(&elsewhere).expect("it is new");
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let out = elsewhere.join("out");
    let out_text = out.to_str().expect("temporary paths are text").to_owned();
    for planted in [Planted::Link, Planted::Dangling, Planted::HardLink, Planted::Pipe] {
        for words in [
            &["kit", "seal", kit, "--out", &out_text, "--passphrase-file", &secret][..],
            &["kit", "open", kit, "--out", &out_text, "--passphrase-file", &secret],
            &["provision", "project.toml", "--out", &out_text, "--passphrase-file", &secret],
            &["doctor", "--kit", kit, "--bundle", &out_text],
            &["invite", "site-1", "project.toml", "--out", &out_text],
        ] {
            victim.plant(planted, &out);
            let running: Running = place.start(&[words, &["-o", "json"]].concat());
            let exit = running.exit(4 * SOON);
            victim.assert_untouched(&format!("{planted:?}: {words:?}"));
            let replaced = out.symlink_metadata().is_ok_and(|it| it.is_file() && it.nlink() == 1);
            assert!(exit.code != Some(0) || replaced, "{planted:?}: {words:?}: {exit:#?}");
            if out.is_dir() {
                fs::remove_dir_all(&out).expect("it is ours");
            }
        }
    }
}
