//! What a job can run. A job names a program; only what stands here has a name.

use std::time::Duration;

use cellbus_channels::{HandleError, RequestError};
use cellbus_proto::name::Segment;
use cellbus_runtime::{host::RunningCell, local_socket::BindError, secret_file::SecretFileError};

use crate::job::JobBootstrap;

pub mod learn;
mod trainer_process;

/// A program of this binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Averages what the sites of a federated training compute. Runs at the server, in the job cell.
    LearnServer,
    /// Computes gradients at a site, as a process of its own behind the local socket.
    LearnTrainer,
}

/// Why a program failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// Its parameters are not what it expects.
    #[error("parameters: {0}")]
    Parameters(String),
    /// It cannot answer on the bus.
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Its local socket cannot be made.
    #[error("local socket")]
    Socket(#[from] BindError),
    /// Its directory cannot be made.
    #[error(transparent)]
    Directory(#[from] SecretFileError),
    /// Its process cannot be started.
    #[error("process")]
    Process(#[from] std::io::Error),
    /// Its process ended without success.
    #[error("the program's process ended: {0}")]
    Ended(String),
    /// Nobody asked it to do anything for this long.
    #[error("nothing happened for {0:?}")]
    Idle(Duration),
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 2] = [Self::LearnServer, Self::LearnTrainer];

    /// The name that a job uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LearnServer => "learn-server",
            Self::LearnTrainer => "learn-trainer",
        }
    }

    /// The program with this name, compared as bytes.
    #[must_use]
    pub fn find(name: &Segment) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name.as_str())
    }

    /// Runs it in the job cell `cell` until it is done.
    pub(crate) async fn run(
        self,
        cell: &RunningCell,
        bootstrap: &JobBootstrap,
    ) -> Result<(), ProgramError> {
        match self {
            Self::LearnServer => learn::serve(&cell.bus(), &bootstrap.parameters.0).await,
            Self::LearnTrainer => trainer_process::run(cell, bootstrap).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s0_02_a_name_that_only_looks_like_a_program_is_none() {
        for program in Program::ALL {
            assert_eq!(Program::find(&program.name().parse().unwrap()), Some(program));
        }
        for text in ["learn", "learn-serve", "learn-serverx", "sh", "eval", "learn_server"] {
            assert_eq!(Program::find(&text.parse().unwrap()), None, "{text}");
        }
    }
}
