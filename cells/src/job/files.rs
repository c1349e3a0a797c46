//! The files of a job: read where it is described, checked and put in place where it runs.

use std::{
    fs, io,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use cellbus_proto::{
    codec::Octets,
    job::{
        FILE_BYTES_MAX, FILES_BYTES_MAX, FILES_MAX, FileChunk, FileEntry, JobId, Manifest,
        ManifestError,
    },
    transfer::Digest,
};
use cellbus_runtime::secret_file::{SecretFileError, create_private_dir, write_secret_file};

/// Bytes of a file that travel at a time.
pub(super) const CHUNK: usize = 256 << 10;
/// Name of the file that describes a job; it does not travel.
pub const JOB_FILE: &str = "job.toml";

/// The files of a job, with what is in them.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// What they are.
    pub manifest: Manifest,
    /// What is in them, in the same order.
    pub contents: Vec<bytes::Bytes>,
}

/// Why the files of a job cannot be taken along.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A file or directory cannot be read.
    #[error("{path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name that is no text.
    #[error("{0} has a name that is no text")]
    Name(PathBuf),
    /// A link, a pipe, a device or a socket.
    #[error("{0} is neither a file nor a directory; links are not followed")]
    Kind(PathBuf),
    /// A file that has another name somewhere else.
    #[error("{0} has more than one name (hard link)")]
    Linked(PathBuf),
    /// They are not what a job can have.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Why the files of a job are not put in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// They are not what a job can have.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// They do not come in their order.
    #[error("a piece of a file out of turn")]
    Order,
    /// A file is not what the manifest says.
    #[error("`{0}` is not what the manifest says")]
    Content(String),
    /// A directory or file cannot be made.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// A file cannot be made executable, or the whole cannot be moved to its place.
    #[error("{path}")]
    System {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads every file below `root`, except [`JOB_FILE`] there. Nothing but files and directories is taken, and no link
/// is followed.
///
/// # Errors
/// [`PackError`].
pub fn pack(root: &Path) -> Result<Package, PackError> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    let mut dirs = vec![(String::new(), root.to_owned())];
    while let Some((prefix, dir)) = dirs.pop() {
        let read = |source| PackError::Read { path: dir.clone(), source };
        for entry in fs::read_dir(&dir).map_err(read)? {
            let entry = entry.map_err(read)?;
            let path = entry.path();
            let name =
                entry.file_name().into_string().map_err(|_| PackError::Name(path.clone()))?;
            let kind = entry.file_type().map_err(read)?;
            let inner = format!("{prefix}{name}");
            if kind.is_dir() {
                dirs.push((format!("{inner}/"), path));
            } else if !kind.is_file() {
                return Err(PackError::Kind(path));
            } else if inner != JOB_FILE {
                found.push((inner, path));
            }
            if found.len() + dirs.len() > 2 * FILES_MAX {
                return Err(ManifestError::TooMany(found.len() + dirs.len()).into());
            }
        }
    }
    found.sort();
    let mut package = Package::default();
    for (inner, path) in found {
        let (content, is_executable) = read_file(&path)?;
        let entry = FileEntry {
            path: inner,
            len: content.len() as u64,
            is_executable,
            digest: Octets(*Digest::of(&content).as_bytes()),
        };
        package.manifest.0.push(entry);
        package.contents.push(content.into());
        if package.manifest.bytes() > FILES_BYTES_MAX {
            return Err(ManifestError::TooLarge(package.manifest.bytes()).into());
        }
    }
    package.manifest.check()?;
    Ok(package)
}

fn read_file(path: &Path) -> Result<(Vec<u8>, bool), PackError> {
    let failed = |source| PackError::Read { path: path.to_owned(), source };
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = fs::File::options().read(true).custom_flags(no_follow).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(PackError::Kind(path.to_owned()));
    }
    if metadata.nlink() > 1 {
        return Err(PackError::Linked(path.to_owned()));
    }
    let mut content = Vec::new();
    let len = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(failed)? as u64;
    if len > FILE_BYTES_MAX {
        let path = path.display().to_string();
        return Err(ManifestError::FileTooLarge { path, len }.into());
    }
    Ok((content, metadata.permissions().mode() & 0o100 != 0))
}

/// The pieces in which a package travels.
pub(super) fn chunks(id: &JobId, package: &Package) -> Vec<FileChunk> {
    let mut chunks = Vec::new();
    for (index, content) in package.contents.iter().enumerate() {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let mut pieces: Vec<&[u8]> = content.chunks(CHUNK).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        for bytes in pieces {
            let manifest = chunks.is_empty().then(|| package.manifest.clone());
            let bytes = cellbus_proto::codec::body::Blob(bytes.to_vec());
            chunks.push(FileChunk { id: id.clone(), index, manifest, bytes });
        }
    }
    chunks
}

