//! One call of a handler, from its start to its one end: for whoever runs handlers.

use std::{
    future::{Future, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use cellbus_proto::status::Status;
use tokio::sync::{mpsc, oneshot};

use crate::{
    handler::{Delivery, Failure, Handler, Line, Reply},
    transport::BoxFuture,
};

/// A handler at work on one message. Dropping it ends the work: what was taken of it (tokens, senders)
/// finds nobody waiting.
pub struct Call {
    stage: Stage,
    /// None once it has been taken for the next call.
    line: Option<Line>,
    deferred: Option<oneshot::Receiver<Result<Reply, Failure>>>,
    replies: Option<mpsc::Receiver<Reply>>,
    cancelled: Vec<oneshot::Sender<()>>,
}

enum Stage {
    Running(BoxFuture<Result<Reply, Failure>>),
    /// The handler has returned, and whoever has the token has not answered.
    Deferred,
    /// What there is of replies leaves first.
    Ending(Outcome),
    Over,
}

/// Something that came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A reply that more follow.
    Reply(Reply),
    /// The end.
    End(Outcome),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With the last reply.
    Replied(Reply),
    /// With a failure, or without anybody being left to answer.
    Failed(Failure),
    /// The handler panicked.
    Panicked,
}

/// What a handler did that handles messages where they are.
pub struct AtOnce(Result<Result<Reply, Failure>, Panicked>);

/// The handler panicked.
struct Panicked;

impl AtOnce {
    /// Has `handler` do that, if it does.
    #[must_use]
    pub fn of(handler: &dyn Handler, delivery: &Delivery) -> Option<Self> {
        match catch_unwind(AssertUnwindSafe(|| handler.handle_at_once(delivery))) {
            Ok(outcome) => outcome.map(|outcome| Self(Ok(outcome))),
            Err(_panic) => Some(Self(Err(Panicked))),
        }
    }

    /// How that ended, for a handler that has asked for nothing over the line of its delivery.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self.0 {
            Ok(Ok(reply)) => Outcome::Replied(reply),
            Ok(Err(failure)) => Outcome::Failed(failure),
            Err(Panicked) => Outcome::Panicked,
        }
    }

    /// The rest of the call, for one that may have: over `line`, which was that of the delivery.
    #[must_use]
    pub fn over(self, line: Line) -> Call {
        let stage = match self.0 {
            Ok(outcome) => Stage::Running(Box::pin(ready(outcome))),
            Err(Panicked) => Stage::Ending(Outcome::Panicked),
        };
        Call::at(stage, line)
    }
}

impl Call {
    /// Calls `handler`. What it asks for is told over `line`.
    #[must_use]
    pub fn new(handler: &dyn Handler, delivery: Delivery, line: Line) -> Self {
        let delivery = delivery.over(line.clone());
        if let Some(done) = AtOnce::of(handler, &delivery) {
            return done.over(line);
        }
        let stage = match catch_unwind(AssertUnwindSafe(|| handler.handle(delivery))) {
            Ok(future) => Stage::Running(future),
            Err(_panic) => Stage::Ending(Outcome::Panicked),
        };
        Self::at(stage, line)
    }

    fn at(stage: Stage, line: Line) -> Self {
        Self { stage, line: Some(line), deferred: None, replies: None, cancelled: Vec::new() }
    }

    /// Goes on until something comes of it. After [`Step::End`] nothing does.
    pub fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            match &mut self.stage {
                Stage::Running(future) => {
                    let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
                    self.take_asked();
                    let outcome = match polled {
                        Ok(Poll::Pending) => return self.poll_reply(cx).map(Step::Reply),
                        Ok(Poll::Ready(Ok(_later))) if self.deferred.is_some() => {
                            self.stage = Stage::Deferred;
                            continue;
                        }
                        Ok(Poll::Ready(Ok(reply))) => Outcome::Replied(reply),
                        Ok(Poll::Ready(Err(failure))) => Outcome::Failed(failure),
                        Err(_panic) => Outcome::Panicked,
                    };
                    self.end_with(outcome);
                }
                Stage::Deferred => {
                    let answer = self.deferred.as_mut().map(|answer| Pin::new(answer).poll(cx));
                    let outcome = match answer {
                        Some(Poll::Pending) => return self.poll_reply(cx).map(Step::Reply),
                        Some(Poll::Ready(Ok(Ok(reply)))) => Outcome::Replied(reply),
                        Some(Poll::Ready(Ok(Err(failure)))) => Outcome::Failed(failure),
                        Some(Poll::Ready(Err(_))) | None => {
                            Outcome::Failed(Failure::Unknown(Status::HandlerGone))
                        }
                    };
                    self.end_with(outcome);
                }
                Stage::Ending(_) => {
                    if let Some(replies) = &mut self.replies {
                        replies.close();
                        if let Some(reply) = std::task::ready!(replies.poll_recv(cx)) {
                            return Poll::Ready(Step::Reply(reply));
                        }
                        self.replies = None;
                    }
                    if let Stage::Ending(outcome) = std::mem::replace(&mut self.stage, Stage::Over)
                    {
                        return Poll::Ready(Step::End(outcome));
                    }
                }
                Stage::Over => return Poll::Pending,
            }
        }
    }

    /// What comes of it next.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn step(&mut self) -> Step {
        std::future::poll_fn(|cx| self.poll_step(cx)).await
    }

    /// The end, without the replies before it.
    pub async fn end(mut self) -> Outcome {
        loop {
            if let Step::End(outcome) = self.step().await {
                return outcome;
            }
        }
    }

    /// Tells the handler that nobody waits any more. `true` where it has asked to be told, and is to get
    /// a moment before it is dropped.
    pub fn cancel(&mut self) -> bool {
        self.take_asked();
        self.end_line();
        self.replies = None;
        let told = std::mem::take(&mut self.cancelled).into_iter().map(|asked| asked.send(()));
        told.fold(false, |any, told| any | told.is_ok()) && matches!(self.stage, Stage::Running(_))
    }

    /// Its line for the next message, once the call has ended: an allocation saved. `None` where a handler holds
    /// on to it, or has asked for anything.
    #[must_use]
    pub fn into_line(mut self) -> Option<Line> {
        self.line.take_if(|line| line.is_as_new())
    }

    fn end_with(&mut self, outcome: Outcome) {
        self.take_asked();
        self.stage = Stage::Ending(outcome);
    }

    fn take_asked(&mut self) {
        if let Some(asked) = self.line.as_ref().and_then(Line::take_asked) {
            // What was asked for a second time has no receiver of its own; the first one stays.
            self.deferred = self.deferred.take().or(asked.deferred);
            self.replies = self.replies.take().or(asked.replies);
            self.cancelled.extend(asked.cancelled);
            self.cancelled.retain(|asked| !asked.is_closed());
        }
    }

    fn end_line(&self) {
        if let Some(line) = &self.line {
            line.end();
        }
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Reply> {
        match self.replies.as_mut().map(|replies| replies.poll_recv(cx)) {
            Some(Poll::Ready(Some(reply))) => Poll::Ready(reply),
            Some(Poll::Ready(None) | Poll::Pending) | None => Poll::Pending,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end_line();
    }
}
