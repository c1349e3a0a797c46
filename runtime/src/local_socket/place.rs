//! Making a socket that nobody else can reach.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use cellbus_proto::local::Bootstrap;

const DIRECTORY_MODE: u32 = 0o700;
const SOCKET_MODE: u32 = 0o600;

/// Why a socket was not bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The kernel and other languages have less room for a path than one would think.
    #[error("`{path}` has {len} bytes, the limit for a local socket is {max}", max = Bootstrap::PATH_MAX)]
    TooLong {
        /// The path that the socket would have.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// Not absolute, not text, or the name is not one of a file.
    #[error("`{0}` is no place for a local socket")]
    Path(PathBuf),
    /// The directory is a symlink, no directory, another user's, or open to others.
    #[error("`{path}` must be a directory of user {uid} with mode 0700; it {found}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// This process's user.
        uid: u32,
        /// What is wrong.
        found: String,
    },
    /// Something lies at the path. It is left alone: nobody but an earlier life of this cell can have
    /// made it, and that may still be running.
    #[error("`{0}` exists already")]
    Exists(PathBuf),
    /// The file system refuses.
    #[error("`{path}` cannot be made")]
    Socket {
        /// The directory or the socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A directory and a socket in it. Removes the socket when dropped, and the directory if it made it.
#[derive(Debug)]
pub(super) struct Place {
    socket: PathBuf,
    made_directory: Option<PathBuf>,
}

impl Place {
    pub(super) fn make(directory: &Path, name: &str) -> Result<(Self, UnixListener), BindError> {
        let socket = directory.join(name);
        let is_name = Path::new(name).file_name().is_some_and(|file| file == name);
        if !socket.is_absolute() || !is_name || socket.to_str().is_none() {
            return Err(BindError::Path(socket));
        }
        let len = socket.as_os_str().len();
        if len > Bootstrap::PATH_MAX {
            return Err(BindError::TooLong { path: socket, len });
        }
        let is_made = make_directory(directory)?;
        let made_directory = is_made.then(|| directory.to_owned());
        check_directory(directory)?;
        let listener = UnixListener::bind(&socket).map_err(|source| {
            let path = socket.clone();
            let is_taken = source.kind() == io::ErrorKind::AddrInUse;
            if is_taken { BindError::Exists(path) } else { BindError::Socket { path, source } }
        })?;
        let place = Self { socket, made_directory };
        // Between bind and chmod the umask decides; the directory keeps everybody out meanwhile.
        fs::set_permissions(&place.socket, Permissions::from_mode(SOCKET_MODE))
            .and_then(|()| listener.set_nonblocking(true))
            .map_err(|source| BindError::Socket { path: place.socket.clone(), source })?;
        Ok((place, listener))
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = fs::remove_file(&self.socket);
        if let Err(error) = removed {
            tracing::debug!(%error, path = %self.socket.display(), "socket was not there to remove");
        }
        if let Some(directory) = &self.made_directory {
            // Fails where others have put something there; then it is not ours alone to remove.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Says whether the directory is new.
fn make_directory(directory: &Path) -> Result<bool, BindError> {
    let failed = |source| BindError::Socket { path: directory.to_owned(), source };
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Ok(()) => {
            // A strict umask may have taken bits that the owner needs.
            let permissions = Permissions::from_mode(DIRECTORY_MODE);
            fs::set_permissions(directory, permissions).map_err(failed)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

fn check_directory(path: &Path) -> Result<(), BindError> {
    let uid = rustix::process::geteuid().as_raw();
    let found = fs::symlink_metadata(path)
        .map_err(|source| BindError::Socket { path: path.to_owned(), source })?;
    let mode = found.mode() & 0o7777;
    let wrong = if !found.is_dir() {
        "is something else".to_owned()
    } else if found.uid() != uid {
        format!("belongs to user {}", found.uid())
    } else if mode != DIRECTORY_MODE {
        format!("has mode {mode:04o}")
    } else {
        return Ok(());
    };
    Err(BindError::Directory { path: path.to_owned(), uid, found: wrong })
}
