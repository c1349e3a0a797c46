//! Rules that held until a moment ago: by them, requests were let in whose answers are still to come.

use std::{collections::VecDeque, sync::Arc};

use crate::policy::Policy;

/// Policies that were replaced, the latest last.
#[derive(Debug, Default)]
pub(super) struct Former {
    replaced: VecDeque<(Arc<Policy>, u64)>,
}

impl Former {
    /// Policies kept; with more, the oldest goes.
    const MAX: usize = 8;
    /// How long answers may still come, in seconds; as long as the longest default budget.
    const LIFE_S: u64 = 3600;

    /// Keeps a policy that is replaced at `now_unix`.
    pub(super) fn keep(&mut self, policy: Arc<Policy>, now_unix: u64) {
        self.replaced.retain(|(_, until)| now_unix < *until);
        if self.replaced.len() >= Self::MAX {
            self.replaced.pop_front();
        }
        self.replaced.push_back((policy, now_unix.saturating_add(Self::LIFE_S)));
    }

    /// The policies whose requests can still be answered, the latest first.
    pub(super) fn living(&self, now_unix: u64) -> impl Iterator<Item = &Policy> {
        let living = self.replaced.iter().rev().filter(move |(_, until)| now_unix < *until);
        living.map(|(policy, _)| &**policy)
    }
}
