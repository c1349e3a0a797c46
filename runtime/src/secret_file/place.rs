//! Where a secret stands: its parent directory, open, and what may be found there.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use rustix::{
    fd::OwnedFd,
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat},
    io::{Errno, retry_on_intr},
    process::geteuid,
};

use super::SecretFileError;

pub(super) const REGULAR: &str = "a regular file";
const DIRECTORY: &str = "a directory";

/// A name in an open directory.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) dir: OwnedFd,
    pub(super) name: OsString,
}

impl Place {
    /// Opens the parent of `path`, which nobody but this user and root may write to.
    pub(super) fn open(path: &Path) -> Result<Self, SecretFileError> {
        let place = Self::resolve(path)?;
        let (above, stat) = place.parent()?;
        check_ours_or_roots(above, &stat)?;
        if mode_of(&stat).contains(Mode::SVTX | Mode::WOTH) {
            return Err(SecretFileError::Shared { path: above.to_owned() });
        }
        check_unwritable_by_others(above, &stat)?;
        Ok(place)
    }

    /// As [`Place::open`], but the parent may be one like `/tmp`, where everybody may create a name
    /// and nobody may take away another's: a directory of mode 0700 is safe there.
    pub(super) fn open_for_directory(path: &Path) -> Result<Self, SecretFileError> {
        let place = Self::resolve(path)?;
        let (above, stat) = place.parent()?;
        check_ours_or_roots(above, &stat)?;
        if !mode_of(&stat).contains(Mode::SVTX) {
            check_unwritable_by_others(above, &stat)?;
        }
        Ok(place)
    }

    fn resolve(path: &Path) -> Result<Self, SecretFileError> {
        let Some(name) = path.file_name() else {
            return Err(SecretFileError::Kind {
                path: path.to_owned(),
                found: "no name of a file",
                wanted: REGULAR,
            });
        };
        let dir = open_directory(directory_of(path))?;
        Ok(Self { path: path.to_owned(), dir, name: name.to_owned() })
    }

    fn parent(&self) -> Result<(&Path, Stat), SecretFileError> {
        let above = directory_of(&self.path);
        let stat = fs::fstat(&self.dir).map_err(SecretFileError::io("examine", above))?;
        Ok((above, stat))
    }

    /// Whether what stands at this place, if anything, may be replaced by a secret of ours.
    pub(super) fn check_replaceable(&self) -> Result<(), SecretFileError> {
        let stat = match fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(SecretFileError::io("examine", &self.path)(errno)),
        };
        check_ours(&self.path, &stat)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Ok(());
        }
        check_regular(&self.path, &stat)
    }

    /// Makes what was created or renamed in the directory durable.
    pub(super) fn flush(&self) -> Result<(), SecretFileError> {
        retry_on_intr(|| fs::fsync(&self.dir))
            .map_err(SecretFileError::io("flush the directory of", &self.path))
    }
}

pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        Some(_) | None => Path::new("."),
    }
}

/// Opens a directory; a link to one is none.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, SecretFileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::open(path, flags, Mode::empty()) {
        Ok(dir) => Ok(dir),
        Err(Errno::NOENT) => Err(SecretFileError::Missing { path: path.to_owned() }),
        Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => match fs::lstat(path) {
            Ok(stat) => Err(SecretFileError::Kind {
                path: path.to_owned(),
                found: kind_of(&stat),
                wanted: DIRECTORY,
            }),
            Err(_) => Err(SecretFileError::io("open", path)(errno)),
        },
        Err(errno) => Err(SecretFileError::io("open", path)(errno)),
    }
}

pub(super) fn check_regular(path: &Path, stat: &Stat) -> Result<(), SecretFileError> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        return Ok(());
    }
    Err(SecretFileError::Kind { path: path.to_owned(), found: kind_of(stat), wanted: REGULAR })
}

pub(super) fn check_ours(path: &Path, stat: &Stat) -> Result<(), SecretFileError> {
    if stat.st_uid == geteuid().as_raw() { Ok(()) } else { Err(owner_error(path, stat)) }
}

pub(super) fn check_ours_or_roots(path: &Path, stat: &Stat) -> Result<(), SecretFileError> {
    if stat.st_uid == 0 { Ok(()) } else { check_ours(path, stat) }
}

pub(super) fn check_unwritable_by_others(path: &Path, stat: &Stat) -> Result<(), SecretFileError> {
    let mode = mode_of(stat);
    if !mode.intersects(Mode::WGRP | Mode::WOTH) {
        return Ok(());
    }
    Err(SecretFileError::Mode {
        path: path.to_owned(),
        mode: mode.as_raw_mode(),
        others: "change what is in it",
        remedy: "go-w",
    })
}

pub(super) fn owner_error(path: &Path, stat: &Stat) -> SecretFileError {
    SecretFileError::Owner { path: path.to_owned(), owner: stat.st_uid, us: geteuid().as_raw() }
}

pub(super) fn mode_of(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode)
}

pub(super) fn kind_of(stat: &Stat) -> &'static str {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => REGULAR,
        FileType::Directory => DIRECTORY,
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something else",
    }
}
