//! Headers of messages that nobody may read.

use super::{
    super::{
        decode_all,
        good::{header_elements, message_with},
    },
    Case,
};
use crate::{
    codec::FrameLimits,
    status::Status::{BadFqcn, BadFrame, BadHeader, BadToken, TooLarge, Version},
};

pub(super) fn cases() -> Vec<Vec<Case>> {
    vec![shapes(), numbers(), addresses(), rest_of_the_header()]
}

/// The header of the plain request, as pieces that cases replace.
struct Parts {
    kind: Vec<u8>,
    sequence: Vec<u8>,
    origin: Vec<u8>,
    destination: Vec<u8>,
    target: Vec<u8>,
    token: Vec<u8>,
    budget: Vec<u8>,
    hops: Vec<u8>,
    lane: Vec<u8>,
    flags: Vec<u8>,
    more: Vec<u8>,
    len: u8,
}

impl Parts {
    fn new() -> Self {
        let introduce = |handle: u8, texts: &[&str], numbers: &[u8]| {
            let count = 1 + texts.len() + numbers.len();
            let mut out = vec![0x90 | count as u8, handle];
            texts.iter().for_each(|text| out.extend(short(text)));
            out.extend(numbers);
            out
        };
        Self {
            kind: vec![1],
            sequence: vec![7],
            origin: introduce(0, &["site-1"], &[3, 8]),
            destination: introduce(1, &["server"], &[]),
            target: introduce(0, &["task", "fetch"], &[]),
            token: vec![0xc0],
            budget: vec![1],
            hops: vec![16],
            lane: vec![1],
            flags: vec![0],
            more: Vec::new(),
            len: 10,
        }
    }

    fn header(&self) -> Vec<u8> {
        let len = match self.len {
            len @ 0..=15 => vec![0x90 | len],
            len => vec![0xdc, 0, len],
        };
        let Self { kind, sequence, origin, destination, target, .. } = self;
        let Self { token, budget, hops, lane, flags, more, .. } = self;
        let parts = [
            &len,
            kind,
            sequence,
            origin,
            destination,
            target,
            token,
            budget,
            hops,
            lane,
            flags,
            more,
        ];
        parts.into_iter().flatten().copied().collect()
    }
}

/// A string of up to 31 bytes.
pub(super) fn short(text: &str) -> Vec<u8> {
    [&[0xa0 | text.len() as u8], text.as_bytes()].concat()
}

fn altered(change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut parts = Parts::new();
    change(&mut parts);
    message_with(&parts.header())
}

#[test]
fn the_parts_make_a_good_header_where_nothing_is_altered() {
    let (frames, outcome) = decode_all(FrameLimits::default(), &altered(|_| ()));
    assert_eq!((frames.len(), outcome), (1, Ok(0)));
}

/// Elements 11 and up; a kind to go with them.
fn longer(kind: u8, len: u8, more: &[u8]) -> Vec<u8> {
    altered(|p| (p.kind, p.len, p.more) = (vec![kind], len, more.to_vec()))
}

fn shapes() -> Vec<Case> {
    let plain = Parts::new().header();
    let header = message_with;
    let deep = [vec![0x91; 10_000], vec![0xc0]].concat();
    let keys =
        [&[0x82][..], &short("destination"), &short("a"), &short("destination"), &short("b")];
    let nils = [&[0xdc, 0x3f, 0xfc][..], &[0xc0; 16_380]].concat();
    vec![
        ("header-nil", "not an array", header(&[0xc0]), BadHeader),
        ("header-map", "a map", header(&[0x8a, 1, 1]), BadHeader),
        (
            "header-map-twice-the-same-key",
            "a map with `destination` twice",
            header(&keys.concat()),
            BadHeader,
        ),
        (
            "header-map32",
            "a map of 2^32 - 1 entries",
            header(&[0xdf, 255, 255, 255, 255]),
            BadHeader,
        ),
        (
            "header-array32",
            "an array of 2^32 - 1 elements",
            header(&[0xdd, 255, 255, 255, 255]),
            BadHeader,
        ),
        (
            "header-nine-elements",
            "one too few",
            altered(|p| (p.len, p.flags) = (9, vec![])),
            BadHeader,
        ),
        ("header-seventeen-elements", "one too many", longer(1, 17, &[0xc0; 7]), BadHeader),
        ("header-16-kib-of-nils", "as large as a header may be", header(&nils), BadHeader),
        ("header-deep", "arrays in arrays, 10,000 deep", header(&deep), BadHeader),
        (
            "header-deep-at-a-field",
            "the same as the origin",
            altered(|p| p.origin = deep[..9000].to_vec()),
            BadHeader,
        ),
        (
            "header-long-array",
            "ten elements as array16",
            header(&[&[0xdc, 0, 10], &plain[1..]].concat()),
            BadHeader,
        ),
        (
            "header-ends-early",
            "without its last byte",
            header(&plain[..plain.len() - 1]),
            BadHeader,
        ),
        (
            "header-trailing-byte",
            "one byte behind the array",
            header(&[&plain[..], &[0xc0]].concat()),
            BadFrame,
        ),
    ]
}

