//! Parts of jobs whose program somebody else starts: who is let in, once, and what becomes of the part.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
};

use cellbus_channels::{
    Bus, ChannelTopic,
    local::{connect_attached, read_rendezvous},
};
use cellbus_proto::local::{Hello, ToCell, encode};
use serde_json::Value;
use tokio::{runtime::Runtime, sync::oneshot};

use crate::driver::{Running, SOON, Study, outcome};

const SITE: &str = "relay-a.site-1";

/// A job whose part at one site waits for a process.
fn waiting(study: &Study, server: &str) -> Running {
    let more = "sites = [\"site-1\"]\n[budget]\nfinish_s = 300\n";
    let dir = study.describe("book", server, "notebook rounds = 3", more);
    let running = study.run(&dir);
    running.out.wait_json("a running job", 2 * SOON, |line| {
        (line["event"] == "job" && line["state"] == "running").then_some(())
    });
    running
}

/// Has the part let somebody in, and gives the rendezvous file.
fn attach(study: &Study) -> PathBuf {
    let meeting = study.ask(&["attach", "book", "--at", SITE, "--for", "300"]).data();
    assert_eq!(meeting["cell"], "relay-a.site-1.book");
    meeting["file"].as_str().expect("a path").into()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn ask(bus: &Bus, topic: &str) -> Value {
    let target = ChannelTopic::parse("job", topic).expect("names");
    let reply = bus.request(bus.name(), target).send().await.expect("its own cell answers");
    serde_json::from_slice(&reply.payload).expect("an object")
}

#[test]
fn c_11_a_process_that_somebody_else_starts_is_let_in_once_and_its_goodbye_is_the_end() {
    let study = Study::up();
    let running = waiting(&study, "hold seconds = 1");
    for (at, code) in [
        ("server", "JOB_NOT_ATTACHABLE"),
        ("relay-a.site-2", "JOB_UNKNOWN"),
        ("relay-a", "JOB_UNKNOWN"),
    ] {
        assert_eq!(study.ask(&["attach", "book", "--at", at]).refusal(), (1, code), "{at}");
    }
    let file = attach(&study);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    let dir = file.parent().expect("a directory");
    assert_eq!((mode(&file), mode(dir)), (0o600, 0o700));
    let inode = |path: &Path| fs::metadata(path).map(|found| found.ino()).ok();
    let before = inode(&file);
    let first = fs::read(&file).expect("this user's");
    assert_eq!(attach(&study), file, "asked again, another secret in the same place");
    assert!(inode(&file) != before || fs::read(&file).expect("this user's") != first);

    let (tell, told) = std::sync::mpsc::channel();
    let (leave, leaves) = oneshot::channel::<()>();
    let (over, is_over) = oneshot::channel::<()>();
    let path = file.clone();
    let client = thread::spawn(move || {
        runtime().block_on(async move {
            let bus = connect_attached(&path).await.expect("it is let in");
            let answers = (ask(&bus, "parameters").await, ask(&bus, "surroundings").await);
            tell.send((bus.name(), answers)).expect("the test waits");
            // Ends with the test as well.
            let _ = leaves.await;
            drop(bus);
            let _ = is_over.await;
        });
    });
    let (name, (parameters, around)) = told.recv_timeout(2 * SOON).expect("it talks to its cell");
    assert!(!file.exists(), "read once");
    assert_eq!(name.as_str(), "relay-a.site-1.book");
    assert_eq!(parameters["rounds"], 3);
    assert_eq!(around["server_cell"], "server.book");
    assert_eq!(around["sites"], serde_json::json!(["relay-a.site-1.book"]));
    let taken = study.ask(&["attach", "book", "--at", SITE]);
    assert_eq!(taken.refusal(), (1, "JOB_ATTACHED"));
    assert!(!file.exists(), "nothing is offered while somebody is in");
    drop(leave);
    let exit = running.exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    drop(over);
    client.join().expect("it ends well");
    assert_eq!((code, ended.as_str()), (Some(0), "completed"), "{envelope}");
    assert_eq!(study.ask(&["attach", "book", "--at", SITE]).refusal(), (1, "JOB_UNKNOWN"));
    study.assert_nothing_left();
}

/// Connects as a process does that is about to be killed: without its library.
fn connect_raw(file: &Path) -> UnixStream {
    let rendezvous = read_rendezvous(file).expect("a file for this user");
    let mut socket = UnixStream::connect(&rendezvous.path).expect("somebody listens");
    let mut hello = bytes::BytesMut::new();
    encode(&ToCell::Hello(Hello::new(rendezvous.secret)), &mut hello).expect("it is small");
    socket.write_all(&hello).expect("it is read");
    let mut first = [0];
    socket.read_exact(&mut first).expect("an answer");
    assert_eq!(first, [0x81], "a welcome");
    socket
}

#[test]
fn c_12_an_attached_process_that_dies_fails_its_part_and_gets_no_second_chance() {
    let study = Study::up();
    let running = waiting(&study, "hold seconds = 1000");
    drop(connect_raw(&attach(&study)));
    let exit = running.exit(2 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), "failed"), "{envelope}");
    let detail = envelope["data"]["detail"].as_str().unwrap_or_default();
    assert_eq!(detail, "relay-a.site-1: the attached process went away without saying goodbye");
    study.assert_nothing_left();
}

#[test]
fn c_12_an_attached_process_is_cut_off_when_its_job_ends_and_is_sent_no_signal() {
    let study = Study::up();
    let running = waiting(&study, "hold seconds = 1000");
    // This very process: a signal would end the test.
    let mut socket = connect_raw(&attach(&study));
    assert_eq!(study.ask(&["cancel", "book"]).data()["outcome"], "aborted");
    let mut rest = Vec::new();
    socket.set_read_timeout(Some(SOON)).expect("a time");
    socket.read_to_end(&mut rest).expect("the end of the connection");
    let (_, ended, envelope) = outcome(&running.exit(2 * SOON));
    assert_eq!(ended, "aborted", "{envelope}");
    study.assert_nothing_left();
}
