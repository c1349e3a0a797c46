//! What runs on the node of a cluster: it takes the secret and the work, and stays above the program.
//!
//! The batch script becomes this process. The secret is gone from the shared directory before the program starts, and
//! reaches it as its standard input, as with the launcher for processes, which is what starts it here too:
//! in a session of its own, with no descriptor but three, and ended with all that it has started. TERM, which Slurm sends at a
//! time limit and the cell when a job is to end, is passed on; USR1, and any signal after the first, kills the program with all
//! that it has started, also what has left its session, which not every cluster would find.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use cellbus_launch::{
    Exit, FROM_SCHEDULER, Handle, LaunchError, Launcher, Lifetime, Order, Output, ProcessLauncher,
    Progress, Signal, SlurmRequest, Stream,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    SlurmError,
    spool::{self, Segments},
};

/// The argument that makes a binary a step. Nobody types it.
pub const VERB: &str = "slurm-step";
/// Where Slurm and the step say what they have to say.
pub(crate) const LOG: &str = "step.log";

/// Why a step has not run its program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// It was not started by a batch script of this launcher.
    #[error("a step is started by a batch script of its cell")]
    Usage,
    /// The system refuses something basic.
    #[error("the system refuses")]
    System(#[from] io::Error),
    /// What to run cannot be read.
    #[error("what to run cannot be read")]
    Work(#[source] SlurmError),
    /// The secret cannot be taken: it was taken before, or the job was given up.
    #[error("the secret of this job cannot be taken; was the job started before?")]
    Secret(#[source] SlurmError),
    /// The program cannot be started.
    #[error("the program cannot be started")]
    Launch(#[from] LaunchError),
    /// The program cannot be watched.
    #[error("the program cannot be watched")]
    Watch(#[from] cellbus_launch::HandleError),
}

/// Exit code of a step that has not run its program. Why, its log says.
const NOT_STARTED: u8 = 123;
const _: () =
    assert!(NOT_STARTED as i32 == Exit::NOT_STARTED, "people are told what this code means");

/// Runs the step of the job whose directory is the one argument, until nothing of its program is left.
/// Not for a thread that has a runtime of tokio.
///
/// The exit code is that of the program, 128 and the number of the signal that ended it, or [`Exit::NOT_STARTED`].
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [dir] = &arguments[..] else { return fail(&StepError::Usage) };
    let dir = PathBuf::from(dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(attend(&dir)),
        Err(error) => Err(StepError::System(error)),
    };
    match ended {
        Ok(exit) => {
            if let Err(error) = spool::tell(&dir, exit) {
                // Slurm knows the exit code as well.
                say(&error);
            }
            ExitCode::from(match exit {
                Exit::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
                Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
                Exit::Scheduler(_) | Exit::Unknown => u8::MAX,
            })
        }
        Err(error) => {
            let text = format!("{}\n", with_sources(&error));
            // For the people who look at the job's log; nothing else is in it.
            let _ = Segments::new(&dir, Stream::Err).push(0, text.as_bytes());
            let _ = spool::tell(&dir, Exit::Code(Exit::NOT_STARTED));
            fail(&error)
        }
    }
}

async fn attend(dir: &Path) -> Result<Exit, StepError> {
    // The secret is in this memory for a moment.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
    let mut term = signal(SignalKind::terminate())?;
    let mut kill = signal(SignalKind::user_defined1())?;
    let work = spool::take_work(dir).map_err(StepError::Work)?;
    let bootstrap = spool::take_bootstrap(dir).map_err(StepError::Secret)?;
    ProcessLauncher::adopt_orphans()?;
    let launcher = ProcessLauncher::of_this_program()?;
    let limits = work.limits();
    // What Slurm says about a place comes last, so that no job says it in its stead.
    let mut environment = work.environment;
    for name in FROM_SCHEDULER {
        environment.remove(name);
        environment.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    let order = Order {
        label: work.name,
        argv: work.argv.into_iter().map(OsString::from).collect(),
        environment: environment
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        dir: work.dir.into(),
        bootstrap,
        output: Output::Kept,
        limits,
        lifetime: Lifetime::Bound,
        group: None,
        resources: SlurmRequest::default(),
    };
    let handle = launcher.launch(order).await?;
    let write = async {
        tokio::join!(
            keep(&launcher, &handle, Stream::Out, dir),
            keep(&launcher, &handle, Stream::Err, dir)
        );
    };
    tokio::pin!(write);
    let mut signals = 0_u32;
    let mut is_written = false;
    loop {
        const LONG: Duration = Duration::from_secs(3600);
        tokio::select! {
            progress = launcher.poll(&handle, LONG) => {
                if matches!(progress?, Progress::Ended(_)) {
                    break;
                }
            }
            _ = term.recv() => signals += 1,
            _ = kill.recv() => signals += 2,
            () = &mut write, if !is_written => {
                is_written = true;
                continue;
            }
        }
        if signals > 0 {
            let which = if signals == 1 { Signal::Terminate } else { Signal::Kill };
            launcher.signal(&handle, which).await?;
        }
    }
    // What the program has let go of may hold its streams open; that ends with it, and then they end.
    launcher.signal(&handle, Signal::Kill).await?;
    ProcessLauncher::sweep_orphans();
    const LAST_WORDS: Duration = Duration::from_secs(10);
    if !is_written && tokio::time::timeout(LAST_WORDS, &mut write).await.is_err() {
        say(&"the streams of the program do not end");
    }
    Ok(launcher.reap(&handle).await?)
}

/// Writes what the program prints on one stream, until its end.
async fn keep(launcher: &ProcessLauncher, handle: &Handle, stream: Stream, dir: &Path) {
    let mut segments = Segments::new(dir, stream);
    let mut from = 0;
    loop {
        let Ok(printed) = launcher.logs(handle, stream, from).await else { return };
        if !printed.bytes.is_empty()
            && let Err(error) = segments.push(printed.from, &printed.bytes)
        {
            return say(&format_args!("what the program prints is not kept: {error}"));
        }
        if printed.is_end {
            return;
        }
        from = printed.from + printed.bytes.len() as u64;
    }
}

fn fail(error: &StepError) -> ExitCode {
    say(&with_sources(error));
    ExitCode::from(NOT_STARTED)
}

fn with_sources(error: &dyn std::error::Error) -> String {
    cellbus_proto::causes::with_sources(error)
}

/// Says something where Slurm keeps it.
fn say(what: &dyn std::fmt::Display) {
    // Nobody is left to be told that this failed.
    let _ = writeln!(io::stderr(), "cellbus: {what}");
}
