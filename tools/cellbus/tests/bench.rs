//! `bench`, run with windows that are too short to mean anything: what is measured, and what is said.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output, Stdio},
};

use cellbus_bench::{Part, report::Report};
use serde_json::Value;
use tempfile::TempDir;

const SHORT: [&str; 6] = ["--rounds", "1", "--seconds", "0.05", "--attempts", "1"];

fn bench(dir: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cellbus"));
    command.arg("bench").args(line.split_whitespace()).args(["-o", "json"]).current_dir(dir);
    command.stdin(Stdio::null()).output().expect("the binary was built")
}

fn envelope(output: &Output) -> Value {
    let told = || String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told()))
}

fn report(dir: &TempDir, line: &str) -> Report {
    let output = bench(dir.path(), &format!("{line} {}", SHORT.join(" ")));
    let mut envelope = envelope(&output);
    assert_eq!(output.status.code(), Some(0), "{line}: {envelope}");
    assert_eq!(envelope["status"], "ok");
    serde_json::from_value(envelope["data"].take()).expect("a report")
}

fn place() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn peers(report: &Report) -> BTreeSet<(&str, &str)> {
    report.rows.iter().map(|row| (row.measure.as_str(), row.peer.as_str())).collect()
}

#[test]
fn requests_are_measured_beside_both_raw_patterns_on_every_route() {
    let place = place();
    let measures = ["rr_64_c2", "relay_rr_64_c2", "fwd_rr_64_c2"];
    let names: Vec<String> = measures.iter().map(|name| format!("--measure {name}")).collect();
    let found = report(&place, &format!("request --baseline raw {}", names.join(" ")));
    let expected = measures.map(|name| ["cellbus", "raw-rr", "raw-rrf"].map(|peer| (name, peer)));
    assert_eq!(peers(&found), expected.into_iter().flatten().collect());
    for name in measures {
        let (rate, p50) = (found.ratios[name], found.ratios[&format!("{name}_p50")]);
        assert!(rate > 0.0 && p50 > 0.0, "{name}: {rate}, {p50}");
    }
    for row in &found.rows {
        assert!(row.rate > Some(0.0) && row.p50_us <= row.p99_us && row.p99_us <= row.p999_us);
        assert!(row.peak_mib > 0.0 && row.failed == 0, "{row:?}");
        let parts: Vec<Part> = row.sides.iter().map(|side| side.part).collect();
        let between = match row.measure.as_str() {
            "relay_rr_64_c2" => vec![Part::Relay],
            "fwd_rr_64_c2" => vec![Part::Sink],
            _ => vec![],
        };
        assert_eq!(parts, [vec![Part::Server], between, vec![Part::Caller]].concat());
    }
}

#[test]
fn job_code_is_measured_through_its_socket_and_its_cell() {
    let found = report(&place(), "request --baseline raw --measure job_rr_64_c2");
    let expected = ["cellbus", "raw-rr", "raw-rrf"].map(|peer| ("job_rr_64_c2", peer));
    assert_eq!(peers(&found), BTreeSet::from(expected));
    assert!(found.ratios["job_rr_64_c2"] > 0.0 && found.ratios["job_rr_64_c2_p50"] > 0.0);
    for row in &found.rows {
        let parts: Vec<Part> = row.sides.iter().map(|side| side.part).collect();
        assert_eq!(parts, [Part::Server, Part::JobCell, Part::Caller], "{row:?}");
        assert!(row.rate > Some(0.0) && row.failed == 0, "{row:?}");
    }
}

#[test]
fn cost_is_held_against_the_least_of_its_series() {
    let line =
        "request --measure rr_64_c10 --measure rr_64_c20 --measure rr_64_c10_k3 --baseline raw";
    let found = report(&place(), line);
    let many: Vec<_> = found.rows.iter().filter(|row| row.measure == "rr_64_c10_k3").collect();
    assert_eq!(many.len(), 1, "plain QUIC has no cells that say nothing");
    assert!(many.iter().all(|row| row.sides.len() == 3 && row.failed == 0), "{many:?}");
    // The kernel counts in hundredths of a second, which a short window may not fill.
    let counted = found
        .rows
        .iter()
        .all(|row| row.sides.iter().any(|side| side.cpu_s > 0.0 && side.part != Part::Crowd));
    for name in ["rr_64_c20_growth", "rr_64_c10_k3_growth"] {
        assert!(!counted || found.ratios[name] > 0.0, "{name}: {:?}", found.ratios);
    }
    assert!(!found.ratios.contains_key("rr_64_c10_growth"), "it is the least");
}

