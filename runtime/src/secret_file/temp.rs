//! The file that a secret is written to before it takes its place; gone again unless it does.

use std::{ffi::OsStr, fs::File, io::Write};

use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::retry_on_intr,
};

use super::{
    SecretFileError,
    place::{self, Place, mode_of},
};

const PREFIX: &str = ".cellbus-";
const SUFFIX: &str = ".tmp";
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);

/// Whether a file of this name was made here.
pub(super) fn is_temp_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
}

/// A new file of mode 0600 beside the place that it will take.
pub(super) struct Temp<'place> {
    place: &'place Place,
    name: String,
    file: File,
    renamed: bool,
}

impl<'place> Temp<'place> {
    /// Creates it, empty, and proves that it is ours alone before anything is put in.
    pub(super) fn create(place: &'place Place) -> Result<Self, SecretFileError> {
        let path = &place.path;
        let random = getrandom::u64().map_err(SecretFileError::io("name a new file for", path))?;
        let name = format!("{PREFIX}{random:016x}{SUFFIX}");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&place.dir, &name, flags, OWNER_ONLY)
            .map_err(SecretFileError::io("create a new file for", path))?;
        let temp = Self { place, name, file: file.into(), renamed: false };
        // The umask may have taken our own bits away, and some file systems invent modes of their own.
        fs::fchmod(&temp.file, OWNER_ONLY)
            .map_err(SecretFileError::io("set the mode of a new file for", path))?;
        let stat = fs::fstat(&temp.file).map_err(SecretFileError::io("examine", path))?;
        place::check_regular(path, &stat)?;
        place::check_ours(path, &stat)?;
        let mode = mode_of(&stat);
        if mode != OWNER_ONLY {
            return Err(SecretFileError::Mode {
                path: path.clone(),
                mode: mode.as_raw_mode(),
                others: "use the secret on this file system",
                remedy: "600",
            });
        }
        Ok(temp)
    }

    /// Writes the content and makes it durable.
    pub(super) fn fill(mut self, content: &[u8]) -> Result<Self, SecretFileError> {
        let path = &self.place.path;
        self.file.write_all(content).map_err(SecretFileError::io("write", path))?;
        retry_on_intr(|| fs::fsync(&self.file)).map_err(SecretFileError::io("flush", path))?;
        Ok(self)
    }

    /// Gives it the final name, in one step.
    pub(super) fn rename_into_place(mut self) -> Result<(), SecretFileError> {
        let Place { dir, name, path } = self.place;
        fs::renameat(dir, &self.name, dir, name).map_err(SecretFileError::io("replace", path))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // The error that brought us here is the one to report; a leftover is swept at the next start.
            let _ = fs::unlinkat(&self.place.dir, &self.name, AtFlags::empty());
        }
    }
}
