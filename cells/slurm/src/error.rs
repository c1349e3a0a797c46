//! Why nothing is known from Slurm, or nothing was done by it.

use std::{io, time::Duration};

use cellbus_proto::job::SlurmRefusal;
use cellbus_runtime::secret_file::SecretFileError;

/// Why Slurm does not say or do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlurmError {
    /// A command cannot be run.
    #[error("cannot run {command}: are Slurm's commands installed there?")]
    Command {
        /// The command.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command took too long.
    #[error("{command} has not answered within {patience:?}; does slurmctld run?")]
    Slow {
        /// The command.
        command: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// A command says that it could not do it.
    #[error("{command}: {said}")]
    Refused {
        /// The command.
        command: &'static str,
        /// What it said, made printable and shortened.
        said: String,
    },
    /// A command printed something that it never prints.
    #[error("the answer of {command} is not understood: {problem}")]
    Answer {
        /// The command.
        command: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A state of a job that this program does not know.
    #[error("Slurm says that a job is {0:?}, which is no state that is known here")]
    State(String),
    /// Slurm could not be asked a moment ago, and is asked again later.
    #[error("Slurm is not asked again before {wait:?} are over: {said}")]
    Resting {
        /// Until then.
        wait: Duration,
        /// Why it could not be asked.
        said: String,
    },
    /// Something is asked of Slurm that must not be.
    #[error(transparent)]
    Request(#[from] SlurmRefusal),
    /// A path or a text that cannot stand in a batch script or in a file of this launcher.
    #[error("{what} cannot be used with Slurm: {why}")]
    Unusable {
        /// What.
        what: String,
        /// Why.
        why: &'static str,
    },
    /// The shared directory is not as it must be.
    #[error("shared directory")]
    Spool(#[from] SecretFileError),
    /// The system refuses something in the shared directory.
    #[error("shared directory")]
    Io(#[from] io::Error),
}

impl From<SlurmError> for io::Error {
    fn from(error: SlurmError) -> Self {
        if let SlurmError::Io(error) = error {
            return error;
        }
        let is_slow = matches!(error, SlurmError::Slow { .. });
        let kind = if is_slow { io::ErrorKind::TimedOut } else { io::ErrorKind::Other };
        Self::new(kind, error)
    }
}
