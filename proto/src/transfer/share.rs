//! What a relay shares between receivers behind it: one copy over the link to the holder, in a spool of
//! bounded size that each of them is read from at its own pace.
//!
//! The holder decides on every receiver all the same: for the first one (*leads*) the relay asks for the
//! bytes, for the others (*follow*) for the answer alone, and the receipt of each goes to the holder.
//! Conduits are shared only where destination, channel, topic, the hint in the CONDUIT frame and the
//! generation that the holder answered are equal; or where a spool has all bytes of the same holder with
//! the digest that it answered, so that what is served again does not come again. Nobody is held by
//! somebody slower: whoever falls behind a spool that cannot keep everything is cut off and asks the
//! holder again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    body::{Answer, Fetch, Trailer},
    reference::TransferId,
};
use crate::name::{ChannelTopic, Fqcn};

mod spool;

use self::spool::{Reader, Source, Spool};

/// What conduits must have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShareKey {
    /// The holder.
    pub destination: Fqcn,
    /// Channel and topic.
    pub target: ChannelTopic,
    /// The hint in the CONDUIT frame.
    pub id: TransferId,
    /// The content that is asked for.
    pub generation: u64,
}

/// Numbers a spool; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u64);

/// What a relay may spend on sharing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareSettings {
    /// Bytes of all spools together. 1 GiB.
    pub budget: u64,
    /// The least that a spool has, unless all of the transfer is less. 64 MiB.
    pub window_min: u64,
    /// How long a spool with all of a transfer is kept that nobody reads: an hour. One with a part of it is kept for a
    /// minute at most.
    pub keep: Duration,
    /// How far ahead of a spool somebody may be who waits for it. 16 MiB.
    pub ahead_max: u64,
    /// Spools at once. 256.
    pub spools_max: usize,
}

impl Default for ShareSettings {
    fn default() -> Self {
        Self {
            budget: 1 << 30,
            window_min: 64 << 20,
            keep: Duration::from_secs(3600),
            ahead_max: 16 << 20,
            spools_max: 256,
        }
    }
}

/// How a conduit is opened upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// On its own, with data: nothing is shared, and the table knows nothing of it.
    Plain,
    /// Not yet: somebody else has just asked for the same. Ask again when the table has changed.
    Wait,
    /// With data, which goes to a spool.
    Lead,
    /// For the answer alone; the bytes come from a spool.
    Follow,
}

/// What follows from the holder's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Who led goes on alone, without a spool.
    Plain,
    /// Write what the holder sends to the spool, and read this conduit from there.
    Fill(Spooled),
    /// Read this conduit from the spool.
    Serve(Spooled),
    /// What the spool has is no longer what the holder has: reset the conduit.
    Cut,
}

/// Where bytes lie in a spool: byte `n` of the transfer at `n % capacity` of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Which one. A new number is a new file.
    pub spool: SpoolId,
    /// Bytes of the file.
    pub capacity: u64,
    /// The first byte that the holder sends, or that is to be read.
    pub from: u64,
}

/// What a reader of a spool does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send these bytes, or the first of them, as chunks; then `handle_read`.
    Read {
        /// Offset in the transfer.
        from: u64,
        /// Bytes that are there; within one turn of the file.
        len: u64,
    },
    /// Send the trailer; what follows comes from the holder.
    Trailer(Trailer),
    /// Nothing is there yet.
    Wait,
    /// What it needs is gone, or will not come: reset the conduit.
    Cut,
}

/// What a relay shares.
///
/// About 200 bytes for each spool and 40 for each reader; the bytes themselves lie elsewhere.
#[derive(Debug)]
pub struct Share {
    settings: ShareSettings,
    spools: BTreeMap<ShareKey, Spool>,
    used: u64,
    next: u64,
    freed: Vec<SpoolId>,
}

impl Share {
    /// A table without spools.
    #[must_use]
    pub fn new(settings: ShareSettings) -> Self {
        Self { settings, spools: BTreeMap::new(), used: 0, next: 0, freed: Vec::new() }
    }

