//! Joining at a join door, with real processes: server, operator and site, each with a directory of its own.

use std::{fs, os::unix::fs::PermissionsExt};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    driver::{Answer, Running, SOON, own_address, until},
    kits::Sites,
};

/// A project whose server has a door, and a site and a relay that stand in the project file and have no kit.
struct Joining {
    net: Sites,
}

impl Joining {
    fn new() -> Self {
        let net = Sites::provisioned();
        let door = format!("[join]\nlisten = \"{}\"\n", own_address());
        fs::write(net.kit("server").join("local/join.toml"), door).expect("it is ours");
        let text = fs::read_to_string(&net.project).expect("it is ours");
        let relay = own_address();
        let more = format!(
            "[[cell]]\nname = \"site-9\"\nkind = \"client\"\nparent = \"relay-a\"\n\
             [[cell]]\nname = \"relay-b\"\nkind = \"relay\"\nparent = \"server\"\nlisten = \"{relay}\"\n"
        );
        fs::write(&net.project, text + &more).expect("it is ours");
        Self { net }
    }

    fn started(self) -> Self {
        Self { net: self.net.started() }
    }

    fn only_the_server(mut self) -> Self {
        self.start_server();
        self
    }

    fn start_server(&mut self) {
        self.net.start("server");
        self.net.wait_ready("server", "server");
    }

    /// As the operator, who can reach the server's control socket and has the project's directory.
    fn operator(&self, words: &[&str]) -> Answer {
        let state = self.net.dir("server").join("state").display().to_string();
        self.net.place.ask(&[words, &["--out", "fed", "--state", &state]].concat())
    }

    fn invite(&self, name: &str) -> String {
        let project = self.net.project.display().to_string();
        let invited = self.operator(&["invite", name, &project]).data();
        let line = invited["line"].as_str().expect("a line").to_owned();
        self.write_line(&format!("{name}.line"), &line);
        line
    }

    fn write_line(&self, file: &str, line: &str) {
        let path = self.net.place.write(file, line);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    }

    fn approve(&self, name: &str) -> Answer {
        let project = self.net.project.display().to_string();
        let secret = ["--passphrase-file", self.net.passphrase.as_str()];
        self.operator(&[&["requests", "approve", name, &project], &secret[..]].concat())
    }

    /// What the operator sees of the invitation of `name`.
    fn row(&self, name: &str) -> Value {
        let rows = self.operator(&["requests", "ls"]).data();
        let rows = rows.as_array().expect("rows").clone();
        rows.into_iter().find(|row| row["name"] == name).expect("it is listed")
    }

    fn begin(&self, name: &str) -> Running {
        fs::create_dir_all(self.net.dir(name)).expect("the place is ours");
        self.join_with(name, &["--invitation", &format!("{name}.line")])
    }

    fn go_on(&self, name: &str) -> Running {
        self.join_with(name, &[])
    }

    fn join_with(&self, name: &str, words: &[&str]) -> Running {
        let kit = self.net.kit(name).display().to_string();
        let join = ["join", "--kit", &kit, "-o", "jsonl"];
        self.net.place.start(&[&join[..], words].concat())
    }

    /// One knock, with another directory for the key.
    fn try_once(&self, kit: &str, line: &str) -> Answer {
        self.net.place.ask(&["join", "--kit", kit, "--invitation", line, "--wait", "0s"])
    }
}

fn waits(joining: &Running) -> Value {
    joining
        .out
        .wait_json("it waits", 2 * SOON, |line| (line["event"] == "waiting").then(|| line.clone()))
}

