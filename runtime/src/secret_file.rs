//! Files and directories that nobody but their owner may read, and the one way to write them.
//!
//! Every key, token and state file goes through [`write_secret_file`]; nothing else in the workspace
//! creates a file that holds a secret. All steps work on an open parent directory, so a name that
//! is exchanged half-way leads to an error and never to somebody else's file.
//!
//! Owner-only is proved by POSIX owner and mode bits. The crate builds on no platform without them.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags, RawMode},
    io::Errno,
    process::geteuid,
};
use zeroize::Zeroizing;

use self::{
    place::{Place, kind_of, mode_of, open_directory},
    temp::Temp,
};
pub use self::{
    staging::Staging,
    tree::{Entry, EntryKind, list_private_tree},
};

mod place;
mod staging;
mod temp;
#[cfg(test)]
mod tests;
mod tree;

/// Why a secret file or a private directory could not be used. Says which one, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// Nothing is there.
    #[error("{path} does not exist")]
    Missing {
        /// What was looked for.
        path: PathBuf,
    },
    /// Something else than what is needed stands at the path.
    #[error("{path} is {found}, it must be {wanted}; move it away")]
    Kind {
        /// Where it stands.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// Another user owns it, so that user decides what is in it.
    #[error(
        "{path} belongs to uid {owner}, this process runs as uid {us}; run `chown {us} {path}`"
    )]
    Owner {
        /// What is owned.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may read or change it.
    #[error("{path} has mode {mode:04o}, others may {others}; run `chmod {remedy} {path}`")]
    Mode {
        /// What is open to others.
        path: PathBuf,
        /// Its permission bits.
        mode: RawMode,
        /// What these bits let others do.
        others: &'static str,
        /// The mode to give it, as `chmod` takes it.
        remedy: &'static str,
    },
    /// A directory that everybody may create files in, as `/tmp` is.
    #[error("{path} is shared by all users; give the secret a directory of its own")]
    Shared {
        /// The directory.
        path: PathBuf,
    },
    /// The file is larger than anything that is expected there.
    #[error("{path} is {len} bytes long, the limit is {max}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// Bytes allowed.
        max: usize,
    },
    /// The operating system refused a step.
    #[error("cannot {action} {path}")]
    Io {
        /// The step.
        action: &'static str,
        /// What it was to be done to.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl SecretFileError {
    fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source: source.into() }
    }
}

/// Puts `content` at `path` as a file of mode 0600, whole or not at all, durable on return.
///
/// The parent directory must belong to this user or to root and be writable by nobody else. A
/// symbolic or hard link at `path` is replaced, not followed; what it led to stays as it is. The
/// mode never depends on the umask and is never wider, not even between two system calls.
///
/// # Errors
/// [`SecretFileError`]. A failure up to the renaming leaves the old content and no temporary file
/// behind. If only the last step fails, flushing the directory, then the new content stands there but may not
/// survive a power cut.
pub fn write_secret_file(path: &Path, content: &[u8]) -> Result<(), SecretFileError> {
    let place = Place::open(path)?;
    place.check_replaceable()?;
    Temp::create(&place)?.fill(content)?.rename_into_place()?;
    place.flush()
}

/// Reads the secret at `path`; the bytes are wiped when dropped.
///
/// # Units
/// `max_len` in bytes; it bounds what is allocated, whatever the file says.
///
/// # Errors
/// [`SecretFileError`] when the file is absent, a link, no regular file, owned by another user, open to anybody
/// else, longer than `max_len`, or unreadable. Never blocks on a FIFO.
pub fn read_secret_file(
    path: &Path,
    max_len: usize,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open_existing(path, flags)?;
    let stat = fs::fstat(&file).map_err(SecretFileError::io("examine", path))?;
    place::check_regular(path, &stat)?;
    place::check_ours(path, &stat)?;
    let mode = mode_of(&stat);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Err(SecretFileError::Mode {
            path: path.to_owned(),
            mode: mode.as_raw_mode(),
            others: "use the secret in it",
            remedy: "600",
        });
    }
    read_bounded(path, file, &stat, max_len)
}

/// Reads a file that is no secret but that decides whom we trust, such as a root certificate.
///
/// Links are followed and anybody may read the file, but only this user or root may own and change it.
///
/// # Units
/// `max_len` in bytes.
///
/// # Errors
/// [`SecretFileError`] when the file is absent, no regular file, changeable by others, longer than `max_len`, or unreadable.
pub fn read_trusted_file(path: &Path, max_len: usize) -> Result<Vec<u8>, SecretFileError> {
    let file = open_existing(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)?;
    let stat = fs::fstat(&file).map_err(SecretFileError::io("examine", path))?;
    place::check_regular(path, &stat)?;
    place::check_ours_or_roots(path, &stat)?;
    place::check_unwritable_by_others(path, &stat)?;
    Ok(std::mem::take(&mut *read_bounded(path, file, &stat, max_len)?))
}

