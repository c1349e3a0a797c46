//! The answering side of a control socket: who may ask, how often, how long.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener as StdListener, UnixStream as StdStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cellbus_proto::status::Status;
use rustix::{
    fs::{
        AtFlags, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, renameat, statat,
        unlinkat,
    },
    io::Errno,
    process::geteuid,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    ControlError, Controlled, LocalCode, Reply, Request, SOCKET_FILE, VERSION,
    line::{Answer, Ask, AskVersion, LineError, Outcome, read_line, to_line, write_line},
    path::{address, open_dir},
};

mod conversation;

const LOCK_FILE: &str = "control.lock";
const NEW_SOCKET_FILE: &str = ".control.sock.new";
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a control socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The state directory belongs to somebody else, or others may enter it.
    #[error("{} has mode {mode:04o} and owner {owner}; it must be 0700 and ours", .dir.display())]
    NotPrivate {
        /// The directory.
        dir: PathBuf,
        /// Its permissions.
        mode: u32,
        /// The user it belongs to.
        owner: u32,
    },
    /// A live process answers on the socket, or is about to.
    #[error("another process serves {}", .path.display())]
    Taken {
        /// The socket file.
        path: PathBuf,
    },
    /// Something that is not a socket has the name of the socket; it is left alone.
    #[error("{} is in the way and is not a socket", .path.display())]
    InTheWay {
        /// What is in the way.
        path: PathBuf,
    },
    /// The file system or the socket layer refused.
    #[error("cannot open {}", .path.display())]
    Io {
        /// What could not be opened.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open control socket. Dropping it, or the future of [`serve`](Self::serve), removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: StdListener,
    file: SocketFile,
    limits: Limits,
}

/// What one asking side may use.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections: usize,
    /// Of these, requests that go on.
    conversations: usize,
    send: Duration,
}

/// Removes its file when it is dropped, unless the name has come to mean another file.
#[derive(Debug)]
struct SocketFile {
    dir: OwnedFd,
    path: PathBuf,
    device_and_inode: (u64, u64),
    /// Held for as long as the socket is served; the kernel gives it back if we die.
    _lock: File,
}

impl ControlSocket {
    /// Opens `control.sock` in `dir`, the state directory of a cell, which must be 0700 and ours.
    ///
    /// The socket file of a process that has died is replaced; that of one that answers is not.
    ///
    /// # Errors
    /// [`BindError`]; the directory is unchanged then, but for a lock file.
    pub fn bind(dir: &Path) -> Result<Self, BindError> {
        let path = dir.join(SOCKET_FILE);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source: Errno| BindError::Io { path, source: source.into() }
        };
        let fd = open_dir(dir).map_err(at(dir))?;
        check_private(dir, &fd)?;
        let lock = lock(&fd, &path)?;
        check_free(dir, &fd, &path)?;
        let listener =
            listen(dir, &fd).map_err(|source| BindError::Io { path: path.clone(), source })?;
        renameat(&fd, NEW_SOCKET_FILE, &fd, SOCKET_FILE).map_err(at(&path))?;
        let stat = statat(&fd, SOCKET_FILE, AtFlags::SYMLINK_NOFOLLOW).map_err(at(&path))?;
        let device_and_inode = (stat.st_dev, stat.st_ino);
        let file = SocketFile { dir: fd, path, device_and_inode, _lock: lock };
        let limits = Limits { connections: 32, conversations: 16, send: Duration::from_secs(5) };
        Ok(Self { listener, file, limits })
    }

    /// The socket file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Answers with what `cell` says, until the future is dropped.
    ///
    /// At most 32 requests are worked on at a time, 16 of them such that go on; more are told
    /// `OVERLOADED`. Each has 5 s to arrive and each reply and event 5 s to be taken. Worst-case memory: 32
    /// lines of 2 MiB each way, and for each conversation 64 events and 64 lines that wait.
    ///
    /// # Errors
    /// When the socket cannot be handed to the runtime. A failing accept is tried again.
    pub async fn serve(self, cell: Arc<dyn Controlled>) -> io::Result<std::convert::Infallible> {
        let Self { listener, file: _file, limits } = self;
        let listener = UnixListener::from_std(listener)?;
        let mut connections = JoinSet::new();
        let conversations = Arc::new(Semaphore::new(limits.conversations));
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() >= limits.connections => turn_away(stream),
                    Ok((stream, _)) => {
                        let cell = Arc::clone(&cell);
                        connections.spawn(answer(stream, cell, limits, Arc::clone(&conversations)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot accept; trying again");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a control request ended without an answer");
                    }
                }
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let current = statat(&self.dir, SOCKET_FILE, AtFlags::SYMLINK_NOFOLLOW);
        if current.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.device_and_inode) {
            // Nobody is left to tell; a file that stays is replaced by the next start.
            let _ = unlinkat(&self.dir, SOCKET_FILE, AtFlags::empty());
        }
    }
}

fn check_private(dir: &Path, fd: &OwnedFd) -> Result<(), BindError> {
    let stat =
        fstat(fd).map_err(|error| BindError::Io { path: dir.to_owned(), source: error.into() })?;
    let mode = Mode::from_raw_mode(stat.st_mode).bits();
    if stat.st_uid != geteuid().as_raw() || mode & 0o077 != 0 {
        return Err(BindError::NotPrivate { dir: dir.to_owned(), mode, owner: stat.st_uid });
    }
    Ok(())
}

