//! Files of any size between cells that are processes: over relays, receivers and disks that fail.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::driver::{Federation, Running, SOON, until};

pub const ALLOWED: &str =
    "[[allow]]\nfrom = \"*\"\nto = \"*\"\nchannel = \"transfer\"\ntopics = [\"file\"]\n";
/// Bytes that may cross again after a loss.
pub const AGAIN_MAX: u64 = 16 << 20;
pub const MIB: u64 = 1 << 20;

/// A file of so many bytes that nobody can shorten.
pub fn random_file(net: &Federation, name: &str, size: u64) -> PathBuf {
    let path = net.place.dir().join(name);
    let mut random = File::open("/dev/urandom").expect("the system has random bytes").take(size);
    let mut file = File::create(&path).expect("the place takes files");
    assert_eq!(std::io::copy(&mut random, &mut file).expect("there is room"), size);
    path
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

pub fn assert_same(a: &Path, b: &Path) {
    let mut files = [a, b].map(|path| File::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}")));
    let mut pieces = [vec![0; 1 << 20], vec![0; 1 << 20]];
    loop {
        let [left, right] = &mut files;
        let read = left.read(&mut pieces[0]).expect("it can be read");
        let [one, other] = &mut pieces;
        right.read_exact(&mut other[..read]).expect("both are as long");
        assert!(one[..read] == other[..read], "the bytes differ");
        if read == 0 {
            assert_eq!(right.read(other).expect("it can be read"), 0, "both are as long");
            return;
        }
    }
}

/// A directory for what is received.
pub fn inbox(net: &Federation, name: &str) -> PathBuf {
    let path = net.place.dir().join(name);
    fs::create_dir(&path).expect("it is new");
    path
}

/// Starts `transfer` at a running cell, with events on its standard output.
pub fn transfer(net: &Federation, cell: &str, arguments: &[&str]) -> Running {
    let state = net.place.state();
    let more = ["--at", cell, "--state", text(&state), "-o", "jsonl"];
    net.place.start(&[&["transfer"], arguments, &more].concat())
}

/// Has `cell` store what is offered in `directory`.
fn receive(net: &Federation, cell: &str, directory: &Path) -> Running {
    let receiving = transfer(net, cell, &["receive", text(directory)]);
    receiving.out.wait_json("it receives", SOON, |line| (line["event"] == "ready").then_some(()));
    receiving
}

/// Waits until somebody has so many bytes, as `of` tells.
pub fn wait_bytes(of: &Running, bytes: u64) {
    of.out.wait_json(&format!("{bytes} bytes"), SOON, |line| {
        (line["step"] == "progress" && line["bytes"].as_u64() >= Some(bytes)).then_some(())
    });
}

pub fn wait_end(of: &Running) -> Value {
    of.out.wait_json("the end", 4 * SOON, |line| (line["step"] == "ended").then(|| line.clone()))
}

/// The bytes that `of` told about, none of which may be told twice.
fn assert_only_forward(of: &Running) {
    let lines = of.out.so_far();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told: Vec<u64> = lines
        .filter(|line| line["step"] == "progress")
        .filter_map(|line| line["bytes"].as_u64())
        .collect();
    assert!(told.is_sorted() && !told.is_empty(), "{told:?}");
}

pub fn list(net: &Federation, cell: &str, arguments: &[&str]) -> Vec<Value> {
    let rows = net.ask(cell, &[&["transfer", "ls"], arguments].concat()).data()["rows"].clone();
    rows.as_array().expect("rows").clone()
}

#[test]
fn a_file_goes_to_two_sites_and_crosses_the_line_to_their_relay_once() {
    let net = Federation::up_with(ALLOWED);
    let file = random_file(&net, "weights.bin", 24 * MIB);
    let inboxes = ["in-1", "in-2"].map(|name| inbox(&net, name));
    let receiving = [receive(&net, "site-1", &inboxes[0]), receive(&net, "site-2", &inboxes[1])];
    let put = ["transfer", "put", text(&file), "relay-a.site-1,site-2"];
    let put = net.ask("server", &put).data();
    let ends = put["ends"].as_array().expect("ends");
    assert_eq!(ends.len(), 2, "{put}");
    for (inbox, receiving) in inboxes.iter().zip(&receiving) {
        assert_same(&file, &inbox.join("weights.bin"));
        let end = wait_end(receiving);
        assert_eq!((&end["stored"], &end["digest"]), (&true.into(), &ends[0]["digest"]));
        let names: Vec<_> = fs::read_dir(inbox).expect("it is there").collect();
        assert_eq!(names.len(), 1, "nothing is left beside it: {names:?}");
    }
    assert!(ends.iter().all(|end| end["stored"] == true && end["size"] == 24 * MIB), "{put}");
    let sent = put["sent"].as_u64().expect("a figure");
    assert!(
        (24 * MIB..30 * MIB).contains(&sent),
        "the relay gave out the same bytes twice: {sent}"
    );
    assert!(list(&net, "server", &[]).is_empty());

    // The same bytes under another name, as in a second round.
    let again = net.place.dir().join("again.bin");
    fs::copy(&file, &again).expect("a copy");
    let put = net.ask("server", &["transfer", "put", text(&again), "relay-a.site-1,site-2"]).data();
    for inbox in &inboxes {
        assert_same(&file, &inbox.join("again.bin"));
    }
    let sent = put["sent"].as_u64().expect("a figure");
    assert_eq!(sent, 0, "the relay has them");
}

#[test]
fn a_sealed_file_arrives_as_it_was() {
    let net = Federation::up_with(ALLOWED);
    let (file, inbox) = (random_file(&net, "w.bin", 3 * MIB + 1), inbox(&net, "in"));
    let receiving = receive(&net, "site-1", &inbox);
    let put = net.ask("server", &["transfer", "put", text(&file), "relay-a.site-1", "--sealed"]);
    let put = put.data();
    assert_eq!(
        (&put["ends"][0]["stored"], &put["ends"][0]["size"]),
        (&true.into(), &(3 * MIB + 1).into())
    );
    assert_same(&file, &inbox.join("w.bin"));
    // What travels is longer by the tag of every piece.
    assert!(put["sent"].as_u64() >= Some(3 * MIB + 1 + 6 * 16), "{put}");
    assert_eq!(wait_end(&receiving)["size"], 3 * MIB + 1);
}

#[test]
fn what_cannot_be_moved_is_said_with_its_reason_and_leaves_nothing() {
    let net = Federation::up_with(ALLOWED);
    let (file, inbox) = (random_file(&net, "w.bin", MIB), inbox(&net, "in"));
    let put = |to: &str, more: &[&str]| {
        let words = ["transfer", "put", text(&file), to, "--wait", "1s"];
        net.ask("server", &[&words, more].concat())
    };
    let refused = put("nobody", &[]);
    assert_eq!(refused.refusal(), (1, "NO_ROUTE"));
    assert!(refused.message().contains("no cell `nobody`"), "{refused:?}");
    assert_eq!(put("relay-a.site-1", &[]).refusal(), (1, "NO_HANDLER"));
    let denied = put("relay-a.site-1", &["--on", "transfer/other"]);
    assert_eq!(denied.refusal(), (6, "TOPIC_DENIED"), "{denied:?}");
    let missing = net.ask("server", &["transfer", "put", "missing.bin", "relay-a.site-1"]);
    assert_eq!(missing.refusal(), (4, "INPUT"));

    // Nothing takes the place of a file unless somebody has said so.
    fs::write(inbox.join("w.bin"), "mine").expect("the place takes files");
    let receiving = receive(&net, "site-1", &inbox);
    assert_eq!(put("relay-a.site-1", &[]).refusal(), (6, "FORBIDDEN"));
    receiving.out.wait_json("a refusal", SOON, |line| (line["step"] == "refused").then_some(()));
    assert_eq!(fs::read(inbox.join("w.bin")).expect("it is there"), b"mine");

    let reference = |more: &[&str]| {
        let words = ["put", text(&file), "relay-a.site-1", "--reference"];
        let serving = transfer(&net, "server", &[&words, more].concat());
        let reference = serving
            .out
            .wait_json("a reference", SOON, |line| line["reference"].as_str().map(str::to_owned));
        (serving, reference)
    };
    let get = |cell: &str, reference: &str| {
        let words = ["transfer", "get", reference, text(&inbox), "--name", "got.bin"];
        net.ask(cell, &words)
    };
    let (_serving, for_one) = reference(&[]);
    assert_eq!(get("site-2", &for_one).refusal(), (6, "FORBIDDEN"));
    assert_eq!(get("site-1", "bm90aGluZw==").refusal(), (4, "CONTROL_BAD_REQUEST"));
    let (expiring, short) = reference(&["--lifetime", "1s"]);
    assert_eq!(expiring.exit(SOON).envelope()["error_code"], "TRANSFER_EXPIRED");
    assert_eq!(get("site-1", &short).refusal(), (1, "TRANSFER_EXPIRED"));
    assert!(!inbox.join("got.bin").exists());
    assert_eq!(get("site-1", &for_one).exit, 0);
    assert_same(&file, &inbox.join("got.bin"));
    let none = net.ask("server", &["transfer", "cancel", &"0".repeat(32)]);
    assert_eq!(none.refusal(), (1, "TRANSFER_UNKNOWN"));
}

#[test]
fn f_36_a_relay_that_is_killed_at_half_costs_no_more_than_16_mib_and_no_byte_twice() {
    let mut net = Federation::up_with(ALLOWED);
    let size = 256 * MIB;
    let (file, inbox) = (random_file(&net, "model.bin", size), inbox(&net, "in"));
    let receiving = receive(&net, "site-1", &inbox);
    let words = ["put", text(&file), "relay-a.site-1", "--rate", "60M", "--patience", "5m"];
    let putting = transfer(&net, "server", &words);
    wait_bytes(&receiving, size / 2);
    net.kill("relay-a");
    assert!(!inbox.join("model.bin").exists(), "half of a file is no file");
    net.start("relay-a");
    let end = wait_end(&receiving);
    assert_eq!(end["stored"], true, "{end}");
    assert_only_forward(&receiving);
    let put = putting.exit(4 * SOON);
    let data = put.envelope()["data"].clone();
    assert_eq!((put.code, &data["ends"][0]["stored"]), (Some(0), &true.into()), "{data}");
    let sent = data["sent"].as_u64().expect("a figure");
    assert!(sent > size, "the relay was killed too late to matter: {sent}");
    assert!(sent <= size + AGAIN_MAX, "{} bytes were sent again", sent - size);
    assert_eq!(data["ends"][0]["digest"], end["digest"]);
    assert_same(&file, &inbox.join("model.bin"));
}

#[test]
fn a_receiver_that_is_killed_at_half_goes_on_where_its_disk_is() {
    let mut net = Federation::up_with(ALLOWED);
    let size = 128 * MIB;
    let (file, inbox) = (random_file(&net, "model.bin", size), inbox(&net, "in"));
    let receiving = receive(&net, "site-1", &inbox);
    let words = ["put", text(&file), "relay-a.site-1", "--rate", "40M", "--wait", "5m"];
    let putting = transfer(&net, "server", &words);
    wait_bytes(&receiving, size / 2);
    net.kill("site-1");
    assert_ne!(receiving.exit(SOON).code, Some(0), "its cell is gone");
    net.start("site-1");
    net.wait_ready("site-1");
    let rows = list(&net, "site-1", &[text(&inbox)]);
    let there = rows[0]["bytes"].as_u64().expect("a figure");
    assert_eq!((rows.len(), &rows[0]["state"]), (1, &"interrupted".into()), "{rows:?}");
    assert!(there > size / 4, "{there} bytes are durable of {}", size / 2);
    let resumed = net.ask("site-1", &["transfer", "resume", text(&inbox)]).data();
    assert_eq!(resumed["ends"][0]["stored"], true, "{resumed}");
    let put = putting.exit(4 * SOON);
    let data = put.envelope()["data"].clone();
    assert_eq!(put.code, Some(0), "{data}");
    let sent = data["sent"].as_u64().expect("a figure");
    // What was on its way when the process died, and what its disk had not got.
    assert!(sent <= size + 2 * AGAIN_MAX, "{} bytes were sent again", sent - size);
    assert_same(&file, &inbox.join("model.bin"));
    assert!(list(&net, "site-1", &[text(&inbox)]).is_empty());
}

#[test]
fn whoever_gives_up_frees_both_ends_within_two_seconds() {
    let net = Federation::up_with(ALLOWED);
    let (file, inbox) = (random_file(&net, "model.bin", 64 * MIB), inbox(&net, "in"));
    let receiving = receive(&net, "site-1", &inbox);
    for by in ["server", "site-1"] {
        let words = ["put", text(&file), "relay-a.site-1", "--rate", "1M"];
        let putting = transfer(&net, "server", &words);
        let id = putting.out.wait_json("its id", SOON, |line| {
            (line["step"] == "served").then(|| line["id"].as_str().expect("text").to_owned())
        });
        until("it is fetched", SOON, || {
            list(&net, "site-1", &[])
                .iter()
                .any(|row| row["bytes"].as_u64() > Some(0))
                .then_some(())
        });
        assert_eq!(net.ask(by, &["transfer", "cancel", &id]).data()["id"], id.as_str());
        let begun = Instant::now();
        let ends = ["server", "site-1"];
        until("both are free", SOON, || {
            ends.iter().all(|cell| list(&net, cell, &[]).is_empty()).then_some(())
        });
        // Each look starts a process of its own, on a machine that may have little time.
        assert!(begun.elapsed() < Duration::from_secs(6), "{by}: {:?}", begun.elapsed());
        let put = putting.exit(SOON).envelope();
        assert_eq!(put["error_code"], "TRANSFER_CANCELLED", "{by}: {put}");
        if by == "site-1" {
            let left: Vec<_> = fs::read_dir(&inbox).expect("it is there").flatten().collect();
            assert!(left.is_empty(), "nothing of what was given up here stays: {left:?}");
        } else {
            for left in fs::read_dir(&inbox).expect("it is there").flatten() {
                assert!(left.file_name().to_string_lossy().starts_with('.'), "{left:?}");
                fs::remove_file(left.path()).expect("a part that nobody goes on with");
            }
        }
    }
    drop(receiving);
}

#[test]
fn what_a_topology_says_of_rates_and_spools_is_kept_to() {
    let limits =
        "[limits]\ntransfer_rate_max_bytes_per_s = 4000000\ntransfer_spool_max_bytes = 0\n";
    let net = Federation::up_with(&format!("{ALLOWED}{limits}"));
    let size = 6 * MIB;
    let file = random_file(&net, "model.bin", size);
    let inboxes = ["in-1", "in-2"].map(|name| inbox(&net, name));
    let _receiving = [receive(&net, "site-1", &inboxes[0]), receive(&net, "site-2", &inboxes[1])];
    let put = net.ask("server", &["transfer", "put", text(&file), "relay-a.site-1,site-2"]).data();
    let sent = put["sent"].as_u64().expect("a figure");
    assert_eq!(sent, 2 * size, "a relay without a spool shares nothing");
    // Both cross one link, one after the other or side by side.
    let slowest =
        put["ends"].as_array().expect("ends").iter().filter_map(|end| end["elapsed_ms"].as_u64());
    let least = Duration::from_millis(2 * size / 4000) - Duration::from_millis(500);
    assert!(slowest.max() >= Some(u64::try_from(least.as_millis()).expect("seconds")), "{put}");
    assert_same(&file, &inboxes[1].join("model.bin"));
}

/// A cell that has a file system of its own in a directory, in a mount namespace of its own.
struct SmallDisk {
    cell: Running,
    directory: PathBuf,
}

impl SmallDisk {
    /// Starts `cell` with a disk of `size` MiB, of which `taken` are taken; `None` where the system forbids that.
    fn start(
        net: &Federation,
        cell: &str,
        directory: PathBuf,
        size: u64,
        taken: u64,
    ) -> Option<Self> {
        let state = net.place.state();
        let words = format!(
            "mkdir -p -m 0700 '{0}' && mount -t tmpfs -o size={size}m,mode=0700 tmpfs '{0}' && \
             head -c {taken}M /dev/zero > '{0}/ballast'",
            text(&directory)
        );
        let up = ["up", net.file(), "--only", cell, "--state", text(&state), "-o", "jsonl"];
        let probe = net.place.command_in_namespaces("true", &["--version"]).output();
        if !probe.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let cell = Running::start(net.place.command_in_namespaces(&words, &up));
        Some(Self { cell, directory })
    }

    /// A path on the disk, as others see it.
    fn file(&self, name: &str) -> PathBuf {
        let inside = text(&self.directory).trim_start_matches('/').to_owned();
        self.cell.process().file("root").join(inside).join(name)
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.file(".")).expect("it is mounted");
        disk.f_bavail * disk.f_frsize
    }
}

