//! A program as a process of its own, which knows nothing but its job cell's local socket.

use std::{ffi::OsString, time::Duration};

use cellbus_launch::{
    ControlGroup, Exit, Handle, Launcher, Lifetime, Order, Output, ProcessLauncher, ProgramLimits,
    Progress, Signal,
};
use cellbus_proto::{
    job::SlurmRequest,
    local::Bootstrap,
    name::{Fqcn, Segment},
};
use cellbus_runtime::{
    host::RunningCell,
    local_socket::{Ended, LaunchSecret, LocalSocket, Options, Stage},
    secret_file::create_private_dir,
};
use tokio::{sync::watch, time::timeout};
use zeroize::Zeroizing;

use super::{ProgramError, topics};
use crate::job::{
    JobBootstrap,
    process::{CELL_VARIABLE, RUN_VARIABLE, allowed_environment, environment_of_scheduler},
};

/// The argument that makes this binary a trainer. Nobody types it.
pub const VERB: &str = "trainer";

/// Name of the socket in the job's own directory.
const SOCKET: &str = "s";
/// Time that a program has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(3);
/// Time to read what a process has said that has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The longest look at a process without news.
const LOOK: Duration = Duration::from_secs(60);

/// What is to be run.
pub(super) struct Command {
    pub argv: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    pub limits: ProgramLimits,
    pub output: Output,
    /// What it is told when it asks for its parameters.
    pub parameters: bytes::Bytes,
}

impl Command {
    /// This very binary, doing what `verb` says.
    pub(super) fn of_this_binary(verb: &str, parameters: bytes::Bytes) -> std::io::Result<Self> {
        let program = std::env::current_exe()?.into_os_string();
        let words = ["-o", "json", verb].map(OsString::from);
        Ok(Self {
            argv: [program].into_iter().chain(words).collect(),
            environment: Vec::new(),
            limits: ProgramLimits::default(),
            output: Output::Passed,
            parameters,
        })
    }
}

/// Runs it until it has ended, and ends it when `stop` comes first.
pub(super) async fn run(
    cell: &RunningCell,
    bootstrap: &JobBootstrap,
    command: Command,
    stop: impl Future<Output = ()>,
) -> Result<(), ProgramError> {
    let bus = cell.bus();
    topics::serve(cell, bootstrap, command.parameters.clone()).await?;
    // A socket is of one machine: on a node it has a place of its own, not in what the node shares with the cell.
    let on_node =
        bootstrap.is_on_cluster().then(|| tempfile::Builder::new().prefix("cb-").tempdir());
    let on_node = on_node.transpose()?;
    let socket_dir = on_node.as_ref().map_or(&*bootstrap.socket_dir, tempfile::TempDir::path);
    // The directory is this job's own; what a killed predecessor left there is nobody's.
    let _ = std::fs::remove_file(socket_dir.join(SOCKET));
    create_private_dir(socket_dir)?;
    let socket = LocalSocket::bind(socket_dir, SOCKET)?;
    let secret = LaunchSecret::generate()?;
    let path = socket
        .path()
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
    let born_with = Bootstrap { path, secret: secret.secret().clone() }.encode();
    let launcher = ProcessLauncher::of_this_program()?;
    let handle = launcher.launch(order(bootstrap, command, born_with)).await?;
    let stage = watch::Sender::new(Stage::Unclaimed);
    let mut options = Options::default().job(bootstrap.id.job.clone()).stage(stage.clone());
    if let Some(pid) = launcher.process_of(&handle) {
        options = options.expected_pid(pid);
    }
    let serving = socket.serve(bus, secret, options);
    tokio::pin!(serving, stop);
    let idle = topics::idle(cell, bootstrap.idle_s);
    tokio::pin!(idle);
    let (mut is_served, mut has_ended) = (true, false);
    let outcome = loop {
        tokio::select! {
            biased;
            () = &mut stop => break Err(ProgramError::Stopped),
            progress = launcher.poll(&handle, LOOK) => match progress {
                Ok(Progress::Ended(exit)) => {
                    has_ended = true;
                    break ended(exit);
                }
                Ok(Progress::Waiting | Progress::Running | Progress::Unknown) => {}
                Err(error) => break Err(error.into()),
            },
            ended = &mut serving, if is_served => {
                is_served = false;
                if ended != Ended::Finished {
                    tracing::info!(?ended, "the program left its socket");
                }
            }
            time = &mut idle => break Err(ProgramError::Idle(time)),
        }
    };
    if outcome.is_err() {
        finish(&launcher, &handle).await;
    }
    // Whatever it has started and let go of ends with it.
    launcher.reap(&handle).await?;
    if has_ended && is_served && *stage.borrow() != Stage::Unclaimed {
        // What it has said last may still lie in the socket, whose end nobody holds up any longer.
        let is_over = timeout(LAST_WORDS, &mut serving).await.is_ok();
        let is_settling = *stage.borrow() == Stage::Settling;
        if !is_over && is_settling && outcome.is_ok() {
            tokio::select! {
                _ended = &mut serving => {}
                () = &mut stop => {}
            }
        }
    }
    outcome
}

fn order(bootstrap: &JobBootstrap, command: Command, born_with: Zeroizing<Vec<u8>>) -> Order {
    let text = |text: &str| OsString::from(text);
    let cells: Vec<&str> = bootstrap.site_cells.iter().map(Fqcn::as_str).collect();
    let job: &Segment = &bootstrap.id.job;
    let told = [
        (Bootstrap::ENV, text("0")),
        ("CELLBUS_JOB", text(job.as_str())),
        ("CELLBUS_ATTEMPT", text(&bootstrap.id.attempt.to_string())),
        (RUN_VARIABLE, text(&bootstrap.run.to_string())),
        (CELL_VARIABLE, text(bootstrap.name.as_str())),
        ("CELLBUS_SERVER_CELL", text(bootstrap.server_cell.as_str())),
        ("CELLBUS_SITES", text(&cells.join(","))),
    ];
    let told = told.map(|(name, value)| (OsString::from(name), value));
    let of_place = bootstrap.is_on_cluster().then(environment_of_scheduler);
    Order {
        label: bootstrap.name.to_string(),
        argv: command.argv,
        environment: allowed_environment()
            .chain(command.environment)
            .chain(of_place.into_iter().flatten())
            .chain(told)
            .collect(),
        dir: bootstrap.work_dir.clone(),
        bootstrap: born_with,
        output: command.output,
        limits: command.limits,
        lifetime: Lifetime::Bound,
        group: bootstrap.group.clone().map(ControlGroup::of_program),
        resources: SlurmRequest::default(),
    }
}

/// Asks it to end, and waits a moment.
async fn finish(launcher: &ProcessLauncher, handle: &Handle) {
    // Each fails only for one that has ended.
    let _ = launcher.signal(handle, Signal::Terminate).await;
    let _ = launcher.poll(handle, GRACE).await;
}

fn ended(exit: Exit) -> Result<(), ProgramError> {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(_) | Exit::Signal(_) | Exit::Scheduler(_) | Exit::Unknown => {
            Err(ProgramError::Ended(exit))
        }
    }
}
