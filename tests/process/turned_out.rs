//! Who is banned or revoked is out with everything: in the middle of a transfer, and with the jobs that run there.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    driver::{Federation, Process, Running, SOON, Study, outcome, until},
    transfers::{
        AGAIN_MAX, ALLOWED, MIB, assert_same, inbox, list, random_file, text, transfer, wait_bytes,
        wait_end,
    },
};

/// Bytes of what is moved.
const SIZE: u64 = 256 * MIB;
/// What the end of a link may send: the transfer takes at least eight seconds.
const RATE: &str = "[limits]\ntransfer_rate_max_bytes_per_s = 32000000\n";
/// How long either side waits for the other.
const PATIENCE: [&str; 2] = ["--patience", "5s"];
/// Less than the time that a program has otherwise until it is forced to end.
const AT_ONCE: Duration = Duration::from_secs(4);

fn say(what: &str, took: Duration) {
    // Nobody reads it: then it was for nobody.
    let _ = writeln!(
        io::stderr(),
        "{what}: {:.2} s, with the time that commands take",
        took.as_secs_f64()
    );
}

fn receiving(net: &Federation, cell: &str, directory: &str) -> Running {
    let words = [&["receive", directory][..], &PATIENCE].concat();
    let receiving = transfer(net, cell, &words);
    receiving.out.wait_json("it receives", SOON, |line| (line["event"] == "ready").then_some(()));
    receiving
}

fn id_of(putting: &Running) -> String {
    putting.out.wait_json("its id", SOON, |line| {
        (line["step"] == "served").then(|| line["id"].as_str().expect("text").to_owned())
    })
}

/// Bans `cell` and waits until nobody has a link to it.
fn ban(net: &Federation, cell: &str) {
    let begun = Instant::now();
    net.ask("server", &["cell", "ban", cell]).data();
    until("its relay has no link to it", SOON, || {
        net.peer("relay-a", cell).is_none().then_some(())
    });
    until("it has no link", SOON, || net.peer(cell, "relay-a").is_none().then_some(()));
    say("banned", begun.elapsed());
}

/// Bytes that the receiver has of the one transfer.
fn bytes_at(net: &Federation, cell: &str) -> u64 {
    list(net, cell, &[]).iter().filter_map(|row| row["bytes"].as_u64()).sum()
}

/// Both ends have ended with a code, and of what was on its way as the links ended nothing came later.
fn assert_cut_off(had: u64, end: &Value, put: &Value, rows: &[Value]) {
    assert!((SIZE / 4..SIZE / 2).contains(&had), "{had} bytes");
    assert_eq!(
        (&end["stored"], &end["code"]),
        (&false.into(), &"TRANSFER_STALLED".into()),
        "{end}"
    );
    assert_eq!(put["error_code"], "TRANSFER_STALLED", "{put}");
    assert_eq!(put["exit_code"], 1, "{put}");
    let sent = put["data"]["sent"].as_u64().expect("a figure");
    assert!(sent <= had + AGAIN_MAX, "{sent} bytes were given out, {had} had come");
    let kept = rows[0]["bytes"].as_u64().expect("a figure");
    assert_eq!((rows.len(), &rows[0]["state"]), (1, &"interrupted".into()), "{rows:?}");
    assert!(kept <= had + AGAIN_MAX && kept + AGAIN_MAX >= had, "{kept} of {had} bytes are kept");
}

#[test]
fn p_26_a_receiver_that_is_banned_in_the_middle_gets_no_further_byte_and_goes_on_when_it_is_let_in()
{
    let net = Federation::up_with(&format!("{ALLOWED}{RATE}"));
    let (file, inbox) = (random_file(&net, "model.bin", SIZE), inbox(&net, "in"));
    let taking = receiving(&net, "site-1", text(&inbox));
    let words = [&["put", text(&file), "relay-a.site-1"][..], &PATIENCE].concat();
    let putting = transfer(&net, "server", &words);
    let id = id_of(&putting);
    wait_bytes(&taking, SIZE / 4);
    ban(&net, "site-1");
    let had = bytes_at(&net, "site-1");
    let end = wait_end(&taking);
    let put = putting.exit(2 * SOON).envelope();
    let rows = list(&net, "site-1", &[text(&inbox)]);
    assert_cut_off(had, &end, &put, &rows);
    assert!(!inbox.join("model.bin").exists(), "a part of a file is no file");

    net.ask("server", &["cell", "unban", "site-1"]).data();
    until("it is back", 2 * SOON, || net.peer("relay-a", "site-1").map(drop));
    let again = ["transfer", "put", text(&file), "relay-a.site-1", "--again", &id];
    let put = net.ask("server", &again).data();
    assert!(put["sent"].as_u64() < Some(SIZE), "what it has is not sent again: {put}");
    assert_same(&file, &inbox.join("model.bin"));
}

