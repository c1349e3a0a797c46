//! The two clocks: a monotonic one for every timer, and seconds since 1970 for what outlives a process.

use std::time::Instant;

/// Now, by the clock that only goes forward. Under a paused runtime it stands still.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Seconds since 1970, read once and advanced by the monotonic clock, so that a step of the system's
/// clock revives no token and ends none.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    base_ms: u64,
    base: Instant,
}

impl WallClock {
    /// Reads the system's clock.
    #[must_use]
    pub fn system() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self { base_ms: since.map_or(0, |since| since.as_millis() as u64), base: now() }
    }

    /// A clock that says `unix` now.
    #[must_use]
    pub fn starting_at(unix: u64) -> Self {
        Self { base_ms: unix * 1000, base: now() }
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn unix(&self) -> u64 {
        self.unix_ms() / 1000
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.base_ms + now().saturating_duration_since(self.base).as_millis() as u64
    }
}
