//! The bytes that follow an answer: chunks, a trailer, and the holder's last word; and the receipt that
//! goes the other way.
//!
//! ```text
//!  holder   -> (length u32 || bytes)* || 0 u32 || length u16 || trailer || 1 or 0
//!  receiver -> length u16 || receipt
//! ```
//! Reading copies no byte of a chunk, and a chunk is handed on as its pieces come in.

use bytes::{Buf, Bytes};

use super::body::{Receipt, Trailer, with_length};
use crate::{codec::CodecError, status::Status};

/// Bytes in the longest chunk.
pub const CHUNK_MAX: usize = 1 << 20;

/// What the bytes of a holder say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes of the transfer, at least one; a slice of what was read.
    Data(Bytes),
    /// All bytes are there.
    Trailer(Trailer),
    /// What the holder made of the receipt. Nothing follows.
    Settlement(Settlement),
}

/// What the holder makes of a receipt, one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It does not count, and will not if it is given again.
    Refused = 0,
    /// It is the receiver's, and counted once.
    Settled = 1,
}

/// Reads what a holder writes behind its answer.
#[derive(Debug)]
pub struct PieceReader {
    state: State,
    /// Of a number or trailer that has not come as a whole.
    held: [u8; Trailer::MAX],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    ChunkHead,
    Chunk { left: u32 },
    TrailerHead,
    Trailer { len: usize },
    Settlement,
    Done,
}

/// Reads what a receiver writes.
#[derive(Debug, Default)]
pub struct ReceiptReader {
    held: Vec<u8>,
    done: bool,
}

/// What stands in front of a chunk of `len` bytes.
///
/// # Panics
/// Unless `len` is 1 to [`CHUNK_MAX`]; nobody could read it.
#[must_use]
pub fn chunk_head(len: usize) -> [u8; 4] {
    assert!((1..=CHUNK_MAX).contains(&len), "a chunk has 1 to {CHUNK_MAX} bytes, not {len}");
    (len as u32).to_be_bytes()
}

/// What stands behind the last chunk.
#[must_use]
pub fn trailer_bytes(trailer: &Trailer) -> Bytes {
    [&[0; 4], &with_length(&trailer.encode())[..]].concat().into()
}

impl Settlement {
    /// The byte on the stream.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        self as u8
    }
}

impl PieceReader {
    /// A reader of what follows an answer with `data`, or of the holder's last word alone.
    #[must_use]
    pub fn new(data: bool) -> Self {
        let state = if data { State::ChunkHead } else { State::Settlement };
        Self { state, held: [0; Trailer::MAX], len: 0 }
    }

    /// Takes the next piece from the front of `input`, of data no more than `max` bytes.
    ///
    /// `None` when `input` is used up, or `max` is zero and bytes of a chunk come next.
    ///
    /// # Errors
    /// [`CodecError`] with `BAD_FRAME`, or `TOO_LARGE` for a chunk that is; the stream cannot be read on.
    pub fn read(&mut self, input: &mut Bytes, max: u64) -> Result<Option<Piece>, CodecError> {
        loop {
            match self.state {
                State::ChunkHead => {
                    let Some(head) = self.fill::<4>(input) else { return Ok(None) };
                    self.state = match u32::from_be_bytes(head) {
                        0 => State::TrailerHead,
                        left if left as usize <= CHUNK_MAX => State::Chunk { left },
                        _ => return Err(too_large("chunk is longer than allowed")),
                    };
                }
                State::Chunk { left } => {
                    let most = max.min(left.into()).min(input.len() as u64);
                    if most == 0 {
                        return Ok(None);
                    }
                    let data = input.split_to(most as usize);
                    let left = left - most as u32;
                    self.state = if left == 0 { State::ChunkHead } else { State::Chunk { left } };
                    return Ok(Some(Piece::Data(data)));
                }
                State::TrailerHead => {
                    let Some(head) = self.fill::<2>(input) else { return Ok(None) };
                    let len = usize::from(u16::from_be_bytes(head));
                    if len > Trailer::MAX {
                        return Err(too_large("trailer is longer than any"));
                    }
                    self.state = State::Trailer { len };
                }
                State::Trailer { len } => {
                    if !self.fill_to(len, input) {
                        return Ok(None);
                    }
                    self.len = 0;
                    let trailer = Trailer::decode(&self.held[..len])?;
                    self.state = State::Settlement;
                    return Ok(Some(Piece::Trailer(trailer)));
                }
                State::Settlement => {
                    let Some([byte]) = self.fill::<1>(input) else { return Ok(None) };
                    let settlement = match byte {
                        0 => Settlement::Refused,
                        1 => Settlement::Settled,
                        _ => return Err(bad("the last byte is neither 0 nor 1")),
                    };
                    self.state = State::Done;
                    return Ok(Some(Piece::Settlement(settlement)));
                }
                State::Done if input.is_empty() => return Ok(None),
                State::Done => return Err(bad("bytes behind the last one")),
            }
        }
    }

    /// Whether the holder has said all that it had to.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn fill<const N: usize>(&mut self, input: &mut Bytes) -> Option<[u8; N]> {
        if !self.fill_to(N, input) {
            return None;
        }
        self.len = 0;
        self.held.first_chunk().copied()
    }

    fn fill_to(&mut self, len: usize, input: &mut Bytes) -> bool {
        let take = input.len().min(len - self.len);
        input.split_to(take).copy_to_slice(&mut self.held[self.len..self.len + take]);
        self.len += take;
        self.len == len
    }
}

impl ReceiptReader {
    /// Takes bytes from the front of `input`, up to the end of the receipt.
    ///
    /// # Errors
    /// [`CodecError`] with `BAD_FRAME`, or `TOO_LARGE`; also for bytes behind the one receipt.
    pub fn read(&mut self, input: &mut Bytes) -> Result<Option<Receipt>, CodecError> {
        if self.done {
            let behind = bad("bytes behind the receipt");
            return if input.is_empty() { Ok(None) } else { Err(behind) };
        }
        if !self.fill_to(2, input) {
            return Ok(None);
        }
        let len = usize::from(u16::from_be_bytes([self.held[0], self.held[1]]));
        if len > Receipt::MAX {
            return Err(too_large("receipt is longer than any"));
        }
        if !self.fill_to(2 + len, input) {
            return Ok(None);
        }
        self.done = true;
        Receipt::decode(&self.held[2..]).map(Some)
    }

    fn fill_to(&mut self, len: usize, input: &mut Bytes) -> bool {
        let take = input.len().min(len.saturating_sub(self.held.len()));
        self.held.extend_from_slice(&input.split_to(take));
        self.held.len() >= len
    }
}

fn bad(what: &'static str) -> CodecError {
    CodecError::new(Status::BadFrame, what)
}

fn too_large(what: &'static str) -> CodecError {
    CodecError::new(Status::TooLarge, what)
}

#[cfg(test)]
mod tests;
