//! Launchers: how what a job runs becomes a process somewhere, is watched, and is gone afterwards.
//!
//! A [`Launcher`] has five verbs and knows nothing about cells. Whoever launches holds a [`Handle`], which can be
//! written down and used by a later life of the same cell. [`ProcessLauncher`] starts processes of this machine;
//! [`shim`] is what runs between its fork and the program.
#![warn(missing_docs)]

pub mod group;
pub mod process;
pub mod shim;

use std::{ffi::OsString, fmt, future::Future, path::PathBuf, pin::Pin, time::Duration};

pub use cellbus_proto::job::{Exit, ProgramLimits, SchedulerEnd, SlurmRequest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::{group::ControlGroup, process::ProcessLauncher};

/// Variables by which a scheduler says what a program was given. None of them carries a secret.
pub const FROM_SCHEDULER: [&str; 14] = [
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "SLURM_CLUSTER_NAME",
    "SLURM_CPUS_ON_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_GPUS_ON_NODE",
    "SLURM_JOB_GPUS",
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_PARTITION",
    "SLURM_MEM_PER_NODE",
    "SLURMD_NODENAME",
];

/// A future of a launcher.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts programs, and answers for what it has started until it is gone.
///
/// Every verb may be called again with the same handle: what has been done is not done twice.
pub trait Launcher: Send + Sync {
    /// The word for this launcher in handles and configuration.
    fn name(&self) -> &'static str;

    /// Starts what `order` says.
    fn launch(&self, order: Order) -> BoxFuture<'_, Result<Handle, LaunchError>>;

    /// How far it is; waits for a change, at most for `wait`. Its exit is known before anything of it is
    /// cleared away, and stays known until [`reap`](Self::reap).
    fn poll<'a>(
        &'a self,
        handle: &'a Handle,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Progress, HandleError>>;

    /// Asks it to end, or ends it, with all that it has started. What is gone already is no error.
    fn signal<'a>(
        &'a self,
        handle: &'a Handle,
        signal: Signal,
    ) -> BoxFuture<'a, Result<(), HandleError>>;

    /// What it has printed on `stream` from byte `from` on; waits until there is something, or its end.
    fn logs<'a>(
        &'a self,
        handle: &'a Handle,
        stream: Stream,
        from: u64,
    ) -> BoxFuture<'a, Result<Printed, HandleError>>;

    /// Ends whatever of it is still there, waits until it is gone, forgets it, and gives its exit.
    fn reap<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<Exit, HandleError>>;
}

/// What is to be started.
#[derive(Debug)]
pub struct Order {
    /// A word for people and for the scheduler's lists, such as `site-1.fold`.
    pub label: String,
    /// The program and its arguments; at least one. No secret stands here.
    pub argv: Vec<OsString>,
    /// Its whole environment. No secret stands here.
    pub environment: Vec<(OsString, OsString)>,
    /// The directory that it starts in; it is there.
    pub dir: PathBuf,
    /// What it reads once from its standard input, or where a descriptor cannot be inherited from a file of mode
    /// 0600 that is removed before the program runs. Secret.
    pub bootstrap: Zeroizing<Vec<u8>>,
    /// Where what it prints goes.
    pub output: Output,
    /// What it may use.
    pub limits: ProgramLimits,
    /// Whether it outlives whoever launched it.
    pub lifetime: Lifetime,
    /// The control group that it runs in, for the launcher of processes; `None` for that of the launcher.
    pub group: Option<ControlGroup>,
    /// What is asked of a scheduler; the launcher of processes has none.
    pub resources: SlurmRequest,
}

/// Where what a program prints goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Each stream into a bounded log of its own, for [`Launcher::logs`].
    Kept,
    /// To the streams of whoever launched it.
    Passed,
    /// Both to the standard output of whoever launched it.
    Merged,
}

/// Whether a program outlives whoever launched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It is told to end when whoever launched it dies.
    Bound,
    /// It goes on.
    Detached,
}

/// One of the two streams that a program prints on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a program can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// To end; all processes of its group are told.
    Terminate,
    /// It ends now, with all that it has started.
    Kill,
}

/// How far something that was launched is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for a place to run.
    Waiting,
    /// It runs.
    Running,
    /// It has ended; of what it has started, something may still be there.
    Ended(Exit),
    /// Whoever runs it cannot be asked at the moment. It is not known to have ended.
    Unknown,
}

/// What a program has printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Where they begin: later than what was asked for, if some were dropped.
    pub from: u64,
    /// Whether nothing will ever follow.
    pub is_end: bool,
}

/// Names something that was launched. It says nothing to anybody but the launcher that made it, and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handle {
    /// [`Launcher::name`] of the launcher.
    pub launcher: String,
    /// What it calls it.
    pub token: String,
}

/// Why nothing was launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The order has no program.
    #[error("no program")]
    NoProgram,
    /// The system refuses.
    #[error("cannot launch {program}")]
    System {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why a handle is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// It is none of this launcher, or what it names has been reaped.
    #[error("nothing is known under `{0}`")]
    Unknown(String),
    /// What it names cannot be ended.
    #[error("`{0}` is still there although it was killed")]
    StillThere(String),
    /// The system refuses.
    #[error("`{handle}`")]
    System {
        /// The handle.
        handle: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.launcher, self.token)
    }
}
