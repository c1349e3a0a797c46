//! The golden vectors in `tests/vectors/transfer/sealed`.
//!
//! With `CELLBUS_WRITE_VECTORS=1` the files are written; otherwise they are compared.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{tests::sealed, *};
use crate::transfer::{
    Digest, Part, SignedReference,
    vectors::{PROJECT, content, reference, signed},
};

fn key() -> ContentKey {
    ContentKey::from_bytes(std::array::from_fn(|index| 0x80 + index as u8))
}

fn sealed_reference() -> SignedReference {
    let mut reference = reference();
    reference.parts.push(Part { name: "empty".into(), len: 0 });
    let lens = reference.parts.iter().map(|part| sealed_len(part.len).unwrap());
    let size = lens.sum();
    (reference.size, reference.size_max) = (Some(size), size);
    let sealer = sealer();
    let (bytes, clear) = sealed(&sealer, &[100, 200, 0]);
    assert_eq!(clear.len(), content().len());
    (reference.digest, reference.seal) = (Some(Digest::of(&bytes)), Some(sealer.mark()));
    signed(reference)
}

fn sealer() -> Sealer {
    let Reference { holder, id, generation, .. } = reference();
    Sealer::new(&key(), PROJECT, &holder, &id, generation)
}

fn hexed(bytes: &[u8]) -> Value {
    json!({ "hex": hex::encode(bytes) })
}

/// What all of them share.
fn json_of(kind: &str, more: &[(&str, Value)]) -> Value {
    let Reference { holder, id, generation, .. } = reference();
    let mut all = json!({
        "kind": kind,
        "key": hexed(key().expose()),
        "project": PROJECT,
        "holder": holder.as_str(),
        "id": hexed(id.as_bytes()),
        "generation": generation,
    });
    for (name, value) in more {
        all[*name] = value.clone();
    }
    all
}

fn all() -> Vec<(&'static str, Vec<u8>, Value)> {
    let sealer = sealer();
    let check = hexed(&sealer.mark().check.0);
    let mut all = vec![
        ("bound", sealer.bound.clone(), json_of("bound", &[("check", check)])),
        ("reference", sealed_reference().encode().unwrap().to_vec(), json_of("reference", &[])),
    ];
    let offer = SealedOffer { reference: sealed_reference(), key: key() };
    all.push(("offer", offer.encode().unwrap().to_vec(), json_of("offer", &[])));
    let places = [
        ("piece-only", PieceId { part: 0, piece: 0, is_last: true }, &b"one piece"[..]),
        ("piece-empty", PieceId { part: 2, piece: 0, is_last: true }, b""),
        ("piece-far", PieceId { part: 65_535, piece: 1 << 43, is_last: false }, &[0; 40]),
    ];
    for (name, id, content) in places {
        let about = [
            ("part", json!(id.part)),
            ("piece", json!(id.piece)),
            ("last", json!(id.is_last)),
            ("content", hexed(content)),
        ];
        all.push((name, sealer.seal(id, content.to_vec()), json_of("piece", &about)));
    }
    // Long ones by the digest of what travels; the content counts up and begins again after 250.
    for (name, parts) in [
        ("digest-pieces", &[SEALED_CONTENT - 1, SEALED_CONTENT, SEALED_CONTENT + 1][..]),
        ("digest-one", &[2 * SEALED_CONTENT]),
    ] {
        let lens: Vec<u64> = parts.iter().map(|len| *len as u64).collect();
        let (layout, mut digester, mut at) = (Layout::new(&lens, None), blake3::Hasher::new(), 0);
        while let Some(spot) = layout.spot(at) {
            let content = spot.content.map(|at| (at % 251) as u8).collect();
            digester.update(&sealer.seal(spot.id, content));
            at = spot.sealed.end;
        }
        let about = [("parts", json!(parts)), ("size", json!(at))];
        let digest = digester.finalize().as_bytes().to_vec();
        all.push((name, digest, json_of("digest", &about)));
    }
    all
}

#[test]
fn sealed_files_hold_what_is_sealed_with_what_stands_beside_them() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let directory = directory.join("../tests/vectors/transfer/sealed");
    let mut expected = Vec::new();
    for (number, (name, bytes, json)) in all().into_iter().enumerate() {
        let stem = format!("{:02}-{name}", number + 1);
        let json = crate::testing::pretty(&json) + "\n";
        expected.push((format!("{stem}.bin"), bytes));
        expected.push((format!("{stem}.json"), json.into_bytes()));
    }
    if std::env::var_os("CELLBUS_WRITE_VECTORS").is_some_and(|value| value == "1") {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in &expected {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    let found = fs::read_dir(&directory).unwrap().count();
    assert_eq!(found, expected.len());
    for (name, bytes) in expected {
        assert!(fs::read(directory.join(&name)).unwrap() == bytes, "{name} differs");
    }
}

#[test]
fn the_cipher_is_that_of_rfc_8452() {
    // Appendix C.2, the second vector: one block of eight bytes, no associated data.
    let mut key = [0; 32];
    key[0] = 1;
    let mut nonce = [0; 12];
    nonce[0] = 3;
    let cipher = Aes256GcmSiv::new(&Key::<Aes256GcmSiv>::from(key));
    let mut bytes = hex::decode("0100000000000000").unwrap();
    cipher.encrypt_in_place(&Nonce::from(nonce), &[], &mut bytes).unwrap();
    assert_eq!(hex::encode(bytes), "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28");
}
