//! The golden vectors in `tests/vectors/local`, which other implementations test themselves against.
//!
//! With `CELLBUS_WRITE_VECTORS=1` the files are written; otherwise they are compared.

use std::{fs, path::PathBuf};

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::*;
use crate::{identity::CellKind, name::ChannelTopic, status::Status};

const TO_CELL: &str = "to_cell";
const TO_JOB: &str = "to_job";

struct Vector {
    name: &'static str,
    bytes: Vec<u8>,
    json: Value,
}

fn good<F: Frame>(direction: &str, name: &'static str, frame: &F, header: Value) -> Vector {
    let mut bytes = BytesMut::new();
    encode(frame, &mut bytes).unwrap();
    let json = json!({
        "direction": direction,
        "frame": frame.name(),
        "header": header,
        "payload_hex": hex::encode(frame.payload()),
    });
    Vector { name, bytes: bytes.to_vec(), json }
}

fn secret() -> Secret {
    Secret::take(&mut std::array::from_fn(|index| index as u8))
}

fn good_to_cell() -> Vec<(Vector, ToCell)> {
    let task = || ("task".to_owned(), "fetch".to_owned());
    let payload = || Bytes::from_static(b"\x00\x01hello");
    let cases = [
        (
            "hello",
            ToCell::Hello(Hello { version_min: 1, version_max: 1, secret: secret() }),
            json!([1, 1, { "hex": hex::encode(secret().expose()) }]),
        ),
        (
            "request",
            ToCell::Request {
                id: 1,
                to: "server.job-7".into(),
                channel: task().0,
                topic: task().1,
                budget_ms: Some(30_000),
                content_type: Some("application/json".into()),
                payload: payload(),
            },
            json!([1, "server.job-7", "task", "fetch", 30000, "application/json"]),
        ),
        (
            "request-with-defaults",
            ToCell::Request {
                id: u64::MAX,
                to: "server".into(),
                channel: task().0,
                topic: task().1,
                budget_ms: None,
                content_type: None,
                payload: Bytes::new(),
            },
            json!([u64::MAX, "server", "task", "fetch", null, null]),
        ),
        (
            "publish",
            ToCell::Publish {
                id: 2,
                to: "site-1.job-7".into(),
                channel: "metrics".into(),
                topic: "round".into(),
                content_type: None,
                payload: payload(),
            },
            json!([2, "site-1.job-7", "metrics", "round", null]),
        ),
        (
            "handle-exact",
            ToCell::Handle { id: 3, channel: Some(task().0), topic: Some(task().1) },
            json!([3, "task", "fetch"]),
        ),
        (
            "handle-channel",
            ToCell::Handle { id: 4, channel: Some(task().0), topic: None },
            json!([4, "task", null]),
        ),
        (
            "handle-everything",
            ToCell::Handle { id: 5, channel: None, topic: None },
            json!([5, null, null]),
        ),
        (
            "deliver-reply",
            ToCell::DeliverReply { id: 1, content_type: None, payload: payload() },
            json!([1, null]),
        ),
        (
            "deliver-fail",
            ToCell::DeliverFail {
                id: 2,
                status: Status::HandlerFailed,
                detail: Bytes::from_static(b"no such round"),
            },
            json!([2, 115]),
        ),
        ("cancel", ToCell::Cancel { id: 300 }, json!([300])),
        ("ping", ToCell::Ping { token: 70_000 }, json!([70000])),
        ("pong", ToCell::Pong { token: 1 << 40 }, json!([1u64 << 40])),
        ("bye", ToCell::Bye { status: None }, json!([null])),
        ("bye-with-status", ToCell::Bye { status: Some(Status::BadFrame) }, json!([96])),
    ];
    cases
        .into_iter()
        .map(|(name, frame, header)| (good(TO_CELL, name, &frame, header), frame))
        .collect()
}

