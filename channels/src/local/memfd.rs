//! Memory files that are sealed: payloads that are passed and not copied.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::FileExt},
};

use bytes::Bytes;
use rustix::fs::{
    FileType, MemfdFlags, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fcntl_getfl, fstat,
    memfd_create,
};

/// Nothing can change the content or the size any more, and nobody can take that back.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why a descriptor that was passed is not what it was announced as.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The system says nothing about it.
    #[error("the descriptor cannot be examined")]
    Io(#[from] io::Error),
    /// It is no memory file, or lacks one of the four seals.
    #[error("the descriptor is no sealed memory file")]
    NotSealed,
    /// It is no regular file that is open for reading.
    #[error("the descriptor is no regular file that can be read")]
    NoFile,
    /// It has another size.
    #[error("the descriptor has {found} bytes, announced were {announced}")]
    Size {
        /// Bytes that it has.
        found: u64,
        /// Bytes that its frame says.
        announced: u64,
    },
}

/// A memory file without bytes, that can be sealed.
///
/// # Errors
/// The system's.
pub fn create() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(File::from(memfd_create("cellbus", flags)?))
}

/// Sets all four seals.
///
/// # Errors
/// The system's, where it is mapped for writing, or has been sealed otherwise.
pub fn seal(file: &File) -> io::Result<()> {
    Ok(fcntl_add_seals(file, SEALS)?)
}

/// A sealed memory file with these bytes.
///
/// # Errors
/// The system's.
pub fn write(bytes: &[u8]) -> io::Result<File> {
    let mut file = create()?;
    file.write_all(bytes)?;
    seal(&file)?;
    Ok(file)
}

/// All bytes of a file that has `size` of them.
///
/// # Errors
/// The system's.
pub fn read(file: &File, size: u64) -> io::Result<Bytes> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(size, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes.into())
}

/// Whether `descriptor` is a memory file of `announced` bytes that nobody can change.
///
/// # Errors
/// [`Unfit`].
pub fn check_sealed(descriptor: impl AsFd, announced: u64) -> Result<(), Unfit> {
    // Only memory files have seals; everything else is an error of the system.
    let seals = fcntl_get_seals(&descriptor).map_err(|_| Unfit::NotSealed)?;
    if !seals.contains(SEALS) {
        return Err(Unfit::NotSealed);
    }
    check_size(descriptor, announced)
}

/// Whether `descriptor` is a regular file of `announced` bytes that is open for reading.
///
/// # Errors
/// [`Unfit`].
pub fn check_file(descriptor: impl AsFd, announced: u64) -> Result<(), Unfit> {
    let flags = fcntl_getfl(&descriptor).map_err(io::Error::from)?;
    let is_readable = !flags.contains(OFlags::PATH) && !flags.contains(OFlags::WRONLY);
    let stat = fstat(&descriptor).map_err(io::Error::from)?;
    if !is_readable || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Unfit::NoFile);
    }
    check_size(descriptor, announced)
}

fn check_size(descriptor: impl AsFd, announced: u64) -> Result<(), Unfit> {
    let stat = fstat(descriptor).map_err(io::Error::from)?;
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found == announced { Ok(()) } else { Err(Unfit::Size { found, announced }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_sealed_and_read_again() {
        let file = write(b"tensor").unwrap();
        check_sealed(&file, 6).unwrap();
        assert_eq!(read(&file, 6).unwrap(), "tensor");
        assert_eq!(read(&file, 7).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(file.write_at(b"x", 0).is_err() && file.set_len(0).is_err());
        assert!(file.set_len(100).is_err() && fcntl_add_seals(&file, SealFlags::WRITE).is_err());
    }

    #[test]
    fn s_36_one_missing_seal_is_enough_to_refuse() {
        for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
            let mut file = create().unwrap();
            file.write_all(b"tensor").unwrap();
            fcntl_add_seals(&file, SEALS.difference(missing)).unwrap();
            assert!(matches!(check_sealed(&file, 6), Err(Unfit::NotSealed)), "{missing:?}");
        }
    }

    #[test]
    fn s_36_a_file_a_pipe_and_another_size_are_refused() {
        let file = write(b"tensor").unwrap();
        for announced in [0, 5, 7, u64::MAX] {
            let refused = check_sealed(&file, announced);
            assert!(matches!(refused, Err(Unfit::Size { found: 6, .. })), "{announced}");
        }
        let ordinary = tempfile::tempfile().unwrap();
        assert!(matches!(check_sealed(&ordinary, 0), Err(Unfit::NotSealed)));
        check_file(&ordinary, 0).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        assert!(matches!(check_sealed(&reader, 0), Err(Unfit::NotSealed)));
        assert!(matches!(check_file(&reader, 0), Err(Unfit::NoFile)));
        let path = tempfile::NamedTempFile::new().unwrap();
        let writable = File::options().write(true).open(path.path()).unwrap();
        assert!(matches!(check_file(&writable, 0), Err(Unfit::NoFile)));
    }
}
