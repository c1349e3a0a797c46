//! The small file beside a part of a transfer, from which a restarted receiver goes on.
//!
//! ```text
//!  "cellbus-part-1\n" (15) || BLAKE3 of the rest (32) || body (msgpack)
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    digest::Digest,
    reference::{Reference, SignedReference},
};
use crate::codec::body::{self, Blob};

const MAGIC: &[u8; 15] = b"cellbus-part-1\n";

/// What a receiver knows about a transfer after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartState {
    /// What is being fetched. It was verified when it was taken on.
    pub reference: SignedReference,
    /// Bytes of the part that are durable. What the part has beyond is not to be trusted.
    pub durable: u64,
    /// How far it is.
    pub stage: Stage,
    /// With [`Stage::Verified`], which file was verified; what stands at the target without that mark is another one.
    pub file: Option<FileMark>,
}

/// What tells a file from one that takes its place. It stays when the file gets another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// The device that it is on, and its number there.
    pub inode: (u64, u64),
    /// When it was written last: seconds since 1970, and nanoseconds.
    pub modified: (i64, u64),
}

/// How far a transfer is, of which there is a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Bytes are still missing.
    Receiving,
    /// All bytes are durable and of this digest; the part may not have taken the place of the target yet.
    Verified(Digest),
}

/// The file is not what was written. It is neither to be trusted nor to be taken for absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state of a part is damaged: {0}")]
pub struct DamagedPart(&'static str);

#[derive(Serialize, Deserialize)]
struct Wire {
    reference: Blob,
    durable: u64,
    digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<FileMark>,
}

impl PartState {
    /// Bytes in the longest one.
    pub const BYTES_MAX: usize = Reference::BYTES_MAX + 256;

    /// What to write.
    ///
    /// # Panics
    /// For a reference that could not have been received.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let reference = self.reference.encode().expect("a reference that was decoded is one");
        let digest = match self.stage {
            Stage::Receiving => None,
            Stage::Verified(digest) => Some(digest),
        };
        let wire = Wire {
            reference: Blob(reference.to_vec()),
            durable: self.durable,
            digest,
            file: self.file,
        };
        let body = body::encode(&wire);
        [&MAGIC[..], Digest::of(&body).as_bytes(), &body].concat().into()
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// [`DamagedPart`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedPart> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(DamagedPart("it begins otherwise"))?;
        let (sum, body) = rest.split_first_chunk::<32>().ok_or(DamagedPart("it ends early"))?;
        if Digest::of(body) != Digest::from_bytes(*sum) {
            return Err(DamagedPart("its sum is another"));
        }
        let wire: Wire = body::decode_exact(body).map_err(|_| DamagedPart("it is no state"))?;
        let reference = SignedReference::decode(&wire.reference.0)
            .map_err(|_| DamagedPart("its reference is none"))?;
        let stage = wire.digest.map_or(Stage::Receiving, Stage::Verified);
        Ok(Self { reference, durable: wire.durable, stage, file: wire.file })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::reference::tests::signed, *};

    #[test]
    fn a_state_is_read_as_written_and_every_damage_is_seen() {
        let verified = Stage::Verified(Digest::of(b"x"));
        let file = FileMark { inode: (u64::MAX, 7), modified: (-1, 999_999_999) };
        for (stage, file) in [(Stage::Receiving, None), (verified, None), (verified, Some(file))] {
            let state = PartState { reference: signed(), durable: 8 << 20, stage, file };
            let bytes = state.encode();
            assert_eq!(PartState::decode(&bytes), Ok(state));
            for at in 0..bytes.len() {
                let mut changed = bytes.to_vec();
                changed[at] ^= 1;
                assert!(PartState::decode(&changed).is_err(), "byte {at}");
                assert!(PartState::decode(&bytes[..at]).is_err(), "cut at {at}");
            }
            assert!(PartState::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
