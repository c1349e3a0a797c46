//! What a sealed message offers: a reference to a sealed transfer, and its key.

use bytes::Bytes;

use super::ContentKey;
use crate::{
    codec::{
        CodecError, Octets,
        body::{self, Blob},
    },
    status::Status,
    transfer::reference::{BadReference, Reference, SignedReference},
};

/// A reference to a sealed transfer with its key: the payload of a message that is itself sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedOffer {
    /// What is offered.
    pub reference: SignedReference,
    /// What opens it.
    pub key: ContentKey,
}

impl SealedOffer {
    /// Bytes in the longest one.
    pub const BYTES_MAX: usize = Reference::BYTES_MAX + 64;

    /// The payload. Whoever reads it reads the transfer.
    ///
    /// # Errors
    /// [`BadReference`] when the reference is not one that anybody would take.
    pub fn encode(&self) -> Result<Bytes, BadReference> {
        let reference = Blob(self.reference.encode()?.to_vec());
        Ok(body::encode(&(reference, Octets(*self.key.expose()))))
    }

    /// Reads a payload. Neither signature nor key have been verified by that.
    ///
    /// # Errors
    /// [`CodecError`]: `TOO_LARGE`, or `BAD_FRAME` for anything but the one spelling of an offer, and for one of
    /// what is not sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(CodecError::new(Status::TooLarge, "offer is larger than allowed"));
        }
        let (reference, key): (Blob, Octets<32>) = body::decode_exact(bytes)?;
        let reference = SignedReference::decode(&reference.0)?;
        if reference.reference.seal.is_none() {
            return Err(CodecError::new(
                Status::BadFrame,
                "a key is offered for what is not sealed",
            ));
        }
        Ok(Self { reference, key: ContentKey::from_bytes(key.0) })
    }
}
