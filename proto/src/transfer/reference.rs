//! What a transfer is, who holds it and who may have it: the one thing that is passed around.

use std::{collections::BTreeSet, fmt, ops::Range, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    SIZE_MAX,
    digest::{Digest, NotHex, parse_hex, write_hex},
    seal::{Seal, content_len, sealed_len},
};
use crate::{
    codec::{
        CodecError, Octets,
        body::{self, Blob, at_most},
    },
    name::{ChannelTopic, Fqcn, Segment},
    status::Status,
    transcript::{Purpose, Signable, Transcript},
};

/// Names a transfer: 16 random bytes, drawn by its holder and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TransferId(Octets<16>);

/// What a transfer is. Made by its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Which transfer.
    pub id: TransferId,
    /// The cell that serves it.
    pub holder: Fqcn,
    /// Where it is fetched; the rules for this channel and topic decide on every fetch.
    pub target: ChannelTopic,
    /// Bytes that travel in all, where that is known.
    pub size: Option<u64>,
    /// Bytes that it never exceeds; at most [`SIZE_MAX`], and `size` where that is known.
    pub size_max: u64,
    /// Of all bytes that travel, where it is known.
    pub digest: Option<Digest>,
    /// Counts the contents that have been served under this id. At least 1.
    pub generation: u64,
    /// Of the bytes; printable ASCII, at most 128.
    pub content_type: Option<String>,
    /// The application's own; at most [`Reference::HEADERS_MAX`] bytes.
    pub headers: Blob,
    /// The named parts of an object, one behind the other, which together are all of it; or none. At
    /// most [`Reference::PARTS_MAX`]. Where it is sealed, these are the parts of the content.
    pub parts: Vec<Part>,
    /// Who may fetch it.
    pub audience: Audience,
    /// After this nobody may, in seconds since 1970 by the holder's clock.
    pub expires_unix: u64,
    /// When it was made, in milliseconds since 1970 by the holder's clock.
    pub unix_ms: u64,
    /// Whether what travels is sealed, and with which key.
    pub seal: Option<Seal>,
}

/// One named part of an object, a tensor for example.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name, 1 to [`Reference::PART_NAME_MAX`] bytes.
    pub name: String,
    /// Its bytes.
    pub len: u64,
}

/// Who may fetch a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// These cells; 1 to [`Reference::RECEIVERS_MAX`].
    Receivers(BTreeSet<Fqcn>),
    /// The cells of this job.
    Job(Segment),
}

/// A cell that may be in an audience, as it was verified and not as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver<'a> {
    /// Its full name: the origin of an admitted message.
    pub name: &'a Fqcn,
    /// The job in its token.
    pub job: Option<&'a Segment>,
}

/// A reference with its holder's signature, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedReference {
    /// What is signed.
    pub reference: Reference,
    /// By the holder's leaf key over [`Reference::signable`].
    pub signature: Blob,
}

/// Why a reference cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// Sizes that do not fit each other, or too large a one.
    #[error("sizes do not fit each other, or are larger than a transfer may be")]
    Size,
    /// Generations count from 1.
    #[error("generation is zero")]
    Generation,
    /// A content type, headers, or name of a part outside its limit.
    #[error("content type, headers or the name of a part are outside their limits")]
    Text,
    /// Parts that are not all of a transfer of known size, or too many.
    #[error("parts are too many, or are not all of it")]
    Parts,
    /// Sealed in a way that is not known, or of a size that nothing sealed has.
    #[error("how it is sealed is not known, or does not fit its size")]
    Seal,
    /// An audience of nobody, or of too many.
    #[error("audience is empty or too large")]
    Audience,
    /// Larger than a message may be.
    #[error("reference is larger than {} bytes", Reference::BYTES_MAX)]
    TooLarge,
}

/// Why a reference is of no use to a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has ended.
    #[error("reference has expired")]
    Expired,
    /// It is for others.
    #[error("reference is for other receivers")]
    NotForMe,
    /// The holder has not signed it.
    #[error("the holder has not signed the reference")]
    BadSignature,
}

impl Unfit {
    /// What whoever handed it on is told.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Expired => Status::TransferExpired,
            Self::NotForMe => Status::Forbidden,
            Self::BadSignature => Status::BadSignature,
        }
    }
}

impl TransferId {
    /// The id with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Octets(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0.0
    }
}

impl Audience {
    /// Whether `receiver` is in it. A cell without a job is in no job.
    #[must_use]
    pub fn has(&self, receiver: Receiver<'_>) -> bool {
        match self {
            Self::Receivers(names) => names.contains(receiver.name),
            Self::Job(job) => receiver.job == Some(job),
        }
    }
}