#[test]
fn v_22_a_site_and_a_relay_join_over_quic_while_the_others_work() {
    let mut world = Joining::new().started();
    for (name, cell) in [("site-9", "relay-a.site-9"), ("relay-b", "relay-b")] {
        world.invite(name);
        let joining = world.begin(name);
        let said = waits(&joining);
        let row = world.row(name);
        assert_eq!((&row["state"], &row["at_door"]["stage"]), (&"open".into(), &"waiting".into()));
        assert_eq!(row["at_door"]["key_sha256"], said["key_sha256"], "people can compare it");
        let kit = world.net.kit(name).display().to_string();
        assert_eq!(world.net.place.ask(&["up", "--kit", &kit]).refusal(), (4, "KIT"), "not yet");
        let key = fs::read(world.net.kit(name).join("startup/cell.key")).expect("it was made");

        assert_eq!(world.approve(name).data()["name"], name);
        let exit = joining.exit(2 * SOON);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert_eq!(exit.envelope()["data"]["cell"], cell);
        assert_eq!(fs::read(world.net.kit(name).join("startup/cell.key")).expect("it stays"), key);
        world.net.start(name);
        world.net.wait_ready(name, cell);
    }
    let pings = |name: &str, to: &str| {
        let ping = world.net.ask(name, &["ping", to, "--count", "1", "--budget", "5s"]);
        (ping.exit == 0).then_some(())
    };
    until("the new site reaches the server", SOON, || pings("site-9", "server"));
    until("the server reaches the new site", SOON, || pings("server", "relay-a.site-9"));
    assert_eq!(pings("site-1", "server"), Some(()), "they were never disturbed");
    assert_eq!(world.row("site-9")["state"], "used");
    // Whoever is asked again has nothing more to do.
    assert_eq!(world.go_on("site-9").exit(2 * SOON).code, Some(0));
}

#[test]
fn v_22_a_policy_approves_whom_it_names_and_leaves_all_others_to_people() {
    let world = Joining::new().only_the_server();
    let project = world.net.project.display().to_string();
    let policy = |name: &str, text: &str| world.net.place.write(name, text).display().to_string();
    let apply = |policy: &str| {
        let secret = ["--passphrase-file", world.net.passphrase.as_str(), "--policy", policy];
        world.operator(&[&["requests", "apply", &project], &secret[..]].concat())
    };
    for name in ["site-9", "relay-b"] {
        world.invite(name);
    }
    let (site, relay) = (world.begin("site-9"), world.begin("relay-b"));
    waits(&site);
    waits(&relay);

    let wide = policy("wide.toml", "[[approve]]\nname = \"serv*\"\nkind = \"server\"\n");
    let refused = apply(&wide);
    assert_eq!(refused.refusal(), (4, "INPUT"));
    assert!(refused.message().contains("wide.toml:2:8: CBT002"), "{}", refused.message());
    let nobody = policy("nobody.toml", "[[approve]]\nname = \"site-*\"\nkind = \"relay\"\n");
    let left = apply(&nobody).data();
    assert!(left.as_array().is_some_and(|rows| rows.len() == 2), "{left}");
    assert!(left.as_array().expect("rows").iter().all(|row| row["approved"] == false), "{left}");
    assert!(!world.net.place.dir().join("fed/kits-0002").exists(), "nothing was issued");

    let sites = policy(
        "sites.toml",
        "[[approve]]\nname = \"clinic-*\"\nkind = \"client\"\n\n\
         [[approve]]\nname = \"site-*\"\nkind = \"client\"\norg = \"hq\"\n",
    );
    let decided = apply(&sites).data();
    let of = |name: &str| {
        let rows = decided.as_array().expect("rows").clone();
        rows.into_iter().find(|row| row["name"] == name).expect("it waits")
    };
    assert_eq!((&of("site-9")["approved"], &of("site-9")["rule"]), (&true.into(), &2.into()));
    assert_eq!((&of("relay-b")["approved"], &of("relay-b")["rule"]), (&false.into(), &Value::Null));
    assert_eq!(site.exit(2 * SOON).code, Some(0));
    assert_eq!(world.row("relay-b")["at_door"]["stage"], "waiting");
    assert!(!world.net.place.dir().join("fed/kits-0002/relay-b").exists());
    let logged = |line: &String| line.contains("may join") && line.contains("rule 2 of");
    let err = &world.net.running["server"].err;
    until("the server's log names the rule", SOON, || {
        err.so_far().iter().any(logged).then_some(())
    });
}

