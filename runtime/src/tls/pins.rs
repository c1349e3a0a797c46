//! The certificates of the job cells that run now.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
};

use crate::certificate::LeafHash;

/// Certificates that a listener lets in by their hash alone. Shared between the listener and whoever launches jobs.
///
/// Taking a pin away refuses the next connection; one that is open stays open until its link closes it.
#[derive(Debug, Default)]
pub struct PinnedPeers {
    hashes: RwLock<BTreeSet<LeafHash>>,
}

impl PinnedPeers {
    /// No pins.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the holder of this certificate in from now on.
    pub fn add(&self, hash: LeafHash) {
        self.hashes.write().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }

    /// Lets it in no more; says whether it was let in before.
    pub fn remove(&self, hash: &LeafHash) -> bool {
        self.hashes.write().unwrap_or_else(PoisonError::into_inner).remove(hash)
    }

    /// Whether the holder of this certificate is let in.
    #[must_use]
    pub fn contains(&self, hash: &LeafHash) -> bool {
        self.hashes.read().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }

    /// Pins now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
