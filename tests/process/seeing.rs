//! What people see of a running federation, and what they do through it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

use crate::driver::{Exit, Federation, Running, SOON, until};

/// Starts a command at a running cell, with events on its standard output.
fn at(net: &Federation, cell: &str, arguments: &[&str]) -> Running {
    let state = net.place.state();
    let state = state.to_str().expect("temporary paths are text");
    let more = ["--at", cell, "--state", state, "-o", "jsonl"];
    net.place.start(&[arguments, &more].concat())
}

/// Has `cell` answer, until what is returned is dropped.
fn serve(net: &Federation, cell: &str, arguments: &[&str]) -> Running {
    let serving = at(net, cell, &[&["serve"], arguments].concat());
    serving.out.wait_json("it serves", SOON, |line| (line["event"] == "ready").then_some(()));
    serving
}

fn cells_of(hops: &Value) -> Vec<&str> {
    let hops = hops.as_array().expect("a list of hops");
    hops.iter().filter_map(|hop| hop["cell"].as_str()).collect()
}

#[test]
fn a_ping_and_a_trace_name_every_cell_of_the_real_way() {
    let net = Federation::up();
    let pinged = net.ask("site-1", &["ping", "server", "--count", "2"]).data();
    for row in pinged["rows"].as_array().expect("rows") {
        assert!(row["rtt_us"].as_u64() > Some(0), "{row}");
        assert_eq!(cells_of(&row["hops"]), ["relay-a.site-1", "relay-a", "server"]);
        assert!(row["hops"][0]["wire_us"].as_u64() > Some(0), "it crossed a wire: {row}");
    }
    let by_base_name = net.ask("server", &["ping", "site-2", "--count", "1"]).data();
    assert_eq!(by_base_name["to"], "relay-a.site-2");

    let serving = serve(&net, "server", &["ops/report", "--count", "1"]);
    let traced = net.place.ask_cell(&["trace", "site-1", "server", "ops/report"]).data();
    assert_eq!(cells_of(&traced["hops"]), ["relay-a.site-1", "relay-a", "server"]);
    assert!(traced["hops"][1]["rule"].as_str().is_some_and(|rule| rule.contains("rule 1")));
    assert_eq!((&traced["delivered"], &traced["code"]), (&false.into(), &Value::Null));
    let delivered = net.place.ask_cell(&["trace", "site-1", "server", "ops/report", "--deliver"]);
    assert_eq!(delivered.data()["delivered"], true);
    let served = serving.exit(SOON).envelope();
    assert_eq!(served["data"]["answered"], 1, "the first one was not delivered: {served}");
}

/// What a person reads, who asks `cell` without `-o json`: standard output and standard error.
fn read(net: &Federation, arguments: &[&str]) -> String {
    let state = net.place.state();
    let state = state.to_str().expect("temporary paths are text");
    let exit = net.place.start(&[arguments, &["--state", state]].concat()).exit(2 * SOON);
    format!("{}\n{}", exit.out.join("\n"), exit.err.join("\n"))
}

fn assert_reads(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no `{part}` in:\n{said}");
    }
}

/// The first walk-through of `docs/OPERATIONS.md`.
#[test]
fn three_commands_say_which_rule_refused_a_message() {
    let deny =
        "[[deny]]\nfrom = \"site-2\"\nto = \"server\"\nchannel = \"ops\"\ntopics = [\"report\"]\n";
    let net = Federation::up_with(deny);
    let message = ["server", "ops/restart"];
    let said = read(&net, &[&["request", "--at", "site-1"], &message[..]].concat());
    let explain =
        "cellbus policy explain --at relay-a.site-1 --from relay-a.site-1 --to server ops/restart";
    let by = "TOPIC_DENIED (by relay-a.site-1)";
    assert_reads(&said, &[by, "no rule of revision 1 allows it", explain]);
    let said = read(&net, &[&["trace", "site-1"], &message[..]].concat());
    let row = "TOPIC_DENIED: no rule of revision 1 allows it";
    assert_reads(&said, &["1    relay-a.site-1  refuse", row, explain]);
    let words: Vec<&str> = explain.split(' ').skip(1).collect();
    let near =
        ["rule 1 in line ", ": allow site-* -> server ops/report", "it is about other topics"];
    assert_reads(&read(&net, &words), &[&["no rule of revision 1 allows it"], &near[..]].concat());
    let meaning = net.place.ask(&["errors", "explain", "TOPIC_DENIED"]).data();
    assert!(meaning["next"].as_str().is_some_and(|next| next.contains("[[allow]]")), "{meaning}");

    let denied = ["--from", "relay-a.site-2", "--to", "server", "ops/report"];
    let said = read(&net, &[&["policy", "explain"], &denied[..]].concat());
    assert_reads(&said, &["why        rule 2 in line ", "deny site-2 -> server ops/report"]);
    let said = read(&net, &[&["explain", "--at", "relay-a"], &denied[..]].concat());
    assert_reads(&said, &["rule      rule 2 in line "]);
}

