//! How far a neighbour's clock is from this one, and from which difference on messages are refused. People are told so,
//! and nothing else follows from it.

use std::fmt;

use crate::{proof::Replays, token::TokenVerifier};

/// What one question and its answer say about a neighbour's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// By how much the neighbour's clock is ahead of this one, in milliseconds; negative where it is behind.
    pub ahead_ms: i64,
    /// The truth is at most this far from it, either way, in milliseconds: half of the round trip, and what rounding loses.
    pub uncertainty_ms: u64,
}

/// Whether cells whose clocks differ so can work with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockVerdict {
    /// They can.
    Agree,
    /// The answer took too long to know.
    Unclear,
    /// Tokens and signed messages of the one are refused by the other.
    Apart,
}

impl ClockOffset {
    /// Milliseconds by which clocks may differ: both [`TokenVerifier::SKEW_S`] and [`Replays::AHEAD_MAX_MS`] allow as much.
    pub const LIMIT_MS: u64 = Replays::AHEAD_MAX_MS;

    /// From when the question left and the answer came, by this clock, and what the neighbour's said in between. All in
    /// milliseconds since 1970.
    #[must_use]
    pub fn measured(sent_ms: u64, received_ms: u64, said_ms: u64) -> Self {
        let trip = received_ms.saturating_sub(sent_ms);
        let middle = i128::from(sent_ms) + i128::from(trip / 2);
        let ahead = i128::from(said_ms) - middle;
        let ahead_ms = i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX });
        Self { ahead_ms, uncertainty_ms: trip.div_ceil(2) + 1 }
    }

    /// What follows for cells on both sides.
    #[must_use]
    pub fn verdict(self) -> ClockVerdict {
        let apart = self.ahead_ms.unsigned_abs();
        if apart.saturating_sub(self.uncertainty_ms) > Self::LIMIT_MS {
            ClockVerdict::Apart
        } else if apart.saturating_add(self.uncertainty_ms) > Self::LIMIT_MS {
            ClockVerdict::Unclear
        } else {
            ClockVerdict::Agree
        }
    }
}

/// As in `1520 ms behind this one (± 3 ms)`.
impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ahead_ms, uncertainty_ms } = self;
        let way = if *ahead_ms < 0 { "behind" } else { "ahead of" };
        write!(f, "{} ms {way} this one (± {uncertainty_ms} ms)", ahead_ms.unsigned_abs())
    }
}

const _: () = assert!(TokenVerifier::SKEW_S * 1000 == ClockOffset::LIMIT_MS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_02_the_true_offset_is_never_further_off_than_is_said() {
        // The answer may have been written at any moment of the trip, and either way may have taken all of it.
        for trip in [0, 1, 2, 3, 7, 250, 10_000] {
            for ahead in [-90_000_i64, -1, 0, 1, 31_000] {
                for written_after in 0..=trip.min(20) {
                    let sent = 1_800_000_000_000_u64;
                    let said = (sent + written_after).strict_add_signed(ahead);
                    let measured = ClockOffset::measured(sent, sent + trip, said);
                    let error = measured.ahead_ms.abs_diff(ahead);
                    assert!(error <= measured.uncertainty_ms, "{trip} {ahead} {written_after}");
                }
            }
        }
    }

    #[test]
    fn k_02_what_tokens_and_signatures_allow_is_the_limit() {
        let verdict = |ahead_ms, uncertainty_ms| ClockOffset { ahead_ms, uncertainty_ms }.verdict();
        for (ahead, uncertainty, wanted) in [
            (0, 1, ClockVerdict::Agree),
            (29_990, 10, ClockVerdict::Agree),
            (-29_990, 10, ClockVerdict::Agree),
            (29_991, 10, ClockVerdict::Unclear),
            (-30_010, 10, ClockVerdict::Unclear),
            (30_011, 10, ClockVerdict::Apart),
            (i64::MIN, 10, ClockVerdict::Apart),
            (0, 40_000, ClockVerdict::Unclear),
        ] {
            assert_eq!(verdict(ahead, uncertainty), wanted, "{ahead} {uncertainty}");
        }
        // A neighbour may say anything.
        let wild = ClockOffset::measured(5, 4, u64::MAX);
        assert_eq!((wild.ahead_ms, wild.verdict()), (i64::MAX, ClockVerdict::Apart));
        assert_eq!(
            ClockOffset::measured(10_000, 10_004, 8_482).to_string(),
            "1520 ms behind this one (± 3 ms)"
        );
    }
}