#[test]
fn p_26_a_sender_that_is_banned_in_the_middle_brings_no_further_byte_through_its_relay() {
    let net = Federation::up_with(&format!("{ALLOWED}{RATE}"));
    let (file, inbox) = (random_file(&net, "model.bin", SIZE), inbox(&net, "in"));
    let taking = receiving(&net, "site-2", text(&inbox));
    let words = [&["put", text(&file), "relay-a.site-2"][..], &PATIENCE].concat();
    let putting = transfer(&net, "site-1", &words);
    id_of(&putting);
    wait_bytes(&taking, SIZE / 4);
    ban(&net, "site-1");
    let had = bytes_at(&net, "site-2");
    let end = wait_end(&taking);
    let put = putting.exit(2 * SOON).envelope();
    let rows = list(&net, "site-2", &[text(&inbox)]);
    assert_cut_off(had, &end, &put, &rows);
    assert!(!inbox.join("model.bin").exists(), "a part of a file is no file");
    assert!(net.pings("site-2", "server"), "the other is let alone");
}

fn below(study: &Study, cell: &str) -> BTreeSet<Process> {
    study.cells.of(cell).descendants().into_iter().collect()
}

fn living(processes: &BTreeSet<Process>) -> usize {
    processes.iter().filter(|process| process.lives()).count()
}

/// Waits until none of `processes` lives, for less time than they would be given if they were only asked.
fn assert_gone_at_once(processes: &BTreeSet<Process>, begun: Instant) {
    until("the end of its processes", SOON, || (living(processes) == 0).then_some(()));
    say("its job cells and programs are gone", begun.elapsed());
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

fn run(study: &Study, name: &str, site: &str, sites: &str, more: &str) -> Running {
    let more = format!("sites = [{sites}]\n{more}");
    let running = study.run(&study.describe(name, "hold seconds = 1000", site, &more));
    running.out.wait_json("a running job", 2 * SOON, |line| {
        (line["event"] == "job" && line["state"] == "running").then_some(())
    });
    running
}

fn said(running: &Running, text: &str) {
    running.out.wait_json("what the program says", 2 * SOON, |line| {
        (line["event"] == "job_log" && line["text"] == text).then_some(())
    });
}

#[test]
fn p_26_the_jobs_of_a_banned_site_end_with_it_however_stubborn_and_those_of_others_go_on() {
    let study = Study::up();
    let other = run(&study, "other", "hold seconds = 1000", "\"site-2\"", "");
    let spared = below(&study, "site-2");
    let stubborn = run(&study, "mule", "stubborn", "\"site-1\"", "");
    said(&stubborn, "stubborn");
    let forks = run(&study, "hydra", "forks", "\"site-1\"", "");
    said(&forks, "forked");
    let doomed = below(&study, "site-1");
    assert!(living(&doomed) >= 5, "two job cells and what they have started: {doomed:?}");

    let begun = Instant::now();
    study.cells.ask("server", &["cell", "ban", "site-1"]).data();
    assert_gone_at_once(&doomed, begun);
    for job in [stubborn, forks] {
        let (code, ended, envelope) = outcome(&job.exit(2 * SOON));
        assert_eq!((code, ended.as_str()), (Some(1), "aborted"), "{envelope}");
        let detail = envelope["data"]["detail"].as_str().unwrap_or("");
        assert!(detail.contains("relay-a.site-1: its cell may no longer take part"), "{envelope}");
    }
    assert_eq!(living(&spared), spared.len(), "nobody else's");
    assert_eq!(study.show("other")["outcome"], Value::Null);
    until("nothing of it is left on the disk", SOON, || {
        (!study.cells.place.state().join("site-1/jobs").exists()).then_some(())
    });

    // Nothing runs there until it is let in.
    study.cells.ask("server", &["cell", "unban", "site-1"]).data();
    until("it is back", 2 * SOON, || study.cells.peer("relay-a", "site-1").map(drop));
    let again = run(&study, "mule", "hold seconds = 1000", "\"site-1\"", "");
    assert!(living(&below(&study, "site-1")) >= 2);
    drop((again, other));
}

#[test]
fn p_26_the_jobs_of_a_revoked_site_end_with_it_even_those_that_go_on_without_their_cell() {
    let study = Study::up();
    let patient = run(&study, "hermit", "stubborn-patient", "\"site-1\"", "detach_s = 600\n");
    said(&patient, "begun");
    let doomed = below(&study, "site-1");
    let authority = study.cells.place.state().join("pki/authority");
    let [cert, key] = ["root.crt", "root.key"].map(|name| authority.join(name));
    let listed = study.cells.place.dir().join("r.list");
    let signing =
        ["--project", "study", "--list", text(&listed), "--cert", text(&cert), "--key", text(&key)];
    study.cells.place.ask(&[&["cert", "revoke", "site-1"][..], &signing].concat()).data();
    let begun = Instant::now();
    study.cells.ask("server", &["trust", "push", text(&listed)]).data();
    assert_gone_at_once(&doomed, begun);
    let (_, ended, envelope) = outcome(&patient.exit(2 * SOON));
    assert_eq!(ended, "aborted", "{envelope}");
}
