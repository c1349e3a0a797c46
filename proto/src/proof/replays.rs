//! Which proofs have been taken: each counts once, for two minutes, at one start of a cell.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    envelope::{Address, Incarnation},
    name::Fqcn,
    status::Status,
};

/// A message whose proof has verified.
#[derive(Clone, Copy, Debug)]
pub struct Proved<'a> {
    /// Its origin, with the start that it says it is.
    pub origin: &'a Address,
    /// Its sequence number there.
    pub sequence: u64,
    /// When it was signed, in milliseconds since 1970, by the origin's clock.
    pub unix_ms: u64,
    /// Copies are recognised later, where the message is executed.
    pub may_repeat: bool,
    /// It may have been signed before this cell was started.
    pub survives_restart: bool,
}

/// Why a proof is not taken although it verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Replay {
    /// It was made too long ago, or the clocks do not agree.
    #[error("signed {by_ms} ms ago by the origin's clock; the limit is {limit} ms; compare the clocks", limit = Replays::AGE_MAX_MS)]
    Old {
        /// How long ago, by this cell's clock.
        by_ms: u64,
    },
    /// It was made in the future: the clocks do not agree.
    #[error("signed {by_ms} ms in the future by this cell's clock; the limit is {limit} ms; compare the clocks", limit = Replays::AHEAD_MAX_MS)]
    Ahead {
        /// How far.
        by_ms: u64,
    },
    /// It was made before this cell was started, which does not know what it took then.
    #[error("signed before this cell was started; it was not executed since")]
    BeforeStart,
    /// So many later ones were taken that nobody remembers whether this was.
    #[error("older than everything that is remembered of this origin")]
    Forgotten,
    /// It was taken before.
    #[error("taken before")]
    Taken,
    /// There is no room to remember another origin.
    #[error("too many origins")]
    Full,
}

/// What a cell remembers of the proofs that it has taken.
///
/// Time bounds it: a start of an origin is forgotten when everything that it signed is too old to be taken.
#[derive(Debug)]
pub struct Replays {
    started_ms: u64,
    origins: BTreeMap<(Fqcn, Incarnation), Origin>,
}

#[derive(Debug, Default)]
struct Origin {
    newest_ms: u64,
    taken: BTreeSet<u64>,
    /// Nothing up to here is taken any more.
    floor: u64,
}

impl Replay {
    /// The code that the sender is told.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Old { .. } | Self::Ahead { .. } => Status::ClockSkew,
            Self::BeforeStart | Self::Forgotten => Status::StaleId,
            Self::Taken => Status::Duplicate,
            Self::Full => Status::Overloaded,
        }
    }
}

impl Replays {
    /// How long a proof is good, in milliseconds.
    pub const AGE_MAX_MS: u64 = 120_000;
    /// How far an origin's clock may be ahead, in milliseconds.
    pub const AHEAD_MAX_MS: u64 = 30_000;
    /// Proofs of one start of an origin that are remembered.
    pub const PROOFS_MAX: usize = 1024;
    /// Starts of origins that are remembered.
    pub const ORIGINS_MAX: usize = 16_384;

    /// Remembers nothing, at a cell that was started at `started_ms`.
    #[must_use]
    pub fn new(started_ms: u64) -> Self {
        Self { started_ms, origins: BTreeMap::new() }
    }

    /// Takes a proof, at `now_ms` by this cell's clock.
    ///
    /// # Errors
    /// [`Replay`]; nothing has changed, and the message must not be executed.
    pub fn take(&mut self, now_ms: u64, proved: &Proved<'_>) -> Result<(), Replay> {
        let age = now_ms.saturating_sub(proved.unix_ms);
        let ahead = proved.unix_ms.saturating_sub(now_ms);
        if age > Self::AGE_MAX_MS {
            return Err(Replay::Old { by_ms: age });
        }
        if ahead > Self::AHEAD_MAX_MS {
            return Err(Replay::Ahead { by_ms: ahead });
        }
        if proved.unix_ms < self.started_ms && !proved.survives_restart {
            return Err(Replay::BeforeStart);
        }
        if proved.may_repeat {
            return Ok(());
        }
        let start = proved.origin.incarnation.ok_or(Replay::Forgotten)?;
        let key = (proved.origin.name.clone(), start);
        if !self.origins.contains_key(&key) && self.origins.len() >= Self::ORIGINS_MAX {
            self.origins.retain(|_, origin| origin.newest_ms + Self::AGE_MAX_MS >= now_ms);
            if self.origins.len() >= Self::ORIGINS_MAX {
                return Err(Replay::Full);
            }
        }
        self.origins.entry(key).or_default().take(proved)
    }

    /// Starts of origins that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }
}

impl Origin {
    fn take(&mut self, proved: &Proved<'_>) -> Result<(), Replay> {
        if self.taken.contains(&proved.sequence) {
            return Err(Replay::Taken);
        }
        if proved.sequence <= self.floor {
            return Err(Replay::Forgotten);
        }
        self.taken.insert(proved.sequence);
        if self.taken.len() > Replays::PROOFS_MAX
            && let Some(oldest) = self.taken.pop_first()
        {
            self.floor = oldest;
        }
        self.newest_ms = self.newest_ms.max(proved.unix_ms);
        Ok(())
    }
}
