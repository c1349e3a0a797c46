//! Which handlers have failed so often that nothing is given to them any more.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// The panics of handlers, by a number that stands for the handler, and those that are given nothing until
/// somebody looks at them.
#[derive(Debug, Default)]
pub struct Breaker {
    panics: BTreeMap<usize, VecDeque<Instant>>,
    failed: BTreeSet<usize>,
}

impl Breaker {
    /// Panics within [`Self::WITHIN`] that make a handler a failed one.
    pub const PANICS: usize = 5;
    /// Time in which they count together.
    pub const WITHIN: Duration = Duration::from_secs(60);

    /// The handler has panicked; `true` when it counts as failed from now on, and did not before.
    pub fn note(&mut self, now: Instant, handler: usize) -> bool {
        let panics = self.panics.entry(handler).or_default();
        panics.push_back(now);
        while panics.front().is_some_and(|at| now.saturating_duration_since(*at) > Self::WITHIN) {
            panics.pop_front();
        }
        if panics.len() < Self::PANICS {
            return false;
        }
        self.panics.remove(&handler);
        self.failed.insert(handler)
    }

    /// Whether nothing is to be given to the handler.
    #[must_use]
    pub fn is_failed(&self, handler: usize) -> bool {
        self.failed.contains(&handler)
    }

    /// Every handler gets another chance.
    pub fn forgive(&mut self) {
        self.panics.clear();
        self.failed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn g_40_five_panics_within_a_minute_fail_a_handler_until_it_is_forgiven() {
        let mut breaker = Breaker::default();
        for seconds in [0, 20, 40, 61, 81, 101] {
            assert!(!breaker.note(at(seconds), 1), "never five in one minute: {seconds}");
        }
        for panic in 1..=Breaker::PANICS {
            assert_eq!(breaker.note(at(101), 2), panic == Breaker::PANICS);
        }
        assert!(breaker.is_failed(2) && !breaker.is_failed(1), "each by its own panics");
        assert!(!breaker.note(at(102), 2), "told once");
        breaker.forgive();
        assert!(!breaker.is_failed(2));
        assert!(!breaker.note(at(103), 2), "it begins anew");
    }
}
