//! Verdicts on messages that differ from an earlier one in nothing that was decided on.
//!
//! Messages of one conversation share what they have in common, so a verdict is found by where that lives.
//! An entry holds on to it, so that nothing else can come to live there. Everything else that was decided
//! on (routes, policy, keys, revocations) empties this store when it changes.

use std::{collections::HashMap, hash::BuildHasherDefault, sync::Arc};

use super::{Arrival, Verdict, Verified, is_covered};
use crate::{
    envelope::{Common, Envelope, Kind},
    folded::Folded,
    route::Hop,
};

/// What the gate has let in and would let in again.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    known: HashMap<Key, Entry, BuildHasherDefault<Folded>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    arrived: Hop,
    common: usize,
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
    verdict: Arc<Verdict>,
    _held: Arc<Common>,
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
            common: Arc::as_ptr(&header.common).addr(),
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
    ) -> Option<Arc<Verdict>> {
        let Entry { verdict, .. } = self.known.get(&Key::of(envelope, arrival)?)?;
        let Verified::Claims(claims) = &verdict.verified else { return None };
        claims.is_current(now_unix).then(|| Arc::clone(verdict))
    }

    /// Remembers a verdict that was just made on the word of a token; no other.
    pub(super) fn remember(
        &mut self,
        envelope: &Envelope,
        arrival: Arrival<'_>,
        verdict: &Arc<Verdict>,
    ) {
        let Verified::Claims(_) = verdict.verified else { return };
        let Some(key) = Key::of(envelope, arrival) else { return };
        if self.known.len() >= Self::MAX {
            self.known.clear();
        }
        let held = Arc::clone(&envelope.header.common);
        self.known.insert(key, Entry { verdict: Arc::clone(verdict), _held: held });
    }

    /// Forgets everything: something that was decided on has changed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}
