//! Deadlines by time, most of which are never reached.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

/// Deadlines of numbered requests.
///
/// Most requests have the same budget, so that their deadlines come in order: these stand in a list, and
/// what has ended before its time is taken out in passing.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    in_order: VecDeque<(Instant, u64)>,
    /// In the list, and ended already.
    ended: usize,
    others: BTreeSet<(Instant, u64)>,
}

impl Deadlines {
    /// Ended ones that may stand in the list whatever its length.
    const ENDED_MIN: usize = 64;

    pub(super) fn insert(&mut self, at: Instant, number: u64) {
        if self.in_order.back().is_none_or(|(last, _)| *last <= at) {
            self.in_order.push_back((at, number));
        } else {
            self.others.insert((at, number));
        }
    }

    /// Forgets a deadline; `is_live` says which are still waited for.
    pub(super) fn forget(
        &mut self,
        at: Instant,
        number: u64,
        is_live: impl Fn(Instant, u64) -> bool,
    ) {
        if self.others.remove(&(at, number)) {
            return;
        }
        self.ended += 1;
        self.tidy(is_live);
    }

    /// Takes out what has ended from the front, and all of it when it is too much.
    pub(super) fn tidy(&mut self, is_live: impl Fn(Instant, u64) -> bool) {
        while let Some((at, number)) = self.in_order.front().copied()
            && !is_live(at, number)
        {
            self.in_order.pop_front();
            self.ended = self.ended.saturating_sub(1);
        }
        if self.ended > Self::ENDED_MIN.max(self.in_order.len() / 2) {
            self.in_order.retain(|(at, number)| is_live(*at, *number));
            self.ended = 0;
        }
    }

    /// The nearest.
    pub(super) fn first(&self) -> Option<(Instant, u64)> {
        let lists = [self.in_order.front(), self.others.first()];
        lists.into_iter().flatten().min().copied()
    }

    /// Takes the nearest, if it has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, u64)> {
        let first = self.first().filter(|(at, _)| *at <= now)?;
        if self.in_order.front() == Some(&first) {
            self.in_order.pop_front();
        } else {
            self.others.remove(&first);
        }
        Some(first)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Entries that are kept, ended ones included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }
}
