//! The golden vectors in `tests/vectors/sealed/v1`: sealed messages with the key that opens them. Sealing draws
//! a key each time, so the files are opened and not made again; with `CELLBUS_WRITE_VECTORS=1` they are written.

use std::{fs, path::PathBuf};

use cellbus_proto::sealing::{INFO, Sealed, SealedHead, associated_data, signable};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use super::*;
use crate::{authority::leaf_params, seal::OpeningKey, tls::verify_leaf_signature};

fn file(suite: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/sealed/v1");
    dir.join(format!("{suite}.json"))
}

fn hex_of(bytes: &[u8]) -> Value {
    hex::encode(bytes).into()
}

fn bytes_of(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// A job cell with a key of this kind: its certificate signs itself.
fn cell(project: &Project, full: &str, kind: &'static SignatureAlgorithm) -> (Own, Vec<u8>) {
    let identity = Identity {
        project: "study".parse().unwrap(),
        kind: CellKind::Job,
        name: name(full),
        org: "hq".parse().unwrap(),
        role: None,
    };
    let key = KeyPair::generate_for(kind).unwrap();
    let dates = CertDates::lasting(NOW, Duration::from_secs(3600));
    let certificate = leaf_params(&identity, dates).unwrap().self_signed(&key).unwrap();
    let pkcs8 = key.serialize_der();
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.clone()));
    let certificate = OwnCertificate::new(vec![certificate.der().clone()], &der).unwrap();
    (project.own(name(full), certificate), pkcs8)
}

fn header_of(value: &Value) -> Header {
    let text = |field: &str| value[field].as_str().unwrap();
    let number = |field: &str| value[field].as_u64().unwrap();
    let start = Incarnation { counter: number("counter"), nonce: number("nonce") };
    Header {
        kind: Kind::Request,
        sequence: number("sequence"),
        common: Arc::new(Common {
            origin: Address::exact(name(text("origin")), start),
            destination: Address::any(name(text("destination"))),
            target: text("target").parse().unwrap(),
            token: None,
            lane: Lane::Interactive,
            flags: Flags::from_wire(u8::try_from(number("flags")).unwrap()),
        }),
        budget_ms: 1,
        hops_left: 1,
        extras: None,
    }
}

fn write(suite: &str, kind: &'static SignatureAlgorithm) {
    let project = Project::new();
    let (from, _) = cell(&project, "site-1.job-7", kind);
    let (to, key) = cell(&project, "server.job-7", kind);
    let header = header(&from, &to);
    let start = from.incarnation;
    let payload = message::seal(&from, &header, SECRET, &leaf(&from, &to)).unwrap();
    let json = json!({
        "about": "a sealed request; only the fields of the header that it is bound to",
        "project": "study",
        "header": {
            "kind": "request",
            "origin": from.name.as_str(),
            "counter": start.counter,
            "nonce": start.nonce,
            "destination": to.name.as_str(),
            "target": header.target.to_string(),
            "sequence": header.sequence,
            "flags": header.flags.bits(),
        },
        "info": hex_of(INFO),
        "associated_data": hex_of(&associated_data("study", &header)),
        "recipient_certificate": hex_of(&to.certificate().chain()[0]),
        "recipient_pkcs8": hex_of(&key),
        "sealed": hex_of(&payload),
        "payload": hex_of(SECRET),
        "unix_ms": NOW * 1000,
    });
    fs::create_dir_all(file(suite).parent().unwrap()).unwrap();
    fs::write(file(suite), serde_json::to_string_pretty(&json).unwrap() + "\n").unwrap();
}

#[test]
fn a_sealed_message_of_the_vectors_is_opened_with_what_stands_beside_it() {
    for (suite, kind) in [("p256", &PKCS_ECDSA_P256_SHA256), ("x25519", &PKCS_ED25519)] {
        if std::env::var_os("CELLBUS_WRITE_VECTORS").is_some_and(|value| value == "1") {
            write(suite, kind);
        }
        let json: Value = serde_json::from_slice(&fs::read(file(suite)).unwrap()).unwrap();
        let header = header_of(&json["header"]);
        let associated = associated_data("study", &header);
        assert_eq!(bytes_of(&json["associated_data"]), associated);
        assert_eq!(bytes_of(&json["info"]), INFO);
        let sealed = Sealed::parse(&bytes_of(&json["sealed"]).into()).unwrap();
        let recipient = crate::certificate::leaf_hash(&bytes_of(&json["recipient_certificate"]));
        assert_eq!(sealed.recipient, recipient);
        let key = PrivatePkcs8KeyDer::from(bytes_of(&json["recipient_pkcs8"]));
        let plain = OpeningKey::from_der(&key.into()).unwrap().open(&sealed, &associated).unwrap();
        let (head, payload) = SealedHead::split(plain.into()).unwrap();
        assert_eq!(payload, bytes_of(&json["payload"]));
        assert_eq!(head.unix_ms, json["unix_ms"].as_u64().unwrap());
        let signable = signable("study", &header, &recipient, &payload, head.unix_ms);
        assert!(verify_leaf_signature(&head.chain[0].0, &signable, &head.signature.0), "{suite}");
    }
}
