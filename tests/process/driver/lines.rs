//! What a process prints, line by line, as it comes.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// The lines of one stream so far.
#[derive(Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

struct Shared {
    printed: Mutex<Printed>,
    news: Condvar,
}

#[derive(Default)]
struct Printed {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// Reads `from` until it ends, in the background.
    pub fn read(from: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared { printed: Mutex::default(), news: Condvar::new() });
        let lines = Self { shared: Arc::clone(&shared) };
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            loop {
                let mut line = Vec::new();
                let read = from.read_until(b'\n', &mut line);
                let mut printed = shared.printed.lock().expect("nobody panics with it");
                if matches!(read, Ok(0) | Err(_)) {
                    printed.ended = true;
                } else {
                    printed.lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
                shared.news.notify_all();
                if printed.ended {
                    return;
                }
            }
        });
        lines
    }

    /// All lines so far.
    pub fn so_far(&self) -> Vec<String> {
        self.printed().lines.clone()
    }

    /// Waits for the first line of which `pick` makes something.
    ///
    /// # Panics
    /// When the stream ends without one, or none comes within `patience`.
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        let mut seen = 0;
        let mut printed = self.printed();
        loop {
            let found = printed.lines[seen..].iter().find_map(|line| pick(line));
            if let Some(found) = found {
                return found;
            }
            seen = printed.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if printed.ended || left.is_zero() {
                let all = printed.lines.join("\n");
                drop(printed);
                panic!("no {what} in\n{all}");
            }
            let waited = self.shared.news.wait_timeout(printed, left);
            printed = waited.expect("nobody panics with it").0;
        }
    }

    /// As [`wait`](Self::wait), for lines of JSON.
    pub fn wait_json<T>(
        &self,
        what: &str,
        patience: Duration,
        mut pick: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        self.wait(what, patience, |line| pick(&serde_json::from_str(line).ok()?))
    }

    /// Waits until nobody can print there any longer: not the process, nor any that it started.
    pub fn wait_for_end(&self, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        let mut printed = self.printed();
        while !printed.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all = printed.lines.join("\n");
                drop(printed);
                panic!("somebody still has the stream, after\n{all}");
            }
            let waited = self.shared.news.wait_timeout(printed, left);
            printed = waited.expect("nobody panics with it").0;
        }
        printed.lines.clone()
    }

    fn printed(&self) -> MutexGuard<'_, Printed> {
        self.shared.printed.lock().expect("nobody panics with it")
    }
}
