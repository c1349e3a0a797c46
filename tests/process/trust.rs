//! Signed lists across processes: revoked, banned, joined, set back, damaged.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Instant,
};

use rustix::process::Signal;

use crate::driver::{Answer, Federation, SOON, until};

/// A fifth cell, which the running ones have not heard of.
const SITE_3: &str = r#"
[[cell]]
name = "site-3"
kind = "client"
parent = "relay-a"
"#;

struct Study {
    federation: Federation,
    lists: PathBuf,
}

impl Study {
    fn up() -> Self {
        let federation = Federation::up();
        let lists = federation.place.dir().join("lists");
        fs::create_dir(&lists).expect("the place takes directories");
        fs::set_permissions(&lists, fs::Permissions::from_mode(0o700)).expect("it is ours");
        Self { federation, lists }
    }

    fn list(&self, name: &str) -> String {
        self.lists.join(name).display().to_string()
    }

    /// Signs with the key of the development authority.
    fn sign(&self, what: &[&str], list: &str) -> Answer {
        let authority = self.federation.place.state().join("pki/authority");
        let [cert, key] =
            ["root.crt", "root.key"].map(|name| authority.join(name).display().to_string());
        let signing = ["--list", &self.list(list), "--cert", &cert, "--key", &key];
        self.federation.place.ask(&[what, &signing].concat())
    }

    fn push(&self, list: &str) -> Answer {
        self.federation.ask("server", &["trust", "push", &self.list(list)])
    }

    fn versions(&self, at: &str) -> Vec<u64> {
        let held = self.federation.ask(at, &["trust", "ls"]).data();
        let rows = held["lists"].as_array().expect("rows").clone();
        rows.iter().map(|row| row["version"].as_u64().expect("a number")).collect()
    }

    fn wait_out(&self, what: &str) {
        let begun = Instant::now();
        until(what, SOON, || self.federation.peer("relay-a", "site-1").is_none().then_some(()));
        let took = begun.elapsed().as_secs_f64();
        // Nobody reads it: then it was for nobody.
        let _ = writeln!(io::stderr(), "{what}: {took:.2} s, with the time that commands take");
    }

    fn wait_in(&self, what: &str) {
        until(what, 3 * SOON, || self.federation.peer("relay-a", "site-1").map(drop));
    }

    fn refused(&self, at: &str, code: &str) -> u64 {
        let stats = self.federation.ask(at, &["stats"]).data();
        let counted = &stats["counters"]["refused"];
        assert!(counted.is_object(), "{stats}");
        counted[code].as_u64().unwrap_or(0)
    }
}

#[test]
fn p_26_a_revoked_site_is_out_stays_out_over_restarts_and_is_let_in_by_the_next_list_only() {
    let mut study = Study::up();
    study.sign(&["cert", "revoke", "site-1", "--project", "study"], "r.list").data();
    let old = fs::read(study.list("r.list")).expect("it was written");
    let pushed = study.push("r.list").data();
    assert_eq!(
        (&pushed["changed"][0]["from"], &pushed["changed"][0]["to"]),
        (&0.into(), &1.into())
    );
    study.wait_out("site-1 is out");
    assert!(study.federation.pings("site-2", "server"), "the other works");
    for cell in ["server", "relay-a", "site-2"] {
        until("every cell holds the list", SOON, || (study.versions(cell)[0] == 1).then_some(()));
    }
    until("the relay has refused it", SOON, || {
        (study.refused("relay-a", "CERT_REVOKED") > 0).then_some(())
    });

    // What holds it is on the disk: of the server, and of the relay that it dials.
    for cell in ["relay-a", "server"] {
        study.federation.kill(cell);
        study.federation.start(cell);
        study.federation.wait_ready(cell);
    }
    study.federation.wait_ready("site-2");
    until("site-2 is back", 3 * SOON, || study.federation.pings("site-2", "server").then_some(()));
    assert_eq!(study.versions("server")[0], 1);
    assert!(study.federation.peer("relay-a", "site-1").is_none());

    study.sign(&["cert", "revoke", "--restore", "site-1"], "r.list").data();
    study.push("r.list").data();
    study.wait_in("site-1 is back");
    let listed = study.list("old.list");
    fs::write(&listed, old).expect("the place takes files");
    let refused = study.push("old.list");
    assert_eq!(refused.refusal(), (1, "STALE_LIST"));
    assert_eq!(study.versions("server")[0], 2);
    assert!(study.federation.peer("relay-a", "site-1").is_some());
}

