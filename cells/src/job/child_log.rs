//! What the process of a job cell prints: its own log into this process's log, its job's output into lines.

use std::sync::Arc;

use cellbus_launch::{Handle, Launcher, Printed, Stream};
use cellbus_proto::{job::LogLine, name::Segment};

/// Longest line that is taken over, in bytes; a longer one is taken as several.
const LINE_MAX: usize = 4 << 10;

/// Cuts what comes in pieces into lines.
#[derive(Default)]
struct Cutter {
    rest: Vec<u8>,
    next: u64,
}

impl Cutter {
    /// The lines that are complete with `printed`.
    fn cut(&mut self, printed: &Printed) -> Vec<String> {
        let mut lines = Vec::new();
        if printed.from > self.next {
            self.rest.clear();
            lines.push(format!("[{} bytes were dropped]", printed.from - self.next));
        }
        self.next = printed.from + printed.bytes.len() as u64;
        for byte in &printed.bytes {
            if *byte == b'\n' || self.rest.len() == LINE_MAX {
                lines.push(String::from_utf8_lossy(&self.rest).into_owned());
                self.rest.clear();
            }
            if *byte != b'\n' {
                self.rest.push(*byte);
            }
        }
        if printed.is_end && !self.rest.is_empty() {
            lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned());
        }
        lines
    }
}

/// Takes over the log of a job cell until it ends. What is no line of a log is a warning: a panic looks so.
pub(super) async fn relay(launcher: Arc<dyn Launcher>, handle: Handle, job: Segment) {
    let mut cutter = Cutter::default();
    while let Ok(printed) = launcher.logs(&handle, Stream::Err, cutter.next).await {
        cutter.cut(&printed).iter().for_each(|line| say(&job, line));
        if printed.is_end {
            return;
        }
    }
}

/// Hands what a job has printed to `take`, as lines that nothing can be hidden in, until it ends.
pub(super) async fn output<F: Future<Output = ()>>(
    launcher: Arc<dyn Launcher>,
    handle: Handle,
    mut take: impl FnMut(Vec<LogLine>) -> F,
) {
    let mut cutter = Cutter::default();
    let mut number = 0;
    while let Ok(printed) = launcher.logs(&handle, Stream::Out, cutter.next).await {
        let lines = cutter.cut(&printed).into_iter().map(|text| {
            number += 1;
            LogLine { number, text: printable(&text) }
        });
        let lines: Vec<LogLine> = lines.collect();
        if !lines.is_empty() {
            take(lines).await;
        }
        if printed.is_end {
            return;
        }
    }
}

/// Text of a job, in which nothing drives a terminal or forges a line.
fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

fn say(job: &Segment, line: &str) {
    let line = line.trim();
    if line.is_empty() {
        return;
    }
    let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let level = parsed.as_ref().and_then(|line| line.get("level")?.as_str());
    // A subscriber escapes what is in a field.
    let text = line;
    match level {
        Some("ERROR") => tracing::error!(%job, text, "job cell"),
        Some("WARN") | None => tracing::warn!(%job, text, "job cell"),
        Some("INFO") => tracing::info!(%job, text, "job cell"),
        Some("DEBUG") => tracing::debug!(%job, text, "job cell"),
        Some(_) => tracing::trace!(%job, text, "job cell"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(bytes: &[u8], from: u64, is_end: bool) -> Printed {
        Printed { bytes: bytes.to_vec(), from, is_end }
    }

    #[test]
    fn j_32_lines_are_cut_bounded_and_say_what_is_missing() {
        let mut cutter = Cutter::default();
        assert_eq!(cutter.cut(&printed(b"one\ntw", 0, false)), ["one"]);
        assert_eq!(cutter.cut(&printed(b"o\n", 6, false)), ["two"]);
        assert_eq!(
            cutter.cut(&printed(b"later\n", 100, false)),
            ["[92 bytes were dropped]", "later"]
        );
        let long = cutter.cut(&printed(&vec![b'x'; 3 * LINE_MAX], 106, false));
        assert!(long.len() == 2 && long.iter().all(|line| line.len() == LINE_MAX));
        assert_eq!(cutter.cut(&printed(b"", cutter.next, true)).len(), 1);
    }

    #[test]
    fn j_32_a_line_cannot_drive_a_terminal() {
        assert_eq!(printable("a\u{1b}[2J\tb\r\u{9b}c"), "a\\u{1b}[2J\tb\\r\\u{9b}c");
    }
}
