//! The directory that a cell shares with the nodes of its cluster: one private directory in it for each job.
//!
//! | file in it | content | written by |
//! |---|---|---|
//! | `work` | what to run, no secret | the cell, mode 0600 |
//! | `bootstrap` | the secret, removed before the program runs | the cell, mode 0600 |
//! | `out.N`, `err.N` | what the program printed from byte N on | the step |
//! | `step.log` | what Slurm and the step have to say | Slurm |
//! | `result` | how the program ended | the step |
//!
//! A program of a job can run as the user of the cell, and can put anything here. So the cell opens what it
//! reads without following links, takes regular files of its own user with one name only, and reads no more than it
//! has room for.

mod segments;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use cellbus_launch::{Exit, Printed, ProgramLimits, Stream};
use cellbus_runtime::secret_file::{
    SecretFileError, create_private_dir, read_secret_file, write_secret_file,
};
use rustix::{
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, fstat, open, openat},
    process::geteuid,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::segments::Segments;
use crate::{SlurmError, submit::usable};

/// Form of the files.
const VERSION: u32 = 1;
const WORK: &str = "work";
const BOOTSTRAP: &str = "bootstrap";
const RESULT: &str = "result";
/// Bytes in the largest of them.
const WORK_MAX: usize = 1 << 20;
const BOOTSTRAP_MAX: usize = 8 << 20;
const RESULT_MAX: usize = 256;

/// Names the directory of a job, and marks the job in Slurm: 32 hexadecimal digits. It is no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(String);

/// The shared directory.
#[derive(Debug)]
pub struct Spool {
    path: String,
    dir: OwnedFd,
}

/// What a step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Work {
    version: u32,
    /// What Slurm calls the job.
    pub name: String,
    pub argv: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub dir: String,
    pub cpu_s: Option<u64>,
    pub memory_mib: Option<u64>,
    pub open_files: Option<u64>,
    pub processes: Option<u64>,
    pub file_mib: Option<u64>,
}

/// How a program ended, as its step writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Told {
    Code(u8),
    Signal(u8),
    Unknown,
}

