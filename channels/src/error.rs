//! How an operation on the bus can fail.

use std::time::Duration;

use bytes::Bytes;
use cellbus_proto::{
    name::Fqcn,
    status::{Class, Status},
};

/// Why a request produced no reply.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A cell on the path, or the destination, refused or failed the message.
    #[error("returned by {by}: {status}{}", detail_suffix(detail))]
    Returned {
        /// The cell that gave the status.
        by: Fqcn,
        /// Why.
        status: Status,
        /// What the handler said, for [`Status::HandlerFailed`]; else empty.
        detail: Bytes,
    },
    /// No reply arrived within the budget. The work may have been done. Comes where the message, or the
    /// answer that says where it died, was lost; else that answer is the error.
    #[error("no reply from {to} within {budget:?}")]
    TimedOut {
        /// Where the request went.
        to: Fqcn,
        /// The budget that was spent.
        budget: Duration,
    },
    /// The sender waited no longer: enough other cells had answered. The work may have been done.
    #[error("{to} was not waited for")]
    Cancelled {
        /// Where the request went.
        to: Fqcn,
    },
    /// Replies came faster than they were taken, so the rest was cancelled. The work has been begun.
    #[error("the replies of {from} were not taken in time")]
    SlowConsumer {
        /// Where they came from.
        from: Fqcn,
    },
    /// The bus has been stopped. The work may have been done.
    #[error("the bus is closed")]
    Closed,
}

/// Why a publish was not taken over.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// This cell refused it; nothing was sent.
    #[error("refused by {by}: {status}")]
    Refused {
        /// The cell that gave the status.
        by: Fqcn,
        /// Why.
        status: Status,
    },
    /// The receipt that was asked for did not come, for a reason that leaves open whether the message
    /// arrived.
    #[error("no receipt")]
    NoReceipt(#[source] RequestError),
    /// The bus has been stopped.
    #[error("the bus is closed")]
    Closed,
}

/// Why a call of a typed endpoint gave no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request has no form on the wire; nothing was sent.
    #[error("the request cannot be encoded")]
    Encode(#[source] rmp_serde::encode::Error),
    /// The request produced no reply.
    #[error("the request failed")]
    Request(#[from] RequestError),
    /// The reply is of another media type than the endpoint's. The work has been done.
    #[error("the reply is of the media type {0:?}")]
    ContentType(Option<std::sync::Arc<str>>),
    /// The reply is not what the endpoint promises. The work has been done.
    #[error("the reply cannot be decoded")]
    Decode(#[source] rmp_serde::decode::Error),
}

/// Why a handler was not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// Something is registered for exactly this selector.
    #[error("{0} has a handler already")]
    Taken(String),
    /// The channel belongs to the system.
    #[error("channel `{0}` belongs to the system")]
    Reserved(String),
    /// The connection to the cell carries as many handlers as it may.
    #[error("too many handlers")]
    TooMany,
    /// The connection to the cell does not carry what the handler is for.
    #[error("this connection to the cell carries no such messages")]
    NotCarried,
    /// The bus has been stopped.
    #[error("the bus is closed")]
    Closed,
}

impl RequestError {
    /// The code: that of the return; `DEADLINE` where nothing was waited for any longer, `SLOW_CONSUMER`
    /// or `SHUTTING_DOWN`.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Returned { status, .. } => *status,
            Self::TimedOut { .. } | Self::Cancelled { .. } => Status::Deadline,
            Self::SlowConsumer { .. } => Status::SlowConsumer,
            Self::Closed => Status::ShuttingDown,
        }
    }

    /// Whether the work can have been done.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Returned { status, .. } => status.class(),
            Self::TimedOut { .. }
            | Self::Cancelled { .. }
            | Self::SlowConsumer { .. }
            | Self::Closed => Class::Unknown,
        }
    }

    /// The cell that returned the request, where one did.
    #[must_use]
    pub fn by(&self) -> Option<&Fqcn> {
        match self {
            Self::Returned { by, .. } => Some(by),
            Self::TimedOut { .. }
            | Self::Cancelled { .. }
            | Self::SlowConsumer { .. }
            | Self::Closed => None,
        }
    }
}

impl PublishError {
    /// The code: that of the refusal, or of what stands for the receipt.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Refused { status, .. } => *status,
            Self::NoReceipt(error) => error.status(),
            Self::Closed => Status::ShuttingDown,
        }
    }

    /// Whether the message can have arrived.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { .. } => Class::Refused,
            Self::NoReceipt(error) => error.class(),
            Self::Closed => Class::Unknown,
        }
    }
}

impl From<RequestError> for PublishError {
    /// What the missing receipt says about the publish.
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Returned { by, status, .. } if status.class() == Class::Refused => {
                Self::Refused { by, status }
            }
            RequestError::Closed => Self::Closed,
            error @ (RequestError::Returned { .. }
            | RequestError::TimedOut { .. }
            | RequestError::Cancelled { .. }
            | RequestError::SlowConsumer { .. }) => Self::NoReceipt(error),
        }
    }
}

impl CallError {
    /// The code: that of the request; `HANDLER_FAILED` for a reply that is none, `BAD_HEADER` for a
    /// request that could not be made.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Encode(_) => Status::BadHeader,
            Self::Request(error) => error.status(),
            Self::ContentType(_) | Self::Decode(_) => Status::HandlerFailed,
        }
    }
}

fn detail_suffix(detail: &Bytes) -> String {
    if detail.is_empty() {
        return String::new();
    }
    let text: String = String::from_utf8_lossy(&detail[..detail.len().min(512)])
        .chars()
        .flat_map(char::escape_debug)
        .collect();
    format!(" ({text})")
}
