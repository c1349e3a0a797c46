//! Many small messages in one payload, and what became of each.
//!
//! ```text
//!  batch     count u32 │ length u32, bytes │ length u32, bytes │ ..
//!  outcomes  count u32 │ status u8, length u32, bytes │ ..           status 0: done, the bytes are the reply
//! ```
//! Numbers are big endian. Nothing may follow the last item.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::status::Status;

/// Items in one batch.
pub const ITEMS_MAX: usize = 1024;

/// Bytes that say how many items there are.
const COUNT: usize = 4;

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was handled; this is the reply.
    Done(Bytes),
    /// It was refused or failed.
    Failed {
        /// Why.
        status: Status,
        /// What goes with the status, as in a return.
        detail: Bytes,
    },
}

/// Why bytes are no batch, or items make none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// There are more items than one batch may have.
    #[error("a batch has at most {ITEMS_MAX} items")]
    TooMany,
    /// An item is longer than 32 bits can say.
    #[error("an item of a batch is too long")]
    TooLong,
    /// The bytes end before the batch does.
    #[error("the batch is cut off")]
    CutOff,
    /// Bytes follow the last item.
    #[error("bytes follow the last item of the batch")]
    Trailing,
    /// The number of a status has no meaning here.
    #[error("an outcome has an unknown status")]
    Status,
}

/// Puts items into one payload, in order.
///
/// # Errors
/// [`BatchError::TooMany`] for more than [`ITEMS_MAX`], [`BatchError::TooLong`] for one of 4 GiB.
pub fn encode(items: impl IntoIterator<Item = Bytes>) -> Result<Bytes, BatchError> {
    write(items.into_iter(), |item, out| put(&item, out))
}

/// A batch that is written as its items come, where they are known to be few and short.
#[derive(Debug)]
pub(crate) struct Writer {
    out: BytesMut,
    count: usize,
}

impl Writer {
    /// None so far; `bytes` is what all of them take at most, lengths included.
    pub(crate) fn new(bytes: usize) -> Self {
        let mut out = BytesMut::with_capacity(COUNT + bytes);
        out.put_u32(0);
        Self { out, count: 0 }
    }

