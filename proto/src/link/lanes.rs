//! Whether the lanes of a link still move: a probe that crosses them, and what its fate says.

use std::time::{Duration, Instant};

/// How far the interactive lane of a link has come, in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneMarks {
    /// Bytes handed to the transport.
    pub written: u64,
    /// Bytes read.
    pub read: u64,
    /// Whether anything waits to be handed over.
    pub waits: bool,
    /// Bytes that the transport has sent on the whole connection.
    pub sent: u64,
}

impl LaneMarks {
    /// Whether the lane is open in at least one direction.
    #[must_use]
    pub fn is_open(self) -> bool {
        self.waits || self.written > 0 || self.read > 0
    }
}

/// When the next probe is due, and what the one under way left behind.
#[derive(Clone, Debug)]
pub struct LaneProbe {
    next: Instant,
    under_way: Option<LaneMarks>,
}

/// What an unanswered probe says of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneVerdict {
    /// Bytes moved where the probe is: the lane is busy, and is probed again at once.
    Busy,
    /// Nothing has moved since the probe was sent.
    Stuck,
}

impl LaneProbe {
    /// Time between the answer to a probe and the next one.
    pub const EVERY: Duration = Duration::from_secs(15);
    /// Time that a probe has.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// More than the control stream and acknowledgements take within [`Self::PATIENCE`] on a link that
    /// carries nothing else.
    const IDLE_BYTES: u64 = 64 << 10;

    /// The first probe is due [`Self::EVERY`] after `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { next: now + Self::EVERY, under_way: None }
    }

    /// Whether a probe is to be sent now; then it counts as under way.
    pub fn begin(&mut self, now: Instant, marks: LaneMarks) -> bool {
        let due = self.under_way.is_none() && self.next <= now && marks.is_open();
        if due {
            self.under_way = Some(marks);
        }
        due
    }

    /// The probe was answered, or says nothing because it was never sent.
    pub fn settle(&mut self, now: Instant) {
        self.under_way = None;
        self.next = now + Self::EVERY;
    }

    /// The probe was not answered within [`Self::PATIENCE`].
    ///
    /// While something waits to be handed to the transport, the probe may be behind it, and only what is
    /// handed over is progress. Otherwise the probe may have been handed over late, or be behind what the
    /// transport has still to send; and if it arrived, its answer may be behind what comes.
    pub fn give_up(&mut self, now: Instant, after: LaneMarks) -> LaneVerdict {
        let before = self.under_way.take().unwrap_or(after);
        self.next = now;
        let written = after.written > before.written;
        let moved = if after.waits {
            written
        } else {
            let sends = after.sent.saturating_sub(before.sent) > Self::IDLE_BYTES;
            (before.waits && written) || sends || after.read > before.read
        };
        if moved { LaneVerdict::Busy } else { LaneVerdict::Stuck }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn marks(written: u64, read: u64, waits: bool) -> LaneMarks {
        LaneMarks { written, read, waits, sent: 0 }
    }

    #[test]
    fn g_31_a_lane_is_probed_every_fifteen_seconds_while_it_is_open() {
        let mut probe = LaneProbe::new(at(0));
        assert!(!probe.begin(at(20), LaneMarks::default()), "it is not open");
        assert!(!probe.begin(at(14), marks(1, 0, false)), "it is not due");
        assert!(probe.begin(at(20), marks(1, 0, false)));
        assert!(!probe.begin(at(40), marks(1, 0, false)), "one is under way");
        probe.settle(at(21));
        assert!(!probe.begin(at(35), marks(1, 0, false)));
        assert!(probe.begin(at(36), marks(1, 0, false)));
    }

    fn verdict(before: LaneMarks, after: LaneMarks) -> LaneVerdict {
        let mut probe = LaneProbe::new(at(0));
        assert!(probe.begin(at(15), before));
        let verdict = probe.give_up(at(25), after);
        assert!(probe.begin(at(25), after), "the next one follows at once");
        verdict
    }

    #[test]
    fn g_31_a_lane_is_stuck_when_nothing_moves_where_the_probe_is() {
        let queued = marks(100, 100, true);
        assert_eq!(verdict(queued, queued), LaneVerdict::Stuck);
        assert_eq!(
            verdict(queued, marks(100, 900, true)),
            LaneVerdict::Stuck,
            "only the other way"
        );
        let idle = marks(100, 100, false);
        assert_eq!(verdict(idle, marks(200, 100, false)), LaneVerdict::Stuck, "sent, no answer");
        assert_eq!(verdict(idle, marks(200, 100, true)), LaneVerdict::Busy);
        let beats = LaneMarks { sent: 8000, ..marks(200, 100, false) };
        assert_eq!(verdict(idle, beats), LaneVerdict::Stuck, "beats are no progress");
    }

    #[test]
    fn a_lane_that_is_merely_busy_is_not_stuck() {
        let (queued, idle) = (marks(100, 100, true), marks(100, 100, false));
        assert_eq!(verdict(queued, marks(101, 100, true)), LaneVerdict::Busy);
        assert_eq!(verdict(queued, marks(900, 100, false)), LaneVerdict::Busy, "it left just now");
        assert_eq!(verdict(idle, marks(900, 101, false)), LaneVerdict::Busy, "answers come");
        let sending = LaneMarks { sent: 1 << 20, ..marks(900, 100, false) };
        assert_eq!(verdict(idle, sending), LaneVerdict::Busy, "what was handed over still leaves");
    }
}
