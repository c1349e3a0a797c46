//! One process that was started, from its first moment until nothing of it is left.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::process::ExitStatusExt,
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    family::{Family, Known, started},
    log::Log,
    pipes::{Files, Pipes},
};
use crate::{ControlGroup, Exit, Signal, Stream};

/// How long what was killed may take to be gone.
const GONE: Duration = Duration::from_secs(10);
/// How often what has to go is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A process that was started, by this process or by an earlier life of it.
pub(super) struct Running {
    pid: Pid,
    started: u64,
    /// Readable once it has ended.
    pidfd: AsyncFd<OwnedFd>,
    /// `None` for one that an earlier life of this process has started, and once its status has been taken.
    child: Mutex<Option<Child>>,
    exit: Mutex<Option<Exit>>,
    out: Option<Arc<Log>>,
    err: Option<Arc<Log>>,
    pipes: Option<Files>,
    /// `None` where there is none, and for one of an earlier life, whose group its launcher finds by its name.
    group: Option<ControlGroup>,
    /// Keeps it from being taken for an orphan. `None` for one of an earlier life.
    _known: Option<Known>,
}

impl Running {
    /// Starts `command`; what it prints is read from `pipes`, if it has any, and from itself otherwise.
    pub(super) fn spawn(
        command: &mut Command,
        pipes: Option<Pipes>,
        group: Option<ControlGroup>,
    ) -> io::Result<Self> {
        let (mut child, known) = Known::spawn(command)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        let watched = || -> io::Result<_> {
            let pidfd = watch(pidfd_open(pid, PidfdFlags::NONBLOCK)?)?;
            let log = |fd: Option<OwnedFd>| fd.map(Log::read).transpose();
            Ok((pidfd, log))
        };
        let made = watched().and_then(|(pidfd, log)| {
            let (readers, pipes) = pipes.map(Pipes::split).unzip();
            let [out, err] = readers.map_or_else(
                || [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)],
                |readers| readers.map(Some),
            );
            Ok((pidfd, log(out)?, log(err)?, pipes))
        });
        let (pidfd, out, err, pipes) = match made {
            Ok(made) => made,
            Err(error) => {
                // Nobody could end it later.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        Ok(Self {
            pid,
            started: started(pid).unwrap_or(0),
            pidfd,
            child: Mutex::new(Some(child)),
            exit: Mutex::default(),
            out,
            err,
            pipes,
            group,
            _known: Some(known),
        })
    }

    /// The process that an earlier life of this one called `token`, if it still runs.
    pub(super) fn adopt(token: &str, pipes: Option<Pipes>) -> Option<Self> {
        let mut words = token.splitn(3, '-');
        let (pid, since) = (words.next()?, words.next()?);
        let (pid, since) = (Pid::from_raw(pid.parse().ok()?)?, since.parse().ok()?);
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Numbers are given again; the number and its beginning together are not.
        (started(pid)? == since).then_some(())?;
        let pidfd = watch(pidfd).ok()?;
        let (readers, pipes) = pipes.map(Pipes::split).unzip();
        let [out, err] = readers.map_or([None, None], |readers| readers.map(Some));
        // Where they cannot be read, it runs all the same.
        let log = |fd: Option<OwnedFd>| fd.and_then(|fd| Log::read(fd).ok());
        let (out, err) = (log(out), log(err));
        let (child, exit) = (Mutex::default(), Mutex::default());
        let group = None;
        Some(Self { pid, started: since, pidfd, child, exit, out, err, pipes, group, _known: None })
    }

    pub(super) fn token(&self) -> String {
        let (pid, since) = (self.pid.as_raw_nonzero(), self.started);
        match &self.pipes {
            Some(Files { label, .. }) => format!("{pid}-{since}-{label}"),
            None => format!("{pid}-{since}"),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(super) fn log(&self, stream: Stream) -> Option<&Arc<Log>> {
        match stream {
            Stream::Out => self.out.as_ref(),
            Stream::Err => self.err.as_ref(),
        }
    }

    /// Waits until the process has ended.
    pub(super) async fn ended(&self) {
        if self.exit().is_none() {
            // Fails only when the runtime ends.
            let _ = self.pidfd.readable().await;
        }
    }

    /// How it ended, once it has. Its number stays its own until it is reaped.
    pub(super) fn exit(&self) -> Option<Exit> {
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_none() {
            *exit = self.look();
        }
        *exit
    }

    fn look(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options) {
            Ok(None) => None,
            Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            }),
            // Not a child of this process: whether it runs can be known, how it ended cannot.
            Err(_) => (started(self.pid) != Some(self.started)).then_some(Exit::Unknown),
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        match signal {
            Signal::Terminate if self.exit().is_none() => {
                // Fails only for a process that has ended.
                let _ = pidfd_send_signal(self.pidfd.get_ref(), rustix::process::Signal::TERM);
                Family::of(self.pid).signal_group(rustix::process::Signal::TERM);
            }
            Signal::Terminate => {}
            Signal::Kill => self.kill(),
        }
    }

    /// Ends it, its group, and what descends from it.
    fn kill(&self) {
        // A process of an earlier life may be gone, and its number another's.
        let is_ours = self.child.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if is_ours || self.exit().is_none() {
            let family = Family::of(self.pid);
            family.kill();
            self.group.iter().for_each(ControlGroup::kill);
            // Fails only for a process that has ended.
            let _ = pidfd_send_signal(self.pidfd.get_ref(), rustix::process::Signal::KILL);
        }
    }

    /// Ends what is left, and says how it ended; `None` when it cannot be ended.
    pub(super) async fn reap(&self) -> Option<Exit> {
        let all = async {
            loop {
                self.kill();
                let exit = self.exit();
                if let Some(exit) = exit
                    && !Family::of(self.pid).lives()
                    && !self.group.as_ref().is_some_and(ControlGroup::lives)
                {
                    return exit;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let exit = tokio::time::timeout(GONE, all).await.ok()?;
        self.collect();
        self.pipes.iter().for_each(Files::remove);
        Family::sweep();
        Some(exit)
    }

    /// Takes the status of a child that has ended: from here on its number may be another's.
    fn collect(&self) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            match child.wait() {
                Ok(status) => {
                    tracing::trace!(code = status.code(), signal = status.signal(), "collected");
                }
                Err(error) => tracing::debug!(%error, "nobody to wait for"),
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; the descriptor is owned and is never exchanged"
)]
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that was reaped has no child any more. One that nobody waits for must not be left.
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            Family::of(self.pid).kill();
            self.group.iter().for_each(ControlGroup::kill);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