#[test]
fn memory_is_told_for_each_request_that_waits() {
    let found = report(&place(), "request --measure outstanding_300 --baseline raw");
    assert_eq!(peers(&found), BTreeSet::from([("outstanding_300", "cellbus")]));
    let [row] = found.rows.as_slice() else { panic!("one row: {:?}", found.rows) };
    assert_eq!((row.done, row.failed, row.rate), (300, 0, None), "{row:?}");
    assert!(row.sides.iter().all(|side| side.growth_mib.is_some()), "{row:?}");
    assert_eq!(row.kib_per_request, Some(found.memory_kib["outstanding_300"]));
}

#[test]
fn without_a_baseline_there_are_cells_and_no_ratio() {
    let found = report(&place(), "request --measure rr_64_c1");
    assert_eq!(peers(&found), BTreeSet::from([("rr_64_c1", "cellbus")]));
    assert!(found.ratios.is_empty());
}

#[test]
fn a_fan_is_measured_to_its_last_acknowledgement() {
    let found = report(&place(), "fanout --measure fan_3_64 --baseline raw");
    let expected = BTreeSet::from([("fan_3_64", "cellbus"), ("fan_3_64", "raw-rrf")]);
    assert_eq!(peers(&found), expected);
    assert!(found.ratios["fan_3_64"] > 0.0);
}

#[test]
fn objects_are_measured_on_every_route_beside_plain_streams() {
    let names =
        ["bulk_3MB_drop", "bulk_3MB_keep", "bulk_3MB_file", "relay_bulk_3MB", "fwd_bulk_3MB"];
    let asked: Vec<String> = names.iter().map(|name| format!("--measure {name}")).collect();
    let found = report(&place(), &format!("transfer --baseline raw {}", asked.join(" ")));
    let mut expected: BTreeSet<(&str, &str)> =
        names.iter().flat_map(|name| ["cellbus", "raw"].map(|peer| (*name, peer))).collect();
    expected.insert(("bulk_3MB_drop", "raw-defaults"));
    let hashed = names.iter().filter(|name| **name != "bulk_3MB_file");
    expected.extend(hashed.map(|name| (*name, "raw-digest")));
    assert_eq!(peers(&found), expected);
    for apart in ["bulk_3MB_drop_defaults", "bulk_3MB_drop_digest", "bulk_3MB_keep_digest"] {
        assert!(found.ratios[apart] > 0.0, "{apart}");
    }
    for name in names {
        assert!(found.ratios[name] > 0.0, "{name}");
    }
    assert!(found.memory_mib["transfer_growth"] < 64.0, "{:?}", found.memory_mib);
    for row in &found.rows {
        assert!(row.mb_s > Some(0.0) && row.failed == 0, "{row:?}");
        assert!(row.sides.iter().all(|side| side.growth_mib.is_some()), "{row:?}");
        assert!(row.copies.is_some_and(|copies| (copies - 1.0).abs() < 1e-9), "{row:?}");
        assert!(row.wire > Some(1.0), "datagrams have heads: {row:?}");
    }
}

#[test]
fn as_many_copies_leave_the_server_as_it_has_links_to_receivers() {
    let names = ["fan_3_2MB", "fan_3_2MB_relay", "fan_3_2MB_relay2"];
    let asked: Vec<String> = names.iter().map(|name| format!("--measure {name}")).collect();
    let found = report(&place(), &format!("fanout --baseline raw {}", asked.join(" ")));
    let cells = names.map(|name| (name, "cellbus"));
    let plain = ["fan_3_2MB", "fan_3_2MB_relay"];
    let raw = plain.into_iter().flat_map(|name| ["raw", "raw-digest"].map(|peer| (name, peer)));
    let expected = cells.into_iter().chain(raw).collect();
    assert_eq!(peers(&found), expected);
    for name in plain {
        assert!(found.ratios[&format!("{name}_digest")] > 0.0, "{name}");
    }
    for (name, links) in names.into_iter().zip([3.0, 1.0, 2.0]) {
        let copies = found.egress[&format!("{name}_server_copies")];
        assert!((copies - links).abs() < 1e-9, "{name}: {copies} for {links} links");
        assert!(found.egress[&format!("{name}_server_wire")] > links);
        assert!(found.memory_mib.contains_key(&format!("{name}_server_growth")));
    }
}

