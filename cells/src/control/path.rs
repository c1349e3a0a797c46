//! Paths of sockets that are longer than a socket address can hold.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io,
};

/// Bytes in the longest path of a socket address, without its final zero.
const MAX_ADDRESS: usize = 107;

/// Opens a directory itself, not what a symlink of its name leads to.
pub(super) fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, dir, flags, Mode::empty())
}

/// A path to `file` in `dir` that fits into a socket address while `fd`, which is `dir`, is open.
pub(super) fn address(dir: &Path, fd: &OwnedFd, file: &str) -> PathBuf {
    let direct = dir.join(file);
    if direct.as_os_str().len() <= MAX_ADDRESS {
        return direct;
    }
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()).join(file)
}