#[test]
fn a_disk_that_is_full_at_90_percent_and_then_freed_goes_on() {
    let mut net = Federation::prepare(ALLOWED);
    for cell in ["server", "relay-a"] {
        net.start(cell);
    }
    let size = 40 * MIB;
    let Some(disk) = SmallDisk::start(&net, "site-1", inbox(&net, "small"), 64, 64 - 36) else {
        let _ = writeln!(std::io::stderr(), "not tested: no namespaces for this user here");
        return;
    };
    disk.cell.wait_event("ready", "relay-a.site-1");
    let file = random_file(&net, "model.bin", size);
    let state = net.place.state();
    let words = ["transfer", "receive", text(&disk.directory), "--at", "site-1"];
    let words = [&words[..], &["--state", text(&state), "-o", "jsonl"]].concat();
    let receiving = Running::start(net.place.command_beside(disk.cell.process().pid, &words));
    receiving.out.wait_json("it receives", SOON, |line| (line["event"] == "ready").then_some(()));
    let putting = transfer(&net, "server", &["put", text(&file), "relay-a.site-1"]);
    // What was not durable when the disk was full is let go of again, so the disk itself soon has some room.
    let mut before = None;
    until("the disk is full, and the receiver tries again", 2 * SOON, || {
        let rows = list(&net, "site-1", &[]);
        let bytes = rows.first().and_then(|row| row["bytes"].as_u64());
        let stands_still = bytes.is_some() && bytes == before;
        before = bytes;
        (stands_still && bytes > Some(size * 8 / 10)).then_some(())
    });
    assert!(disk.free() < 8 * MIB, "there is room for the rest");
    assert!(!disk.file("model.bin").exists());
    fs::remove_file(disk.file("ballast")).expect("it is there");
    let end = wait_end(&receiving);
    assert_eq!(end["stored"], true, "{end}");
    let put = putting.exit(4 * SOON);
    let data = put.envelope()["data"].clone();
    assert_eq!(put.code, Some(0), "{data}");
    let sent = data["sent"].as_u64().expect("a figure");
    // What was on its way when the disk was full, and what it had not made durable; once, however often is looked.
    assert!(sent <= size + 2 * AGAIN_MAX, "{} bytes were sent again", sent - size);
    assert_same(&file, &disk.file("model.bin"));
}

