//! Programs as processes of this machine.
//!
//! Each leads a session and a process group of its own, has the descriptors 0, 1 and 2 and no other, and is known by a
//! pidfd, so that no signal ever reaches a stranger. What it starts and lets go of falls to this process, if that
//! [adopts orphans](ProcessLauncher::adopt_orphans), and ends with it.

mod family;
mod log;
mod running;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Seek, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use self::{family::Family, log::Log, running::Running};
use crate::{
    BoxFuture, Exit, Handle, HandleError, LaunchError, Launcher, Order, Output, Printed, Progress,
    Signal, Stream, shim,
};

/// Starts processes of this machine.
pub struct ProcessLauncher {
    /// What runs before a program: this binary, as a shim.
    shim: Vec<OsString>,
    running: Mutex<BTreeMap<String, Arc<Running>>>,
}

impl ProcessLauncher {
    /// [`Launcher::name`] of this launcher.
    pub const NAME: &'static str = "process";

    /// A launcher whose shim is the program `shim`, which calls [`shim::run`] with the arguments after
    /// [`shim::VERB`].
    #[must_use]
    pub fn new(shim: impl Into<OsString>) -> Self {
        Self { shim: vec![shim.into(), shim::VERB.into()], running: Mutex::default() }
    }

    /// A launcher whose shim is this very program.
    ///
    /// # Errors
    /// When the system does not say which that is.
    pub fn of_this_program() -> io::Result<Self> {
        Ok(Self::new(std::env::current_exe()?))
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
        let adopted = Running::adopt(&handle.token).ok_or_else(unknown)?;
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
        let mut command = Command::new(verb);
        command
            .args(before)
            .args(shim::arguments(order.lifetime, &order.limits))
            .args(&order.argv)
            .env_clear()
            .envs(order.environment)
            .current_dir(&order.dir)
            .stdin(memory_file(&order.bootstrap).map_err(failed)?);
        match order.output {
            Output::Kept => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
            Output::Passed => command.stdout(Stdio::inherit()).stderr(Stdio::inherit()),
            Output::Merged => {
                let own = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
                command.stdout(Stdio::inherit()).stderr(own)
            }
        };
        // What whoever started this process left open is not for programs; what this one opens never is.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let running = Running::spawn(&mut command).map_err(failed)?;
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
