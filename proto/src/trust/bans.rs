//! The ban list: cells that the server does not let in for now, by its operator's word.
//!
//! It reaches no further than connections and tokens, which the server gives anyway: nothing that the
//! authority has certified is taken back by it.

use serde::{Deserialize, Serialize};

use super::{List, ListKind};
use crate::name::{Fqcn, Segment};

/// Bytes in the longest reason.
pub const REASON_MAX: usize = 200;

/// Cells that are not let in, and tokens that count no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanList {
    /// The project.
    pub project: Segment,
    /// The server that says so.
    pub server: Fqcn,
    /// Grows with every list; from 1.
    pub version: u64,
    /// When it was signed, in seconds since 1970.
    pub issued: u64,
    /// Ascending by name, none twice.
    pub bans: Vec<Ban>,
    /// Ascending by name, none twice.
    pub ended: Vec<Ended>,
}

/// A cell that is not let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Base name.
    pub name: Segment,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Why, for people; at most [`REASON_MAX`] bytes, no control characters.
    pub reason: String,
}

/// A cell whose tokens count no more; it may register again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Base name.
    pub name: Segment,
    /// The latest time of issue that counts no more, in seconds since 1970.
    pub until: u64,
}

/// What an operator wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanChange {
    /// Not let in from now on.
    Ban {
        /// Base name.
        name: Segment,
        /// Why.
        reason: String,
    },
    /// Let in again.
    Unban {
        /// Base name.
        name: Segment,
    },
    /// Turned out once: it has to register again.
    End {
        /// Base name.
        name: Segment,
        /// The latest time of issue of tokens that count no more.
        until: u64,
    },
    /// Signed again as it is, by another key of the server.
    Resign,
}

/// Why a ban list was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// The reason is too long, or has control characters.
    #[error("a reason has at most {REASON_MAX} bytes and no control characters")]
    Reason,
    /// It is banned already.
    #[error("it is banned already")]
    Already,
    /// It is not banned.
    #[error("it is not banned")]
    NotBanned,
    /// The server would ban itself.
    #[error("the server cannot ban itself")]
    Server,
}

impl BanList {
    /// How long an ended registration is remembered: longer than any token lives, in seconds.
    pub const ENDED_KEPT_S: u64 = 1800;

    /// An empty list, before the first one.
    #[must_use]
    pub fn empty(project: Segment, server: Fqcn) -> Self {
        Self { project, server, version: 0, issued: 0, bans: Vec::new(), ended: Vec::new() }
    }

    /// The next list, changed as an operator wants.
    ///
    /// # Errors
    /// [`BanError`].
    pub fn changed(&self, change: BanChange, now_unix: u64) -> Result<Self, BanError> {
        let mut next = Self { version: self.version + 1, issued: now_unix, ..self.clone() };
        next.ended.retain(|ended| ended.until + Self::ENDED_KEPT_S >= now_unix);
        match change {
            BanChange::Ban { name, reason } => {
                if name.as_str() == self.server.base() {
                    return Err(BanError::Server);
                }
                if !is_reason(&reason) {
                    return Err(BanError::Reason);
                }
                match next.place(name.as_str()) {
                    Ok(_) => return Err(BanError::Already),
                    Err(at) => next.bans.insert(at, Ban { name, since: now_unix, reason }),
                }
            }
            BanChange::Unban { name } => match next.place(name.as_str()) {
                Ok(at) => drop(next.bans.remove(at)),
                Err(_) => return Err(BanError::NotBanned),
            },
            BanChange::End { name, until } => {
                if name.as_str() == self.server.base() {
                    return Err(BanError::Server);
                }
                match next.ended.binary_search_by(|known| known.name.cmp(&name)) {
                    Ok(at) => next.ended[at].until = next.ended[at].until.max(until),
                    Err(at) => next.ended.insert(at, Ended { name, until }),
                }
            }
            BanChange::Resign => {}
        }
        Ok(next)
    }

    /// Whether the cell with this base name is not let in.
    #[must_use]
    pub fn bans(&self, base: &str) -> bool {
        self.place(base).is_ok()
    }

    /// The latest time of issue of tokens of the cell with this base name that count no more.
    #[must_use]
    pub fn ended_until(&self, base: &str) -> Option<u64> {
        let at = self.ended.binary_search_by(|ended| ended.name.as_str().cmp(base)).ok()?;
        Some(self.ended[at].until)
    }

    fn place(&self, base: &str) -> Result<usize, usize> {
        self.bans.binary_search_by(|ban| ban.name.as_str().cmp(base))
    }
}

fn is_reason(text: &str) -> bool {
    text.len() <= REASON_MAX && !text.chars().any(char::is_control)
}

impl List for BanList {
    const KIND: ListKind = ListKind::Bans;

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
        self.bans.is_sorted_by(|a, b| a.name < b.name)
            && self.ended.is_sorted_by(|a, b| a.name < b.name)
            && self.bans.iter().all(|ban| is_reason(&ban.reason))
    }
}
