//! What stands in a directory, all the way down.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Where.
    pub path: PathBuf,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it is a socket.
    pub is_socket: bool,
    /// Its permissions.
    pub mode: u32,
}

impl Entry {
    /// Whether anybody but its owner may do anything with it.
    pub fn is_open_to_others(&self) -> bool {
        // Between its birth and its first mode a socket has the owner's own bit for executing, which opens nothing.
        let own = if self.is_dir || self.is_socket { 0o700 } else { 0o600 };
        self.mode & !own != 0
    }
}

/// Everything below `root`, and `root` itself, in order; what goes away meanwhile may be missing.
pub fn entries(root: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            let below = fs::read_dir(&path).into_iter().flatten().flatten();
            paths.extend(below.map(|entry| entry.path()));
        }
        found.push(Entry {
            path,
            is_dir: metadata.is_dir(),
            is_socket: metadata.file_type().is_socket(),
            mode: metadata.mode() & 0o7777,
        });
    }
    found.sort();
    found
}
