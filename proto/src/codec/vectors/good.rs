//! Streams that every implementation must read, and all but the last group write.

use std::sync::Arc;

use bytes::Bytes;

use super::{Stream, counting, encode_all, name};
use crate::{
    codec::{
        Frame, Octets,
        body::{self, Blob},
        types,
    },
    envelope::{
        Address, Common, Envelope, Extras, FanTarget, Flags, Header, HopRecord, Incarnation, Kind,
        Lane, OriginProof, TraceContext,
    },
    identity::CellKind,
    name::{ChannelTopic, Fqcn},
    status::Status,
    token::Token,
};

const CHILD: Incarnation = Incarnation { counter: 3, nonce: 0x0102_0304_0506_0708 };

/// A request from `site-1` to `server` with every field at a value of its own.
fn request() -> Envelope {
    Envelope {
        header: Header {
            kind: Kind::Request,
            sequence: 7,
            common: Arc::new(Common {
                origin: Address::exact(name("site-1"), CHILD),
                destination: Address::any(name("server")),
                target: ChannelTopic::parse("task", "fetch").unwrap(),
                token: token(80),
                lane: Lane::Interactive,
                flags: Flags::IDEMPOTENT,
            }),
            budget_ms: 30_000,
            hops_left: 16,
            extras: None,
        },
        payload: Bytes::from_static(b"hello"),
    }
}

/// Bytes that stand for a token; none of these is signed.
fn token(len: usize) -> Option<Token> {
    Token::from_bytes((0..len).map(|index| index as u8).collect::<Vec<_>>().into())
}

fn with(change: impl FnOnce(&mut Envelope)) -> Frame {
    let mut envelope = request();
    change(&mut envelope);
    Frame::Message(envelope)
}

fn with_extras(content_type: Option<&str>, trace: bool, headers: &'static [u8]) -> Frame {
    let extras = Extras {
        content_type: content_type.map(Arc::from),
        trace: trace.then(|| TraceContext(counting(0xa0))),
        headers: Bytes::from_static(headers),
        ..Extras::default()
    };
    with(|e| e.header.extras = extras.boxed())
}

fn hello(name: &str, parent: &str, features: &[&str]) -> body::Hello {
    body::Hello {
        version_min: 1,
        version_max: 1,
        features: features.iter().map(ToString::to_string).collect(),
        name: super::name(name),
        parent: super::name(parent),
        incarnation: CHILD.into(),
        nonce: Octets(counting(0x20)),
    }
}

pub(super) fn hello_ok() -> body::HelloOk {
    body::HelloOk {
        version: 1,
        name: name("relay-a"),
        kind: CellKind::Relay,
        incarnation: body::WireIncarnation(5, 0x1112_1314_1516_1718),
        challenge: body::WireChallenge {
            id: 300,
            nonce: Octets(counting(0x40)),
            server: name("server"),
            server_nonce: Octets(counting(0x60)),
        },
        payload_max: 1 << 20,
        beat_ms: 1000,
        silence_ms: 4000,
        unix_ms: None,
    }
}

/// A child that asks for the parent's time, and what it is told.
pub(super) fn clocks() -> Vec<Stream> {
    let asks = Frame::Hello(hello("site-1", "server", &[body::FEATURE_CLOCK]));
    let at = |unix_ms| Frame::HelloOk(body::HelloOk { unix_ms: Some(unix_ms), ..hello_ok() });
    vec![
        Stream::written("hello-asks-for-the-time", "the feature `clock`", vec![asks]),
        Stream::written(
            "hello-ok-with-the-time",
            "the parent's time, for whoever named the feature `clock`",
            vec![at(1_800_000_000_123)],
        ),
        Stream::written("hello-ok-at-the-end-of-time", "the largest time", vec![at(u64::MAX)]),
    ]
}

