//! Points in time for tests, which read the clock no more than the code does.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// An arbitrary origin plus `secs`.
pub(crate) fn at(secs: u64) -> Instant {
    at_ms(secs * 1000)
}

/// The same origin plus `ms` milliseconds.
pub(crate) fn at_ms(ms: u64) -> Instant {
    #[expect(clippy::disallowed_methods, reason = "one arbitrary origin for all tests")]
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    *ORIGIN + Duration::from_millis(ms)
}
