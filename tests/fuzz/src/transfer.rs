//! Transfers: what a holder hands out and writes, what a receiver asks and writes, and what is left of
//! a part after a restart.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use cellbus_proto::{
    codec::CodecError,
    status::Status,
    transfer::{
        Answer, Digest, Fetch, PartState, Piece, PieceReader, Pull, PullSettings, Receipt,
        ReceiptReader, Reference, SealedOffer, Settlement, SignedReference, Step, Trailer,
    },
};

use crate::cuts;

/// One body, one direction of one stream, or one file.
///
/// # Panics
/// When a promise of the codec, or of the receiver, is broken.
pub fn transfer(data: &[u8]) {
    macro_rules! spelled_once {
        ($($body:ident),*) => {$(
            if let Ok(value) = $body::decode(data) {
                assert_eq!(value.encode(), data, "a body with a second spelling");
            }
        )*};
    }
    spelled_once!(Fetch, Answer, Trailer, PartState);
    if let Ok(signed) = SignedReference::decode(data) {
        assert_eq!(signed.encode().expect("what was read can be written"), data);
        assert_eq!(signed.reference.check(), Ok(()));
    }
    if let Ok(offer) = SealedOffer::decode(data) {
        assert_eq!(offer.encode().expect("what was read can be written"), data);
    }
    if let Ok(receipt) = Receipt::decode(data) {
        assert_eq!(&receipt.to_stream()[2..], data);
    }
    assert_eq!(receipts(data, std::iter::once(data.len())), receipts(data, cuts(data)));
    let whole = pieces(data, std::iter::once(data.len()), u64::MAX);
    assert_eq!(whole, pieces(data, cuts(data), 7), "the cuts make a difference");
    pull(data);
}

type Read = (Vec<u8>, Option<Trailer>, Option<Settlement>, Option<Status>);

/// What a holder says whose bytes arrive in pieces, and why it is refused where it is.
fn pieces(data: &[u8], mut cuts: impl Iterator<Item = usize>, max: u64) -> Read {
    let mut reader = PieceReader::new(true);
    let mut read: Read = (Vec::new(), None, None, None);
    let mut rest = data;
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(rest.len()).min(rest.len());
        let (chunk, after) = rest.split_at(cut);
        rest = after;
        let mut input = Bytes::copy_from_slice(chunk);
        loop {
            match reader.read(&mut input, max) {
                Ok(Some(Piece::Data(bytes))) => read.0.extend_from_slice(&bytes),
                Ok(Some(Piece::Trailer(trailer))) => read.1 = Some(trailer),
                Ok(Some(Piece::Settlement(settlement))) => read.2 = Some(settlement),
                Ok(None) => break,
                Err(CodecError { status, .. }) => {
                    read.3 = Some(status);
                    return read;
                }
            }
        }
        assert!(input.is_empty(), "bytes are left that nobody asked to leave");
    }
    read
}

fn receipts(data: &[u8], mut cuts: impl Iterator<Item = usize>) -> Result<Option<Receipt>, Status> {
    let (mut reader, mut found, mut rest) = (ReceiptReader::default(), None, data);
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(rest.len()).min(rest.len());
        let (chunk, after) = rest.split_at(cut);
        rest = after;
        let mut input = Bytes::copy_from_slice(chunk);
        while !input.is_empty() {
            let receipt = reader.read(&mut input).map_err(|error| error.status)?;
            found = receipt.or(found);
        }
    }
    Ok(found)
}

/// A receiver commits nothing but what has the digest that its holder named, whatever it is sent.
fn pull(data: &[u8]) {
    let now = Instant::now();
    let reference = Reference {
        id: cellbus_proto::transfer::TransferId::from_bytes([1; 16]),
        holder: "server".parse().expect("is a name"),
        target: "model/weights".parse().expect("is a target"),
        size: None,
        size_max: 1 << 20,
        digest: None,
        generation: 1,
        content_type: None,
        headers: cellbus_proto::codec::body::Blob(Vec::new()),
        parts: Vec::new(),
        audience: cellbus_proto::transfer::Audience::Job("job-1".parse().expect("is a job")),
        expires_unix: u64::MAX,
        unix_ms: 0,
        seal: None,
    };
    let settings = PullSettings { sync_every: 16, ..PullSettings::default() };
    let mut pull = Pull::new(now, Arc::new(reference), settings);
    let Step::Open(Fetch { id, generation, offset, .. }) = pull.poll(now, || [1; 16]) else {
        panic!("it does not begin");
    };
    let digest = pull.reference().digest;
    let answer =
        Answer { id, generation, size: None, size_max: 1 << 20, offset, data: true, digest };
    pull.handle_answer(now, &answer).expect("it is the answer");
    let (mut input, mut sink) = (Bytes::copy_from_slice(data), Vec::new());
    loop {
        if let Ok(Some(bytes)) = pull.handle_bytes(now, &mut input) {
            sink.extend_from_slice(&bytes);
        }
        match pull.poll(now, || [2; 16]) {
            Step::Sync { to } => pull.handle_synced(now, to),
            Step::Rewind { to } => sink.truncate(usize::try_from(to).expect("it is short")),
            Step::Commit { size, digest } => {
                assert_eq!((size, digest), (sink.len() as u64, Digest::of(&sink)));
                return;
            }
            Step::Wait { .. } if pull.takes_bytes() && !input.is_empty() => {}
            Step::Wait { .. } | Step::Open(_) | Step::Done(_) => return,
            Step::Close | Step::Confirm(_) | Step::Rebuild { .. } | Step::Digest => {}
        }
    }
}
