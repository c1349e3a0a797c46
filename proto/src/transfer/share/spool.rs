//! One spool: which bytes it has, who reads them, and where they come from.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Next, Role, SpoolId, Spooled};
use crate::transfer::body::{Answer, Fetch, Trailer};

/// How long a part of a transfer is kept for those that were lost while they read it.
const KEEP_PART: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Spool {
    pub(super) id: SpoolId,
    pub(super) generation: u64,
    pub(super) size: Option<u64>,
    /// Zero until the holder has answered.
    pub(super) capacity: u64,
    /// It has the bytes from here ..
    base: u64,
    /// .. to here.
    end: u64,
    /// Where the next byte of the holder goes.
    fill: u64,
    pub(super) source: Source,
    pub(super) readers: BTreeMap<u64, Reader>,
    pub(super) unread_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    pub(super) at: u64,
    /// Of the content that it is promised.
    pub(super) generation: u64,
    pub(super) cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The holder has not answered who leads.
    Asking { leader: u64 },
    /// Its bytes come in.
    Filling { leader: u64 },
    /// They have stopped to, before the end.
    Broken,
    /// All are there.
    Complete(Trailer),
    /// There is no room to share this, or none any more.
    Unshared,
}

impl Reader {
    pub(super) fn of(fetch: &Fetch) -> Self {
        Self { at: fetch.offset, generation: fetch.generation, cut: false }
    }
}

impl Spool {
    pub(super) fn new(id: SpoolId, leader: u64, fetch: &Fetch) -> Self {
        Self {
            id,
            generation: fetch.generation,
            size: None,
            capacity: 0,
            base: fetch.offset,
            end: fetch.offset,
            fill: fetch.offset,
            source: Source::Asking { leader },
            readers: BTreeMap::from([(leader, Reader::of(fetch))]),
            unread_since: None,
        }
    }

    pub(super) fn role(&self, fetch: &Fetch, ahead_max: u64) -> Role {
        let ahead = match self.source {
            Source::Asking { .. } => return Role::Wait,
            Source::Unshared => return Role::Plain,
            Source::Filling { .. } => ahead_max,
            Source::Broken | Source::Complete(_) => 0,
        };
        let reaches = (self.base..=self.end.saturating_add(ahead)).contains(&fetch.offset);
        match self.source {
            Source::Broken if reaches => Role::Lead,
            Source::Filling { .. } | Source::Complete(_) if reaches => Role::Follow,
            Source::Asking { .. }
            | Source::Filling { .. }
            | Source::Broken
            | Source::Complete(_)
            | Source::Unshared => Role::Plain,
        }
    }

    /// Whether nobody has anything of it who does not begin anew anyway.
    pub(super) fn may_be_replaced(&self) -> bool {
        self.readers.is_empty() && self.source != Source::Unshared
    }

    /// Until when it is kept, where nobody reads it and what is whole is kept for `keep`.
    pub(super) fn unread_until(&self, keep: Duration) -> Option<Instant> {
        let since = self.unread_since.filter(|_| self.readers.is_empty())?;
        let keep = match self.source {
            Source::Complete(_) if self.base == 0 => keep,
            // A disk that is full needs the room.
            Source::Unshared if self.capacity > 0 => Duration::ZERO,
            Source::Asking { .. }
            | Source::Filling { .. }
            | Source::Broken
            | Source::Complete(_)
            | Source::Unshared => keep.min(KEEP_PART),
        };
        Some(since + keep)
    }

    pub(super) fn is_of(&self, answer: &Answer) -> bool {
        answer.size == self.size || self.is_complete_with(answer.size)
    }

    /// Whether it has everything that is asked for, whatever transfer it came with.
    pub(super) fn has_all_of(&self, fetch: &Fetch) -> bool {
        let Source::Complete(trailer) = self.source else { return false };
        fetch.digest == Some(trailer.digest) && (self.base..=self.end).contains(&fetch.offset)
    }

    /// Whether the holder says of what it lets in that it is what this has.
    pub(super) fn has_digest_of(&self, answer: &Answer) -> bool {
        let Source::Complete(trailer) = self.source else { return false };
        (answer.digest, answer.size) == (Some(trailer.digest), Some(trailer.size))
    }

    fn is_complete_with(&self, size: Option<u64>) -> bool {
        matches!(self.source, Source::Complete(trailer) if Some(trailer.size) == size)
    }

    pub(super) fn spooled(&self, from: u64) -> Spooled {
        Spooled { spool: self.id, capacity: self.capacity, from }
    }

    pub(super) fn fill(&mut self, leader: u64, from: u64) {
        self.fill = from;
        self.source = Source::Filling { leader };
        self.unread_since = None;
    }

    pub(super) fn room(&self) -> u64 {
        let fastest = self.readers.values().filter(|r| !r.cut).map(|r| r.at).max();
        match (self.source, fastest) {
            (Source::Filling { .. }, Some(fastest)) => {
                // Where everything fits, nobody has to be waited for.
                let keeps_from = fastest.clamp(self.base, self.end);
                (keeps_from + self.capacity).saturating_sub(self.fill)
            }
            (Source::Filling { .. }, None)
            | (
                Source::Asking { .. } | Source::Broken | Source::Complete(_) | Source::Unshared,
                _,
            ) => 0,
        }
    }

    pub(super) fn make_way(&mut self, bytes: u64) -> bool {
        if bytes > self.room() {
            self.source = Source::Broken;
            return false;
        }
        self.base = self.base.max((self.fill + bytes).saturating_sub(self.capacity));
        for reader in self.readers.values_mut() {
            reader.cut |= reader.at < self.base;
        }
        true
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.fill += bytes;
        self.end = self.end.max(self.fill);
    }

    pub(super) fn advance(&mut self, reader: u64, bytes: u64) -> bool {
        let Some(reader) = self.readers.get_mut(&reader).filter(|reader| !reader.cut) else {
            return false;
        };
        reader.at += bytes;
        true
    }

    pub(super) fn complete(&mut self, trailer: Trailer) {
        let is_whole = trailer.size == self.fill
            && self.fill == self.end
            && trailer.generation == self.generation;
        self.source = if is_whole { Source::Complete(trailer) } else { Source::Broken };
    }

    pub(super) fn next(&self, reader: u64) -> Next {
        let Some(Reader { at, generation, cut }) = self.readers.get(&reader).copied() else {
            return Next::Cut;
        };
        if cut || at < self.base {
            return Next::Cut;
        }
        if at < self.end {
            let len = (self.end - at).min(self.capacity - at % self.capacity);
            return Next::Read { from: at, len };
        }
        match self.source {
            Source::Complete(trailer) if at == trailer.size => {
                Next::Trailer(Trailer { generation, ..trailer })
            }
            Source::Complete(_) | Source::Broken | Source::Unshared => Next::Cut,
            Source::Asking { .. } | Source::Filling { .. } => Next::Wait,
        }
    }
}
