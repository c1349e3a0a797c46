//! What people ask the server about jobs.

use std::path::PathBuf;

use cellbus_proto::name::{Fqcn, Segment};
use serde::{Deserialize, Serialize};

/// A job to run. The cell reads its files itself: this socket is of one machine and one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRunAsk {
    /// The directory with its `job.toml`, as an absolute path.
    pub dir: String,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobAsk {
    /// Its name.
    pub job: Segment,
}

/// What a job has printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobLogsAsk {
    /// Its name.
    pub job: Segment,
    /// Whether to go on until it ends.
    pub follow: bool,
}

/// Asks for a way in for one process that the cell has not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobAttachAsk {
    /// The job.
    pub job: Segment,
    /// Seconds that the way in is open, from 1 to [`JobAttachAsk::MAX_S`].
    pub lifetime_s: u32,
}

impl JobAttachAsk {
    /// The longest time that a way in is open, in seconds.
    pub const MAX_S: u32 = 86_400;
}

/// The way into a part of a job, for one process of this machine and user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobMeeting {
    /// The job cell that waits.
    pub cell: Fqcn,
    /// The rendezvous file. Whoever reads it first removes it, and is let in once.
    pub file: PathBuf,
    /// The directory with the files of the job.
    pub work_dir: PathBuf,
    /// Seconds for which it is good.
    pub lifetime_s: u32,
}