    /// Decides how a conduit is opened.
    ///
    /// # Arguments
    /// `key`: what it has in common with others; where there is a spool of an earlier transfer with all that
    /// it wants, that of the spool from then on. `reader`: a number of this conduit, never used again.
    /// `fetch`: the payload of its request.
    pub fn handle_open(&mut self, key: &mut ShareKey, reader: u64, fetch: &Fetch) -> Role {
        if fetch.have || fetch.id != key.id || fetch.generation != key.generation {
            return Role::Plain;
        }
        if let Some((earlier, spool)) = self
            .spools
            .iter_mut()
            .find(|(other, spool)| other.destination == key.destination && spool.has_all_of(fetch))
        {
            spool.readers.insert(reader, Reader::of(fetch));
            *key = earlier.clone();
            return Role::Follow;
        }
        if let Some(spool) = self.spools.get_mut(key) {
            let role = spool.role(fetch, self.settings.ahead_max);
            match role {
                Role::Follow => {
                    spool.readers.insert(reader, Reader::of(fetch));
                    return role;
                }
                Role::Lead => {
                    spool.source = Source::Asking { leader: reader };
                    spool.readers.insert(reader, Reader::of(fetch));
                    return role;
                }
                Role::Plain if !spool.may_be_replaced() => return role,
                Role::Wait => return role,
                Role::Plain => self.remove(key),
            }
        }
        if self.spools.len() >= self.settings.spools_max && !self.evict_oldest() {
            return Role::Plain;
        }
        self.next += 1;
        let spool = Spool::new(SpoolId(self.next), reader, fetch);
        self.spools.insert(key.clone(), spool);
        Role::Lead
    }

