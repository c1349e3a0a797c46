use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::transfer::{
    BadReference, Part, SignedReference,
    reference::tests::{reference, signed as signed_plain},
};

const PROJECT: &str = "study";

pub(super) fn key(byte: u8) -> ContentKey {
    ContentKey::from_bytes([byte; 32])
}

fn id(byte: u8) -> TransferId {
    TransferId::from_bytes([byte; 16])
}

fn sealer(generation: u64) -> Sealer {
    Sealer::new(&key(7), PROJECT, &"server".parse().unwrap(), &id(1), generation)
}

pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// All pieces of parts of these lengths, and the content.
pub(super) fn sealed(sealer: &Sealer, parts: &[usize]) -> (Vec<u8>, Vec<u8>) {
    let lens: Vec<u64> = parts.iter().map(|len| *len as u64).collect();
    let layout = Layout::new(&lens, None);
    let content = content(parts.iter().sum());
    let mut all = Vec::new();
    while let Some(spot) = layout.spot(all.len() as u64) {
        let range = spot.content.start as usize..spot.content.end as usize;
        all.extend(sealer.seal(spot.id, content[range].to_vec()));
    }
    (all, content)
}

fn sealed_reference(parts: &[usize], generation: u64) -> Reference {
    let mut reference = Reference {
        holder: "server".parse().unwrap(),
        id: id(1),
        generation,
        digest: None,
        parts: Vec::new(),
        seal: Some(sealer(generation).mark()),
        ..reference()
    };
    for (number, len) in parts.iter().enumerate() {
        reference.parts.push(Part { name: format!("part {number}"), len: *len as u64 });
    }
    let lens = parts.iter().map(|len| sealed_len(*len as u64).unwrap());
    reference.size = Some(lens.sum());
    reference.size_max = reference.size.unwrap();
    reference
}

fn signed(reference: &Reference) -> SignedReference {
    SignedReference { reference: reference.clone(), ..signed_plain() }
}

fn opener(reference: &Reference) -> Opener {
    let sealer = Sealer::of(reference, PROJECT, Some(&key(7))).unwrap().unwrap();
    Opener::new(Arc::new(sealer), reference)
}

/// The content of `sealed`, which comes in pieces of `cut` bytes.
fn open(mut opener: Opener, sealed: &[u8], cut: usize) -> Result<Vec<u8>, NotOpened> {
    let mut all = Vec::new();
    for mut bytes in sealed.chunks(cut) {
        while let Some(content) = opener.push(&mut bytes)? {
            all.extend(content);
            assert_eq!(opener.opened(), all.len() as u64);
        }
    }
    all.extend(opener.finish()?.unwrap_or_default());
    Ok(all)
}

const OBJECT: [usize; 5] = [3, 0, SEALED_CONTENT, 2 * SEALED_CONTENT + 5, 2 * SEALED_CONTENT];

#[test]
fn what_was_sealed_is_opened_however_it_is_cut() {
    for parts in [&OBJECT[..], &[0], &[1], &[SEALED_CONTENT], &[SEALED_CONTENT + 1]] {
        let reference = sealed_reference(parts, 1);
        let (bytes, content) = sealed(&sealer(1), parts);
        assert_eq!(Some(bytes.len() as u64), reference.size);
        assert_eq!(reference.content_size(), Some(content.len() as u64));
        for cut in [1000, 65_536, SEALED_PIECE, SEALED_PIECE + 1, bytes.len()] {
            assert!(open(opener(&reference), &bytes, cut).as_ref() == Ok(&content), "{parts:?}");
        }
    }
}

#[test]
fn of_unknown_size_it_is_opened_too_and_no_piece_is_given_out_before_it_is_known_whether_it_is_last()
 {
    for len in [0, 1, SEALED_CONTENT - 1, SEALED_CONTENT, SEALED_CONTENT + 1, 2 * SEALED_CONTENT] {
        let (bytes, content) = sealed(&sealer(1), &[len]);
        let unknown = Reference { size: None, parts: vec![], ..sealed_reference(&[len], 1) };
        for cut in [1000, SEALED_PIECE, bytes.len()] {
            assert!(open(opener(&unknown), &bytes, cut).as_ref() == Ok(&content), "{len} {cut}");
        }
        if len > SEALED_CONTENT {
            let whole = &bytes[..SEALED_PIECE];
            assert!(
                open(opener(&unknown), whole, whole.len()).is_err(),
                "{len}: cut after a piece"
            );
        }
        for cut in [1, SEALED_TAG, bytes.len()].map(|cut| bytes.len().saturating_sub(cut)) {
            assert!(open(opener(&unknown), &bytes[..cut], 65_536).is_err(), "{len} cut to {cut}");
        }
    }
}

