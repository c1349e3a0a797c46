use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use cellbus_proto::transfer::{
    Audience, ContentKey, Digest, Layout, Part, Reference, SEALED_CONTENT, SEALED_PIECE,
    SealedOffer, Sealer, SignedReference, Stage, TransferId, sealed_len,
};

use super::{
    super::super::Blob,
    super::{super::error::SinkError, Found, Kind, Sink, Store, Syncing},
};

const PROJECT: &str = "study";
const PARTS: [usize; 4] = [7, 2 * SEALED_CONTENT + 100, 0, SEALED_CONTENT + 3];

fn key() -> ContentKey {
    ContentKey::from_bytes([5; 32])
}

fn content() -> Vec<u8> {
    let len: usize = PARTS.iter().sum();
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn reference(is_known: bool) -> Reference {
    let (holder, id) = ("server".parse().unwrap(), TransferId::from_bytes([1; 16]));
    let sealer = Sealer::new(&key(), PROJECT, &holder, &id, 1);
    let parts = PARTS.iter().map(|len| Part { name: "p".to_owned(), len: *len as u64 });
    let size: u64 = PARTS.iter().map(|len| sealed_len(*len as u64).unwrap()).sum();
    Reference {
        id,
        holder,
        target: "model/weights".parse().unwrap(),
        size: is_known.then_some(size),
        size_max: 1 << 40,
        digest: None,
        generation: 1,
        content_type: None,
        headers: Blob(Vec::new()),
        parts: if is_known { parts.collect() } else { Vec::new() },
        audience: Audience::Receivers(BTreeSet::from(["site-1".parse().unwrap()])),
        expires_unix: u64::MAX,
        unix_ms: 0,
        seal: Some(sealer.mark()),
    }
}

fn sealed(reference: &Reference) -> Vec<u8> {
    let lens: Vec<u64> = reference.parts.iter().map(|part| part.len).collect();
    let layout = Layout::new(&lens, Some(content().len() as u64));
    let Reference { holder, id, .. } = reference;
    let sealer = Sealer::new(&key(), PROJECT, holder, id, 1);
    let (mut all, content) = (Vec::new(), content());
    while let Some(spot) = layout.spot(all.len() as u64) {
        let place = spot.content.start as usize..spot.content.end as usize;
        all.extend(sealer.seal(spot.id, content[place].to_vec()));
    }
    all
}

/// What a sink within has been given.
#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    /// Below this it is durable.
    synced: u64,
    /// Bytes that it takes.
    room: usize,
    committed: Option<u64>,
    found: Option<Found>,
}

struct Within(Arc<Mutex<Seen>>);

impl Store for Within {
    fn open(&mut self, _: &SignedReference) -> Result<Option<Found>, SinkError> {
        Ok(self.0.lock().unwrap().found)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let mut seen = self.0.lock().unwrap();
        if seen.bytes.len() + bytes.len() > seen.room {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(SinkError::io("write", "disk")(full));
        }
        seen.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, to: u64) -> Option<Syncing> {
        self.0.lock().unwrap().synced = to;
        None
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        self.0.lock().unwrap().bytes.truncate(usize::try_from(to).unwrap());
        Ok(())
    }

    fn read_back(&mut self, offset: u64, want: usize) -> Result<Bytes, SinkError> {
        // Less than was asked for, as a file may give.
        let (seen, at) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
        let end = (at + want.min(100_000)).min(seen.bytes.len());
        Ok(Bytes::copy_from_slice(&seen.bytes[at.min(end)..end]))
    }

    fn commit(&mut self, size: u64, _: Digest) -> Result<(), SinkError> {
        self.0.lock().unwrap().committed = Some(size);
        Ok(())
    }

    fn describe(&self) -> String {
        "within".to_owned()
    }
}

fn opening(reference: &Reference, seen: &Arc<Mutex<Seen>>) -> Box<dyn Store> {
    let sink = Sink::store(Within(Arc::clone(seen)));
    match sink.opening(reference, PROJECT, Some(&key())).unwrap().0 {
        Kind::Store(store) => store,
        Kind::Writer(..) => panic!("it was a store"),
    }
}

fn signed(reference: &Reference) -> SignedReference {
    SignedReference { reference: reference.clone(), signature: Blob(vec![9; 64]) }
}

fn roomy() -> Arc<Mutex<Seen>> {
    Arc::new(Mutex::new(Seen { room: usize::MAX, ..Seen::default() }))
}

#[test]
fn what_is_durable_within_is_whole_pieces_and_a_way_back_leads_to_any_of_them() {
    for is_known in [true, false] {
        let reference = reference(is_known);
        let sealed = sealed(&reference);
        let seen = roomy();
        let mut store = opening(&reference, &seen);
        assert_eq!(store.open(&signed(&reference)).unwrap(), None);
        let places = [100, SEALED_PIECE, SEALED_PIECE + 40_000, 2 * SEALED_PIECE + 1];
        let mut at = 0;
        for place in places {
            store.write(&sealed[at..place]).unwrap();
            at = place;
            assert!(store.sync(at as u64).is_none());
            let seen = seen.lock().unwrap();
            let durable = seen.synced as usize;
            assert!(durable == seen.bytes.len() && seen.bytes == content()[..durable]);
        }
        // The three last ones are kept, and the beginning.
        for place in [places[3], places[2], places[1]] {
            store.write(&sealed[at..at + 3 * 1000]).unwrap();
            store.rewind(place as u64).unwrap();
            at = place;
        }
        let too_far = store.rewind(places[0] as u64);
        assert!(matches!(too_far, Err(SinkError::NoWayBack)));
        store.write(&sealed[at..]).unwrap();
        store.rewind(0).unwrap();
        assert!(seen.lock().unwrap().bytes.is_empty());
        store.write(&sealed).unwrap();
        store.commit(sealed.len() as u64, Digest::of(&sealed)).unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.bytes == content(), "{is_known}");
        assert_eq!(seen.committed, Some(content().len() as u64));
    }
}

