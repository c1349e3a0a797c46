//! Which message of a sequence may start: in the order in which they came, and no more at once than its
//! handler takes.
//!
//! One sequence is all that one start of a cell sends on one channel. Nothing is kept of a sequence that
//! nothing runs and nothing waits in, so whatever ends at once costs a look-up and no more.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroU32,
};

/// Whether a message may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// At once. If it does not end at once either, say so with [`Order::hold`].
    Now,
    /// Others are before it; [`Order::next`] will name it.
    Later,
}

/// The sequences of a cell, by key. Messages are numbers that the caller gives.
#[derive(Debug)]
pub struct Order<K> {
    lanes: BTreeMap<K, Lane>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Lane {
    running: u32,
    queue: VecDeque<(u64, NonZeroU32)>,
    /// In the queue, and not to start any more.
    withdrawn: BTreeSet<u64>,
}

impl<K> Default for Order<K> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), waiting: 0 }
    }
}

impl<K: Ord + Clone> Order<K> {
    /// Withdrawn messages that a queue may hold before it is tidied.
    const WITHDRAWN_MAX: usize = 32;

    /// Takes the next message of a sequence, for a handler of which at most `concurrency` run at once.
    pub fn enter(&mut self, key: &K, message: u64, concurrency: NonZeroU32) -> Turn {
        let Some(lane) = self.lanes.get_mut(key) else { return Turn::Now };
        if lane.queue.is_empty() && lane.running < concurrency.get() {
            return Turn::Now;
        }
        lane.queue.push_back((message, concurrency));
        self.waiting += 1;
        Turn::Later
    }

    /// Whether nothing of a sequence runs or waits, so that what comes next may start at once.
    #[must_use]
    pub fn is_idle(&self, key: &K) -> bool {
        !self.lanes.contains_key(key)
    }

    /// What has started has not ended yet.
    pub fn hold(&mut self, key: &K) {
        match self.lanes.get_mut(key) {
            Some(lane) => lane.running += 1,
            None => {
                self.lanes.insert(key.clone(), Lane { running: 1, ..Lane::default() });
            }
        }
    }

