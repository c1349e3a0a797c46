//! A sink that is a memory file: in nobody's address space, and sealed once everything is there.

use std::{fs::File, os::unix::fs::FileExt};

use bytes::Bytes;
use cellbus_proto::transfer::{Digest, SignedReference};

use super::{
    super::{error::SinkError, source::read_at},
    Found, Store,
};
use crate::local::memfd;

/// What errors call it.
const NAME: &str = "a memory file";

#[derive(Debug)]
pub(super) struct MemoryFile {
    cap: u64,
    file: Option<File>,
    written: u64,
}

impl MemoryFile {
    pub(super) fn new(cap: u64) -> Self {
        Self { cap, file: None, written: 0 }
    }

    /// It is made when the fetch begins, and gone after it.
    fn file(&self) -> Result<&File, SinkError> {
        self.file.as_ref().ok_or(SinkError::BrokenOff)
    }

    fn check(&self, size: u64) -> Result<(), SinkError> {
        if size > self.cap { Err(SinkError::TooLarge(self.cap)) } else { Ok(()) }
    }
}

impl Store for MemoryFile {
    fn open(&mut self, signed: &SignedReference) -> Result<Option<Found>, SinkError> {
        self.check(signed.reference.content_size().unwrap_or(0))?;
        self.file = Some(memfd::create().map_err(SinkError::io("create", NAME))?);
        self.written = 0;
        Ok(None)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let end = self.written + bytes.len() as u64;
        self.check(end)?;
        self.file()?.write_all_at(bytes, self.written).map_err(SinkError::io("write", NAME))?;
        self.written = end;
        Ok(())
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        self.file()?.set_len(to).map_err(SinkError::io("cut", NAME))?;
        self.written = to;
        Ok(())
    }

    fn read_back(&mut self, offset: u64, want: usize) -> Result<Bytes, SinkError> {
        read_at(self.file()?, offset, want).map_err(SinkError::io("read", NAME))
    }

    fn commit(&mut self, _size: u64, _digest: Digest) -> Result<(), SinkError> {
        memfd::seal(self.file()?).map_err(SinkError::io("seal", NAME))
    }

    fn discard(&mut self) {
        self.file = None;
    }

    fn adopt(&mut self, file: File, size: u64) -> Option<File> {
        if memfd::check_sealed(&file, size).is_err() || self.check(size).is_err() {
            return Some(file);
        }
        self.file = Some(file);
        None
    }

    fn take_file(&mut self) -> Option<File> {
        self.file.take()
    }

    fn cap(&self) -> u64 {
        self.cap
    }

    fn describe(&self) -> String {
        format!("a memory file for up to {} bytes", self.cap)
    }
}