    /// The holder has let a conduit in that leads or follows.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        key: &ShareKey,
        reader: u64,
        answer: &Answer,
    ) -> Followed {
        let Some(spool) = self.spools.get_mut(key) else { return Followed::Cut };
        let Some(known) = spool.readers.get(&reader) else { return Followed::Cut };
        let is_as_asked = answer.generation == known.generation && answer.offset == known.at;
        let is_own = answer.id == key.id && answer.generation == spool.generation;
        if spool.source != (Source::Asking { leader: reader }) {
            // Whoever may have one transfer may not have another: that the bytes are the same, the holder says.
            let is_of = if is_own { spool.is_of(answer) } else { spool.has_digest_of(answer) };
            return if is_as_asked && is_of && !known.cut {
                Followed::Serve(spool.spooled(answer.offset))
            } else {
                self.handle_left(now, key, reader);
                Followed::Cut
            };
        }
        let is_as_asked = is_as_asked && is_own;
        // The answer may say that no bytes follow from the holder: a relay that has them adds them.
        let goes_on = spool.capacity > 0 && is_as_asked && spool.is_of(answer);
        if goes_on {
            spool.fill(reader, answer.offset);
            return Followed::Fill(spool.spooled(answer.offset));
        }
        let wanted = answer.size.unwrap_or(answer.size_max).saturating_sub(answer.offset);
        if spool.capacity > 0 || !is_as_asked {
            self.refuse(now, key, reader);
            return Followed::Plain;
        }
        let capacity = self.make_room(wanted);
        let spool = self.spools.get_mut(key).expect("a spool with a reader is not evicted");
        if capacity < wanted.min(self.settings.window_min) {
            spool.readers.clear();
            spool.source = Source::Unshared;
            spool.unread_since = Some(now);
            return Followed::Plain;
        }
        self.used += capacity;
        // A transfer without bytes left still has its trailer shared.
        (spool.capacity, spool.size) = (capacity.max(1), answer.size);
        self.used += spool.capacity - capacity;
        spool.fill(reader, answer.offset);
        Followed::Fill(spool.spooled(answer.offset))
    }

    /// A conduit that leads or follows was returned, or lost before it was answered.
    pub fn handle_refused(&mut self, now: Instant, key: &ShareKey, reader: u64) {
        self.refuse(now, key, reader);
    }

    fn refuse(&mut self, now: Instant, key: &ShareKey, reader: u64) {
        let Some(spool) = self.spools.get_mut(key) else { return };
        if spool.source == (Source::Asking { leader: reader }) {
            spool.source = Source::Broken;
        }
        self.handle_left(now, key, reader);
        if self.spools.get(key).is_some_and(|spool| spool.capacity == 0) {
            self.remove(key);
        }
    }

    /// The spool, where the conduit of `leader` is what fills it.
    fn filled_by(&mut self, key: &ShareKey, leader: u64) -> Option<&mut Spool> {
        self.spools.get_mut(key).filter(|spool| spool.source == (Source::Filling { leader }))
    }

    /// Bytes that come by the conduit of `leader` and that the spool can take now without losing what its fastest
    /// reader needs.
    #[must_use]
    pub fn room(&self, key: &ShareKey, leader: u64) -> u64 {
        let spool = self.spools.get(key);
        spool.filter(|spool| spool.source == (Source::Filling { leader })).map_or(0, Spool::room)
    }

    /// Bytes of the holder are about to be written to the spool, in place of what is oldest. More than
    /// [`room`](Self::room) ends the sharing: `false`, and they are not written. So it is where somebody else
    /// fills it by now.
    pub fn handle_filling(&mut self, key: &ShareKey, leader: u64, bytes: u64) -> bool {
        self.filled_by(key, leader).is_some_and(|spool| spool.make_way(bytes))
    }

    /// They have been written.
    pub fn handle_spooled(&mut self, key: &ShareKey, leader: u64, bytes: u64) {
        if let Some(spool) = self.filled_by(key, leader) {
            spool.add(bytes);
        }
    }

    /// The holder has sent its trailer.
    pub fn handle_trailer(&mut self, key: &ShareKey, leader: u64, trailer: Trailer) {
        if let Some(spool) = self.filled_by(key, leader) {
            spool.complete(trailer);
        }
    }

    /// No more comes from the holder by the conduit of `leader`. Somebody else may go on where it ended.
    pub fn handle_source_lost(&mut self, key: &ShareKey, leader: u64) {
        if let Some(spool) = self.filled_by(key, leader) {
            spool.source = Source::Broken;
        }
    }

    /// The file of a spool could not be written, or read. It is shared no further, and what nobody reads makes way: it
    /// is worth less than room on that disk.
    pub fn handle_disk_failed(&mut self, key: &ShareKey) {
        if let Some(spool) = self.spools.get_mut(key)
            && !matches!(spool.source, Source::Asking { .. })
        {
            spool.source = Source::Unshared;
        }
        while self.evict_oldest() {}
    }

    /// What a reader does next.
    #[must_use]
    pub fn next(&self, key: &ShareKey, reader: u64) -> Next {
        self.spools.get(key).map_or(Next::Cut, |spool| spool.next(reader))
    }

    /// A reader has read the next `bytes` bytes from the file and is about to send them. Says whether they
    /// may be: whether nothing was written in their place meanwhile.
    pub fn handle_read(&mut self, key: &ShareKey, reader: u64, bytes: u64) -> bool {
        self.spools.get_mut(key).is_some_and(|spool| spool.advance(reader, bytes))
    }

    /// A conduit has ended. Says whether nobody reads any longer what the holder still sends, so that the
    /// relay gives that up; who has led may leave while others read.
    pub fn handle_left(&mut self, now: Instant, key: &ShareKey, reader: u64) -> bool {
        let Some(spool) = self.spools.get_mut(key) else { return false };
        if spool.readers.remove(&reader).is_none() || !spool.readers.is_empty() {
            return false;
        }
        spool.unread_since = Some(now);
        let is_filling = matches!(spool.source, Source::Filling { .. } | Source::Asking { .. });
        if is_filling {
            spool.source = Source::Broken;
        }
        is_filling
    }

    /// Drops spools that nobody has read for long; says which, and which were dropped to make room.
    pub fn expire(&mut self, now: Instant) -> Vec<SpoolId> {
        let keep = self.settings.keep;
        let is_over = |spool: &Spool| spool.unread_until(keep).is_some_and(|until| until <= now);
        let over = self.spools.iter().filter(|(_, spool)| is_over(spool));
        let over: Vec<ShareKey> = over.map(|(key, _)| key.clone()).collect();
        over.iter().for_each(|key| self.remove(key));
        std::mem::take(&mut self.freed)
    }

    /// When to call [`expire`](Self::expire), if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.spools.values().filter_map(|spool| spool.unread_until(self.settings.keep)).min()
    }

    /// Bytes that spools may take, all together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Drops what nobody reads until `wanted` bytes are free; how many of them are.
    fn make_room(&mut self, wanted: u64) -> u64 {
        while self.settings.budget.saturating_sub(self.used) < wanted && self.evict_oldest() {}
        wanted.min(self.settings.budget.saturating_sub(self.used))
    }

    fn evict_oldest(&mut self) -> bool {
        let unread = self.spools.iter().filter(|(_, spool)| spool.readers.is_empty());
        let oldest = unread.min_by_key(|(_, spool)| spool.unread_since).map(|(key, _)| key.clone());
        oldest.as_ref().inspect(|key| self.remove(key)).is_some()
    }

    fn remove(&mut self, key: &ShareKey) {
        if let Some(spool) = self.spools.remove(key) {
            self.used -= spool.capacity;
            if spool.capacity > 0 {
                self.freed.push(spool.id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