impl Mark {
    /// One that nobody has.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_mark = text.len() == 32 && text.bytes().all(is_digit);
        is_mark.then(|| Self(text.to_owned())).ok_or(())
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Work {
    pub(crate) fn new(
        name: String,
        argv: Vec<String>,
        environment: BTreeMap<String, String>,
        dir: String,
        limits: ProgramLimits,
    ) -> Self {
        // A step has no control groups of its own making: Slurm has.
        let ProgramLimits { cpu_s, memory_mib, open_files, processes, file_mib, cpus: _ } = limits;
        let version = VERSION;
        Self {
            version,
            name,
            argv,
            environment,
            dir,
            cpu_s,
            memory_mib,
            open_files,
            processes,
            file_mib,
        }
    }

    pub(crate) fn limits(&self) -> ProgramLimits {
        ProgramLimits {
            cpu_s: self.cpu_s,
            memory_mib: self.memory_mib,
            open_files: self.open_files,
            processes: self.processes,
            file_mib: self.file_mib,
            cpus: None,
        }
    }
}

impl Spool {
    /// The shared directory at `path`, which is made where it is not there; private to this user.
    ///
    /// # Errors
    /// When it is not private, or its path cannot stand in a script.
    pub fn open(path: &Path) -> Result<Self, SlurmError> {
        let text = usable("the shared directory", path)?.trim_end_matches('/').to_owned();
        create_private_dir(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = open(path, flags, Mode::empty()).map_err(io::Error::from)?;
        Ok(Self { path: text, dir })
    }

    /// The path of a job's directory.
    #[must_use]
    pub fn path_of(&self, mark: &Mark) -> String {
        format!("{}/{mark}", self.path)
    }

    /// Makes the directory of a job, with its secret. When it cannot be made, nothing is left of it.
    pub(crate) fn make(
        &self,
        mark: &Mark,
        work: &Work,
        bootstrap: &[u8],
    ) -> Result<(), SlurmError> {
        let dir = PathBuf::from(self.path_of(mark));
        let write = || -> Result<(), SlurmError> {
            create_private_dir(&dir)?;
            let work = serde_json::to_vec(work).map_err(io::Error::other)?;
            write_secret_file(&dir.join(WORK), &work)?;
            Ok(write_secret_file(&dir.join(BOOTSTRAP), bootstrap)?)
        };
        write().inspect_err(|_| self.remove(mark))
    }

    /// Whether a job has a directory.
    pub(crate) fn holds(&self, mark: &Mark) -> bool {
        self.job_dir(mark).is_ok()
    }

    /// The jobs that have a directory.
    pub(crate) fn marks(&self) -> io::Result<Vec<Mark>> {
        let entries = std::fs::read_dir(&self.path)?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes the directory of a job with all that is in it. Follows no link.
    pub(crate) fn remove(&self, mark: &Mark) {
        match std::fs::remove_dir_all(self.path_of(mark)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%mark, %error, "the directory of a job is not removed"),
        }
    }

    /// What Slurm calls the job; empty where that cannot be read any more.
    pub(crate) fn name_of(&self, mark: &Mark) -> String {
        let work = self.read(mark, WORK, WORK_MAX).ok().flatten();
        let work = work.and_then(|work| serde_json::from_slice::<Work>(&work).ok());
        work.map(|work| work.name).unwrap_or_default()
    }

    /// How the program ended, if its step has written that. A file that says anything else says nothing.
    pub(crate) fn result(&self, mark: &Mark) -> Option<Exit> {
        let bytes = self.read(mark, RESULT, RESULT_MAX).ok().flatten()?;
        match serde_json::from_slice(&bytes).ok()? {
            Told::Code(code) => Some(Exit::Code(code.into())),
            Told::Signal(signal) => (1..=64).contains(&signal).then(|| Exit::Signal(signal.into())),
            Told::Unknown => Some(Exit::Unknown),
        }
    }

    /// What the program has printed on `stream` from byte `from` on; no bytes where there is nothing yet.
    /// `is_over` says that nothing more is written.
    pub(crate) fn printed(
        &self,
        mark: &Mark,
        stream: Stream,
        from: u64,
        is_over: bool,
    ) -> io::Result<Printed> {
        let dir = self.job_dir(mark)?;
        segments::read(&dir, stream, from, is_over)
    }

    fn job_dir(&self, mark: &Mark) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.dir, mark.0.as_str(), flags, Mode::empty())?)
    }

    fn read(&self, mark: &Mark, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = regular(&self.job_dir(mark)?, name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        Ok((bytes.len() <= most).then_some(bytes))
    }
}

/// Opens a regular file of this user that has one name; `None` where there is none.
fn regular(dir: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&file)?;
    let is_plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_plain && stat.st_nlink == 1 && stat.st_uid == geteuid().as_raw() {
        return Ok(Some(file.into()));
    }
    Err(io::Error::other(format!("`{name}` in the directory of a job is none of its files")))
}

/// What a step runs, from the directory of its job.
pub(crate) fn take_work(dir: &Path) -> Result<Work, SlurmError> {
    let bytes = read_secret_file(&dir.join(WORK), WORK_MAX)?;
    let work: Work = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    if work.version == VERSION {
        return Ok(work);
    }
    Err(SlurmError::Unusable { what: "the order".to_owned(), why: "it is of another version" })
}

/// The secret, of which nothing is left in the directory on return.
pub(crate) fn take_bootstrap(dir: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, SlurmError> {
    let path = dir.join(BOOTSTRAP);
    let bytes = read_secret_file(&path, BOOTSTRAP_MAX)?;
    std::fs::remove_file(&path)?;
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(bytes),
        _ => Err(io::Error::other("the secret is still there after it was removed").into()),
    }
}

/// Says how the program ended.
pub(crate) fn tell(dir: &Path, exit: Exit) -> Result<(), SecretFileError> {
    let told = match exit {
        Exit::Code(code) => u8::try_from(code).map_or(Told::Unknown, Told::Code),
        Exit::Signal(signal) => u8::try_from(signal).map_or(Told::Unknown, Told::Signal),
        Exit::Scheduler(_) | Exit::Unknown => Told::Unknown,
    };
    let bytes = serde_json::to_vec(&told).expect("an enum of numbers can be written");
    write_secret_file(&dir.join(RESULT), &bytes)
}

#[cfg(test)]
mod tests;
