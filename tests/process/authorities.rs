//! A running federation goes from one authority to the next: both talk, nobody is left behind, and the first ends.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::{
    driver::{SOON, until},
    kits::Sites,
};

/// How many cells show a certificate of each authority.
fn counts(net: &Sites) -> BTreeMap<String, u64> {
    let seen = net.ask("server", &["ca", "cells"]).data();
    let rows = seen["generations"].as_array().expect("rows").clone();
    let row = |row: &Value| {
        (row["sha256"].as_str().expect("text").to_owned(), row["count"].as_u64().expect("number"))
    };
    rows.iter().map(row).collect()
}

fn talk(net: &Sites, what: &str) {
    for (from, to) in [("site-1", "site-2"), ("site-2", "relay-a.site-1"), ("relay-a", "server")] {
        let words = ["ping", to, "--count", "1", "--budget", "10s"];
        until(&format!("{what}: {from} reaches {to}"), 3 * SOON, || {
            (net.ask(from, &words).exit == 0).then_some(())
        });
    }
}

#[test]
fn v_20_two_generations_of_an_authority_talk_and_the_first_ends_when_nobody_is_left_on_it() {
    let net = Sites::provisioned().started();
    let first = net.place.ask(&["ca", "ls", "--out", "fed"]).data()[0]["sha256"].clone();
    let first = first.as_str().expect("text").to_owned();
    assert_eq!(counts(&net), BTreeMap::from([(first.clone(), 4)]));

    net.authority("prepare", Some("kits-0002"));
    for name in ["server", "relay-a", "site-1", "site-2"] {
        until("every cell believes both", SOON, || {
            let held = net.ask(name, &["trust", "ls"]).data();
            let rows = held["lists"].as_array().expect("rows").clone();
            rows.iter().any(|row| row["list"] == "roots" && row["entries"] == 2).then_some(())
        });
    }
    net.authority("activate", Some("kits-0003"));
    talk(&net, "activated");
    let taint = net.authority("taint", Some("kits-0004")).data();
    let second = taint["root_sha256"].as_str().expect("text").to_owned();
    assert_ne!(first, second);

    // The relay and one site go over, the server and the other site do not yet.
    for name in ["relay-a", "site-2"] {
        net.update("kits-0004", name);
        net.ask(name, &["reload"]).data();
    }
    let mixed = BTreeMap::from([(first.clone(), 2), (second.clone(), 2)]);
    until("two cells have gone over", 3 * SOON, || (counts(&net) == mixed).then_some(()));
    talk(&net, "two generations");
    let refused = net.authority("revoke", None);
    assert_eq!(refused.refusal(), (1, "CHECK_FAILED"));
    assert!(refused.message().contains("site-1") && refused.message().contains("server"));
    assert!(!net.place.dir().join("fed/kits-0005").exists(), "nothing was written");
    talk(&net, "refused");

    for name in ["site-1", "server"] {
        net.update("kits-0004", name);
        net.ask(name, &["reload"]).data();
    }
    let over = BTreeMap::from([(second, 4)]);
    until("all have gone over", 5 * SOON, || (counts(&net) == over).then_some(()));
    net.authority("revoke", Some("kits-0005"));
    talk(&net, "the first has ended");
    for name in ["server", "relay-a", "site-1", "site-2"] {
        until("no cell believes the first", SOON, || {
            let held = net.ask(name, &["trust", "ls"]).data();
            let rows = held["lists"].as_array().expect("rows").clone();
            rows.iter().any(|row| row["list"] == "roots" && row["entries"] == 1).then_some(())
        });
    }
    assert!(fs::metadata(net.place.dir().join("fed/kits-0002/authority/root.key.age")).is_ok());
}
