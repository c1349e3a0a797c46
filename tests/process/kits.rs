//! A federation of kits: provisioned at one place, each run from a directory of its own, as on machines of their own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use cellbus_kits::{
    passphrase::Passphrase,
    provision::{Order, provision},
};
use rustix::process::Signal;
use serde_json::Value;

use crate::driver::{Answer, Place, Running, SOON, entries, own_address, until};

/// A project with a server, a relay and two sites, one below each.
pub fn project(server: &str, relay: &str) -> String {
    format!(
        r#"
[project]
name = "study"
org = "hq"
[[cell]]
name = "server"
kind = "server"
listen = "{server}"
[[cell]]
name = "relay-a"
kind = "relay"
parent = "server"
listen = "{relay}"
[[cell]]
name = "site-1"
kind = "client"
parent = "relay-a"
org = "st-mary"
[[cell]]
name = "site-2"
kind = "client"
parent = "server"
[[admin]]
name = "alice"
role = "project_admin"
[[allow]]
from = "site-*"
to = "site-*"
channel = "ops"
topics = ["report"]
"#
    )
}

/// Seconds since 1970.
pub fn now_unix() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// A passphrase file as people make one.
pub fn passphrase(place: &Place) -> String {
    let path = place.write("passphrase", "correct horse battery staple\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    path.display().to_string()
}

/// Participants, each in a directory of its own with state of its own.
pub struct Sites {
    /// Where it all happens.
    pub place: Place,
    /// The project file.
    pub project: PathBuf,
    /// The file of the passphrase of the authority's key.
    pub passphrase: String,
    /// Those that were started.
    pub running: BTreeMap<&'static str, Running>,
}

impl Sites {
    /// Provisioned and handed over, and nothing runs.
    pub fn provisioned() -> Self {
        let place = Place::new();
        let text = project(&own_address(), &own_address());
        let (project, passphrase) = (place.write("project.toml", text), passphrase(&place));
        let sites = Self { place, project, passphrase, running: BTreeMap::new() };
        sites.provision(&[]).data();
        for name in ["server", "relay-a", "site-1", "site-2"] {
            sites.hand_over("kits-0001", name);
        }
        sites
    }

    /// The same with an issuing authority, as it was done `age` ago.
    pub fn provisioned_ago(age: Duration) -> Self {
        let place = Place::new();
        let text = project(&own_address(), &own_address());
        let text = format!("{text}[certificates]\nissuer_days = 180\n");
        let (project, passphrase) = (place.write("project.toml", &text), passphrase(&place));
        let parsed = cellbus_proto::topology::project::parse(&text).expect("a good project");
        let order = Order {
            project: &parsed.project,
            out: &place.dir().join("fed"),
            only: None,
            key: None,
            now_unix: now_unix() - age.as_secs(),
            work_factor: 2,
        };
        let secret = || Passphrase::new("correct horse battery staple".to_owned().into());
        provision(&order, &mut |_| secret()).expect("the place is ours");
        let sites = Self { place, project, passphrase, running: BTreeMap::new() };
        for name in ["server", "relay-a", "site-1", "site-2"] {
            sites.hand_over("kits-0001", name);
        }
        sites
    }

    /// Kills the process of a participant and starts it again.
    pub fn kill_and_start(&mut self, name: &'static str) {
        let running = self.running.remove(name).expect("it runs");
        running.signal(Signal::KILL);
        running.exit(SOON);
        self.start(name);
    }

    /// Provisions what the project file says now.
    pub fn provision(&self, add: &[&str]) -> Answer {
        let project = self.project.display().to_string();
        let more = [project.as_str(), "--out", "fed", "--passphrase-file", &self.passphrase];
        self.place.ask(&[&["provision"], add, &more].concat())
    }

    /// Takes a step from one authority to the next, and gives the running server what it has written, if `kits`.
    pub fn authority(&self, verb: &str, kits: Option<&str>) -> Answer {
        let project = self.project.display().to_string();
        let words = ["ca", verb, &project, "--out", "fed", "--passphrase-file", &self.passphrase];
        let state = self.dir("server").join("state").display().to_string();
        let target: &[&str] = if verb == "revoke" { &["--state", &state] } else { &[] };
        let answer = self.place.ask(&[&words[..], target].concat());
        if let Some(kits) = kits {
            assert_eq!(answer.exit, 0, "{answer:#?}");
            self.ask("server", &["trust", "push", &format!("fed/{kits}/trust.list")]).data();
        }
        answer
    }

    /// Gives a participant an update of its kit.
    pub fn update(&self, kits: &str, name: &str) {
        let kit = self.kit(name).display().to_string();
        let from = self.place.dir().join("fed").join(kits).join("updates").join(name);
        self.place.ask(&["kit", "update", &kit, "--from", &from.display().to_string()]).data();
    }

    /// Moves a kit to where its participant keeps it.
    pub fn hand_over(&self, kits: &str, name: &str) {
        fs::create_dir_all(self.dir(name)).expect("the place is ours");
        fs::rename(self.place.dir().join("fed").join(kits).join(name), self.kit(name))
            .expect("it was made");
    }

    /// The directory of one participant.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.place.dir().join("at").join(name)
    }

    /// The kit of one participant.
    pub fn kit(&self, name: &str) -> PathBuf {
        self.dir(name).join("kit")
    }

    /// The command line that runs its cell.
    pub fn up(&self, name: &str) -> Vec<String> {
        let (kit, state) = (self.kit(name), self.dir(name).join("state"));
        let words =
            ["up", "--kit", &kit.display().to_string(), "--state", &state.display().to_string()];
        words.map(str::to_owned).to_vec()
    }

    /// Starts its process.
    pub fn start(&mut self, name: &'static str) {
        let arguments =
            [self.up(name), vec!["-o".to_owned(), "jsonl".to_owned(), "-v".to_owned()]].concat();
        self.running.insert(name, self.place.start(&arguments));
    }

    /// Waits until it is registered.
    pub fn wait_ready(&self, name: &str, cell: &str) {
        self.running[name].wait_event("ready", cell);
    }

    /// Asks its cell.
    pub fn ask(&self, name: &str, arguments: &[&str]) -> Answer {
        let state = self.dir(name).join("state").display().to_string();
        self.place.ask(&[arguments, &["--state", &state]].concat())
    }

    /// Starts everybody and waits until all are registered.
    pub fn started(mut self) -> Self {
        for name in ["server", "relay-a", "site-1", "site-2"] {
            self.start(name);
        }
        for (name, cell) in [
            ("server", "server"),
            ("relay-a", "relay-a"),
            ("site-1", "relay-a.site-1"),
            ("site-2", "site-2"),
        ] {
            self.wait_ready(name, cell);
        }
        self
    }
}

