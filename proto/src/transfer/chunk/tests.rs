use proptest::prelude::*;

use super::*;
use crate::{
    codec::Octets,
    transfer::{Digest, TransferId},
};

fn trailer() -> Trailer {
    Trailer { size: 10, digest: Digest::of(b"x"), generation: 1 }
}

fn receipt() -> Receipt {
    Receipt {
        id: TransferId::from_bytes([1; 16]),
        generation: 1,
        nonce: Octets([2; 16]),
        size: 10,
        digest: Some(Digest::of(b"x")),
        outcome: 0,
        signature: None,
    }
}

/// Everything that is read from `stream` in pieces that end at `cuts`, data joined.
fn read(stream: &[u8], cuts: &[usize], max: u64) -> Result<(Vec<u8>, Vec<Piece>), CodecError> {
    let (mut reader, mut data, mut rest) = (PieceReader::new(true), Vec::new(), Vec::new());
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    ends.extend([0, stream.len()]);
    ends.sort_unstable();
    for pair in ends.windows(2) {
        let mut input = Bytes::copy_from_slice(&stream[pair[0]..pair[1]]);
        while let Some(piece) = reader.read(&mut input, max)? {
            match piece {
                Piece::Data(bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() as u64 <= max);
                    data.extend_from_slice(&bytes);
                }
                Piece::Trailer(_) | Piece::Settlement(_) => rest.push(piece),
            }
        }
        assert!(input.is_empty());
    }
    Ok((data, rest))
}

proptest! {
    #[test]
    fn a_stream_is_read_the_same_however_it_is_cut(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        max in 1u64..400,
    ) {
        let mut stream = Vec::new();
        for chunk in &chunks {
            stream.extend_from_slice(&chunk_head(chunk.len()));
            stream.extend_from_slice(chunk);
        }
        stream.extend_from_slice(&trailer_bytes(&trailer()));
        stream.push(Settlement::Settled.to_wire());
        let (data, rest) = read(&stream, &cuts, max).unwrap();
        prop_assert_eq!(data, chunks.concat());
        let expected = [Piece::Trailer(trailer()), Piece::Settlement(Settlement::Settled)];
        prop_assert_eq!(rest, expected);
    }

    #[test]
    fn a_receipt_is_read_the_same_however_it_is_cut(cut in 0usize..64) {
        let stream = receipt().to_stream();
        let mut reader = ReceiptReader::default();
        let (mut first, mut second) = (stream.slice(..cut), stream.slice(cut..));
        prop_assert_eq!(reader.read(&mut first), Ok(None));
        prop_assert_eq!(reader.read(&mut second), Ok(Some(receipt())));
        prop_assert_eq!(reader.read(&mut Bytes::new()), Ok(None));
        prop_assert!(reader.read(&mut Bytes::from_static(b"x")).is_err());
    }
}

#[test]
fn data_is_a_slice_of_what_came_in_and_waits_where_nobody_takes_it() {
    let mut input = Bytes::from([&chunk_head(5)[..], b"hello"].concat());
    let place = input[4..].as_ptr();
    let mut reader = PieceReader::new(true);
    assert_eq!(reader.read(&mut input, 0), Ok(None));
    assert_eq!(&input[..], b"hello");
    match reader.read(&mut input, 3) {
        Ok(Some(Piece::Data(data))) => {
            assert_eq!((&data[..], data.as_ptr()), (&b"hel"[..], place));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(reader.read(&mut input, 9), Ok(Some(Piece::Data(Bytes::from_static(b"lo")))));
}

#[test]
fn lengths_are_refused_before_anything_is_kept_for_them() {
    let read = |stream: &[u8], data| {
        let mut input = Bytes::copy_from_slice(stream);
        PieceReader::new(data).read(&mut input, u64::MAX)
    };
    for len in [CHUNK_MAX as u32 + 1, u32::MAX] {
        assert_eq!(read(&len.to_be_bytes(), true).unwrap_err().status, Status::TooLarge);
    }
    assert_eq!(read(&[0, 0, 0, 0, 0, 65], true).unwrap_err().status, Status::TooLarge);
    assert_eq!(read(&[0, 0, 0, 0, 0, 0], true).unwrap_err().status, Status::BadFrame);
    assert_eq!(read(&[2], false).unwrap_err().status, Status::BadFrame);
    let mut receipts = ReceiptReader::default();
    let long = receipts.read(&mut Bytes::from_static(&[2, 1])).unwrap_err();
    assert_eq!(long.status, Status::TooLarge);
}

#[test]
fn nothing_follows_the_last_word_and_the_end_of_a_stream_is_no_word() {
    let mut reader = PieceReader::new(false);
    assert_eq!(reader.read(&mut Bytes::new(), 9), Ok(None));
    assert!(!reader.is_done());
    let refused = Ok(Some(Piece::Settlement(Settlement::Refused)));
    assert_eq!(reader.read(&mut Bytes::from_static(&[0]), 9), refused);
    assert!(reader.is_done());
    assert!(reader.read(&mut Bytes::from_static(&[1]), 9).is_err());
}