    /// What was held has ended. Others may start now: see [`Self::next`].
    pub fn leave(&mut self, key: &K) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.running = lane.running.saturating_sub(1);
            self.drop_if_idle(key);
        }
    }

    /// The next message of a sequence that may start now; it counts as [`Turn::Now`].
    pub fn next(&mut self, key: &K) -> Option<u64> {
        let lane = self.lanes.get_mut(key)?;
        while let Some((message, concurrency)) = lane.queue.front().copied() {
            let is_withdrawn = lane.withdrawn.remove(&message);
            if !is_withdrawn && lane.running >= concurrency.get() {
                return None;
            }
            lane.queue.pop_front();
            if !is_withdrawn {
                self.waiting -= 1;
                self.drop_if_idle(key);
                return Some(message);
            }
        }
        self.drop_if_idle(key);
        None
    }

    /// Forgets a message that waits.
    pub fn withdraw(&mut self, key: &K, message: u64) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if !lane.withdrawn.insert(message) {
            return;
        }
        self.waiting -= 1;
        if lane.withdrawn.len() > Self::WITHDRAWN_MAX.max(lane.queue.len() / 2) {
            let withdrawn = std::mem::take(&mut lane.withdrawn);
            lane.queue.retain(|(message, _)| !withdrawn.contains(message));
            self.drop_if_idle(key);
        }
    }

    /// Messages that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Sequences in which something runs or waits.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn drop_if_idle(&mut self, key: &K) {
        if self.lanes.get(key).is_some_and(|lane| lane.running == 0 && lane.queue.is_empty()) {
            self.lanes.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at_most(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    #[test]
    fn g_11_one_at_a_time_unless_more_are_allowed() {
        let mut order = Order::default();
        assert_eq!(order.enter(&'a', 1, at_most(1)), Turn::Now);
        order.hold(&'a');
        assert_eq!(order.enter(&'a', 2, at_most(1)), Turn::Later);
        assert_eq!(order.enter(&'b', 3, at_most(1)), Turn::Now, "another sequence");
        // It could run beside the first, and yet it must not overtake the second.
        assert_eq!(order.enter(&'a', 4, at_most(2)), Turn::Later);
        assert_eq!(order.next(&'a'), None);
        order.leave(&'a');
        assert_eq!(order.next(&'a'), Some(2));
        order.hold(&'a');
        assert_eq!(order.next(&'a'), Some(4));
        order.hold(&'a');
        assert_eq!(order.enter(&'a', 5, at_most(2)), Turn::Later);
        order.leave(&'a');
        order.leave(&'a');
        assert_eq!(order.next(&'a'), Some(5));
        assert_eq!((order.lanes(), order.waiting()), (0, 0), "nothing is kept of what is over");
    }

    #[test]
    fn what_is_withdrawn_never_starts_and_piles_up_nowhere() {
        let mut order = Order::default();
        order.enter(&(), 0, at_most(1));
        order.hold(&());
        for message in 1..10_000 {
            assert_eq!(order.enter(&(), message, at_most(1)), Turn::Later);
            order.withdraw(&(), message);
            assert!(order.lanes[&()].queue.len() <= 2 * Order::<()>::WITHDRAWN_MAX);
        }
        order.enter(&(), 10_000, at_most(1));
        assert_eq!(order.waiting(), 1);
        order.leave(&());
        assert_eq!(order.next(&()), Some(10_000));
        assert_eq!(order.lanes(), 0);
    }

    proptest! {
        /// Whatever happens, messages of one sequence start in order, as many at once as allowed, and all
        /// that are not withdrawn start in the end.
        #[test]
        fn g_10_messages_start_in_the_order_in_which_they_came(
            events in prop::collection::vec((0u8..5, 0u8..3, 1u32..4, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut order = Order::default();
            let mut started: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
            let mut running: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
            let mut waiting: BTreeMap<u64, (u8, u32)> = BTreeMap::new();
            let mut withdrawn = 0usize;
            let mut entered = 0u64;
            for (event, key, limit, pick) in events {
                match event {
                    0..=2 => {
                        entered += 1;
                        if order.enter(&key, entered, at_most(limit)) == Turn::Now {
                            started.entry(key).or_default().push(entered);
                            if event > 0 {
                                order.hold(&key);
                                running.entry(key).or_default().push(limit);
                                prop_assert!(running[&key].len() <= limit as usize);
                            }
                        } else {
                            waiting.insert(entered, (key, limit));
                        }
                    }
                    3 => if running.get_mut(&key).and_then(Vec::pop).is_some() { order.leave(&key); },
                    _ => if !waiting.is_empty() {
                        let message = *pick.get(&waiting.keys().copied().collect::<Vec<_>>());
                        let (key, _) = waiting.remove(&message).unwrap();
                        order.withdraw(&key, message);
                        withdrawn += 1;
                    },
                }
                while let Some(message) = order.next(&key) {
                    let (_, limit) = waiting.remove(&message).unwrap();
                    started.entry(key).or_default().push(message);
                    order.hold(&key);
                    running.entry(key).or_default().push(limit);
                    prop_assert!(running[&key].len() <= limit as usize);
                }
                prop_assert_eq!(order.waiting(), waiting.len());
            }
            for key in 0..3u8 {
                while running.get_mut(&key).and_then(Vec::pop).is_some() {
                    order.leave(&key);
                    while let Some(message) = order.next(&key) {
                        started.entry(key).or_default().push(message);
                    }
                }
                while let Some(message) = order.next(&key) {
                    started.entry(key).or_default().push(message);
                }
            }
            let all: usize = started.values().map(Vec::len).sum();
            prop_assert_eq!(all + withdrawn, usize::try_from(entered).unwrap());
            prop_assert!(started.values().all(|one| one.is_sorted()));
            prop_assert_eq!(order.lanes(), 0);
        }
    }
}
