//! What a cell remembers between two runs of its process, besides its credentials: how often it has
//! started, and the keys by which the endpoint recognises connections of its previous run.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, FlockOperation, Mode, OFlags},
    io::Errno,
};
use zeroize::Zeroizing;

use crate::secret_file::{
    SecretFileError, create_private_dir, read_secret_file, remove_leftovers, write_secret_file,
};

#[cfg(test)]
mod tests;

const LOCK: &str = "lock";
const INCARNATION: &str = "incarnation";
const RESET_KEY: &str = "reset-key";
const CONNECTION_ID_KEY: &str = "connection-id-key";

/// First words of the counter's file; the number is the version of its format.
const INCARNATION_HEADER: &str = "incarnation 1 ";
/// Bytes in the longest counter file.
const INCARNATION_MAX: usize = 64;

/// A cell's own directory, held by this process alone until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Carries the lock.
    _lock: File,
}

/// Which run of a cell this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncarnationParts {
    /// Runs so far, this one included; grows with every start.
    pub counter: u64,
    /// Random; tells this run from one that a restored backup makes count the same.
    pub nonce: u64,
}

/// Why the state of a cell could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// The directory or a file in it is not as it must be, or the system refused a step.
    #[error("state of the cell")]
    File(#[from] SecretFileError),
    /// Another process uses the directory.
    #[error("{path} is in use by {}; stop that one, or give this cell another directory", holder(.pid))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, where it told.
        pid: Option<u32>,
    },
    /// A file does not contain what was once written to it.
    #[error(
        "{path} is damaged: {problem}; restore it from a backup, or remove it if no other cell remembers this one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random(#[source] getrandom::Error),
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl StateDir {
    /// Takes the directory for this process; creates it, mode 0700, if it is not there.
    ///
    /// # Errors
    /// [`StateDirError::InUse`] while another process, or another value of this one, holds it;
    /// [`StateDirError::File`] when the directory is not ours alone.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        create_private_dir(path)?;
        let lock = lock(path)?;
        remove_leftovers(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Counts one more run. The number is on the disk before it is returned, so it is never given out twice.
    ///
    /// # Errors
    /// [`StateDirError::Damaged`] when the counter is there but cannot be read as one: to start again from
    /// zero would repeat message ids that others have seen.
    pub fn next_incarnation(&mut self) -> Result<IncarnationParts, StateDirError> {
        let path = self.path.join(INCARNATION);
        let last = match read_secret_file(&path, INCARNATION_MAX) {
            Ok(content) => parse_counter(&content)
                .ok_or(StateDirError::Damaged { path: path.clone(), problem: "no counter" })?,
            Err(SecretFileError::Missing { .. }) => 0,
            Err(SecretFileError::TooLarge { path, .. }) => {
                return Err(StateDirError::Damaged { path, problem: "too long" });
            }
            Err(error) => return Err(error.into()),
        };
        let Some(counter) = last.checked_add(1) else {
            return Err(StateDirError::Damaged { path, problem: "the counter is at its end" });
        };
        let nonce = getrandom::u64().map_err(StateDirError::Random)?;
        write_secret_file(&path, format!("{INCARNATION_HEADER}{counter}\n").as_bytes())?;
        Ok(IncarnationParts { counter, nonce })
    }

    /// The key of stateless resets; drawn on first use, the same ever after.
    ///
    /// # Errors
    /// [`StateDirError`] when it cannot be read or, the first time, written.
    pub fn reset_key(&mut self) -> Result<Zeroizing<[u8; 64]>, StateDirError> {
        self.persisted_key(RESET_KEY)
    }

    /// The key by which the endpoint recognises connection ids it gave out; drawn on first use, the same ever after.
    ///
    /// # Errors
    /// [`StateDirError`] when it cannot be read or, the first time, written.
    pub fn connection_id_key(&mut self) -> Result<u64, StateDirError> {
        Ok(u64::from_be_bytes(*self.persisted_key(CONNECTION_ID_KEY)?))
    }

    fn persisted_key<const LEN: usize>(
        &mut self,
        name: &str,
    ) -> Result<Zeroizing<[u8; LEN]>, StateDirError> {
        let path = self.path.join(name);
        let mut key = Zeroizing::new([0; LEN]);
        match read_secret_file(&path, LEN) {
            Ok(content) if content.len() == LEN => key.copy_from_slice(&content),
            Ok(_) | Err(SecretFileError::TooLarge { .. }) => {
                return Err(StateDirError::Damaged { path, problem: "not the length of a key" });
            }
            Err(SecretFileError::Missing { .. }) => {
                getrandom::fill(&mut *key).map_err(StateDirError::Random)?;
                write_secret_file(&path, &*key)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(key)
    }
}

fn parse_counter(content: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(content).ok()?.strip_prefix(INCARNATION_HEADER)?;
    let counter = digits.strip_suffix('\n')?.parse::<u64>().ok()?;
    // Only what is written here is read here: no sign, no leading zero.
    (format!("{counter}\n") == digits).then_some(counter)
}

fn lock(dir: &Path) -> Result<File, StateDirError> {
    let path = dir.join(LOCK);
    let refused = |action: &'static str, errno: Errno| {
        StateDirError::File(SecretFileError::Io {
            action,
            path: path.clone(),
            source: errno.into(),
        })
    };
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file: File = fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| refused("open", errno))?
        .into();
    let found = file.metadata().map_err(|source| {
        StateDirError::File(SecretFileError::Io { action: "examine", path: path.clone(), source })
    })?;
    if !found.is_file() || found.nlink() != 1 {
        // What is written to it would be written to something else as well.
        let found = if found.is_file() { "known by other names, too" } else { "no file" };
        let wanted = "a regular file of one name";
        return Err(SecretFileError::Kind { path, found, wanted }.into());
    }
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Who holds it is a help for a person; the lock itself is what counts.
            let _ = file.take(16).read_to_string(&mut text);
            return Err(StateDirError::InUse {
                path: dir.to_owned(),
                pid: text.trim().parse().ok(),
            });
        }
        Err(errno) => return Err(refused("lock", errno)),
    }
    fs::ftruncate(&file, 0).map_err(|errno| refused("write", errno))?;
    writeln!(file, "{}", std::process::id()).map_err(|source| {
        StateDirError::File(SecretFileError::Io { action: "write", path: path.clone(), source })
    })?;
    Ok(file)
}
