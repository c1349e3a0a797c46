//! What a test left behind: open files and tasks.

use std::{collections::BTreeMap, fmt::Write, fs, time::Duration};

use tokio::runtime::Handle;

/// The open files of this process: their numbers, and what each is, as `/proc` names it.
///
/// All tests of a process share them. Who compares numbers needs a process of its own, see [`crate::alone`].
///
/// # Panics
/// On a system without `/proc/self/fd`.
#[must_use]
pub fn open_files() -> BTreeMap<u32, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").expect("/proc is mounted") {
        let path = entry.expect("/proc lists what is open").path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // Unless it is gone again: the listing itself is an open file too.
        if let (Some(number), Ok(target)) = (number, fs::read_link(&path)) {
            files.insert(number, target.display().to_string());
        }
    }
    files.retain(|number, _| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
    files
}

/// Tasks of the current runtime that have not ended, those of QUIC among them.
///
/// Actors, and what else is spawned for one thread only, are not counted: the runtime does not know them.
///
/// # Panics
/// Outside a runtime.
#[must_use]
pub fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Lets everything on the current runtime go on until it waits for a timer or for nothing. Takes a millisecond of
/// simulated time; on a clock that is not paused it settles nothing.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What was there before, to compare with.
#[derive(Clone, Debug)]
pub struct Baseline {
    files: BTreeMap<u32, String>,
    tasks: usize,
}

impl Baseline {
    /// Counts what is there now.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn take() -> Self {
        Self { files: open_files(), tasks: alive_tasks() }
    }

    /// What is there now and was not before; `None` if there is nothing.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    pub fn left_behind(&self) -> Option<String> {
        let mut report = String::new();
        for (number, target) in open_files() {
            if self.files.get(&number) != Some(&target) {
                writeln!(report, "open file {number}: {target}")
                    .expect("a String takes everything");
            }
        }
        let tasks = alive_tasks().saturating_sub(self.tasks);
        if tasks > 0 {
            writeln!(report, "{tasks} more tasks").expect("a String takes everything");
        }
        (!report.is_empty()).then_some(report)
    }

    /// Fails for what is there now and was not before; see [`open_files`] for who may ask. Call [`settle`] before.
    ///
    /// # Panics
    /// When something was left behind, and outside a runtime.
    #[track_caller]
    pub fn assert_restored(&self) {
        if let Some(report) = self.left_behind() {
            panic!("left behind:\n{report}");
        }
    }
}

#[cfg(test)]
mod tests;
