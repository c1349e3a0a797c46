//! What the documents tell people to do, done as they say.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    driver::{Place, Running, SOON, own_address, until},
    kits::Sites,
};

const README: &str = include_str!("../../README.md");
const EXAMPLE: &str = include_str!("../../docs/examples/one-machine.toml");

/// The commands of the first block below a heading, without the prompt and what is said beside them.
fn commands(heading: &str) -> Vec<String> {
    let (_, below) = README.split_once(heading).expect("the section is there");
    let (_, block) = below.split_once("```console\n").expect("it has a block");
    let (block, _) = block.split_once("```").expect("it ends");
    let command = |line: &str| {
        let line = line.strip_prefix("$ ").expect("a prompt");
        line.split(" # ").next().expect("a command").trim().to_owned()
    };
    block.lines().map(command).collect()
}

fn secret(place: &Place, name: &str, text: &str) -> String {
    let dir = place.dir().join(name);
    fs::create_dir(&dir).expect("it is new");
    let path = dir.join("passphrase");
    fs::write(&path, text).expect("the place is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    path.display().to_string()
}

#[test]
fn the_five_commands_of_the_readme_make_a_federation_on_one_machine() {
    let place = Place::new();
    fs::create_dir_all(place.dir().join("docs/examples")).expect("it is new");
    // Other tests, and other people, have their federations on the same machine.
    let text = EXAMPLE
        .replace("127.0.0.1:8002", &own_address())
        .replace("127.0.0.1:8003", &own_address())
        .replace("hosts = [\"127.0.0.1\"]\n", "");
    place.write("docs/examples/one-machine.toml", text);
    let authority = secret(&place, "one", "a secret of whoever provisions\n");
    let handed_over = secret(&place, "two", "a secret by telephone\n");
    let (mut running, mut fingerprint) = (BTreeMap::<String, Running>::new(), String::new());
    let mut verbs = Vec::new();
    for command in commands("## A real federation in five commands") {
        let (command, stays) = match command.strip_suffix(" &") {
            Some(command) => (command.to_owned(), true),
            None => (command, false),
        };
        let command = command.replace("FINGERPRINT", &fingerprint);
        let words: Vec<&str> = command.split_whitespace().collect();
        let (program, words) = words.split_first().expect("a command");
        assert_eq!(*program, "cellbus", "{command}");
        verbs.push(words[0].to_owned());
        if stays {
            let started = place.start(&[words, &["-o", "jsonl"]].concat());
            let name = words[words.len() - 1].rsplit('/').next().expect("a state").to_owned();
            let event = started.out.wait_json("it is ready", SOON, |line| {
                (line["event"] == "ready").then(|| line["cell"].to_string())
            });
            assert!(event.contains(&name), "{event}, {command}");
            running.insert(name, started);
            continue;
        }
        let passphrase = match words[..2] {
            ["provision", _] => &["--passphrase-file", authority.as_str()][..],
            ["kit", _] => &["--passphrase-file", handed_over.as_str()],
            _ => &[],
        };
        let said = place.ask(&[words, passphrase].concat()).data();
        if words[0] == "provision" {
            let inspected = place.ask(&["kit", "inspect", "fed/kits-0001/site-1"]).data();
            fingerprint = inspected["manifest"]["root_sha256"].as_str().expect("text").to_owned();
            assert!(said.to_string().contains(&fingerprint), "it is printed: {said}");
        }
    }
    verbs.dedup();
    assert_eq!(verbs, ["provision", "up", "kit", "doctor", "up"]);
    assert_eq!(running.len(), 3);
    let states: Vec<PathBuf> =
        ["server", "relay-eu", "site-1"].map(|name| place.dir().join("state").join(name)).into();
    assert!(states.iter().all(|state| state.is_dir()), "each has a directory of its own");
    let state = states[2].display().to_string();
    until("the site reaches the server", SOON, || {
        let ping = ["ping", "server", "--count", "1", "--budget", "2s", "--state", &state];
        (place.ask(&ping).exit == 0).then_some(())
    });
}

/// Provisions the project without `site-1`, or with it again, and gives the running server the lists.
fn provision(net: &Sites, text: &str, number: usize) {
    fs::write(&net.project, text).expect("it is ours");
    net.provision(&[]).data();
    let list = format!("fed/kits-{number:04}/trust.list");
    assert!(Path::new(&net.place.dir().join(&list)).exists(), "{list}");
    net.ask("server", &["trust", "push", &list]).data();
}

fn refused(net: &Sites, code: &str) -> u64 {
    let stats = net.ask("relay-a", &["stats"]).data();
    stats["counters"]["refused"][code].as_u64().unwrap_or(0)
}

#[test]
fn p_26_a_lost_key_is_taken_back_and_its_site_returns_with_another_as_the_runbook_says() {
    let mut net = Sites::provisioned().started();
    let with = fs::read_to_string(&net.project).expect("it is ours");
    let (before, cell) = with.split_once("[[cell]]\nname = \"site-1\"").expect("it is in there");
    let (_, after) = cell.split_once("[[cell]]").expect("another one follows");
    let without = format!("{before}[[cell]]{after}");

    net.ask("server", &["cell", "ban", "site-1"]).data();
    until("it is banned", SOON, || (refused(&net, "DISABLED") > 0).then_some(()));
    provision(&net, &without, 2);
    until("its certificate is revoked", SOON, || (refused(&net, "CERT_REVOKED") > 0).then_some(()));
    provision(&net, &with, 3);
    net.ask("server", &["cell", "unban", "site-1"]).data();
    let counted = refused(&net, "CERT_REVOKED");
    until("the stolen key is still refused", SOON, || {
        (refused(&net, "CERT_REVOKED") > counted).then_some(())
    });
    let stolen = net.kit("site-1").with_file_name("stolen");
    fs::rename(net.kit("site-1"), &stolen).expect("it is ours");
    net.running.remove("site-1");
    net.hand_over("kits-0003", "site-1");
    let key = |kit: &Path| fs::read(kit.join("startup/cell.key")).expect("it is ours");
    assert_ne!(key(&stolen), key(&net.kit("site-1")), "the key is another");
    net.start("site-1");
    net.wait_ready("site-1", "relay-a.site-1");
    until("it works", SOON, || {
        let ping = net.ask("site-1", &["ping", "server", "--count", "1", "--budget", "2s"]);
        (ping.exit == 0).then_some(())
    });
}