impl Reference {
    /// Parts of one object.
    pub const PARTS_MAX: usize = 65_536;
    /// Bytes in the name of a part.
    pub const PART_NAME_MAX: usize = 256;
    /// Cells that an audience names.
    pub const RECEIVERS_MAX: usize = 512;
    /// Bytes of the application's headers.
    pub const HEADERS_MAX: usize = 4096;
    /// Bytes of an encoded reference with its signature: what one message holds.
    pub const BYTES_MAX: usize = 1 << 20;

    /// Whether all fields are as they must be. Nothing is served or fetched that is not.
    ///
    /// # Errors
    /// [`BadReference`], of the first field that is not.
    pub fn check(&self) -> Result<(), BadReference> {
        let size_max = self.size.map_or(0..=SIZE_MAX, |size| size..=SIZE_MAX);
        if !size_max.contains(&self.size_max) {
            return Err(BadReference::Size);
        }
        if self.generation == 0 {
            return Err(BadReference::Generation);
        }
        let is_type = |text: &String| crate::local::is_content_type(text);
        let is_part = |part: &Part| (1..=Self::PART_NAME_MAX).contains(&part.name.len());
        if !self.content_type.iter().all(is_type)
            || self.headers.0.len() > Self::HEADERS_MAX
            || !self.parts.iter().all(is_part)
        {
            return Err(BadReference::Text);
        }
        let is_known = self.seal.is_none_or(|seal| seal.suite == Seal::AES_256_GCM_SIV);
        let is_whole = |size| self.seal.is_none() || content_len(size).is_some();
        if !is_known || (self.parts.is_empty() && !self.size.is_none_or(is_whole)) {
            return Err(BadReference::Seal);
        }
        let travels = |part: &Part| match self.seal {
            Some(_) => sealed_len(part.len),
            None => Some(part.len),
        };
        let sum = self.parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(travels(part)?));
        if !self.parts.is_empty() && (self.parts.len() > Self::PARTS_MAX || sum != self.size) {
            return Err(BadReference::Parts);
        }
        match &self.audience {
            Audience::Receivers(names) if !(1..=Self::RECEIVERS_MAX).contains(&names.len()) => {
                Err(BadReference::Audience)
            }
            Audience::Receivers(_) | Audience::Job(_) => Ok(()),
        }
    }

    /// Bytes of content in all, where that is known: what a sink gets.
    #[must_use]
    pub fn content_size(&self) -> Option<u64> {
        self.size.map(|size| self.content_of(size))
    }

    /// Bytes of content in the `size` bytes that all of it travels as.
    #[must_use]
    pub fn content_of(&self, size: u64) -> u64 {
        if self.seal.is_none() {
            return size;
        }
        if self.parts.is_empty() {
            return content_len(size).unwrap_or(size);
        }
        self.parts.iter().fold(0, |sum, part| part.len.saturating_add(sum))
    }

    /// The parts, each with where it lies in the content.
    pub fn places(&self) -> impl Iterator<Item = (&str, Range<u64>)> {
        self.parts.iter().scan(0, |end: &mut u64, part| {
            let start = *end;
            *end = start.saturating_add(part.len);
            Some((part.name.as_str(), start..*end))
        })
    }

    /// What the holder signs.
    #[must_use]
    pub fn signable(&self, project: &str) -> Signable {
        signable(project, &self.to_bytes())
    }

    /// Whether it has ended, by the clock of whoever asks.
    #[must_use]
    pub fn has_expired(&self, now_unix: u64) -> bool {
        now_unix >= self.expires_unix
    }

    /// The body: what is signed.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let (receivers, job) = match &self.audience {
            Audience::Receivers(names) => (Some(names.iter().cloned().collect()), None),
            Audience::Job(job) => (None, Some(job.clone())),
        };
        body::encode(&Wire {
            id: self.id,
            holder: self.holder.clone(),
            channel: self.target.channel().to_string(),
            topic: self.target.topic().to_string(),
            size: self.size,
            size_max: self.size_max,
            digest: self.digest,
            generation: self.generation,
            content_type: self.content_type.clone(),
            headers: self.headers.clone(),
            parts: self.parts.clone(),
            receivers,
            job,
            expires_unix: self.expires_unix,
            unix_ms: self.unix_ms,
            seal: self.seal,
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let wire: Wire = body::decode_exact(bytes)?;
        let audience = match (wire.receivers, wire.job) {
            (Some(names), None) => {
                if names.windows(2).any(|pair| pair[0] >= pair[1]) {
                    return Err(bad("receivers are not in order"));
                }
                Audience::Receivers(names.into_iter().collect())
            }
            (None, Some(job)) => Audience::Job(job),
            (Some(_), Some(_)) | (None, None) => {
                return Err(bad("an audience is either of receivers or of a job"));
            }
        };
        let reference = Self {
            id: wire.id,
            holder: wire.holder,
            target: ChannelTopic::parse(&wire.channel, &wire.topic)
                .map_err(|_| bad("channel or topic is not a name"))?,
            size: wire.size,
            size_max: wire.size_max,
            digest: wire.digest,
            generation: wire.generation,
            content_type: wire.content_type,
            headers: wire.headers,
            parts: wire.parts,
            audience,
            expires_unix: wire.expires_unix,
            unix_ms: wire.unix_ms,
            seal: wire.seal,
        };
        reference.check().map_err(|_| bad("a field is outside its limits"))?;
        Ok(reference)
    }
}

