//! Jobs: what one is called, how far it is, how it ended, and every decision about that.
//!
//! A job runs in several places at once: in a job cell at the server and in one at each site. What runs in one
//! place is a [`part`](Part), the job as its server sees it a [`whole`](Whole). Both are told what happens
//! and when, and say what to do; [`reconcile`](reconcile()) holds against each other what the server wants and what a site
//! says it has. A job that is run again under its name is another attempt, and nothing that is said about
//! one attempt changes another.

mod cluster;
mod part;
mod programs;
mod progress;
mod reconcile;
mod run_id;
mod slurm;
mod spec;
mod value;
mod whole;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::{
    cluster::ClusterSpec,
    part::{Action, Exit, Input, Part, PartTimes, SchedulerEnd},
    programs::{
        ArgvPart, LauncherKind, ParameterKind, ProgramLimits, ProgramRun, ProgramSpec, Refusal,
        Resolved, ResolvedRun, is_word, resolve,
    },
    progress::PartProgress,
    reconcile::{Reconciled, Reported, Wanted, reconcile},
    run_id::{BadRunId, RunId},
    slurm::{SlurmAllowance, SlurmRefusal, SlurmRequest, SlurmSpec},
    spec::{
        FILE_BYTES_MAX, FILES_BYTES_MAX, FILES_MAX, FileChunk, FileEntry, LogBatch, LogLine,
        Manifest, ManifestError, PartSpec, Table, TableAnswer, TableRow,
    },
    value::Value,
    whole::{ReportError, Step, Whole, WholeTimes},
};
use crate::name::Segment;

/// One run of a job: its name, and which attempt under this name it is, from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId {
    /// The name; the last segment of the job's cells.
    pub job: Segment,
    /// Counts the runs under this name, from 1.
    pub attempt: u32,
}

/// How far a job, or a part of it, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// What it needs is there or on its way; nothing of it runs.
    Staged,
    /// Its process has been launched, and has not said that it is there.
    Starting,
    /// It runs.
    Running,
    /// It has been told to end.
    Stopping,
    /// It has ended; nothing of it runs.
    Ended,
}

/// How a job, or a part of it, has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did what it was for.
    Completed,
    /// It did not, or a limit of it was reached.
    Failed,
    /// Somebody ended it.
    Aborted,
    /// Nobody knows what it has done: who watched it, or what it ran on, went away.
    Lost,
}

/// The end of a job, or of a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// Why, for people; empty where there is nothing to say.
    pub detail: String,
}

/// Why a job, or a part of it, is told to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Somebody wants that.
    Abort,
    /// A limit is reached, or another part has failed: the job fails, with this for people.
    Failing(String),
    /// The job is over without it.
    NotNeeded,
    /// What it belongs to has gone away, with this for people.
    Forsaken(String),
    /// The cell that runs it may no longer take part, with this for people. It is not waited for.
    TurnedOut(String),
}

impl End {
    /// The longest text about an end, in bytes.
    pub const DETAIL_MAX: usize = 1024;

    /// An end with a text for people, which is cut where it is too long.
    #[must_use]
    pub fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if detail.len() > Self::DETAIL_MAX {
            detail.truncate(detail.floor_char_boundary(Self::DETAIL_MAX));
        }
        Self { outcome, detail }
    }

    /// An end with nothing to say about it.
    #[must_use]
    pub fn completed() -> Self {
        Self { outcome: Outcome::Completed, detail: String::new() }
    }
}

impl Why {
    /// The end of what is told to end for this reason.
    #[must_use]
    pub fn end(&self) -> End {
        match self {
            Self::Abort => End::new(Outcome::Aborted, "somebody ended it"),
            Self::Failing(detail) => End::new(Outcome::Failed, detail.clone()),
            Self::NotNeeded => End::new(Outcome::Aborted, "the job was over without it"),
            Self::Forsaken(detail) => End::new(Outcome::Lost, detail.clone()),
            Self::TurnedOut(detail) => End::new(Outcome::Aborted, detail.clone()),
        }
    }
}

impl JobState {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }
}

impl Outcome {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.job, self.attempt)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.detail {
            "" => write!(f, "{}", self.outcome),
            detail => write!(f, "{}: {detail}", self.outcome),
        }
    }
}