#[test]
fn h_04_a_certificate_that_was_taken_back_does_not_count_again_because_a_list_forgets_it() {
    let study = Study::up();
    let stolen = "ab".repeat(32);
    study.sign(&["cert", "revoke", "--leaf", &stolen, "--project", "study"], "r.list").data();
    study.push("r.list").data();
    // Somebody else signs a later list, and has not heard of the first one.
    study.sign(&["cert", "revoke", "one", "--project", "study"], "other.list").data();
    study.sign(&["cert", "revoke", "two"], "other.list").data();
    let refused = study.push("other.list");
    let (exit, code) = refused.refusal();
    assert_eq!((exit, code), (4, "INPUT"));
    assert!(refused.message().contains(&stolen), "{}", refused.message());
    assert_eq!(study.versions("server")[0], 1, "nothing was given");
    study.sign(&["cert", "revoke", "--leaf", &stolen], "other.list").data();
    study.push("other.list").data();
    assert_eq!(study.versions("server")[0], 3);
    study.sign(&["cert", "revoke", "three", "--project", "study"], "third.list").data();
    for turn in ["four", "five", "six"] {
        study.sign(&["cert", "revoke", turn], "third.list").data();
    }
    let list = study.list("third.list");
    study.federation.ask("server", &["trust", "push", "--forget", &list]).data();
    assert_eq!(study.versions("server")[0], 4);
}

#[test]
fn p_25_an_operator_bans_a_site_and_lets_it_in_again_without_any_key() {
    let study = Study::up();
    let ban = ["cell", "ban", "site-1", "--reason", "floods the relay"];
    let banned = study.federation.ask("server", &ban).data();
    assert_eq!(banned["changed"][0]["list"], "bans");
    study.wait_out("site-1 is banned");
    until("the log of the server has who did it", SOON, || {
        let lines = study.federation.of("server").err.so_far();
        lines.iter().any(|line| line.contains("ban site-1") && line.contains("user ")).then_some(())
    });
    let again = study.federation.ask("server", &ban);
    assert_eq!(again.exit, 4, "{again:?}");
    let unknown = study.federation.ask("server", &["cell", "ban", "site-77"]);
    assert_eq!(unknown.exit, 4);
    assert!(unknown.message().contains("no cell `site-77`"), "{}", unknown.message());
    let elsewhere = study.federation.ask("relay-a", &["cell", "ban", "site-2"]);
    assert_eq!(elsewhere.exit, 4, "only the server bans");
    assert_eq!(study.federation.ask("server", &["cell", "bans"]).data()[0]["name"], "site-1");
    study.federation.ask("server", &["cell", "unban", "site-1"]).data();
    study.wait_in("site-1 is let in again");
    study.federation.ask("server", &["cell", "remove", "site-1"]).data();
    study.wait_in("who was removed comes back by itself");
    until("and works", SOON, || study.federation.pings("site-1", "server").then_some(()));
}

#[test]
fn v_18_a_new_site_joins_running_cells_by_a_signed_roster() {
    let study = Study::up();
    let starts: Vec<u64> = Federation::CELLS.map(|cell| study.federation.starts_of(cell)).to_vec();
    let text = fs::read_to_string(study.federation.file()).expect("it was written");
    let more = study.federation.place.write("more.toml", format!("{text}{SITE_3}"));
    let (more, state) = (more.display().to_string(), study.federation.place.state());
    let state = state.display().to_string();
    let up = ["up", &more, "--only", "site-3", "--state", &state, "-o", "jsonl", "-v"];
    let joining = study.federation.place.start(&up);
    until("the relay has refused the unknown site", SOON, || {
        (study.refused("relay-a", "NOT_DIRECT") > 0).then_some(())
    });
    study.sign(&["roster", "sign", &more], "roster.list").data();
    assert_eq!(study.push("roster.list").data()["changed"][0]["list"], "roster");
    joining.wait_event("ready", "relay-a.site-3");
    until("every cell has the roster", SOON, || {
        let all = ["server", "relay-a", "site-1", "site-2", "site-3"];
        all.iter().all(|cell| study.versions(cell)[2] == 1).then_some(())
    });
    assert!(study.federation.ask("server", &["ping", "relay-a.site-3", "--count", "1"]).exit == 0);
    let cells = study.federation.ask("server", &["cells"]).data();
    assert_eq!(cells.as_array().map(Vec::len), Some(5), "{cells}");
    let after: Vec<u64> = Federation::CELLS.map(|cell| study.federation.starts_of(cell)).to_vec();
    assert_eq!(starts, after, "nobody was started again");
    joining.signal(Signal::TERM);
    assert_eq!(joining.exit(SOON).code, Some(0));
}

