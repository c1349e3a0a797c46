//! The bodies of control frames and of the system's own messages, as msgpack arrays.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned},
};

use super::{CodecError, Octets};
use crate::{
    envelope::Incarnation,
    identity::CellKind,
    name::{Fqcn, Segment},
    status::Status,
};

/// Version of the protocol that this code speaks.
pub const VERSION: u16 = 1;

/// An [`Incarnation`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireIncarnation(pub u64, pub u64);

impl From<Incarnation> for WireIncarnation {
    fn from(incarnation: Incarnation) -> Self {
        Self(incarnation.counter, incarnation.nonce)
    }
}

impl From<WireIncarnation> for Incarnation {
    fn from(WireIncarnation(counter, nonce): WireIncarnation) -> Self {
        Self { counter, nonce }
    }
}

/// Bytes of any number, bounded by the frame or message that they are in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob(#[serde(with = "blob")] pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "***[{}]", self.0.len())
    }
}

mod blob {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }

        deserializer.deserialize_bytes(Visitor)
    }
}

/// First frame of a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest version that the child speaks.
    pub version_min: u16,
    /// Highest version that the child speaks.
    pub version_max: u16,
    /// Names of optional features; unknown ones are ignored. At most [`FEATURES_MAX`].
    #[serde(deserialize_with = "at_most::<FEATURES_MAX, _, _>")]
    pub features: Vec<String>,
    /// The child's full name, as it takes itself to be called.
    pub name: Fqcn,
    /// The parent that it means to reach.
    pub parent: Fqcn,
    /// Start of the child's process.
    pub incarnation: WireIncarnation,
    /// Drawn for this connection.
    pub nonce: Octets<32>,
}

/// Answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloOk {
    /// Version to be spoken.
    pub version: u16,
    /// The parent's full name.
    pub name: Fqcn,
    /// The parent's kind.
    pub kind: CellKind,
    /// Start of the parent's process.
    pub incarnation: WireIncarnation,
    /// The first challenge.
    pub challenge: WireChallenge,
    /// Largest inline payload that the parent takes, in bytes.
    pub payload_max: u32,
    /// Milliseconds between two beats.
    pub beat_ms: u32,
    /// Milliseconds of silence after which the neighbour is dead.
    pub silence_ms: u32,
    /// Now by the parent's clock, in milliseconds since 1970, for a child that names [`FEATURE_CLOCK`]. Nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_ms: Option<u64>,
}

/// A challenge on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireChallenge {
    /// Number of the parent's challenge.
    pub id: u64,
    /// The parent's nonce.
    pub nonce: Octets<32>,
    /// The server, for the end-to-end proof.
    pub server: Fqcn,
    /// The server's nonce; the parent's own where the parent is the server.
    pub server_nonce: Octets<32>,
}

/// Beat of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Strictly increasing on one connection.
    pub number: u64,
}

/// Echo of a beat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Number of the beat.
    pub number: u64,
    /// How often the parent itself has registered. Another number than that of [`Registered`] asks the
    /// child to register again: the server, or the way to it, has changed.
    pub epoch: u64,
    /// Version of the revocation list that the parent holds.
    pub revocations: u64,
    /// A new token, when the old one is past half of its life.
    pub renewal: Option<Blob>,
}

/// The sender takes no new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Milliseconds after which it makes sense to come back.
    pub retry_after_ms: u32,
}

/// Answers an exempt request on the stream that it came by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Sequence number of the request.
    pub to: u64,
    /// Zero, or the number of the status that says why not.
    pub status: u8,
    /// Body of the answer; empty unless the status is zero.
    pub body: Blob,
}

/// First frame of a conduit: what the cells on the way may know beside the request that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conduit {
    /// What it is for, where it may share its bytes with others of the same destination and target.
    pub share: Option<Octets<16>>,
    /// Larger goes first where conduits wait for one another.
    pub priority: u8,
    /// Whether bytes are to follow the answer. Where not, a cell on the way has them already.
    pub data: bool,
}

/// Body of a register request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Signature for [`crate::transcript::Purpose::Register`].
    pub signature: Blob,
    /// Signature for [`crate::transcript::Purpose::RegisterEndToEnd`].
    pub end_to_end: Blob,
}

/// Body of the reply to a register request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Signature for [`crate::transcript::Purpose::RegisterAck`].
    pub signature: Blob,
    /// The child's session token.
    pub token: Blob,
    /// The key that verifies tokens.
    pub server_key: SignedServerKey,
    /// How often the parent itself had registered then.
    pub epoch: u64,
}

/// The server's announcement of its token key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedServerKey {
    /// The server.
    pub server: Fqcn,
    /// Start of the server's process.
    pub incarnation: WireIncarnation,
    /// Ed25519 public key.
    pub key: Octets<32>,
    /// The server's certificate chain, leaf first, DER. At most [`CHAIN_MAX`].
    #[serde(deserialize_with = "at_most::<CHAIN_MAX, _, _>")]
    pub chain: Vec<Blob>,
    /// Signature by the server's leaf key for [`crate::transcript::Purpose::TokenKey`].
    pub signature: Blob,
}

/// Asks the server for a nonce for a child of the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeChild {
    /// The child's full name.
    pub child: Fqcn,
}

