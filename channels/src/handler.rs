//! What answers messages.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    identity::CellKind,
    name::{Channel, ChannelTopic, Fqcn, Segment},
    status::Status,
};

use crate::transport::BoxFuture;

/// Who sent a message, as verified by the receiving cell. Nothing here is the sender's own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The cell.
    pub name: Fqcn,
    /// What kind of cell its certificate says it is.
    pub kind: CellKind,
    /// The organisation in its certificate.
    pub org: Segment,
    /// The job it belongs to, for a job cell.
    pub job: Option<Segment>,
}

/// One message, handed to a handler.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who sent it.
    pub origin: Origin,
    /// What it was addressed to.
    pub target: ChannelTopic,
    /// The payload.
    pub payload: Bytes,
    /// Media type of the payload, where the sender gave one.
    pub content_type: Option<Arc<str>>,
    /// Time left to answer; zero for a publish.
    pub budget: Duration,
    /// Whether somebody waits for an answer.
    pub expects_reply: bool,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The payload.
    pub payload: Bytes,
    /// Media type of the payload.
    pub content_type: Option<Arc<str>>,
}

/// Why a handler has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The handler did not do the work, and says why with a status of class *refused*.
    Refused(Status),
    /// The handler ran and failed; the bytes tell the requester how. At most 4 KiB travel.
    Failed(Bytes),
    /// Nobody knows how far the handler came: it broke down, or whoever ran it has gone. The status
    /// is of class *unknown*.
    Unknown(Status),
}

/// Answers the messages of what it is registered for.
///
/// The future is dropped when the requester gives up or the budget is spent.
pub trait Handler: Send + Sync + 'static {
    /// Handles one message. The reply to a publish is discarded.
    fn handle(&self, delivery: Delivery) -> BoxFuture<Result<Reply, Failure>>;
}

/// What a handler is registered for; the most specific one that matches is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// One channel and topic.
    Exact(ChannelTopic),
    /// Every topic of a channel.
    Channel(Channel),
    /// Everything that is not of the system.
    All,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(target) => write!(f, "{target}"),
            Self::Channel(channel) => write!(f, "{channel}/*"),
            Self::All => f.write_str("*/*"),
        }
    }
}

impl From<ChannelTopic> for Selector {
    fn from(target: ChannelTopic) -> Self {
        Self::Exact(target)
    }
}

impl From<Bytes> for Reply {
    fn from(payload: Bytes) -> Self {
        Self { payload, content_type: None }
    }
}

impl From<Vec<u8>> for Reply {
    fn from(payload: Vec<u8>) -> Self {
        Bytes::from(payload).into()
    }
}

impl Failure {
    /// A failure with a text for people.
    #[must_use]
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(Bytes::from(text.into()))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

struct FromFn<F>(F);

impl<F, Fut> Handler for FromFn<F>
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    fn handle(&self, delivery: Delivery) -> BoxFuture<Result<Reply, Failure>> {
        Box::pin((self.0)(delivery))
    }
}

/// A handler from an async function or closure.
pub fn from_fn<F, Fut>(function: F) -> impl Handler
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    FromFn(function)
}
