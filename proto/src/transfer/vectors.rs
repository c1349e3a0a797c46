//! The golden vectors in `tests/vectors/transfer`, which other implementations test themselves against.
//!
//! With `CELLBUS_WRITE_VECTORS=1` the files are written; otherwise they are compared.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use super::*;
use crate::{
    codec::{Octets, body::Blob},
    status::Status,
};

mod bad;

pub(super) struct Vector {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    pub(super) json: Value,
}

pub(super) const PROJECT: &str = "study";

/// `N` bytes that count up from `from`.
fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|index| from.wrapping_add(index as u8))
}

fn hexed(bytes: &[u8]) -> Value {
    json!({ "hex": hex::encode(bytes) })
}

/// Of the server and of site-1, as in the wire vectors.
fn keys() -> [SigningKey; 2] {
    [2, 3].map(|byte| SigningKey::from_bytes(&[byte; 32]))
}

fn id() -> TransferId {
    TransferId::from_bytes(counting(0x10))
}

pub(super) fn content() -> Vec<u8> {
    (0..300).map(|at| at as u8).collect()
}

pub(super) fn reference() -> Reference {
    Reference {
        id: id(),
        holder: "server".parse().unwrap(),
        target: "model/weights".parse().unwrap(),
        size: Some(300),
        size_max: 300,
        digest: Some(Digest::of(&content())),
        generation: 1,
        content_type: Some("application/octet-stream".into()),
        headers: Blob(b"\x81\xa1k\xa1v".to_vec()),
        parts: vec![
            Part { name: "layer.0".into(), len: 100 },
            Part { name: "layer.1".into(), len: 200 },
        ],
        audience: Audience::Receivers(
            ["relay-a.site-2", "site-1"].map(|n| n.parse().unwrap()).into(),
        ),
        expires_unix: 1_800_003_600,
        unix_ms: 1_800_000_000_123,
        seal: None,
    }
}

fn of_job() -> Reference {
    Reference {
        size: None,
        size_max: SIZE_MAX,
        digest: None,
        generation: u64::MAX,
        content_type: None,
        headers: Blob(vec![]),
        parts: vec![],
        audience: Audience::Job("job-7".parse().unwrap()),
        ..reference()
    }
}

pub(super) fn signed(reference: Reference) -> SignedReference {
    let signature = keys()[0].sign(&reference.signable(PROJECT)).to_bytes();
    SignedReference { reference, signature: Blob(signature.to_vec()) }
}

pub(super) fn fetch() -> Fetch {
    let (nonce, digest) = (Octets(counting(0x40)), Some(Digest::of(&content())));
    Fetch { id: id(), generation: 1, offset: 128, nonce, have: false, digest }
}

pub(super) fn answer() -> Answer {
    let (size, size_max) = (Some(300), 300);
    let digest = Some(Digest::of(&content()));
    Answer { id: id(), generation: 1, size, size_max, offset: 128, data: true, digest }
}

pub(super) fn trailer() -> Trailer {
    Trailer { size: 300, digest: Digest::of(&content()), generation: 1 }
}

pub(super) fn receipt() -> Receipt {
    let mut receipt = Receipt {
        id: id(),
        generation: 1,
        nonce: Octets(counting(0x40)),
        size: 300,
        digest: Some(Digest::of(&content())),
        outcome: 0,
        signature: None,
    };
    let [receiver, holder] = ["site-1", "server"].map(|name| name.parse().unwrap());
    let signable = receipt.signable(PROJECT, &receiver, &holder);
    receipt.signature = Some(Blob(keys()[1].sign(&signable).to_bytes().to_vec()));
    receipt
}

fn failed() -> Receipt {
    let outcome = Status::StorageFull as u8;
    Receipt { size: 128, digest: None, outcome, signature: None, ..receipt() }
}

/// What a holder writes from `offset` on, in chunks of at most `chunk` bytes.
pub(super) fn stream(content: &[u8], chunk: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for chunk in content.chunks(chunk) {
        stream.extend_from_slice(&chunk_head(chunk.len()));
        stream.extend_from_slice(chunk);
    }
    stream.extend_from_slice(&trailer_bytes(&trailer()));
    stream.push(Settlement::Settled.to_wire());
    stream
}