#[test]
fn a_federation_of_kits_carries_messages_between_its_sites() {
    let net = Sites::provisioned().started();
    let state = net.dir("site-2").join("state").display().to_string();
    let arguments = [
        "serve",
        "ops/report",
        "--count",
        "1",
        "--reply",
        "received",
        "-o",
        "jsonl",
        "--state",
        &state,
    ];
    let serving = net.place.start(&arguments);
    serving.out.wait_json("it serves", SOON, |line| (line["event"] == "ready").then_some(()));
    let asked = net.ask("site-1", &["request", "site-2", "ops/report", "--payload", "hello"]);
    let said = asked.data();
    assert!(said.to_string().contains("received"), "{said}");
    assert_eq!(serving.exit(SOON).envelope()["data"]["answered"], 1);
    let refused = net.ask("site-1", &["request", "site-2", "ops/restart", "--payload", "x"]);
    assert_eq!(refused.refusal(), (6, "TOPIC_DENIED"));
    for running in net.running.into_values() {
        running.signal(Signal::TERM);
        let exit = running.exit(2 * SOON);
        assert_eq!(exit.code, Some(0), "{exit:?}");
    }
}

#[test]
fn s3_06_atk_148_a_kit_with_one_changed_byte_starts_nothing_and_is_named() {
    let net = Sites::provisioned();
    for file in ["topology.toml", "cell.crt", "cell.key", "root.crt", "roster.json"] {
        let path = net.kit("site-1").join("startup").join(file);
        let good = fs::read(&path).expect("it is ours");
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&path, bad).expect("it is ours");
        let before = entries(net.place.dir());
        let up = net.up("site-1");
        let refused = net.place.ask(&up.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(refused.refusal(), (4, "KIT"), "{file}: {refused:#?}");
        assert!(refused.message().contains(file), "{file}: {}", refused.message());
        assert_eq!(entries(net.place.dir()), before, "{file}: nothing was made");
        fs::write(&path, good).expect("it is ours");
    }
    let kit = net.kit("site-1").display().to_string();
    let verified = net.place.ask(&["kit", "verify", &kit]).data();
    assert_eq!(verified["ok"], true);
    let root = "0".repeat(64);
    let other = net.place.ask(&["kit", "verify", &kit, "--root", &root]);
    assert_eq!(other.refusal(), (1, "CHECK_FAILED"));
    let up = [net.up("site-1"), vec!["--root".to_owned(), root]].concat();
    let refused = net.place.ask(&up.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(refused.refusal(), (4, "KIT"));
    let person = net.place.dir().join("fed/kits-0001/alice").display().to_string();
    assert_eq!(net.place.ask(&["up", "--kit", &person]).refusal(), (4, "KIT"));
}

#[test]
fn s3_18_a_site_refuses_more_without_a_restart_and_its_neighbours_know_nothing_of_it() {
    let net = Sites::provisioned().started();
    let policy = net.kit("site-2").join("local/policy.toml");
    let rule =
        "[[deny]]\nfrom = \"*\"\nto = \"site-2\"\nchannel = \"ops\"\ntopics = [\"report\"]\n";
    fs::write(&policy, rule).expect("it is ours");
    net.ask("site-2", &["reload"]).data();
    let refused = net.ask("site-1", &["request", "site-2", "ops/report", "--payload", "x"]);
    assert_eq!((refused.refusal(), refused.by()), ((6, "TOPIC_DENIED"), "site-2"));
    // A kit that has been changed is not read again, and the rules stay.
    let topology = net.kit("site-2").join("startup/topology.toml");
    let text = fs::read_to_string(&topology).expect("it is ours");
    fs::write(&topology, text.replace("report", "restart")).expect("it is ours");
    fs::write(&policy, "").expect("it is ours");
    let kept = net.ask("site-2", &["reload"]);
    assert_ne!(kept.exit, 0, "{kept:#?}");
    let refused = net.ask("site-1", &["request", "site-2", "ops/report", "--payload", "x"]);
    assert_eq!(refused.refusal(), (6, "TOPIC_DENIED"));
}

#[test]
fn v_18_a_site_that_was_added_joins_once_its_parent_has_the_update() {
    let mut net = Sites::provisioned();
    let text = fs::read_to_string(&net.project).expect("it is ours");
    let text =
        format!("{text}[[cell]]\nname = \"site-3\"\nkind = \"client\"\nparent = \"relay-a\"\n");
    fs::write(&net.project, text).expect("it is ours");
    net.provision(&["add", "site-3"]).data();
    net.hand_over("kits-0002", "site-3");
    for name in ["server", "relay-a"] {
        let kit = net.kit(name).display().to_string();
        let from = net.place.dir().join("fed/kits-0002/updates").join(name).display().to_string();
        let done: Value = net.place.ask(&["kit", "update", &kit, "--from", &from]).data();
        assert!(done["to"].as_u64() > done["from"].as_u64(), "{done}");
    }
    for name in ["server", "relay-a", "site-3"] {
        net.start(name);
    }
    net.wait_ready("site-3", "relay-a.site-3");
    until("a ping", SOON, || {
        (net.ask("site-3", &["ping", "server", "--count", "1", "--budget", "2s"]).exit == 0)
            .then_some(())
    });
}

#[test]
fn v_16_a_kit_is_sealed_and_opened_by_two_commands() {
    let net = Sites::provisioned();
    let kit = net.kit("site-1").display().to_string();
    let secret = net.place.dir().join("by-telephone");
    fs::create_dir(&secret).expect("the place is ours");
    fs::write(secret.join("p"), "quite another secret\n").expect("it is ours");
    fs::set_permissions(secret.join("p"), fs::Permissions::from_mode(0o600)).expect("it is ours");
    let file = secret.join("p").display().to_string();
    let seal =
        |out: &str| net.place.ask(&["kit", "seal", &kit, "--out", out, "--passphrase-file", &file]);
    let beside = secret.join("site-1.kit").display().to_string();
    assert_eq!(seal(&beside).refusal(), (4, "KIT"), "s3_09: not beside its passphrase");
    assert!(!Path::new(&beside).exists());
    seal("site-1.kit").data();
    let opened = |passphrase: &str, out: &str| {
        net.place.ask(&["kit", "open", "site-1.kit", "--out", out, "--passphrase-file", passphrase])
    };
    assert_eq!(opened(&net.passphrase, "wrong").refusal(), (4, "KIT"));
    assert!(!net.place.dir().join("wrong").exists());
    opened(&file, "right").data();
    assert_eq!(net.place.ask(&["kit", "diff", &kit, "right"]).data(), Value::Array(Vec::new()));
    let inspected = net.place.ask(&["kit", "inspect", "right"]).data();
    assert_eq!(inspected["manifest"]["name"], "site-1");
}

#[test]
fn certificates_say_when_they_should_be_renewed_with_the_exit_codes_of_step() {
    let net = Sites::provisioned();
    let certificate = net.kit("site-1").join("startup/cell.crt").display().to_string();
    let needs = |file: &str, when: &str| {
        net.place.ask(&["cert", "needs-renewal", file, "--expires-in", when]).exit
    };
    assert_eq!(needs(&certificate, "66%"), 1);
    assert_eq!(needs(&certificate, "0%"), 0);
    assert_eq!(needs(&certificate, "30d"), 1);
    assert_eq!(needs(&certificate, "91d"), 0);
    assert_eq!(needs("nothing.crt", "66%"), 2);
    assert_eq!(needs("project.toml", "66%"), 4);
    let seen = net.place.ask(&["cert", "inspect", &certificate]).data();
    assert_eq!(seen[0]["uris"][0], "cell://study/client/site-1?org=st-mary");
    let took = net.place.ask(&["cert", "inspect", &certificate]).took;
    assert!(took < Duration::from_secs(3600));
}

#[test]
fn v_18_running_cells_take_a_new_site_by_the_roster_and_lose_an_old_one_by_the_revocations() {
    let mut net = Sites::provisioned().started();
    let text = fs::read_to_string(&net.project).expect("it is ours");
    let more = "[[cell]]\nname = \"site-3\"\nkind = \"client\"\nparent = \"relay-a\"\n";
    fs::write(&net.project, format!("{text}{more}")).expect("it is ours");
    net.provision(&["add", "site-3"]).data();
    net.hand_over("kits-0002", "site-3");
    net.ask("server", &["trust", "push", "fed/kits-0002/roster.list"]).data();
    net.start("site-3");
    net.wait_ready("site-3", "relay-a.site-3");

    // A changed organisation takes the old certificate back, also from a cell that runs.
    assert!(text.contains("org = \"st-mary\""));
    let changed = format!("{text}{more}").replace("org = \"st-mary\"", "org = \"mercy\"");
    fs::write(&net.project, changed).expect("it is ours");
    let report = net.provision(&[]).data();
    assert_eq!(report["revoked"][0]["name"], "site-1", "{report}");
    let is_connected = || {
        let peers = net.ask("relay-a", &["peers"]).data();
        let rows = peers.as_array().expect("rows");
        let is_it = |row: &Value| row["name"] == "relay-a.site-1" && row["state"] == "active";
        rows.iter().any(is_it)
    };
    assert!(is_connected());
    net.ask("server", &["trust", "push", "fed/kits-0003/revocations.list"]).data();
    until("the end of the old certificate", SOON, || (!is_connected()).then_some(()));
    assert_eq!(net.ask("site-3", &["ping", "server", "--count", "1"]).exit, 0);
}

#[test]
fn v_22_a_site_joins_running_cells_with_a_key_that_never_left_it() {
    let mut net = Sites::provisioned();
    net.start("server");
    net.wait_ready("server", "server");
    let text = fs::read_to_string(&net.project).expect("it is ours");
    let more = "[[cell]]\nname = \"site-9\"\nkind = \"client\"\nparent = \"server\"\n";
    fs::write(&net.project, format!("{text}{more}")).expect("it is ours");
    let project = net.project.display().to_string();
    let invited = net.place.ask(&["invite", "site-9", &project, "--out", "fed"]).data();
    let line = net.place.write("line", invited["line"].as_str().expect("a line"));
    let open = net.place.ask(&[
        "join",
        "--kit",
        "at/site-9/kit",
        "--invitation",
        "line",
        "--request",
        "r",
    ]);
    assert_eq!(open.refusal(), (4, "INPUT"), "the line is for its owner alone");
    fs::set_permissions(&line, fs::Permissions::from_mode(0o600)).expect("it is ours");
    fs::create_dir_all(net.dir("site-9")).expect("the place is ours");
    let join = |more: &[&str]| net.place.ask(&[&["join", "--kit", "at/site-9/kit"], more].concat());
    join(&["--invitation", "line", "--request", "r"]).data();
    let kit = net.kit("site-9").display().to_string();
    assert_eq!(net.place.ask(&["up", "--kit", &kit]).refusal(), (4, "KIT"), "not yet");
    let words = ["requests", "approve", "r", &project, "--out", "fed", "--reply", "back"];
    let secret = ["--passphrase-file", net.passphrase.as_str()];
    let approve = || net.place.ask(&[&words[..], &secret].concat());
    approve().data();
    assert_eq!(approve().refusal(), (4, "KIT"), "once");
    join(&["--reply", "back"]).data();
    net.ask("server", &["trust", "push", "fed/kits-0002/roster.list"]).data();
    net.start("site-9");
    net.wait_ready("site-9", "site-9");
}
