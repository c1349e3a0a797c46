//! The golden vectors in `tests/vectors/join`, which other implementations test themselves against.
//!
//! With `CELLBUS_WRITE_VECTORS=1` the files are written; otherwise they are compared.

use ed25519_dalek::{Signer, SigningKey, Verifier};
use serde_json::{Value, json};

use super::*;
use crate::{
    codec::{Octets, body::Blob},
    testing::compare_vector,
};

const SECRET: &[u8] = b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const CERTIFICATE: &[u8] = b"a certificate in DER form";
const REQUEST: &[u8] = br#"{"format":"cellbus-request/1","name":"site-9","sealed":""}"#;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[12; 32])
}

fn knock() -> (Knock, Value) {
    let (project, name) = ("study".parse().unwrap(), "site-9".parse().unwrap());
    let root = "5".repeat(64);
    let exporter: [u8; 32] = std::array::from_fn(|at| at as u8);
    let access = access_of(&project, &name, &root, SECRET);
    let signable = knock_signable(&name, &exporter, CERTIFICATE, REQUEST);
    let signature = key().sign(&signable).to_bytes().to_vec();
    let described = json!({
        "frame": "knock",
        "project": project, "name": name, "root_sha256": root,
        "secret": String::from_utf8_lossy(SECRET),
        "access": hex::encode(access),
        "exporter": hex::encode(exporter),
        "certificate": hex::encode(CERTIFICATE),
        "request": hex::encode(REQUEST),
        "signable": hex::encode(&signable),
        "public_key": hex::encode(key().verifying_key().to_bytes()),
        "signature": hex::encode(&signature),
    });
    let knock = Knock {
        name,
        access: Octets(access),
        certificate: Blob(CERTIFICATE.to_vec()),
        request: Blob(REQUEST.to_vec()),
        signature: Blob(signature),
    };
    (knock, described)
}

fn all() -> Vec<(String, Vec<u8>, Value)> {
    let (knock, described) = knock();
    let waiting = Answer::Waiting { after_s: 3 };
    let granted = Answer::Granted { reply: b"a sealed reply".to_vec() };
    let mut all = vec![
        ("knock".to_owned(), knock.to_frame(), described),
        ("waiting".to_owned(), waiting.to_frame(), json!({ "frame": "answer", "after_s": 3 })),
        (
            "granted".to_owned(),
            granted.to_frame(),
            json!({ "frame": "answer", "reply": hex::encode(b"a sealed reply") }),
        ),
    ];
    all.extend(Refusal::ALL.into_iter().map(|refusal| {
        let name = format!("refused-{}", refusal as u8);
        let means = refusal.to_string();
        let described = json!({ "frame": "answer", "code": refusal as u8, "means": means });
        (name, Answer::Refused(refusal).to_frame(), described)
    }));
    all
}

#[test]
fn frames_of_a_door_have_the_bytes_of_the_vectors() {
    for (name, bytes, json) in all() {
        compare_vector("join/v1", &name, &bytes, &json);
        if name == "knock" {
            assert_eq!(Knock::from_body(&bytes[4..]).unwrap().to_frame(), bytes);
        } else {
            assert_eq!(Answer::from_body(&bytes[4..]).unwrap().to_frame(), bytes);
        }
    }
}

#[test]
fn v_22_a_knock_is_signed_for_one_connection_certificate_and_request() {
    let (knock, _) = knock();
    let signature = ed25519_dalek::Signature::from_slice(&knock.signature.0).unwrap();
    let verifies = |exporter: [u8; 32], certificate: &[u8], request: &[u8]| {
        let signable = knock_signable(&knock.name, &exporter, certificate, request);
        key().verifying_key().verify(&signable, &signature).is_ok()
    };
    let exporter = std::array::from_fn(|at| at as u8);
    assert!(verifies(exporter, CERTIFICATE, REQUEST));
    assert!(!verifies([0; 32], CERTIFICATE, REQUEST), "another connection");
    assert!(!verifies(exporter, b"another", REQUEST));
    assert!(!verifies(exporter, CERTIFICATE, b"another"));
}

#[test]
fn v_22_no_access_says_anything_about_another_project_name_authority_or_secret() {
    let (project, name): (Segment, Segment) = ("study".parse().unwrap(), "site-9".parse().unwrap());
    let root = "5".repeat(64);
    let access = access_of(&project, &name, &root, SECRET);
    assert_ne!(access, access_of(&name, &project, &root, SECRET));
    assert_ne!(access, access_of(&project, &name, &"6".repeat(64), SECRET));
    assert_ne!(access, access_of(&project, &name, &root, b"another"));
}
