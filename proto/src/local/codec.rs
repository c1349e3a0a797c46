//! Frames as bytes: a prefix of seven, a header, a payload. Bytes come in, frames go out.

use std::{fmt, marker::PhantomData};

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroize;

use super::{DETAIL_MAX, Limits};
use crate::status::Status;

/// Bytes in front of every frame: type (1), header length (2), payload length (4), big endian.
pub const PREFIX_LEN: usize = 7;

/// What payload a type of frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadRule {
    /// None; the length must be zero.
    Nothing,
    /// A text for people, at most [`DETAIL_MAX`] bytes.
    Detail,
    /// A message, at most the connection's `payload_max` bytes.
    Message,
}

/// A descriptor that goes with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// A memory file of so many bytes, with all seals.
    Sealed(u64),
    /// A regular file of so many bytes, or a memory file.
    File(u64),
}

/// One direction's frames.
pub trait Frame: Sized {
    /// The type byte.
    fn kind(&self) -> u8;

    /// The name of the type, as in `docs/LOCAL_SOCKET.md`.
    fn name(&self) -> &'static str;

    /// The payload; empty where the type has none.
    fn payload(&self) -> Bytes;

    /// The descriptor that goes with the frame; `None` where none does.
    fn attachment(&self) -> Option<Attachment>;

    /// Appends the header.
    fn write_header(&self, out: &mut BytesMut);

    /// The rule for the payload of a type, or `None` for a type that this direction does not have.
    fn payload_rule(kind: u8) -> Option<PayloadRule>;

    /// Reads a frame of a known type from its header and payload.
    ///
    /// # Errors
    /// [`DecodeError::Header`] unless the header is exactly what the type prescribes.
    fn read(kind: u8, header: &[u8], payload: Bytes) -> Result<Self, DecodeError>;

    /// Whether frames of this type carry a secret, so that their bytes are erased after reading.
    fn is_secret(kind: u8) -> bool;
}

/// Why bytes are not a frame. The connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A type that this direction does not have.
    #[error("frame type {0:#04x} is unknown")]
    UnknownType(u8),
    /// A header longer than any may be.
    #[error("header of {0} bytes, the limit is {max}", max = Limits::HEADER_MAX)]
    HeaderTooLarge(usize),
    /// A payload longer than this type and connection allow.
    #[error("payload of {len} bytes, the limit is {max}")]
    PayloadTooLarge {
        /// Bytes announced.
        len: u32,
        /// Bytes allowed.
        max: u32,
    },
    /// A payload on a type that has none.
    #[error("frame type {0:#04x} has no payload")]
    UnexpectedPayload(u8),
    /// A payload in a frame whose header says that it is attached.
    #[error("frame type {0:#04x} has two payloads")]
    TwoPayloads(u8),
    /// A descriptor with more bytes than this connection allows.
    #[error("attachment of {len} bytes, the limit is {max}")]
    AttachmentTooLarge {
        /// Bytes announced.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// A header that is not what the type prescribes.
    #[error("header of frame type {kind:#04x}: {field}")]
    Header {
        /// The type byte.
        kind: u8,
        /// The first field that is wrong.
        field: &'static str,
    },
}

/// A frame that no peer would accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame is too large to be sent")]
pub struct EncodeError;

/// Turns bytes into frames. Holds at most one frame that is not yet complete.
pub struct Decoder<F> {
    payload_max: u32,
    attachment_max: u64,
    head: Vec<u8>,
    lengths: Option<Lengths>,
    payload: Vec<u8>,
    failed: Option<DecodeError>,
    frames: PhantomData<fn() -> F>,
}

#[derive(Clone, Copy)]
struct Lengths {
    head: usize,
    payload: usize,
}

impl DecodeError {
    /// The code that the peer is told.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::UnknownType(_) | Self::UnexpectedPayload(_) | Self::TwoPayloads(_) => {
                Status::BadFrame
            }
            Self::HeaderTooLarge(_)
            | Self::PayloadTooLarge { .. }
            | Self::AttachmentTooLarge { .. } => Status::TooLarge,
            Self::Header { .. } => Status::BadHeader,
        }
    }
}

impl<F: Frame> Decoder<F> {
    /// A decoder that takes no message payload until [`set_payload_max`](Self::set_payload_max), and none
    /// that is attached until [`set_attachment_max`](Self::set_attachment_max).
    #[must_use]
    pub fn new() -> Self {
        Self {
            payload_max: 0,
            attachment_max: 0,
            head: Vec::new(),
            lengths: None,
            payload: Vec::new(),
            failed: None,
            frames: PhantomData,
        }
    }

    /// Takes message payloads of up to `bytes` bytes from the next frame on.
    pub fn set_payload_max(&mut self, bytes: u32) {
        self.payload_max = bytes;
    }

