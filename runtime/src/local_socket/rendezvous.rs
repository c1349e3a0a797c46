//! A socket for a process that this cell does not launch, and the file by which that process finds it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cellbus_channels::Bus;
use cellbus_proto::local::Rendezvous;

use super::{BindError, Ended, LaunchSecret, LocalSocket, Options, Refusals};
use crate::secret_file::{SecretFileError, write_secret_file};

/// Between two signs of life that are asked of the process that comes.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Name of the socket, beside its file.
const SOCKET: &str = "attach.sock";
/// Name of the file.
const FILE: &str = "attach";

/// Waits for one process that somebody else starts: a notebook, a debugger, a step of a cluster job.
///
/// The directory is this user's own, with mode 0700; in it lie the socket and the rendezvous file, with mode
/// 0600. Whoever reads the file first removes it; the secret in it is good for one connection. Dropping this
/// removes both.
#[derive(Debug)]
pub struct Meeting {
    socket: LocalSocket,
    secret: LaunchSecret,
    options: Options,
    file: RendezvousFile,
}

/// Why nobody can be met.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeetingError {
    /// The socket cannot be made.
    #[error("the socket for attaching")]
    Bind(#[from] BindError),
    /// The file cannot be written.
    #[error("the rendezvous file")]
    File(#[from] SecretFileError),
    /// There is no secret to be had.
    #[error("a secret for attaching")]
    Secret(#[source] io::Error),
}

/// Removed when dropped, if it is still there.
#[derive(Debug)]
struct RendezvousFile(PathBuf);

impl Drop for RendezvousFile {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Ok(()) => {}
            // Read, and so removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "rendezvous file is not removed"),
        }
    }
}

impl Meeting {
    /// Offers a meeting in `directory` with `bus`'s cell, for `lifetime` from now.
    ///
    /// The process that comes is asked for a sign of life every 5 s, unless `options` say otherwise.
    ///
    /// # Errors
    /// [`MeetingError`]: the directory is not this user's own alone, or something lies in it already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn offer(
        directory: &Path,
        bus: &Bus,
        lifetime: Duration,
        mut options: Options,
    ) -> Result<Self, MeetingError> {
        let socket = LocalSocket::bind(directory, SOCKET)?;
        let secret = LaunchSecret::good_for(lifetime).map_err(MeetingError::Secret)?;
        let secret = secret.made_for(bus.name(), options.launch.clone());
        options.heartbeat.get_or_insert(HEARTBEAT);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + lifetime;
        let rendezvous = Rendezvous {
            path: socket.path().to_str().expect("a socket has a path that is text").to_owned(),
            secret: secret.secret().clone(),
            cell: bus.name(),
            job: options.launch.job.clone(),
            expires_unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        };
        let path = directory.join(FILE);
        write_secret_file(&path, &rendezvous.encode())?;
        Ok(Self { socket, secret, options, file: RendezvousFile(path) })
    }

    /// The rendezvous file: what [`cellbus_channels::local::connect_attached`] reads.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file.0
    }

    /// How many connections have been refused, and why.
    #[must_use]
    pub fn refusals(&self) -> std::sync::Arc<Refusals> {
        self.socket.refusals()
    }

    /// Lets the process in that knows the secret and bridges it to `bus`, as [`LocalSocket::serve`] does.
    pub async fn serve(self, bus: Bus) -> Ended {
        let Self { socket, secret, options, file: _until_the_end } = self;
        socket.serve(bus, secret, options).await
    }
}
