//! Named pipes for what a program prints that may outlive whoever reads it.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

/// The pipes of one program, with this process at their reading ends.
pub(super) struct Pipes {
    label: String,
    paths: [PathBuf; 2],
    /// For standard output and standard error.
    readers: [OwnedFd; 2],
}

impl Pipes {
    /// The names of the pipes of the program called `label`.
    pub(super) fn names(label: &str) -> [String; 2] {
        [format!("{label}.out"), format!("{label}.err")]
    }

    /// What stands behind number and beginning of a process in `token`.
    pub(super) fn label_of(token: &str) -> Option<&str> {
        let label = token.splitn(3, '-').nth(2)?;
        let is_name = !label.is_empty() && !label.starts_with('.') && !label.contains('/');
        is_name.then_some(label)
    }

    /// Makes pipes in `dir` for the program called `label`.
    pub(super) fn make(dir: &Path, label: &str) -> io::Result<Self> {
        if label.is_empty() || label.starts_with('.') || label.contains('/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for name in Self::names(label) {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _removed => mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
            }
        }
        Self::open(dir, label)
    }

    /// The pipes of a program that an earlier life of this process has started.
    pub(super) fn again(dir: &Path, token: &str) -> Option<Self> {
        Self::open(dir, Self::label_of(token)?).ok()
    }

    fn open(dir: &Path, label: &str) -> io::Result<Self> {
        let paths = Self::names(label).map(|name| dir.join(name));
        let reader = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            Ok(open(path, flags, Mode::empty())?)
        };
        let readers = [reader(&paths[0])?, reader(&paths[1])?];
        Ok(Self { label: label.to_owned(), paths, readers })
    }

    /// The other ends. Each is a reader as well, so that writing fails for nobody when this process has ended: it
    /// waits on the first, and drops what is too much on the second, which nothing important waits for.
    pub(super) fn writers(&self) -> io::Result<[OwnedFd; 2]> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let out = open(&self.paths[0], flags, Mode::empty())?;
        let err = open(&self.paths[1], flags | OFlags::NONBLOCK, Mode::empty())?;
        Ok([out, err])
    }

    /// The reading ends, and what lies in the directory.
    pub(super) fn split(self) -> ([OwnedFd; 2], Files) {
        (self.readers, Files { label: self.label, paths: self.paths })
    }
}

/// The pipes as files.
pub(super) struct Files {
    /// What handles have behind number and beginning of the process.
    pub(super) label: String,
    paths: [PathBuf; 2],
}

impl Files {
    /// Removes them; what has been opened can still be read.
    pub(super) fn remove(&self) {
        for path in &self.paths {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %path.display(), "a pipe stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use super::*;

    #[test]
    fn a_pipe_goes_on_when_its_reader_has_gone_and_another_has_come() {
        let dir = tempfile::tempdir().unwrap();
        let pipes = Pipes::make(dir.path(), "site-1.fold").unwrap();
        let [out, err] = pipes.writers().unwrap();
        let (mut out, mut err) = (File::from(out), File::from(err));
        drop(pipes);
        out.write_all(b"said to nobody").unwrap();
        // Standard error never waits.
        while err.write(&[0; 4096]).is_ok() {}
        let again = Pipes::again(dir.path(), "7-9-site-1.fold").expect("they are there");
        let mut read = [0; 14];
        File::from(again.split().0.into_iter().next().unwrap()).read_exact(&mut read).unwrap();
        assert_eq!(&read, b"said to nobody");
    }

    #[test]
    fn a_label_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        for label in ["", ".", "..", "../x", "a/b", "/x"] {
            assert!(Pipes::make(dir.path(), label).is_err(), "{label:?}");
            assert_eq!(Pipes::label_of(&format!("7-9-{label}")), None, "{label:?}");
        }
        assert_eq!(Pipes::label_of("7-9"), None);
    }
}
