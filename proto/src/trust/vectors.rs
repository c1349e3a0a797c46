//! The golden vectors in `tests/vectors/trust`, which other implementations test themselves against.
//!
//! With `CELLBUS_WRITE_VECTORS=1` the files are written; otherwise they are compared.

use ed25519_dalek::{Signer, SigningKey, Verifier};
use serde_json::{Value, json};

use super::*;
use crate::{
    codec::{
        Octets,
        body::{self, Blob},
    },
    name::Segment,
    testing::compare_vector,
};

fn study() -> Segment {
    "study".parse().unwrap()
}

fn revocations() -> RevocationList {
    let leaf = std::array::from_fn(|at| at as u8);
    RevocationList {
        project: study(),
        version: 7,
        issued: 1_800_000_000,
        names: vec![
            RevokedName { name: "ada".parse().unwrap(), reason: Reason::Ceased, until: None },
            RevokedName {
                name: "site-1".parse().unwrap(),
                reason: Reason::Hold,
                until: Some(1_800_086_400),
            },
        ],
        leaves: vec![RevokedLeaf {
            leaf: Octets(leaf),
            reason: Reason::KeyCompromise,
            until: Some(1_807_776_000),
        }],
    }
}

fn bans() -> BanList {
    BanList {
        project: study(),
        server: "server".parse().unwrap(),
        version: 3,
        issued: 1_800_000_000,
        bans: vec![Ban {
            name: "site-2".parse().unwrap(),
            since: 1_799_999_990,
            reason: "floods the relay".to_owned(),
        }],
        ended: vec![Ended { name: "site-3".parse().unwrap(), until: 1_799_999_000 }],
    }
}

fn roster() -> RosterList {
    let cell = |name: &str, kind, parent: Option<&str>| RosterCell {
        name: name.parse().unwrap(),
        kind,
        parent: parent.map(|parent| parent.parse().unwrap()),
        org: "org".parse().unwrap(),
    };
    RosterList {
        project: study(),
        version: 2,
        issued: 1_800_000_000,
        cells: vec![
            cell("relay-a", CellKind::Relay, Some("server")),
            cell("server", CellKind::Server, None),
            cell("site-1", CellKind::Client, Some("relay-a")),
        ],
    }
}

fn roots() -> RootsList {
    let root = |byte: u8, state| ListedRoot { der: Blob(vec![0x30, 1, byte]), state };
    RootsList {
        project: study(),
        version: 4,
        issued: 1_800_000_000,
        roots: vec![root(1, RootState::Tainted), root(2, RootState::Active)],
    }
}

/// Of the authority, whose root is not among the vectors: no chain.
fn key() -> SigningKey {
    SigningKey::from_bytes(&[11; 32])
}

fn signed<L: List>(list: &L) -> Signed {
    let mut signed = Signed::unsigned(list, Vec::new());
    signed.signature = Blob(key().sign(&signed.signable(L::KIND)).to_bytes().to_vec());
    signed
}

fn vector<L: List>(list: &L, fields: Value) -> (String, Vec<u8>, Value) {
    let signed = signed(list);
    let json = json!({
        "list": L::KIND.as_str(),
        "public_key": hex::encode(key().verifying_key().to_bytes()),
        "content": hex::encode(&signed.content.0),
        "signable": hex::encode(signed.signable(L::KIND)),
        "fields": fields,
    });
    (L::KIND.as_str().to_owned(), body::encode(&Bundle::of(L::KIND, signed)).to_vec(), json)
}

fn all() -> Vec<(String, Vec<u8>, Value)> {
    vec![
        vector(
            &revocations(),
            json!({
                "project": "study", "version": 7, "issued": 1_800_000_000u64,
                "names": [["ada", 5, null], ["site-1", 6, 1_800_086_400u64]],
                "leaves": [["00..1f", 1, 1_807_776_000u64]],
            }),
        ),
        vector(
            &bans(),
            json!({
                "project": "study", "server": "server", "version": 3, "issued": 1_800_000_000u64,
                "bans": [["site-2", 1_799_999_990u64, "floods the relay"]],
                "ended": [["site-3", 1_799_999_000u64]],
            }),
        ),
        vector(
            &roster(),
            json!({
                "project": "study", "version": 2, "issued": 1_800_000_000u64,
                "cells": [
                    ["relay-a", "relay", "server", "org"],
                    ["server", "server", null, "org"],
                    ["site-1", "client", "relay-a", "org"],
                ],
            }),
        ),
        vector(
            &roots(),
            json!({
                "project": "study", "version": 4, "issued": 1_800_000_000u64,
                "roots": [["300101", "tainted"], ["300102", "active"]],
            }),
        ),
    ]
}

#[test]
fn lists_have_the_bytes_of_the_vectors_and_these_verify() {
    for (name, bytes, json) in all() {
        compare_vector("trust/v1", &name, &bytes, &json);
        let bundle: Bundle = body::decode_exact(&bytes).unwrap();
        let (kind, list) = bundle.lists().next().unwrap();
        let signature = ed25519_dalek::Signature::from_slice(&list.signature.0).unwrap();
        assert!(key().verifying_key().verify(&list.signable(kind), &signature).is_ok());
    }
}

#[test]
fn no_bytes_make_reading_a_list_panic_and_no_bit_of_one_can_be_changed() {
    for (name, bytes, _) in all() {
        let bundle: Bundle = body::decode_exact(&bytes).unwrap();
        let (kind, good) = bundle.lists().next().unwrap();
        for bit in 0..good.content.0.len() * 8 {
            let mut flipped = good.clone();
            flipped.content.0[bit / 8] ^= 1 << (bit % 8);
            // Whatever it says now, nobody has signed it.
            let _ = (
                read::<RevocationList>(&flipped, &study()).is_ok(),
                read::<BanList>(&flipped, &study()).is_ok(),
                read::<RosterList>(&flipped, &study()).is_ok(),
                read::<RootsList>(&flipped, &study()).is_ok(),
            );
            assert_ne!(flipped.signable(kind), good.signable(kind), "{name} {bit}");
        }
        for end in 0..bytes.len() {
            assert!(body::decode_exact::<Bundle>(&bytes[..end]).is_err(), "{name} cut at {end}");
        }
        let longer = [&bytes[..], &[0xc0]].concat();
        assert!(body::decode_exact::<Bundle>(&longer).is_err(), "{name}");
    }
}
