//! What job code says and is let in by is in no log, however loud: attaching, sealed messages, transfers.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use cellbus_channels::{
    Bus, ChannelTopic, Delivery, Failure, Reply, from_fn,
    local::{
        connect_attached,
        files::{FileOptions, Files},
    },
    transfer::{Offer, Sink, Taken},
};
use cellbus_proto::local::Settled;

use crate::{
    driver::{Federation, PROGRAMS, SOON, Study, outcome},
    jobs_many::Forms,
    secrets::{contains, forms_of_keys},
};

const SITES: [&str; 2] = ["relay-a.site-1", "relay-a.site-2"];

/// 32 bytes that nobody else has.
fn random() -> Vec<u8> {
    let mut bytes = vec![0; 32];
    let mut source = File::open("/dev/urandom").expect("the system has random bytes");
    source.read_exact(&mut bytes).expect("they never end");
    bytes
}

fn target(topic: &str) -> ChannelTopic {
    ChannelTopic::parse("task", topic).expect("names")
}

/// The secret in a rendezvous file: docs/LOCAL_SOCKET.md, section 8.
fn secret_in(file: &Path) -> Vec<u8> {
    let bytes = fs::read(file).expect("it is ours");
    let at = bytes.windows(2).position(|two| two == [0xc4, 32]).expect("32 bytes");
    bytes[at + 2..at + 34].to_vec()
}

/// What two processes of one job say to one another: sealed and not, small and large, and a file.
async fn talk(asking: Bus, answering: Bus, word: Vec<u8>) {
    let echo = from_fn(|delivery: Delivery| async { Ok(Reply::from(delivery.payload)) });
    answering.handle(target("echo"), echo).await.expect("nobody else does");
    for len in [1, 60_000] {
        let said = word.repeat(len);
        for is_sealed in [false, true] {
            let request = asking.request(answering.name(), target("echo")).payload(said.clone());
            let request = if is_sealed { request.sealed() } else { request };
            let reply = request.send().await.expect("an echo");
            assert!(reply.payload == said, "{len} words come back, sealed: {is_sealed}");
        }
    }
    let take = |_offer: Offer| async { Ok::<_, Failure>(Taken::new(Sink::memory(8 << 20))) };
    let receiving = answering.transfers().receive(target("file"), 1, take).await;
    let _receiving = receiving.expect("nobody else does");
    let mut file = tempfile::tempfile().expect("a directory for temporary files");
    file.write_all(&word.repeat(60_000)).expect("it takes bytes");
    file.rewind().expect("it is a file");
    let options = FileOptions::new(target("file"), [answering.name()]);
    let files = Files::of(&asking).expect("it is job code's bus");
    let sending = files.send(file, options).await.expect("it is served");
    assert_eq!(sending.outcome().await[&answering.name()], Settled::Stored);
}

#[test]
fn c_07_c_13_nothing_that_lets_job_code_in_and_nothing_that_it_says_is_in_any_log() {
    let mut cells = Federation::prepare(PROGRAMS);
    cells.log = &["--log", "trace"];
    let study = Study { cells: cells.started() };
    let more = "sites = [\"site-1\", \"site-2\"]\n[budget]\nfinish_s = 300\n";
    let dir = study.describe("book", "hold seconds = 1000", "notebook rounds = 3", more);
    let running = study.run(&dir);
    running.out.wait_json("a running job", 2 * SOON, |line| {
        (line["event"] == "job" && line["state"] == "running").then_some(())
    });
    let mut secrets: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut said = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for site in SITES {
        // The first is made worthless by the second, and is a secret all the same.
        for round in ["first", "second"] {
            let answer = study.ask(&["attach", "book", "--at", site, "--for", "300"]);
            said.push(answer.envelope.to_string());
            said.extend(answer.err.iter().cloned());
            let file = PathBuf::from(answer.data()["file"].as_str().expect("a path"));
            secrets.insert(format!("{round} rendezvous at {site}"), secret_in(&file));
            files.push(file);
        }
    }
    let word = random();
    secrets.insert("what job code says".to_owned(), word.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let asking = connect_attached(&files[1]).await.expect("it is let in");
        let answering = connect_attached(&files[3]).await.expect("it is let in");
        let talked = tokio::time::timeout(4 * SOON, talk(asking, answering, word)).await;
        talked.expect("two processes talk");
    });
    assert_eq!(study.ask(&["cancel", "book"]).data()["state"], "ended");
    let exit = running.exit(4 * SOON);
    assert_ne!(outcome(&exit).1, "none", "{exit:?}");
    said.extend(exit.out.into_iter().chain(exit.err));

    let forms = Forms::of(&secrets);
    let own = &secrets["what job code says"];
    assert!(forms.found_in(format!("x{}", hex::encode(own)).as_bytes()).is_some(), "it finds one");
    let keys = forms_of_keys(&study.cells.place.state());
    let assert_silent = |whose: &str, text: &[u8]| {
        assert_eq!(forms.found_in(text), None, "{whose}");
        assert!(!keys.iter().any(|form| contains(text, form)), "{whose} has a private key");
    };
    assert_silent("what commands say", said.join("\n").as_bytes());
    for cell in Federation::CELLS {
        let running = study.cells.of(cell);
        let log = [running.err.so_far(), running.out.so_far()].concat();
        assert!(log.iter().any(|line| line.contains("TRACE")), "{cell} is at its loudest");
        assert_silent(&format!("the log of {cell}"), log.join("\n").as_bytes());
    }
    study.assert_nothing_left();
}
