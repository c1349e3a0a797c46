//! Why something was not served, fetched, sent or gathered.

use std::{io, path::PathBuf};

use cellbus_proto::{
    status::Status,
    transfer::{BadReference, KeyError, NotOpened, Unfit},
};

use crate::error::{HandleError, RequestError};

/// Why something is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The source cannot be read.
    #[error("the source cannot be read")]
    Source(#[from] SourceError),
    /// No reference can describe it.
    #[error("there is no reference to it")]
    Reference(#[from] BadReference),
    /// This bus carries no conduits, or its cell has no key to sign with.
    #[error("this connection to the cell carries no transfers")]
    NotCarried,
    /// The cell does not sign the reference.
    #[error("the reference is not signed: {0}")]
    NotSigned(Status),
    /// Something else answers the conduits of this cell.
    #[error("the conduits of this cell are served by something else")]
    Handle(#[source] HandleError),
    /// A transfer of this id is served already.
    #[error("a transfer of this id is served already")]
    Taken,
}

/// Why a source gives no bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The operating system refused a step.
    #[error("cannot {action} {path}")]
    Io {
        /// The step.
        action: &'static str,
        /// What it was to be done to.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It is no regular file.
    #[error("{0} is no regular file")]
    Kind(PathBuf),
    /// It is no longer what its reference describes.
    #[error("the source has changed")]
    Changed,
    /// It gives more bytes than was said.
    #[error("the source gives more than {0} bytes")]
    TooLarge(u64),
    /// A reader is among the parts of an object; their sizes have to be known.
    #[error("a reader cannot be a part of an object")]
    Nested,
    /// The reader failed.
    #[error("the reader failed")]
    Reader(#[source] io::Error),
}

/// Why a sink takes no bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The operating system refused a step.
    #[error("cannot {action} {path}")]
    Io {
        /// The step.
        action: &'static str,
        /// What it was to be done to.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The path names no file, or its name is too long for a part beside it.
    #[error("{0} is no name for a file that is fetched")]
    Name(PathBuf),
    /// What stands there is not what a part has to be: a regular file of this user, open to nobody else.
    #[error("{path} is not a part of ours: {why}")]
    Foreign {
        /// Where it stands.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another fetch writes this part.
    #[error("{0} is being written by another fetch")]
    Busy(PathBuf),
    /// More bytes than the sink takes.
    #[error("more than {0} bytes")]
    TooLarge(u64),
    /// No memory for so many bytes.
    #[error("no memory for {0} bytes")]
    NoMemory(u64),
    /// A writer cannot go back, and would have had to.
    #[error("what was written cannot be taken back")]
    NoWayBack,
    /// The writer failed.
    #[error("the writer failed")]
    Writer(#[source] io::Error),
    /// What has come is not what the holder has sealed: a cell on the way has changed it.
    #[error("what has come cannot be opened")]
    NotOpened(#[from] NotOpened),
    /// Whoever combines what is gathered does not take it.
    #[error("not combined: {0}")]
    NotCombined(String),
    /// The work on the sink was broken off.
    #[error("the work on the sink was broken off")]
    BrokenOff,
}

/// Why a fetch has not stored everything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The reference is of no use here; nothing was asked for.
    #[error("the reference is of no use")]
    Unfit(#[from] Unfit),
    /// Reference and key do not go together; nothing was asked for.
    #[error("the key is of no use")]
    Key(#[from] KeyError),
    /// Whether the holder has signed the reference cannot be known now; nothing was asked for.
    #[error("the signature of the reference cannot be verified")]
    Unverified(#[source] RequestError),
    /// The sink takes no bytes.
    #[error("the sink takes no bytes")]
    Sink(#[from] SinkError),
    /// It was given up, refused by the holder or a cell on the way, or stood still for too long.
    #[error("the transfer has failed: {0}")]
    Failed(Status),
    /// The bus has been stopped. A file can be gone on with.
    #[error("the bus is closed")]
    Closed,
}

impl SourceError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What receivers are told.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Changed => Status::SourceChanged,
            Self::TooLarge(_) => Status::TooLarge,
            Self::Io { .. } | Self::Kind(_) | Self::Nested | Self::Reader(_) => {
                Status::HandlerFailed
            }
        }
    }
}

impl SinkError {
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: source.into() }
    }

    /// What a writer says, or what opens what it gets.
    pub(super) fn of_writer(error: io::Error) -> Self {
        error.downcast::<NotOpened>().map_or_else(Self::Writer, Self::NotOpened)
    }

    /// What the holder is told.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Io { source, .. } | Self::Writer(source) => {
                let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
                if full.contains(&source.kind()) {
                    Status::StorageFull
                } else {
                    Status::HandlerFailed
                }
            }
            Self::TooLarge(_) | Self::NoMemory(_) => Status::TooLarge,
            Self::NoWayBack => Status::SourceChanged,
            Self::NotOpened(_) => Status::SealBroken,
            Self::Name(_)
            | Self::Foreign { .. }
            | Self::Busy(_)
            | Self::NotCombined(_)
            | Self::BrokenOff => Status::HandlerFailed,
        }
    }
}

impl FetchError {
    /// The code.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Unfit(unfit) => unfit.status(),
            Self::Key(error) => error.status(),
            Self::Unverified(error) => error.status(),
            Self::Sink(error) => error.status(),
            Self::Failed(status) => *status,
            Self::Closed => Status::ShuttingDown,
        }
    }
}
