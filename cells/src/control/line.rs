//! One line of JSON each way: what is read, what is written, how long a line may be.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{ControlError, Event, Reply, Request};

/// Bytes in the longest line, the end of the line included.
pub(super) const MAX_LINE: usize = 2 * 1024 * 1024;

const CHUNK: usize = 8 * 1024;

/// What the asking side sends.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    pub(super) version: u32,
    pub(super) request: Request,
}

/// The version of an [`Ask`] whose rest may be of another version.
#[derive(Deserialize)]
pub(super) struct AskVersion {
    pub(super) version: u32,
}

/// What the cell sends.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) version: u32,
    pub(super) outcome: Outcome,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok(Reply),
    Error(ControlError),
    /// One of those that come before the end of a request that goes on.
    Event(Event),
}

/// Why no line was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("the line is longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("the connection ended within the line")]
    Cut,
    #[error("something follows the line")]
    Trailing,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one line, without its end. `None` when the other side sends nothing at all.
///
/// Memory grows with what arrives and never beyond [`MAX_LINE`] and one chunk.
pub(super) async fn read_line(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Vec<u8>>, LineError> {
    let mut line = Vec::new();
    loop {
        let seen = line.len();
        line.reserve(CHUNK);
        if (&mut *stream).take(CHUNK as u64).read_buf(&mut line).await? == 0 {
            return if line.is_empty() { Ok(None) } else { Err(LineError::Cut) };
        }
        if let Some(end) = line[seen..].iter().position(|byte| *byte == b'\n') {
            let end = seen + end;
            if end + 1 > MAX_LINE {
                return Err(LineError::TooLong);
            }
            if end + 1 < line.len() {
                return Err(LineError::Trailing);
            }
            line.truncate(end);
            return Ok(Some(line));
        }
        if line.len() >= MAX_LINE {
            return Err(LineError::TooLong);
        }
    }
}

/// Reads one line after the other.
#[derive(Debug, Default)]
pub(super) struct Lines {
    read: Vec<u8>,
    looked_at: usize,
}

impl Lines {
    /// The next line, without its end. `None` when the other side sends nothing more.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub(super) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Result<Option<Vec<u8>>, LineError> {
        loop {
            let fresh = &self.read[self.looked_at..];
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(self.looked_at + end + 1);
                let mut line = std::mem::replace(&mut self.read, rest);
                line.pop();
                self.looked_at = 0;
                return Ok(Some(line));
            }
            self.looked_at = self.read.len();
            if self.read.len() >= MAX_LINE {
                return Err(LineError::TooLong);
            }
            self.read.reserve(CHUNK);
            if (&mut *stream).take(CHUNK as u64).read_buf(&mut self.read).await? == 0 {
                return if self.read.is_empty() { Ok(None) } else { Err(LineError::Cut) };
            }
        }
    }
}

/// The line of `value`, with its end.
pub(super) fn to_line(value: &impl Serialize) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::from)?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(LineError::TooLong) } else { Ok(line) }
}

/// Writes a line to the end.
pub(super) async fn write_line(
    stream: &mut (impl AsyncWrite + Unpin),
    line: &[u8],
) -> io::Result<()> {
    stream.write_all(line).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, LineError> {
        read_line(&mut bytes).await
    }

    #[tokio::test]
    async fn a_line_is_read_whole_or_not_at_all() {
        assert_eq!(read(b"").await.unwrap(), None);
        assert_eq!(read(b"\n").await.unwrap(), Some(Vec::new()));
        assert_eq!(read(b"abc\n").await.unwrap(), Some(b"abc".to_vec()));
        assert!(matches!(read(b"abc").await, Err(LineError::Cut)));
        assert!(matches!(read(b"abc\nd").await, Err(LineError::Trailing)));
    }

    #[tokio::test]
    async fn lines_come_one_by_one_however_they_are_cut() {
        let mut bytes: &[u8] = b"one\n\ntwo\nthr";
        let mut lines = Lines::default();
        for want in ["one", "", "two"] {
            let line = lines.next(&mut bytes).await.unwrap();
            assert_eq!(line.as_deref(), Some(want.as_bytes()));
        }
        assert!(matches!(lines.next(&mut bytes).await, Err(LineError::Cut)));
        let long = vec![b'x'; MAX_LINE + CHUNK];
        let read = Lines::default().next(&mut &long[..]).await;
        assert!(matches!(read, Err(LineError::TooLong)));
        assert_eq!(Lines::default().next(&mut &b""[..]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_longest_line_is_read_and_one_byte_more_is_not() {
        let mut text = vec![b'x'; MAX_LINE - 1];
        text.push(b'\n');
        assert_eq!(read(&text).await.unwrap().map(|line| line.len()), Some(MAX_LINE - 1));
        text.insert(0, b'x');
        assert!(matches!(read(&text).await, Err(LineError::TooLong)));
        assert!(matches!(read(&vec![b'x'; 3 * MAX_LINE]).await, Err(LineError::TooLong)));
    }
}
