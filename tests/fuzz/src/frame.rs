//! Streams between cells: the codec must read them the same however they are cut, hold no more than
//! it was given, and write what it has read so that it is read again.

use bytes::{Bytes, BytesMut};
use cellbus_proto::codec::{
    Decoder, Encoder, Frame, FrameLimits,
    body::{self, decode_exact, encode},
};
use cellbus_proto::{job, status::Status};

use crate::cuts;

/// One direction of one stream.
///
/// # Panics
/// When a promise of the codec is broken.
pub fn frame(data: &[u8]) {
    for limits in [FrameLimits::default(), FrameLimits::BEFORE_HELLO] {
        let whole = read(limits, data, std::iter::once(data.len()));
        assert_eq!(whole, read(limits, data, cuts(data)), "the cuts make a difference");
        let (frames, _) = whole;
        let again = write(&frames);
        let (read_again, outcome) = read(FrameLimits::default(), &again, cuts(&again));
        assert_eq!(outcome, Ok(0), "what was written is not read");
        assert_eq!(read_again, frames, "what was written is read as something else");
    }
}

/// The header of one message, and any body.
///
/// # Panics
/// When a promise of the codec is broken.
pub fn header(data: &[u8]) {
    const MESSAGE: u8 = 3;
    if let Ok(len) = u16::try_from(data.len()) {
        frame(&[&[MESSAGE], &len.to_be_bytes()[..], &[0; 4], data].concat());
    }
    macro_rules! bodies {
        ($($body:ident),*) => { bodies!(@ body: $($body),*) };
        (@ $of:ident: $($body:ident),*) => {$(
            if let Ok(value) = decode_exact::<$of::$body>(data) {
                assert_eq!(encode(&value), data, "a body with a second spelling");
            }
        )*};
    }
    bodies!(
        WireChallenge,
        Register,
        Registered,
        SignedServerKey,
        ChallengeChild,
        ChildChallenge,
        RegisterChild,
        ChildRegistered,
        RenewChild,
        DetachChild,
        JobStart,
        JobStop,
        JobEnded
    );
    bodies!(@ job: FileChunk, LogBatch, PartSpec, Table, TableAnswer);
}

/// The frames of a stream that arrives in pieces, and the bytes left over or why it is refused.
fn read(
    limits: FrameLimits,
    data: &[u8],
    mut cuts: impl Iterator<Item = usize>,
) -> (Vec<Frame>, Result<usize, Status>) {
    let mut decoder = Decoder::new(limits);
    let (mut frames, mut given) = (Vec::new(), 0);
    while given < data.len() {
        let end = data.len().min(given + cuts.next().unwrap_or(usize::MAX - given));
        let mut chunk = Bytes::copy_from_slice(&data[given..end]);
        given = end;
        // A reader that stops after each frame goes on with what was kept.
        loop {
            let before = frames.len();
            let fed = decoder.feed(std::mem::take(&mut chunk), |frame| {
                frames.push(frame);
                false
            });
            if let Err(error) = fed {
                return (frames, Err(error.status));
            }
            assert!(decoder.pending() <= given, "more is held than was given");
            if frames.len() == before {
                break;
            }
        }
    }
    let pending = decoder.pending();
    (frames, Ok(pending))
}

fn write(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut bytes = Vec::new();
    for frame in frames {
        let mut out = BytesMut::new();
        let tail = encoder.encode(frame, &mut out);
        bytes.extend_from_slice(&out);
        bytes.extend_from_slice(tail.as_deref().unwrap_or_default());
    }
    bytes
}
