//! Sinks that make nothing durable: memory, and nowhere.

use bytes::Bytes;
use cellbus_proto::transfer::{Digest, SignedReference};

use super::{super::error::SinkError, Store};

/// One piece of memory, up to a cap.
#[derive(Debug)]
pub(super) struct Memory {
    cap: u64,
    bytes: Vec<u8>,
}

impl Memory {
    pub(super) fn new(cap: u64) -> Self {
        Self { cap, bytes: Vec::new() }
    }

    fn reserve(&mut self, size: u64, exactly: bool) -> Result<(), SinkError> {
        if size > self.cap {
            return Err(SinkError::TooLarge(self.cap));
        }
        let size_in_memory = usize::try_from(size).map_err(|_| SinkError::NoMemory(size))?;
        let more = size_in_memory.saturating_sub(self.bytes.len());
        let reserved = match exactly {
            true => self.bytes.try_reserve_exact(more),
            false => self.bytes.try_reserve(more),
        };
        reserved.map_err(|_| SinkError::NoMemory(size))
    }
}

impl Store for Memory {
    fn open(&mut self, signed: &SignedReference) -> Result<Option<super::Found>, SinkError> {
        self.bytes.clear();
        let known = signed.reference.content_size().map(|size| self.reserve(size, true));
        known.unwrap_or(Ok(())).map(|()| None)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.reserve(self.bytes.len() as u64 + bytes.len() as u64, false)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn lies(&self, offset: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(offset).ok()?..)
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        self.bytes.truncate(usize::try_from(to).unwrap_or(usize::MAX));
        Ok(())
    }

    fn read_back(&mut self, offset: u64, want: usize) -> Result<Bytes, SinkError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = start.saturating_add(want).min(self.bytes.len());
        Ok(Bytes::copy_from_slice(&self.bytes[start..end]))
    }

    fn commit(&mut self, _size: u64, _digest: Digest) -> Result<(), SinkError> {
        Ok(())
    }

    fn discard(&mut self) {
        self.bytes = Vec::new();
    }

    fn take(&mut self) -> Option<Bytes> {
        Some(std::mem::take(&mut self.bytes).into())
    }

    fn cap(&self) -> u64 {
        self.cap
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("memory for up to {} bytes", self.cap)
    }
}

/// Takes everything and keeps nothing.
#[derive(Debug)]
pub(super) struct Nowhere;

impl Store for Nowhere {
    fn write(&mut self, _bytes: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }

    fn rewind(&mut self, _to: u64) -> Result<(), SinkError> {
        Ok(())
    }

    fn commit(&mut self, _size: u64, _digest: Digest) -> Result<(), SinkError> {
        Ok(())
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "nowhere".to_owned()
    }
}
