//! A whole directory of secrets that appears at once or not at all.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fd::OwnedFd,
    fs::{self, AtFlags, FlockOperation, Mode, OFlags, RenameFlags},
    io::{Errno, retry_on_intr},
};

use super::{
    SecretFileError, check_private_dir,
    place::{Place, directory_of, mode_of, open_directory},
};

const PREFIX: &str = ".cellbus-new-";
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

/// A directory beside the one that it will become; gone again unless it is published.
///
/// Everything in it is made new, without following links: directories of mode 0700 and files of mode 0600,
/// whatever the umask. What a process that was killed left behind is removed by the next one.
#[derive(Debug)]
pub struct Staging {
    place: Place,
    path: PathBuf,
    name: OsString,
    /// Carries the lock.
    _dir: OwnedFd,
    published: bool,
}

impl Staging {
    /// Begins the directory that is to stand at `target`, where nothing may stand but an empty directory.
    ///
    /// # Errors
    /// [`SecretFileError`] when the directory above is not safe, or another process is at the same work.
    pub fn begin(target: &Path) -> Result<Self, SecretFileError> {
        let place = Place::open_for_directory(target)?;
        let mut name = OsString::from(PREFIX);
        name.push(&place.name);
        let path = directory_of(target).join(&name);
        for attempt in 0..2 {
            match fs::mkdirat(&place.dir, &name, Mode::RWXU) {
                Ok(()) => {
                    fs::chmodat(&place.dir, &name, Mode::RWXU, AtFlags::empty())
                        .map_err(SecretFileError::io("set the mode of", &path))?;
                    let dir = locked(&path)?;
                    return Ok(Self { place, path, name, _dir: dir, published: false });
                }
                Err(Errno::EXIST) if attempt == 0 => {
                    // Nobody holds what a dead process left.
                    let _held = locked(&path)?;
                    std::fs::remove_dir_all(&path).map_err(SecretFileError::io("remove", &path))?;
                }
                Err(errno) => return Err(SecretFileError::io("create directory", &path)(errno)),
            }
        }
        Err(SecretFileError::io("create directory", &path)(Errno::EXIST))
    }

    /// Makes the directory `inside`, whose parent must have been made.
    ///
    /// # Errors
    /// [`SecretFileError`], also where it is there already.
    pub fn create_dir(&self, inside: &Path) -> Result<(), SecretFileError> {
        let path = self.inner(inside)?;
        fs::mkdir(&path, Mode::RWXU).map_err(SecretFileError::io("create directory", &path))?;
        fs::chmod(&path, Mode::RWXU).map_err(SecretFileError::io("set the mode of", &path))
    }

    /// Makes the file `inside` with this content. It is not durable before the directory is published.
    ///
    /// # Errors
    /// [`SecretFileError`], also where it is there already.
    pub fn write(&self, inside: &Path, content: &[u8]) -> Result<(), SecretFileError> {
        let path = self.inner(inside)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::open(&path, flags, OWNER_ONLY)
            .map_err(SecretFileError::io("create a new file for", &path))?;
        fs::fchmod(&file, OWNER_ONLY).map_err(SecretFileError::io("set the mode of", &path))?;
        let stat = fs::fstat(&file).map_err(SecretFileError::io("examine", &path))?;
        let mode = mode_of(&stat);
        if mode != OWNER_ONLY {
            return Err(SecretFileError::Mode {
                path,
                mode: mode.as_raw_mode(),
                others: "use the secret on this file system",
                remedy: "600",
            });
        }
        File::from(file).write_all(content).map_err(SecretFileError::io("write", &path))
    }

    /// Gives the directory its name, in one step, durable on return.
    ///
    /// # Errors
    /// [`SecretFileError`] when something stands there that is not an empty directory; it stays as it is.
    pub fn publish(mut self) -> Result<(), SecretFileError> {
        let Place { path, dir, name } = &self.place;
        let all = open_directory(&self.path)?;
        retry_on_intr(|| fs::syncfs(&all)).map_err(SecretFileError::io("flush", &self.path))?;
        match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR | Errno::EXIST) => {}
            Err(errno) => return Err(SecretFileError::io("replace", path)(errno)),
        }
        match fs::renameat_with(dir, &self.name, dir, name, RenameFlags::NOREPLACE) {
            Ok(()) => self.published = true,
            Err(Errno::EXIST) => {
                return Err(SecretFileError::Kind {
                    path: path.clone(),
                    found: "already there",
                    wanted: "a new directory",
                });
            }
            Err(errno) => return Err(SecretFileError::io("replace", path)(errno)),
        }
        self.place.flush()
    }

    /// A place in the directory that no name leads out of.
    fn inner(&self, inside: &Path) -> Result<PathBuf, SecretFileError> {
        let mut parts = inside.components();
        let stays = parts.all(|part| matches!(part, Component::Normal(_)));
        if stays && !inside.as_os_str().is_empty() {
            return Ok(self.path.join(inside));
        }
        let source = io::Error::new(io::ErrorKind::InvalidInput, "leads out of its directory");
        Err(SecretFileError::Io { action: "create", path: inside.to_owned(), source })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // The error that brought us here is the one to report; the next run sweeps.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Opens a directory of ours and keeps others from working in it.
fn locked(path: &Path) -> Result<OwnedFd, SecretFileError> {
    let dir = open_directory(path)?;
    check_private_dir(path, &dir)?;
    match fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(dir),
        Err(Errno::WOULDBLOCK) => {
            let source = io::Error::new(io::ErrorKind::ResourceBusy, "another process works in it");
            Err(SecretFileError::Io { action: "lock", path: path.to_owned(), source })
        }
        Err(errno) => Err(SecretFileError::io("lock", path)(errno)),
    }
}
