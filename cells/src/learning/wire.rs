//! How tasks and contributions look as bytes.
//!
//! ```text
//! offset  0        4       5          8             12            16
//!         "CBF1"   kind    zero (3)   round (u32)   count (u32)   count × f64
//! ```
//!
//! Everything is little-endian. Kinds: 1 train (the weights), 2 wait, 3 done (`round` is the number
//! of rounds), 4 contribution (rows, loss, then the gradient). 2 and 3 carry no numbers.

use super::{aggregate::Contribution, softmax::WEIGHTS, training::Task};

/// Media type of these messages.
pub const CONTENT_TYPE: &str = "application/x-cellbus-f64";

const MAGIC: [u8; 4] = *b"CBF1";
const HEADER: usize = 16;
const KIND_TRAIN: u8 = 1;
const KIND_WAIT: u8 = 2;
const KIND_DONE: u8 = 3;
const KIND_CONTRIBUTION: u8 = 4;
/// Far more than any message of this module has, and little enough to allocate.
const MAX_COUNT: usize = 4 * WEIGHTS;

/// Why bytes are not a message of this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than a header, or not beginning like one.
    #[error("these {len} bytes do not begin with a header")]
    NoHeader {
        /// Bytes in all.
        len: usize,
    },
    /// A kind that does not exist or is not expected here.
    #[error("kind {kind} is not expected here")]
    Kind {
        /// The kind byte.
        kind: u8,
    },
    /// A reserved byte that is not zero.
    #[error("a reserved byte is not zero")]
    Reserved,
    /// A count that the message of this kind cannot have, or that the bytes do not bear out.
    #[error("{count} numbers announced, {bytes} bytes follow")]
    Count {
        /// Numbers announced.
        count: u32,
        /// Bytes after the header.
        bytes: usize,
    },
}

/// The bytes of a task.
#[must_use]
pub fn encode_task(task: &Task) -> Vec<u8> {
    match task {
        Task::Train { round, weights } => encode(KIND_TRAIN, *round, &[], weights),
        Task::Wait { round } => encode(KIND_WAIT, *round, &[], &[]),
        Task::Done { rounds } => encode(KIND_DONE, *rounds, &[], &[]),
    }
}

/// The bytes of a contribution to `round`.
#[must_use]
pub fn encode_contribution(round: u32, contribution: &Contribution) -> Vec<u8> {
    let Contribution { rows, loss, sum } = contribution;
    encode(KIND_CONTRIBUTION, round, &[*rows, *loss], sum)
}

/// Reads a task. Its weights are [`WEIGHTS`] long; their values are not looked at.
///
/// # Errors
/// [`WireError`] for anything that [`encode_task`] does not write.
pub fn decode_task(bytes: &[u8]) -> Result<Task, WireError> {
    let Frame { kind, round, values } = decode(bytes)?;
    let wrong_count = WireError::Count {
        count: u32::try_from(values.len()).unwrap_or(u32::MAX),
        bytes: bytes.len() - HEADER,
    };
    match (kind, values.len()) {
        (KIND_TRAIN, WEIGHTS) => Ok(Task::Train { round, weights: values }),
        (KIND_WAIT, 0) => Ok(Task::Wait { round }),
        (KIND_DONE, 0) => Ok(Task::Done { rounds: round }),
        (KIND_TRAIN | KIND_WAIT | KIND_DONE, _) => Err(wrong_count),
        (kind, _) => Err(WireError::Kind { kind }),
    }
}

/// Reads a contribution and the round it is for. Length and values are for the aggregate to judge,
/// which can name the site.
///
/// # Errors
/// [`WireError`] for anything that is not a contribution's frame.
pub fn decode_contribution(bytes: &[u8]) -> Result<(u32, Contribution), WireError> {
    let Frame { kind, round, values } = decode(bytes)?;
    match (kind, &values[..]) {
        (KIND_CONTRIBUTION, [rows, loss, sum @ ..]) => {
            Ok((round, Contribution { rows: *rows, loss: *loss, sum: sum.to_vec() }))
        }
        (KIND_CONTRIBUTION, short) => {
            let count = u32::try_from(short.len()).unwrap_or(u32::MAX);
            Err(WireError::Count { count, bytes: bytes.len() - HEADER })
        }
        (kind, _) => Err(WireError::Kind { kind }),
    }
}

struct Frame {
    kind: u8,
    round: u32,
    values: Vec<f64>,
}

