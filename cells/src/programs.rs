//! What a job cell runs: a program of this binary, of which only what stands here has a name, or one of the machine.
//!
//! Which of them a job may ask for, the topology says; see `proto::job::resolve`.

use std::{collections::BTreeMap, time::Duration};

use cellbus_channels::{HandleError, RequestError, task::TaskError};
use cellbus_launch::{HandleError as LaunchHandleError, LaunchError, Output};
use cellbus_proto::name::Segment;
use cellbus_runtime::{
    host::RunningCell,
    local_socket::{BindError, Ended},
    secret_file::SecretFileError,
};

use self::process::Command;
use crate::job::{JobBootstrap, Work};

pub(crate) mod attached;
pub mod combine;
pub mod learn;
mod process;
pub(crate) mod progress;
mod topics;

/// Channel on which a program asks its own job cell.
pub const JOB_CHANNEL: &str = "job";
/// Topic of the job's parameters: what the job gives the program, as JSON.
pub const PARAMETERS: &str = "parameters";
/// Topic of what a program that was launched finds in its environment, as JSON.
pub const SURROUNDINGS: &str = "surroundings";
/// Topic on which a program says how far it is, as JSON, and on which its job cell tells that to its parent.
pub const PROGRESS: &str = "progress";
/// Topic on which the cell that launched a job cell asks it to let a process in.
pub(crate) const ATTACH: &str = "attach";

/// A program of this binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Averages what the sites of a federated training compute. Runs at the server, in the job cell.
    LearnServer,
    /// Computes gradients at a site, as a process of its own behind the local socket.
    LearnTrainer,
    /// Hands tasks on to those below a relay and passes one mean of their results on, as a process of its own behind
    /// the local socket.
    Combine,
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
    /// There is no task, or no verdict on a result.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The cell above does not take the mean.
    #[error("the mean was refused: {0}")]
    Refused(String),
    /// Its local socket cannot be made.
    #[error("local socket")]
    Socket(#[from] BindError),
    /// Its directory cannot be made.
    #[error(transparent)]
    Directory(#[from] SecretFileError),
    /// Its process cannot be started.
    #[error("process")]
    Process(#[from] std::io::Error),
    /// Its process cannot be launched.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its process cannot be watched.
    #[error(transparent)]
    Watch(#[from] LaunchHandleError),
    /// There is no such program in this binary.
    #[error("this binary has no program `{0}`")]
    NoProgram(Segment),
    /// Somebody ended it before it was done.
    #[error("ended before it was done")]
    Stopped,
    /// Its process ended without success.
    #[error("the program's process ended: {0:?}")]
    Ended(cellbus_launch::Exit),
    /// The process that was attached went away without saying goodbye, or broke the protocol.
    #[error("the attached process is gone: {0:?}")]
    Left(Ended),
    /// The cell that launched this one was away for longer than its program goes on without it.
    #[error("the parent was away for {0:?}")]
    Forsaken(Duration),
    /// No message came or went for this long.
    #[error("nothing happened for {0:?}")]
    Idle(Duration),
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 3] = [Self::LearnServer, Self::LearnTrainer, Self::Combine];

    /// The name that a job uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LearnServer => "learn-server",
            Self::LearnTrainer => "learn-trainer",
            Self::Combine => "combine",
        }
    }

    /// The program with this name, compared as bytes.
    #[must_use]
    pub fn find(name: &Segment) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name.as_str())
    }
}

/// Runs what the job cell `cell` was born for until it is done, or `stop` comes.
pub(crate) async fn run(
    cell: &RunningCell,
    bootstrap: &JobBootstrap,
    stop: impl Future<Output = ()>,
) -> Result<(), ProgramError> {
    match &bootstrap.work {
        Work::Builtin { program, payload } => {
            let found = Program::find(program);
            match found.ok_or_else(|| ProgramError::NoProgram(program.clone()))? {
                Program::LearnServer => {
                    let bus = cell.bus();
                    tokio::select! {
                        biased;
                        () = stop => Err(ProgramError::Stopped),
                        outcome = learn::serve(&bus, &payload.0) => outcome,
                    }
                }
                Program::LearnTrainer => {
                    let parameters = bytes::Bytes::copy_from_slice(&payload.0);
                    let trainer = Command::of_this_binary(process::VERB, parameters)?;
                    process::run(cell, bootstrap, trainer, stop).await
                }
                Program::Combine => {
                    let parameters = bytes::Bytes::copy_from_slice(&payload.0);
                    let combiner = Command::of_this_binary(combine::VERB, parameters)?;
                    process::run(cell, bootstrap, combiner, stop).await
                }
            }
        }
        Work::Attached { arguments } => {
            topics::serve(cell, bootstrap, object(arguments)).await?;
            attached::run(cell, bootstrap, stop).await
        }
        Work::Program { argv, environment, limits, arguments } => {
            let pairs = environment.iter().map(|(name, value)| (name.into(), value.into()));
            let command = Command {
                argv: argv.iter().map(Into::into).collect(),
                environment: pairs.collect(),
                limits: (*limits).into(),
                output: Output::Merged,
                parameters: object(arguments),
            };
            process::run(cell, bootstrap, command, stop).await
        }
    }
}

/// The arguments of a job as a JSON object.
pub(crate) fn object(arguments: &BTreeMap<String, cellbus_proto::job::Value>) -> bytes::Bytes {
    let pairs = arguments.iter().map(|(name, value)| (name.clone(), plain(value)));
    serde_json::Value::Object(pairs.collect()).to_string().into()
}

fn plain(value: &cellbus_proto::job::Value) -> serde_json::Value {
    use cellbus_proto::job::Value;
    match value {
        Value::Integer(value) => (*value).into(),
        Value::Number(value) => (*value).into(),
        Value::Boolean(value) => (*value).into(),
        Value::Text(value) => value.as_str().into(),
    }
}

impl ProgramError {
    /// The exit code of the job cell whose program failed so.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        use cellbus_launch::Exit;
        match self {
            Self::Ended(Exit::Code(code)) => *code,
            Self::Ended(Exit::Signal(signal)) => Exit::SIGNALLED + signal,
            Self::Idle(_) => Exit::IDLE,
            Self::Left(_) => Exit::LEFT,
            Self::Forsaken(_) => Exit::FORSAKEN,
            Self::Stopped | Self::Ended(Exit::Scheduler(_) | Exit::Unknown) => 1,
            Self::Parameters(_)
            | Self::Handle(_)
            | Self::Request(_)
            | Self::Task(_)
            | Self::Refused(_)
            | Self::Socket(_)
            | Self::Directory(_)
            | Self::Process(_)
            | Self::Launch(_)
            | Self::Watch(_)
            | Self::NoProgram(_) => Exit::NOT_STARTED,
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