/// The nonce that the child will sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildChallenge {
    /// The server's nonce.
    pub nonce: Octets<32>,
}

/// Brings a child's proof to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterChild {
    /// The child's full name.
    pub child: Fqcn,
    /// Start of the child's process.
    pub incarnation: WireIncarnation,
    /// The child's certificate chain, leaf first, DER. At most [`CHAIN_MAX`].
    #[serde(deserialize_with = "at_most::<CHAIN_MAX, _, _>")]
    pub chain: Vec<Blob>,
    /// The child's end-to-end signature.
    pub signature: Blob,
    /// The job that the sender launched the child for.
    pub job: Option<Segment>,
}

/// The server's answer: the child is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRegistered {
    /// The child's session token.
    pub token: Blob,
    /// The key that verifies it.
    pub server_key: SignedServerKey,
}

/// Asks the server for a new token for a child whose token is ageing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewChild {
    /// The child's full name.
    pub child: Fqcn,
    /// Start of the child's process.
    pub incarnation: WireIncarnation,
}

/// Tells the server that the connection of a child has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachChild {
    /// The child's full name.
    pub child: Fqcn,
    /// Start of the child's process.
    pub incarnation: WireIncarnation,
}

/// A cell's word on which certificate is its own; good only as far as it verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The cell's certificate chain, leaf first, DER. At most [`CHAIN_MAX`].
    #[serde(deserialize_with = "at_most::<CHAIN_MAX, _, _>")]
    pub chain: Vec<Blob>,
    /// The cell's session token, in which the server names the leaf.
    pub token: Blob,
}

/// Says that nobody waits for these requests of the sender any longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Sequence numbers of the requests, of the incarnation that this message comes from. At most
    /// [`CANCEL_MAX`].
    #[serde(deserialize_with = "at_most::<CANCEL_MAX, _, _>")]
    pub requests: Vec<u64>,
}

/// Tells a site to start a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStart {
    /// Name of the job; last segment of its cells.
    pub job: Segment,
    /// Name of the program, resolved by the site's own registry of programs.
    pub program: Segment,
    /// Opaque to the bus; handed to the program.
    pub parameters: Blob,
}

/// Tells a site to stop a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStop {
    /// Name of the job.
    pub job: Segment,
}

/// A site's report of the end of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnded {
    /// Name of the job.
    pub job: Segment,
    /// Whether it did what it was for.
    pub completed: bool,
    /// What happened otherwise; at most 4 KiB.
    pub detail: String,
}

/// Certificates in a chain.
pub const CHAIN_MAX: usize = 4;
/// Requests that one message cancels.
pub const CANCEL_MAX: usize = 1024;
/// Features that a child may name.
pub const FEATURES_MAX: usize = 16;
/// The feature of HELLO by which a child asks for the parent's time.
pub const FEATURE_CLOCK: &str = "clock";

/// Body of the two requests of a cell that goes on with another certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCertificate {
    /// The new chain, leaf first, DER. At most [`CHAIN_MAX`].
    #[serde(deserialize_with = "at_most::<CHAIN_MAX, _, _>")]
    pub chain: Vec<Blob>,
    /// By the new key, for the purpose of the request.
    pub signature: Blob,
}

/// Body of the request of a cell for another certificate of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueCertificate {
    /// A certificate that the cell has signed itself with a new key, DER. Of it nothing but the key counts.
    pub request: Blob,
    /// By the new key.
    pub signature: Blob,
}

/// Body of the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedCertificate {
    /// The chain, leaf first, DER. At most [`CHAIN_MAX`].
    #[serde(deserialize_with = "at_most::<CHAIN_MAX, _, _>")]
    pub chain: Vec<Blob>,
}

/// A list of at most `MAX` elements. The length that stands in front of it sizes nothing: a list
/// that claims more is refused before its elements are read, and no more memory is taken than they need.
pub(crate) fn at_most<'de, const MAX: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Visitor<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> de::Visitor<'de> for Visitor<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} elements")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let claimed = list.size_hint().unwrap_or(0);
            if claimed > MAX {
                return Err(de::Error::invalid_length(claimed, &self));
            }
            let mut elements = Vec::new();
            while let Some(element) = list.next_element()? {
                if elements.len() == MAX {
                    return Err(de::Error::invalid_length(MAX + 1, &self));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }

    deserializer.deserialize_seq(Visitor::<T, MAX>(PhantomData))
}

/// Encodes a body.
#[must_use]
pub fn encode<T: Serialize>(body: &T) -> Bytes {
    rmp_serde::to_vec(body).expect("bodies are plain data").into()
}

/// Decodes a body that has exactly one spelling: what [`encode`] makes of the value. Trailing bytes, a
/// second spelling of a number and unknown fields are all refused by that.
///
/// # Errors
/// [`CodecError`] with `BAD_FRAME`; the peer sent something else.
pub fn decode_exact<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(8);
    let value = T::deserialize(&mut deserializer)
        .map_err(|_| CodecError::new(Status::BadFrame, "body is not of the expected form"))?;
    match rmp_serde::to_vec(&value) {
        Ok(again) if again == bytes => Ok(value),
        Ok(_) | Err(_) => {
            Err(CodecError::new(Status::BadFrame, "body has trailing bytes or a second spelling"))
        }
    }
}
