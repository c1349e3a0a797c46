//! Neighbours that stop under a load, and rules that change under one.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use rustix::process::Signal;

use crate::driver::{Federation, Process, SOON, until};

const DOWN: &str =
    "[[allow]]\nfrom = \"server\"\nto = \"kind:client\"\nchannel = \"notes\"\ntopics = [\"all\"]\n";

/// Bytes of memory that a process has.
fn resident(process: Process) -> u64 {
    let status = std::fs::read_to_string(process.file("status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

#[test]
fn f_19_a_site_that_stops_under_a_load_costs_its_relay_little_and_the_others_nothing() {
    const MESSAGES: usize = 48;
    let net = Federation::up_with(DOWN);
    net.wait_whole();
    let part = net.place.write("part", vec![b'x'; 1 << 20]);
    let payload = format!("@{}", part.display());
    let publish = |to: &str| {
        let send = ["send", to, "notes/all", "--payload", &payload];
        net.ask("server", &send).exit
    };
    // What the first of them cost is no growth.
    assert_eq!((publish("relay-a.site-1"), publish("relay-a.site-2")), (0, 0));
    let relay = net.of("relay-a").process();
    let before = resident(relay);
    net.of("site-1").signal(Signal::STOP);
    let mut most = before;
    for _ in 0..MESSAGES {
        publish("relay-a.site-1");
        assert!(net.pings("site-2", "server"), "the others are served");
        most = most.max(resident(relay));
    }
    until("the relay has given the site up", SOON, || {
        net.peer("relay-a", "site-1").is_none().then_some(())
    });
    most = most.max(resident(relay));
    assert!(most - before < 24 << 20, "{} bytes more", most - before);
    net.of("site-1").signal(Signal::CONT);
    net.wait_whole();
    assert_eq!(net.starts_of("site-1"), 1, "it is the same process");
}

#[test]
fn f_42_files_of_garbage_under_a_load_change_nothing_and_fail_no_request() {
    let net = Federation::up();
    let state = net.place.state().display().to_string();
    let serving = net.place.start(&[
        "serve",
        "ops/report",
        "--at",
        "server",
        "--state",
        &state,
        "-o",
        "jsonl",
    ]);
    serving.out.wait_json("it serves", SOON, |line| (line["event"] == "ready").then_some(()));
    let good = std::fs::read_to_string(net.file()).expect("it is there");
    let (is_over, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let asked = net.ask("site-1", &["request", "server", "ops/report"]);
                assert_eq!(asked.exit, 0, "{asked:#?}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        for number in 0..12 {
            let garbage = match number % 4 {
                0 => "\0\u{1}[[[ =".to_owned(),
                1 => good[..good.rfind('"').expect("it has strings")].to_owned(),
                2 => good.replace("ops", "o p s"),
                _ => String::new(),
            };
            net.place.write("study.toml", garbage);
            let reload = net.place.ask_cell(&["reload", "--at", "relay-a"]);
            assert_eq!(reload.refusal(), (4, "CONFIG"), "{reload:#?}");
            net.of("server").signal(Signal::HUP);
        }
        until("requests were answered meanwhile", SOON, || {
            (answered.load(Ordering::Relaxed) >= 10).then_some(())
        });
        is_over.store(true, Ordering::Relaxed);
    });
    let explain = ["policy", "explain", "--from", "relay-a.site-1", "--to", "server", "ops/report"];
    let said = net.ask("relay-a", &explain).data();
    assert_eq!(said["revision"], 1, "the rules of the start hold: {said}");
    drop(serving);
}