pub(super) fn conduits() -> Vec<Stream> {
    let conduit = |share: Option<[u8; 16]>, priority, data| {
        Frame::Conduit(body::Conduit { share: share.map(Octets), priority, data })
    };
    let streams: [(&str, &str, Vec<Frame>); 4] = [
        ("conduit", "a conduit that shares nothing", vec![conduit(None, 0, true)]),
        (
            "conduit-shared",
            "the first for its share, in a hurry",
            vec![conduit(Some(counting(1)), 255, true)],
        ),
        (
            "conduit-head-only",
            "a relay has the bytes already",
            vec![conduit(Some(counting(1)), 128, false)],
        ),
        (
            "conduit-then-request",
            "all that begins a conduit",
            vec![conduit(None, 0, true), with(|e| e.header.lane = Lane::Bulk)],
        ),
    ];
    streams.into_iter().map(|(name, about, frames)| Stream::written(name, about, frames)).collect()
}

pub(super) fn control() -> Vec<Stream> {
    let longest = longest_name();
    let widest = body::Hello {
        version_max: u16::MAX,
        features: vec!["x".repeat(64); body::FEATURES_MAX],
        name: longest.clone(),
        parent: longest.parent().unwrap(),
        incarnation: body::WireIncarnation(u64::MAX, u64::MAX),
        ..hello("site-1", "server", &[])
    };
    let renewal = Some(body::Blob((0..200).collect()));
    let beat = |number| Frame::Beat(body::Beat { number });
    let echo =
        |number, renewal| Frame::Echo(body::Echo { number, epoch: 1, revocations: 0, renewal });
    let answer = |status: u8, body: &[u8]| {
        Frame::Answer(body::Answer { to: 2, status, body: body::Blob(body.to_vec()) })
    };
    let streams: [(&str, &str, Vec<Frame>); 17] = [
        (
            "hello",
            "a child introduces itself",
            vec![Frame::Hello(hello("relay-a.site-2", "relay-a", &[]))],
        ),
        (
            "hello-with-features",
            "two features",
            vec![Frame::Hello(hello("site-1", "server", &["a", "b"]))],
        ),
        (
            "hello-at-its-limits",
            "16 features, the longest name, the largest numbers",
            vec![Frame::Hello(widest)],
        ),
        ("hello-ok", "a relay answers", vec![Frame::HelloOk(hello_ok())]),
        ("beat", "the first beat", vec![beat(1)]),
        (
            "beats",
            "numbers of every width",
            [2, 127, 128, 255, 256, 65_535, 65_536, u32::MAX.into(), 1 << 32, u64::MAX]
                .map(beat)
                .into(),
        ),
        ("echo", "without a renewal", vec![echo(1, None)]),
        ("echo-with-renewal", "with a new token", vec![echo(2, renewal)]),
        (
            "lane-interactive",
            "first frame of the interactive stream",
            vec![Frame::Lane(Lane::Interactive)],
        ),
        ("lane-bulk", "first frame of the bulk stream", vec![Frame::Lane(Lane::Bulk)]),
        (
            "lane-control",
            "can be read, and is out of turn on every stream",
            vec![Frame::Lane(Lane::Control)],
        ),
        (
            "drain",
            "come back in five seconds",
            vec![Frame::Drain(body::Drain { retry_after_ms: 5000 })],
        ),
        ("drain-zero", "come back at once", vec![Frame::Drain(body::Drain { retry_after_ms: 0 })]),
        ("answer-empty", "of a bye", vec![answer(0, b"")]),
        (
            "answer-with-body",
            "of a challenge",
            vec![answer(0, &body::encode(&hello_ok().challenge))],
        ),
        (
            "answer-refused",
            "the signature did not verify",
            vec![answer(Status::BadSignature as u8, b"")],
        ),
        (
            "lane-then-messages",
            "a whole interactive stream",
            vec![Frame::Lane(Lane::Interactive), with(|_| ()), with(|e| e.header.sequence = 8)],
        ),
    ];
    streams.map(|(name, about, frames)| Stream::written(name, about, frames)).into()
}

/// A message with these extras.
fn extended(extras: Extras) -> Frame {
    with(|e| e.header.extras = extras.clone().boxed())
}