#[test]
fn sealing_again_gives_the_same_bytes() {
    assert!(sealed(&sealer(1), &OBJECT).0 == sealed(&sealer(1), &OBJECT).0);
}

#[test]
fn every_bit_counts() {
    let reference = sealed_reference(&[100], 1);
    let (bytes, _) = sealed(&sealer(1), &[100]);
    for bit in 0..bytes.len() * 8 {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert!(open(opener(&reference), &other, other.len()).is_err(), "bit {bit}");
    }
}

#[test]
fn pieces_that_are_exchanged_left_out_repeated_or_of_another_part_are_not_opened() {
    const P: usize = SEALED_PIECE;
    let parts = [3 * SEALED_CONTENT, 3 * SEALED_CONTENT];
    let reference = sealed_reference(&parts, 1);
    let (bytes, _) = sealed(&sealer(1), &parts);
    let made_of = |order: [usize; 6]| -> Vec<u8> {
        order.iter().flat_map(|piece| bytes[piece * P..(piece + 1) * P].to_vec()).collect()
    };
    assert!(open(opener(&reference), &made_of([0, 1, 2, 3, 4, 5]), P).is_ok());
    let wrong = [
        ("exchanged", [1, 0, 2, 3, 4, 5], (0, 0)),
        ("repeated", [0, 0, 2, 3, 4, 5], (0, 1)),
        ("the last one before the end", [0, 2, 2, 3, 4, 5], (0, 1)),
        ("none that is last", [0, 1, 1, 3, 4, 5], (0, 2)),
        ("of another part", [0, 1, 2, 0, 1, 2], (1, 0)),
        ("parts exchanged", [3, 4, 5, 0, 1, 2], (0, 0)),
    ];
    for (why, order, (part, piece)) in wrong {
        let refused = open(opener(&reference), &made_of(order), P);
        assert!(refused == Err(NotOpened { part, piece }), "{why}");
    }
    for cut in [0, 1, P, 3 * P, bytes.len() - 1] {
        assert!(open(opener(&reference), &bytes[..cut], P).is_err(), "cut to {cut}");
    }
    let long = [&bytes[..], &[0]].concat();
    assert!(open(opener(&reference), &long, P).is_err(), "one byte more");
}

#[test]
fn a_part_is_opened_alone() {
    let (bytes, content) = sealed(&sealer(1), &OBJECT);
    let reference = sealed_reference(&OBJECT, 1);
    let mut opener = opener(&reference);
    let start: u64 = OBJECT[..3].iter().map(|len| sealed_len(*len as u64).unwrap()).sum();
    let end = start + sealed_len(OBJECT[3] as u64).unwrap();
    opener.go_to_piece(start);
    let (mut input, mut part) = (&bytes[start as usize..end as usize], Vec::new());
    while let Some(more) = opener.push(&mut input).unwrap() {
        part.extend(more);
    }
    let before: usize = OBJECT[..3].iter().sum();
    assert!(part == content[before..before + OBJECT[3]]);
    assert_eq!(opener.position(), end);
}

#[test]
fn what_is_of_another_transfer_generation_holder_project_or_key_is_not_opened() {
    let place = PieceId { part: 0, piece: 0, is_last: true };
    let bytes = sealer(1).seal(place, b"content".to_vec());
    let server = "server".parse().unwrap();
    assert_eq!(sealer(1).open(place, bytes.clone()).unwrap(), b"content");
    let others = [
        ("generation", sealer(2)),
        ("key", Sealer::new(&key(8), PROJECT, &server, &id(1), 1)),
        ("project", Sealer::new(&key(7), "other", &server, &id(1), 1)),
        ("holder", Sealer::new(&key(7), PROJECT, &"site-1".parse().unwrap(), &id(1), 1)),
        ("transfer", Sealer::new(&key(7), PROJECT, &server, &id(2), 1)),
    ];
    for (what, other) in others {
        assert!(other.open(place, bytes.clone()).is_err(), "{what}");
        assert!(other.seal(place, b"content".to_vec()) != bytes, "{what}");
        assert_ne!(other.mark(), sealer(1).mark(), "{what}");
    }
}

