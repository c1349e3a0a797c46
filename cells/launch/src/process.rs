//! Programs as processes of this machine.
//!
//! Each leads a session and a process group of its own, has the descriptors 0, 1 and 2 and no other, and is known by a
//! pidfd, so that no signal ever reaches a stranger. What it starts and lets go of falls to this process, if that
//! [adopts orphans](ProcessLauncher::adopt_orphans), and ends with it.

mod family;
mod log;
mod pipes;
mod running;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Seek, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use self::{family::Family, log::Log, pipes::Pipes, running::Running};
use crate::{
    BoxFuture, ControlGroup, Exit, Handle, HandleError, LaunchError, Launcher, Lifetime, Order,
    Output, Printed, Progress, Signal, Stream, shim,
};

/// Starts processes of this machine.
pub struct ProcessLauncher {
    /// What runs before a program: this binary, as a shim.
    shim: Vec<OsString>,
    /// Where named pipes lie.
    pipes: Option<PathBuf>,
    running: Mutex<BTreeMap<String, Arc<Running>>>,
}

impl ProcessLauncher {
    /// [`Launcher::name`] of this launcher.
    pub const NAME: &'static str = "process";

    /// A launcher whose shim is the program `shim`, which calls [`shim::run`] with the arguments after
    /// [`shim::VERB`].
    #[must_use]
    pub fn new(shim: impl Into<OsString>) -> Self {
        let shim = vec![shim.into(), shim::VERB.into()];
        Self { shim, pipes: None, running: Mutex::default() }
    }

    /// A launcher whose shim is this very program.
    ///
    /// # Errors
    /// When the system does not say which that is.
    pub fn of_this_program() -> io::Result<Self> {
        Ok(Self::new(std::env::current_exe()?))
    }

    /// Has programs that may outlive this process, and whose output is [kept](Output::Kept), print into named pipes
    /// in `dir`, a directory of this user alone: a later life goes on reading there. While nobody reads, a program
    /// that prints waits once 64 KiB are there; what comes on its standard error is dropped then. Default: they print
    /// to nobody once this process has ended, which ends most.
    #[must_use]
    pub fn with_pipes_in(mut self, dir: &Path) -> Self {
        self.pipes = Some(dir.to_owned());
        self
    }

    /// The names of the pipes of what `handle` names, in the directory of pipes.
    #[must_use]
    pub fn pipes_of(handle: &Handle) -> Option<[String; 2]> {
        Pipes::label_of(&handle.token).map(Pipes::names)
    }

    /// A token that stands for no process, and has the pipes of what `handle` names: for one of a machine that has been
    /// started again since, where numbers of processes mean others.
    #[must_use]
    pub fn token_of_nobody(handle: &Handle) -> String {
        match Pipes::label_of(&handle.token) {
            Some(label) => format!("0-0-{label}"),
            None => "0-0".to_owned(),
        }
    }

    /// Ends every process whose environment has all of `marks`, each a name with its value, and gives their number.
    /// For processes that nobody knows any longer; together they must be such as nobody else could have.
    #[must_use]
    pub fn end_marked(marks: &[(&str, &str)]) -> usize {
        Family::end_marked(marks)
    }

    /// The number of the process that `handle` names, while it is known.
    #[must_use]
    pub fn process_of(&self, handle: &Handle) -> Option<u32> {
        self.running().get(&handle.token).map(|running| running.number())
    }

    /// Makes what the programs of this process let go of fall to this process, where it ends with them.
    ///
    /// # Errors
    /// When the system does not know how.
    pub fn adopt_orphans() -> io::Result<()> {
        Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
    }