fn numbers() -> Vec<Case> {
    let sequence = |bytes: &[u8]| altered(|p| p.sequence = bytes.to_vec());
    vec![
        ("number-as-text", "a string", sequence(&[0xa1, b'7']), BadHeader),
        ("number-negative", "-1", sequence(&[0xff]), BadHeader),
        ("number-signed", "7 as int8", sequence(&[0xd0, 7]), BadHeader),
        ("number-float", "7.0", sequence(&[0xca, 0x40, 0xe0, 0, 0]), BadHeader),
        ("number-nan", "not a number", sequence(&[0xca, 0x7f, 0xc0, 0, 0]), BadHeader),
        ("number-bool", "true", sequence(&[0xc3]), BadHeader),
        ("number-nil", "nil", sequence(&[0xc0]), BadHeader),
        ("number-ext", "fixext1", sequence(&[0xd4, 1, 1]), BadHeader),
        ("number-long", "7 as uint16", sequence(&[0xcd, 0, 7]), BadHeader),
        (
            "number-long-64",
            "2^32 - 1 as uint64",
            sequence(&[0xcf, 0, 0, 0, 0, 255, 255, 255, 255]),
            BadHeader,
        ),
        ("sequence-zero", "sequence numbers start at one", sequence(&[0]), BadHeader),
        ("kind-four", "there are four kinds, from zero", altered(|p| p.kind = vec![4]), BadHeader),
        (
            "budget-64-bit",
            "2^32 ms",
            altered(|p| p.budget = vec![0xcf, 0, 0, 0, 1, 0, 0, 0, 0]),
            BadHeader,
        ),
        (
            "hops-256",
            "one byte is enough for hops",
            altered(|p| p.hops = vec![0xcd, 1, 0]),
            BadHeader,
        ),
        ("hops-negative", "-1", altered(|p| p.hops = vec![0xff]), BadHeader),
        (
            "lane-three",
            "there are three lanes, from zero",
            altered(|p| p.lane = vec![3]),
            BadHeader,
        ),
        ("flag-unknown", "bit 8", altered(|p| p.flags = vec![0xcd, 1, 0]), BadHeader),
    ]
}

fn addresses() -> Vec<Case> {
    let origin = |bytes: &[u8]| altered(|p| p.origin = bytes.to_vec());
    let to = |bytes: &[u8]| altered(|p| p.destination = [&[0x92, 1], bytes].concat());
    let long = |len: usize| {
        let text: String = ('a'..='z').cycle().take(len).collect();
        [&[0xda][..], &(len as u16).to_be_bytes(), text.as_bytes()].concat()
    };
    let target = |bytes: &[u8]| altered(|p| p.target = bytes.to_vec());
    let on = |channel: &str, topic: &str| {
        target(&[&[0x93, 0][..], &short(channel), &short(topic)].concat())
    };
    let wide = [&[0xd9, 65][..], &[b'c'; 65]].concat();
    vec![
        (
            "origin-without-incarnation",
            "an origin says which start it is",
            origin(&[&[0x92, 0][..], &short("site-1")].concat()),
            BadHeader,
        ),
        (
            "incarnation-zero",
            "incarnations start at one",
            origin(&[&[0x94, 0][..], &short("site-1"), &[0, 8]].concat()),
            BadHeader,
        ),
        (
            "address-of-three",
            "half an incarnation",
            origin(&[&[0x93, 0][..], &short("site-1"), &[3]].concat()),
            BadHeader,
        ),
        (
            "address-unknown",
            "nothing was introduced as number 5",
            altered(|p| p.destination = vec![5]),
            BadHeader,
        ),
        (
            "address-out-of-order",
            "number 2 before number 1",
            altered(|p| p.destination[1] = 2),
            BadHeader,
        ),
        (
            "address-past-the-table",
            "number 1024",
            altered(|p| {
                p.destination.splice(1..2, [0xcd, 4, 0]);
            }),
            BadHeader,
        ),
        ("name-upper-case", "`Server`", to(&short("Server")), BadFqcn),
        ("name-empty", "no bytes", to(&short("")), BadFqcn),
        ("name-empty-level", "`a..b`", to(&short("a..b")), BadFqcn),
        ("name-wildcard", "`site-*`", to(&short("site-*")), BadFqcn),
        ("name-repeated-level", "`a.b.a`", to(&short("a.b.a")), BadFqcn),
        ("name-nine-levels", "one too many", to(&short("a.b.c.d.e.f.g.h.i")), BadFqcn),
        ("name-look-alike", "a cyrillic letter", to(&short("sеrver")), BadFqcn),
        ("name-control-character", "a line feed", to(&short("server\n")), BadFqcn),
        (
            "name-level-of-64",
            "one byte more than a level has",
            to(&[&[0xd9, 64][..], &[b'a'; 64]].concat()),
            BadFqcn,
        ),
        ("name-of-256", "one byte more than a name has", to(&long(256)), TooLarge),
        ("name-not-utf8", "bytes ff fe", to(&[0xa2, 0xff, 0xfe]), BadHeader),
        ("name-as-bytes", "msgpack bin", to(&[0xc4, 1, b'a']), BadHeader),
        ("name-long-form", "one byte as str8", to(&[0xd9, 1, b'a']), BadHeader),
        ("name-of-4-gib", "str32 of 2^32 - 1", to(&[0xdb, 255, 255, 255, 255]), TooLarge),
        ("target-unknown", "nothing was introduced as number 3", target(&[3]), BadHeader),
        (
            "target-of-two",
            "a channel alone",
            target(&[&[0x92, 0][..], &short("task")].concat()),
            BadHeader,
        ),
        ("channel-wildcard", "`*`", on("*", "fetch"), BadHeader),
        ("topic-wildcard", "`task:*`", on("task", "task:*"), BadHeader),
        ("topic-upper-case", "`Bye`", on("cellnet.channel", "Bye"), BadHeader),
        ("topic-trailing-zero", "`bye` and a zero byte", on("cellnet.channel", "bye\0"), BadHeader),
        ("topic-empty", "no bytes", on("task", ""), BadHeader),
        (
            "channel-of-65",
            "one byte too many",
            target(&[&[0x93, 0][..], &wide, &short("t")].concat()),
            TooLarge,
        ),
    ]
}

