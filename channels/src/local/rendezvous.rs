//! Reading the file by which a process meets a job cell that has not launched it.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use cellbus_proto::local::{Rendezvous, RendezvousError};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, openat, statat, unlinkat},
    process::geteuid,
};
use zeroize::Zeroizing;

/// Why a rendezvous file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RendezvousFileError {
    /// It is not there, or cannot be opened or removed.
    #[error("`{path}` cannot be {action}")]
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// What was to be done.
        action: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others than this user could have made it, changed it or read it.
    #[error("`{path}` is not safe: {why}")]
    Unsafe {
        /// The file or its directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It is another one than was examined.
    #[error("`{0}` was exchanged while it was read")]
    Exchanged(PathBuf),
    /// Its content is none that can be used. It has been removed.
    #[error("the rendezvous file")]
    Content(#[from] RendezvousError),
}

/// Reads the rendezvous file at `path` and removes it, so that nobody reads it again.
///
/// Everything is checked on what was opened: the directory is this user's own with mode 0700; the file is a regular
/// one of this user with mode 0600 and one name. No symbolic link is followed in the last two parts of `path`.
///
/// # Errors
/// [`RendezvousFileError`]; unless its content is wrong, the file has not been touched.
pub fn read_rendezvous(path: &Path) -> Result<Rendezvous, RendezvousFileError> {
    let failed = |action| {
        let path = path.to_owned();
        move |source: rustix::io::Errno| RendezvousFileError::Io {
            path,
            action,
            source: source.into(),
        }
    };
    let unsafe_at =
        |path: &Path, why: String| Err(RendezvousFileError::Unsafe { path: path.to_owned(), why });
    let absolute = std::path::absolute(path).map_err(|source| RendezvousFileError::Io {
        path: path.to_owned(),
        action: "found",
        source,
    })?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return unsafe_at(path, "it has no directory".to_owned());
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let directory = rustix::fs::open(parent, flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(failed("reached"))?;
    let directory = File::from(directory);
    if let Some(why) = wrong(&directory, 0o700, FileType::Directory) {
        return unsafe_at(parent, why);
    }
    // Opening what is no regular file must not wait for anybody.
    let file = openat(&directory, name, flags | OFlags::NONBLOCK, Mode::empty());
    let file = File::from(file.map_err(failed("opened"))?);
    if let Some(why) = wrong(&file, 0o600, FileType::RegularFile) {
        return unsafe_at(path, why);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(Rendezvous::MAX_LEN + 64));
    (&file).take(Rendezvous::MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(|source| {
        RendezvousFileError::Io { path: path.to_owned(), action: "read", source }
    })?;
    let opened = file.metadata().map(|found| (found.dev(), found.ino()));
    let named = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
    let named = named.map(|found| (found.st_dev, found.st_ino)).map_err(failed("examined"))?;
    if opened.ok() != Some(named) {
        return Err(RendezvousFileError::Exchanged(path.to_owned()));
    }
    unlinkat(&directory, name, AtFlags::empty()).map_err(failed("removed"))?;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Rendezvous::decode(&bytes, u64::try_from(unix.as_millis()).unwrap_or(u64::MAX))?)
}

/// What others could do with it.
fn wrong(file: &File, mode: u32, kind: FileType) -> Option<String> {
    let found = match file.metadata() {
        Ok(found) => found,
        Err(error) => return Some(format!("it cannot be examined: {error}")),
    };
    let uid = geteuid().as_raw();
    if FileType::from_raw_mode(found.mode()) != kind {
        return Some("it is of another kind".to_owned());
    }
    if found.uid() != uid {
        return Some(format!("it belongs to user {}, not to {uid}", found.uid()));
    }
    if found.mode() & 0o7777 != mode {
        return Some(format!("it has mode {:04o}, needed is {mode:04o}", found.mode() & 0o7777));
    }
    let has_names = kind == FileType::RegularFile && found.nlink() != 1;
    has_names.then(|| format!("it has {} names", found.nlink()))
}
