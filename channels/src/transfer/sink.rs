//! Where a transfer is put: memory, a file, a writer, or nowhere.

use std::{fmt, fs::File, path::PathBuf, pin::Pin};

use bytes::Bytes;
use cellbus_proto::transfer::{Digest, SIZE_MAX, SignedReference, Stage};
use tokio::io::AsyncWrite;

use super::error::SinkError;

mod beside;
mod file;
pub(super) mod hold;
mod memory;
mod memory_file;
mod opening;
pub(super) mod parts;
#[cfg(test)]
mod tests;
pub(super) mod work;

use self::{
    file::FileStore,
    memory::{Memory, Nowhere},
    memory_file::MemoryFile,
};

/// Where a transfer is put.
pub struct Sink(pub(super) Kind);

pub(super) enum Kind {
    Store(Box<dyn Store>),
    Writer(Pin<Box<dyn AsyncWrite + Send>>, u64),
}

impl Sink {
    /// Memory, for at most `cap` bytes: [`Fetched::bytes`](super::Fetched::bytes) gives them. As much is taken as
    /// the transfer has bytes; where it does not say how many, up to twice as much while it grows.
    #[must_use]
    pub fn memory(cap: u64) -> Self {
        Self::store(Memory::new(cap))
    }

    /// The file `path`. Until everything is there and verified, the bytes are in a part beside it, `.NAME.ID.part`
    /// with mode 0600, and what stood at `path` stays; then the part takes its place, durably.
    ///
    /// A part from before a restart, or of a fetch that failed, is gone on with. No symbolic link is followed:
    /// one at `path` is replaced.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::store(FileStore::new(path.into()))
    }

    /// A memory file, for at most `cap` bytes: [`Fetched::file`](super::Fetched::file) gives it, sealed against every
    /// change. The bytes lie in no memory of this process.
    #[must_use]
    pub fn memory_file(cap: u64) -> Self {
        Self::store(MemoryFile::new(cap))
    }

    /// A writer, for at most `cap` bytes. It gets bytes as they come, before the digest of all of them is known:
    /// only the end of the fetch says that they were right. It cannot go back, so a source that
    /// changes while it is fetched ends the fetch.
    #[must_use]
    pub fn writer(writer: impl AsyncWrite + Send + 'static, cap: u64) -> Self {
        Self(Kind::Writer(Box::pin(writer), cap))
    }

    /// Nowhere: everything is read, verified and dropped.
    #[must_use]
    pub fn discard() -> Self {
        Self::store(Nowhere)
    }

    pub(super) fn store(store: impl Store + 'static) -> Self {
        Self(Kind::Store(Box::new(store)))
    }

    /// Whether it waits for nothing.
    fn is_quick(&self) -> bool {
        matches!(&self.0, Kind::Store(store) if store.is_quick())
    }

    /// Bytes that it takes.
    pub(super) fn cap(&self) -> u64 {
        match &self.0 {
            Kind::Store(store) => store.cap(),
            Kind::Writer(_, cap) => *cap,
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Store(store) => write!(f, "Sink({})", store.describe()),
            Kind::Writer(_, cap) => write!(f, "Sink(a writer of up to {cap} bytes)"),
        }
    }
}

/// What a sink has from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) durable: u64,
    pub(super) stage: Stage,
}

/// What makes bytes durable while others are being written.
pub(super) type Syncing = Box<dyn FnOnce() -> Result<(), SinkError> + Send>;

/// A sink whose steps may wait for a disk; they are called where that holds nobody.
pub(super) trait Store: Send {
    /// Prepares for what the reference describes, and says what is there of it.
    fn open(&mut self, signed: &SignedReference) -> Result<Option<Found>, SinkError> {
        let _kept_by_nobody = signed;
        Ok(None)
    }

    /// The source has changed: this is what is fetched from now on.
    fn change(&mut self, signed: &SignedReference) {
        let _described_by_nobody = signed;
    }

    /// Writes `bytes` behind what was written.
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError>;

    /// What was written from `offset` on, where it lies in memory in one piece.
    fn lies(&self, offset: u64) -> Option<&[u8]> {
        let _elsewhere = offset;
        None
    }

    /// What makes everything below `to` durable and notes that; `None` where nothing is.
    fn sync(&mut self, to: u64) -> Option<Syncing> {
        let _never_durable = to;
        None
    }

    /// Sees whether there is room for `bytes` more, and keeps it where it can.
    fn probe(&mut self, bytes: u64) -> Result<(), SinkError> {
        let _always = bytes;
        Ok(())
    }

    /// Has nothing beyond `to` any more.
    fn rewind(&mut self, to: u64) -> Result<(), SinkError>;

    /// Up to `want` bytes of what is there from before.
    fn read_back(&mut self, offset: u64, want: usize) -> Result<Bytes, SinkError> {
        let _nothing_there = (offset, want);
        Ok(Bytes::new())
    }

    /// Makes everything durable and puts it in its place.
    fn commit(&mut self, size: u64, digest: Digest) -> Result<(), SinkError>;

    /// The holder knows, or need not know, that everything is in its place.
    fn settle(&mut self) {}

    /// It is not wanted any more: nothing of it stays.
    fn discard(&mut self) {}

    /// What it holds in memory, after the commit.
    fn take(&mut self) -> Option<Bytes> {
        None
    }

    /// Takes a file with all of it as its own, or hands it back.
    fn adopt(&mut self, file: File, size: u64) -> Option<File> {
        let _known_to_be_whole = size;
        Some(file)
    }

    /// The file that it holds, after the commit.
    fn take_file(&mut self) -> Option<File> {
        None
    }

    /// Bytes that it takes.
    fn cap(&self) -> u64 {
        SIZE_MAX
    }

    /// Whether its steps wait for nothing, so that a small one needs no thread of its own.
    fn is_quick(&self) -> bool {
        false
    }

    /// For people.
    fn describe(&self) -> String;
}
