//! The log of a job cell's process: lines of JSON on its standard error, into this process's log.

use cellbus_proto::name::Segment;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

/// Longest line that is taken over.
const LINE_MAX: u64 = 16 << 10;

/// Takes over what `from` says until it ends. What is no line of a log is a warning: a panic looks so.
pub(super) async fn relay(from: tokio::process::ChildStderr, job: Segment) {
    let mut reader = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => say(&job, &String::from_utf8_lossy(&line)),
        }
    }
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
