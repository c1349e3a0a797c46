//! Transfers whose bytes only their receivers can read: the key, what it is bound to, and how a piece is sealed.
//!
//! ```text
//!  part    = piece* || last piece
//!  piece   = AES-256-GCM-SIV(key of the generation, nonce, bound, up to 524,272 bytes) || tag (16)
//!  nonce   = number of the part (u32) || number of the piece in it (7 bytes) || 1 for the last, else 0
//! ```
//! Sealing is deterministic: whoever has the key and the bytes makes the same ciphertext again. So a receiver
//! goes on after a restart with the bytes that it has in clear, and a holder reads its source anew for every receiver.

use std::fmt;

use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, Key, KeyInit, Nonce};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::reference::{Reference, TransferId};
use crate::{
    codec::Octets,
    name::Fqcn,
    status::Status,
    transcript::{Purpose, Transcript},
};

mod layout;
mod offer;
mod opener;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use self::{
    layout::{Layout, Spot, content_len, sealed_len},
    offer::SealedOffer,
    opener::{Opener, OpenerMark},
};

/// Bytes of a whole piece as it travels, its tag among them.
pub const SEALED_PIECE: usize = 512 << 10;
/// Bytes of the tag behind every piece.
pub const SEALED_TAG: usize = 16;
/// Bytes of content in a whole piece.
pub const SEALED_CONTENT: usize = SEALED_PIECE - SEALED_TAG;

/// What opens a sealed transfer: 32 random bytes, overwritten when they are dropped.
#[derive(Clone)]
pub struct ContentKey(Zeroizing<[u8; 32]>);

/// The mark of a sealed transfer in its reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// How it is sealed: [`Seal::AES_256_GCM_SIV`].
    pub suite: u8,
    /// What the key is known by. It says nothing of the key, and there is no second key for it: all receivers open
    /// the same bytes.
    pub check: Octets<32>,
}

/// Which piece of a transfer one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceId {
    /// Number of the part, from zero; zero for what is no object.
    pub part: u32,
    /// Its number in the part, from zero; below 2^56.
    pub piece: u64,
    /// Whether the part ends with it.
    pub is_last: bool,
}

/// Seals and opens the pieces of one generation of one transfer.
pub struct Sealer {
    cipher: Aes256GcmSiv,
    bound: Vec<u8>,
    check: [u8; 32],
}

/// A piece is not what the holder has sealed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("piece {piece} of part {part} is not what the holder has sealed there")]
pub struct NotOpened {
    /// Number of the part.
    pub part: u32,
    /// Number of the piece in it.
    pub piece: u64,
}

/// Why a reference and a key do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is sealed, and there is no key.
    #[error("the transfer is sealed, and its key was not given")]
    Missing,
    /// The key is that of another transfer, or of none.
    #[error("the transfer is sealed with another key")]
    Wrong,
    /// A key was given for what is not sealed: it is not what the key was made for.
    #[error("a key was given, and the transfer is not sealed")]
    NotSealed,
    /// Job code cannot open a sealed transfer over its local socket: its cell would have to know the key.
    #[error(
        "a sealed transfer cannot be opened over a local socket; a sealed message can have any size"
    )]
    NotCarried,
}

impl ContentKey {
    /// The key with these bytes. They have to be random, and known to nobody who may not read the transfer.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be handed to receivers in sealed messages and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for ContentKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for ContentKey {}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(***)")
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

impl Seal {
    /// Pieces of AES-256-GCM-SIV (RFC 8452), as described in this module.
    pub const AES_256_GCM_SIV: u8 = 1;
}

impl KeyError {
    /// What whoever handed them on is told.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Missing | Self::Wrong | Self::NotCarried => Status::SealKey,
            Self::NotSealed => Status::NotSealed,
        }
    }
}

impl PieceId {
    fn nonce(self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.part.to_be_bytes());
        nonce[4..11].copy_from_slice(&self.piece.to_be_bytes()[1..]);
        nonce[11] = u8::from(self.is_last);
        nonce.into()
    }
}

impl Sealer {
    /// What seals generation `generation` of the transfer `id` that `holder` serves in `project`, with `key`.
    ///
    /// Every generation has a key of its own, so that bytes of one are noise in another.
    #[must_use]
    pub fn new(
        key: &ContentKey,
        project: &str,
        holder: &Fqcn,
        id: &TransferId,
        generation: u64,
    ) -> Self {
        let bound = Transcript::new(Purpose::SealedTransfer)
            .field(project.as_bytes())
            .field(holder.as_str().as_bytes())
            .field(id.as_bytes())
            .field(&generation.to_be_bytes())
            .finish();
        let derive = |context: &str| {
            let mut hasher = blake3::Hasher::new_derive_key(context);
            hasher.update(key.expose()).update(&bound);
            Zeroizing::new(*hasher.finalize().as_bytes())
        };
        let piece_key = derive("cellbus/v1/sealed-transfer key of a generation");
        let check = *derive("cellbus/v1/sealed-transfer check of a key");
        let cipher = Aes256GcmSiv::new(&Key::<Aes256GcmSiv>::from(*piece_key));
        Self { cipher, bound, check }
    }

    /// What opens the transfer that `reference` describes; `None` where it is not sealed and no key was given.
    ///
    /// # Errors
    /// [`KeyError`] where they do not go together: nothing is to be fetched.
    pub fn of(
        reference: &Reference,
        project: &str,
        key: Option<&ContentKey>,
    ) -> Result<Option<Self>, KeyError> {
        match (&reference.seal, key) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(KeyError::NotSealed),
            (Some(_), None) => Err(KeyError::Missing),
            (Some(seal), Some(key)) => {
                let Reference { holder, id, generation, .. } = reference;
                let sealer = Self::new(key, project, holder, id, *generation);
                let is_right = bool::from(sealer.check.ct_eq(&seal.check.0));
                is_right.then_some(Some(sealer)).ok_or(KeyError::Wrong)
            }
        }
    }

    /// The mark for the reference.
    #[must_use]
    pub fn mark(&self) -> Seal {
        Seal { suite: Seal::AES_256_GCM_SIV, check: Octets(self.check) }
    }

    /// Seals `content`, at most [`SEALED_CONTENT`] bytes, and puts the tag behind it.
    ///
    /// # Panics
    /// For more bytes than a piece has.
    #[must_use]
    pub fn seal(&self, id: PieceId, mut content: Vec<u8>) -> Vec<u8> {
        assert!(content.len() <= SEALED_CONTENT, "{} bytes are no piece", content.len());
        self.cipher
            .encrypt_in_place(&id.nonce(), &self.bound, &mut content)
            .expect("a piece is far shorter than what the cipher takes");
        content
    }

    /// Opens what [`seal`](Self::seal) made for the same place.
    ///
    /// # Errors
    /// [`NotOpened`] for anything else; nothing of it is given out.
    pub fn open(&self, id: PieceId, mut sealed: Vec<u8>) -> Result<Vec<u8>, NotOpened> {
        self.cipher
            .decrypt_in_place(&id.nonce(), &self.bound, &mut sealed)
            .map_err(|_| NotOpened { part: id.part, piece: id.piece })?;
        Ok(sealed)
    }
}