fn json_of_reference(SignedReference { reference, signature }: &SignedReference) -> Value {
    let (receivers, job) = match &reference.audience {
        Audience::Receivers(names) => (json!(names), Value::Null),
        Audience::Job(job) => (Value::Null, json!(job)),
    };
    let parts: Vec<Value> = reference.parts.iter().map(|p| json!([p.name, p.len])).collect();
    let signable = reference.signable(PROJECT);
    json!({
        "kind": "reference",
        "value": {
            "id": hexed(reference.id.as_bytes()),
            "holder": reference.holder,
            "channel": reference.target.channel().as_str(),
            "topic": reference.target.topic().as_str(),
            "size": reference.size,
            "size_max": reference.size_max,
            "digest": reference.digest.map(|digest| hexed(digest.as_bytes())),
            "generation": reference.generation,
            "content_type": reference.content_type,
            "headers": hexed(&reference.headers.0),
            "parts": parts,
            "receivers": receivers,
            "job": job,
            "expires": reference.expires_unix,
            "unix_ms": reference.unix_ms,
        },
        "signature": hexed(&signature.0),
        "project": PROJECT,
        "signable": hexed(&signable),
        "secret_key": hexed(&[2; 32]),
    })
}

fn json_of_fetch(fetch: &Fetch) -> Value {
    json!({ "kind": "fetch", "value": {
        "id": hexed(fetch.id.as_bytes()),
        "generation": fetch.generation,
        "offset": fetch.offset,
        "nonce": hexed(&fetch.nonce.0),
        "have": fetch.have,
        "digest": fetch.digest.map(|digest| hexed(digest.as_bytes())),
    }})
}

fn json_of_answer(answer: &Answer) -> Value {
    json!({ "kind": "answer", "value": {
        "id": hexed(answer.id.as_bytes()),
        "generation": answer.generation,
        "size": answer.size,
        "size_max": answer.size_max,
        "offset": answer.offset,
        "data": answer.data,
        "digest": answer.digest.map(|digest| hexed(digest.as_bytes())),
    }})
}

fn json_of_receipt(receipt: &Receipt) -> Value {
    let [receiver, holder] = ["site-1", "server"].map(|name| name.parse().unwrap());
    json!({
        "kind": "receipt",
        "value": {
            "id": hexed(receipt.id.as_bytes()),
            "generation": receipt.generation,
            "nonce": hexed(&receipt.nonce.0),
            "size": receipt.size,
            "digest": receipt.digest.map(|digest| hexed(digest.as_bytes())),
            "outcome": receipt.outcome,
            "signature": receipt.signature.as_ref().map(|signature| hexed(&signature.0)),
        },
        "project": PROJECT,
        "receiver": "site-1",
        "holder": "server",
        "signable": hexed(&receipt.signable(PROJECT, &receiver, &holder)),
        "secret_key": hexed(&[3; 32]),
    })
}

fn json_of_offer_reply(reply: OfferReply) -> Value {
    let OfferReply { bytes, waits } = reply;
    json!({ "kind": "offer-reply", "value": { "bytes": bytes, "waits": waits } })
}

fn json_of_stream(data: &[u8]) -> Value {
    json!({
        "kind": "stream",
        "data": hexed(data),
        "trailer": {
            "size": trailer().size,
            "digest": hexed(trailer().digest.as_bytes()),
            "generation": trailer().generation,
        },
        "settlement": 1,
    })
}

