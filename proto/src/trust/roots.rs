//! The roots list: the authorities whose certificates count in a project, and which of them issues.
//!
//! It takes a project from one authority to the next while its cells run: two count for a time, then the next one
//! alone. Only an authority that counts signs it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{List, ListKind};
use crate::{codec::body::Blob, name::Segment, transcript::sha256};

/// The most authorities that count at a time.
pub const ROOTS_MAX: usize = 4;
/// Bytes in the largest certificate of an authority.
pub const ROOT_MAX_BYTES: usize = 8 << 10;

/// The authorities of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootsList {
    /// The project.
    pub project: Segment,
    /// Grows with every list; from 1.
    pub version: u64,
    /// When it was signed, in seconds since 1970.
    pub issued: u64,
    /// The authorities that count, none twice; exactly one is [`RootState::Active`]. Those that are not here count no
    /// more.
    pub roots: Vec<ListedRoot>,
}

/// One authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRoot {
    /// Its certificate, DER.
    pub der: Blob,
    /// Where it stands.
    pub state: RootState,
}

/// Where an authority stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootState {
    /// It will issue: cells believe it already.
    Prepared,
    /// It issues.
    Active,
    /// It has issued, and what it has issued counts.
    Former,
    /// What it has issued counts and is to be replaced at once; it signs no list any more.
    Tainted,
}

impl RootState {
    /// The word for it in files and commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Former => "former",
            Self::Tainted => "tainted",
        }
    }
}

impl fmt::Display for RootState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl RootsList {
    /// Where the authority whose certificate has this SHA-256 stands; `None` where it counts no more.
    #[must_use]
    pub fn state_of(&self, hash: &[u8; 32]) -> Option<RootState> {
        let found = self.roots.iter().find(|root| sha256(&root.der.0) == *hash);
        found.map(|root| root.state)
    }
}

impl List for RootsList {
    const KIND: ListKind = ListKind::Roots;

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
        let active = self.roots.iter().filter(|root| root.state == RootState::Active).count();
        let is_small = |root: &ListedRoot| root.der.0.len() <= ROOT_MAX_BYTES;
        let is_new = |(at, root): (usize, &ListedRoot)| {
            self.roots.iter().take(at).all(|before| before.der != root.der)
        };
        active == 1
            && self.roots.len() <= ROOTS_MAX
            && self.roots.iter().all(is_small)
            && self.roots.iter().enumerate().all(is_new)
    }
}
