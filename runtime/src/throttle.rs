//! At most one log line a second for each reason, with the number of those left out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cellbus_proto::status::Status;

/// Decides which log lines are written.
#[derive(Debug)]
pub struct LogThrottle<K = Status> {
    last: BTreeMap<K, (Instant, u64)>,
}

impl<K> Default for LogThrottle<K> {
    fn default() -> Self {
        Self { last: BTreeMap::new() }
    }
}

impl<K: Ord> LogThrottle<K> {
    const EVERY: Duration = Duration::from_secs(1);

    /// Whether to write a line for `reason` now; then the number of lines left out before it.
    pub fn allow(&mut self, reason: K, now: Instant) -> Option<u64> {
        match self.last.get_mut(&reason) {
            Some((at, left_out)) if now.saturating_duration_since(*at) < Self::EVERY => {
                *left_out += 1;
                None
            }
            Some((at, left_out)) => {
                *at = now;
                Some(std::mem::take(left_out))
            }
            None => {
                self.last.insert(reason, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_43_a_flood_of_refusals_is_one_line_a_second() {
        let (mut throttle, start) = (LogThrottle::default(), crate::clock::now());
        let lines: Vec<u64> = (0..100_000u64)
            .filter_map(|n| throttle.allow(Status::NoToken, start + Duration::from_micros(n * 30)))
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], 33_333);
    }
}
