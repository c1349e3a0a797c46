//! Runs the binary as a person or a supervisor does, watches it from outside, and ends whatever it started.

mod federation;
mod jobs;
mod lines;
mod place;
mod procfs;
mod running;
mod tree;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

pub use self::{
    federation::Federation,
    jobs::{PROGRAMS, Study, outcome},
    lines::Lines,
    place::{Answer, Place, own_address},
    procfs::{Doomed, Process, descendants},
    running::{Exit, Running},
    tree::{Entry, entries},
};

/// Tells a thread that watches that there is nothing more to see, also when the test fails.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Time for what takes a moment on an idle machine; the machine may be busy.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks `question` until it has an answer.
///
/// # Panics
/// When there is none within `patience`; `what` says what was waited for.
pub fn until<T>(what: &str, patience: Duration, mut question: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        leave_the_machine_to_others(Duration::from_millis(20));
    }
}

/// Lets a fault last for `time`.
pub fn last(time: Duration) {
    leave_the_machine_to_others(time);
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process can only be asked again and again, and a fault must last; no test passes because of it"
)]
fn leave_the_machine_to_others(time: Duration) {
    std::thread::sleep(time);
}
