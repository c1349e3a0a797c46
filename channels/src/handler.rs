//! What answers messages.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    envelope::TraceContext,
    identity::CellKind,
    name::{Channel, ChannelTopic, Fqcn, Segment},
    status::Status,
};

use crate::{trace, transport::BoxFuture};

mod later;
mod options;
#[cfg(test)]
mod tests;

pub use self::{
    later::{Cancelled, Line, ReplyGone, ReplySender, ReplyToken},
    options::HandlerOptions,
};

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
    pub origin: Arc<Origin>,
    /// What it was addressed to.
    pub target: ChannelTopic,
    /// The payload.
    pub payload: Bytes,
    /// Media type of the payload, where the sender gave one.
    pub content_type: Option<Arc<str>>,
    /// Headers of the application, where the sender gave some.
    pub headers: Bytes,
    /// The trace of what the handler sends, where the message has one: for tasks that it starts.
    pub trace: Option<TraceContext>,
    /// Time left to answer; what is left of it at a publish is the time that its handler may run.
    pub budget: Duration,
    /// Whether somebody waits for what the handler answers.
    pub expects_reply: bool,
    /// Whether no cell on the way could read it; none can read the answer then, either.
    pub is_sealed: bool,
    line: Line,
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
/// The future is dropped when the requester gives up or the budget is spent; one that has called
/// [`Delivery::cancelled`] is told and gets a second to clean up. A future that is ready when it is first
/// polled costs no task, and it is polled first on the thread of its cell: it must not block.
pub trait Handler: Send + Sync + 'static {
    /// Handles one message. The reply to a publish is discarded.
    fn handle(&self, delivery: Delivery) -> BoxFuture<Result<Reply, Failure>>;

    /// Handles one message where it is, without a future; `None`: nothing was done, and [`Self::handle`] is called.
    ///
    /// Default: nothing is.
    fn handle_at_once(&self, delivery: &Delivery) -> Option<Result<Reply, Failure>> {
        let _never_handled = delivery;
        None
    }
}

/// What a handler is registered for.
///
/// Exactly one handler is called for a message: that of its channel and topic; else that of its channel;
/// else the one for everything. Where the more specific one refuses or fails, no other is asked.
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

impl Reply {
    /// What a handler returns that has taken a [`ReplyToken`]: the token's answer counts, not this.
    #[must_use]
    pub fn later() -> Self {
        Self::default()
    }
}

impl Delivery {
    /// A message with no content type and no headers, of which somebody expects a reply within 30 s.
    #[must_use]
    pub fn new(
        origin: impl Into<Arc<Origin>>,
        target: ChannelTopic,
        payload: impl Into<Bytes>,
    ) -> Self {
        Self {
            origin: origin.into(),
            target,
            payload: payload.into(),
            content_type: None,
            headers: Bytes::new(),
            trace: None,
            budget: Duration::from_secs(30),
            expects_reply: true,
            is_sealed: false,
            line: Line::default(),
        }
    }

    /// The same, with what it asks for told over `line`.
    #[must_use]
    pub fn over(mut self, line: Line) -> Self {
        self.line = line;
        self
    }

    /// Takes the answer out of the handler's hands: it may return [`Reply::later`], and whoever holds the
    /// token answers, from anywhere, until the budget is spent.
    ///
    /// The first token taken is the one that counts. An error that the handler returns counts before it.
    #[must_use = "a token that is dropped answers HANDLER_GONE"]
    pub fn defer(&self) -> ReplyToken {
        self.line.defer()
    }

    /// Sends replies before the last one, which is what the handler returns; an error that it returns ends
    /// them.
    #[must_use]
    pub fn replies(&self) -> ReplySender {
        self.line.replies()
    }

    /// Completes when nobody waits for this message any more: it was cancelled, its budget is spent, or it
    /// has been answered. A handler that asked has a second then before it is dropped.
    #[must_use]
    pub fn cancelled(&self) -> Cancelled {
        self.line.cancelled()
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

/// A handler from a function or closure that blocks: that computes for long, sleeps, or waits for a disk. It runs on a
/// thread of its own, so that its cell goes on meanwhile, heartbeats included.
///
/// It cannot be stopped: when the requester gives up or the budget is spent, its answer is discarded.
///
/// # Panics
/// Its messages are answered as those of any handler that panics, where it does; and where it is called outside of a
/// tokio runtime.
pub fn from_blocking_fn<F>(function: F) -> impl Handler
where
    F: Fn(Delivery) -> Result<Reply, Failure> + Send + Sync + 'static,
{
    let function = Arc::new(function);
    from_fn(move |delivery| {
        let (function, trace) = (Arc::clone(&function), trace::current());
        let work = tokio::task::spawn_blocking(move || trace::within(trace, || function(delivery)));
        async move { joined(work.await) }
    })
}

struct FromSyncFn<F>(F);

impl<F> Handler for FromSyncFn<F>
where
    F: Fn(&Delivery) -> Result<Reply, Failure> + Send + Sync + 'static,
{
    fn handle(&self, delivery: Delivery) -> BoxFuture<Result<Reply, Failure>> {
        Box::pin(std::future::ready((self.0)(&delivery)))
    }

    fn handle_at_once(&self, delivery: &Delivery) -> Option<Result<Reply, Failure>> {
        Some((self.0)(delivery))
    }
}

/// A handler from a function or closure that is done in microseconds, and waits for nothing: for messages that come by
/// the hundred thousand, since it costs no future. It runs on the thread of its cell, which does nothing else meanwhile.
pub fn from_sync_fn<F>(function: F) -> impl Handler
where
    F: Fn(&Delivery) -> Result<Reply, Failure> + Send + Sync + 'static,
{
    FromSyncFn(function)
}

/// What a handler has said on another thread.
pub(crate) fn joined(
    work: Result<Result<Reply, Failure>, tokio::task::JoinError>,
) -> Result<Reply, Failure> {
    work.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The runtime ends, and the cell with it.
        Err(_) => Err(Failure::Unknown(Status::HandlerGone)),
    })
}

/// A handler from an async function or closure. It must not block: [`from_blocking_fn`] is for what does, and
/// [`apart`](crate::apart) for what may.
pub fn from_fn<F, Fut>(function: F) -> impl Handler
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    FromFn(function)
}