/// Files that arrive, in a directory that nobody else can enter. What is not complete is removed when this is
/// dropped.
#[derive(Debug)]
pub(super) struct Staging {
    dir: PathBuf,
    manifest: Manifest,
    next: usize,
    /// What has come of the next file.
    content: Vec<u8>,
}

impl Staging {
    /// Begins with an empty `dir`.
    pub(super) fn begin(dir: PathBuf, manifest: Manifest) -> Result<Self, StageError> {
        manifest.check()?;
        remove_dir(&dir).map_err(|source| StageError::System { path: dir.clone(), source })?;
        create_private_dir(&dir)?;
        Ok(Self { dir, manifest, next: 0, content: Vec::new() })
    }

    /// Takes the next piece.
    pub(super) fn take(&mut self, index: u32, bytes: &[u8]) -> Result<(), StageError> {
        let entry = self.manifest.0.get(self.next).filter(|_| self.next == index as usize);
        let entry = entry.ok_or(StageError::Order)?;
        if self.content.len() as u64 + bytes.len() as u64 > entry.len {
            return Err(StageError::Content(entry.path.clone()));
        }
        self.content.extend_from_slice(bytes);
        if (self.content.len() as u64) < entry.len {
            return Ok(());
        }
        let content = std::mem::take(&mut self.content);
        if !entry.is_of(&content) {
            return Err(StageError::Content(entry.path.clone()));
        }
        let path = self.dir.join(&entry.path);
        let mut dir = self.dir.clone();
        for level in Path::new(&entry.path).parent().into_iter().flat_map(Path::components) {
            dir.push(level);
            create_private_dir(&dir)?;
        }
        write_secret_file(&path, &content)?;
        if entry.is_executable {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
                .map_err(|source| StageError::System { path, source })?;
        }
        self.next += 1;
        Ok(())
    }

    /// Moves everything to `place`, which is replaced, if it is complete and what `manifest` says.
    pub(super) fn finish(mut self, manifest: &Manifest, place: &Path) -> Result<(), StageError> {
        if self.next != self.manifest.0.len() || self.manifest != *manifest {
            return Err(StageError::Order);
        }
        let failed = |source| StageError::System { path: place.to_owned(), source };
        remove_dir(place).map_err(failed)?;
        fs::rename(&self.dir, place).map_err(failed)?;
        // Nothing is left to be removed.
        self.dir = PathBuf::new();
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.dir.as_os_str().is_empty() {
            // The next start of the job removes what stays.
            let _ = remove_dir(&self.dir);
        }
    }
}

/// Removes a directory with all that is in it, if it is there.
pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn id() -> JobId {
        JobId { job: "j".parse().unwrap(), attempt: 1 }
    }

    #[test]
    fn j_05_what_was_packed_is_what_is_put_in_place() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        write(&from.join("job.toml"), b"not taken along");
        write(&from.join("a/b.sh"), b"#!/bin/sh\n");
        write(&from.join("empty"), b"");
        write(&from.join("large"), &vec![7; CHUNK + 1]);
        fs::set_permissions(from.join("a/b.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        let package = pack(&from).unwrap();
        let chunks = chunks(&id(), &package);
        assert_eq!(chunks.len(), 4);
        let mut staging =
            Staging::begin(root.path().join("staging"), package.manifest.clone()).unwrap();
        for chunk in &chunks {
            staging.take(chunk.index, &chunk.bytes.0).unwrap();
        }
        staging.finish(&package.manifest, &to).unwrap();
        assert_eq!(pack(&to).unwrap().manifest, package.manifest);
        assert!(!root.path().join("staging").exists() && !to.join("job.toml").exists());
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("a/b.sh"), mode("large")), (0o700, 0o700, 0o600));
    }

    #[test]
    fn j_05_what_differs_from_the_manifest_is_never_put_in_place() {
        let root = tempfile::tempdir().unwrap();
        let (from, staged) = (root.path().join("from"), root.path().join("staging"));
        write(&from.join("a"), b"abc");
        let package = pack(&from).unwrap();
        let begin = || Staging::begin(staged.clone(), package.manifest.clone()).unwrap();
        assert!(matches!(begin().take(0, b"abd"), Err(StageError::Content(_))));
        assert!(matches!(begin().take(0, b"abcd"), Err(StageError::Content(_))));
        assert!(matches!(begin().take(1, b"abc"), Err(StageError::Order)));
        let cut = begin().finish(&package.manifest, &root.path().join("to"));
        assert!(matches!(cut, Err(StageError::Order)));
        assert!(!root.path().join("to").exists() && !staged.exists());
    }

    #[test]
    fn j_04_links_and_other_things_are_not_taken_along() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        write(&dir.join("a"), b"a");
        symlink("/etc/passwd", dir.join("link")).unwrap();
        assert!(matches!(pack(&dir), Err(PackError::Kind(_))));
        fs::remove_file(dir.join("link")).unwrap();
        fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
        assert!(matches!(pack(&dir), Err(PackError::Linked(_))));
    }
}
