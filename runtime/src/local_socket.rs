//! The socket through which job code, a process of its own, talks to its job cell.
//!
//! [`LocalSocket::bind`] makes a directory and in it a socket that only this user can reach;
//! [`bootstrap_fd`] is what the launched process inherits; [`LocalSocket::serve`] lets the one
//! connection in that comes from an allowed user and knows the [`LaunchSecret`], and bridges it to
//! the cell's bus. The protocol is `docs/LOCAL_SOCKET.md`.
//!
//! Job code never learns more than its secret, which is good for one connection and 60 s.

mod act;
mod around;
mod arrival;
mod asked;
mod attached;
mod bridge;
mod files;
mod forward;
mod launch;
mod link;
mod place;
mod process;
mod refusals;
mod rendezvous;

use std::{future::Future, os::fd::OwnedFd, path::Path, pin::Pin, sync::Arc, time::Duration};

use cellbus_channels::Bus;
use cellbus_proto::{
    local::{BadLimits, Limits},
    name::Segment,
    status::Status,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    time::{sleep, sleep_until},
};

use self::{
    arrival::{Applicant, Doorkeeper},
    process::Expected,
};
pub use self::{
    launch::{Launch, LaunchSecret, bootstrap_fd},
    place::BindError,
    refusals::{Reason, Refusals},
    rendezvous::{Meeting, MeetingError},
};

/// Connections that have not proved themselves yet; more wait in the kernel.
const ARRIVALS_MAX: usize = 8;
/// Wait after the kernel has refused to hand over a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A bound socket of one launch of job code. Dropping it removes the socket.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    place: place::Place,
    refusals: Arc<Refusals>,
}

/// Whom to let in, and what one connection may have outstanding.
#[derive(Clone, Debug, Default)]
pub struct Options {
    limits: Limits,
    launch: Launch,
    allowed_uids: Vec<u32>,
    expected: Option<Expected>,
    heartbeat: Option<Duration>,
    stage: watch::Sender<Stage>,
}

/// How far the one connection of a launch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nobody has been let in.
    #[default]
    Unclaimed,
    /// Job code has been let in.
    Open,
    /// Job code has gone, and all that it has said was read. What it has sent last is still fetched from this cell.
    Settling,
}

/// How the one connection of a launch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nobody proved to be the launched job code while the secret was good.
    Unclaimed,
    /// Job code said goodbye.
    Finished,
    /// Job code closed without a word, or died.
    Gone,
    /// Job code broke the protocol and has been told this status.
    Violation(Status),
    /// The cell is stopping.
    CellClosed,
}

impl Options {
    /// What one connection may have outstanding. Default: [`Limits::default`]. Worst case of memory:
    /// see [`Limits`].
    ///
    /// # Errors
    /// [`BadLimits`].
    pub fn limits(mut self, limits: Limits) -> Result<Self, BadLimits> {
        limits.check()?;
        self.limits = limits;
        Ok(self)
    }

    /// The job that job code is told it belongs to. Default: none.
    #[must_use]
    pub fn job(mut self, job: Segment) -> Self {
        self.launch.job = Some(job);
        self
    }

    /// Which launch of job code this is; job code is told. A secret that was made for another one lets nobody
    /// in. Default: none.
    #[must_use]
    pub fn launch(mut self, launch: Launch) -> Self {
        self.launch = launch;
        self
    }

    /// Asks job code for a sign of life in each such time, and ends the connection when three were let pass. Job
    /// code gets no signal. In whole milliseconds, at least one. Default: none; job code may be silent.
    #[must_use]
    pub fn heartbeat(mut self, period: Duration) -> Self {
        self.heartbeat = Some(period.max(Duration::from_millis(1)));
        self
    }

    /// Is told how far the connection is, before anything is done for what has been let in. Default: nobody looks.
    #[must_use]
    pub fn stage(mut self, stage: watch::Sender<Stage>) -> Self {
        self.stage = stage;
        self
    }

