//! What travels about a job: what a site is to run, the files of the job, its log, and the site's table.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{End, JobId, JobState, PartProgress, RunId, SlurmRequest, Value};
use crate::{
    codec::{Octets, body::Blob},
    name::{Fqcn, Segment},
    transfer::Digest,
};

/// Files of a job.
pub const FILES_MAX: usize = 1000;
/// Bytes in the largest file of a job.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Bytes in all files of a job.
pub const FILES_BYTES_MAX: u64 = 64 << 20;
/// Bytes in the longest path of a file of a job.
const PATH_MAX: usize = 240;
/// Levels in the longest path of a file of a job.
const DEPTH_MAX: usize = 16;

/// What the place that runs a part of a job is told about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartSpec {
    /// Which run of the job, from 1.
    pub attempt: u32,
    /// The job cell that hands work to this one: at the server, or at the next relay above that has a part. For the
    /// server's own part, itself.
    pub server: Fqcn,
    /// For a part at the server or at a relay, the cells that it hands work to; for others all sites of the job.
    pub sites: Vec<Fqcn>,
    /// Values for the parameters of the program.
    pub arguments: BTreeMap<String, Value>,
    /// Variables for the program.
    pub environment: BTreeMap<String, String>,
    /// MiB of memory that the program may use at most, where the job wants less than the program's limit.
    pub memory_mib: Option<u64>,
    /// What the job asks of the scheduler that runs the program, where one does.
    pub resources: SlurmRequest,
    /// Seconds until the part must be there.
    pub start_s: u32,
    /// Seconds without any message of the program after which it is ended; 0 for never.
    pub idle_s: u32,
    /// Seconds that the program goes on while its cell is away; 0 where it ends with its cell.
    pub detach_s: u32,
    /// Names this run of the job and no other, whoever counts attempts: drawn by the server.
    pub run: RunId,
    /// The files of the job.
    pub files: Manifest,
    /// What a program of this binary is told, instead of arguments.
    pub payload: Blob,
}

/// The files of a job, in the order of their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest(pub Vec<FileEntry>);

/// One file of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Where it is, relative, with `/` between levels.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// Whether it can be executed.
    pub is_executable: bool,
    /// BLAKE3 of its content.
    pub digest: Octets<32>,
}

/// Why a list of files is none that a job can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// More than [`FILES_MAX`] files.
    #[error("{0} files, the limit is {FILES_MAX}")]
    TooMany(usize),
    /// A file of more than [`FILE_BYTES_MAX`] bytes.
    #[error("`{path}` has {len} bytes, the limit is {FILE_BYTES_MAX}")]
    FileTooLarge {
        /// The file.
        path: String,
        /// Its length.
        len: u64,
    },
    /// More than [`FILES_BYTES_MAX`] bytes together.
    #[error("the files have {0} bytes, the limit is {FILES_BYTES_MAX}")]
    TooLarge(u64),
    /// A path that leads somewhere else, or is no path.
    #[error("{0:?} is no path inside a job's directory")]
    Path(String),
    /// Two files where one would take the place of the other.
    #[error("`{0}` stands twice, or is also a directory")]
    Repeated(String),
}

/// A piece of a file of a job, on its way to a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChunk {
    /// The job.
    pub id: JobId,
    /// Which file of the manifest.
    pub index: u32,
    /// The manifest, with the first chunk of the first file and never again.
    pub manifest: Option<Manifest>,
    /// The bytes that follow those that came before.
    pub bytes: Blob,
}

/// A line that a program has printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Counts the lines of one part, from 1.
    pub number: u64,
    /// The text, made printable, without its end.
    pub text: String,
}

/// Lines of one part of a job, on their way to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBatch {
    /// The job.
    pub id: JobId,
    /// The lines.
    pub lines: Vec<LogLine>,
}

/// What a site has, told in short intervals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// One row for each part that it has.
    pub rows: Vec<TableRow>,
}

/// One part of a job at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRow {
    /// The job.
    pub id: JobId,
    /// How far it is.
    pub state: JobState,
    /// How it has ended, once it has.
    pub end: Option<End>,
    /// Whether it has a control group of its own, so that all of it can be ended and limited together.
    pub is_grouped: bool,
    /// What its program has said last about how far it is.
    pub progress: Option<PartProgress>,
}

/// What the server says about a site's table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableAnswer {
    /// These are to end.
    pub stop: Vec<JobId>,
    /// The ends of these are known and need not be told again.
    pub known: Vec<JobId>,
}

