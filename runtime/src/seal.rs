//! Protection from one end to the other: proofs of origin, and payloads that only their destination reads.
//!
//! What is signed and bound to what is in [`cellbus_proto::proof`] and [`cellbus_proto::sealing`]; here are
//! the keys, and the work that is done with them.
//!
//! | what | key |
//! |---|---|
//! | proof of a control message | the origin's certificate, which the destination knows from its registration: the server those of all, all others the server's |
//! | sealed message | encrypted to the destination's certificate, which the origin has asked for; signed by the origin's own, which is within |

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use cellbus_proto::{name::Fqcn, policy::Policy};

pub use self::leaf::Leaf;
pub(crate) use self::{known::Known, message::Unsealed};
use crate::certificate::LeafHash;

mod hpke;
pub(crate) mod known;
mod leaf;
pub(crate) mod message;
#[cfg(test)]
mod tests;

pub(crate) use self::hpke::OpeningKey;

/// What a cell knows for the protection of its messages.
#[derive(Debug, Default)]
pub struct Protection {
    /// Certificates that were verified at a registration.
    leaves: Mutex<BTreeMap<LeafHash, Arc<Leaf>>>,
    /// Certificates that were asked for, by cell.
    known: Mutex<BTreeMap<Fqcn, Arc<tokio::sync::Mutex<Option<Known>>>>>,
    /// Own requests that were sealed, whose answers must be too.
    awaited: Mutex<BTreeSet<u64>>,
    awaits: AtomicUsize,
    policy: Mutex<Option<Arc<Policy>>>,
}

/// An own request that was sealed; while this lives, its answers must be.
#[derive(Debug)]
pub(crate) struct Awaited {
    own: Arc<crate::own::Own>,
    sequence: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Protection {
    /// Certificates that are kept of registrations.
    const LEAVES_MAX: usize = 32_768;
    /// Cells whose certificates are kept, having been asked for.
    const KNOWN_MAX: usize = 4096;

    /// Keeps a certificate that was verified; of the others, where there are too many, those that `needed`
    /// says.
    pub(crate) fn keep(&self, leaf: Arc<Leaf>, needed: impl FnOnce() -> BTreeSet<LeafHash>) {
        let mut leaves = lock(&self.leaves);
        if leaves.len() >= Self::LEAVES_MAX {
            let needed = needed();
            leaves.retain(|hash, _| needed.contains(hash));
        }
        leaves.insert(leaf.hash(), leaf);
    }

    /// The certificate with this hash, if it was verified at a registration.
    pub(crate) fn leaf(&self, hash: &LeafHash) -> Option<Arc<Leaf>> {
        lock(&self.leaves).get(hash).cloned()
    }

    /// Where the certificate of `cell` is kept once it has been asked for. Held by one sender at a time, so
    /// that it is asked for once, and so that what is sealed leaves in order.
    pub(crate) fn place(&self, cell: &Fqcn) -> Arc<tokio::sync::Mutex<Option<Known>>> {
        let mut known = lock(&self.known);
        if known.len() >= Self::KNOWN_MAX && !known.contains_key(cell) {
            known.retain(|_, place| Arc::strong_count(place) > 1);
        }
        Arc::clone(known.entry(cell.clone()).or_default())
    }

    /// Forgets the certificate of `cell`: it has another.
    pub(crate) fn forget(&self, cell: &Fqcn) {
        lock(&self.known).remove(cell);
    }

    /// Whether the answers to the own request `sequence` must be sealed.
    pub(crate) fn awaits_sealed(&self, sequence: u64) -> bool {
        self.awaits.load(Ordering::Acquire) > 0 && lock(&self.awaited).contains(&sequence)
    }

    /// The policy in force at this cell.
    pub(crate) fn set_policy(&self, policy: Arc<Policy>) {
        *lock(&self.policy) = Some(policy);
    }

    /// Whether the policy in force wants messages to `target` sealed.
    pub(crate) fn requires_seal(&self, target: &cellbus_proto::name::ChannelTopic) -> bool {
        lock(&self.policy).as_ref().is_some_and(|policy| policy.requires_seal(target))
    }
}

impl Awaited {
    /// From now on the answers to `sequence` must be sealed.
    pub(crate) fn new(own: &Arc<crate::own::Own>, sequence: u64) -> Self {
        lock(&own.protection.awaited).insert(sequence);
        own.protection.awaits.fetch_add(1, Ordering::AcqRel);
        Self { own: Arc::clone(own), sequence }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        lock(&self.own.protection.awaited).remove(&self.sequence);
        self.own.protection.awaits.fetch_sub(1, Ordering::AcqRel);
    }
}