#[test]
fn three_commands_say_that_nobody_answers() {
    let net = Federation::up();
    let said = read(&net, &["request", "server", "ops/report", "--at", "site-1"]);
    assert_reads(
        &said,
        &["NO_HANDLER (by server)", "cellbus trace relay-a.site-1 server ops/report"],
    );
    let said = read(&net, &["trace", "relay-a.site-1", "server", "ops/report"]);
    let row = "NO_HANDLER, though let in by rule 1 of revision 1";
    assert_reads(
        &said,
        &["3    server          refuse", row, "cellbus serve ops/report --at server"],
    );
    let handlers = net.ask("server", &["inspect"]).data()["handlers"].clone();
    assert!(!handlers.to_string().contains("ops"), "{handlers}");
}

#[test]
fn three_commands_say_from_which_cell_no_link_leads_on() {
    let mut net = Federation::up();
    net.kill("server");
    until("the relay knows that the server is gone", SOON, || {
        net.peer("relay-a", "server").is_none().then_some(())
    });
    let said = read(&net, &["request", "server", "ops/report", "--at", "site-1"]);
    assert_reads(
        &said,
        &["NO_ROUTE (by relay-a)", "cellbus trace relay-a.site-1 server ops/report"],
    );
    let said = read(&net, &["trace", "relay-a.site-1", "server", "ops/report"]);
    let row = "NO_ROUTE, though let in by rule 1 of revision 1";
    assert_reads(&said, &["2    relay-a         refuse", row, "cellbus routes relay-a"]);
    let said = read(&net, &["routes", "relay-a"]);
    assert_reads(&said, &["relay-a.site-1"]);
    assert!(!said.contains("server"), "the link that is missing: {said}");
}

#[test]
fn a_trace_says_where_a_way_ends_and_that_nobody_would_answer() {
    let mut net = Federation::up();
    let unanswered = net.place.ask_cell(&["trace", "site-1", "server", "ops/report"]);
    assert_eq!((unanswered.refusal(), unanswered.by()), ((1, "NO_HANDLER"), "server"));
    net.kill("server");
    until("the relay knows that the server is gone", SOON, || {
        net.peer("relay-a", "server").is_none().then_some(())
    });
    let lost = net.place.ask_cell(&["trace", "site-1", "server", "ops/report"]);
    assert_eq!((lost.refusal(), lost.by()), ((1, "NO_ROUTE"), "relay-a"), "{lost:#?}");
    assert_eq!(cells_of(&lost.envelope["data"]["hops"]), ["relay-a.site-1", "relay-a"]);
    let elsewhere = net.place.ask_cell(&["trace", "server", "relay-a", "ops/report"]);
    assert_eq!(elsewhere.refusal(), (2, "CELL_NOT_RUNNING"));
}

#[test]
fn links_and_routes_are_those_of_the_tree() {
    let net = Federation::up();
    let links = net.ask("relay-a", &["links"]).data();
    let links = links.as_array().expect("rows");
    let names: Vec<&str> = links.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for row in links {
        assert_eq!(row["org"], "study");
        assert!(row["mtu"].as_u64() >= Some(1200) && row["sent_bytes"].as_u64() > Some(0), "{row}");
        assert!(row["cert_expires_unix"].as_u64() > Some(1_700_000_000), "{row}");
        assert_eq!((&row["outbox_bytes"]["bulk"], &row["black_holes"]), (&0.into(), &0.into()));
    }
    let routes = net.ask("relay-a", &["routes"]).data();
    let next = |destination: &str| {
        let rows = routes.as_array().expect("rows");
        let row = rows.iter().find(|row| row["destination"] == destination);
        row.map(|row| row["next_hop"].clone())
    };
    assert_eq!(next("relay-a"), Some(Value::Null), "itself");
    assert_eq!(next("*"), Some("server".into()));
    assert_eq!(next("relay-a.site-1"), Some("relay-a.site-1".into()));
    assert_eq!(next("relay-a.site-1.*"), Some("relay-a.site-1".into()));
    let peers = net.ask("relay-a", &["peers"]).data();
    assert!(peers.as_array().is_some_and(|rows| rows.iter().all(|row| row["org"] == "study")));
}