#[test]
fn p_25_a_cell_does_not_start_with_a_damaged_list_or_without_one_that_it_needs() {
    let mut study = Study::up();
    study.sign(&["cert", "revoke", "site-2", "--project", "study"], "r.list").data();
    study.push("r.list").data();
    let kept = study.federation.place.state().join("server/lists/revocations.list");
    until("the list is on the disk", SOON, || kept.exists().then_some(()));
    study.federation.kill("server");
    let good = fs::read(&kept).expect("it is there");
    let state = study.federation.place.state().display().to_string();
    let start = |file: &str| {
        study.federation.place.ask(&["up", file, "--only", "server", "--state", &state])
    };
    let file = study.federation.file().to_owned();
    fs::write(&kept, &good[..good.len() - 3]).expect("it is ours");
    let damaged = start(&file);
    assert_ne!(damaged.exit, 0);
    let told = damaged.err.join("\n") + damaged.message();
    assert!(told.contains("revocations.list"), "{told}");
    fs::remove_file(&kept).expect("it is ours");
    let text = fs::read_to_string(&file).expect("it was written");
    let needs =
        study.federation.place.write("needs.toml", format!("{text}[trust]\nrevocations = 1\n"));
    let missing = start(&needs.display().to_string());
    assert_ne!(missing.exit, 0);
    let told = missing.err.join("\n") + missing.message();
    assert!(told.contains("version 1 of the revocations list"), "{told}");
}

#[test]
fn p_26_a_list_that_is_cut_or_signed_by_somebody_else_is_refused_and_changes_nothing() {
    let study = Study::up();
    study.sign(&["cert", "revoke", "site-1", "--project", "study"], "good.list").data();
    let good = fs::read(study.list("good.list")).expect("it was written");
    let stranger = Study::up();
    stranger.sign(&["cert", "revoke", "site-2", "--project", "study"], "other.list").data();
    let foreign = fs::read(stranger.list("other.list")).expect("it was written");
    drop(stranger);
    let cut = good[..good.len() / 2].to_vec();
    for (bytes, exit) in [(cut, 4), (foreign, 2)] {
        fs::write(study.list("bad.list"), bytes).expect("the place takes files");
        let refused = study.push("bad.list");
        assert_eq!(refused.exit, exit, "{refused:#?}");
        for cell in Federation::CELLS {
            assert_eq!(study.versions(cell)[0], 0, "{cell}");
        }
    }
    assert!(
        study.federation.pings("site-1", "server") && study.federation.pings("site-2", "server")
    );
    let kept = study.federation.place.state().join("server/lists/revocations.list");
    assert!(!kept.exists(), "nothing of it is on the disk");
}

/// Has the development authority issue another certificate for `cell`, as whoever provisions would put new files there.
fn reissue(study: &Study, cell: &str) {
    let state = study.federation.place.state();
    let dir = state.join("pki/cells").join(cell);
    fs::remove_file(dir.join("cell.crt")).expect("it is ours");
    // Whoever starts a cell there has missing ones made first; this one runs already, so that its start fails.
    let state = state.display().to_string();
    let up = ["up", study.federation.file(), "--only", "site-2", "--state", &state];
    assert_ne!(study.federation.place.ask(&up).exit, 0);
    assert!(dir.join("cell.crt").exists(), "it was issued again");
}

#[test]
fn g_52_a_certificate_that_was_replaced_is_taken_up_by_reload_without_a_restart_of_anything() {
    let mut study = Study::up();
    let serial = |at: &str| study.federation.ask(at, &["inspect"]).data()["links"].to_string();
    let starts: Vec<u64> = Federation::CELLS.map(|cell| study.federation.starts_of(cell)).to_vec();
    let links = serial("relay-a");
    reissue(&study, "site-1");
    study.federation.ask("site-1", &["reload"]).data();
    until("the relay and the server have gone on with it", SOON, || {
        let heard = |cell: &str| {
            let lines = study.federation.of(cell).err.so_far();
            lines.iter().any(|line| line.contains("goes on with another certificate")).then_some(())
        };
        heard("relay-a").and(heard("server"))
    });
    assert!(study.federation.pings("site-1", "server"));
    let number = |text: &str| text.matches("\"link\":").count();
    assert_eq!(number(&serial("relay-a")), number(&links));
    let after: Vec<u64> = Federation::CELLS.map(|cell| study.federation.starts_of(cell)).to_vec();
    assert_eq!(starts, after);
    // It is what the next connection shows, too.
    study.federation.kill("relay-a");
    study.federation.start("relay-a");
    until("site-1 is back with it", 3 * SOON, || {
        study.federation.pings("site-1", "server").then_some(())
    });
}
