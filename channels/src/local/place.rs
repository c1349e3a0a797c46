//! Whether what lies at a path can be trusted to be this user's own socket.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use cellbus_proto::local::Bootstrap;

/// Why job code does not connect to a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Relative, or longer than 100 bytes.
    #[error("`{0}` is not an absolute path of at most 100 bytes")]
    Path(PathBuf),
    /// It is not there, or cannot be looked at.
    #[error("`{path}` cannot be examined")]
    Unreadable {
        /// The socket or its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A symlink, or anything else that is not a directory and in it a socket.
    #[error("`{path}` is not a {expected}")]
    Kind {
        /// The socket or its directory.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// It belongs to somebody else.
    #[error("`{path}` belongs to user {owner}, not to {uid}")]
    Owner {
        /// The socket or its directory.
        path: PathBuf,
        /// To whom.
        owner: u32,
        /// This process's user.
        uid: u32,
    },
    /// Others can reach it.
    #[error("`{path}` has mode {mode:04o}, needed is {expected:04o}")]
    Mode {
        /// The socket or its directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        expected: u32,
    },
}

/// Checks directory and socket. What is in a directory that only `uid` can write to does not change
/// between this check and its use.
pub(super) fn check(path: &Path, uid: u32) -> Result<(), PlaceError> {
    let is_usable = path.is_absolute() && path.as_os_str().len() <= Bootstrap::PATH_MAX;
    let directory = path.parent().filter(|_| is_usable);
    let directory = directory.ok_or_else(|| PlaceError::Path(path.to_owned()))?;
    examine(directory, uid, "directory", 0o700)?;
    examine(path, uid, "socket", 0o600)
}

fn examine(path: &Path, uid: u32, expected: &'static str, mode: u32) -> Result<(), PlaceError> {
    let path = path.to_owned();
    let found = match fs::symlink_metadata(&path) {
        Ok(found) => found,
        Err(source) => return Err(PlaceError::Unreadable { path, source }),
    };
    let kind = found.file_type();
    let fits = if mode == 0o700 { kind.is_dir() } else { kind.is_socket() };
    if !fits {
        return Err(PlaceError::Kind { path, expected });
    }
    if found.uid() != uid {
        return Err(PlaceError::Owner { path, owner: found.uid(), uid });
    }
    match found.mode() & 0o7777 {
        found if found == mode => Ok(()),
        found => Err(PlaceError::Mode { path, mode: found, expected: mode }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    };

    use super::*;

    struct Place {
        _root: tempfile::TempDir,
        directory: PathBuf,
        socket: PathBuf,
        uid: u32,
    }

    fn place() -> Place {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("d");
        let socket = directory.join("s");
        fs::create_dir(&directory).unwrap();
        let _ = UnixListener::bind(&socket).unwrap();
        set_mode(&directory, 0o700);
        set_mode(&socket, 0o600);
        let uid = rustix::process::geteuid().as_raw();
        Place { _root: root, directory, socket, uid }
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn c_01_a_socket_that_others_can_reach_is_not_used() {
        let Place { _root, directory, socket, uid } = place();
        check(&socket, uid).unwrap();
        for mode in [0o701, 0o750, 0o770, 0o777, 0o1777, 0o500] {
            set_mode(&directory, mode);
            assert!(matches!(check(&socket, uid), Err(PlaceError::Mode { .. })), "{mode:o}");
        }
        set_mode(&directory, 0o700);
        for mode in [0o601, 0o660, 0o666, 0o777, 0o400] {
            set_mode(&socket, mode);
            assert!(matches!(check(&socket, uid), Err(PlaceError::Mode { .. })), "{mode:o}");
        }
    }

    #[test]
    fn s2_09_another_user_s_socket_is_named_as_such() {
        let Place { _root, socket, uid, .. } = place();
        let error = check(&socket, uid + 1).unwrap_err();
        assert!(matches!(error, PlaceError::Owner { .. }));
        assert!(error.to_string().contains(&format!("belongs to user {uid}")), "{error}");
    }

    #[test]
    fn c_01_a_symlink_a_file_and_a_relative_path_are_no_place() {
        let Place { _root, directory, socket, uid } = place();
        let linked = _root.path().join("linked");
        symlink(&directory, &linked).unwrap();
        assert!(matches!(check(&linked.join("s"), uid), Err(PlaceError::Kind { .. })));
        symlink(&socket, directory.join("link")).unwrap();
        assert!(matches!(check(&directory.join("link"), uid), Err(PlaceError::Kind { .. })));
        fs::write(directory.join("file"), "").unwrap();
        assert!(matches!(check(&directory.join("file"), uid), Err(PlaceError::Kind { .. })));
        assert!(matches!(check(&directory.join("none"), uid), Err(PlaceError::Unreadable { .. })));
        assert!(matches!(check(Path::new("d/s"), uid), Err(PlaceError::Path(_))));
        let long = directory.join("x".repeat(100));
        assert!(matches!(check(&long, uid), Err(PlaceError::Path(_))));
    }
}
