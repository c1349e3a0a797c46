//! When what is meant to move counts as standing still.

use std::time::Duration;

/// Looks at a count that only grows, at even intervals.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle {
    seen: u64,
    silent: u32,
}

impl Idle {
    /// Time between two looks.
    pub const LOOK: Duration = Duration::from_secs(10);
    /// Looks in a row that find nothing new until it counts as standing still.
    pub const SILENT: u32 = 6;

    /// Looks at the count; `true` when it has stood still for [`Self::SILENT`] looks.
    pub fn look(&mut self, count: u64) -> bool {
        self.silent = if count == self.seen { self.silent + 1 } else { 0 };
        self.seen = count;
        self.silent >= Self::SILENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_33_what_moves_at_all_is_not_idle_and_what_has_stopped_is_after_a_minute() {
        let mut idle = Idle::default();
        for count in 1..=100 {
            for look in 0..Idle::SILENT {
                assert!(!idle.look(count), "moved {look} looks ago, at {count}");
            }
        }
        assert!(idle.look(100), "the sixth look in a row that finds nothing new");
        assert!(!idle.look(101), "it moves again");
        assert_eq!(Idle::LOOK * Idle::SILENT, Duration::from_secs(60));
    }
}