fn rest_of_the_header() -> Vec<Case> {
    let token = |bytes: &[u8]| altered(|p| p.token = bytes.to_vec());
    let content_type = |bytes: &[u8]| longer(1, 13, &[&[0xc0, 0xc0][..], bytes].concat());
    let trace = |bytes: &[u8]| longer(1, 14, &[&[0xc0; 3][..], bytes].concat());
    let headers = |bytes: &[u8]| longer(1, 15, &[&[0xc0; 4][..], bytes].concat());
    let extensions = |bytes: &[u8]| longer(1, 16, &[&[0xc0; 5][..], bytes].concat());
    let failure = |bytes: &[u8]| longer(3, 12, &[&[9][..], bytes].concat());
    let seventeen: Vec<u8> = (0..17u8).flat_map(|n| [0x92, 2 * n + 1, 0xc4, 0]).collect();
    let bin16 = |len: usize| [&[0xc5][..], &(len as u16).to_be_bytes(), &vec![b'x'; len]].concat();
    vec![
        (
            "token-of-64",
            "too short for a signature and claims",
            token(&[&[0x92, 0, 0xc4, 64][..], &[1; 64]].concat()),
            BadToken,
        ),
        (
            "token-of-2049",
            "one byte too many",
            token(&[&[0x92, 0][..], &bin16(2049)].concat()),
            TooLarge,
        ),
        ("token-as-text", "a string", token(&[0x92, 0, 0xa1, b'x']), BadHeader),
        ("token-unknown", "nothing was introduced as number 0", token(&[0]), BadHeader),
        ("trailing-nil-11", "`to` is nil and last", longer(1, 11, &[0xc0]), BadHeader),
        ("trailing-nil-15", "five nils", longer(1, 15, &[0xc0; 5]), BadHeader),
        ("publish-with-to", "answers nothing", longer(0, 11, &[9]), BadHeader),
        ("request-with-to", "answers nothing", longer(1, 11, &[9]), BadHeader),
        ("reply-without-to", "answers what?", longer(2, 10, &[]), BadHeader),
        (
            "reply-with-failure",
            "a reply does not fail",
            longer(2, 12, &[9, 0x92, 1, 0xa1, b'a']),
            BadHeader,
        ),
        ("return-without-failure", "why?", longer(3, 11, &[9]), BadHeader),
        ("return-without-to", "of what?", longer(3, 12, &[0xc0, 0x92, 1, 0xa1, b'a']), BadHeader),
        (
            "failure-of-three",
            "one element too many",
            failure(&[0x93, 1, 0xa1, b'a', 0xc0]),
            BadHeader,
        ),
        (
            "failure-status-256",
            "a status is one byte",
            failure(&[0x92, 0xcd, 1, 0, 0xa1, b'a']),
            BadHeader,
        ),
        ("failure-by-nobody", "`by` is a name", failure(&[0x92, 1, 0xa1, b'A']), BadFqcn),
        (
            "content-type-line-feed",
            "not printable",
            content_type(&[0xa3, b'a', b'\n', b'b']),
            BadHeader,
        ),
        ("content-type-not-ascii", "u with dots", content_type(&short("ü")), BadHeader),
        (
            "content-type-of-129",
            "one byte too many",
            content_type(&[&[0xd9, 129][..], &[b'x'; 129]].concat()),
            TooLarge,
        ),
        (
            "trace-of-24",
            "one byte too few",
            trace(&[&[0xc4, 24][..], &[0; 24]].concat()),
            BadHeader,
        ),
        (
            "trace-of-26",
            "one byte too many",
            trace(&[&[0xc4, 26][..], &[0; 26]].concat()),
            TooLarge,
        ),
        ("headers-of-4097", "one byte too many", headers(&bin16(4097)), TooLarge),
        ("headers-empty", "are left out instead", headers(&[0xc4, 0]), BadHeader),
        ("headers-long-form", "one byte as bin16", headers(&[0xc5, 0, 1, b'h']), BadHeader),
        ("extensions-none", "an empty list is left out", extensions(&[0x90]), BadHeader),
        ("extensions-nil", "so is nil", extensions(&[0xc0]), BadHeader),
        (
            "extensions-seventeen",
            "one too many",
            extensions(&[&[0xdc, 0, 17][..], &seventeen].concat()),
            BadHeader,
        ),
        (
            "extensions-out-of-order",
            "5, then 3",
            extensions(&[0x92, 0x92, 5, 0xc4, 0, 0x92, 3, 0xc4, 0]),
            BadHeader,
        ),
        (
            "extensions-twice",
            "3, then 3",
            extensions(&[0x92, 0x92, 3, 0xc4, 0, 0x92, 3, 0xc4, 0]),
            BadHeader,
        ),
        (
            "extension-of-three",
            "one element too many",
            extensions(&[0x91, 0x93, 3, 0xc4, 0, 0]),
            BadHeader,
        ),
        (
            "extension-too-large",
            "12289 bytes",
            extensions(&[&[0x91, 0x92, 3][..], &bin16(12_289)].concat()),
            TooLarge,
        ),
        (
            "extension-critical",
            "number 8 is even and unknown",
            extensions(&[0x91, 0x92, 8, 0xc4, 1, 7]),
            Version,
        ),
        (
            "fan-of-one",
            "a message to one cell has no list",
            extensions(&[0x91, 0x92, 2, 0xc4, 4, 0x91, 0x92, 7, 1]),
            BadHeader,
        ),
        (
            "fan-of-others",
            "the first is not the destination of the message",
            extensions(&[0x91, 0x92, 2, 0xc4, 7, 0x92, 0x92, 7, 0, 0x92, 8, 1]),
            BadHeader,
        ),
        (
            "fan-descends",
            "every copy has a higher number than the one before",
            extensions(&[0x91, 0x92, 2, 0xc4, 7, 0x92, 0x92, 7, 1, 0x92, 7, 0]),
            BadHeader,
        ),
        (
            "fan-without-end",
            "bytes behind the destinations",
            extensions(&[0x91, 0x92, 2, 0xc4, 8, 0x92, 0x92, 7, 1, 0x92, 8, 0, 0]),
            BadHeader,
        ),
        (
            "fan-of-strangers",
            "refers to a name that was not introduced",
            extensions(&[0x91, 0x92, 2, 0xc4, 7, 0x92, 0x92, 7, 1, 0x92, 8, 9]),
            BadHeader,
        ),
        (
            "path-without-hops",
            "an empty path is left out",
            extensions(&[0x91, 0x92, 4, 0xc4, 1, 0x90]),
            BadHeader,
        ),
        (
            "proof-of-nothing",
            "an array of none where two are due",
            extensions(&[0x91, 0x92, 6, 0xc4, 1, 0x90]),
            BadFrame,
        ),
        (
            "extension-critical-zero",
            "so is number 0",
            extensions(&[0x91, 0x92, 0, 0xc4, 0]),
            Version,
        ),
        (
            "references-before-introductions",
            "a message that belongs to another stream",
            {
                let mut bytes = vec![0x9a, 1, 8, 0, 1, 0, 0];
                bytes.extend(&header_elements()[header_elements().len() - 6..]);
                message_with(&bytes)
            },
            BadHeader,
        ),
    ]
}