impl SignedReference {
    /// The bytes that travel.
    ///
    /// # Errors
    /// [`BadReference`] when it is not one that anybody would take.
    pub fn encode(&self) -> Result<Bytes, BadReference> {
        self.reference.check()?;
        let bytes = body::encode(&(Blob(self.reference.to_bytes().to_vec()), &self.signature));
        if bytes.len() > Reference::BYTES_MAX { Err(BadReference::TooLarge) } else { Ok(bytes) }
    }

    /// Reads one. The signature has not been verified by that, see [`judge`](Self::judge).
    ///
    /// # Errors
    /// [`CodecError`]: `TOO_LARGE`, or `BAD_FRAME` for anything but the one spelling of a reference.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        if bytes.len() > Reference::BYTES_MAX {
            return Err(CodecError::new(Status::TooLarge, "reference is larger than allowed"));
        }
        let (content, signature): (Blob, Blob) = body::decode_exact(bytes)?;
        Ok(Self { reference: Reference::from_bytes(&content.0)?, signature })
    }

    /// Whether `me` may believe and use it.
    ///
    /// # Arguments
    /// `verifies` is given the signable and the signature, and says whether the leaf key of the holder
    /// made it.
    /// # Errors
    /// [`Unfit`]; nothing of the reference may be used.
    pub fn judge(
        &self,
        project: &str,
        me: Receiver<'_>,
        now_unix: u64,
        verifies: impl FnOnce(&Signable, &[u8]) -> bool,
    ) -> Result<(), Unfit> {
        if self.reference.has_expired(now_unix) {
            Err(Unfit::Expired)
        } else if !self.reference.audience.has(me) {
            Err(Unfit::NotForMe)
        } else if !verifies(&self.reference.signable(project), &self.signature.0) {
            Err(Unfit::BadSignature)
        } else {
            Ok(())
        }
    }
}

fn signable(project: &str, content: &[u8]) -> Signable {
    Transcript::new(Purpose::TransferReference).field(project.as_bytes()).field(content).finish()
}

fn bad(what: &'static str) -> CodecError {
    CodecError::new(Status::BadFrame, what)
}

#[derive(Serialize, Deserialize)]
struct Wire {
    id: TransferId,
    holder: Fqcn,
    channel: String,
    topic: String,
    size: Option<u64>,
    size_max: u64,
    digest: Option<Digest>,
    generation: u64,
    content_type: Option<String>,
    headers: Blob,
    #[serde(deserialize_with = "at_most::<{ Reference::PARTS_MAX }, _, _>")]
    parts: Vec<Part>,
    #[serde(deserialize_with = "optional_at_most::<{ Reference::RECEIVERS_MAX }, _, _>")]
    receivers: Option<Vec<Fqcn>>,
    job: Option<Segment>,
    expires_unix: u64,
    unix_ms: u64,
    /// Only there where it is sealed: who does not know of sealing refuses one field more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seal: Option<Seal>,
}

fn optional_at_most<'de, const MAX: usize, T, D>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct List<T, const MAX: usize>(Vec<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            at_most::<MAX, T, D>(deserializer).map(Self)
        }
    }

    let list = Option::<List<T, MAX>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.0))
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.as_bytes(), f)
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.as_bytes(), f)
    }
}

impl FromStr for TransferId {
    type Err = NotHex;

    fn from_str(text: &str) -> Result<Self, NotHex> {
        parse_hex(text).map(Self::from_bytes)
    }
}

#[cfg(test)]
pub(super) mod tests;
