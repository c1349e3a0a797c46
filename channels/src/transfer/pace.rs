//! No more bytes in a second than are allowed.

use std::time::Duration;

use tokio::time::Instant;

/// Says when the next bytes may go. A tenth of a second's worth may go at once.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    free_at: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate, free_at: Instant::now() }
    }

    /// Notes that `bytes` have gone; until when nothing more may.
    pub(super) fn spend(&mut self, bytes: usize) -> Option<Instant> {
        const BURST: Duration = Duration::from_millis(100);
        let rate = self.rate?;
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let took = Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.free_at = self.free_at.max(earliest) + took;
        (self.free_at > now).then_some(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_bytes_take_so_many_seconds() {
        let mut pace = Pace::new(Some(1000));
        let begun = Instant::now();
        for _ in 0..50 {
            if let Some(until) = pace.spend(100) {
                tokio::time::sleep_until(until).await;
            }
        }
        let took = begun.elapsed().as_secs_f64();
        assert!((4.8..=5.1).contains(&took), "{took}");
        assert_eq!(Pace::new(None).spend(1 << 30), None);
    }
}
