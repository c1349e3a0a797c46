//! How often cells leave and come back: who does so too often waits, and nobody else.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::name::Fqcn;

/// When cells left of their own accord within the last minute.
#[derive(Debug)]
pub struct Returns {
    names: BTreeMap<Fqcn, Departures>,
    names_max: usize,
    per_minute: usize,
}

#[derive(Debug, Default)]
struct Departures {
    at: VecDeque<Instant>,
    alerted: bool,
}

/// A cell has left and come back too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cell has left and come back too often; it may come back in {wait:?}")]
pub struct TooOften {
    /// Whether this is the first refusal since it last was within the limit.
    pub alert: bool,
    /// Time until it may come back, if it stays away until then.
    pub wait: Duration,
}

impl Returns {
    /// Returns of one cell within a minute unless configured otherwise.
    pub const PER_MINUTE: usize = 5;
    /// How long a departure counts.
    pub const WINDOW: Duration = Duration::from_secs(60);

    /// Lets a cell come back `per_minute` times within a minute, and remembers at most `names_max` cells.
    #[must_use]
    pub fn new(per_minute: usize, names_max: usize) -> Self {
        Self { names: BTreeMap::new(), names_max, per_minute }
    }

    /// Notes that the registered cell `name` has left: it said bye, or its link was closed for what it
    /// did. A link that was lost is not its doing.
    pub fn note_left(&mut self, now: Instant, name: &Fqcn) {
        if self.names.len() >= self.names_max && !self.names.contains_key(name) {
            self.sweep(now);
            if self.names.len() >= self.names_max {
                return;
            }
        }
        let left = self.names.entry(name.clone()).or_default();
        left.at.push_back(now);
        // One more than is allowed says all there is to say.
        while left.at.len() > self.per_minute + 1 {
            left.at.pop_front();
        }
    }

    /// Whether `name` may come back on a new link now.
    ///
    /// # Errors
    /// [`TooOften`] when it left more than the allowed number of times within the last minute.
    pub fn check(&mut self, now: Instant, name: &Fqcn) -> Result<(), TooOften> {
        let Some(left) = self.names.get_mut(name) else { return Ok(()) };
        left.forget(now);
        if left.at.len() > self.per_minute {
            let oldest = left.at.front().copied().unwrap_or(now);
            let wait = (oldest + Self::WINDOW).saturating_duration_since(now);
            let alert = !std::mem::replace(&mut left.alerted, true);
            return Err(TooOften { alert, wait });
        }
        left.alerted = false;
        if left.at.is_empty() {
            self.names.remove(name);
        }
        Ok(())
    }

    fn sweep(&mut self, now: Instant) {
        self.names.retain(|_, left| {
            left.forget(now);
            !left.at.is_empty()
        });
    }
}

impl Departures {
    fn forget(&mut self, now: Instant) {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= Returns::WINDOW;
        while self.at.front().is_some_and(old) {
            self.at.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn name(text: &str) -> Fqcn {
        text.parse().unwrap()
    }

    #[test]
    fn s1_14_a_sixth_return_within_a_minute_waits_with_one_alert_and_nobody_else_does() {
        let mut returns = Returns::new(Returns::PER_MINUTE, 8);
        for second in 0..5 {
            returns.note_left(at(second), &name("site-1"));
            assert_eq!(returns.check(at(second), &name("site-1")), Ok(()));
        }
        returns.note_left(at(5), &name("site-1"));
        let wait = Duration::from_secs(54);
        assert_eq!(returns.check(at(6), &name("site-1")), Err(TooOften { alert: true, wait }));
        let again = returns.check(at(7), &name("site-1")).unwrap_err();
        assert!(!again.alert, "one alert");
        assert_eq!(returns.check(at(7), &name("site-2")), Ok(()));
        assert_eq!(returns.check(at(6) + wait, &name("site-1")), Ok(()));
        returns.note_left(at(61), &name("site-1"));
        returns.note_left(at(61), &name("site-1"));
        assert!(returns.check(at(61), &name("site-1")).unwrap_err().alert, "the next time");
    }

    #[test]
    fn who_leaves_seldom_is_forgotten() {
        let mut returns = Returns::new(1, 8);
        for minute in 0..10 {
            returns.note_left(at(60 * minute), &name("site-1"));
            assert_eq!(returns.check(at(60 * minute), &name("site-1")), Ok(()));
        }
        assert_eq!(returns.check(at(600), &name("site-1")), Ok(()));
        assert!(returns.names.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut returns = Returns::new(2, 2);
        for second in 0..100 {
            for cell in ["a", "b", "c"] {
                returns.note_left(at(second), &name(cell));
            }
        }
        assert_eq!(returns.names.len(), 2);
        assert!(returns.names.values().all(|left| left.at.len() == 3));
        returns.note_left(at(200), &name("c"));
        assert_eq!(returns.names.len(), 1, "what is old makes room");
    }
}
