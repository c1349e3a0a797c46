//! The commands that show what a running cell does, and those that go on.

use std::{
    io::{Write, pipe},
    process::Stdio,
};

use cellbus_cells::control::{
    DeadLettersReply, DeliveryRow, LinkRow, MetricsReply, RequestReply, RouteRow, SendReply,
    StatsReply, TapRow, TraceReply, TransferCancelled, TransferEnds, TransferRows,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Place;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tapped {
    shown: u64,
    missed: u64,
    messages: Vec<TapRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Served {
    answered: u64,
    messages: Vec<DeliveryRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replied {
    count: u64,
    replies: Vec<RequestReply>,
}

/// Each prints its schema.
pub fn see_a_running_cell(place: &Place) {
    assert_eq!(place.data::<Vec<LinkRow>>("links relay")[0].lost_packets, 4);
    assert_eq!(place.data::<Vec<RouteRow>>("routes").len(), 3);
    assert_eq!(place.data::<StatsReply>("stats").counters.refused["TOPIC_DENIED"], 7);
    let dead: DeadLettersReply = place.data("dead-letters --code no-route -n 5");
    assert_eq!(dead.letters[0].code, "NO_ROUTE");
    assert!(place.data::<MetricsReply>("metrics").text.ends_with("# EOF\n"));
    let traced: TraceReply = place.data("trace server relay task/fetch");
    assert_eq!((traced.hops.len(), traced.delivered, traced.code), (2, false, None));
    assert!(place.data::<TraceReply>("trace server relay task/fetch --deliver").delivered);
    assert!(place.data::<SendReply>("send relay task/fetch -p x -H a=b --receipt").accepted);
    let tapped: Tapped = place.data("tap task/* --count 2");
    assert_eq!((tapped.shown, tapped.missed, tapped.messages.len()), (2, 2, 2));
    let served: Served = place.data("serve task/fetch --count 2");
    assert_eq!((served.answered, served.messages.len()), (2, 2));
    let replied: Replied = place.data("request server task/fetch --stream");
    assert_eq!((replied.count, replied.replies.len()), (3, 3));
    let put: TransferEnds = place.data("transfer put good.toml relay,relay.site-1");
    assert_eq!((put.ends.len(), put.sent), (2, Some(7)));
    let got: TransferEnds = place.data("transfer get AAAA .");
    assert_eq!(got.ends.len(), 1);
    let received: TransferEnds = place.data("transfer receive . --count 3");
    assert_eq!(received.ends.len(), 3);
    assert_eq!(place.data::<TransferEnds>("transfer resume .").ends.len(), 1);
    assert_eq!(place.data::<TransferRows>("transfer ls .").rows.len(), 2);
    let id = "0".repeat(32);
    let cancelled: TransferCancelled = place.data(&format!("transfer cancel {id}"));
    assert_eq!(cancelled.id, id);
    // `top` draws on a terminal; here is none.
    let refused = place.failure("top");
    assert_eq!((refused.exit_code, refused.error_code.as_str()), (4, "NO_TERMINAL"));
}

#[test]
fn a_watch_looks_again_and_again_until_it_has_looked_often_enough() {
    let place = Place::new();
    let run = |line: &str| {
        let output = place.run(line);
        assert!(output.status.success(), "{line}: {}", output.stderr.escape_ascii());
        String::from_utf8(output.stdout).expect("text")
    };
    for command in ["status", "cells", "peers", "links", "routes", "stats", "dead-letters"] {
        let lines = run(&format!("{command} --watch=10ms --times 2 -o jsonl"));
        let lines: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 3, "{command}: two looks and the envelope");
        assert!(lines[..2].iter().all(|line| line["event"] == "look"), "{command}");
        assert_eq!(lines[0]["data"], lines[1]["data"], "{command}");
        assert_eq!(lines[2]["data"]["looks"], 2, "{command}");
    }
    let tables = run("routes --watch=10ms --times 3");
    assert_eq!(tables.matches("DESTINATION").count(), 3, "{tables}");
    assert!(!tables.contains('\u{1b}'), "no terminal is cleared where there is none");
    let gone = place.run("status --at site-9 --watch -o jsonl");
    assert_eq!(gone.status.code(), Some(2), "{gone:?}");
}

#[test]
fn what_goes_on_is_told_as_it_comes() {
    let place = Place::new();
    let run = |line: &str| {
        let output = place.run(line);
        assert!(output.status.success(), "{line}: {}", output.stderr.escape_ascii());
        String::from_utf8(output.stdout).expect("text")
    };
    let lines = run("tap task/fetch --count 3 -o jsonl");
    let events: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(names, ["ready", "tapped", "tapped", "tapped"]);
    assert_eq!(events[4]["data"]["shown"], 3);
    assert_eq!(events[4]["data"]["messages"], Value::Array(Vec::new()), "they were told already");
    let table = run("tap task/fetch --count 2");
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("request relay.site-1#0 -> server task/fetch"), "{table}");
    assert_eq!(run("request server task/fetch --stream"), "one\ntwo\nthree\n");
    let served = run("serve task/fetch --count 2");
    assert!(served.starts_with("1 relay.site-1 task/fetch: line 1\n2 "), "{served}");

    let mut child = place
        .command(&["serve", "task/fetch", "--lines", "-o", "jsonl"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    let mut stdin = child.stdin.take().expect("it was piped");
    stdin.write_all(b"line 1\nline 2\n").expect("it reads all of it");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends with the lines");
    let last = String::from_utf8(output.stdout).expect("text");
    let last: Value = serde_json::from_str(last.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["data"]["answered"], 2);

    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let tap = place.command(&["tap", "task/fetch"]).stdout(writer).output();
    assert!(tap.expect("it ends").status.success(), "nobody reads any more");
}

#[test]
fn what_cells_say_cannot_drive_the_terminal() {
    let place = Place::new();
    let shown = String::from_utf8(place.run("dead-letters").stdout).expect("text");
    assert!(shown.contains("relay.site-1") && !shown.contains('\u{1b}'), "{shown:?}");
}