    pub(crate) fn put(&mut self, item: &[u8]) {
        debug_assert!(self.count < ITEMS_MAX);
        self.count += 1;
        self.out.put_u32(item.len() as u32);
        self.out.put_slice(item);
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the items so far, lengths included.
    pub(crate) fn bytes(&self) -> usize {
        self.out.len() - COUNT
    }

    /// The batch, in not much more memory than it needs: it may wait for long.
    pub(crate) fn finish(mut self) -> Bytes {
        self.out[..COUNT].copy_from_slice(&(self.count as u32).to_be_bytes());
        match 2 * self.out.len() < self.out.capacity() {
            true => Bytes::copy_from_slice(&self.out),
            false => self.out.freeze(),
        }
    }
}

/// The items of a batch: slices of `batch`, nothing is copied.
///
/// # Errors
/// [`BatchError`]. The number of items that the batch claims sizes nothing before they are found.
pub fn decode(batch: Bytes) -> Result<Vec<Bytes>, BatchError> {
    read(batch, take)
}

/// Puts what became of the items of a batch into one payload, in their order.
///
/// # Errors
/// As [`encode`].
pub fn encode_outcomes(outcomes: impl IntoIterator<Item = Outcome>) -> Result<Bytes, BatchError> {
    write(outcomes.into_iter(), |outcome, out| {
        let (status, bytes) = match outcome {
            Outcome::Done(reply) => (0, reply),
            Outcome::Failed { status, detail } => (status as u8, detail),
        };
        out.put_u8(status);
        put(&bytes, out)
    })
}

/// What became of the items of a batch: slices of `outcomes`, nothing is copied.
///
/// # Errors
/// As [`decode`], and [`BatchError::Status`] for a status that this version does not know.
pub fn decode_outcomes(outcomes: Bytes) -> Result<Vec<Outcome>, BatchError> {
    read(outcomes, |rest| {
        let status = rest.try_get_u8().map_err(|_| BatchError::CutOff)?;
        let bytes = take(rest)?;
        match status {
            0 => Ok(Outcome::Done(bytes)),
            number => match Status::from_wire(number) {
                Some(status) => Ok(Outcome::Failed { status, detail: bytes }),
                None => Err(BatchError::Status),
            },
        }
    })
}

fn write<T>(
    items: impl Iterator<Item = T>,
    mut put_item: impl FnMut(T, &mut BytesMut) -> Result<(), BatchError>,
) -> Result<Bytes, BatchError> {
    let mut out = BytesMut::new();
    let mut count = 0u32;
    out.put_u32(0);
    for item in items {
        if count as usize == ITEMS_MAX {
            return Err(BatchError::TooMany);
        }
        count += 1;
        put_item(item, &mut out)?;
    }
    out[..4].copy_from_slice(&count.to_be_bytes());
    Ok(out.freeze())
}

fn read<T>(
    mut rest: Bytes,
    mut take_item: impl FnMut(&mut Bytes) -> Result<T, BatchError>,
) -> Result<Vec<T>, BatchError> {
    let count = rest.try_get_u32().map_err(|_| BatchError::CutOff)? as usize;
    if count > ITEMS_MAX {
        return Err(BatchError::TooMany);
    }
    let items: Result<Vec<T>, _> = (0..count).map(|_| take_item(&mut rest)).collect();
    if rest.is_empty() { items } else { items.and(Err(BatchError::Trailing)) }
}

fn put(bytes: &Bytes, out: &mut BytesMut) -> Result<(), BatchError> {
    out.put_u32(u32::try_from(bytes.len()).map_err(|_| BatchError::TooLong)?);
    out.put_slice(bytes);
    Ok(())
}

fn take(rest: &mut Bytes) -> Result<Bytes, BatchError> {
    let len = rest.try_get_u32().map_err(|_| BatchError::CutOff)? as usize;
    if len > rest.len() {
        return Err(BatchError::CutOff);
    }
    Ok(rest.split_to(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let status = prop::sample::select(Status::ALL);
        prop_oneof![
            bytes().prop_map(Outcome::Done),
            (status, bytes()).prop_map(|(status, detail)| Outcome::Failed { status, detail }),
        ]
    }

    #[test]
    fn the_layout_is_fixed() {
        let items = [Bytes::from_static(b"ab"), Bytes::new()];
        let batch = encode(items.clone()).unwrap();
        assert_eq!(batch, &b"\0\0\0\x02\0\0\0\x02ab\0\0\0\0"[..]);
        assert_eq!(decode(batch).unwrap(), items);
        let outcomes = [
            Outcome::Done(Bytes::from_static(b"ok")),
            Outcome::Failed { status: Status::NoHandler, detail: Bytes::from_static(b"?") },
        ];
        let wire = encode_outcomes(outcomes.clone()).unwrap();
        assert_eq!(wire, &b"\0\0\0\x02\0\0\0\0\x02ok\x03\0\0\0\x01?"[..]);
        assert_eq!(decode_outcomes(wire).unwrap(), outcomes);
    }

    #[test]
    fn a_batch_is_bounded_whatever_it_claims() {
        let item = || std::iter::repeat_n(Bytes::new(), ITEMS_MAX + 1);
        assert_eq!(encode(item()), Err(BatchError::TooMany));
        assert_eq!(encode(item().skip(1)).map(|batch| batch.len()), Ok(4 + 4 * ITEMS_MAX));
        for (claim, error) in [
            (&b"\xff\xff\xff\xff"[..], BatchError::TooMany),
            (b"\0\0\x04\x00", BatchError::CutOff),
            (b"\0\0\0\x01\xff\xff\xff\xff", BatchError::CutOff),
            (b"\0\0\0\x00x", BatchError::Trailing),
            (b"\0\0", BatchError::CutOff),
        ] {
            assert_eq!(decode(Bytes::from_static(claim)), Err(error), "{claim:?}");
        }
        let unknown = Bytes::from_static(b"\0\0\0\x01\xff\0\0\0\0");
        assert_eq!(decode_outcomes(unknown), Err(BatchError::Status));
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out(items in prop::collection::vec(bytes(), 0..40)) {
            prop_assert_eq!(decode(encode(items.clone()).unwrap()), Ok(items));
        }

        #[test]
        fn every_outcome_comes_out(outcomes in prop::collection::vec(outcome(), 0..40)) {
            prop_assert_eq!(decode_outcomes(encode_outcomes(outcomes.clone()).unwrap()), Ok(outcomes));
        }

        #[test]
        fn any_bytes_are_a_batch_of_one_spelling_or_none(raw in prop::collection::vec(any::<u8>(), 0..60)) {
            let raw = Bytes::from(raw);
            if let Ok(items) = decode(raw.clone()) {
                prop_assert_eq!(encode(items).unwrap(), raw.clone());
            }
            if let Ok(outcomes) = decode_outcomes(raw.clone()) {
                prop_assert_eq!(encode_outcomes(outcomes).unwrap(), raw);
            }
        }
    }
}
