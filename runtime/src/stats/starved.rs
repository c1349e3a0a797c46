//! How long a thread was ready to run and was not let: what the machine owes, not the program.

use std::{fs::File, os::unix::fs::FileExt, time::Duration};

/// Asks the system about the thread that made it.
#[derive(Debug)]
pub(super) struct Starved {
    /// `proc(5)`, `/proc/pid/task/tid/schedstat`; none where the system does not count that.
    counts: Option<File>,
    before: Duration,
}

impl Starved {
    pub(super) fn of_this_thread() -> Self {
        let mut of_thread =
            Self { counts: File::open("/proc/thread-self/schedstat").ok(), before: Duration::ZERO };
        of_thread.since_last();
        of_thread
    }

    /// The time since it was last asked; nothing where the system cannot say.
    pub(super) fn since_last(&mut self) -> Duration {
        let mut text = [0; 96];
        let read = self.counts.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        let Some(waited) = read.and_then(|len| waited(text.get(..len)?)) else {
            return Duration::ZERO;
        };
        let since = waited.saturating_sub(self.before);
        self.before = waited;
        since
    }
}

/// The second of its numbers: nanoseconds spent waiting on a run queue.
fn waited(text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_the_time_waited_for_a_processor() {
        assert_eq!(waited(b"633893 7433143 1\n"), Some(Duration::from_nanos(7_433_143)));
        for text in [&b""[..], b"1", b"1 x 3", b"1 \xff"] {
            assert_eq!(waited(text), None);
        }
        let mut unknown = Starved { counts: None, before: Duration::ZERO };
        assert_eq!(unknown.since_last(), Duration::ZERO);
    }
}
