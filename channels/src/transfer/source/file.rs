//! A file that is read by position, and whether it is still the one that was opened.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use cellbus_proto::transfer::Digest;
use rustix::{
    buffer::spare_capacity,
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::super::error::SourceError;

/// An open file.
#[derive(Debug)]
pub(super) struct FileSource {
    path: PathBuf,
    file: File,
    identity: Identity,
}

/// What identifies the content of a file, as far as its system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed_ns: u64,
}

impl FileSource {
    pub(super) fn open(path: PathBuf) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        let file: File =
            opened.map_err(io::Error::from).map_err(SourceError::io("open", &path))?.into();
        Self::examined(path, file)
    }

    /// A file that is open already. Its path is that of the descriptor, which this keeps open.
    pub(super) fn opened(file: File) -> Result<Self, SourceError> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Self::examined(path.into(), file)
    }

    fn examined(path: PathBuf, file: File) -> Result<Self, SourceError> {
        let stat = rustix::fs::fstat(&file)
            .map_err(io::Error::from)
            .map_err(SourceError::io("examine", &path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(SourceError::Kind(path));
        }
        Ok(Self { path, file, identity: Identity::of(&stat) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.identity.size
    }

    /// Milliseconds of the last change in the upper bits; what else identifies the content decides
    /// between changes within one.
    pub(super) fn generation(&self) -> u64 {
        const WITHIN: u64 = (1 << 20) - 1;
        let Identity { device, inode, size, changed_ns } = self.identity;
        let numbers = [device, inode, size, changed_ns].map(u64::to_le_bytes).concat();
        let digest = Digest::of(&numbers);
        let mixed = digest.as_bytes().first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
        (changed_ns & !WITHIN | mixed & WITHIN).max(1)
    }

    /// Whether what is open, and what stands at the path, is what was opened.
    pub(super) fn check(&self) -> Result<(), SourceError> {
        let open = rustix::fs::fstat(&self.file);
        let named = rustix::fs::stat(&self.path);
        let is_same =
            |stat: Result<Stat, Errno>| stat.is_ok_and(|stat| Identity::of(&stat) == self.identity);
        if is_same(open) && is_same(named) { Ok(()) } else { Err(SourceError::Changed) }
    }

    /// Up to `want` bytes from `offset` on; none at the end.
    pub(super) fn read(&self, offset: u64, want: usize) -> Result<Bytes, SourceError> {
        read_at(&self.file, offset, want).map_err(SourceError::io("read", &self.path))
    }
}

/// Up to `want` bytes from `offset` on; fewer only at the end.
pub(in crate::transfer) fn read_at(file: &File, mut offset: u64, want: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(want);
    while bytes.len() < want {
        match rustix::io::pread(file, spare_capacity(&mut bytes), offset) {
            Ok(0) => break,
            Ok(read) => offset += read as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(want);
    Ok(bytes.into())
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        let ns = u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1_000_000_000);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            changed_ns: ns.saturating_add(stat.st_mtime_nsec),
        }
    }
}