fn good_to_job() -> Vec<(Vector, ToJob)> {
    let by = || "relay-a".parse().unwrap();
    let payload = || Bytes::from_static(b"\xffworld");
    let cases = [
        (
            "welcome",
            ToJob::Welcome(Welcome {
                version: 1,
                cell: "relay-a.site-2.job-7".parse().unwrap(),
                job: Some("job-7".parse().unwrap()),
                limits: Limits::default(),
            }),
            json!([
                1,
                "relay-a.site-2.job-7",
                "job-7",
                [1_048_576, 256, 16_777_216, 64, 16_777_216, 256, 30_000]
            ]),
        ),
        ("reject", ToJob::Reject { status: Status::Unauthenticated }, json!([71])),
        (
            "reply",
            ToJob::Reply { id: 1, content_type: Some("text/plain".into()), payload: payload() },
            json!([1, "text/plain"]),
        ),
        (
            "return",
            ToJob::Return { id: 2, status: Status::NoRoute, by: by(), detail: Bytes::new() },
            json!([2, 1, "relay-a"]),
        ),
        (
            "return-with-detail",
            ToJob::Return {
                id: 3,
                status: Status::HandlerFailed,
                by: by(),
                detail: Bytes::from_static(b"no such round"),
            },
            json!([3, 115, "relay-a"]),
        ),
        ("accepted", ToJob::Accepted { id: 4 }, json!([4])),
        ("handled", ToJob::Handled { id: 5, outcome: Outcome::Registered }, json!([5, 0])),
        ("handled-taken", ToJob::Handled { id: 6, outcome: Outcome::Taken }, json!([6, 1])),
        (
            "deliver",
            ToJob::Deliver(Delivery {
                id: 1,
                origin: Origin {
                    name: "server.job-7".parse().unwrap(),
                    kind: CellKind::Job,
                    org: "hq".parse().unwrap(),
                    job: Some("job-7".parse().unwrap()),
                },
                target: ChannelTopic::parse("task", "train").unwrap(),
                budget_ms: 29_990,
                expects_reply: true,
                content_type: None,
                payload: payload(),
            }),
            json!([1, ["server.job-7", "job", "hq", "job-7"], "task", "train", 29990, true, null]),
        ),
        (
            "deliver-publish",
            ToJob::Deliver(Delivery {
                id: 2,
                origin: Origin {
                    name: "server".parse().unwrap(),
                    kind: CellKind::Server,
                    org: "hq".parse().unwrap(),
                    job: None,
                },
                target: ChannelTopic::parse("task", "note").unwrap(),
                budget_ms: 0,
                expects_reply: false,
                content_type: Some("text/plain".into()),
                payload: payload(),
            }),
            json!([2, ["server", "server", "hq", null], "task", "note", 0, false, "text/plain"]),
        ),
        ("cancel", ToJob::Cancel { id: 1 }, json!([1])),
        ("ping", ToJob::Ping { token: 7 }, json!([7])),
        ("pong", ToJob::Pong { token: 7 }, json!([7])),
        ("bye", ToJob::Bye { status: Some(Status::ShuttingDown) }, json!([29])),
    ];
    cases
        .into_iter()
        .map(|(name, frame, header)| (good(TO_JOB, name, &frame, header), frame))
        .collect()
}

