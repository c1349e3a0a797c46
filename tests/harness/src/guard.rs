//! What the code under test logs during one test: nothing alarming unannounced, and never a secret.
//!
//! ```
//! # use cellbus_harness::guard::LogGuard;
//! let guard = LogGuard::start();
//! guard.expect("link lost");
//! guard.secret("join token", "GLsS3vDBJkwBRXCa");
//! tracing::warn!(peer = "site_a", "link lost");
//! // The end of the guard is the test of it.
//! ```
//!
//! Tests run side by side in threads of one process. A guard sees the events of the thread that started it, and no
//! others: whatever belongs to the test must run there, as it does on a current-thread runtime. What runs on a thread
//! of its own is seen once that thread uses [`LogGuard::dispatch`]. Guards end in the reverse order of their starts;
//! the inner one sees what happens during its time, the outer one does not.

use std::{
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tracing::{Dispatch, Level, dispatcher, subscriber::DefaultGuard};
use tracing_subscriber::{Registry, layer::SubscriberExt};

use self::{layer::Collector, log::Log, secrets::Secret};

mod layer;
mod log;
pub(crate) mod panics;
mod secrets;
#[cfg(test)]
mod tests;

/// Collects the events of a test from its start to its end, and fails the test for what should not be among them.
///
/// At its end it fails for
/// - every event of level WARN or ERROR that was not announced,
/// - every announced one that did not come,
/// - every panic on the thread that was not announced, those of spawned tasks included,
/// - every event, of any level, with a secret in it.
///
/// When the test fails, for this or any other reason, it prints the last events and the seed.
#[must_use = "the guard collects until it is dropped"]
pub struct LogGuard {
    log: Arc<Mutex<Log>>,
    dispatch: Dispatch,
    _default: DefaultGuard,
    _panics: panics::Watch,
}

impl LogGuard {
    /// Collects what this thread logs from now on; keeps the last 200 events of level DEBUG and above to print.
    pub fn start() -> Self {
        Self::keeping(200, Level::DEBUG)
    }

    /// Collects what this thread logs from now on; keeps the last `count` events of `level` and above to print.
    ///
    /// Every kept event costs some microseconds, so does every span.
    pub fn keeping(count: usize, level: Level) -> Self {
        layer::see_every_callsite();
        let log = Arc::new(Mutex::new(Log::new(count, level)));
        let subscriber = Registry::default().with(Collector::new(Arc::clone(&log)));
        let dispatch = Dispatch::new(subscriber);
        Self {
            log,
            _default: dispatcher::set_default(&dispatch),
            dispatch,
            _panics: panics::Watch::start(),
        }
    }

    /// Announces events of level WARN or ERROR whose text contains `pattern`: one at least, and any number.
    ///
    /// The text is that of the log that is printed on failure: `WARN target: message field=value`.
    pub fn expect(&self, pattern: impl Into<String>) {
        self.log().expected.push(pattern.into());
    }

    /// Announces events of level WARN or ERROR whose text contains `pattern`: any number, none included. For faults
    /// that chance decides on; otherwise [`Self::expect`] says more.
    pub fn tolerate(&self, pattern: impl Into<String>) {
        self.log().tolerated.push(pattern.into());
    }

    /// Announces one panic or more on this thread, outside the test itself, whose message contains `pattern`.
    pub fn expect_panic(&self, pattern: impl Into<String>) {
        self.log().expected_panics.push(pattern.into());
    }

    /// Forbids `secret` in everything that is logged from now on at any level, and in what is kept of the past: as it
    /// is, in hex, in base64, and in the ways in which bytes are printed.
    ///
    /// # Arguments
    /// `name` stands for it in the report, which does not repeat the secret.
    ///
    /// # Panics
    /// For one of less than 8 bytes, which chance alone would put into a log.
    #[track_caller]
    pub fn secret(&self, name: &str, secret: impl AsRef<[u8]>) {
        self.log().forbid(Secret::new(name, secret.as_ref()));
    }

    /// Forbids several secrets of one name, see [`Self::secret`].
    #[track_caller]
    pub fn secrets<S: AsRef<[u8]>>(&self, name: &str, secrets: impl IntoIterator<Item = S>) {
        for secret in secrets {
            self.secret(name, secret);
        }
    }

    /// How many events of level WARN or ERROR there were whose text contains `pattern`.
    #[must_use]
    pub fn count(&self, pattern: &str) -> usize {
        self.log().alarms.iter().filter(|text| text.contains(pattern)).count()
    }

    /// The last events, oldest first, as they are printed on failure.
    #[must_use]
    pub fn last_events(&self) -> Vec<String> {
        self.log().kept.iter().cloned().collect()
    }

    /// For threads of the code under test, to be seen too.
    #[must_use]
    pub fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for LogGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogGuard")
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let log = std::mem::replace(&mut *self.log(), Log::new(0, Level::ERROR));
        if thread::panicking() {
            print(&log.report());
            return;
        }
        let complaints = log.complaints(&panics::take());
        if !complaints.is_empty() {
            print(&log.report());
            panic!("{}", complaints.join("\n"));
        }
    }
}

impl Log {
    /// What one wants to see of a run that failed.
    fn report(&self) -> String {
        let mut report = format!("last {} events of the test:\n", self.kept.len());
        for event in &self.kept {
            report.push_str(event);
            report.push('\n');
        }
        if let Some(seed) = crate::seeds::current_seed() {
            writeln!(report, "seed {seed}").expect("a String takes everything");
        }
        report
    }
}

#[expect(clippy::print_stderr, reason = "the test runner shows it with the test that failed")]
fn print(text: &str) {
    eprint!("{text}");
}
