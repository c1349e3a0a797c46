//! The golden vectors in `tests/vectors/local`, which other implementations test themselves against.
//!
//! With `CELLBUS_WRITE_VECTORS=1` the files are written; otherwise they are compared.

use std::{fs, path::PathBuf};

use bytes::BytesMut;
use serde_json::{Value, json};

use super::*;
use crate::status::Status;

mod bad;
mod good;

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

/// What a cell, or job code, in `state` makes of `bytes` followed by the end of the stream.
fn outcome(direction: &str, state: &str, mut bytes: &[u8]) -> Result<usize, Status> {
    let Limits { payload_max, attachment_max, .. } = Limits::default();
    let (payload_max, attachment_max) =
        if state == "open" { (payload_max, attachment_max) } else { (0, 0) };
    let mut frames = 0;
    if direction == TO_JOB {
        let mut decoder = Decoder::<ToJob>::new();
        decoder.set_payload_max(payload_max);
        decoder.set_attachment_max(attachment_max);
        while decoder.decode(&mut bytes).map_err(|error| error.status())?.is_some() {
            frames += 1;
        }
        return if decoder.is_mid_frame() { Err(Status::BadFrame) } else { Ok(frames) };
    }
    let mut decoder = Decoder::<ToCell>::new();
    decoder.set_payload_max(payload_max);
    decoder.set_attachment_max(attachment_max);
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
        let json = crate::testing::pretty(&vector.json) + "\n";
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

fn rendezvous_vector() -> Vector {
    let rendezvous = Rendezvous {
        path: "/run/cells/job-7/attach.sock".into(),
        secret: secret(),
        cell: "site-1.job-7".parse().unwrap(),
        job: Some("job-7".parse().unwrap()),
        expires_unix_ms: 1_800_000_000_000,
    };
    let bytes = rendezvous.encode().to_vec();
    let header = json!([
        1,
        rendezvous.path,
        { "hex": hex::encode(secret().expose()) },
        rendezvous.cell,
        rendezvous.job,
        rendezvous.expires_unix_ms
    ]);
    assert_eq!(Rendezvous::decode(&bytes, 0), Ok(rendezvous));
    Vector {
        name: "rendezvous",
        bytes,
        json: json!({ "direction": "rendezvous", "header": header }),
    }
}

#[test]
fn good_vectors_are_what_is_written_and_what_is_read() {
    let mut vectors = Vec::new();
    for (vector, frame) in good::to_cell() {
        let mut decoder = Decoder::new();
        decoder.set_payload_max(Limits::default().payload_max);
        decoder.set_attachment_max(u64::MAX);
        assert_eq!(decoder.decode(&mut &vector.bytes[..]), Ok(Some(frame)), "{}", vector.name);
        vectors.push(vector);
    }
    let read = |vectors: &mut Vec<Vector>, cases: Vec<(Vector, ToJob)>| {
        for (vector, frame) in cases {
            let mut decoder = Decoder::new();
            decoder.set_payload_max(Limits::default().payload_max);
            decoder.set_attachment_max(u64::MAX);
            assert_eq!(decoder.decode(&mut &vector.bytes[..]), Ok(Some(frame)), "{}", vector.name);
            vectors.push(vector);
        }
    };
    read(&mut vectors, good::to_job());
    vectors.push(bootstrap_vector());
    vectors.push(rendezvous_vector());
    // Files are added behind those that there are.
    read(&mut vectors, good::to_job_of_version_2());
    compare("good", &vectors);
}

#[test]
fn bad_vectors_give_the_code_that_stands_beside_them() {
    let vectors = bad::vectors();
    for vector in &vectors {
        let text = |key: &str| vector.json[key].as_str().expect("is a text").to_owned();
        let found = outcome(&text("direction"), &text("state"), &vector.bytes);
        assert_eq!(found.map_err(Status::code), Err(text("code").as_str()), "{}", vector.name);
    }
    compare("bad", &vectors);
}
