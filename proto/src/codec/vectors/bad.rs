//! Streams that nobody may read, each with the code that it is refused with.

use serde_json::json;

use super::{Vector, encode_all};
use crate::{
    codec::{Frame, FrameLimits, body, types},
    status::Status::{self, BadFrame, TooLarge},
};

mod header;

pub(super) struct Stream {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) limits: Limits,
    pub(super) bytes: Vec<u8>,
    /// Frames that are read before the stream is given up.
    pub(super) frames: usize,
    pub(super) code: Status,
}

#[derive(Clone, Copy)]
pub(super) enum Limits {
    Default,
    BeforeHello,
}

impl Limits {
    pub(super) fn limits(self) -> FrameLimits {
        match self {
            Self::Default => FrameLimits::default(),
            Self::BeforeHello => FrameLimits::BEFORE_HELLO,
        }
    }
}

impl Stream {
    pub(super) fn vector(&self) -> Vector {
        let limits = match self.limits {
            Limits::Default => "default",
            Limits::BeforeHello => "before-hello",
        };
        let json = json!({
            "about": self.about,
            "limits": limits,
            "frames": self.frames,
            "code": self.code.code(),
        });
        Vector { name: self.name.to_owned(), bytes: self.bytes.clone(), json }
    }
}

type Case = (&'static str, &'static str, Vec<u8>, Status);

fn make(limits: Limits) -> impl Fn(Case) -> Stream {
    move |(name, about, bytes, code)| Stream { name, about, limits, bytes, frames: 0, code }
}

/// Answers to HELLO whose last field is not as it must be.
pub(super) fn clocks() -> Vec<Stream> {
    // The eight fields of a good one, and what follows them.
    let ok = |fields: u8, more: &[u8]| {
        let good = body::encode(&super::good::hello_ok());
        let kept = if fields < 8 { good.len() - 3 } else { good.len() };
        let body = [&[0x90 | fields], &good[1..kept], more].concat();
        [&prefix(types::HELLO_OK, u16::try_from(body.len()).unwrap(), 0), &body[..]].concat()
    };
    let cases: [Case; 3] = [
        ("hello-ok-with-no-time", "nil where the time is left out", ok(9, &[0xc0]), BadFrame),
        ("hello-ok-ten-fields", "one behind the time", ok(10, &[1, 1]), BadFrame),
        ("hello-ok-seven-fields", "one too few", ok(7, &[]), BadFrame),
    ];
    cases.into_iter().map(make(Limits::Default)).collect()
}

pub(super) fn streams() -> Vec<Stream> {
    let default = [vec![prefixes()], header::cases(), vec![control()]].concat();
    let mut streams: Vec<Stream> =
        default.into_iter().flatten().map(make(Limits::Default)).collect();
    streams.extend(before_hello().into_iter().map(make(Limits::BeforeHello)));
    let beat = encode_all(&[Frame::Beat(body::Beat { number: 1 })]);
    let good_then_bad = [&beat[..], &beat, &prefix(10, 1, 0)].concat();
    let second = Stream {
        name: "bad-after-good",
        about: "two beats, then a type that does not exist",
        limits: Limits::Default,
        bytes: good_then_bad,
        frames: 2,
        code: BadFrame,
    };
    streams.push(second);
    streams.extend(conduits().into_iter().map(make(Limits::Default)));
    streams
}

fn prefix(kind: u8, header: u16, payload: u32) -> Vec<u8> {
    [&[kind], &header.to_be_bytes()[..], &payload.to_be_bytes()].concat()
}

fn prefixes() -> Vec<Case> {
    let message = types::MESSAGE;
    vec![
        ("type-zero", "no frame has this type", prefix(0, 10, 0), BadFrame),
        ("type-ten", "nor this", prefix(10, 10, 0), BadFrame),
        ("type-255", "nor this", prefix(255, 10, 0), BadFrame),
        ("no-header", "every frame has one", prefix(message, 0, 0), BadFrame),
        ("header-too-large", "one byte more than 16 KiB", prefix(message, 16_385, 0), TooLarge),
        ("header-largest-number", "65,535 bytes", prefix(message, u16::MAX, 0), TooLarge),
        (
            "payload-too-large",
            "one byte more than 1 MiB",
            prefix(message, 10, (1 << 20) + 1),
            TooLarge,
        ),
        ("payload-2-gib", "2^31 bytes", prefix(message, 10, 1 << 31), TooLarge),
        ("payload-4-gib", "2^32 - 1 bytes", prefix(message, 10, u32::MAX), TooLarge),
        ("payload-on-beat", "control frames have none", prefix(types::BEAT, 2, 1), TooLarge),
        ("payload-on-answer", "not even this one", prefix(types::ANSWER, 2, 1), TooLarge),
    ]
}

