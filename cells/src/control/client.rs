//! The asking side of a control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use cellbus_proto::status::Status;
use rustix::process::geteuid;
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{
    ControlError, ErrorClass, Event, LocalCode, Reply, Request, Say, VERSION, WrongReply,
    line::{Answer, Ask, LineError, Lines, Outcome, read_line, to_line, write_line},
    path::{address, open_dir},
};

const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A connection to the control socket of a running cell, good for one request.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
    path: PathBuf,
}

/// A request that goes on. Dropping it hangs up.
#[derive(Debug)]
pub struct Conversation {
    reading: OwnedReadHalf,
    writing: OwnedWriteHalf,
    lines: Lines,
    path: PathBuf,
}

/// What comes next in a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Something that the cell tells.
    Event(Event),
    /// The cell has ended it.
    End(Reply),
}

impl Conversation {
    /// What the cell tells next, however long that takes.
    ///
    /// # Errors
    /// What the cell says, or that it says nothing that can be understood. Nothing comes after an error.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Next, ControlError> {
        let line = match self.lines.next(&mut self.reading).await {
            Ok(Some(line)) => line,
            Ok(None) => return Err(bad_reply(&self.path, &LineError::Cut)),
            Err(error) => return Err(bad_reply(&self.path, &error)),
        };
        match understood(&self.path, &line)? {
            Outcome::Event(event) => Ok(Next::Event(event)),
            Outcome::Ok(reply) => Ok(Next::End(reply)),
            Outcome::Error(error) => Err(error),
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// `TOO_LARGE` when it fits into no line; when the cell has hung up.
    pub async fn say(&mut self, say: &Say) -> Result<(), ControlError> {
        let line = to_line(say).map_err(|error| too_large(&error))?;
        let written = write_line(&mut self.writing, &line).await;
        written.map_err(|error| bad_reply(&self.path, &error))
    }
}

impl ControlClient {
    /// Connects to the socket file at `path`.
    ///
    /// # Errors
    /// [`LocalCode::CellNotRunning`] when nobody listens there, [`LocalCode::ControlDenied`] when
    /// this user may not, or another user than this one or root listens.
    pub async fn connect(path: &Path) -> Result<Self, ControlError> {
        let connecting = timeout(CONNECT_TIME, open(path));
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let stream = connecting
            .await
            .map_err(late)
            .and_then(|opened| opened)
            .map_err(|error| cannot_connect(path, &error))?;
        let peer = stream.peer_cred().map_err(|error| cannot_connect(path, &error))?.uid();
        let own = geteuid().as_raw();
        if peer != own && peer != 0 && own != 0 {
            let text = format!("{} is served by user {peer}, not by this user", path.display());
            return Err(ControlError::local(LocalCode::ControlDenied, text));
        }
        Ok(Self { stream, path: path.to_owned() })
    }

    /// Asks `request` and waits for the answer, at most [`Request::patience`].
    ///
    /// # Errors
    /// What the cell says, or that it says nothing that can be understood.
    pub async fn ask<T>(self, request: Request) -> Result<T, ControlError>
    where
        T: TryFrom<Reply, Error = WrongReply>,
    {
        let path = self.path.clone();
        let reply = self.ask_any(request).await?;
        T::try_from(reply).map_err(|error| bad_reply(&path, &error))
    }

    /// As [`ask`](Self::ask), for whichever reply comes.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn ask_any(mut self, request: Request) -> Result<Reply, ControlError> {
        request.check()?;
        let patience = request.patience();
        let line =
            to_line(&Ask { version: VERSION, request }).map_err(|error| too_large(&error))?;
        let answered = timeout(patience, self.exchange(&line)).await;
        answered.unwrap_or_else(|_| {
            let path = self.path.display();
            let text = format!("no answer on {path} within {patience:?}");
            Err(ControlError::status(Status::Deadline, text))
        })
    }

    /// Asks `request`, which goes on, and leaves it to the caller to hear what comes.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub async fn converse(mut self, request: Request) -> Result<Conversation, ControlError> {
        request.check()?;
        let line =
            to_line(&Ask { version: VERSION, request }).map_err(|error| too_large(&error))?;
        // A cell that refuses early closes its end while we still write; why comes with the first event.
        let _ = write_line(&mut self.stream, &line).await;
        let (reading, writing) = self.stream.into_split();
        Ok(Conversation { reading, writing, lines: Lines::default(), path: self.path })
    }

    async fn exchange(&mut self, line: &[u8]) -> Result<Reply, ControlError> {
        // A cell that refuses early closes its end while we still write; why is in its answer.
        let written = write_line(&mut self.stream, line).await;
        let answer = match read_line(&mut self.stream).await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                let error = written.err().map_or(LineError::Cut, LineError::Io);
                return Err(bad_reply(&self.path, &error));
            }
            Err(error) => return Err(bad_reply(&self.path, &error)),
        };
        match understood(&self.path, &answer)? {
            Outcome::Ok(reply) => Ok(reply),
            Outcome::Error(error) => Err(error),
            Outcome::Event(_) => Err(bad_reply(&self.path, &WrongReply)),
        }
    }
}

fn understood(path: &Path, answer: &[u8]) -> Result<Outcome, ControlError> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| bad_reply(path, &error))?;
    if answer.version != VERSION {
        let Answer { version, .. } = answer;
        let text = format!("the cell answers with version {version} instead of {VERSION}");
        return Err(ControlError::status(Status::Version, text));
    }
    Ok(answer.outcome)
}

fn too_large(error: &LineError) -> ControlError {
    ControlError::status(Status::TooLarge, format!("the request cannot be sent: {error}"))
}

async fn open(path: &Path) -> io::Result<UnixStream> {
    let (Some(dir), Some(file)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return UnixStream::connect(path).await;
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let fd = open_dir(dir)?;
    UnixStream::connect(address(dir, &fd, file)).await
}

fn cannot_connect(path: &Path, error: &io::Error) -> ControlError {
    let (shown, kind) = (path.display(), error.kind());
    if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        return ControlError::local(
            LocalCode::CellNotRunning,
            format!("nobody answers on {shown}"),
        )
        .hint("start it with `cellbus up FILE`, or choose another one with --at or --state");
    }
    if kind == io::ErrorKind::PermissionDenied {
        return ControlError::local(LocalCode::ControlDenied, format!("{shown}: {error}"))
            .hint("run the command as the user that runs the cell");
    }
    ControlError {
        class: Some(ErrorClass::Refused),
        ..ControlError::local(LocalCode::ControlIo, format!("{shown}: {error}"))
    }
}

fn bad_reply(path: &Path, error: &dyn std::error::Error) -> ControlError {
    let text = format!("what answered on {} is not understood: {error}", path.display());
    ControlError::local(LocalCode::ControlBadReply, text)
}