#[test]
fn publishes_are_counted_where_they_arrive() {
    let place = place();
    let line = format!("publish --measure ff_64 --baseline raw {}", SHORT.join(" "));
    let mut envelope = envelope(&bench(place.path(), &line));
    let found: Report = serde_json::from_value(envelope["data"].take()).expect("a report");
    assert_eq!(peers(&found), BTreeSet::from([("ff_64", "cellbus"), ("ff_64", "raw-rrf")]));
    for row in &found.rows {
        assert!(row.done > 0 && row.p50_us.is_none(), "{row:?}");
    }
    // A message that was lost is a claim that does not hold, and nothing else is.
    let lost = found.rows.iter().any(|row| row.failed > 0);
    assert_eq!(envelope["exit_code"], i32::from(lost), "{envelope}");
}

#[test]
fn starts_connections_and_memory_are_measured() {
    let names = ["connect", "start", "idle_3"];
    let asked: Vec<String> = names.iter().map(|name| format!("--measure {name}")).collect();
    let found = report(&place(), &format!("connect --baseline raw {}", asked.join(" ")));
    let expected = names.map(|name| ["cellbus", "raw-rr"].map(|peer| (name, peer)));
    assert_eq!(peers(&found), expected.into_iter().flatten().collect());
    for row in &found.rows {
        assert_eq!(row.kib_per_cell.is_some(), row.measure == "idle_3", "{row:?}");
        assert_eq!(row.rate.is_some(), row.measure != "idle_3", "{row:?}");
    }
    assert_eq!(found.memory_kib.keys().collect::<Vec<_>>(), ["idle_3"]);
}

#[test]
fn what_was_saved_can_be_compared_with() {
    let place = place();
    let saved = report(&place, "request --measure rr_64_c1 --save first.json");
    assert!(saved.compared.is_none());
    let again = report(&place, "request --measure rr_64_c1 --compare first.json");
    let compared = again.compared.expect("it was compared");
    assert_eq!(compared.len(), 1);
    assert_eq!(compared[0].name, "rr_64_c1 cellbus rate");
    assert_eq!(Some(compared[0].then), saved.summary[0].rate.map(|rate| rate.median));
}

#[test]
fn files_that_cannot_be_used_are_said_before_anything_is_measured() {
    let place = place();
    std::fs::write(place.path().join("odd.json"), "{\"rows\": []}").expect("a temporary file");
    for line in [
        "request --compare missing.json",
        "request --compare odd.json",
        "request --save missing/report.json",
        "request --save .",
    ] {
        let output = bench(place.path(), line);
        let envelope = envelope(&output);
        assert_eq!(output.status.code(), Some(4), "{line}: {envelope}");
        assert_eq!(envelope["error_code"], "INPUT", "{line}");
    }
    assert!(!place.path().join("missing").exists());
}

#[test]
fn the_local_socket_is_measured_beside_plain_ping_pong() {
    let place = place();
    let line = "local --rounds 2 --seconds 0.05 --attachment 8 --launches 2 --jobs 6";
    let output = bench(place.path(), line);
    let found = envelope(&output);
    assert_eq!(output.status.code(), Some(0), "{found}");
    let found: cellbus_bench::local::LocalReport =
        serde_json::from_value(found["data"].clone()).expect("a report");
    assert_eq!((found.rounds.len(), found.attachments.len(), found.payload), (2, 2, 64));
    assert!(found.ratio > 0.0 && found.rounds.iter().all(|r| r.cellbus > 0.0 && r.plain > 0.0));
    for attached in found.attachments {
        assert_eq!(attached.bytes, 8 << 20);
        assert!(attached.handed_over_ms > 0.0 && attached.taken_ms > 0.0, "{attached:?}");
    }
    // C8: what jobs have held is given back.
    let jobs = found.jobs;
    assert_eq!((jobs.first_task_ms.len(), jobs.jobs), (2, 6));
    assert!(jobs.first_task_ms.iter().all(|time| *time > 0.0), "{jobs:?}");
    assert_eq!((jobs.before.processes, jobs.after.processes), (0, 0), "{jobs:?}");
    assert!(jobs.after.descriptors <= jobs.before.descriptors, "{jobs:?}");
    assert!(jobs.after.files <= jobs.before.files, "{jobs:?}");
    assert!(jobs.after.bytes <= jobs.before.bytes, "{jobs:?}");
}
