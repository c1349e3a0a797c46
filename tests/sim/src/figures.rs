//! Figures in simulated time, and where they are shown.

use std::time::Duration;

/// Spans of simulated time, to ask for the usual figures.
#[derive(Clone, Debug, Default)]
pub struct Spans(Vec<Duration>);

impl Spans {
    /// The span that `percent` of all are not longer than; zero where there is none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.percentile(100)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Duration> for Spans {
    fn from_iter<I: IntoIterator<Item = Duration>>(spans: I) -> Self {
        Self(spans.into_iter().collect())
    }
}

impl std::fmt::Display for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1000.0;
        let (count, p50, p99, max) = (self.len(), ms(50), ms(99), ms(100));
        write!(f, "n {count}, p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms")
    }
}

/// Shows what a scenario measured; `cargo test -- --nocapture` prints it.
#[expect(clippy::print_stdout, reason = "figures of a test run are for its reader")]
pub fn show(scenario: &str, seed: u64, figures: impl std::fmt::Display) {
    println!("{scenario} [seed {seed}]: {figures}");
}
