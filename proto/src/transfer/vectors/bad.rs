//! Bytes that nobody may take, each with the code that they are refused with.

use serde_json::json;

use super::{Vector, answer, content, fetch, receipt, reference, signed, stream, trailer};
use crate::{
    codec::body::{self, Blob},
    status::Status::{self, BadFrame, TooLarge},
    transfer::{Answer, Audience, CHUNK_MAX, Fetch, Receipt, Reference, SIZE_MAX, trailer_bytes},
};

type Case = (&'static str, &'static str, Vec<u8>, Status);

fn vectors(kind: &'static str, cases: Vec<Case>) -> impl Iterator<Item = Vector> {
    cases.into_iter().map(move |(name, about, bytes, code)| {
        let json = json!({ "kind": kind, "about": about, "code": code.code() });
        Vector { name, bytes, json }
    })
}

pub(super) fn all() -> Vec<Vector> {
    vectors("reference", references())
        .chain(vectors("fetch", fetches()))
        .chain(vectors("answer", answers()))
        .chain(vectors("receipt", receipts()))
        .chain(vectors("stream", streams()))
        .chain(vectors("offer-reply", offer_replies()))
        .collect()
}

fn offer_replies() -> Vec<Case> {
    vec![
        ("offer-reply-short", "without the last byte", vec![0; 8], BadFrame),
        ("offer-reply-two", "neither 0 nor 1", vec![0, 0, 0, 0, 0, 0, 0, 0, 2], BadFrame),
        ("offer-reply-trailing", "one byte more", vec![0; 10], BadFrame),
    ]
}

fn references() -> Vec<Case> {
    let outer = |content: Vec<u8>| body::encode(&(Blob(content), Blob(vec![0; 64]))).to_vec();
    let with = |change: fn(&mut Reference)| {
        let mut reference = reference();
        change(&mut reference);
        outer(reference.to_bytes().to_vec())
    };
    let replaced = |from: &[u8], to: &[u8]| {
        let bytes = reference().to_bytes();
        let at = bytes.windows(from.len()).position(|w| w == from).expect("it is there");
        outer([&bytes[..at], to, &bytes[at + from.len()..]].concat())
    };
    let good = signed(reference()).encode().expect("it is one");
    // The two receivers, and the job behind them.
    let names = b"\x92\xaerelay-a.site-2\xa6site-1";
    let turned = b"\x92\xa6site-1\xaerelay-a.site-2";
    let twice = b"\x92\xa6site-1\xa6site-1";
    vec![
        ("reference-empty", "nothing", vec![], BadFrame),
        ("reference-trailing", "one byte more", [&good[..], &[0xc0]].concat(), BadFrame),
        ("reference-cut", "one byte less", good[..good.len() - 1].to_vec(), BadFrame),
        (
            "reference-generation-zero",
            "generations count from 1",
            with(|r| r.generation = 0),
            BadFrame,
        ),
        ("reference-sizes", "more than size_max", with(|r| r.size_max = 299), BadFrame),
        ("reference-too-large", "2^63 bytes", with(|r| r.size_max = SIZE_MAX + 1), BadFrame),
        ("reference-parts-short", "parts of 299 bytes", with(|r| r.parts[1].len = 199), BadFrame),
        (
            "reference-part-without-name",
            "an empty name",
            with(|r| r.parts[0].name.clear()),
            BadFrame,
        ),
        (
            "reference-nobody",
            "no receiver",
            with(|r| r.audience = Audience::Receivers([].into())),
            BadFrame,
        ),
        ("reference-receivers-turned", "not in order", replaced(names, turned), BadFrame),
        ("reference-receiver-twice", "the same name twice", replaced(names, twice), BadFrame),
        ("reference-no-audience", "neither receivers nor job", replaced(names, b"\xc0"), BadFrame),
        (
            "reference-two-audiences",
            "both",
            replaced(&[&names[..], b"\xc0"].concat(), &[&names[..], b"\xa5job-7"].concat()),
            BadFrame,
        ),
        (
            "reference-receivers-4-gib",
            "an array of 2^32 - 1",
            replaced(names, b"\xdd\xff\xff\xff\xff"),
            BadFrame,
        ),
        (
            "reference-holder",
            "`Server` is no name",
            replaced(b"\xa6server", b"\xa6Server"),
            BadFrame,
        ),
        (
            "reference-headers-4097",
            "one byte too many",
            with(|r| r.headers = Blob(vec![0; 4097])),
            BadFrame,
        ),
        (
            "reference-content-type",
            "a line feed",
            with(|r| r.content_type = Some("a\nb".into())),
            BadFrame,
        ),
    ]
}

