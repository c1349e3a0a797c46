//! Sinks for what is only held until it is looked at: memory, or a file without a name.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf};

use bytes::Bytes;
use cellbus_proto::transfer::{Digest, SIZE_MAX, SignedReference};

use super::{
    super::{
        error::SinkError,
        source::{nameless, read_at},
    },
    Found, Store,
};

/// Memory for at most `cap` bytes, from which can be read.
pub(in crate::transfer) fn memory(cap: u64) -> Box<dyn Store> {
    Box::new(super::memory::Memory::new(cap))
}

/// A file without a name in `directory`.
pub(in crate::transfer) fn spool(directory: PathBuf) -> Box<dyn Store> {
    Box::new(Spooled { directory, file: None, written: 0 })
}

struct Spooled {
    directory: PathBuf,
    file: Option<File>,
    written: u64,
}

impl Spooled {
    fn file(&self) -> Result<&File, SinkError> {
        self.file.as_ref().ok_or(SinkError::BrokenOff)
    }
}

impl Store for Spooled {
    fn open(&mut self, _signed: &SignedReference) -> Result<Option<Found>, SinkError> {
        let file = nameless(&self.directory);
        self.file = Some(file.map_err(SinkError::io("create a spool in", &self.directory))?);
        self.written = 0;
        Ok(None)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let written = self.file()?.write_all_at(bytes, self.written);
        written.map_err(SinkError::io("write a spool in", &self.directory))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        let cut = self.file()?.set_len(to);
        cut.map_err(SinkError::io("cut off a spool in", &self.directory))?;
        self.written = to;
        Ok(())
    }

    fn read_back(&mut self, offset: u64, want: usize) -> Result<Bytes, SinkError> {
        let read = read_at(self.file()?, offset, want);
        read.map_err(SinkError::io("read a spool in", &self.directory))
    }

    fn commit(&mut self, _size: u64, _digest: Digest) -> Result<(), SinkError> {
        Ok(())
    }

    fn discard(&mut self) {
        self.file = None;
    }

    fn cap(&self) -> u64 {
        SIZE_MAX
    }

    fn describe(&self) -> String {
        format!("a spool in {}", self.directory.display())
    }
}