fn many() -> Vec<FanTarget> {
    let to = |sequence, to: &str| FanTarget { sequence, destination: Address::any(name(to)) };
    // The first is the message's own destination and number.
    let Frame::Message(own) = with(|_| ()) else { return Vec::new() };
    let Header { sequence, common, .. } = own.header;
    let destination = Arc::clone(&common.destination);
    vec![FanTarget { sequence, destination }, to(8, "relay-a.site-7"), to(9, "relay-a.site-8")]
}

fn hops() -> Vec<HopRecord> {
    let hop = |cell, rule: &str, queue_us, wire_us| HopRecord {
        cell: name(cell),
        rule: rule.to_owned(),
        queue_us,
        wire_us,
    };
    vec![hop("relay-a.site-2", "this cell", 40, 900), hop("relay-a", "rule 3", 70_000, 0)]
}

fn signed() -> OriginProof {
    OriginProof { unix_ms: 1_700_000_000_123, signature: Blob(counting::<64>(0).to_vec()) }
}

fn fan() -> Frame {
    extended(Extras { fan: many(), ..Extras::default() })
}

fn path() -> Frame {
    extended(Extras { path: hops(), ..Extras::default() })
}

fn proof() -> Frame {
    extended(Extras { proof: Some(signed()), ..Extras::default() })
}

fn all_extensions() -> Frame {
    extended(Extras { fan: many(), path: hops(), proof: Some(signed()), ..Extras::default() })
}

pub(super) fn messages() -> Vec<Stream> {
    let kind = |kind| with(|e| e.header.kind = kind);
    let returned = |status, by: &str| Kind::Return { to: 70_000, status, by: name(by) };
    let statuses = Status::ALL.iter().map(|status| kind(returned(*status, "relay-a"))).collect();
    let everything = with(|e| {
        e.header.kind = returned(Status::HandlerFailed, "relay-a.site-2");
        e.header.extras = Extras {
            content_type: Some("text/plain".into()),
            trace: Some(TraceContext(counting(0))),
            headers: Bytes::from_static(b"\x81\xa1k\xa1v"),
            ..Extras::default()
        }
        .boxed();
    });
    let flags = Flags::from_wire(255);
    let streams: [(&str, &str, Vec<Frame>); 20] = [
        ("publish", "ten elements", vec![kind(Kind::Publish)]),
        ("request", "ten elements", vec![with(|_| ())]),
        ("reply", "eleven elements: `to`", vec![kind(Kind::Reply { to: 7 })]),
        ("return", "twelve elements: `failure`", vec![kind(returned(Status::NoRoute, "relay-a"))]),
        (
            "content-type",
            "thirteen elements, nil where nothing is said",
            vec![with_extras(Some("application/json"), false, b"")],
        ),
        ("trace", "fourteen elements", vec![with_extras(None, true, b"")]),
        ("headers", "fifteen elements", vec![with_extras(None, false, b"\x00opaque")]),
        (
            "content-type-and-headers",
            "fifteen elements, no trace",
            vec![with_extras(Some("a/b"), false, b"h")],
        ),
        ("everything", "fifteen elements, none of them nil", vec![everything]),
        ("fan", "sixteen elements, extension 2: a message to three cells", vec![fan(), fan()]),
        ("path", "extension 4: what two cells on the way did", vec![path()]),
        ("proof", "extension 6: the origin's own signature", vec![proof()]),
        ("all-extensions", "in ascending order of their numbers", vec![all_extensions()]),
        ("no-token", "as on a challenge, register or bye", vec![with(|e| e.header.token = None)]),
        (
            "exact-destination",
            "one start of the destination is meant",
            vec![with(|e| {
                e.header.destination =
                    Address::exact(name("server"), Incarnation { counter: 5, nonce: 9 });
            })],
        ),
        ("control-lane", "lane 0", vec![with(|e| e.header.lane = Lane::Control)]),
        (
            "bulk-lane-all-flags",
            "lane 2, flags 255",
            vec![with(|e| (e.header.lane, e.header.flags) = (Lane::Bulk, flags))],
        ),
        (
            "every-status",
            "one return for each status; everything after the first is a reference",
            statuses,
        ),
        (
            "warm",
            "the second message refers to all that the first introduced",
            vec![with(|_| ()), with(|e| e.header.sequence = 8)],
        ),
        (
            "introductions",
            "four names, three targets and two tokens over six messages",
            introductions(),
        ),
    ];
    streams.map(|(name, about, frames)| Stream::written(name, about, frames)).into()
}

