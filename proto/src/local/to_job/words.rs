//! What the frames of a cell are made of.

use bytes::Bytes;

use super::super::{Body, Limits};
use crate::{
    envelope::TraceContext,
    identity::CellKind,
    name::{ChannelTopic, Fqcn, Segment},
    status::Status,
};

/// The answer to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both sides speak from here on.
    pub version: u16,
    /// The cell that job code speaks for.
    pub cell: Fqcn,
    /// The job it belongs to.
    pub job: Option<Segment>,
    /// Which launch of job code this is.
    pub attempt: Option<u32>,
    /// What job code was launched as.
    pub role: Option<Segment>,
    /// Milliseconds between the PINGs of the cell, three of which must not stay without any frame from
    /// job code; `None` where it sends none.
    pub heartbeat_ms: Option<u32>,
    /// What this connection may have outstanding.
    pub limits: Limits,
}

/// Something that happened around the cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of the EVENTS.
    pub id: u64,
    /// What happened.
    pub kind: EventKind,
    /// To which cell; `None` for [`EventKind::Lagged`].
    pub cell: Option<Fqcn>,
    /// Events that are missing, for [`EventKind::Lagged`]; else zero.
    pub missed: u64,
    /// How a job failed; else empty.
    pub detail: Bytes,
}

/// What happened around the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// A link carries messages.
    LinkUp = 0,
    /// A link has ended.
    LinkDown = 1,
    /// A cell has registered.
    CellUp = 2,
    /// A cell is registered no longer.
    CellDown = 3,
    /// A job runs.
    JobStarted = 4,
    /// A job has done what it was for.
    JobCompleted = 5,
    /// A job has ended otherwise.
    JobFailed = 6,
    /// Events are missing.
    Lagged = 7,
}

impl EventKind {
    /// Every kind, in order of its number.
    pub const ALL: [Self; 8] = [
        Self::LinkUp,
        Self::LinkDown,
        Self::CellUp,
        Self::CellDown,
        Self::JobStarted,
        Self::JobCompleted,
        Self::JobFailed,
        Self::Lagged,
    ];
}

/// What has become of a file that was served, at one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It has the bytes and has given a receipt.
    Stored,
    /// It has not got them, and this is why.
    Failed(Status),
    /// Nothing was heard of it.
    Missing,
}

/// A message for a handler of job code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Counts up from one; nothing to do with the ids of job code.
    pub id: u64,
    /// Who sent it, as verified by the cell.
    pub origin: Origin,
    /// What it was addressed to.
    pub target: ChannelTopic,
    /// Milliseconds left to answer; zero where nobody waits.
    pub budget_ms: u32,
    /// Whether somebody waits for the answer.
    pub expects_reply: bool,
    /// The message.
    pub body: Body,
    /// Headers of the application.
    pub headers: Bytes,
    /// The trace that the message belongs to; only for job code that speaks [`VERSION_TRACES`](super::super::VERSION_TRACES).
    pub trace: Option<TraceContext>,
}

/// Who sent a message, as verified by the cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The cell.
    pub name: Fqcn,
    /// What its certificate says it is.
    pub kind: CellKind,
    /// The organisation in its certificate.
    pub org: Segment,
    /// The job it belongs to, for a job cell.
    pub job: Option<Segment>,
}

/// What became of a HANDLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The handler is registered for as long as the connection lasts.
    Registered = 0,
    /// Something is registered for exactly this already.
    Taken = 1,
    /// The channel belongs to the system.
    Reserved = 2,
    /// The cell is stopping.
    Closed = 3,
    /// The connection has as many handlers as it may.
    TooMany = 4,
    /// Channel or topic are not names, or there is a topic and no channel.
    BadSelector = 5,
}

impl Outcome {
    /// Every outcome, in order of its number.
    pub const ALL: [Self; 6] = [
        Self::Registered,
        Self::Taken,
        Self::Reserved,
        Self::Closed,
        Self::TooMany,
        Self::BadSelector,
    ];
}

impl Settled {
    pub(super) fn to_wire(self) -> (u8, Option<Status>) {
        match self {
            Self::Stored => (0, None),
            Self::Failed(status) => (1, Some(status)),
            Self::Missing => (2, None),
        }
    }

    pub(super) fn from_wire(end: u8, status: Option<Status>) -> Option<Self> {
        match (end, status) {
            (0, None) => Some(Self::Stored),
            (1, Some(status)) => Some(Self::Failed(status)),
            (2, None) => Some(Self::Missing),
            _ => None,
        }
    }
}
