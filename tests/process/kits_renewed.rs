//! Kits whose certificates are old: their cells renew them, and are started again with what they have renewed.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use crate::{
    driver::{Running, SOON, until},
    kits::{Sites, now_unix},
};

const DAY: u64 = 24 * 3600;
const CELLS: [(&str, &str); 4] = [
    ("server", "server"),
    ("relay-a", "relay-a"),
    ("site-1", "relay-a.site-1"),
    ("site-2", "site-2"),
];

/// When the certificate ends that a cell shows.
fn ends(net: &Sites, name: &str) -> u64 {
    let status = net.ask(name, &["status"]).data();
    status["cert_expires_unix"].as_u64().expect("a time")
}

#[test]
fn g_52_v_19_cells_renew_old_certificates_and_start_again_with_the_new_ones() {
    // Of 90 days 68 are over: whatever its share of the jitter is, each is due.
    let mut net = Sites::provisioned_ago(Duration::from_secs(68 * DAY)).started();
    let fresh = now_unix() + 80 * DAY;
    for (name, _) in CELLS {
        until("another certificate", 4 * SOON, || (ends(&net, name) > fresh).then_some(()));
        let renewed = net.dir(name).join("state").join(name).join("renewed");
        until("one pair on disk", SOON, || {
            let pairs: Vec<_> = fs::read_dir(&renewed).ok()?.filter_map(Result::ok).collect();
            let [pair] = pairs.as_slice() else { return None };
            let key = fs::metadata(pair.path().join("cell.key")).ok()?;
            assert_eq!(key.permissions().mode() & 0o777, 0o600);
            Some(())
        });
    }
    let issued = |net: &Sites| {
        let status = net.ask("server", &["status"]).data();
        status["counters"]["certificates_issued"].as_u64().expect("a number")
    };
    assert_eq!(issued(&net), 4);
    let ping = |net: &Sites| net.ask("site-1", &["ping", "server", "--count", "1"]).exit;
    assert_eq!(ping(&net), 0);

    // A kill at any moment leaves a pair that works, and nothing is asked for again.
    let before = ends(&net, "site-1");
    net.kill_and_start("site-1");
    net.wait_ready("site-1", "relay-a.site-1");
    assert_eq!(ends(&net, "site-1"), before);
    until("a ping", SOON, || (ping(&net) == 0).then_some(()));
    assert_eq!(issued(&net), 4);
    let status = net.ask("site-1", &["status"]).data();
    assert_eq!(status["cert_renewed_by"], "server");
    let due = status["cert_renewal_unix"].as_u64();
    assert!(due.is_some_and(|due| due > now_unix() + 50 * DAY), "{due:?}");

    let kit = net.kit("site-1").display().to_string();
    let said = net.ask("site-1", &["doctor", "--kit", &kit, "--offline"]).data();
    let findings = said["findings"].as_array().expect("findings");
    let dates = findings.iter().find(|one| one["code"] == "KIT_DATES").expect("it is examined");
    assert_eq!(dates["outcome"], "ok", "{dates}");
    assert!(dates["found"].to_string().contains("asks for the next one in"), "{dates}");
}

#[test]
fn k_02_where_nobody_issues_status_and_doctor_do_not_promise_another_certificate() {
    let mut net = Sites::provisioned();
    for name in ["server", "site-2"] {
        net.start(name);
        net.wait_ready(name, name);
        let status = net.ask(name, &["status"]).data();
        assert_eq!(status["cert_renewed_by"], "people", "{name}");
        assert!(status["cert_renewal_unix"].as_u64().is_some_and(|due| due > now_unix()));
        let kit = net.kit(name).display().to_string();
        let said = net.ask(name, &["doctor", "--kit", &kit, "--offline"]);
        let findings = said.envelope["data"]["findings"].as_array().expect("findings").clone();
        let dates = findings.iter().find(|one| one["code"] == "KIT_DATES").expect("examined");
        let found = dates["found"].as_str().expect("a text");
        assert!(found.contains("nothing renews it by itself"), "{found}");
    }
}

/// Everything in the directory of what a cell has renewed, hidden names too.
fn kept(net: &Sites, name: &str) -> Vec<String> {
    let renewed = net.dir(name).join("state").join(name).join("renewed");
    let Ok(entries) = fs::read_dir(renewed) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

#[test]
fn g_52_a_kill_or_a_full_disk_while_a_renewed_certificate_is_written_leaves_the_old_or_the_new() {
    let mut net = Sites::provisioned_ago(Duration::from_secs(68 * DAY));
    for name in ["server", "site-2"] {
        if name == "server" {
            net.start(name);
        } else {
            // Blocks of 512 bytes: a key fits, and a certificate with that of the issuing authority does not.
            let words = ["-o", "jsonl", "-v"].map(str::to_owned).to_vec();
            let arguments = [net.up(name), words].concat();
            let full = net.place.command_after("trap '' XFSZ; ulimit -f 2", &arguments);
            net.running.insert(name, Running::start(full));
        }
        net.wait_ready(name, name);
    }
    let old = ends(&net, "site-2");
    until("an attempt that cannot be written", 10 * SOON, || {
        let is_full = |line: &String| line.contains("the new certificate cannot be written");
        net.running["site-2"].err.so_far().iter().any(is_full).then_some(())
    });
    assert_eq!(kept(&net, "site-2"), Vec::<String>::new(), "nothing half-made");
    assert_eq!(ends(&net, "site-2"), old, "it goes on with the one that it has");
    assert_eq!(net.ask("site-2", &["ping", "server", "--count", "1"]).exit, 0);

    // With room again it is killed as soon as anything is there, whole or not.
    net.kill_and_start("site-2");
    until("something is written", 10 * SOON, || (!kept(&net, "site-2").is_empty()).then_some(()));
    net.kill_and_start("site-2");
    net.wait_ready("site-2", "site-2");
    let fresh = now_unix() + 80 * DAY;
    until("another certificate", 4 * SOON, || (ends(&net, "site-2") > fresh).then_some(()));
    until("one pair and nothing else", SOON, || {
        let left = kept(&net, "site-2");
        let is_pair = |name: &String| !name.starts_with('.');
        (left.len() == 1 && left.iter().all(is_pair)).then_some(())
    });
}
