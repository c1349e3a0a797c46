//! The doctor: what it says of kits, machines and parents, and that it changes nothing.

use std::{collections::BTreeMap, fs, net::UdpSocket};

use serde_json::Value;

use crate::{
    driver::{Answer, entries},
    kits::Sites,
};

fn doctor(net: &Sites, name: &str, more: &[&str]) -> Answer {
    let (kit, state) = (net.kit(name), net.dir(name).join("state"));
    let words =
        ["doctor", "--kit", &kit.display().to_string(), "--state", &state.display().to_string()];
    net.place.ask(&[&words, more].concat())
}

/// The outcome of each check, by its code.
fn outcomes(answer: &Answer) -> BTreeMap<String, String> {
    let findings = answer.envelope["data"]["findings"].as_array().expect("findings").clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    findings.iter().map(|one| (text(&one["code"]), text(&one["outcome"]))).collect()
}

fn failed(answer: &Answer) -> Vec<String> {
    let all = outcomes(answer).into_iter();
    all.filter(|(_, outcome)| outcome == "fail").map(|(code, _)| code).collect()
}

#[test]
fn k_01_a_site_is_examined_as_far_as_its_parents_greeting_and_nothing_changes() {
    let mut net = Sites::provisioned();
    for name in ["server", "relay-a"] {
        net.start(name);
    }
    net.wait_ready("server", "server");
    net.wait_ready("relay-a", "relay-a");
    let before = entries(net.place.dir());
    let answer = doctor(&net, "site-1", &[]);
    assert_eq!(answer.exit, 0, "{answer:#?}");
    let outcomes = outcomes(&answer);
    for code in [
        "KIT_FILES",
        "DOC_CLOCK",
        "DOC_REACH",
        "DOC_HANDSHAKE",
        "DOC_HELLO",
        "DOC_MTU",
        "DOC_STATE",
    ] {
        assert_eq!(outcomes[code], "ok", "{code}: {outcomes:#?}");
    }
    let findings = answer.envelope["data"]["findings"].as_array().expect("findings");
    let clock = findings.iter().find(|one| one["code"] == "DOC_CLOCK").expect("it is examined");
    let said = clock["found"].as_str().expect("a text");
    assert!(said.starts_with("the parent's clock is ") && said.contains("(± "), "{said}");
    let peers = net.ask("relay-a", &["peers"]).data();
    assert!(!peers.to_string().contains("site-1"), "nothing is registered: {peers}");
    let kept: Vec<_> = entries(net.place.dir());
    let own = |all: &[crate::driver::Entry]| -> Vec<_> {
        let at = net.dir("site-1");
        all.iter()
            .filter(|entry| entry.path.starts_with(&at))
            .map(|entry| entry.path.clone())
            .collect()
    };
    assert_eq!(own(&kept), own(&before), "k_01: nothing was made");
    // A cell that runs is examined as it is, and goes on.
    net.start("site-1");
    net.wait_ready("site-1", "relay-a.site-1");
    assert_eq!(doctor(&net, "site-1", &[]).exit, 0);
    assert_eq!(doctor(&net, "relay-a", &[]).exit, 0, "its port is its own");
    assert_eq!(net.ask("site-1", &["ping", "server", "--count", "1"]).exit, 0);
}

#[test]
fn k_02_each_thing_on_the_way_to_a_parent_has_its_own_code() {
    let mut net = Sites::provisioned();
    let answer = doctor(&net, "site-2", &[]);
    assert_eq!(
        (answer.refusal(), failed(&answer)),
        ((1, "CHECK_FAILED"), vec!["DOC_REACH".to_owned()])
    );
    assert_eq!(doctor(&net, "site-2", &["--offline"]).exit, 0);

    // Another project whose kits name the same addresses.
    let other = Sites::provisioned();
    let text = fs::read_to_string(&net.project).expect("it is ours");
    fs::write(
        &other.project,
        text.replace("[[admin]]\nname = \"alice\"", "[[admin]]\nname = \"eve\""),
    )
    .expect("ours");
    other.provision(&[]).data();
    let newest = other.place.dir().join("fed/kits-0002/updates/site-2").display().to_string();
    let kit = other.kit("site-2").display().to_string();
    other.place.ask(&["kit", "update", &kit, "--from", &newest]).data();
    net.start("server");
    net.wait_ready("server", "server");
    let answer = doctor(&other, "site-2", &[]);
    assert_eq!(failed(&answer), ["DOC_HANDSHAKE"], "{answer:#?}");

    // A cell of which its parent does not know.
    let text =
        format!("{text}[[cell]]\nname = \"site-3\"\nkind = \"client\"\nparent = \"server\"\n");
    fs::write(&net.project, text).expect("it is ours");
    net.provision(&["add", "site-3"]).data();
    net.hand_over("kits-0002", "site-3");
    let answer = doctor(&net, "site-3", &[]);
    assert_eq!(failed(&answer), ["DOC_HELLO"], "{answer:#?}");
}