    /// Takes descriptors of up to `bytes` bytes from the next frame on.
    pub fn set_attachment_max(&mut self, bytes: u64) {
        self.attachment_max = bytes;
    }

    /// Whether a frame has begun and is not complete.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        !self.head.is_empty()
    }

    /// Takes bytes from the front of `input` up to the end of the next frame.
    ///
    /// `None` means that `input` is used up and the frame is not complete. Lengths are checked before
    /// anything is allocated for them.
    ///
    /// # Errors
    /// [`DecodeError`]; the decoder is spent and repeats it.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<F>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let outcome = self.advance(input);
        if let Err(error) = &outcome {
            self.failed = Some(error.clone());
        }
        outcome
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<F>, DecodeError> {
        let lengths = match self.lengths {
            Some(lengths) => lengths,
            None => {
                if !fill(&mut self.head, PREFIX_LEN, input) {
                    return Ok(None);
                }
                let lengths = self.check_prefix()?;
                self.head.reserve_exact(lengths.head - PREFIX_LEN);
                self.payload.reserve_exact(lengths.payload);
                *self.lengths.insert(lengths)
            }
        };
        if !fill(&mut self.head, lengths.head, input)
            || !fill(&mut self.payload, lengths.payload, input)
        {
            return Ok(None);
        }
        let kind = self.head[0];
        let payload = Bytes::from(std::mem::take(&mut self.payload));
        let has_payload = !payload.is_empty();
        let frame = F::read(kind, &self.head[PREFIX_LEN..], payload);
        if F::is_secret(kind) {
            self.head.zeroize();
        }
        self.head.clear();
        self.lengths = None;
        let frame = frame?;
        let max = self.attachment_max;
        // A file that is served or was fetched is no message: it may have any size.
        let is_message = F::payload_rule(kind) == Some(PayloadRule::Message);
        match frame.attachment() {
            Some(_) if has_payload => Err(DecodeError::TwoPayloads(kind)),
            Some(Attachment::Sealed(len)) if is_message && len > max => {
                Err(DecodeError::AttachmentTooLarge { len, max })
            }
            Some(_) | None => Ok(Some(frame)),
        }
    }

    fn check_prefix(&self) -> Result<Lengths, DecodeError> {
        let [kind, h1, h0, p3, p2, p1, p0] = self.head[..] else {
            unreachable!("the prefix is complete")
        };
        let rule = F::payload_rule(kind).ok_or(DecodeError::UnknownType(kind))?;
        let header = usize::from(u16::from_be_bytes([h1, h0]));
        if header > Limits::HEADER_MAX {
            return Err(DecodeError::HeaderTooLarge(header));
        }
        let len = u32::from_be_bytes([p3, p2, p1, p0]);
        let max = match rule {
            PayloadRule::Nothing if len > 0 => return Err(DecodeError::UnexpectedPayload(kind)),
            PayloadRule::Nothing => 0,
            PayloadRule::Detail => DETAIL_MAX as u32,
            PayloadRule::Message => self.payload_max,
        };
        if len > max {
            return Err(DecodeError::PayloadTooLarge { len, max });
        }
        Ok(Lengths { head: PREFIX_LEN + header, payload: len as usize })
    }
}

/// Moves bytes from `input` until `buffer` holds `len`; says whether it does.
fn fill(buffer: &mut Vec<u8>, len: usize, input: &mut &[u8]) -> bool {
    let (taken, rest) = input.split_at(input.len().min(len.saturating_sub(buffer.len())));
    buffer.extend_from_slice(taken);
    *input = rest;
    buffer.len() >= len
}

/// Appends a whole frame to `out`.
///
/// # Errors
/// [`EncodeError`] when header or payload are longer than any may be; `out` is as before.
pub fn encode<F: Frame>(frame: &F, out: &mut BytesMut) -> Result<(), EncodeError> {
    encode_head(frame, out)?;
    out.extend_from_slice(&frame.payload());
    Ok(())
}

/// Appends prefix and header of `frame` to `out`; the payload has to follow.
///
/// # Errors
/// As [`encode`].
pub fn encode_head<F: Frame>(frame: &F, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    let payload = u32::try_from(frame.payload().len()).ok();
    let payload = payload.filter(|len| *len <= Limits::PAYLOAD_CEILING).ok_or(EncodeError)?;
    out.put_u8(frame.kind());
    out.put_u16(0);
    out.put_u32(payload);
    frame.write_header(out);
    let header = out.len() - start - PREFIX_LEN;
    if header > Limits::HEADER_MAX {
        out.truncate(start);
        return Err(EncodeError);
    }
    out[start + 1..start + 3].copy_from_slice(&(header as u16).to_be_bytes());
    Ok(())
}

impl<F: Frame> Default for Decoder<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> fmt::Debug for Decoder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let have = self.head.len() + self.payload.len();
        f.debug_struct("Decoder").field("have", &have).field("failed", &self.failed).finish()
    }
}
