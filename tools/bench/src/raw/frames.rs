//! Frames on a stream: four bytes of length, four bytes of number, payload.

use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::SendStream;

/// Bytes before the payload.
pub const HEAD: usize = 8;
/// Chunks that are taken from a stream at once.
pub const CHUNKS: usize = 64;
/// Set in the number of a frame whose answer is to be empty.
pub const ACKNOWLEDGE: u32 = 1 << 31;

/// Bytes that are gathered before they are written.
const WRITE: usize = 16 * 1024;
/// Longest payload, in bytes.
pub const PAYLOAD_MAX: usize = 1 << 21;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What tells an answer from others.
    pub number: u32,
    /// What it carries.
    pub payload: Bytes,
}

/// Frames out of chunks of a stream. A frame that lies in one chunk is not copied.
#[derive(Debug, Default)]
pub struct Decoder {
    rest: BytesMut,
}

/// A frame announces more than anything here carries.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct TooLong(usize);

/// Adds a frame to `out`.
pub fn encode(number: u32, payload: &[u8], out: &mut BytesMut) {
    out.reserve(HEAD + payload.len());
    out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_u32(number);
    out.put_slice(payload);
}

impl Decoder {
    /// Hands every frame that `chunk` completes to `each`.
    ///
    /// # Errors
    /// [`TooLong`]; nothing after it is a frame.
    pub fn feed(&mut self, mut chunk: Bytes, mut each: impl FnMut(Frame)) -> Result<(), TooLong> {
        loop {
            if self.rest.is_empty() {
                while let Some(len) = frame_len(&chunk)?.filter(|len| *len <= chunk.len()) {
                    each(split(chunk.split_to(len)));
                }
            }
            if chunk.is_empty() {
                return Ok(());
            }
            let wanted = frame_len(&self.rest)?.unwrap_or(HEAD);
            let taken = chunk.len().min(wanted.saturating_sub(self.rest.len()));
            self.rest.reserve(wanted.saturating_sub(self.rest.len()));
            self.rest.extend_from_slice(&chunk.split_to(taken));
            if frame_len(&self.rest)? == Some(self.rest.len()) {
                each(split(self.rest.split().freeze()));
            }
        }
    }
}

/// Sends frames with `payload` until `window` is over, and says how many there were.
///
/// # Errors
/// When the stream is gone.
pub async fn send_for(
    send: &mut SendStream,
    payload: &[u8],
    window: Duration,
) -> Result<u64, String> {
    let from = Instant::now();
    let (mut sent, mut number) = (0, 0u32);
    let mut out = BytesMut::new();
    while from.elapsed() < window {
        while out.len() < WRITE {
            encode(number & !ACKNOWLEDGE, payload, &mut out);
            number = number.wrapping_add(1);
            sent += 1;
        }
        let written = send.write_chunk(out.split().freeze()).await;
        written.map_err(|error| error.to_string())?;
    }
    Ok(sent)
}

fn frame_len(mut bytes: &[u8]) -> Result<Option<usize>, TooLong> {
    if bytes.len() < HEAD {
        return Ok(None);
    }
    let len = usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX);
    if len > PAYLOAD_MAX { Err(TooLong(len)) } else { Ok(Some(HEAD + len)) }
}

fn split(mut frame: Bytes) -> Frame {
    frame.advance(4);
    let number = frame.get_u32();
    Frame { number, payload: frame }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let frames: Vec<Frame> = [0usize, 1, 64, 3000]
            .into_iter()
            .zip(7..)
            .map(|(len, number)| Frame { number, payload: vec![number as u8; len].into() })
            .collect();
        let mut out = BytesMut::new();
        for frame in &frames {
            encode(frame.number, &frame.payload, &mut out);
        }
        let bytes = out.freeze();
        for cut in [1, 3, 7, 8, 9, 100, bytes.len()] {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for chunk in bytes.chunks(cut) {
                let fed = decoder.feed(Bytes::copy_from_slice(chunk), |frame| found.push(frame));
                assert_eq!(fed, Ok(()));
            }
            assert_eq!(found, frames, "cut every {cut} bytes");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_stored() {
        let mut decoder = Decoder::default();
        let fed = decoder.feed(Bytes::from_static(&[0xff; 8]), |_| panic!("no frame"));
        assert_eq!(fed, Err(TooLong(0xffff_ffff)));
    }
}