#[test]
fn stats_dead_letters_and_metrics_count_what_happened() {
    let net = Federation::up();
    let serving = serve(&net, "server", &["ops/report", "--count", "3"]);
    for _ in 0..3 {
        net.ask("site-1", &["request", "server", "ops/report", "--payload", "hello"]).data();
    }
    drop(serving);
    assert_eq!(net.ask("site-1", &["request", "server", "ops/x"]).exit, 6);
    let sent = net.ask("site-1", &["send", "server", "ops/report", "--payload", "unheard"]);
    assert_eq!(sent.data()["accepted"], false);

    let stats = net.ask("site-1", &["stats"]).data();
    assert_eq!(stats["counters"]["refused"]["TOPIC_DENIED"], 1);
    let times = &stats["measured"]["request_us"];
    assert!(times["count"].as_u64() >= Some(4) && times["p50"].as_u64() > Some(0), "{times}");
    assert!(stats["event_loop"]["delay_us"]["count"].as_u64() > Some(0), "{stats}");
    let of_server = net.ask("server", &["stats"]).data();
    assert!(of_server["measured"]["handler_us"]["count"].as_u64() >= Some(3));
    assert!(of_server["measured"]["queue_us"]["count"].as_u64() >= Some(1));

    let letter = until("the publish is a dead letter", SOON, || {
        let dead = net.ask("server", &["dead-letters", "--code", "NO_HANDLER"]).data();
        dead["letters"].as_array().and_then(|letters| letters.first().cloned())
    });
    assert_eq!((&letter["target"], &letter["payload_len"]), (&"ops/report".into(), &7.into()));
    let none = net.ask("server", &["dead-letters", "--code", "LOOP"]).data();
    assert_eq!(none["letters"], Value::Array(Vec::new()));

    let metrics = net.ask("site-1", &["metrics"]).data();
    let text = metrics["text"].as_str().expect("text");
    let row = r#"cellbus_messages_refused_total{cell="relay-a.site-1",code="TOPIC_DENIED"} 1"#;
    assert!(text.lines().any(|line| line == row), "{text}");
    assert!(!text.contains("server"), "no label names another cell: {text}");
}

#[test]
fn figures_are_given_on_loopback_by_every_process() {
    let net = Federation::up_with("[metrics]\nlisten = \"127.0.0.1:0\"\n");
    for cell in Federation::CELLS {
        let address = net.of(cell).out.wait_json("figures", SOON, |line| {
            (line["event"] == "metrics").then(|| line["address"].as_str().map(str::to_owned))
        });
        let address = address.expect("an address");
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("it can wait");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers with text");
        let row = format!("cellbus_ready{{cell=\"{}\"}} 1.0", Federation::full_name(cell));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&row), "{answer}");
    }
}

#[test]
fn a_tap_shows_what_passes_a_relay_without_payloads() {
    let net = Federation::up();
    let serving = serve(&net, "server", &["ops/report"]);
    let tap = at(&net, "relay-a", &["tap", "ops/*", "--count", "3"]);
    tap.out.wait_json("it looks", SOON, |line| (line["event"] == "ready").then_some(()));
    net.ask("site-1", &["request", "server", "ops/report", "--payload", "a secret"]).data();
    assert_eq!(net.ask("site-2", &["request", "server", "ops/report"]).exit, 0);
    let tapped = tap.exit(SOON);
    assert_eq!(tapped.code, Some(0), "{tapped:?}");
    assert!(!tapped.out.join("").contains("a secret"), "{tapped:?}");
    let rows = events(&tapped, "tapped");
    let kinds: Vec<&str> = rows.iter().filter_map(|row| row["kind"].as_str()).collect();
    assert_eq!(kinds, ["request", "reply", "request"]);
    assert_eq!(rows[0]["origin"], "relay-a.site-1");
    assert_eq!((&rows[0]["from"], &rows[1]["from"]), (&"relay-a.site-1".into(), &"server".into()));
    assert_eq!((&rows[0]["payload_len"], &rows[0]["payload"]), (&8.into(), &Value::Null));
    let denied = net.ask("relay-a", &["tap", "ops/*", "--payload", "--count", "1"]);
    assert_eq!(denied.refusal(), (6, "FORBIDDEN"), "{denied:#?}");
    drop(serving);
}