#[test]
fn a_relay_whose_disk_is_full_has_each_receiver_read_for_itself() {
    let mut net = Federation::prepare(ALLOWED);
    net.start("server");
    let size = 60 * MIB;
    let state = net.place.state().join("relay-a");
    let Some(disk) = SmallDisk::start(&net, "relay-a", state, 32, 12) else {
        let _ = writeln!(std::io::stderr(), "not tested: no namespaces for this user here");
        return;
    };
    disk.cell.wait_event("ready", "relay-a");
    for cell in ["site-1", "site-2"] {
        net.start(cell);
    }
    let file = random_file(&net, "model.bin", size);
    let inboxes = ["in-1", "in-2"].map(|name| inbox(&net, name));
    let _receiving = [receive(&net, "site-1", &inboxes[0]), receive(&net, "site-2", &inboxes[1])];
    let put = net.ask("server", &["transfer", "put", text(&file), "relay-a.site-1,relay-a.site-2"]);
    let put = put.data();
    for inbox in &inboxes {
        assert_same(&file, &inbox.join("model.bin"));
    }
    let sent = put["sent"].as_u64().expect("a figure");
    assert!(sent > size, "the disk has room for {sent} bytes");
    assert!(sent <= 2 * (size + AGAIN_MAX), "{} bytes were sent again", sent - 2 * size);
    assert!(disk.free() >= 12 * MIB, "what cannot be shared lies there: {}", disk.free());
}
