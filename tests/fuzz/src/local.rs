//! The local socket: both directions, and what the cell makes of job code.

use bytes::BytesMut;
use cellbus_proto::local::{CellSide, Decoder, Frame, Limits, ToCell, ToJob, encode, greet};

use crate::cuts;

/// One direction of one connection.
///
/// # Panics
/// When a promise of the codec is broken.
pub fn local_frame(data: &[u8]) {
    let to_cell = both_ways::<ToCell>(data);
    both_ways::<ToJob>(data);
    let mut side = CellSide::<(), ()>::new(Limits::default());
    for frame in to_cell {
        // Whatever it says, it says it without a panic.
        let _ = greet(frame.clone());
        if side.handle_frame(frame).is_err() {
            break;
        }
    }
}

fn both_ways<F: Frame + Clone + PartialEq + std::fmt::Debug>(data: &[u8]) -> Vec<F> {
    let whole = read::<F>(data, std::iter::once(data.len()));
    assert_eq!(whole, read(data, cuts(data)), "the cuts make a difference");
    let mut bytes = BytesMut::new();
    for frame in &whole {
        encode(frame, &mut bytes).expect("what was read can be written");
    }
    assert_eq!(
        read::<F>(&bytes, cuts(&bytes)),
        whole,
        "what was written is read as something else"
    );
    whole
}

/// The frames that are read before the stream ends or is refused.
fn read<F: Frame>(data: &[u8], mut cuts: impl Iterator<Item = usize>) -> Vec<F> {
    let mut decoder = Decoder::new();
    decoder.set_payload_max(Limits::default().payload_max);
    decoder.set_attachment_max(Limits::default().attachment_max);
    let (mut frames, mut rest) = (Vec::new(), data);
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(rest.len()).min(rest.len());
        let (mut chunk, after) = rest.split_at(cut);
        rest = after;
        loop {
            match decoder.decode(&mut chunk) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}
