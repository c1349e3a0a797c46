//! What lies in a directory of secrets, looked at without following or opening anything.

use std::path::{Path, PathBuf};

use rustix::{
    fs::{self, FileType, Mode},
    process::geteuid,
};

use super::{SecretFileError, place::mode_of};

/// One thing in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path from the directory down.
    pub inside: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes, for a file.
    pub size: u64,
    /// How many names it has.
    pub links: u64,
    /// Whether it belongs to the user that this process runs as.
    pub is_ours: bool,
}

/// What an [`Entry`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link, a pipe, a socket, a device.
    Other,
}

/// Everything below `dir`, by path. Links are not followed.
///
/// # Units
/// At most `max` entries are listed, and one more, which says that there are too many.
///
/// # Errors
/// [`SecretFileError::Io`] when a directory cannot be listed.
pub fn list_private_tree(dir: &Path, max: usize) -> Result<Vec<Entry>, SecretFileError> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(inside) = waiting.pop() {
        let path = dir.join(&inside);
        let entries = std::fs::read_dir(&path).map_err(SecretFileError::io("list", &path))?;
        for entry in entries {
            let entry = entry.map_err(SecretFileError::io("list", &path))?;
            let inside = inside.join(entry.file_name());
            let entry = look_at(&dir.join(&inside), inside)?;
            if entry.kind == EntryKind::Directory {
                waiting.push(entry.inside.clone());
            }
            found.push(entry);
            if found.len() > max {
                return Ok(found);
            }
        }
    }
    found.sort_by(|a, b| a.inside.cmp(&b.inside));
    Ok(found)
}

fn look_at(path: &Path, inside: PathBuf) -> Result<Entry, SecretFileError> {
    let stat = fs::lstat(path).map_err(SecretFileError::io("examine", path))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => EntryKind::Other,
    };
    Ok(Entry {
        inside,
        kind,
        mode: (mode_of(&stat) & Mode::from_raw_mode(0o7777)).as_raw_mode(),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        links: stat.st_nlink,
        is_ours: stat.st_uid == geteuid().as_raw(),
    })
}