#[test]
fn k_02_k_05_a_port_that_is_taken_and_a_kit_that_was_changed_are_found_before_the_start() {
    let net = Sites::provisioned();
    let text = fs::read_to_string(&net.project).expect("it is ours");
    let listen = text.split("listen = \"").nth(1).and_then(|rest| rest.split('"').next());
    let held = UdpSocket::bind(listen.expect("the server listens")).expect("it is free");
    assert_eq!(failed(&doctor(&net, "server", &[])), ["DOC_PORT"]);
    drop(held);
    assert_eq!(doctor(&net, "server", &[]).exit, 0);

    fs::write(net.kit("server").join("startup/roster.json"), "{}").expect("it is ours");
    let examined = doctor(&net, "server", &[]);
    assert_eq!(failed(&examined), ["KIT_FILES"]);
    let up = net.up("server");
    let refused = net.place.ask(&up.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(refused.refusal(), (4, "KIT"));
    assert!(refused.message().contains("KIT_FILES"), "k_05: the same code: {refused:#?}");
    let explained = net.place.ask(&["errors", "explain", "KIT_FILES"]).data();
    assert_eq!(explained["source"], "check");
}

#[test]
fn k_03_a_bundle_for_somebody_else_holds_no_secret_and_says_the_same() {
    let net = Sites::provisioned();
    fs::write(net.kit("site-1").join("local/limits.toml"), "[limits]\nhops_max = 99\n")
        .expect("it is ours");
    let found = doctor(&net, "site-1", &["--offline", "--bundle", "bundle.json"]);
    assert_eq!(failed(&found), ["KIT_LOCAL"]);
    let text = fs::read_to_string(net.place.dir().join("bundle.json")).expect("it was written");
    let key = fs::read_to_string(net.kit("site-1").join("startup/cell.key")).expect("it is ours");
    for line in key.lines() {
        assert!(!text.contains(line), "{line}");
    }
    let read = net.place.ask(&["doctor", "--from", "bundle.json"]);
    assert_eq!(failed(&read), ["KIT_LOCAL"]);
    assert_eq!(read.envelope["data"]["findings"], found.envelope["data"]["findings"]);
    assert!(text.contains("cell://study/client/site-1?org=st-mary"));
    for words in
        [&["doctor"][..], &["doctor", "--kit", "x", "--from", "y"], &["doctor", "--topology", "x"]]
    {
        assert_eq!(net.place.ask(words).refusal(), (4, "USAGE"), "{words:?}");
    }
    net.place.write("nonsense.json", "{}");
    assert_eq!(net.place.ask(&["doctor", "--from", "nonsense.json"]).refusal(), (4, "INPUT"));
}

#[test]
fn a_cell_of_a_topology_file_is_examined_too() {
    let net = Sites::provisioned();
    let (file, state) =
        (net.kit("server").join("startup/topology.toml"), net.dir("server").join("state"));
    let file = file.display().to_string();
    let words = [
        "doctor",
        "--topology",
        &file,
        "--only",
        "server",
        "--state",
        &state.display().to_string(),
    ];
    let answer = net.place.ask(&words);
    assert_eq!(failed(&answer), ["KIT_CREDENTIALS"], "{answer:#?}");
    let credentials = state.join("server/credentials");
    fs::create_dir_all(&credentials).expect("it is ours");
    for name in ["root.crt", "cell.crt", "cell.key"] {
        fs::copy(net.kit("server").join("startup").join(name), credentials.join(name))
            .expect("it is ours");
    }
    for dir in [&state, &state.join("server"), &credentials] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("it is ours");
    }
    assert_eq!(net.place.ask(&words).exit, 0);
}