#[test]
fn v_22_joining_goes_on_after_a_kill_of_either_side_and_the_secret_is_used_once() {
    let mut world = Joining::new().only_the_server();
    let line = world.invite("site-9");
    let joining = world.begin("site-9");
    let first = waits(&joining);
    joining.signal(Signal::KILL);
    assert_eq!(joining.exit(SOON).code, None);
    world.net.running.remove("server").expect("it runs").signal(Signal::KILL);
    world.start_server();

    // With the same secret and another key, after the restart of the server.
    let other = world.try_once("other-kit", "site-9.line");
    assert_eq!(other.refusal(), (1, "NOT_INVITED"));
    assert!(other.message().contains("another key"), "{}", other.message());
    let joining = world.go_on("site-9");
    assert_eq!(waits(&joining)["key_sha256"], first["key_sha256"], "the same key");
    let again = world.go_on("site-9");
    waits(&again);
    drop(again);

    world.approve("site-9").data();
    // Whoever approves again, as after a crash, issues nothing more.
    assert_eq!(world.approve("site-9").data()["report"], Value::Null);
    assert!(!world.net.place.dir().join("fed/kits-0003").exists());
    assert_eq!(joining.exit(2 * SOON).code, Some(0));
    let other = world.try_once("other-kit", "site-9.line");
    assert_eq!(other.refusal(), (1, "NOT_INVITED"));

    // The secret stands in no file of the server, no argument and no log.
    let body = line.strip_prefix("cellbus-join-1.").expect("its prefix");
    let said = URL_SAFE_NO_PAD.decode(body).expect("base64");
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    let secret = said["secret"].as_str().expect("a secret");
    let kept = world.net.dir("server").join("state/server/join");
    for file in fs::read_dir(kept).expect("the door keeps it there") {
        let path = file.expect("a file").path();
        let bytes = fs::read(&path).expect("it is ours");
        assert!(!String::from_utf8_lossy(&bytes).contains(secret), "{}", path.display());
    }
    for text in world.net.running["server"].err.so_far() {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn v_22_atk_150_wrong_fingerprints_withdrawn_and_made_up_invitations_make_no_kit() {
    let world = Joining::new().only_the_server();
    let line = world.invite("site-9");
    let body = line.strip_prefix("cellbus-join-1.").expect("its prefix");
    let good: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).expect("base64")).expect("JSON");
    let forged = |change: &dyn Fn(&mut Value)| {
        let mut said = good.clone();
        change(&mut said);
        let json = serde_json::to_vec(&said).expect("JSON");
        world.write_line("forged", &format!("cellbus-join-1.{}", URL_SAFE_NO_PAD.encode(json)));
    };
    forged(&|said| said["root_sha256"] = "0".repeat(64).into());
    assert_eq!(world.try_once("k1", "forged").refusal(), (2, "NOT_THE_DOOR"));
    forged(&|said| said["door"]["cell"] = "relay-a".into());
    assert_eq!(world.try_once("k2", "forged").refusal(), (2, "NOT_THE_DOOR"));
    forged(&|said| said["door"]["address"] = own_address().into());
    assert_eq!(world.try_once("k3", "forged").refusal(), (2, "DOOR_UNREACHABLE"));
    forged(&|said| said["secret"] = "x".repeat(43).into());
    assert_eq!(world.try_once("k4", "forged").refusal(), (1, "NOT_INVITED"));
    forged(&|said| said["name"] = "site-1".into());
    assert_eq!(world.try_once("k5", "forged").refusal(), (1, "NOT_INVITED"));
    assert_eq!(world.row("site-9")["at_door"]["stage"], "invited", "none of them was kept");

    // Somebody who has the secret and asks to be a relay: it is kept, and certifies nothing.
    forged(&|said| said["kind"] = "relay".into());
    let asked = world.try_once("k6", "forged");
    assert_eq!(asked.refusal(), (3, "JOIN_WAITING"));
    let refused = world.approve("site-9");
    assert_eq!(refused.refusal(), (4, "KIT"));
    assert!(!world.net.place.dir().join("fed/kits-0002").exists());
    assert_eq!(world.row("site-9")["at_door"]["stage"], "waiting");

    world.operator(&["requests", "reject", "site-9"]).data();
    let rejected = world.net.place.ask(&["join", "--kit", "k6", "--wait", "0s"]);
    assert_eq!(rejected.refusal(), (1, "NOT_INVITED"));
    assert!(rejected.message().contains("withdrawn"), "{}", rejected.message());
    for kit in ["k1", "k2", "k3", "k4", "k5", "k6"] {
        assert_eq!(world.net.place.ask(&["up", "--kit", kit]).refusal(), (4, "KIT"), "{kit}");
    }
    // A cell without a door says so.
    let mut world = world;
    world.net.start("site-2");
    world.net.wait_ready("site-2", "site-2");
    let state = world.net.dir("site-2").join("state").display().to_string();
    let words = ["requests", "ls", "--out", "fed", "--state", &state];
    assert_eq!(world.net.place.ask(&words).refusal(), (4, "JOIN_CLOSED"));
}
