//! Sealed messages: their bytes, what they are bound to, and what their origin vouches for.
//!
//! ```text
//!  payload    = suite (1) || leaf hash of the destination (32) || encapsulated key || ciphertext
//!  plaintext  = length of head (u32) || head (msgpack) || what the sender sent
//! ```
//! The encryption itself is HPKE (RFC 9180) in base mode and done elsewhere. That the origin made the
//! message is said by its signature within: whoever altered it would have to make that signature.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    codec::body::{self, Blob, CHAIN_MAX},
    envelope::Header,
    proof::routing,
    transcript::{Purpose, Signable, sha256},
};

/// What HPKE is given as `info`.
pub const INFO: &[u8] = b"cellbus/v1/sealed-payload";
/// Bytes before the encapsulated key.
const PREFIX: usize = 1 + 32;

/// How a payload is encrypted; follows from the key of the destination's certificate. Both use
/// HKDF-SHA256 and AES-256-GCM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// DHKEM(P-256, HKDF-SHA256), for a P-256 key.
    P256 = 1,
    /// DHKEM(X25519, HKDF-SHA256), for an Ed25519 key, taken as its point in Montgomery form.
    X25519 = 2,
}

/// The parts of a sealed payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// How it is encrypted.
    pub suite: Suite,
    /// SHA-256 of the leaf certificate whose key opens it.
    pub recipient: [u8; 32],
    /// The encapsulated key.
    pub encapsulated: Bytes,
    /// Encrypted and authenticated.
    pub ciphertext: Bytes,
}

/// What stands before the payload, inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedHead {
    /// When it was sealed, in milliseconds since 1970, by the origin's clock.
    pub unix_ms: u64,
    /// The origin's certificate chain, leaf first, DER. At most [`CHAIN_MAX`].
    pub chain: Vec<Blob>,
    /// Signature of the origin's certificate key over [`signable`].
    pub signature: Blob,
}

