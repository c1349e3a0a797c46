//! The bus for job code: a [`Bus`] over the local socket of the job's own cell.
//!
//! ```no_run
//! # async fn train() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = cellbus_channels::local::from_env().await?;
//! let task = bus.request("server.job-7".parse()?, "task/fetch".parse()?).send().await?;
//! # let _ = task; Ok(()) }
//! ```
//! The protocol is `docs/LOCAL_SOCKET.md`. [`inbox`] and [`outbox`] serve both ends of it.
//!
//! A bus over a local socket lives until its last clone is dropped, the cell says goodbye, or the
//! socket dies. Then every request that is outstanding ends with
//! [`RequestError::Closed`](crate::RequestError::Closed) and every running handler is dropped.
//! A handler that holds a clone of its own bus keeps it open.

mod asking;
mod bootstrap;
pub mod carry;
mod deliver;
pub mod files;
pub mod inbox;
mod job_side;
mod many;
pub mod memfd;
pub mod outbox;
mod place;
mod rendezvous;
pub mod sending;
mod transport;

use std::{io, path::Path, sync::Arc, time::Duration};

use bytes::BytesMut;
use cellbus_proto::{
    local::{Hello, Rendezvous, Secret, ToCell, ToJob, Welcome, encode},
    name::Fqcn,
    status::Status,
};
use tokio::{io::AsyncWriteExt, net::UnixStream, time::timeout};
use zeroize::Zeroize;

pub use self::{
    bootstrap::{BootstrapFdError, read_bootstrap},
    place::PlaceError,
    rendezvous::{RendezvousFileError, read_rendezvous},
};
use self::{
    inbox::{Inbox, InboxError, Received},
    transport::LocalTransport,
};
use crate::Bus;

/// Time for the cell to answer HELLO.
const GREETING_MAX: Duration = Duration::from_secs(5);

/// Why job code has no bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The launcher left no usable bootstrap.
    #[error("bootstrap")]
    Bootstrap(#[from] BootstrapFdError),
    /// The rendezvous file cannot be used.
    #[error("rendezvous file")]
    Rendezvous(#[from] RendezvousFileError),
    /// The cell that answers is another one than the rendezvous file names.
    #[error("the job cell is {found}, the rendezvous file names {expected}")]
    OtherCell {
        /// The cell that answers.
        found: Fqcn,
        /// The one that was expected.
        expected: Fqcn,
    },
    /// What lies at the path is not a socket that only this user can have made.
    #[error("local socket")]
    Place(#[from] PlaceError),
    /// The connection could not be made, or broke before the cell had answered.
    #[error("connection to the job cell")]
    Io(#[from] io::Error),
    /// The process that listens belongs to another user.
    #[error("local socket is served by user {uid}")]
    ServedBy {
        /// That user.
        uid: u32,
    },
    /// The cell refuses the connection: the secret is wrong, used or expired, or the version is none
    /// that it speaks.
    #[error("the job cell refuses the connection: {0}")]
    Rejected(Status),
    /// The cell's answer is none.
    #[error("the job cell does not keep to the protocol: {0}")]
    Protocol(String),
    /// The cell did not answer in 5 s.
    #[error("the job cell does not answer")]
    TimedOut,
}

/// Connects as this process's launcher says: see [`read_bootstrap`].
///
/// # Errors
/// [`ConnectError`]. A second call in the same process fails: the bootstrap is read once, and the
/// secret in it is good for one connection.
pub async fn from_env() -> Result<Bus, ConnectError> {
    // A launcher may pass a pipe and fill it later.
    let bootstrap = tokio::task::spawn_blocking(read_bootstrap);
    let bootstrap = bootstrap.await.map_err(io::Error::other)??;
    connect(Path::new(&bootstrap.path), bootstrap.secret).await
}

/// Connects to the job cell that has written the rendezvous file at `path`, and removes the file: see
/// [`read_rendezvous`]. For a process that no cell has launched.
///
/// # Errors
/// [`ConnectError`]. The secret in the file is good for one connection.
pub async fn connect_attached(path: &Path) -> Result<Bus, ConnectError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_rendezvous(&path));
    let Rendezvous { path, secret, cell, .. } = read.await.map_err(io::Error::other)??;
    let bus = connect(Path::new(&path), secret).await?;
    match bus.name() {
        found if found == cell => Ok(bus),
        found => Err(ConnectError::OtherCell { found, expected: cell }),
    }
}

/// Connects to the socket at `path`, which must be this user's own: mode 0600 in a directory of
/// mode 0700.
///
/// # Errors
/// [`ConnectError`]. Whatever is wrong, the secret has been erased; it is sent only to a listener of
/// this user.
pub async fn connect(path: &Path, secret: Secret) -> Result<Bus, ConnectError> {
    let uid = rustix::process::geteuid().as_raw();
    place::check(path, uid)?;
    let mut socket = UnixStream::connect(path).await?;
    let listener = socket.peer_cred()?.uid();
    if listener != uid {
        return Err(ConnectError::ServedBy { uid: listener });
    }
    let mut hello = BytesMut::with_capacity(64);
    encode(&ToCell::Hello(Hello::new(secret)), &mut hello).expect("a HELLO is small");
    let sent = socket.write_all(&hello).await;
    hello[..].zeroize();
    let (read, write) = socket.into_split();
    let mut inbox = Inbox::new(read);
    // A cell that refuses at once may have closed before HELLO was written; its REJECT says why.
    let welcome = match timeout(GREETING_MAX, greeting(&mut inbox)).await {
        Err(_elapsed) => return Err(ConnectError::TimedOut),
        Ok(Ok(welcome)) => welcome,
        Ok(Err(ConnectError::Io(error))) => return Err(sent.err().unwrap_or(error).into()),
        Ok(Err(error)) => return Err(error),
    };
    sent?;
    inbox.set_limits(&welcome.limits);
    Ok(Bus::new(Arc::new(LocalTransport::start(welcome, inbox, write))))
}

async fn greeting(inbox: &mut Inbox<ToJob>) -> Result<Welcome, ConnectError> {
    use cellbus_proto::local::Frame as _;
    match inbox.next().await.map(|received| received.map(|Received { frame, .. }| frame)) {
        Ok(Some(ToJob::Welcome(welcome))) if Hello::speaks(welcome.version) => Ok(welcome),
        Ok(Some(ToJob::Reject { status })) => Err(ConnectError::Rejected(status)),
        Ok(Some(frame)) => Err(ConnectError::Protocol(format!("{} for WELCOME", frame.name()))),
        Ok(None) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Err(InboxError::Io(error)) => Err(error.into()),
        Err(error) => Err(ConnectError::Protocol(error.to_string())),
    }
}