    /// Lets these users in beside the cell's own. Default: nobody. They must still be able to reach
    /// the socket, which has mode 0600 in a directory of mode 0700.
    #[must_use]
    pub fn allowed_uids(mut self, uids: impl IntoIterator<Item = u32>) -> Self {
        self.allowed_uids = uids.into_iter().collect();
        self
    }

    /// Lets only this process in. Default: any process of an allowed user, so that job code may
    /// connect from a process that it has started itself.
    #[must_use]
    pub fn expected_pid(mut self, pid: u32) -> Self {
        self.expected = Some(Expected::Pid(pid));
        self
    }

    /// Lets only the process in that this pidfd stands for, and nobody once it has ended: another process that is
    /// given its number is refused. Default: as for [`Self::expected_pid`].
    #[must_use]
    pub fn expected_process(mut self, pidfd: OwnedFd) -> Self {
        self.expected = Some(Expected::Pidfd(Arc::new(pidfd)));
        self
    }
}

impl LocalSocket {
    /// Binds `name` in `directory`, which is made if it is not there, with mode 0700; the socket has
    /// mode 0600 whatever the umask.
    ///
    /// # Errors
    /// [`BindError`]: the path is longer than 100 bytes, the directory is not this user's own alone,
    /// or something lies at the path already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(directory: &Path, name: &str) -> Result<Self, BindError> {
        let (place, listener) = place::Place::make(directory, name)?;
        let listener = UnixListener::from_std(listener)
            .map_err(|source| BindError::Socket { path: place.socket().to_owned(), source })?;
        Ok(Self { listener, place, refusals: Arc::default() })
    }

    /// Where the socket lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.socket()
    }

    /// How many connections have been refused, and why.
    #[must_use]
    pub fn refusals(&self) -> Arc<Refusals> {
        Arc::clone(&self.refusals)
    }

    /// Lets job code in once and bridges it to `bus` until either ends. Everybody else is refused.
    ///
    /// # Cancellation
    /// Dropping the future ends the connection: requests of job code are given up, deliveries to it
    /// fail, its handlers answer `NO_HANDLER`.
    pub async fn serve(self, bus: Bus, secret: LaunchSecret, options: Options) -> Ended {
        let refusals = Arc::clone(&self.refusals);
        let mut door = Doorkeeper::new(secret, &bus.name(), &options, refusals);
        let mut arrivals: FuturesUnordered<Arriving> = FuturesUnordered::new();
        let mut conversation: Option<Pin<Box<dyn Future<Output = Ended> + Send>>> = None;
        loop {
            if conversation.is_none() && door.is_expired() && arrivals.is_empty() {
                return Ended::Unclaimed;
            }
            let is_claimed = conversation.is_some();
            let takes_more = arrivals.len() < ARRIVALS_MAX && (is_claimed || !door.is_expired());
            tokio::select! {
                Some(ended) = maybe(&mut conversation) => return ended,
                stream = accept(&self.listener), if takes_more => {
                    arrivals.push(Box::pin(arrival::arrive(stream, door.rules())));
                }
                Some(applicant) = arrivals.next() => {
                    if let Some(applicant) = applicant {
                        match door.judge(applicant) {
                            Ok(admitted) => {
                                options.stage.send_replace(Stage::Open);
                                let talk = bridge::converse(admitted, bus.clone(), options.clone());
                                conversation = Some(Box::pin(talk));
                            }
                            Err(refused) => arrivals.push(Box::pin(async {
                                refused.tell().await;
                                None
                            })),
                        }
                    }
                }
                // Those that arrived in time are heard before the end.
                () = sleep_until(door.expiry()), if !is_claimed && !door.is_expired() => {}
                () = bus.closed(), if !is_claimed => return Ended::CellClosed,
            }
        }
    }
}

type Arriving = Pin<Box<dyn Future<Output = Option<Applicant>> + Send>>;

/// What `future` gives; `None` at once where there is none.
async fn maybe<F: Future + Unpin>(future: &mut Option<F>) -> Option<F::Output> {
    match future {
        Some(future) => Some(future.await),
        None => None,
    }
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _unnamed)) => return stream,
            Err(error) => {
                tracing::debug!(%error, "local socket cannot accept");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
