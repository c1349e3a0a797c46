//! How far one transfer has come at one receiver: a number that never goes back.

use std::time::{Duration, Instant};

/// How far a transfer has come at one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Counts the contents that have been served; bytes begin anew with each.
    pub generation: u64,
    /// Bytes that have arrived at least once; never less than before in one generation.
    pub bytes: u64,
    /// Bytes in all, where that is known.
    pub size: Option<u64>,
    /// Counts what moved this on, so that no two values are alike.
    pub sequence: u64,
}

/// Keeps the progress of one transfer at one receiver, and when it last moved.
///
/// One per (transfer, receiver): nobody's progress hides that another stands still.
#[derive(Clone, Debug)]
pub struct Meter {
    progress: Progress,
    moved: Instant,
}

impl Meter {
    /// A meter of what has not begun.
    #[must_use]
    pub fn new(now: Instant, generation: u64, size: Option<u64>) -> Self {
        Self { progress: Progress { generation, bytes: 0, size, sequence: 0 }, moved: now }
    }

    /// Notes that all bytes below `bytes` are there; says whether that is more than ever before.
    pub fn advance(&mut self, now: Instant, bytes: u64) -> bool {
        let moves = bytes > self.progress.bytes;
        if moves {
            self.progress.bytes = bytes;
            self.progress.sequence += 1;
            self.moved = now;
        }
        moves
    }

    /// Begins anew with another content. An earlier one, or the same, changes nothing.
    pub fn restart(&mut self, now: Instant, generation: u64, size: Option<u64>) {
        if generation > self.progress.generation {
            let sequence = self.progress.sequence + 1;
            self.progress = Progress { generation, bytes: 0, size, sequence };
            self.moved = now;
        }
    }

    /// Notes the size, once it is known.
    pub fn set_size(&mut self, size: u64) {
        self.progress.size = Some(size);
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// When it moved last.
    #[must_use]
    pub fn moved(&self) -> Instant {
        self.moved
    }

    /// Whether nothing has moved for `idle`.
    #[must_use]
    pub fn is_stalled(&self, now: Instant, idle: Duration) -> bool {
        now.saturating_duration_since(self.moved) >= idle
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::at;

    proptest! {
        #[test]
        fn progress_never_goes_back_and_bytes_that_come_again_are_none(
            steps in prop::collection::vec((any::<bool>(), 0u64..100), 1..60),
        ) {
            let mut meter = Meter::new(at(0), 1, None);
            for (second, (restart, number)) in (1..).zip(steps) {
                let before = meter.progress();
                if restart {
                    meter.restart(at(second), number % 4, Some(number));
                } else {
                    prop_assert_eq!(meter.advance(at(second), number), number > before.bytes);
                }
                let now = meter.progress();
                let place = |p: Progress| (p.generation, p.bytes);
                prop_assert!(place(now) >= place(before) && now.sequence >= before.sequence);
                prop_assert_eq!(place(now) == place(before), now.sequence == before.sequence);
                prop_assert_eq!(meter.moved() == at(second), now.sequence != before.sequence);
            }
        }
    }

    #[test]
    fn what_stands_still_is_seen_and_what_moves_is_not() {
        let mut meter = Meter::new(at(0), 1, Some(10));
        let idle = Duration::from_secs(30);
        assert!(!meter.is_stalled(at(29), idle) && meter.is_stalled(at(30), idle));
        assert!(meter.advance(at(29), 1) && !meter.is_stalled(at(58), idle));
        assert!(!meter.advance(at(58), 1) && meter.is_stalled(at(59), idle));
    }
}
