//! Provisioning as a process: what it leaves under any umask, when it is killed, and when the disk is full.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use crate::{
    driver::{Place, Running, SOON, entries, until},
    kits::{passphrase, project},
};

/// A place with a project of many sites.
fn place(sites: usize) -> (Place, String) {
    let place = Place::new();
    let mut text = project("127.0.0.1:8002", "127.0.0.1:8003");
    for number in 0..sites {
        write!(
            text,
            "[[cell]]\nname = \"hospital-{number}\"\nkind = \"client\"\nparent = \"server\"\n"
        )
        .expect("a string takes any text");
    }
    place.write("project.toml", text);
    let passphrase = passphrase(&place);
    (place, passphrase)
}

fn words(passphrase: &str) -> [&str; 6] {
    ["provision", "project.toml", "--out", "fed", "--passphrase-file", passphrase]
}

fn names(dir: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeSet::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn staging(place: &Place) -> PathBuf {
    place.dir().join(".cellbus-new-fed")
}

#[test]
fn v_08_atk_100_nothing_is_open_to_others_under_any_umask() {
    for umask in ["umask 000", "umask 022", "umask 077", "umask 777"] {
        let (place, passphrase) = place(0);
        let exit = Running::start(place.command_after(umask, &words(&passphrase))).exit(2 * SOON);
        assert_eq!(exit.code, Some(0), "{umask}: {exit:?}");
        let found = entries(&place.dir().join("fed"));
        assert!(found.len() > 30, "{umask}: {}", found.len());
        for entry in &found {
            assert!(!entry.is_open_to_others(), "{umask}: {}", entry.path.display());
        }
        let verified = place.ask(&["kit", "verify", "fed/kits-0001/site-1"]);
        assert_eq!(verified.exit, 0, "{umask}: {verified:#?}");
    }
}

#[test]
fn s0_19_atk_100_no_command_that_writes_leaves_anything_open_to_others() {
    let (place, passphrase) = place(0);
    let private = |name: &str| {
        let path = place.dir().join(name);
        fs::create_dir(&path).expect("it is new");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it is ours");
        path
    };
    let (out, other) = (private("out"), private("other"));
    let secret = other.join("secret");
    fs::write(&secret, "another secret for the way\n").expect("it is ours");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let secret = secret.display().to_string();
    let run = |words: &[&str]| {
        let exit = Running::start(place.command_after("umask 000", words)).exit(4 * SOON);
        assert_eq!(exit.code, Some(0), "{words:?}: {exit:?}");
        exit
    };
    let project = ["project.toml", "--out", "fed"];
    let authority = ["--passphrase-file", passphrase.as_str()];
    let sealing = ["--passphrase-file", secret.as_str()];
    run(&words(&passphrase));
    run(&[&["kit", "seal", "fed/kits-0001/site-1", "--out", "out/kit.age"][..], &sealing].concat());
    run(&[&["kit", "open", "out/kit.age", "--out", "out/kit"][..], &sealing].concat());
    run(&["doctor", "--kit", "out/kit", "--offline", "--bundle", "out/bundle"]);
    let text = fs::read_to_string(place.dir().join("project.toml")).expect("it is ours");
    place.write(
        "project.toml",
        format!("{text}[[cell]]\nname = \"site-9\"\nkind = \"client\"\nparent = \"server\"\n"),
    );
    let line = run(&[&["invite", "site-9"][..], &project].concat()).out.join("\n");
    let invitation = other.join("line");
    fs::write(&invitation, line).expect("it is ours");
    fs::set_permissions(&invitation, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let invitation = invitation.display().to_string();
    run(&["join", "--invitation", &invitation, "--kit", "out/joined", "--request", "out/request"]);
    let approve = [&["requests", "approve", "out/request"][..], &project, &authority].concat();
    run(&[&approve[..], &["--reply", "out/reply"]].concat());
    run(&["join", "--kit", "out/joined", "--reply", "out/reply"]);
    run(&[&["ca", "prepare"][..], &project, &authority].concat());
    let mut found = entries(&place.dir().join("fed"));
    found.extend(entries(&out));
    assert!(found.len() > 60, "{}", found.len());
    for entry in &found {
        assert!(!entry.is_open_to_others(), "{:o} {}", entry.mode, entry.path.display());
    }
}

#[test]
fn v_07_who_is_killed_while_provisioning_leaves_nothing_half_made() {
    let (place, passphrase) = place(400);
    for made in [1, 40, 250] {
        let running = place.start(&words(&passphrase));
        let kits = staging(&place).join("kits-0001");
        until("kits are being made", 2 * SOON, || (names(&kits).len() >= made).then_some(()));
        let below = running.kill();
        assert!(below.0.is_empty(), "it starts nothing: {below:?}");
        assert!(!place.dir().join("fed").exists(), "after {made}");
        assert!(staging(&place).exists(), "it was killed in time");
    }
    let exit = place.start(&words(&passphrase)).exit(4 * SOON);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(!staging(&place).exists(), "what the dead left is swept");
    assert_eq!(names(&place.dir().join("fed/kits-0001")).len(), 4 + 1 + 400 + 5);
    let answer = place.ask(&["kit", "verify", "fed/kits-0001/hospital-399"]);
    assert_eq!(answer.exit, 0, "{answer:#?}");
}

#[test]
fn v_07_atk_101_a_disk_that_takes_no_more_leaves_everything_as_it_was() {
    let (place, passphrase) = place(3);
    // Blocks of 512 bytes: the first files fit, a later one does not.
    for blocks in [0, 1, 2, 3] {
        let full = format!("trap '' XFSZ; ulimit -f {blocks}");
        let exit = Running::start(place.command_after(&full, &words(&passphrase))).exit(2 * SOON);
        assert_eq!(exit.code, Some(4), "{blocks}: {exit:?}");
        let left = names(place.dir());
        assert!(!left.contains("fed") && !staging(&place).exists(), "{blocks}: {left:?}");
    }
    place.ask(&words(&passphrase)).data();
    let before = entries(&place.dir().join("fed"));
    let text = fs::read_to_string(place.dir().join("project.toml")).expect("it is ours");
    place.write("project.toml", text.replace("hospital-1", "hospital-9"));
    let full = "trap '' XFSZ; ulimit -f 1";
    let exit = Running::start(place.command_after(full, &words(&passphrase))).exit(2 * SOON);
    assert_eq!(exit.code, Some(4), "{exit:?}");
    assert_eq!(entries(&place.dir().join("fed")), before);
}

#[test]
fn v_07_two_at_the_same_time_do_not_mix() {
    let (place, passphrase) = place(100);
    let both = [place.start(&words(&passphrase)), place.start(&words(&passphrase))];
    let codes: Vec<Option<i32>> =
        both.into_iter().map(|running| running.exit(4 * SOON).code).collect();
    assert!(codes.contains(&Some(0)), "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 4))), "{codes:?}");
    assert!(!staging(&place).exists());
    let again = place.ask(&words(&passphrase)).data();
    assert!(again["written"].is_null(), "one of them did all of it: {again}");
}

#[test]
fn v_09_v_24_the_passphrase_and_the_keys_are_nowhere_to_be_seen() {
    let (place, passphrase) = place(50);
    let secret = fs::read_to_string(&passphrase).expect("it is ours").trim().to_owned();
    let descriptor = format!("exec 7<'{passphrase}'");
    let words = ["provision", "project.toml", "--out", "fed", "--passphrase-fd", "7", "-vvv"];
    let running = Running::start(place.command_after(&descriptor, &words));
    let (process, done) = (running.process(), AtomicBool::new(false));
    let (exit, seen) = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                seen.push((process.arguments(), process.environment()));
            }
            seen
        });
        let exit = running.exit(2 * SOON);
        done.store(true, Ordering::Relaxed);
        (exit, watching.join().expect("it only looks"))
    });
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(seen.iter().any(|(arguments, _)| arguments.is_some()), "it was seen at all");
    for (arguments, environment) in seen {
        let environment = environment.unwrap_or_default();
        let shown = format!("{arguments:?}{}", String::from_utf8_lossy(&environment));
        assert!(!shown.contains(&secret), "{shown}");
    }
    let said = [exit.out, exit.err].concat().join("\n");
    assert!(said.contains("authority of study"), "{said}");
    assert!(!said.contains(&secret) && !said.contains("PRIVATE"), "{said}");
    for entry in entries(&place.dir().join("fed/kits-0001")) {
        if entry.path.extension().is_some_and(|end| end == "key") {
            let pem = fs::read_to_string(&entry.path).expect("it is ours");
            let body = pem.lines().nth(1).expect("a key has lines");
            assert!(!said.contains(&body[body.len() / 2..]));
        }
    }
    let word = format!("--passphrase={secret}");
    assert_eq!(
        place.ask(&["provision", "project.toml", "--out", "x", &word]).refusal(),
        (4, "USAGE")
    );
}

#[test]
fn bad_project_files_are_refused_with_their_line_and_nothing_is_asked_or_written() {
    let (place, _) = place(0);
    place.write(
        "bad.toml",
        project("127.0.0.1:8002", "127.0.0.1:8003")
            .replace("parent = \"relay-a\"", "parent = \"relay-z\""),
    );
    let answer = place.ask(&["provision", "bad.toml", "--out", "fed"]);
    assert_eq!(answer.refusal(), (4, "CONFIG"));
    let problems = &answer.envelope["data"]["problems"];
    assert!(problems[0]["line"].as_u64().is_some_and(|line| line > 1), "{problems}");
    place.write(
        "flare.yml",
        "api_version: 3\nname: study\nparticipants:\n  - name: server\n    type: robot\n",
    );
    let answer = place.ask(&["provision", "flare.yml", "--out", "fed"]);
    assert_eq!(answer.refusal(), (4, "CONFIG"));
    assert!(answer.err.join("\n").contains("flare.yml:5"), "{answer:#?}");
    assert!(!place.dir().join("fed").exists());
}
