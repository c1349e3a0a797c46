//! The signed lists that every cell holds: who may no longer take part, and who may attach where.
//!
//! | list | signed by | says |
//! |---|---|---|
//! | roots | an authority of the project | which authorities count, and which of them issues |
//! | revocations | the project's authority | certificates and identities that count no more |
//! | bans | the server | cells that are not let in for now, and tokens that count no more |
//! | roster | the project's authority | which cells the project has, and below whom each attaches |
//!
//! A list has a version that only grows. It is taken over when its signature is good and its version is
//! higher than that of the one that is held, and never otherwise, whoever brings it: so cells hand lists on
//! to their neighbours without being trusted with them. Signatures are checked by the caller.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    directory::Directory, identity::CellKind, name::Fqcn, status::Status, token::Claims,
    transcript::Purpose,
};

mod bans;
mod revocations;
mod roots;
mod roster;
mod signed;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use self::{
    bans::{Ban, BanChange, BanError, BanList, Ended, REASON_MAX},
    revocations::{Reason, RevocationList, RevokedLeaf, RevokedName},
    roots::{ListedRoot, ROOT_MAX_BYTES, ROOTS_MAX, RootState, RootsList},
    roster::{Roster, RosterCell, RosterList},
    signed::{Bundle, List, ListRefused, Signed, Taking, judge, read},
};

/// Bytes in the largest signed list: it travels in one message.
pub const LIST_MAX_BYTES: usize = 960 << 10;

/// Role of a person, in a certificate of kind admin, who may sign revocation lists and rosters.
pub const SIGNER_ROLE: &str = "signer";

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListKind {
    /// Which authorities count.
    Roots,
    /// What the authority has revoked.
    Revocations,
    /// Whom the server does not let in.
    Bans,
    /// Which cells there are.
    Roster,
}

impl ListKind {
    /// Every kind, in the order in which lists are taken over: those before say who may sign those behind.
    pub const ALL: [Self; 4] = [Self::Roots, Self::Revocations, Self::Bans, Self::Roster];

    /// The word for it in files, logs and commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Roots => "roots",
            Self::Revocations => "revocations",
            Self::Bans => "bans",
            Self::Roster => "roster",
        }
    }

    /// What its signature is for.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Roots => Purpose::Roots,
            Self::Revocations => Purpose::Revocations,
            Self::Bans => Purpose::Bans,
            Self::Roster => Purpose::Roster,
        }
    }
}

impl std::fmt::Display for ListKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The versions of the lists that somebody holds; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of the revocation list.
    pub revocations: u64,
    /// Of the ban list.
    pub bans: u64,
    /// Of the roster.
    pub roster: u64,
    /// Of the list of roots.
    pub roots: u64,
}

impl Versions {
    /// The version of one list.
    #[must_use]
    pub fn of(self, kind: ListKind) -> u64 {
        match kind {
            ListKind::Roots => self.roots,
            ListKind::Revocations => self.revocations,
            ListKind::Bans => self.bans,
            ListKind::Roster => self.roster,
        }
    }

    /// One number that changes with every list that is taken over: what an echo carries.
    #[must_use]
    pub fn mark(self) -> u64 {
        let these = self.revocations.wrapping_add(self.bans);
        these.wrapping_add(self.roster).wrapping_add(self.roots)
    }
}

/// What a cell tells a neighbour of the lists that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListsHeld {
    /// Their versions.
    pub versions: Versions,
    /// Whether the neighbour is to tell the same, should it hold older ones.
    pub ask: bool,
}

/// The lists that are in force. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What the authority has revoked.
    pub revocations: Option<Arc<RevocationList>>,
    /// Whom the server does not let in.
    pub bans: Option<Arc<BanList>>,
    /// Which cells there are; without it the topology says so.
    pub roster: Option<Arc<Roster>>,
    /// Which authorities count; without it the cell's own files say so.
    pub roots: Option<Arc<RootsList>>,
}

/// Somebody who may be on a list, as a certificate or a token says.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Kind.
    pub kind: CellKind,
    /// Base name or full name.
    pub name: &'a Fqcn,
    /// SHA-256 of the leaf certificate.
    pub leaf: &'a [u8; 32],
}

impl Subject<'_> {
    /// The base name of the provisioned cell that this is, or whose job this is.
    fn base(&self) -> Option<String> {
        match self.kind {
            CellKind::Job => self.name.parent().map(|site| site.base().to_owned()),
            CellKind::Server | CellKind::Relay | CellKind::Client | CellKind::Admin => {
                Some(self.name.base().to_owned())
            }
        }
    }
}

impl View {
    /// The versions of what is in force.
    #[must_use]
    pub fn versions(&self) -> Versions {
        Versions {
            revocations: self.revocations.as_ref().map_or(0, |list| list.version),
            bans: self.bans.as_ref().map_or(0, |list| list.version),
            roster: self.roster.as_ref().map_or(0, |roster| roster.list().version),
            roots: self.roots.as_ref().map_or(0, |list| list.version),
        }
    }

    /// Why `subject` may not take part at `now_unix`, where a list says so. Job cells go with their site.
    #[must_use]
    pub fn refuses(&self, subject: Subject<'_>, now_unix: u64) -> Option<Status> {
        if self.revokes_certificate(subject.leaf, now_unix) {
            return Some(Status::CertRevoked);
        }
        if self.revocations.is_none() && self.bans.is_none() {
            return None;
        }
        let base = subject.base()?;
        let revoked = self.revocations.as_ref().is_some_and(|list| list.names(&base, now_unix));
        if revoked {
            return Some(Status::CertRevoked);
        }
        let banned = self.bans.as_ref().is_some_and(|list| list.bans(&base));
        banned.then_some(Status::Disabled)
    }

    /// Whether the certificate with this hash counts no more, a leaf or one on the way to the root.
    #[must_use]
    pub fn revokes_certificate(&self, hash: &[u8; 32], now_unix: u64) -> bool {
        self.revocations.as_ref().is_some_and(|list| list.certificate(hash, now_unix))
    }

    /// Why a token with these claims counts no more, where a list says so.
    #[must_use]
    pub fn refuses_token(&self, claims: &Claims, now_unix: u64) -> Option<Status> {
        let subject = Subject { kind: claims.kind, name: &claims.subject, leaf: &claims.leaf.0 };
        self.refuses(subject, now_unix).or_else(|| {
            let ended = self.bans.as_ref().filter(|list| !list.ended.is_empty())?;
            let until = ended.ended_until(&subject.base()?)?;
            (claims.issued <= until).then_some(Status::TokenRevoked)
        })
    }

    /// The cells that there are, where the roster says so.
    #[must_use]
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.roster.as_deref().map(Roster::directory)
    }
}
