//! A certificate that was asked for, and how long it is relied on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Leaf;

/// The certificate of a cell that messages are sealed to.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    leaf: Arc<Leaf>,
    until: Instant,
}

impl Known {
    /// As long as a session token lives, in which the server names the certificate.
    const LIFE: Duration = Duration::from_secs(900);

    pub(crate) fn new(leaf: Arc<Leaf>, now: Instant) -> Self {
        Self { leaf, until: now + Self::LIFE }
    }

    /// The certificate, while it may be relied on.
    pub(crate) fn leaf(&self, now: Instant, now_unix: u64) -> Option<Arc<Leaf>> {
        let is_good = now < self.until && self.leaf.dates().check(now_unix).is_ok();
        is_good.then(|| Arc::clone(&self.leaf))
    }
}