fn bad_vectors() -> Vec<Vector> {
    let frame = |kind: u8, header: &[u8], payload: &[u8]| {
        let mut bytes = vec![kind];
        bytes.extend((header.len() as u16).to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend([header, payload].concat());
        bytes
    };
    let hello = || good_to_cell().remove(0).0.bytes;
    let cell = |name: &str| {
        good_to_cell().into_iter().find(|(v, _)| v.name == name).expect("is there").0.bytes
    };
    let job = |name: &str| {
        good_to_job().into_iter().find(|(v, _)| v.name == name).expect("is there").0.bytes
    };
    let without_last = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    let deep = [vec![0x91; 200], vec![0xc0]].concat();
    let cases: Vec<(&'static str, &str, &str, Vec<u8>, Status)> = vec![
        ("unknown-type", TO_CELL, "open", frame(0x07, &[0x90], b""), Status::BadFrame),
        ("type-zero", TO_CELL, "open", frame(0, &[0x90], b""), Status::BadFrame),
        ("wrong-direction", TO_CELL, "open", job("ping"), Status::BadFrame),
        ("header-length", TO_CELL, "open", vec![2, 0x40, 1, 0, 0, 0, 0], Status::TooLarge),
        ("payload-length", TO_CELL, "open", vec![2, 0, 1, 0, 0x10, 0, 1], Status::TooLarge),
        ("payload-4-gib", TO_CELL, "open", vec![3, 0, 1, 255, 255, 255, 255], Status::TooLarge),
        ("payload-on-cancel", TO_CELL, "open", frame(0x10, &[0x91, 1], b"x"), Status::BadFrame),
        ("detail-length", TO_CELL, "open", vec![6, 0, 3, 0, 0, 0x10, 1], Status::TooLarge),
        ("empty-header", TO_CELL, "open", frame(0x10, b"", b""), Status::BadHeader),
        ("trailing-byte", TO_CELL, "open", frame(0x10, &[0x91, 1, 0], b""), Status::BadHeader),
        ("one-field-more", TO_CELL, "open", frame(0x10, &[0x92, 1, 1], b""), Status::BadHeader),
        ("one-field-less", TO_CELL, "open", frame(4, &[0x92, 1, 0xc0], b""), Status::BadHeader),
        (
            "array-of-4-gib",
            TO_CELL,
            "open",
            frame(0x10, &[0xdd, 255, 255, 255, 255], b""),
            Status::BadHeader,
        ),
        (
            "text-of-4-gib",
            TO_CELL,
            "open",
            frame(4, &[0x93, 1, 0xdb, 255, 255, 255, 255], b""),
            Status::BadHeader,
        ),
        ("map-for-array", TO_CELL, "open", frame(0x10, &[0x81, 1, 1], b""), Status::BadHeader),
        ("negative-id", TO_CELL, "open", frame(0x10, &[0x91, 0xff], b""), Status::BadHeader),
        (
            "float-id",
            TO_CELL,
            "open",
            frame(0x10, &[0x91, 0xca, 0, 0, 0, 0], b""),
            Status::BadHeader,
        ),
        ("nil-id", TO_CELL, "open", frame(0x10, &[0x91, 0xc0], b""), Status::BadHeader),
        ("deep-nesting", TO_CELL, "open", frame(0x10, &deep, b""), Status::BadHeader),
        (
            "text-not-utf8",
            TO_CELL,
            "open",
            frame(4, &[0x93, 1, 0xa1, 0xff, 0xc0], b""),
            Status::BadHeader,
        ),
        (
            "bin-for-text",
            TO_CELL,
            "open",
            frame(4, &[0x93, 1, 0xc4, 1, b'a', 0xc0], b""),
            Status::BadHeader,
        ),
        (
            "unknown-status",
            TO_CELL,
            "open",
            frame(6, &[0x92, 1, 0xcc, 255], b""),
            Status::BadHeader,
        ),
        (
            "status-out-of-range",
            TO_CELL,
            "open",
            frame(6, &[0x92, 1, 0xcd, 1, 1], b""),
            Status::BadHeader,
        ),
        (
            "content-type-with-newline",
            TO_CELL,
            "open",
            frame(5, &[0x92, 1, 0xa1, b'\n'], b""),
            Status::BadHeader,
        ),
        ("content-type-empty", TO_CELL, "open", frame(5, &[0x92, 1, 0xa0], b""), Status::BadHeader),
        (
            "short-secret",
            TO_CELL,
            "greeting",
            frame(1, &[0x93, 1, 1, 0xc4, 1, 0], b""),
            Status::BadHeader,
        ),
        ("ends-in-the-prefix", TO_CELL, "open", cell("cancel")[..6].to_vec(), Status::BadFrame),
        ("ends-in-the-header", TO_CELL, "open", without_last(cell("cancel")), Status::BadFrame),
        ("ends-in-the-payload", TO_CELL, "open", without_last(cell("request")), Status::BadFrame),
        ("before-hello", TO_CELL, "greeting", cell("ping"), Status::NoHello),
        ("payload-before-hello", TO_CELL, "greeting", cell("request"), Status::TooLarge),
        ("second-hello", TO_CELL, "open", hello(), Status::BadFrame),
        (
            "id-used-again",
            TO_CELL,
            "open",
            [cell("request"), cell("request")].concat(),
            Status::StaleId,
        ),
        ("id-zero", TO_CELL, "open", frame(4, &[0x93, 0, 0xc0, 0xc0], b""), Status::StaleId),
        ("answer-to-nothing", TO_CELL, "open", cell("deliver-reply"), Status::ReplyUnsolicited),
        ("job-wrong-direction", TO_JOB, "open", cell("ping"), Status::BadFrame),
        (
            "job-bad-name",
            TO_JOB,
            "open",
            frame(0x84, &[0x93, 1, 1, 0xa1, b'A'], b""),
            Status::BadHeader,
        ),
        ("job-bad-outcome", TO_JOB, "open", frame(0x86, &[0x92, 1, 6], b""), Status::BadHeader),
        (
            "job-welcome-trailing",
            TO_JOB,
            "greeting",
            with_trailing(job("welcome")),
            Status::BadHeader,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, direction, state, bytes, code)| Vector {
            name,
            bytes,
            json: json!({ "direction": direction, "state": state, "code": code.code() }),
        })
        .collect()
}

fn with_trailing(mut frame: Vec<u8>) -> Vec<u8> {
    frame.push(0xc0);
    let header = (frame.len() - PREFIX_LEN) as u16;
    frame[1..3].copy_from_slice(&header.to_be_bytes());
    frame
}

/// What a cell, or job code, in `state` makes of `bytes` followed by the end of the stream.
fn outcome(direction: &str, state: &str, mut bytes: &[u8]) -> Result<usize, Status> {
    let payload_max = if state == "open" { Limits::default().payload_max } else { 0 };
    let mut frames = 0;
    if direction == TO_JOB {
        let mut decoder = Decoder::<ToJob>::new();
        decoder.set_payload_max(payload_max);
        while decoder.decode(&mut bytes).map_err(|error| error.status())?.is_some() {
            frames += 1;
        }
        return if decoder.is_mid_frame() { Err(Status::BadFrame) } else { Ok(frames) };
    }
    let mut decoder = Decoder::<ToCell>::new();
    decoder.set_payload_max(payload_max);
    let mut side = CellSide::<(), ()>::new(Limits::default());
    while let Some(frame) = decoder.decode(&mut bytes).map_err(|error| error.status())? {
        frames += 1;
        if state == "greeting" {
            greet(frame).map_err(Violation::status)?;
        } else {
            side.handle_frame(frame).map_err(Violation::status)?;
        }
    }
    if decoder.is_mid_frame() { Err(Status::BadFrame) } else { Ok(frames) }
}

fn directory(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/local").join(kind)
}

/// Compares `vectors` with the files of a directory, which must hold nothing else.
fn compare(kind: &str, vectors: &[Vector]) {
    let directory = directory(kind);
    let mut expected = Vec::new();
    for (number, vector) in vectors.iter().enumerate() {
        let stem = format!("{:03}-{}", number + 1, vector.name);
        let json = serde_json::to_string_pretty(&vector.json).unwrap() + "\n";
        expected.push((format!("{stem}.bin"), vector.bytes.clone()));
        expected.push((format!("{stem}.json"), json.into_bytes()));
    }
    if std::env::var_os("CELLBUS_WRITE_VECTORS").is_some() {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in &expected {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    let mut found: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut names: Vec<_> = expected.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    assert_eq!(found, names);
    for (name, bytes) in expected {
        assert!(fs::read(directory.join(&name)).unwrap() == bytes, "{name} differs");
    }
}

fn bootstrap_vector() -> Vector {
    let path = "/run/cells/job-7/job.sock";
    let bootstrap = Bootstrap { path: path.into(), secret: secret() };
    let bytes = bootstrap.encode().to_vec();
    assert_eq!(Bootstrap::decode(&bytes), Ok(bootstrap));
    let header = json!([1, path, { "hex": hex::encode(secret().expose()) }]);
    Vector { name: "bootstrap", bytes, json: json!({ "direction": "bootstrap", "header": header }) }
}

#[test]
fn good_vectors_are_what_is_written_and_what_is_read() {
    let mut vectors = Vec::new();
    for (vector, frame) in good_to_cell() {
        let mut decoder = Decoder::new();
        decoder.set_payload_max(Limits::default().payload_max);
        assert_eq!(decoder.decode(&mut &vector.bytes[..]), Ok(Some(frame)), "{}", vector.name);
        vectors.push(vector);
    }
    for (vector, frame) in good_to_job() {
        let mut decoder = Decoder::new();
        decoder.set_payload_max(Limits::default().payload_max);
        assert_eq!(decoder.decode(&mut &vector.bytes[..]), Ok(Some(frame)), "{}", vector.name);
        vectors.push(vector);
    }
    vectors.push(bootstrap_vector());
    compare("good", &vectors);
}

#[test]
fn bad_vectors_give_the_code_that_stands_beside_them() {
    let vectors = bad_vectors();
    for vector in &vectors {
        let text = |key: &str| vector.json[key].as_str().expect("is a text").to_owned();
        let found = outcome(&text("direction"), &text("state"), &vector.bytes);
        assert_eq!(found.map_err(Status::code), Err(text("code").as_str()), "{}", vector.name);
    }
    compare("bad", &vectors);
}
