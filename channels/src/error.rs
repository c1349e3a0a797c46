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
    /// No reply arrived within the budget. The work may have been done.
    #[error("no reply from {to} within {budget:?}")]
    TimedOut {
        /// Where the request went.
        to: Fqcn,
        /// The budget that was spent.
        budget: Duration,
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
    /// The bus has been stopped.
    #[error("the bus is closed")]
    Closed,
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
    /// The bus has been stopped.
    #[error("the bus is closed")]
    Closed,
}

impl RequestError {
    /// The code: that of the return, `DEADLINE`, or `SHUTTING_DOWN`.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Returned { status, .. } => *status,
            Self::TimedOut { .. } => Status::Deadline,
            Self::Closed => Status::ShuttingDown,
        }
    }

    /// Whether the work can have been done.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Returned { status, .. } => status.class(),
            Self::TimedOut { .. } | Self::Closed => Class::Unknown,
        }
    }

    /// The cell that returned the request, where one did.
    #[must_use]
    pub fn by(&self) -> Option<&Fqcn> {
        match self {
            Self::Returned { by, .. } => Some(by),
            Self::TimedOut { .. } | Self::Closed => None,
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
