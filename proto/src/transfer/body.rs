//! What receiver and holder say to each other about one fetch: bodies with exactly one spelling.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{SIZE_MAX, digest::Digest, reference::TransferId};
use crate::{
    codec::{
        CodecError, Octets,
        body::{self, Blob},
    },
    name::Fqcn,
    status::Status,
    transcript::{Purpose, Signable, Transcript},
};

/// Drawn by a receiver for each fetch; a receipt is good for the last fetch of its receiver only.
pub type Nonce = Octets<16>;

/// Payload of the reply to an offer that was taken, now or before: how it stands with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfferReply {
    /// Bytes of the content that the receiver has.
    pub bytes: u64,
    /// Whether its turn has not come, or it still hashes what it has: it is alive, and no byte is to be expected.
    pub waits: bool,
}

impl OfferReply {
    /// The nine bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; 9] {
        let mut out = [u8::from(self.waits); 9];
        out[..8].copy_from_slice(&self.bytes.to_be_bytes());
        out
    }

    /// Reads what [`Self::encode`] gives.
    ///
    /// # Errors
    /// [`CodecError`] with `BAD_FRAME` for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let bad = || CodecError::new(Status::BadFrame, "no reply to an offer");
        let (number, waits) = bytes.split_first_chunk().ok_or_else(bad)?;
        let waits = match waits {
            [0] => false,
            [1] => true,
            _ => return Err(bad()),
        };
        Ok(Self { bytes: u64::from_be_bytes(*number), waits })
    }
}

/// Payload of the request that opens a fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Which transfer.
    pub id: TransferId,
    /// Of which content the receiver holds the bytes below `offset`.
    pub generation: u64,
    /// The first byte that is wanted.
    pub offset: u64,
    /// Drawn for this fetch.
    pub nonce: Nonce,
    /// Whether the receiver has it all and only gives its receipt. No byte follows the answer then.
    pub have: bool,
    /// Of all bytes, where the reference says so. A relay that has them from before asks for the answer alone.
    pub digest: Option<Digest>,
}

/// Payload of the reply to a [`Fetch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which transfer.
    pub id: TransferId,
    /// Which content follows.
    pub generation: u64,
    /// Bytes in all, where that is known.
    pub size: Option<u64>,
    /// Bytes that it never exceeds.
    pub size_max: u64,
    /// Where the bytes begin: where they were asked for.
    pub offset: u64,
    /// Whether the holder itself sends bytes. Where not, either the receiver has them, or a relay that
    /// asked for the answer alone adds them.
    pub data: bool,
    /// Of all bytes, where the reference says so: what a relay may add has to have it.
    pub digest: Option<Digest>,
}

/// Behind the last chunk: what has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    /// Bytes in all, from the first one on.
    pub size: u64,
    /// Of all of them.
    pub digest: Digest,
    /// Of which content.
    pub generation: u64,
}

/// What became of a transfer at its receiver. The only evidence of success there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which transfer.
    pub id: TransferId,
    /// Which content.
    pub generation: u64,
    /// Of the receiver's last fetch.
    pub nonce: Nonce,
    /// Bytes that the receiver has: all of them, or how far it came.
    pub size: u64,
    /// Of all of them, where they are stored.
    pub digest: Option<Digest>,
    /// Zero where they are stored durably, else the number of the status that says why not.
    pub outcome: u8,
    /// By the receiver's leaf key over [`Receipt::signable`]. At most [`Receipt::SIGNATURE_MAX`] bytes.
    pub signature: Option<Blob>,
}

/// Bytes in the longest fetch, answer or trailer.
const BODY_MAX: usize = 128;

impl Fetch {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        body::encode(self)
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`CodecError`] with `BAD_FRAME` for anything but the one spelling of a fetch.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode::<Self>(bytes, BODY_MAX, |fetch| fetch.generation > 0 && fetch.offset <= SIZE_MAX)
    }
}

impl Answer {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        body::encode(self)
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`CodecError`] with `BAD_FRAME` for anything but the one spelling of an answer whose sizes fit each
    /// other.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode::<Self>(bytes, BODY_MAX, |answer| {
            let end = answer.size.unwrap_or(answer.size_max);
            answer.generation > 0
                && answer.offset <= end
                && end <= answer.size_max
                && answer.size_max <= SIZE_MAX
        })
    }
}

impl Trailer {
    /// The bytes, without the length in front.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        body::encode(self)
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`CodecError`] with `BAD_FRAME` for anything but the one spelling of a trailer.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode::<Self>(bytes, Self::MAX, |trailer| {
            trailer.generation > 0 && trailer.size <= SIZE_MAX
        })
    }

    /// Bytes in the longest one.
    pub const MAX: usize = 64;
}

impl Receipt {
    /// Bytes in the longest signature.
    pub const SIGNATURE_MAX: usize = 256;
    /// Bytes in the longest receipt.
    pub const MAX: usize = 512;

    /// What became of it.
    ///
    /// # Errors
    /// The status that says why it is not stored; a number that is not known is `HANDLER_FAILED`.
    pub fn outcome(&self) -> Result<(), Status> {
        match self.outcome {
            0 => Ok(()),
            number => Err(Status::from_wire(number).unwrap_or(Status::HandlerFailed)),
        }
    }

    /// What the receiver signs: everything but the signature, and between whom.
    #[must_use]
    pub fn signable(&self, project: &str, receiver: &Fqcn, holder: &Fqcn) -> Signable {
        let unsigned = Self { signature: None, ..self.clone() };
        Transcript::new(Purpose::TransferReceipt)
            .field(project.as_bytes())
            .field(receiver.as_str().as_bytes())
            .field(holder.as_str().as_bytes())
            .field(&body::encode(&unsigned))
            .finish()
    }

    /// The bytes on the stream: a length as two bytes, then the body.
    #[must_use]
    pub fn to_stream(&self) -> Bytes {
        with_length(&body::encode(self))
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`CodecError`] with `BAD_FRAME` for anything but the one spelling of a receipt, and for one that
    /// has a digest without being one of success, or the reverse.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode::<Self>(bytes, Self::MAX, |receipt| {
            let signature = receipt.signature.as_ref().map_or(0, |signature| signature.0.len());
            receipt.generation > 0
                && receipt.size <= SIZE_MAX
                && receipt.digest.is_some() == (receipt.outcome == 0)
                && signature <= Self::SIGNATURE_MAX
        })
    }
}

/// `body` behind its length as two bytes.
pub(super) fn with_length(body: &[u8]) -> Bytes {
    let len = u16::try_from(body.len()).expect("bodies of a stream are short");
    [&len.to_be_bytes(), body].concat().into()
}

fn decode<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    max: usize,
    is_sound: impl FnOnce(&T) -> bool,
) -> Result<T, CodecError> {
    if bytes.len() > max {
        return Err(CodecError::new(Status::BadFrame, "body is longer than any of its kind"));
    }
    let value = body::decode_exact(bytes)?;
    if is_sound(&value) {
        Ok(value)
    } else {
        Err(CodecError::new(Status::BadFrame, "a field of the body is outside its limits"))
    }
}

#[cfg(test)]
mod tests;