#[test]
fn a_key_that_does_not_go_with_the_reference_is_refused_before_anything_is_opened() {
    let of = |reference: &Reference, key: Option<&ContentKey>| {
        Sealer::of(reference, PROJECT, key).map(|sealer| sealer.is_some())
    };
    let sealed = sealed_reference(&OBJECT, 1);
    assert_eq!(of(&sealed, Some(&key(7))), Ok(true));
    assert_eq!(of(&sealed, None), Err(KeyError::Missing));
    assert_eq!(of(&sealed, Some(&key(8))), Err(KeyError::Wrong));
    let later = Reference { generation: 2, ..sealed.clone() };
    assert_eq!(of(&later, Some(&key(7))), Err(KeyError::Wrong));
    assert_eq!(of(&reference(), None), Ok(false));
    assert_eq!(of(&reference(), Some(&key(7))), Err(KeyError::NotSealed));
    assert_eq!(KeyError::Wrong.status(), Status::SealKey);
    assert_eq!(KeyError::NotSealed.status(), Status::NotSealed);
}

#[test]
fn what_is_sealed_stands_in_what_the_holder_signs() {
    let sealed = sealed_reference(&OBJECT, 1);
    let plain = Reference { seal: None, parts: vec![], ..sealed.clone() };
    assert_eq!(plain.check(), Ok(()));
    assert_ne!(
        sealed.signable(PROJECT),
        Reference { seal: None, ..sealed.clone() }.signable(PROJECT)
    );
    let bytes = signed(&sealed).encode().unwrap();
    assert_eq!(SignedReference::decode(&bytes).unwrap().reference, sealed);
    let unknown = Seal { suite: 2, ..sealed.seal.unwrap() };
    assert_eq!(
        Reference { seal: Some(unknown), ..sealed.clone() }.check(),
        Err(BadReference::Seal)
    );
    let mut short = sealed.clone();
    short.size = short.size.map(|size| size - 1);
    assert_eq!(short.check(), Err(BadReference::Parts));
    let no_size = Reference { size: Some(3), parts: vec![], ..sealed };
    assert_eq!(no_size.check(), Err(BadReference::Seal));
}

#[test]
fn neither_key_nor_offer_shows_the_key() {
    let reference = signed(&sealed_reference(&OBJECT, 1));
    let offer = SealedOffer { reference, key: key(7) };
    let shown = format!("{:?} {:?} {offer:?}", key(7), sealer(1));
    assert!(!shown.contains("7, 7") && !shown.contains("0707") && shown.contains("***"), "{shown}");
}

#[test]
fn an_offer_is_read_as_it_was_written_and_offers_nothing_that_is_not_sealed() {
    let offer = SealedOffer { reference: signed(&sealed_reference(&OBJECT, 1)), key: key(7) };
    let bytes = offer.encode().unwrap();
    assert_eq!(SealedOffer::decode(&bytes).unwrap(), offer);
    for cut in 0..bytes.len() {
        assert!(SealedOffer::decode(&bytes[..cut]).is_err(), "{cut}");
    }
    assert!(SealedOffer::decode(&[&bytes[..], &[0xc0]].concat()).is_err());
    let plain = SealedOffer { reference: signed(&reference()), key: key(7) };
    let refused = SealedOffer::decode(&plain.encode().unwrap()).unwrap_err();
    assert_eq!(refused.status, Status::BadFrame);
    let long = vec![0; SealedOffer::BYTES_MAX + 1];
    assert_eq!(SealedOffer::decode(&long).unwrap_err().status, Status::TooLarge);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn it_goes_on_from_any_mark(
        marks in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        back in any::<prop::sample::Index>(),
    ) {
        let parts = [5, SEALED_CONTENT + 9, 0, 17];
        let (bytes, content) = sealed(&sealer(1), &parts);
        let mut opener = opener(&sealed_reference(&parts, 1));
        let mut places: Vec<usize> = marks.iter().map(|mark| mark.index(bytes.len() + 1)).collect();
        places.sort_unstable();
        let (mut at, mut kept, mut all) = (0, Vec::new(), Vec::new());
        for place in places {
            let mut input = &bytes[at..place];
            while let Some(content) = opener.push(&mut input).unwrap() {
                all.extend(content);
            }
            at = place;
            prop_assert_eq!(opener.position(), at as u64);
            kept.push((at, all.len(), opener.mark()));
        }
        let (at, len, mark) = back.get(&kept);
        opener.go_to(mark);
        all.truncate(*len);
        prop_assert_eq!(opener.opened(), *len as u64);
        let mut input = &bytes[*at..];
        while let Some(content) = opener.push(&mut input).unwrap() {
            all.extend(content);
        }
        prop_assert_eq!(opener.finish(), Ok(None));
        prop_assert!(all == content);
    }
}