#[test]
fn a_tap_shows_payloads_and_refusals_where_the_topology_allows_payloads() {
    let net = Federation::up_with("[limits]\ntap_payload = true\n");
    let tap = at(&net, "site-1", &["tap", "ops/*", "--payload", "--count", "1"]);
    tap.out.wait_json("it looks", SOON, |line| (line["event"] == "ready").then_some(()));
    assert_eq!(net.ask("site-1", &["request", "server", "ops/x", "--payload", "shown"]).exit, 6);
    let rows = events(&tap.exit(SOON), "tapped");
    assert_eq!((&rows[0]["verdict"], &rows[0]["code"]), (&"refuse".into(), &"TOPIC_DENIED".into()));
    assert_eq!(rows[0]["payload"]["utf8"], "shown");
}

#[test]
fn people_answer_and_no_responder_is_said_at_once() {
    let net = Federation::up();
    let nobody = net.ask("site-1", &["request", "server", "ops/report"]);
    assert_eq!(nobody.refusal(), (1, "NO_HANDLER"));
    assert!(nobody.took < Duration::from_secs(10), "not after the budget of 30 s: {nobody:?}");
    let nobody = net.ask("site-1", &["send", "server", "ops/report", "--receipt"]);
    assert_eq!(nobody.refusal(), (1, "NO_HANDLER"));

    let echo = serve(&net, "server", &["ops/*", "--count", "2"]);
    let taken = net.ask("server", &["serve", "ops/*", "--count", "1"]);
    assert_eq!(taken.refusal(), (1, "CONTROL_TAKEN"), "{taken:#?}");
    let mut request = vec!["request", "server", "ops/report", "--payload", "hello"];
    request.extend(["--content-type", "text/plain", "-H", "Job=7", "--retry"]);
    let reply = net.ask("site-1", &request).data();
    assert_eq!(
        (&reply["payload"]["utf8"], &reply["content_type"]),
        (&"hello".into(), &"text/plain".into())
    );
    let receipt = net.ask("site-1", &["send", "server", "ops/report", "--receipt"]).data();
    assert_eq!(receipt["accepted"], true);
    let served = echo.exit(SOON);
    let rows = events(&served, "delivery");
    assert_eq!(
        (&rows[0]["origin"], &rows[0]["headers"]),
        (&"relay-a.site-1".into(), &"Job: 7\n".into())
    );
    assert_eq!(
        (&rows[0]["expects_reply"], &rows[1]["expects_reply"]),
        (&true.into(), &false.into())
    );

    let gone = net.ask("site-1", &["request", "server", "ops/report"]);
    assert_eq!(gone.refusal(), (1, "NO_HANDLER"), "who has hung up answers nothing more");
    let failing = serve(&net, "server", &["ops/report", "--fail", "not today", "--count", "1"]);
    let failed = net.ask("site-1", &["request", "server", "ops/report", "--stream"]);
    assert_eq!(failed.refusal(), (1, "HANDLER_FAILED"));
    assert!(failed.message().contains("not today"), "{failed:#?}");
    assert_eq!(failing.exit(SOON).code, Some(0));
    let reserved = net.ask("server", &["serve", "cell/ping", "--count", "1"]);
    assert_eq!(reserved.refusal(), (6, "FORBIDDEN"));
}

#[test]
fn who_serves_and_leaves_without_an_answer_leaves_one_of_class_unknown() {
    let net = Federation::up();
    let serving = serve(&net, "server", &["ops/report", "--lines"]);
    let asking = at(&net, "site-1", &["request", "server", "ops/report"]);
    // It has no line to answer with, and ends when it is asked for one.
    let served = serving.exit(SOON);
    assert_eq!(events(&served, "delivery").len(), 1, "the message was seen");
    let answer = asking.exit(SOON).envelope();
    assert_eq!(
        (&answer["error_code"], &answer["class"]),
        (&"HANDLER_GONE".into(), &"unknown".into())
    );
}

/// The events of this name, in order.
fn events(exit: &Exit, name: &str) -> Vec<Value> {
    let lines = exit.out.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"] == name).collect()
}