fn lock(dir: &OwnedFd, path: &Path) -> Result<File, BindError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(dir, LOCK_FILE, flags, Mode::RUSR | Mode::WUSR);
    let taken = opened.and_then(|fd| {
        flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(File::from(fd))
    });
    taken.map_err(|error| {
        if error == Errno::WOULDBLOCK {
            return BindError::Taken { path: path.to_owned() };
        }
        BindError::Io { path: path.with_file_name(LOCK_FILE), source: error.into() }
    })
}

/// Nothing, or the socket of a process that has died, may have the name.
fn check_free(dir: &Path, fd: &OwnedFd, path: &Path) -> Result<(), BindError> {
    match statat(fd, SOCKET_FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(BindError::Io { path: path.to_owned(), source: error.into() }),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            return Err(BindError::InTheWay { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match StdStream::connect(address(dir, fd, SOCKET_FILE)) {
        Ok(_) => Err(BindError::Taken { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => Err(BindError::Io { path: path.to_owned(), source }),
    }
}

/// Listens under a name that nobody looks for, so that the real name only ever means a socket that
/// is private and answers.
fn listen(dir: &Path, fd: &OwnedFd) -> io::Result<StdListener> {
    let address = address(dir, fd, NEW_SOCKET_FILE);
    match unlinkat(fd, NEW_SOCKET_FILE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let listener = StdListener::bind(&address)?;
    fs::set_permissions(&address, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether a process of this user may ask a cell that runs as `own`.
fn may_ask(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

fn turn_away(stream: UnixStream) {
    let error = overloaded();
    // Does not block: one short line fits into the empty buffer of a new connection.
    let told = stream.into_std().and_then(|mut stream| stream.write(&answer_line(Err(error))));
    if let Err(error) = told {
        tracing::debug!(%error, "a control request was turned away unheard");
    }
}

fn overloaded() -> ControlError {
    let text = "too many control requests are being worked on";
    ControlError::status(Status::Overloaded, text).hint("try again in a moment")
}

async fn answer(
    mut stream: UnixStream,
    cell: Arc<dyn Controlled>,
    limits: Limits,
    conversations: Arc<Semaphore>,
) {
    let outcome = match stream.peer_cred() {
        Ok(peer) if may_ask(peer.uid(), geteuid().as_raw()) => {
            match timeout(limits.send, read_ask(&mut stream)).await {
                Ok(Ok(Some(ask))) if ask.request.goes_on() => match conversations.try_acquire() {
                    Ok(_place) => return converse(stream, cell, ask.request, limits).await,
                    Err(_taken) => Err(overloaded()),
                },
                Ok(Ok(Some(ask))) => {
                    cell.handle(ask.request.asked_by(peer.uid(), peer.pid())).await
                }
                Ok(Ok(None)) => return,
                Ok(Err(error)) => Err(error),
                Err(_) => {
                    let text = format!("the request did not arrive within {:?}", limits.send);
                    Err(ControlError::local(LocalCode::ControlSlow, text))
                }
            }
        }
        Ok(peer) => {
            let text = format!("user {} may not control this cell", peer.uid());
            tracing::warn!(uid = peer.uid(), "another user asked on the control socket");
            Err(ControlError::status(Status::Forbidden, text))
        }
        Err(error) => Err(ControlError::status(Status::Forbidden, error.to_string())),
    };
    let line = answer_line(outcome);
    match timeout(limits.send, write_line(&mut stream, &line)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a control reply was not taken"),
        Err(_) => tracing::debug!("a control reply was not taken in time"),
    }
}

async fn converse(stream: UnixStream, cell: Arc<dyn Controlled>, request: Request, limits: Limits) {
    if let Err(ended) = conversation::run(stream, &*cell, request, limits.send).await {
        tracing::debug!(error = %ended, "a conversation on the control socket was broken off");
    }
}

async fn read_ask(stream: &mut UnixStream) -> Result<Option<Ask>, ControlError> {
    let bad = |text: String| ControlError::local(LocalCode::ControlBadRequest, text);
    let line = match read_line(stream).await {
        Ok(Some(line)) => line,
        Ok(None) => return Ok(None),
        Err(error @ LineError::TooLong) => {
            return Err(ControlError::status(Status::TooLarge, error.to_string()));
        }
        Err(error @ (LineError::Cut | LineError::Trailing | LineError::Io(_))) => {
            return Err(bad(error.to_string()));
        }
    };
    let AskVersion { version } =
        serde_json::from_slice(&line).map_err(|error| bad(error.to_string()))?;
    if version != VERSION {
        let text = format!("this cell speaks version {VERSION}, not {version}");
        return Err(ControlError::status(Status::Version, text));
    }
    let ask: Ask = serde_json::from_slice(&line).map_err(|error| bad(error.to_string()))?;
    ask.request.check()?;
    Ok(Some(ask))
}

fn answer_line(outcome: Result<Reply, ControlError>) -> Vec<u8> {
    outcome_line(outcome.map_or_else(Outcome::Error, Outcome::Ok))
}

fn outcome_line(outcome: Outcome) -> Vec<u8> {
    let line = |outcome| to_line(&Answer { version: VERSION, outcome });
    line(outcome).unwrap_or_else(|error| {
        let text = format!("the answer cannot be sent: {error}");
        let error = ControlError::status(Status::TooLarge, text);
        line(Outcome::Error(error)).expect("a short error fits into a line")
    })
}

#[cfg(test)]
mod tests;
