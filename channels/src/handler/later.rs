//! What a handler may ask for beyond returning one answer: to answer later, to answer more than once, and
//! to hear when nobody waits any more.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::{mpsc, oneshot};

use super::{Failure, Reply};

/// Replies of one handler that wait to leave.
const REPLIES_MAX: usize = 4;

/// Answers one message, once. Dropping it answers `HANDLER_GONE`.
#[derive(Debug)]
pub struct ReplyToken(Option<oneshot::Sender<Result<Reply, Failure>>>);

/// Sends replies that more follow. Clones send to the same requester.
#[derive(Clone, Debug)]
pub struct ReplySender(Option<mpsc::Sender<Reply>>);

/// Completes when nobody waits for a message any more.
#[derive(Debug)]
pub struct Cancelled(Option<oneshot::Receiver<()>>);

/// The reply was not taken: nobody waits any more, or one reply is all that the way to the requester
/// carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody waits for the reply")]
pub struct ReplyGone;

/// Between a handler and whoever runs it. Clones are one line.
#[derive(Clone, Default)]
pub struct Line(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Whether anything was asked for: most handlers ask for nothing, and cost one load.
    is_used: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_over: bool,
    takes_one: bool,
    asked: Asked,
    replies: Option<mpsc::Sender<Reply>>,
}

/// What a handler has asked for, to be taken once.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) deferred: Option<oneshot::Receiver<Result<Reply, Failure>>>,
    pub(crate) replies: Option<mpsc::Receiver<Reply>>,
    pub(crate) cancelled: Vec<oneshot::Sender<()>>,
}

impl ReplyToken {
    /// Answers.
    ///
    /// # Errors
    /// [`ReplyGone`] when nobody waits any more.
    pub fn answer(mut self, answer: Result<Reply, Failure>) -> Result<(), ReplyGone> {
        let sender = self.0.take().ok_or(ReplyGone)?;
        sender.send(answer).map_err(|_answer| ReplyGone)
    }

    /// Answers with a reply.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn reply(self, reply: impl Into<Reply>) -> Result<(), ReplyGone> {
        self.answer(Ok(reply.into()))
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl ReplySender {
    /// Sends one reply, as soon as few enough wait to leave.
    ///
    /// # Errors
    /// [`ReplyGone`].
    ///
    /// # Cancellation
    /// Dropping the future before it is ready sends nothing.
    pub async fn send(&self, reply: impl Into<Reply>) -> Result<(), ReplyGone> {
        let sender = self.0.as_ref().ok_or(ReplyGone)?;
        sender.send(reply.into()).await.map_err(|_reply| ReplyGone)
    }
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            // Told, or dropped with whatever ran the handler: either way nobody waits.
            Some(told) => Pin::new(told).poll(cx).map(|_told| ()),
            None => Poll::Ready(()),
        }
    }
}

impl Line {
    /// A line to a requester that takes one reply and no more.
    #[must_use]
    pub fn for_one_reply() -> Self {
        let line = Self::default();
        line.lock().takes_one = true;
        line
    }

    /// Whether nobody else has this line, or has ever asked or ended anything over it.
    pub(crate) fn is_as_new(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some_and(|shared| {
            let is_open = |state: &mut State| !state.is_over && !state.takes_one;
            !*shared.is_used.get_mut() && shared.state.get_mut().is_ok_and(is_open)
        })
    }

    /// Whether a handler has asked for anything over it, or may still: somebody has it beside whoever calls this and
    /// the delivery.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.is_used() || Arc::strong_count(&self.0) > 2
    }

    /// The line for another message, if it is as new: an allocation saved.
    #[must_use]
    pub fn reuse(mut self) -> Option<Self> {
        self.is_as_new().then_some(self)
    }

    fn is_used(&self) -> bool {
        self.0.is_used.load(Ordering::Acquire)
    }

    pub(super) fn defer(&self) -> ReplyToken {
        let mut state = self.lock();
        if state.is_over || state.asked.deferred.is_some() {
            return ReplyToken(None);
        }
        let (sender, receiver) = oneshot::channel();
        state.asked.deferred = Some(receiver);
        self.0.is_used.store(true, Ordering::Release);
        ReplyToken(Some(sender))
    }

    pub(super) fn replies(&self) -> ReplySender {
        let mut state = self.lock();
        if state.is_over || state.takes_one {
            return ReplySender(None);
        }
        if state.replies.is_none() {
            let (sender, receiver) = mpsc::channel(REPLIES_MAX);
            state.asked.replies = Some(receiver);
            state.replies = Some(sender);
            self.0.is_used.store(true, Ordering::Release);
        }
        ReplySender(state.replies.clone())
    }

    pub(super) fn cancelled(&self) -> Cancelled {
        let mut state = self.lock();
        if state.is_over {
            return Cancelled(None);
        }
        let (sender, receiver) = oneshot::channel();
        // Those that were dropped: a handler may ask in a loop.
        state.asked.cancelled.retain(|sender| !sender.is_closed());
        state.asked.cancelled.push(sender);
        self.0.is_used.store(true, Ordering::Release);
        Cancelled(Some(receiver))
    }

    /// What has been asked for since the last call; `None` where that is nothing, ever.
    pub(crate) fn take_asked(&self) -> Option<Asked> {
        self.is_used().then(|| std::mem::take(&mut self.lock().asked))
    }

    /// Nobody waits any more: what is asked for from now on comes too late.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.replies = None;
        let asked = std::mem::take(&mut state.asked);
        drop(state);
        drop(asked);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}
