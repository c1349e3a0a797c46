//! The states of a Slurm job, every one of them, and what each means for what was launched.

use std::str::FromStr;

use cellbus_launch::{Exit, Progress, SchedulerEnd};

use crate::SlurmError;

macro_rules! states {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// A state of a job, as Slurm's commands write it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum SlurmState {
            $($(#[doc = $doc])+ $name,)+
        }

        impl SlurmState {
            /// Every state.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Slurm's word for it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

states! {
    /// Ended: its machine did not start.
    BootFail = "BOOT_FAIL",
    /// Ended: somebody cancelled it.
    Cancelled = "CANCELLED",
    /// Ended: by itself, with success.
    Completed = "COMPLETED",
    /// It has its machines, which are being made ready.
    Configuring = "CONFIGURING",
    /// It is over; something of it may still be there.
    Completing = "COMPLETING",
    /// Ended: it could not be done before its deadline.
    Deadline = "DEADLINE",
    /// Ended: by itself, without success, or by a signal.
    Failed = "FAILED",
    /// Ended: it could not be started.
    LaunchFailed = "LAUNCH_FAILED",
    /// Ended: a machine failed.
    NodeFail = "NODE_FAIL",
    /// Ended: it used more memory than it was given.
    OutOfMemory = "OUT_OF_MEMORY",
    /// It waits for a place.
    Pending = "PENDING",
    /// Its machine is being switched on.
    PowerUpNode = "POWER_UP_NODE",
    /// Ended: its place was given to another job.
    Preempted = "PREEMPTED",
    /// Ended: its machine could not be made ready.
    ReconfigFail = "RECONFIG_FAIL",
    /// It waits again after its reservation was removed.
    ReservationDeleted = "RESV_DEL_HOLD",
    /// It waits again, in a federation of clusters.
    RequeuedFederation = "REQUEUE_FED",
    /// It waits again, and is held.
    RequeuedHeld = "REQUEUE_HOLD",
    /// It waits again.
    Requeued = "REQUEUED",
    /// Its size is being changed.
    Resizing = "RESIZING",
    /// Ended: another cluster has taken it.
    Revoked = "REVOKED",
    /// It runs.
    Running = "RUNNING",
    /// It is being sent a signal.
    Signaling = "SIGNALING",
    /// It waits again, and is held, after a special exit.
    SpecialExit = "SPECIAL_EXIT",
    /// Its files are being carried away.
    StageOut = "STAGE_OUT",
    /// It stands still, and keeps its place.
    Stopped = "STOPPED",
    /// It stands still, and has given up its place.
    Suspended = "SUSPENDED",
    /// Ended: its time limit was reached.
    Timeout = "TIMEOUT",
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing of it runs yet.
    Waiting,
    /// Something of it runs.
    Running,
    /// It is over, but something of it may still be there.
    Completing,
    /// Nothing of it is left.
    Ended,
}

/// What Slurm says about the end of a batch script: its exit code and the signal that ended it, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub code: i32,
    pub signal: i32,
}

impl FromStr for SlurmState {
    type Err = SlurmError;

    fn from_str(word: &str) -> Result<Self, SlurmError> {
        let known = Self::ALL.iter().copied().find(|state| state.as_str() == word);
        known.ok_or_else(|| SlurmError::State(word.chars().take(40).collect()))
    }
}

impl SlurmState {
    pub(crate) fn stage(self) -> Stage {
        match self {
            Self::Pending
            | Self::Configuring
            | Self::PowerUpNode
            | Self::ReservationDeleted
            | Self::RequeuedFederation
            | Self::RequeuedHeld
            | Self::Requeued
            | Self::SpecialExit => Stage::Waiting,
            Self::Resizing | Self::Running | Self::Signaling | Self::Stopped | Self::Suspended => {
                Stage::Running
            }
            Self::Completing | Self::StageOut => Stage::Completing,
            Self::BootFail
            | Self::Cancelled
            | Self::Completed
            | Self::Deadline
            | Self::Failed
            | Self::LaunchFailed
            | Self::NodeFail
            | Self::OutOfMemory
            | Self::Preempted
            | Self::ReconfigFail
            | Self::Revoked
            | Self::Timeout => Stage::Ended,
        }
    }

    /// How far what was launched is. `told` is what its step wrote about its end, if that can be read.
    pub(crate) fn progress(self, status: Status, told: Option<Exit>) -> Progress {
        match self.stage() {
            Stage::Waiting => Progress::Waiting,
            Stage::Running | Stage::Completing => Progress::Running,
            Stage::Ended => Progress::Ended(self.exit(status, told)),
        }
    }

    /// How a job ended that is in this state. What Slurm did to it, only Slurm can say; what the program did, its
    /// exit code says, and where the job was cancelled meanwhile, its step.
    fn exit(self, status: Status, told: Option<Exit>) -> Exit {
        match self {
            Self::Completed => Exit::Code(0),
            Self::Failed => match status {
                Status { signal: 0, code: 0 } => told.unwrap_or(Exit::Unknown),
                // A step cannot end by the signal that ended its program; it has the shell's code for it.
                Status { signal: 0, code } => match told {
                    Some(Exit::Signal(signal)) if code == 128 + signal => Exit::Signal(signal),
                    _ => Exit::Code(code),
                },
                Status { signal, .. } => Exit::Signal(signal),
            },
            Self::Cancelled | Self::Revoked => {
                told.unwrap_or(Exit::Scheduler(SchedulerEnd::Cancelled))
            }
            Self::Timeout | Self::Deadline => Exit::Scheduler(SchedulerEnd::Time),
            Self::OutOfMemory => Exit::Scheduler(SchedulerEnd::Memory),
            Self::Preempted => Exit::Scheduler(SchedulerEnd::Preempted),
            Self::BootFail | Self::NodeFail | Self::LaunchFailed | Self::ReconfigFail => {
                Exit::Scheduler(SchedulerEnd::Machine)
            }
            Self::Configuring
            | Self::Completing
            | Self::Pending
            | Self::PowerUpNode
            | Self::ReservationDeleted
            | Self::RequeuedFederation
            | Self::RequeuedHeld
            | Self::Requeued
            | Self::Resizing
            | Self::Running
            | Self::Signaling
            | Self::SpecialExit
            | Self::StageOut
            | Self::Stopped
            | Self::Suspended => Exit::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_the_manual_is_known() {
        // `man squeue`, JOB STATE CODES, of Slurm 22.05.
        let manual = "BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY \
                      PENDING PREEMPTED RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED \
                      SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED TIMEOUT";
        for word in manual.split_whitespace() {
            let state: SlurmState = word.parse().unwrap();
            assert_eq!(state.as_str(), word);
        }
    }

    #[test]
    fn a_state_that_is_not_known_is_said_and_not_guessed() {
        for word in ["", "DONE", "completed", "COMPLETED+", " RUNNING", &"X".repeat(1000)] {
            let error = word.parse::<SlurmState>().unwrap_err();
            assert!(matches!(&error, SlurmError::State(said) if said.len() <= 40), "{error}");
        }
    }

    #[test]
    fn j_26_the_end_of_a_job_is_one_of_few() {
        let ended = |state: SlurmState, code, signal, told| {
            let progress = state.progress(Status { code, signal }, told);
            let Progress::Ended(exit) = progress else { panic!("{progress:?}") };
            exit
        };
        assert_eq!(ended(SlurmState::Completed, 0, 0, None), Exit::Code(0));
        assert_eq!(ended(SlurmState::Failed, 3, 0, None), Exit::Code(3));
        assert_eq!(ended(SlurmState::Failed, 0, 9, None), Exit::Signal(9));
        assert_eq!(ended(SlurmState::Failed, 0, 0, None), Exit::Unknown);
        assert_eq!(ended(SlurmState::Failed, 143, 0, Some(Exit::Signal(15))), Exit::Signal(15));
        assert_eq!(ended(SlurmState::Failed, 143, 0, Some(Exit::Signal(9))), Exit::Code(143));
        // A job does not talk itself out of what Slurm saw.
        assert_eq!(ended(SlurmState::Failed, 3, 0, Some(Exit::Code(0))), Exit::Code(3));
        let time = Exit::Scheduler(SchedulerEnd::Time);
        assert_eq!(ended(SlurmState::Timeout, 0, 15, Some(Exit::Code(0))), time);
        let memory = Exit::Scheduler(SchedulerEnd::Memory);
        assert_eq!(ended(SlurmState::OutOfMemory, 0, 125, None), memory);
        assert_eq!(ended(SlurmState::Cancelled, 0, 15, Some(Exit::Code(0))), Exit::Code(0));
        let cancelled = Exit::Scheduler(SchedulerEnd::Cancelled);
        assert_eq!(ended(SlurmState::Cancelled, 0, 15, None), cancelled);
        let machine = Exit::Scheduler(SchedulerEnd::Machine);
        assert_eq!(ended(SlurmState::NodeFail, 0, 0, None), machine);
    }

    #[test]
    fn a_job_that_is_completing_has_not_ended() {
        for state in [SlurmState::Completing, SlurmState::StageOut, SlurmState::Suspended] {
            assert_eq!(state.progress(Status::default(), None), Progress::Running);
        }
        for state in [SlurmState::Configuring, SlurmState::RequeuedHeld, SlurmState::Pending] {
            assert_eq!(state.progress(Status::default(), None), Progress::Waiting);
        }
    }
}