impl Manifest {
    /// Whether these are files that a job can have. A path is relative, has no `.` or `..`, no empty level, no
    /// control character and no backslash; none stands twice, and none lies below another.
    ///
    /// # Errors
    /// [`ManifestError`] for the first thing that is wrong.
    pub fn check(&self) -> Result<(), ManifestError> {
        let Self(files) = self;
        if files.len() > FILES_MAX {
            return Err(ManifestError::TooMany(files.len()));
        }
        let mut total = 0u64;
        let mut seen: BTreeSet<String> = BTreeSet::new();
        for FileEntry { path, len, .. } in files {
            if !is_inside(path) {
                return Err(ManifestError::Path(path.clone()));
            }
            if *len > FILE_BYTES_MAX {
                return Err(ManifestError::FileTooLarge { path: path.clone(), len: *len });
            }
            total = total.saturating_add(*len);
            // Some file systems take two spellings for one name.
            if !seen.insert(path.to_lowercase()) {
                return Err(ManifestError::Repeated(path.clone()));
            }
        }
        if total > FILES_BYTES_MAX {
            return Err(ManifestError::TooLarge(total));
        }
        for FileEntry { path, .. } in files {
            let mut above = path.as_str();
            while let Some((parent, _)) = above.rsplit_once('/') {
                if seen.contains(&parent.to_lowercase()) {
                    return Err(ManifestError::Repeated(parent.to_owned()));
                }
                above = parent;
            }
        }
        Ok(())
    }

    /// Bytes in all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|file| file.len).sum()
    }
}

impl FileEntry {
    /// Whether `content` is what the manifest says.
    #[must_use]
    pub fn is_of(&self, content: &[u8]) -> bool {
        content.len() as u64 == self.len && Digest::of(content).as_bytes() == &self.digest.0
    }
}

/// Whether a path stays inside the directory that it starts from.
fn is_inside(path: &str) -> bool {
    let is_level = |level: &str| {
        !level.is_empty()
            && level != "."
            && level != ".."
            && !level.ends_with(['.', ' '])
            && !level.starts_with(' ')
    };
    let is_plain = |c: char| !c.is_control() && c != '\\' && c != ':';
    path.len() <= PATH_MAX
        && path.chars().all(is_plain)
        && path.split('/').all(is_level)
        && path.split('/').count() <= DEPTH_MAX
}

impl JobId {
    /// The run of `job` after this one.
    #[must_use]
    pub fn next(job: Segment, last: u32) -> Self {
        Self { job, attempt: last.saturating_add(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(paths: &[&str]) -> Manifest {
        let entry = |path: &&str| FileEntry {
            path: (*path).to_owned(),
            len: 1,
            is_executable: false,
            digest: Octets([0; 32]),
        };
        Manifest(paths.iter().map(entry).collect())
    }

    #[test]
    fn j_04_a_path_stays_inside_and_stands_once() {
        assert_eq!(manifest(&["a", "b/c.py", "b/d/e", ".hidden"]).check(), Ok(()));
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "c:x",
            "a\0b",
            "a\n",
            "a.",
            "a ",
            " a",
            "x".repeat(241).as_str(),
            "a/".repeat(16).as_str(),
        ] {
            let refused = manifest(&[bad]).check();
            assert_eq!(refused, Err(ManifestError::Path(bad.to_owned())), "{bad:?}");
        }
        for twice in [["a", "A"], ["a", "a"], ["a/b", "a"], ["a", "a/b"]] {
            let refused = manifest(&twice).check();
            assert!(matches!(refused, Err(ManifestError::Repeated(_))), "{twice:?}: {refused:?}");
        }
    }

    #[test]
    fn j_04_sizes_are_bounded_before_anything_is_sent() {
        let of = |count: usize, len: u64| {
            let names: Vec<String> = (0..count).map(|index| format!("f{index}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut manifest = manifest(&names);
            manifest.0.iter_mut().for_each(|file| file.len = len);
            manifest.check()
        };
        assert_eq!(of(FILES_MAX, 10), Ok(()));
        assert_eq!(of(FILES_MAX + 1, 0), Err(ManifestError::TooMany(FILES_MAX + 1)));
        assert_eq!(of(4, FILE_BYTES_MAX), Ok(()));
        assert!(matches!(of(1, FILE_BYTES_MAX + 1), Err(ManifestError::FileTooLarge { .. })));
        assert!(matches!(of(5, FILE_BYTES_MAX), Err(ManifestError::TooLarge(_))));
    }

    #[test]
    fn a_file_is_known_by_its_digest() {
        let digest = Octets(*Digest::of(b"abc").as_bytes());
        let entry = FileEntry { path: "a".into(), len: 3, is_executable: false, digest };
        assert!(entry.is_of(b"abc"));
        assert!(!entry.is_of(b"abd") && !entry.is_of(b"ab"));
    }
}