fn introductions() -> Vec<Frame> {
    let route = |from: Incarnation, to: &Arc<Address>, topic: &str, token: Option<Token>| {
        with(|e| {
            e.header.origin = Address::exact(name("site-1"), from);
            e.header.destination = Arc::clone(to);
            e.header.target = ChannelTopic::parse("task", topic).unwrap();
            e.header.token = token;
            e.payload = Bytes::new();
        })
    };
    let server = Address::any(name("server"));
    let exactly = Address::exact(name("server"), CHILD);
    let later = Incarnation { counter: 4, ..CHILD };
    vec![
        route(CHILD, &server, "fetch", token(80)),
        route(CHILD, &exactly, "submit", token(81)),
        route(CHILD, &server, "submit", token(80)),
        route(later, &exactly, "other", token(81)),
        route(later, &server, "fetch", None),
        route(CHILD, &exactly, "other", token(80)),
    ]
}

/// Eight levels and 255 bytes.
fn longest_name() -> Fqcn {
    let levels: Vec<String> = (0..8).map(|level| format!("{level}{}", "x".repeat(30))).collect();
    let name: Fqcn = levels.join(".").parse().unwrap();
    assert_eq!((name.as_str().len(), name.depth()), (Fqcn::MAX_LEN, Fqcn::MAX_SEGMENTS));
    name
}

pub(super) fn limits() -> Vec<Stream> {
    let names = with(|e| {
        e.header.origin = Address::exact(longest_name(), CHILD);
        e.header.destination = Address::any(name(&"y".repeat(63)));
        e.header.target = ChannelTopic::parse(&"c".repeat(64), &"t".repeat(64)).unwrap();
        e.header.kind = Kind::Return { to: u64::MAX, status: Status::NoRoute, by: longest_name() };
    });
    let shortest = with(|e| {
        e.header.origin = Address::exact(name("a"), Incarnation { counter: 1, nonce: 0 });
        e.header.destination = Address::any(name("0"));
        e.header.target = ChannelTopic::parse("-", ".").unwrap();
    });
    let most = with(|e| {
        let inc = Incarnation { counter: u64::MAX, nonce: u64::MAX };
        e.header.origin = Address::exact(name("site-1"), inc);
        (e.header.sequence, e.header.budget_ms, e.header.hops_left) = (u64::MAX, u32::MAX, u8::MAX);
    });
    let least = with(|e| {
        (e.header.sequence, e.header.budget_ms, e.header.hops_left) = (1, 0, 0);
        e.header.flags = Flags::default();
    });
    let content_type = "x".repeat(Extras::CONTENT_TYPE_MAX);
    let extras = with(|e| {
        e.header.extras = Extras {
            content_type: Some(content_type.as_str().into()),
            trace: None,
            headers: vec![0xee; Extras::HEADERS_MAX].into(),
            ..Extras::default()
        }
        .boxed();
    });
    let payload = |len: usize| {
        with(|e| e.payload = (0..len).map(|index| index as u8).collect::<Vec<_>>().into())
    };
    let streams: [(&str, &str, Vec<Frame>); 11] = [
        (
            "longest-names",
            "255 bytes in eight levels, a level of 63, channel and topic of 64",
            vec![names],
        ),
        ("shortest-names", "one byte each", vec![shortest]),
        ("largest-numbers", "sequence, budget, hops and incarnation at their ends", vec![most]),
        ("smallest-numbers", "sequence one, all else zero", vec![least]),
        ("shortest-token", "65 bytes", vec![with(|e| e.header.token = token(65))]),
        ("longest-token", "2048 bytes", vec![with(|e| e.header.token = token(2048))]),
        ("largest-extras", "content type of 128 bytes, headers of 4096", vec![extras]),
        ("empty-content-type", "is not the same as none", vec![with_extras(Some(""), false, b"")]),
        ("empty-payload", "no payload bytes", vec![payload(0)]),
        ("payload-4096", "two in a row", vec![payload(4096), payload(4096)]),
        ("payload-5000", "and a small one behind it", vec![payload(5000), payload(1)]),
    ];
    streams.map(|(name, about, frames)| Stream::written(name, about, frames)).into()
}

