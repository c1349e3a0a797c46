//! Which processes held a name before: two of them that take turns are two that live.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{envelope::Incarnation, name::Fqcn};

/// The recent holders of every name.
///
/// A process that was killed and started again is another incarnation, and its predecessor never comes
/// back. So a holder that comes back after another one is proof that both live.
#[derive(Debug)]
pub(super) struct Turns {
    names: BTreeMap<Fqcn, Past>,
    max: usize,
}

#[derive(Debug, Default)]
struct Past {
    /// Who held the name, and since when it did or when it no longer did; the last is the latest.
    held: VecDeque<(Incarnation, Instant)>,
    /// When a former holder came back.
    turns: VecDeque<Instant>,
    /// When the last alert was raised.
    alerted: Option<Instant>,
}

/// Too many turns were taken with this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TakesTurns {
    /// Whether nobody has been told within the window.
    pub(super) alert: bool,
}

impl Past {
    /// Holders of one name that are remembered.
    const HELD_MAX: usize = 8;

    fn forget_before(&mut self, now: Instant, window: Duration) {
        let old = |at: Instant| now.saturating_duration_since(at) >= window;
        self.turns.retain(|at| !old(*at));
        self.alerted = self.alerted.filter(|at| !old(*at));
        // The latest holder may hold the name still, however long ago it came.
        while self.held.len() > 1 && self.held.front().is_some_and(|(_, at)| old(*at)) {
            self.held.pop_front();
        }
    }

    fn is_return(&self, incarnation: Incarnation) -> bool {
        let mut former = self.held.iter().rev().skip(1);
        let latest = self.held.back().is_some_and(|(held, _)| *held == incarnation);
        !latest && former.any(|(held, _)| *held == incarnation)
    }
}

impl Turns {
    /// Remembers the holders of at most `max` names.
    pub(super) fn new(max: usize) -> Self {
        Self { names: BTreeMap::new(), max }
    }

    /// Whether `incarnation` may take `name`, as far as former holders are concerned.
    ///
    /// # Errors
    /// [`TakesTurns`] when it is back after another holder, and that has happened `most` times within
    /// `window` already.
    pub(super) fn check(
        &mut self,
        now: Instant,
        name: &Fqcn,
        incarnation: Incarnation,
        (most, window): (usize, Duration),
    ) -> Result<(), TakesTurns> {
        let Some(past) = self.names.get_mut(name) else { return Ok(()) };
        past.forget_before(now, window);
        if !past.is_return(incarnation) || past.turns.len() < most {
            return Ok(());
        }
        let alert = past.alerted.is_none();
        past.alerted.get_or_insert(now);
        Err(TakesTurns { alert })
    }

    /// Notes that `incarnation` holds `name` from now on.
    pub(super) fn note(
        &mut self,
        now: Instant,
        name: &Fqcn,
        incarnation: Incarnation,
        window: Duration,
    ) {
        if self.names.len() >= self.max && !self.names.contains_key(name) {
            self.names.retain(|_, past| {
                past.held.back().is_some_and(|(_, at)| now.saturating_duration_since(*at) < window)
            });
            if self.names.len() >= self.max {
                return;
            }
        }
        let past = self.names.entry(name.clone()).or_default();
        past.forget_before(now, window);
        if past.is_return(incarnation) {
            past.turns.push_back(now);
        }
        match past.held.back_mut() {
            Some((held, _)) if *held == incarnation => return,
            // It counts from the moment at which it was the holder no longer.
            Some((_, at)) => *at = now,
            None => {}
        }
        past.held.retain(|(held, _)| *held != incarnation);
        past.held.push_back((incarnation, now));
        if past.held.len() > Past::HELD_MAX {
            past.held.pop_front();
        }
    }

    /// Names whose holders are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    const RULE: (usize, Duration) = (2, Duration::from_secs(600));

    fn start(counter: u64) -> Incarnation {
        Incarnation { counter, nonce: counter }
    }

    fn takes(turns: &mut Turns, second: u64, counter: u64) -> Result<(), TakesTurns> {
        let name = "site-1".parse().unwrap();
        turns.check(at(second), &name, start(counter), RULE)?;
        turns.note(at(second), &name, start(counter), RULE.1);
        Ok(())
    }

    #[test]
    fn a_process_that_is_restarted_again_and_again_takes_no_turns() {
        let mut turns = Turns::new(4);
        for counter in 1..=100 {
            assert_eq!(takes(&mut turns, counter, counter), Ok(()));
            assert_eq!(takes(&mut turns, counter, counter), Ok(()), "and reconnects");
        }
    }

    #[test]
    fn a_holder_that_comes_back_a_third_time_after_another_one_is_refused_with_one_alert() {
        let mut turns = Turns::new(4);
        for (second, counter) in [(0, 1), (1, 2), (2, 1), (3, 2)] {
            assert_eq!(takes(&mut turns, second, counter), Ok(()), "{second}");
        }
        assert_eq!(takes(&mut turns, 4, 1), Err(TakesTurns { alert: true }));
        assert_eq!(takes(&mut turns, 5, 1), Err(TakesTurns { alert: false }));
        assert_eq!(takes(&mut turns, 6, 2), Ok(()), "the latest holder is the latest holder");
        assert_eq!(takes(&mut turns, 7, 3), Ok(()), "another start is not a return");
        assert_eq!(takes(&mut turns, 8, 2), Err(TakesTurns { alert: false }));
        assert_eq!(takes(&mut turns, 700, 2), Ok(()), "ten minutes later");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut turns = Turns::new(2);
        for counter in 1..=100 {
            assert_eq!(takes(&mut turns, 0, counter), Ok(()));
        }
        let [held] = turns.names.values().map(|past| past.held.len()).collect::<Vec<_>>()[..]
        else {
            panic!("one name");
        };
        assert_eq!(held, Past::HELD_MAX);
        for name in ["a", "b", "c", "d"] {
            turns.note(at(1), &name.parse().unwrap(), start(1), RULE.1);
        }
        assert_eq!(turns.len(), 2);
        turns.note(at(700), &"e".parse().unwrap(), start(1), RULE.1);
        assert_eq!(turns.len(), 1, "what is old makes room");
    }
}
