//! Verdicts on messages that differ from an earlier one in nothing that was decided on.
//!
//! Messages of one stream share the allocations of their names, topic and token (the stream's tables
//! introduce each once), so a verdict is found by five addresses. An entry holds on to what it compares
//! with: an address that is equal is the same value. Everything else that was decided on (routes, policy,
//! keys, revocations) empties this store when it changes.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use super::{Arrival, Permit, is_covered};
use crate::{
    envelope::{Address, Envelope, Kind},
    name::ChannelTopic,
    route::Hop,
    status::Status,
    token::{Claims, Token},
};

/// What the gate has let in and would let in again.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    known: HashMap<Key, Entry, BuildHasherDefault<Folded>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    arrived: Hop,
    origin: usize,
    destination: usize,
    target: usize,
    token: usize,
    role: Role,
    covered: bool,
}

/// What of a kind is decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Asks,
    Replies,
    Returns,
}

#[derive(Debug)]
struct Entry {
    claims: Arc<Claims>,
    permit: Permit,
    next: Result<Hop, Status>,
    _held: (Arc<Address>, Arc<Address>, ChannelTopic, Token),
}

#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(26) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}

impl Key {
    fn of(envelope: &Envelope, arrival: Arrival<'_>) -> Option<Self> {
        let header = &envelope.header;
        if let Arrival::Link(peer) = arrival
            && !peer.phase.carries_messages()
        {
            return None;
        }
        Some(Self {
            arrived: arrival.hop(),
            origin: Arc::as_ptr(&header.origin).addr(),
            destination: Arc::as_ptr(&header.destination).addr(),
            target: header.target.allocation(),
            token: header.token.as_ref()?.allocation(),
            role: match header.kind {
                Kind::Publish | Kind::Request => Role::Asks,
                Kind::Reply { .. } => Role::Replies,
                Kind::Return { .. } => Role::Returns,
            },
            covered: is_covered(envelope),
        })
    }
}

impl Verdicts {
    /// Verdicts kept; when there would be more, all are forgotten.
    const MAX: usize = 4096;

    /// The verdict on an earlier message that was the same in all that is decided on, if its token is
    /// still good at `now_unix`.
    pub(super) fn recall(
        &self,
        now_unix: u64,
        envelope: &Envelope,
        arrival: Arrival<'_>,
    ) -> Option<(Arc<Claims>, Permit, Result<Hop, Status>)> {
        let entry = self.known.get(&Key::of(envelope, arrival)?)?;
        let current = entry.claims.is_current(now_unix);
        current.then(|| (Arc::clone(&entry.claims), entry.permit, entry.next))
    }

    /// Remembers a verdict that was just made.
    pub(super) fn remember(
        &mut self,
        envelope: &Envelope,
        arrival: Arrival<'_>,
        (claims, permit): (&Arc<Claims>, Permit),
        next: Result<Hop, Status>,
    ) {
        let header = &envelope.header;
        let (Some(key), Some(token)) = (Key::of(envelope, arrival), &header.token) else { return };
        if self.known.len() >= Self::MAX {
            self.known.clear();
        }
        let (origin, destination) = (Arc::clone(&header.origin), Arc::clone(&header.destination));
        let held = (origin, destination, header.target.clone(), token.clone());
        self.known.insert(key, Entry { claims: Arc::clone(claims), permit, next, _held: held });
    }

    /// Forgets everything: something that was decided on has changed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}