/// Why a sealed payload, or what was in it, is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sealed payload: {0}")]
pub struct Malformed(&'static str);

impl Suite {
    /// Every suite.
    pub const ALL: [Self; 2] = [Self::P256, Self::X25519];

    /// Bytes of an encapsulated key; a point of P-256 is not compressed.
    #[must_use]
    pub fn encapsulated_len(self) -> usize {
        match self {
            Self::P256 => 65,
            Self::X25519 => 32,
        }
    }
}

impl Sealed {
    /// Takes a payload apart.
    ///
    /// # Errors
    /// [`Malformed`] for what is too short or of an unknown suite.
    pub fn parse(payload: &Bytes) -> Result<Self, Malformed> {
        let prefix = payload.get(..PREFIX).ok_or(Malformed("too short"))?;
        let suite = Suite::ALL.into_iter().find(|suite| *suite as u8 == prefix[0]);
        let suite = suite.ok_or(Malformed("of an unknown suite"))?;
        let end = PREFIX + suite.encapsulated_len();
        if payload.len() < end {
            return Err(Malformed("too short"));
        }
        Ok(Self {
            suite,
            recipient: prefix[1..].try_into().map_err(|_| Malformed("too short"))?,
            encapsulated: payload.slice(PREFIX..end),
            ciphertext: payload.slice(end..),
        })
    }

    /// The leaf hash in a payload, if it is one that was sealed.
    #[must_use]
    pub fn recipient_of(payload: &[u8]) -> Option<&[u8; 32]> {
        let (suite, rest) = payload.split_first()?;
        let is_known = Suite::ALL.into_iter().any(|known| known as u8 == *suite);
        rest.first_chunk().filter(|_| is_known)
    }

    /// The payload.
    #[must_use]
    pub fn to_payload(&self) -> Bytes {
        let len = PREFIX + self.encapsulated.len() + self.ciphertext.len();
        let mut payload = BytesMut::with_capacity(len);
        payload.put_u8(self.suite as u8);
        payload.put_slice(&self.recipient);
        payload.put_slice(&self.encapsulated);
        payload.put_slice(&self.ciphertext);
        payload.freeze()
    }
}

impl SealedHead {
    /// The plaintext: this, then `payload`.
    #[must_use]
    pub fn join(&self, payload: &[u8]) -> Vec<u8> {
        let head = body::encode(self);
        let mut plain = Vec::with_capacity(4 + head.len() + payload.len());
        plain.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
        plain.extend_from_slice(&head);
        plain.extend_from_slice(payload);
        plain
    }

    /// Takes a plaintext apart.
    ///
    /// # Errors
    /// [`Malformed`]; the origin has sealed something else.
    pub fn split(plain: Bytes) -> Result<(Self, Bytes), Malformed> {
        let len = plain.first_chunk().map(|len| u32::from_be_bytes(*len) as usize);
        let len = len.ok_or(Malformed("no length"))?;
        let end = len.checked_add(4).filter(|end| *end <= plain.len());
        let end = end.ok_or(Malformed("the head ends early"))?;
        let head: Self =
            body::decode_exact(&plain[4..end]).map_err(|_| Malformed("the head is no head"))?;
        if head.chain.is_empty() || head.chain.len() > CHAIN_MAX {
            return Err(Malformed("no chain, or too long a one"));
        }
        Ok((head, plain.slice(end..)))
    }
}

/// What the ciphertext is bound to: everything of the header that decides where the message goes, what it
/// is and how it is handled.
#[must_use]
pub fn associated_data(project: &str, header: &Header) -> Vec<u8> {
    routing(Purpose::SealedHeader, project, header).finish()
}

/// What the origin of a sealed message signs. The destination's certificate is in it, so that the
/// destination cannot pass the message on as if it had been sealed to another.
///
/// # Arguments
/// `recipient`: leaf hash of the destination. `unix_ms`: when, in milliseconds since 1970.
#[must_use]
pub fn signable(
    project: &str,
    header: &Header,
    recipient: &[u8; 32],
    payload: &[u8],
    unix_ms: u64,
) -> Signable {
    routing(Purpose::SealedMessage, project, header)
        .field(recipient)
        .field(&sha256(payload))
        .field(&unix_ms.to_be_bytes())
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(suite: Suite) -> Sealed {
        Sealed {
            suite,
            recipient: [7; 32],
            encapsulated: vec![4; suite.encapsulated_len()].into(),
            ciphertext: Bytes::from_static(b"cipher"),
        }
    }

    #[test]
    fn a_payload_is_taken_apart_into_what_it_was_made_of() {
        for suite in Suite::ALL {
            assert_eq!(Sealed::parse(&sealed(suite).to_payload()), Ok(sealed(suite)));
        }
    }

    #[test]
    fn what_is_short_or_of_an_unknown_suite_is_no_sealed_payload() {
        for suite in Suite::ALL {
            let payload = sealed(suite).to_payload();
            for len in 0..PREFIX + suite.encapsulated_len() {
                assert!(Sealed::parse(&payload.slice(..len)).is_err(), "{suite:?} {len}");
            }
            for unknown in (0..=u8::MAX).filter(|byte| !matches!(byte, 1 | 2)) {
                let mut other = payload.to_vec();
                other[0] = unknown;
                assert!(Sealed::parse(&other.into()).is_err(), "{unknown}");
            }
        }
    }

    #[test]
    fn a_plaintext_is_taken_apart_into_what_it_was_made_of_and_no_other_is() {
        let head =
            SealedHead { unix_ms: 5, chain: vec![Blob(vec![1])], signature: Blob(vec![2; 64]) };
        let plain = head.join(b"payload");
        let (again, payload) = SealedHead::split(plain.clone().into()).unwrap();
        assert_eq!((again, &payload[..]), (head.clone(), &b"payload"[..]));
        for len in 0..plain.len() - b"payload".len() {
            assert!(SealedHead::split(plain[..len].to_vec().into()).is_err(), "{len}");
        }
        let mut long = plain.clone();
        long[3] += 1;
        assert!(SealedHead::split(long.into()).is_err());
        for chain in [vec![], vec![Blob(vec![1]); CHAIN_MAX + 1]] {
            let plain = SealedHead { chain, ..head.clone() }.join(b"");
            assert!(SealedHead::split(plain.into()).is_err());
        }
    }
}