#[test]
fn a_full_sink_is_gone_on_with_from_what_is_durable() {
    for is_known in [true, false] {
        let reference = reference(is_known);
        let sealed = sealed(&reference);
        let seen = roomy();
        let mut store = opening(&reference, &seen);
        store.open(&signed(&reference)).unwrap();
        let durable = SEALED_PIECE + 5000;
        store.write(&sealed[..durable]).unwrap();
        assert!(store.sync(durable as u64).is_none());
        seen.lock().unwrap().room = SEALED_CONTENT + 10;
        let full = store.write(&sealed[durable..]).unwrap_err();
        assert_eq!(full.status(), cellbus_proto::status::Status::StorageFull);
        seen.lock().unwrap().room = usize::MAX;
        store.rewind(durable as u64).unwrap();
        store.write(&sealed[durable..]).unwrap();
        // The last piece of what has no known size is written at the commit, which is tried again.
        if !is_known {
            seen.lock().unwrap().room = 0;
            assert!(store.commit(sealed.len() as u64, Digest::of(&sealed)).is_err());
            seen.lock().unwrap().room = usize::MAX;
        }
        for _ in 0..2 {
            store.commit(sealed.len() as u64, Digest::of(&sealed)).unwrap();
            assert!(seen.lock().unwrap().bytes == content(), "{is_known}");
        }
    }
}

#[test]
fn after_a_restart_the_pieces_are_sealed_again_to_the_same_bytes() {
    for is_known in [true, false] {
        let reference = reference(is_known);
        let sealed = sealed(&reference);
        for durable in [1, 7, 8, SEALED_CONTENT, 2 * SEALED_CONTENT + 99, content().len()] {
            let seen = roomy();
            let stage = Stage::Receiving;
            seen.lock().unwrap().found = Some(Found { durable: durable as u64, stage });
            seen.lock().unwrap().bytes = content()[..durable].to_vec();
            let mut store = opening(&reference, &seen);
            let found = store.open(&signed(&reference)).unwrap();
            let begins = found.map_or(0, |found| usize::try_from(found.durable).unwrap());
            assert!(begins <= sealed.len());
            let kept = seen.lock().unwrap().bytes.len();
            assert!(kept <= durable && durable - kept < SEALED_CONTENT, "{kept} of {durable}");
            let mut again = Vec::new();
            while again.len() < begins {
                let bytes = store.read_back(again.len() as u64, 1 << 20).unwrap();
                assert!(!bytes.is_empty());
                again.extend_from_slice(&bytes);
            }
            assert!(again == sealed[..begins], "{durable} {is_known}");
            store.write(&sealed[begins..]).unwrap();
            store.commit(sealed.len() as u64, Digest::of(&sealed)).unwrap();
            assert!(seen.lock().unwrap().bytes == content(), "{durable} {is_known}");
        }
    }
}

#[test]
fn a_part_that_is_shorter_than_was_noted_is_lost() {
    let reference = reference(true);
    let seen = roomy();
    let durable = SEALED_CONTENT as u64 + 7;
    seen.lock().unwrap().found = Some(Found { durable, stage: Stage::Receiving });
    seen.lock().unwrap().bytes = content()[..1000].to_vec();
    let mut store = opening(&reference, &seen);
    let found = store.open(&signed(&reference)).unwrap().unwrap();
    assert_eq!(found.durable, sealed_len(7).unwrap() + SEALED_PIECE as u64);
    assert!(!store.read_back(0, 1 << 20).unwrap().is_empty());
    assert!(store.read_back(sealed_len(7).unwrap(), 1 << 20).unwrap().is_empty());
}

#[test]
fn what_was_verified_before_a_restart_is_told_in_bytes_that_travelled() {
    for is_known in [true, false] {
        let reference = reference(is_known);
        let sealed = sealed(&reference);
        let seen = roomy();
        let stage = Stage::Verified(Digest::of(&sealed));
        let durable = content().len() as u64;
        seen.lock().unwrap().found = Some(Found { durable, stage });
        let found = opening(&reference, &seen).open(&signed(&reference)).unwrap();
        assert_eq!(found, Some(Found { durable: sealed.len() as u64, stage }));
    }
}

#[test]
fn the_end_is_not_taken_for_granted() {
    let reference = reference(false);
    let sealed = sealed(&reference);
    let seen = roomy();
    let mut store = opening(&reference, &seen);
    store.open(&signed(&reference)).unwrap();
    store.write(&sealed[..2 * SEALED_PIECE]).unwrap();
    let cut = store.commit(2 * SEALED_PIECE as u64, Digest::of(b"")).unwrap_err();
    assert!(matches!(cut, SinkError::NotOpened(_)), "{cut}");
    assert_eq!(seen.lock().unwrap().committed, None);
    let offer = SealedOffer { reference: signed(&reference), key: key() };
    assert!(!format!("{offer:?} {}", store.describe()).contains("5, 5"));
}