/// Reads a file about which nothing is believed: one that somebody carried here.
///
/// Links are followed. Never blocks on a FIFO.
///
/// # Units
/// `max_len` in bytes.
///
/// # Errors
/// [`SecretFileError`] when the file is absent, no regular file, longer than `max_len`, or unreadable.
pub fn read_bounded_file(path: &Path, max_len: usize) -> Result<Vec<u8>, SecretFileError> {
    let file = open_existing(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)?;
    let stat = fs::fstat(&file).map_err(SecretFileError::io("examine", path))?;
    place::check_regular(path, &stat)?;
    Ok(std::mem::take(&mut *read_bounded(path, file, &stat, max_len)?))
}

/// Makes sure that `path` is a directory of mode 0700 that belongs to this user, and creates it,
/// with whatever is missing above it, where it is not.
///
/// # Errors
/// [`SecretFileError`] when something else stands there, another user owns it, it is open to others, or
/// the directory in which it must be created lets others replace it.
pub fn create_private_dir(path: &Path) -> Result<(), SecretFileError> {
    match open_directory(path) {
        Ok(dir) => check_private_dir(path, &dir),
        Err(SecretFileError::Missing { .. }) => create_missing_dir(path),
        Err(error) => Err(error),
    }
}

/// Whether `path` is a directory of mode 0700, or narrower, that belongs to this user. Changes nothing.
///
/// # Errors
/// [`SecretFileError`] when it is absent, something else, another user's, or open to others.
pub fn check_private(path: &Path) -> Result<(), SecretFileError> {
    let dir = open_directory(path)?;
    check_private_dir(path, &dir)
}

/// Removes what a process that was killed while it wrote a secret left in `dir`.
///
/// Call it only where no other process can be writing at this moment.
///
/// # Errors
/// [`SecretFileError::Io`] when the directory cannot be listed or a leftover not removed.
pub fn remove_leftovers(dir: &Path) -> Result<(), SecretFileError> {
    let entries = std::fs::read_dir(dir).map_err(SecretFileError::io("list", dir))?;
    for entry in entries {
        let entry = entry.map_err(SecretFileError::io("list", dir))?;
        if temp::is_temp_name(&entry.file_name()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(SecretFileError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn open_existing(path: &Path, flags: OFlags) -> Result<File, SecretFileError> {
    match fs::open(path, flags, Mode::empty()) {
        Ok(file) => Ok(file.into()),
        Err(Errno::NOENT) => Err(SecretFileError::Missing { path: path.to_owned() }),
        Err(errno) => {
            // With these flags a link gives ELOOP and a socket ENXIO; say what stands there instead.
            let kind = fs::lstat(path).map(|stat| kind_of(&stat));
            match (errno, kind) {
                (Errno::LOOP | Errno::NXIO, Ok(found)) => Err(SecretFileError::Kind {
                    path: path.to_owned(),
                    found,
                    wanted: place::REGULAR,
                }),
                _ => Err(SecretFileError::io("open", path)(errno)),
            }
        }
    }
}

fn read_bounded(
    path: &Path,
    mut file: File,
    stat: &fs::Stat,
    max_len: usize,
) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    let Some(len) = usize::try_from(len).ok().filter(|len| *len <= max_len) else {
        return Err(SecretFileError::TooLarge { path: path.to_owned(), len, max: max_len });
    };
    // One allocation of the final size: a vector that grows would leave copies of the secret behind.
    let mut content = Zeroizing::new(vec![0; len]);
    file.read_exact(&mut content).map_err(SecretFileError::io("read", path))?;
    Ok(content)
}

fn create_missing_dir(path: &Path) -> Result<(), SecretFileError> {
    let above = place::directory_of(path);
    if matches!(open_directory(above), Err(SecretFileError::Missing { .. })) {
        create_missing_dir(above)?;
    }
    let place = Place::open_for_directory(path)?;
    match fs::mkdirat(&place.dir, &place.name, Mode::RWXU) {
        Ok(()) => {
            // A umask can only take bits away, but it can take our own, without which we cannot even look at it.
            let stat = fs::statat(&place.dir, &place.name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(SecretFileError::io("examine", path))?;
            if !mode_of(&stat).contains(Mode::RWXU) {
                fs::chmodat(&place.dir, &place.name, Mode::RWXU, AtFlags::empty())
                    .map_err(SecretFileError::io("set the mode of", path))?;
            }
        }
        // Somebody was faster; what they made is examined like anything that was there before.
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(SecretFileError::io("create directory", path)(errno)),
    }
    let dir = open_directory(path)?;
    check_private_dir(path, &dir)?;
    place.flush()
}

fn check_private_dir(path: &Path, dir: &rustix::fd::OwnedFd) -> Result<(), SecretFileError> {
    let stat = fs::fstat(dir).map_err(SecretFileError::io("examine", path))?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(place::owner_error(path, &stat));
    }
    let mode = mode_of(&stat);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Err(SecretFileError::Mode {
            path: path.to_owned(),
            mode: mode.as_raw_mode(),
            others: "look into it",
            remedy: "700",
        });
    }
    Ok(())
}
