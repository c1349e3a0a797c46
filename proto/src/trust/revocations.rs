//! The revocation list: certificates and identities that the project's authority has taken back.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{List, ListKind};
use crate::{codec::Octets, name::Segment};

/// Certificates and identities that count no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationList {
    /// The project.
    pub project: Segment,
    /// Grows with every list; from 1.
    pub version: u64,
    /// When it was signed, in seconds since 1970.
    pub issued: u64,
    /// Identities, whichever certificate they show: ascending by name, none twice.
    pub names: Vec<RevokedName>,
    /// Certificates: ascending by hash, none twice.
    pub leaves: Vec<RevokedLeaf>,
}

/// An identity that counts no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedName {
    /// Base name of a cell, or name of a person.
    pub name: Segment,
    /// Why.
    pub reason: Reason,
    /// Until when, in seconds since 1970; `None` for as long as the entry stands.
    pub until: Option<u64>,
}

/// A certificate that counts no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedLeaf {
    /// SHA-256 of its DER form.
    pub leaf: Octets<32>,
    /// Why.
    pub reason: Reason,
    /// Until when, in seconds since 1970: its own end is enough. `None` for as long as the entry stands.
    pub until: Option<u64>,
}

/// Why something was revoked: for people, nothing is decided on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Nobody said.
    Unspecified = 0,
    /// Somebody else has, or may have, the key.
    KeyCompromise = 1,
    /// Another certificate has taken its place.
    Superseded = 4,
    /// The cell or person takes part no more.
    Ceased = 5,
    /// It may be let in again.
    Hold = 6,
}

impl Reason {
    /// Every reason; the numbers are those of RFC 5280 section 5.3.1.
    pub const ALL: [Self; 5] =
        [Self::Unspecified, Self::KeyCompromise, Self::Superseded, Self::Ceased, Self::Hold];

    /// The word for it in commands and files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::Superseded => "superseded",
            Self::Ceased => "ceased",
            Self::Hold => "hold",
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        let known = Self::ALL.into_iter().find(|reason| *reason as u8 == number);
        known.ok_or_else(|| de::Error::custom("no such reason"))
    }
}

impl RevocationList {
    /// An empty list, before the first one.
    #[must_use]
    pub fn empty(project: Segment) -> Self {
        Self { project, version: 0, issued: 0, names: Vec::new(), leaves: Vec::new() }
    }

    /// The next list: without what has ended by `now_unix`, with these changes still to be made to it.
    #[must_use]
    pub fn next(&self, now_unix: u64) -> Self {
        let mut next = Self { version: self.version + 1, issued: now_unix, ..self.clone() };
        next.names.retain(|entry| holds(entry.until, now_unix));
        next.leaves.retain(|entry| holds(entry.until, now_unix));
        next
    }

    /// Adds an identity, or takes the place of what was said about it.
    pub fn revoke_name(&mut self, entry: RevokedName) {
        match self.names.binary_search_by(|known| known.name.cmp(&entry.name)) {
            Ok(at) => self.names[at] = entry,
            Err(at) => self.names.insert(at, entry),
        }
    }

    /// Adds a certificate, or takes the place of what was said about it.
    pub fn revoke_leaf(&mut self, entry: RevokedLeaf) {
        match self.leaves.binary_search_by(|known| known.leaf.cmp(&entry.leaf)) {
            Ok(at) => self.leaves[at] = entry,
            Err(at) => self.leaves.insert(at, entry),
        }
    }

    /// Takes an identity off the list; says whether it was on it.
    pub fn restore_name(&mut self, name: &Segment) -> bool {
        let at = self.names.binary_search_by(|known| known.name.cmp(name));
        at.map(|at| self.names.remove(at)).is_ok()
    }

    /// Whether the identity with this base name counts no more at `now_unix`.
    #[must_use]
    pub fn names(&self, base: &str, now_unix: u64) -> bool {
        let found = self.names.binary_search_by(|entry| entry.name.as_str().cmp(base));
        found.is_ok_and(|at| holds(self.names[at].until, now_unix))
    }

    /// Whether the certificate with this hash counts no more at `now_unix`.
    #[must_use]
    pub fn certificate(&self, hash: &[u8; 32], now_unix: u64) -> bool {
        let found = self.leaves.binary_search_by(|entry| entry.leaf.0.cmp(hash));
        found.is_ok_and(|at| holds(self.leaves[at].until, now_unix))
    }
}

fn holds(until: Option<u64>, now_unix: u64) -> bool {
    until.is_none_or(|until| now_unix <= until)
}

impl List for RevocationList {
    const KIND: ListKind = ListKind::Revocations;

    fn project(&self) -> &Segment {
        &self.project
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn issued(&self) -> u64 {
        self.issued
    }

    fn is_well_formed(&self) -> bool {
        self.names.is_sorted_by(|a, b| a.name < b.name)
            && self.leaves.is_sorted_by(|a, b| a.leaf < b.leaf)
    }
}