    /// Ends what has fallen to this process and belongs to no program that runs.
    pub fn sweep_orphans() {
        Family::sweep();
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `handle` names; one of an earlier life of this process is looked for.
    fn find(&self, handle: &Handle) -> Result<Arc<Running>, HandleError> {
        let unknown = || HandleError::Unknown(handle.to_string());
        if handle.launcher != Self::NAME {
            return Err(unknown());
        }
        if let Some(running) = self.running().get(&handle.token) {
            return Ok(Arc::clone(running));
        }
        let pipes = self.pipes.as_deref().and_then(|dir| Pipes::again(dir, &handle.token));
        let adopted = Running::adopt(&handle.token, pipes).ok_or_else(unknown)?;
        let adopted = Arc::new(adopted);
        self.running().insert(handle.token.clone(), Arc::clone(&adopted));
        Ok(adopted)
    }

    fn start(&self, order: Order) -> Result<Handle, LaunchError> {
        let Some(program) = order.argv.first() else { return Err(LaunchError::NoProgram) };
        let failed = |source| {
            let program = program.to_string_lossy().into_owned();
            LaunchError::System { program, source }
        };
        let (verb, before) = self.shim.split_first().ok_or(LaunchError::NoProgram)?;
        let group = order.group.as_ref().map(ControlGroup::entrance);
        let mut command = Command::new(verb);
        command
            .args(before)
            .args(shim::arguments(order.lifetime, &order.limits, group))
            .args(&order.argv)
            .env_clear()
            .envs(order.environment)
            .current_dir(&order.dir)
            .stdin(memory_file(&order.bootstrap).map_err(failed)?);
        let pipes = match (&self.pipes, order.lifetime, order.output) {
            (Some(dir), Lifetime::Detached, Output::Kept) => {
                Some(Pipes::make(dir, &order.label).map_err(failed)?)
            }
            _ => None,
        };
        match order.output {
            Output::Kept => match &pipes {
                Some(pipes) => {
                    let [out, err] = pipes.writers().map_err(failed)?;
                    command.stdout(out).stderr(err)
                }
                None => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
            },
            Output::Passed => command.stdout(Stdio::inherit()).stderr(Stdio::inherit()),
            Output::Merged => {
                let own = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
                command.stdout(Stdio::inherit()).stderr(own)
            }
        };
        // What whoever started this process left open is not for programs; what this one opens never is.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let running = Running::spawn(&mut command, pipes, order.group).map_err(failed)?;
        let token = running.token();
        self.running().insert(token.clone(), Arc::new(running));
        tracing::debug!(label = order.label, token, "launched");
        Ok(Handle { launcher: Self::NAME.to_owned(), token })
    }
}

impl Launcher for ProcessLauncher {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn launch(&self, order: Order) -> BoxFuture<'_, Result<Handle, LaunchError>> {
        Box::pin(async move { self.start(order) })
    }

    fn poll<'a>(
        &'a self,
        handle: &'a Handle,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Progress, HandleError>> {
        Box::pin(async move {
            let running = self.find(handle)?;
            // Whether there is news or none: the state is asked for.
            let _ = tokio::time::timeout(wait, running.ended()).await;
            Ok(running.exit().map_or(Progress::Running, Progress::Ended))
        })
    }

    fn signal<'a>(
        &'a self,
        handle: &'a Handle,
        signal: Signal,
    ) -> BoxFuture<'a, Result<(), HandleError>> {
        Box::pin(async move {
            // What is gone already has ended.
            if let Ok(running) = self.find(handle) {
                running.signal(signal);
            }
            Ok(())
        })
    }

    fn logs<'a>(
        &'a self,
        handle: &'a Handle,
        stream: Stream,
        from: u64,
    ) -> BoxFuture<'a, Result<Printed, HandleError>> {
        Box::pin(async move {
            let running = self.find(handle)?;
            let log: Option<&Arc<Log>> = running.log(stream);
            match log {
                Some(log) => Ok(log.from(from).await),
                None => Ok(Printed { bytes: Vec::new(), from, is_end: true }),
            }
        })
    }

    fn reap<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<Exit, HandleError>> {
        Box::pin(async move {
            let running = self.find(handle)?;
            let exit =
                running.reap().await.ok_or_else(|| HandleError::StillThere(handle.to_string()))?;
            self.running().remove(&handle.token);
            Ok(exit)
        })
    }
}

/// An anonymous file to be read once. Its content cannot be changed or grow; it can be emptied.
fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create("cellbus-bootstrap", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}
