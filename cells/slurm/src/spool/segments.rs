//! What a stream of a program has printed, in files of a bounded size, of which the last two are kept.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cellbus_launch::{Printed, Stream};
use rustix::{fd::OwnedFd, fs::Dir};

use super::regular;

/// Bytes in one file.
pub(crate) const SEGMENT: u64 = 4 << 20;
/// Files of a stream that are kept.
const KEPT: usize = 2;
/// Bytes that are given at a time.
const GIVEN_MAX: u64 = 64 << 10;

fn prefix(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "out.",
        Stream::Err => "err.",
    }
}

/// Writes one stream.
pub(crate) struct Segments {
    dir: PathBuf,
    stream: Stream,
    /// Where each file that is there begins.
    starts: VecDeque<u64>,
    open: Option<File>,
    /// Where the next byte comes.
    end: u64,
}

impl Segments {
    pub(crate) fn new(dir: &Path, stream: Stream) -> Self {
        Self { dir: dir.to_owned(), stream, starts: VecDeque::new(), open: None, end: 0 }
    }

    fn path(&self, start: u64) -> PathBuf {
        self.dir.join(format!("{}{start}", prefix(self.stream)))
    }

    /// Writes `bytes`, which begin at byte `from` of the stream.
    pub(crate) fn push(&mut self, from: u64, bytes: &[u8]) -> io::Result<()> {
        let is_full = self.starts.back().is_none_or(|start| self.end - start >= SEGMENT);
        if is_full || from != self.end {
            let new = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.path(from))?;
            self.open = Some(new);
            self.starts.push_back(from);
            while self.starts.len() > KEPT {
                if let Some(start) = self.starts.pop_front() {
                    std::fs::remove_file(self.path(start))?;
                }
            }
        }
        if let Some(file) = &mut self.open {
            file.write_all(bytes)?;
        }
        self.end = from + bytes.len() as u64;
        Ok(())
    }
}

/// What is there from byte `from` on.
pub(super) fn read(dir: &OwnedFd, stream: Stream, from: u64, is_over: bool) -> io::Result<Printed> {
    let starts = starts(dir, stream)?;
    // The file with the byte, or else the first one after it.
    let at = starts.partition_point(|start| *start <= from).saturating_sub(1);
    for start in &starts[at.min(starts.len())..] {
        // Gone since it was listed: the step drops the oldest.
        let Some(mut file) = regular(dir, &format!("{}{start}", prefix(stream)))? else { continue };
        let first = from.max(*start);
        file.seek(SeekFrom::Start(first - start))?;
        let mut bytes = Vec::new();
        file.take(GIVEN_MAX).read_to_end(&mut bytes)?;
        if !bytes.is_empty() {
            return Ok(Printed { bytes, from: first, is_end: false });
        }
    }
    Ok(Printed { bytes: Vec::new(), from, is_end: is_over })
}

fn starts(dir: &OwnedFd, stream: Stream) -> io::Result<Vec<u64>> {
    /// What a program puts there beside is not looked through for ever.
    const ENTRIES_MAX: usize = 4096;
    let mut starts = Vec::new();
    for entry in Dir::read_from(dir)?.take(ENTRIES_MAX) {
        let entry = entry?;
        let start = entry.file_name().to_str().ok().and_then(|name| {
            let number = name.strip_prefix(prefix(stream))?;
            let start: u64 = number.parse().ok()?;
            (start.to_string() == number).then_some(start)
        });
        starts.extend(start);
    }
    starts.sort_unstable();
    Ok(starts)
}
