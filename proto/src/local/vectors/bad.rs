//! Streams that every implementation refuses alike.

use serde_json::json;

use super::{super::*, TO_CELL, TO_JOB, Vector, good};
use crate::status::Status;

pub(super) fn vectors() -> Vec<Vector> {
    let frame = |kind: u8, header: &[u8], payload: &[u8]| {
        let mut bytes = vec![kind];
        bytes.extend((header.len() as u16).to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend([header, payload].concat());
        bytes
    };
    let hello = || good::to_cell().remove(0).0.bytes;
    let cell = |name: &str| {
        good::to_cell().into_iter().find(|(v, _)| v.name == name).expect("is there").0.bytes
    };
    let job = |name: &str| {
        good::to_job().into_iter().find(|(v, _)| v.name == name).expect("is there").0.bytes
    };
    let without_last = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    // PUBLISH [1, "a", "b", "c", nil, nil, [flags, nil, nil, headers]]
    let publish = |flags: u8, headers: u16| {
        let mut header = vec![0x97, 1, 0xa1, b'a', 0xa1, b'b', 0xa1, b'c', 0xc0, 0xc0];
        header.extend([0x94, 0xcc, flags, 0xc0, 0xc0, 0xc5]);
        header.extend(headers.to_be_bytes());
        header.resize(header.len() + usize::from(headers), b'x');
        header
    };
    let (flags, long_headers) = (publish(128, 0), publish(0, 4097));
    // MULTICAST [1, [names], "b", "c", true, nil, nil, nil, nil]
    let many = |names: u16, len: u8| {
        let mut header = vec![0x99, 1, 0xdc];
        header.extend(names.to_be_bytes());
        for _ in 0..names {
            header.extend([0xd9, len]);
            header.resize(header.len() + usize::from(len), b'a');
        }
        header.extend([0xa1, b'b', 0xa1, b'c', 0xc3, 0xc0, 0xc0, 0xc0, 0xc0]);
        header
    };
    let deep = [vec![0x91; 200], vec![0xc0]].concat();
    let cases: Vec<(&'static str, &str, &str, Vec<u8>, Status)> = vec![
        ("unknown-type", TO_CELL, "open", frame(0x0c, &[0x90], b""), Status::BadFrame),
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
        (
            "one-field-less",
            TO_CELL,
            "open",
            frame(4, &[0x93, 1, 0xc0, 0xc0], b""),
            Status::BadHeader,
        ),
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
            frame(4, &[0x94, 1, 0xdb, 255, 255, 255, 255], b""),
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
            frame(4, &[0x94, 1, 0xa1, 0xff, 0xc0, 0xc0], b""),
            Status::BadHeader,
        ),
        (
            "bin-for-text",
            TO_CELL,
            "open",
            frame(4, &[0x94, 1, 0xc4, 1, b'a', 0xc0, 0xc0], b""),
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
            frame(5, &[0x93, 1, 0xa1, b'\n', 0xc0], b""),
            Status::BadHeader,
        ),
        (
            "content-type-empty",
            TO_CELL,
            "open",
            frame(5, &[0x93, 1, 0xa0, 0xc0], b""),
            Status::BadHeader,
        ),
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
        ("id-zero", TO_CELL, "open", frame(4, &[0x94, 0, 0xc0, 0xc0, 0xc0], b""), Status::StaleId),
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
        ("two-payloads", TO_CELL, "open", frame(5, &[0x93, 1, 0xc0, 1], b"x"), Status::BadFrame),
        ("attached-zero", TO_CELL, "open", frame(5, &[0x93, 1, 0xc0, 0], b""), Status::BadHeader),
        (
            "attached-too-large",
            TO_CELL,
            "open",
            frame(5, &[0x93, 1, 0xc0, 0xcf, 0, 0, 0, 1, 0, 0, 0, 1], b""),
            Status::TooLarge,
        ),
        (
            "attached-before-hello",
            TO_CELL,
            "greeting",
            frame(5, &[0x93, 1, 0xc0, 1], b""),
            Status::TooLarge,
        ),
        ("part-of-nothing", TO_CELL, "open", cell("deliver-part"), Status::ReplyUnsolicited),
        ("flag-without-meaning", TO_CELL, "open", frame(3, &flags, b""), Status::BadHeader),
        ("too-many-names", TO_CELL, "open", frame(8, &many(513, 1), b""), Status::BadHeader),
        ("names-too-long", TO_CELL, "open", frame(8, &many(41, 200), b""), Status::BadHeader),
        (
            "names-of-4-gib",
            TO_CELL,
            "open",
            frame(8, &[0x99, 1, 0xdd, 255, 255, 255, 255], b""),
            Status::BadHeader,
        ),
        ("headers-too-long", TO_CELL, "open", frame(3, &long_headers, b""), Status::BadHeader),
        (
            "serve-without-a-file",
            TO_CELL,
            "open",
            frame(10, &[0x98, 1, 0xc0, 0xa1, b'a', 0xa1, b'b', 0xc0, 0xc0, 0xc0, 0xc4, 0], b""),
            Status::BadHeader,
        ),
        (
            "concurrency-zero",
            TO_CELL,
            "open",
            frame(4, &[0x94, 1, 0xc0, 0xc0, 0], b""),
            Status::BadHeader,
        ),
        (
            "job-event-without-a-cell",
            TO_JOB,
            "open",
            frame(0x8b, &[0x94, 1, 2, 0xc0, 0], b""),
            Status::BadHeader,
        ),
        (
            "job-settled-without-a-status",
            TO_JOB,
            "open",
            frame(0x8e, &[0x94, 1, 0xa1, b'a', 1, 0xc0], b""),
            Status::BadHeader,
        ),
        (
            "job-welcome-trailing",
            TO_JOB,
            "greeting",
            with_trailing(job("welcome")),
            Status::BadHeader,
        ),
        (
            "job-deliver-trace-is-nil",
            TO_JOB,
            "open",
            frame(0x87, &nil_for_a_trace(&job("deliver")), b""),
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

/// The header of a DELIVER without a trace, with a tenth field that is nil.
fn nil_for_a_trace(deliver: &[u8]) -> Vec<u8> {
    let len = usize::from(u16::from_be_bytes([deliver[1], deliver[2]]));
    let mut header = deliver[PREFIX_LEN..PREFIX_LEN + len].to_vec();
    header[0] = 0x9a;
    header.push(0xc0);
    header
}
