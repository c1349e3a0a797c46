//! The commands about signed lists: what they write, sign, show and refuse.

use std::{fs, os::unix::fs::PermissionsExt};

use cellbus_cells::control::{BanRow, ListsReply};
use serde_json::Value;

use super::Place;

/// A root of the project `study` and its key, and those of another root.
fn keys(place: &Place) {
    const STUDY: &str = "[project]\nname = \"study\"\ndev = true\n[[cell]]\nname = \"server\"\n\
        kind = \"server\"\nlisten = \"127.0.0.1:0\"\n";
    for name in ["root", "other"] {
        let topology = cellbus_proto::topology::parse(STUDY).expect("a good topology").topology;
        let made = place.dir.path().join(name);
        cellbus_cells::node::Node::prepare(topology, made.clone()).expect("a new directory");
        for kind in ["crt", "key"] {
            let from = made.join("pki/authority").join(format!("root.{kind}"));
            fs::rename(from, place.dir.path().join(format!("{name}.{kind}"))).expect("it was made");
        }
    }
}

pub fn lists_are_signed_shown_and_given(place: &Place) {
    keys(place);
    let signed = "--list lists/r.list --cert root.crt --key root.key";
    fs::create_dir(place.dir.path().join("lists")).expect("a new directory");
    fs::set_permissions(place.dir.path().join("lists"), fs::Permissions::from_mode(0o700))
        .expect("it is ours");
    let first: Value = place.data(&format!("cert revoke site-1 --project study {signed}"));
    assert_eq!((&first["version"], &first["names"]), (&1.into(), &vec!["site-1"].into()));
    let more =
        format!("cert revoke --certificate other.crt --restore site-1 --reason hold {signed}");
    let next: Value = place.data(&more);
    assert_eq!(next["version"], 2);
    assert_eq!(next["leaves"].as_array().map(Vec::len), Some(1), "{next}");
    assert_eq!(next["names"], Value::Array(vec![]));
    let shown: Value = place.data("trust show lists/r.list");
    assert_eq!(shown["lists"][0]["list"], "revocations");
    assert_eq!(shown["lists"][0]["says"]["version"], 2);

    let roster = "--list lists/roster.list --cert root.crt --key root.key";
    let said: Value = place.data(&format!("roster sign good.toml {roster}"));
    assert_eq!(said["names"].as_array().map(Vec::len), Some(3), "{said}");
    let shown: Value = place.data("trust show lists/roster.list");
    assert_eq!(shown["lists"][0]["says"]["names"][0], "relay");

    let held: ListsReply = place.data("trust ls");
    assert_eq!((held.lists.len(), held.changed.len()), (3, 0));
    let pushed: ListsReply = place.data("trust push lists/r.list");
    assert_eq!((pushed.changed[0].from, pushed.changed[0].to), (7, 8));
    assert_eq!(place.data::<Vec<BanRow>>("cell bans").len(), 1);
    for verb in ["ban site-1 --reason floods", "unban site-1", "remove site-1"] {
        let changed: ListsReply = place.data(&format!("cell {verb}"));
        assert_eq!(changed.changed[0].list, "bans", "{verb}");
    }
    let told = String::from_utf8(place.run("cell ban site-1").stderr).expect("text");
    assert!(told.contains("warning: in force, and not written"), "{told}");
    let text = String::from_utf8(place.run("cell bans").stdout).expect("text");
    assert!(!text.contains('\u{1b}'), "what a cell says cannot drive the terminal: {text:?}");

    for (line, exit, why) in [
        ("cell ban denied", 6, "not this one"),
        ("trust show good.toml", 4, "no file of signed lists"),
        ("trust push nowhere.list", 4, "nowhere.list"),
        (&format!("cert revoke {signed}"), 4, "nothing is to be revoked"),
        (&format!("cert revoke --restore site-7 {signed}"), 4, "not on the list"),
        (&format!("cert revoke a --version 2 {signed}"), 4, "version 2 is not after 2"),
        (&format!("cert revoke a --project other {signed}"), 4, "is of project study"),
        ("cert revoke a --list lists/new.list --cert root.crt --key root.key", 4, "not there yet"),
        ("cert revoke a --list lists/r.list --cert root.crt --key other.key", 4, "does not belong"),
        (
            "cert revoke a --list lists/roster.list --cert root.crt --key root.key",
            4,
            "no well-formed",
        ),
    ] {
        let failed = place.failure(line);
        assert_eq!(failed.exit_code, exit, "{line}: {}", failed.message);
        assert!(failed.message.contains(why), "{line}: {}", failed.message);
    }
    let open = place.dir.path().join("root.key");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let failed = place.failure(&format!("cert revoke a {signed}"));
    assert!(failed.message.contains("chmod 600"), "{}", failed.message);
    let shown: Value = place.data("trust show lists/r.list");
    assert_eq!(shown["lists"][0]["says"]["version"], 2, "nothing of it has changed the list");
}