fn before_hello() -> Vec<Case> {
    vec![
        (
            "early-header-too-large",
            "one byte more than 8 KiB",
            prefix(types::HELLO, 8193, 0),
            TooLarge,
        ),
        ("early-payload", "a message with a payload", prefix(types::MESSAGE, 10, 1), TooLarge),
    ]
}

fn control() -> Vec<Case> {
    let frame = |kind: u8, body: &[u8]| {
        [&prefix(kind, u16::try_from(body.len()).unwrap(), 0), body].concat()
    };
    let hello = |features: &[u8], name: &str, nonce: usize| {
        let nonce = [&[0xc4, nonce as u8][..], &vec![0; nonce]].concat();
        let rest =
            [&header::short(name)[..], &header::short("server"), &[0x92, 3, 8], &nonce].concat();
        frame(types::HELLO, &[&[0x97, 1, 1], features, &rest].concat())
    };
    let seventeen = [&[0xdc, 0, 17][..], &[0xa1, b'f'].repeat(17)].concat();
    vec![
        ("hello-bad-name", "`Site-1`", hello(&[0x90], "Site-1", 32), BadFrame),
        ("hello-short-nonce", "31 bytes", hello(&[0x90], "site-1", 31), BadFrame),
        ("hello-seventeen-features", "one too many", hello(&seventeen, "site-1", 32), BadFrame),
        (
            "hello-features-of-4-gib",
            "an array of 2^32 - 1",
            hello(&[0xdd, 255, 255, 255, 255], "site-1", 32),
            BadFrame,
        ),
        ("hello-map", "a map", frame(types::HELLO, &[0x87]), BadFrame),
        ("hello-empty", "an empty array", frame(types::HELLO, &[0x90]), BadFrame),
        ("beat-trailing", "a byte behind the array", frame(types::BEAT, &[0x91, 1, 1]), BadFrame),
        ("beat-one-field-more", "two elements", frame(types::BEAT, &[0x92, 1, 1]), BadFrame),
        ("beat-bare", "a number and no array", frame(types::BEAT, &[1]), BadFrame),
        ("beat-long-number", "1 as uint8", frame(types::BEAT, &[0x91, 0xcc, 1]), BadFrame),
        ("beat-negative", "-1", frame(types::BEAT, &[0x91, 0xff]), BadFrame),
        ("echo-one-field-less", "three elements", frame(types::ECHO, &[0x93, 1, 1, 0]), BadFrame),
        (
            "echo-renewal-as-text",
            "a string",
            frame(types::ECHO, &[0x94, 1, 1, 0, 0xa1, b'x']),
            BadFrame,
        ),
        ("lane-frame-three", "there is no such lane", frame(types::LANE, &[0x91, 3]), BadFrame),
        ("lane-frame-256", "a lane is one byte", frame(types::LANE, &[0x91, 0xcd, 1, 0]), BadFrame),
        ("drain-as-text", "a string", frame(types::DRAIN, &[0x91, 0xa1, b'5']), BadFrame),
        (
            "answer-status-256",
            "a status is one byte",
            frame(types::ANSWER, &[0x93, 1, 0xcd, 1, 0, 0xc4, 0]),
            BadFrame,
        ),
        (
            "answer-without-body",
            "nil is no bytes",
            frame(types::ANSWER, &[0x93, 1, 0, 0xc0]),
            BadFrame,
        ),
    ]
}

fn conduits() -> Vec<Case> {
    let frame = |body: &[u8]| {
        [&prefix(types::CONDUIT, u16::try_from(body.len()).unwrap(), 0), body].concat()
    };
    vec![
        (
            "payload-on-conduit",
            "what follows is no frame's",
            prefix(types::CONDUIT, 4, 1),
            TooLarge,
        ),
        ("conduit-without-data", "two elements", frame(&[0x92, 0xc0, 0]), BadFrame),
        (
            "conduit-short-share",
            "15 bytes",
            frame(&[&[0x93, 0xc4, 15][..], &[0; 15], &[0, 0xc3]].concat()),
            BadFrame,
        ),
        (
            "conduit-priority-256",
            "a priority is one byte",
            frame(&[0x93, 0xc0, 0xcd, 1, 0, 0xc3]),
            BadFrame,
        ),
    ]
}