/// A message with this header and an empty payload.
pub(super) fn message_with(header: &[u8]) -> Vec<u8> {
    let len = u16::try_from(header.len()).unwrap().to_be_bytes();
    [&[types::MESSAGE], &len[..], &[0; 4], header].concat()
}

/// The elements of the header of [`request`] without its payload, in which all is introduced.
pub(super) fn header_elements() -> Vec<u8> {
    let frame = with(|e| e.payload = Bytes::new());
    encode_all(&[frame])[8..].to_vec()
}

/// What is read although nobody writes it yet, or not like that.
pub(super) fn tolerated() -> Vec<Stream> {
    let plain = || with(|e| e.payload = Bytes::new());
    let extended = |extensions: &[u8]| {
        let elements = [&[0xdc, 0, 16], &header_elements()[..], &[0xc0; 5], extensions].concat();
        message_with(&elements)
    };
    // The second message introduces another name, target and token at number 0.
    let mut replaced = header_elements();
    replaced.splice(0..2, [0x01, 0x08]);
    let text = hex::encode(&replaced).replace(&hex::encode("site-1"), &hex::encode("site-9"));
    let replaced = [vec![0x9a], hex::decode(text).unwrap()].concat();
    let after = [0x9a, 1, 9, 0, 1, 0, 0, 0xcd, 0x75, 0x30, 16, 1, 2];
    let site_9 = |sequence| {
        with(|e| {
            e.header.origin = Address::exact(name("site-9"), CHILD);
            e.header.sequence = sequence;
            e.payload = Bytes::new();
        })
    };
    let unknown = {
        let kind = Kind::Return { to: 1, status: Status::PeerLost, by: name("relay-a") };
        let lost = with(|e| (e.header.kind, e.payload) = (kind, Bytes::new()));
        let mut bytes = encode_all(std::slice::from_ref(&lost));
        let at = bytes.len() - "relay-a".len() - 2;
        assert_eq!(bytes[at], Status::PeerLost as u8);
        // Of the numbers that fit one byte.
        bytes[at] = 0x7f;
        (lost, bytes)
    };
    let streams: [(&str, &str, Vec<Frame>, Vec<u8>); 5] = [
        (
            "unknown-optional-extension",
            "number 3 is odd: dropped",
            vec![plain()],
            extended(&[0x91, 0x92, 3, 0xc4, 1, 7]),
        ),
        ("sixteen-optional-extensions", "in ascending order", vec![plain()], {
            let each = (0..16u8).flat_map(|n| [0x92, 2 * n + 1, 0xc4, 0]);
            extended(&[&[0xdc, 0, 16][..], &each.collect::<Vec<_>>()].concat())
        }),
        (
            "extension-after-extras",
            "elements 11 to 15 are as they would be without it",
            vec![with(|e| {
                e.header.extras =
                    Extras { headers: Bytes::from_static(b"h"), ..Extras::default() }.boxed();
                e.payload = Bytes::new();
            })],
            {
                let extras = [0xc0, 0xc0, 0xc0, 0xc0, 0xc4, 1, b'h', 0x91, 0x92, 1, 0xc4, 0];
                message_with(&[&[0xdc, 0, 16], &header_elements()[..], &extras].concat())
            },
        ),
        (
            "numbers-given-anew",
            "a number that is in use may be introduced again and means the new value from then on",
            vec![plain(), site_9(8), site_9(9)],
            {
                let messages =
                    [[&[0x9a], &header_elements()[..]].concat(), replaced, after.to_vec()];
                messages.iter().flat_map(|header| message_with(header)).collect()
            },
        ),
        (
            "unknown-status",
            "127 is none of ours: it may have run, so it is read as PEER_LOST",
            vec![unknown.0],
            unknown.1,
        ),
    ];
    streams
        .map(|(name, about, frames, bytes)| Stream { name, about, frames, bytes, canonical: false })
        .into()
}