fn fetches() -> Vec<Case> {
    let good = fetch().encode().to_vec();
    let long = [&[0xdc, 0, 5][..], &good[1..]].concat();
    let zero = Fetch { generation: 0, ..fetch() }.encode().to_vec();
    let far = Fetch { offset: SIZE_MAX + 1, ..fetch() }.encode().to_vec();
    vec![
        ("fetch-trailing", "one byte more", [&good[..], &[0]].concat(), BadFrame),
        ("fetch-long-array", "a longer spelling of 5", long, BadFrame),
        ("fetch-generation-zero", "generations count from 1", zero, BadFrame),
        ("fetch-too-far", "an offset of 2^63", far, BadFrame),
        ("fetch-too-long", "129 bytes", vec![0xc0; 129], BadFrame),
    ]
}

fn answers() -> Vec<Case> {
    let bytes = |answer: Answer| answer.encode().to_vec();
    vec![
        (
            "answer-behind-the-end",
            "offset 301 of 300",
            bytes(Answer { offset: 301, ..answer() }),
            BadFrame,
        ),
        (
            "answer-sizes",
            "more than size_max",
            bytes(Answer { size_max: 299, ..answer() }),
            BadFrame,
        ),
        ("answer-of-a-fetch", "another body", fetch().encode().to_vec(), BadFrame),
    ]
}

fn receipts() -> Vec<Case> {
    let bytes = |receipt: Receipt| receipt.to_stream().to_vec();
    let good = bytes(receipt());
    let long = Receipt { signature: Some(Blob(vec![0; 257])), ..receipt() };
    vec![
        ("receipt-trailing", "one byte behind it", [&good[..], &[0]].concat(), BadFrame),
        ("receipt-too-long", "a length of 513", vec![2, 1], TooLarge),
        (
            "receipt-stored-without-digest",
            "success of nothing",
            bytes(Receipt { digest: None, ..receipt() }),
            BadFrame,
        ),
        (
            "receipt-failed-with-digest",
            "both at once",
            bytes(Receipt { outcome: 128, ..receipt() }),
            BadFrame,
        ),
        ("receipt-signature-of-257", "one byte too many", bytes(long), BadFrame),
        ("receipt-empty", "a length of zero", vec![0, 0], BadFrame),
    ]
}

fn streams() -> Vec<Case> {
    let good = stream(&content(), 120);
    let body = trailer().encode();
    let short = [&[0; 4][..], &[0, body.len() as u8 - 1], &body[..body.len() - 1]].concat();
    let trailing = [&[0; 4][..], &[0, body.len() as u8 + 1], &body, &[0]].concat();
    let other = [&trailer_bytes(&trailer())[..], &[2]].concat();
    vec![
        (
            "stream-chunk-too-long",
            "1 MiB and a byte",
            (CHUNK_MAX as u32 + 1).to_be_bytes().to_vec(),
            TooLarge,
        ),
        ("stream-chunk-4-gib", "2^32 - 1 bytes", vec![255; 4], TooLarge),
        ("stream-trailer-too-long", "a length of 65", vec![0, 0, 0, 0, 0, 65], TooLarge),
        ("stream-trailer-empty", "a length of zero", vec![0; 6], BadFrame),
        ("stream-trailer-short", "one byte less", short, BadFrame),
        ("stream-trailer-trailing", "one byte more", trailing, BadFrame),
        ("stream-settlement-two", "neither 0 nor 1", other, BadFrame),
        ("stream-trailing", "one byte behind the last", [&good[..], &[1]].concat(), BadFrame),
    ]
}