fn good() -> Vec<Vector> {
    let references = [("reference-receivers", reference()), ("reference-job", of_job())];
    let mut vectors: Vec<Vector> = references
        .into_iter()
        .map(|(name, reference)| {
            let signed = signed(reference);
            let bytes = signed.encode().unwrap().to_vec();
            Vector { name, bytes, json: json_of_reference(&signed) }
        })
        .collect();
    let have = Fetch { offset: 300, have: true, digest: None, ..fetch() };
    for (name, fetch) in [("fetch", fetch()), ("fetch-have", have)] {
        let bytes = fetch.encode().to_vec();
        vectors.push(Vector { name, bytes, json: json_of_fetch(&fetch) });
    }
    let digest = None;
    let unknown =
        Answer { size: None, size_max: SIZE_MAX, offset: 0, data: false, digest, ..answer() };
    for (name, answer) in [("answer", answer()), ("answer-without-size", unknown)] {
        let bytes = answer.encode().to_vec();
        vectors.push(Vector { name, bytes, json: json_of_answer(&answer) });
    }
    for (name, receipt) in [("receipt-stored", receipt()), ("receipt-failed", failed())] {
        let bytes = receipt.to_stream().to_vec();
        vectors.push(Vector { name, bytes, json: json_of_receipt(&receipt) });
    }
    let content = content();
    let streams: [(&'static str, &[u8], usize); 3] = [
        ("stream-from-the-start", &content, 120),
        ("stream-from-the-middle", &content[128..], CHUNK_MAX),
        ("stream-without-data", &[], 1),
    ];
    for (name, data, chunk) in streams {
        vectors.push(Vector { name, bytes: stream(data, chunk), json: json_of_stream(data) });
    }
    let waits = OfferReply { bytes: 0, waits: true };
    let has = OfferReply { bytes: 200, waits: false };
    for (name, reply) in [("offer-reply-waits", waits), ("offer-reply-has", has)] {
        let json = json_of_offer_reply(reply);
        vectors.push(Vector { name, bytes: reply.encode().into(), json });
    }
    vectors
}

/// Reads `bytes` as what stands in their JSON, and says why that fails.
fn read(kind: &str, bytes: &[u8]) -> Result<(Vec<u8>, Value), Status> {
    let status = |error: crate::codec::CodecError| error.status;
    match kind {
        "reference" => {
            let signed = SignedReference::decode(bytes).map_err(status)?;
            Ok((signed.encode().unwrap().to_vec(), json_of_reference(&signed)))
        }
        "fetch" => {
            let fetch = Fetch::decode(bytes).map_err(status)?;
            Ok((fetch.encode().to_vec(), json_of_fetch(&fetch)))
        }
        "answer" => {
            let answer = Answer::decode(bytes).map_err(status)?;
            Ok((answer.encode().to_vec(), json_of_answer(&answer)))
        }
        "offer-reply" => {
            let reply = OfferReply::decode(bytes).map_err(status)?;
            Ok((reply.encode().into(), json_of_offer_reply(reply)))
        }
        "receipt" => {
            let mut input = Bytes::copy_from_slice(bytes);
            let mut reader = ReceiptReader::default();
            let receipt = reader.read(&mut input).map_err(status)?.expect("all of it is there");
            reader.read(&mut input).map_err(status)?;
            Ok((receipt.to_stream().to_vec(), json_of_receipt(&receipt)))
        }
        "stream" => {
            let (mut input, mut reader) = (Bytes::copy_from_slice(bytes), PieceReader::new(true));
            let mut data = Vec::new();
            while let Some(piece) = reader.read(&mut input, u64::MAX).map_err(status)? {
                if let Piece::Data(bytes) = piece {
                    data.extend_from_slice(&bytes);
                }
            }
            assert!(reader.is_done(), "it ends early");
            Ok((bytes.to_vec(), json_of_stream(&data)))
        }
        other => panic!("kind {other}"),
    }
}

fn compare(kind: &str, vectors: &[Vector]) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/transfer");
    let directory = directory.join(kind);
    let mut expected = Vec::new();
    for (number, vector) in vectors.iter().enumerate() {
        let stem = format!("{:02}-{}", number + 1, vector.name);
        let json = crate::testing::pretty(&vector.json) + "\n";
        expected.push((format!("{stem}.bin"), vector.bytes.clone()));
        expected.push((format!("{stem}.json"), json.into_bytes()));
    }
    if std::env::var_os("CELLBUS_WRITE_VECTORS").is_some_and(|value| value == "1") {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in &expected {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    let entries = fs::read_dir(&directory).unwrap();
    let mut found: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, expected.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    for (name, bytes) in expected {
        assert!(fs::read(directory.join(&name)).unwrap() == bytes, "{name} differs");
    }
}

#[test]
fn good_files_are_read_as_what_stands_beside_them() {
    let vectors = good();
    for Vector { name, bytes, json } in &vectors {
        let (again, value) = read(json["kind"].as_str().unwrap(), bytes).unwrap();
        assert_eq!((&again, &value), (bytes, json), "{name}");
    }
    compare("good", &vectors);
}

#[test]
fn f_31_no_beginning_of_a_good_file_is_read_as_a_whole() {
    for Vector { name, bytes, json } in good() {
        for cut in 0..bytes.len() {
            let kind = json["kind"].as_str().unwrap().to_owned();
            let short = bytes[..cut].to_vec();
            let read = std::panic::catch_unwind(move || read(&kind, &short));
            assert!(!matches!(read, Ok(Ok(_))), "{name} cut at {cut}");
        }
    }
}

#[test]
fn bad_files_give_the_code_that_stands_beside_them() {
    let vectors = bad::all();
    for Vector { name, bytes, json } in &vectors {
        let refused = read(json["kind"].as_str().unwrap(), bytes).unwrap_err();
        assert_eq!(json["code"], refused.code(), "{name}");
    }
    compare("bad", &vectors);
}
