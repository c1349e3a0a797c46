//! The directory of a file that is fetched, and the steps in it: none follows a link, and all work on the open
//! directory, so that a name that is exchanged half-way leads to an error and nowhere else.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use cellbus_proto::transfer::{FileMark, TransferId};
use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat},
    io::Errno,
    process::geteuid,
};

use super::super::error::SinkError;

/// Bytes in the longest name of a file that is fetched: what leaves room for the names beside it.
pub(super) const NAME_MAX: usize = 200;

const OWN: Mode = Mode::RUSR.union(Mode::WUSR);

/// An open directory, and the names in it that belong to one target and transfer.
#[derive(Debug)]
pub(super) struct Beside {
    directory: OwnedFd,
    parent: PathBuf,
    pub(super) target: String,
    pub(super) part: String,
    pub(super) state: String,
}

fn mark_of(stat: &Stat) -> FileMark {
    FileMark { inode: (stat.st_dev, stat.st_ino), modified: (stat.st_mtime, stat.st_mtime_nsec) }
}

impl Beside {
    pub(super) fn open(path: &Path, id: &TransferId) -> Result<Self, SinkError> {
        let bad = || SinkError::Name(path.to_owned());
        let name = path.file_name().ok_or_else(bad)?;
        if name.as_bytes().len() > NAME_MAX {
            return Err(bad());
        }
        let target = name.to_str().ok_or_else(bad)?.to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&parent, flags, Mode::empty())
            .map_err(SinkError::io("open", &parent))?;
        let (part, state) = (format!(".{target}.{id}.part"), format!(".{target}.{id}.state"));
        Ok(Self { directory, parent, target, part, state })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.parent.join(name)
    }

    /// Opens the part for nobody else at the same time.
    pub(super) fn open_part(&self, create: bool) -> Result<File, SinkError> {
        let made = if create { OFlags::CREATE } else { OFlags::empty() };
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | made;
        let file = self.open_own(&self.part, flags)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(Errno::WOULDBLOCK) => Err(SinkError::Busy(self.path(&self.part))),
            Err(error) => Err(SinkError::io("lock", self.path(&self.part))(error)),
        }
    }

    /// All bytes of the state; `None` where there is none.
    pub(super) fn read_state(&self, max: usize) -> Result<Option<Vec<u8>>, SinkError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match self.open_own(&self.state, flags) {
            Ok(file) => file,
            Err(SinkError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        let mut limited = io::Read::take(file, max as u64 + 1);
        io::Read::read_to_end(&mut limited, &mut bytes)
            .map_err(SinkError::io("read", self.path(&self.state)))?;
        Ok(Some(bytes))
    }

    /// Replaces the state, whole or not at all; where it is not `durable`, a loss of power may damage it.
    pub(super) fn write_state(&self, bytes: &[u8], durable: bool) -> Result<(), SinkError> {
        let new = format!("{}~", self.state);
        self.unlink(&new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = self.open_own(&new, flags)?;
        io::Write::write_all(&mut file, bytes)
            .and_then(|()| if durable { file.sync_data() } else { Ok(()) })
            .map_err(SinkError::io("write", self.path(&new)))?;
        self.rename(&new, &self.state)
    }

    /// The part takes the place of the target; durable on return.
    pub(super) fn put_in_place(&self) -> Result<(), SinkError> {
        self.rename(&self.part, &self.target)?;
        rustix::fs::fsync(&self.directory).map_err(SinkError::io("flush", &self.parent))
    }

    pub(super) fn unlink(&self, name: &str) -> Result<(), SinkError> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(SinkError::io("remove", self.path(name))(error)),
        }
    }

    /// Whether the file that is open is the one that stands at `name`.
    pub(super) fn is_at(&self, file: &File, name: &str) -> bool {
        let open = rustix::fs::fstat(file);
        let named = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let of = |stat: Stat| (stat.st_dev, stat.st_ino);
        matches!((open, named), (Ok(open), Ok(named)) if of(open) == of(named))
    }

    /// The mark of the regular file that is the target; `None` for anything else.
    pub(super) fn target_mark(&self) -> Option<FileMark> {
        let named = rustix::fs::statat(&self.directory, &*self.target, AtFlags::SYMLINK_NOFOLLOW);
        let stat = named.ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        is_file.then(|| mark_of(&stat))
    }

    /// The mark of a file that is open.
    pub(super) fn mark(&self, part: &File) -> Result<FileMark, SinkError> {
        let stat = rustix::fs::fstat(part);
        stat.map(|stat| mark_of(&stat)).map_err(SinkError::io("examine", self.path(&self.part)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), SinkError> {
        rustix::fs::renameat(&self.directory, from, &self.directory, to)
            .map_err(SinkError::io("put in place", self.path(to)))
    }

    /// Opens a regular file of this user that is open to nobody else and has no other name.
    fn open_own(&self, name: &str, flags: OFlags) -> Result<File, SinkError> {
        let path = || self.path(name);
        let file = rustix::fs::openat(&self.directory, name, flags | OFlags::NOFOLLOW, OWN)
            .map_err(|error| match error {
                Errno::LOOP => SinkError::Foreign { path: path(), why: "it is a symbolic link" },
                error => SinkError::io("open", path())(error),
            })?;
        let stat = rustix::fs::fstat(&file).map_err(SinkError::io("examine", path()))?;
        let why = if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            "it is no regular file"
        } else if stat.st_uid != geteuid().as_raw() {
            "it belongs to another user"
        } else if stat.st_nlink != 1 {
            "it has another name"
        } else if stat.st_mode & 0o077 != 0 {
            "others may read or change it"
        } else {
            return Ok(file.into());
        };
        Err(SinkError::Foreign { path: path(), why })
    }
}
