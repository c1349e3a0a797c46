//! Several replies to one request, one after the other, in a buffer that is bounded.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use cellbus_proto::name::{ChannelTopic, Fqcn};
use futures_core::Stream;

use crate::{error::RequestError, filter::Filters, handler::Reply, passage, transport::BoxStream};

/// Replies that wait to be taken, at most.
pub const REPLIES_MAX: usize = 64;
/// Bytes of replies that wait to be taken, at most.
pub const REPLIES_BYTES_MAX: usize = 4 << 20;

/// The replies to one request, in the order in which the handler gave them.
///
/// Ends exactly once: after the last reply, or after one error, which says why no more come. At most
/// [`REPLIES_MAX`] replies and [`REPLIES_BYTES_MAX`] bytes wait to be taken; one more ends the stream with
/// [`RequestError::SlowConsumer`], after those that wait, and the handler is cancelled. Dropping the stream
/// cancels the handler.
#[must_use = "a stream does nothing until it is polled"]
pub struct Replies {
    inner: Option<BoxStream<Result<Reply, RequestError>>>,
    filters: Filters,
    me: Fqcn,
    from: Fqcn,
    target: ChannelTopic,
}

impl Replies {
    pub(crate) fn new(
        inner: BoxStream<Result<Reply, RequestError>>,
        filters: Filters,
        (me, from): (Fqcn, Fqcn),
        target: ChannelTopic,
    ) -> Self {
        Self { inner: Some(inner), filters, me, from, target }
    }

    /// The next reply, or the one error; `None` after the end.
    ///
    /// # Cancellation
    /// Dropping the future loses no reply.
    pub async fn next(&mut self) -> Option<Result<Reply, RequestError>> {
        futures_util::StreamExt::next(self).await
    }
}

impl Stream for Replies {
    type Item = Result<Reply, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let next = std::task::ready!(inner.as_mut().poll_next(cx));
        let next = next.map(|outcome| {
            passage::back(&self.filters, &self.me, &self.from, &self.target, outcome)
        });
        if !matches!(next, Some(Ok(_))) {
            self.inner = None;
        }
        Poll::Ready(next)
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replies of {} to {}", self.from, self.target)
    }
}

/// Where the carrier of a request puts the replies. Dropped without an end, it ends them as closed.
#[derive(Debug)]
pub struct Sink(Arc<Shared>);

/// Where they are taken from.
#[derive(Debug)]
pub struct Buffer(Arc<Shared>);

/// The replies were not taken in time; this one was not put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replies are not taken")]
pub struct Overrun;

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    replies: VecDeque<Reply>,
    bytes: usize,
    end: Option<Result<(), RequestError>>,
    waker: Option<Waker>,
}

/// Both ends of a buffer.
#[must_use]
pub fn buffer() -> (Sink, Buffer) {
    let shared = Arc::<Shared>::default();
    (Sink(Arc::clone(&shared)), Buffer(shared))
}

impl Sink {
    /// Puts a reply there that more follow.
    ///
    /// # Errors
    /// [`Overrun`] when the buffer is full.
    pub fn push(&self, reply: Reply) -> Result<(), Overrun> {
        let mut state = self.0.lock();
        let bytes = state.bytes + reply.payload.len();
        let is_full = !state.replies.is_empty()
            && (state.replies.len() >= REPLIES_MAX || bytes > REPLIES_BYTES_MAX);
        if is_full {
            return Err(Overrun);
        }
        state.put(reply);
        Ok(())
    }

    /// Puts the last reply there, or the reason why none comes, after those that wait.
    pub fn end(self, last: Result<Reply, RequestError>) {
        let mut state = self.0.lock();
        let end = last.map(|reply| state.put(reply));
        state.end(end);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.0.lock().end(Err(RequestError::Closed));
    }
}

impl State {
    fn put(&mut self, reply: Reply) {
        self.bytes += reply.payload.len();
        self.replies.push_back(reply);
        self.wake();
    }

    fn end(&mut self, end: Result<(), RequestError>) {
        if self.end.is_none() {
            self.end = Some(end);
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// The next reply, the one error, or the end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Reply, RequestError>>> {
        let mut state = self.0.lock();
        if let Some(reply) = state.replies.pop_front() {
            state.bytes -= reply.payload.len();
            return Poll::Ready(Some(Ok(reply)));
        }
        match &mut state.end {
            Some(end) => Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether nothing more comes.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.lock().end.is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn reply(bytes: usize) -> Reply {
        Reply::from(vec![7; bytes])
    }

    fn next(buffer: &mut Buffer) -> Option<Option<Result<usize, RequestError>>> {
        let next = std::future::poll_fn(|cx| buffer.poll(cx)).now_or_never()?;
        Some(next.map(|outcome| outcome.map(|reply| reply.payload.len())))
    }

    #[test]
    fn replies_come_in_order_and_end_once() {
        let (sink, mut buffer) = buffer();
        assert!(next(&mut buffer).is_none());
        sink.push(reply(1)).unwrap();
        sink.push(reply(2)).unwrap();
        sink.end(Ok(reply(3)));
        let got: Vec<usize> =
            std::iter::from_fn(|| next(&mut buffer).unwrap()).map(|reply| reply.unwrap()).collect();
        assert_eq!(got, [1, 2, 3]);
        assert!(matches!(next(&mut buffer), Some(None)));
    }

    #[test]
    fn an_error_comes_after_what_was_there_and_once() {
        let (sink, mut buffer) = buffer();
        sink.push(reply(1)).unwrap();
        sink.end(Err(RequestError::Closed));
        assert!(matches!(next(&mut buffer), Some(Some(Ok(1)))));
        assert!(matches!(next(&mut buffer), Some(Some(Err(RequestError::Closed)))));
        assert!(matches!(next(&mut buffer), Some(None)));
    }

    #[test]
    fn the_buffer_is_bounded_in_replies_and_in_bytes() {
        let (sink, mut buffer) = buffer();
        (0..REPLIES_MAX).for_each(|_| sink.push(reply(1)).unwrap());
        assert_eq!(sink.push(reply(1)), Err(Overrun));
        assert!(matches!(next(&mut buffer), Some(Some(Ok(1)))));
        sink.push(reply(1)).unwrap();

        let (sink, _buffer) = super::buffer();
        sink.push(reply(REPLIES_BYTES_MAX)).unwrap();
        assert_eq!(sink.push(reply(1)), Err(Overrun));
    }

    #[test]
    fn a_carrier_that_goes_away_ends_the_replies() {
        let (sink, mut buffer) = buffer();
        drop(sink);
        assert!(matches!(next(&mut buffer), Some(Some(Err(RequestError::Closed)))));
        assert!(matches!(next(&mut buffer), Some(None)) && buffer.is_ended());
    }
}