fn encode(kind: u8, round: u32, first: &[f64], rest: &[f64]) -> Vec<u8> {
    let count = first.len() + rest.len();
    let mut bytes = Vec::with_capacity(HEADER + 8 * count);
    bytes.extend(MAGIC);
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(round.to_le_bytes());
    bytes.extend(u32::try_from(count).expect("a model is smaller than 2^32 numbers").to_le_bytes());
    for value in first.iter().chain(rest) {
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Result<Frame, WireError> {
    let no_header = WireError::NoHeader { len: bytes.len() };
    let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else { return Err(no_header) };
    let [m0, m1, m2, m3, kind, z0, z1, z2, r0, r1, r2, r3, c0, c1, c2, c3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(no_header);
    }
    if [z0, z1, z2] != [0; 3] {
        return Err(WireError::Reserved);
    }
    let count = u32::from_le_bytes([c0, c1, c2, c3]);
    let (numbers, odd) = body.as_chunks::<8>();
    let fits = usize::try_from(count).is_ok_and(|count| count == numbers.len());
    if !fits || !odd.is_empty() || numbers.len() > MAX_COUNT {
        return Err(WireError::Count { count, bytes: body.len() });
    }
    let round = u32::from_le_bytes([r0, r1, r2, r3]);
    Ok(Frame {
        kind,
        round,
        values: numbers.iter().map(|number| f64::from_le_bytes(*number)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn train() -> Task {
        Task::Train { round: 7, weights: (0..WEIGHTS).map(|at| at as f64 / 3.0).collect() }
    }

    fn contribution(length: usize) -> Contribution {
        Contribution { rows: 12.0, loss: 0.25, sum: vec![-1.5; length] }
    }

    #[test]
    fn what_is_written_is_read() {
        for task in [train(), Task::Wait { round: 3 }, Task::Done { rounds: 50 }] {
            assert_eq!(decode_task(&encode_task(&task)), Ok(task));
        }
        for length in [0, 1, WEIGHTS] {
            let bytes = encode_contribution(9, &contribution(length));
            assert_eq!(bytes.len(), 16 + 8 * (2 + length));
            assert_eq!(decode_contribution(&bytes), Ok((9, contribution(length))));
        }
        assert_eq!(encode_task(&Task::Wait { round: 258 }), b"CBF1\x02\0\0\0\x02\x01\0\0\0\0\0\0");
    }

    #[test]
    fn a_nan_arrives_as_it_was_sent_for_the_aggregate_to_refuse() {
        let sent = Contribution { rows: f64::NAN, ..contribution(1) };
        let (_, read) = decode_contribution(&encode_contribution(1, &sent)).unwrap();
        assert!(read.rows.is_nan());
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_refused() {
        let bytes = encode_contribution(1, &contribution(3));
        for end in 0..bytes.len() {
            assert!(decode_contribution(&bytes[..end]).is_err(), "{end}");
        }
        for extra in [1, 8] {
            let longer = [&bytes[..], &vec![0; extra]].concat();
            assert!(matches!(decode_contribution(&longer), Err(WireError::Count { .. })));
        }
    }

    #[test]
    fn a_message_of_another_kind_or_length_is_refused() {
        let task = encode_task(&train());
        assert_eq!(decode_contribution(&task), Err(WireError::Kind { kind: KIND_TRAIN }));
        let bytes = encode_contribution(1, &contribution(WEIGHTS - 2));
        assert_eq!(decode_task(&bytes), Err(WireError::Kind { kind: KIND_CONTRIBUTION }));
        assert_eq!(decode_task(&encode(9, 1, &[], &[])), Err(WireError::Kind { kind: 9 }));
        for (kind, count) in
            [(KIND_TRAIN, WEIGHTS - 1), (KIND_TRAIN, 0), (KIND_WAIT, 1), (KIND_DONE, 1)]
        {
            let bytes = encode(kind, 1, &[], &vec![0.0; count]);
            let count = u32::try_from(count).unwrap();
            let bytes_after = bytes.len() - HEADER;
            assert_eq!(decode_task(&bytes), Err(WireError::Count { count, bytes: bytes_after }));
        }
        let short = encode(KIND_CONTRIBUTION, 1, &[1.0], &[]);
        assert_eq!(decode_contribution(&short), Err(WireError::Count { count: 1, bytes: 8 }));
        let mut reserved = encode_task(&train());
        reserved[6] = 1;
        assert_eq!(decode_task(&reserved), Err(WireError::Reserved));
    }

    #[test]
    fn an_announced_count_allocates_nothing() {
        let mut bytes = encode_task(&Task::Wait { round: 1 });
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_task(&bytes), Err(WireError::Count { count: u32::MAX, bytes: 0 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            like_a_header: bool,
        ) {
            if like_a_header && bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4] %= 6;
                bytes[5..8].fill(0);
            }
            let _ = decode_task(&bytes);
            if let Ok((round, contribution)) = decode_contribution(&bytes) {
                prop_assert_eq!(encode_contribution(round, &contribution), bytes);
            }
        }
    }
}
