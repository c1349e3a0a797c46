//! Two ends of a conduit in memory, for tests and for what stays within one process.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{Broken, Conduit, ConduitRecv, ConduitSend};

/// Breaks a pair from outside, as the loss of a link would.
#[derive(Clone, Debug)]
pub struct Breaker([Arc<Mutex<Pipe>>; 2]);

/// The two ends of a conduit, each direction of which holds at most `window` bytes unread, and at least
/// one piece.
#[must_use]
pub fn pair(window: usize) -> (Conduit, Conduit, Breaker) {
    let pipe = || Arc::new(Mutex::new(Pipe { window, ..Pipe::default() }));
    let (there, back) = (pipe(), pipe());
    let breaker = Breaker([Arc::clone(&there), Arc::clone(&back)]);
    let end = |out: &Arc<Mutex<Pipe>>, back: &Arc<Mutex<Pipe>>| Conduit {
        send: Box::new(Sender(Arc::clone(out))),
        recv: Box::new(Receiver(Arc::clone(back))),
    };
    (end(&there, &back), end(&back, &there), breaker)
}

impl Breaker {
    /// Both ends find the conduit lost.
    pub fn lose(&self) {
        for pipe in &self.0 {
            lock(pipe).break_with(Broken::Lost);
        }
    }
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    window: usize,
    finished: bool,
    broken: Option<Broken>,
    reader: Option<Waker>,
    writers: Vec<Waker>,
}

struct Sender(Arc<Mutex<Pipe>>);

struct Receiver(Arc<Mutex<Pipe>>);

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipe {
    fn break_with(&mut self, broken: Broken) {
        if self.broken.is_none() && !(self.finished && self.chunks.is_empty()) {
            self.broken = Some(broken);
            self.chunks.clear();
            self.bytes = 0;
        }
        self.wake();
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writers.drain(..)).for_each(Waker::wake);
    }

    fn wait_to_write(&mut self, cx: &Context<'_>) {
        if !self.writers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.writers.push(cx.waker().clone());
        }
    }
}

impl ConduitRecv for Receiver {
    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, Broken>> {
        let mut pipe = lock(&self.0);
        if let Some(broken) = pipe.broken {
            return Poll::Ready(Err(broken));
        }
        if !pipe.chunks.is_empty() {
            into.extend(std::mem::take(&mut pipe.chunks));
            pipe.bytes = 0;
            pipe.wake();
            return Poll::Ready(Ok(true));
        }
        if pipe.finished {
            return Poll::Ready(Ok(false));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn stop(&mut self) {
        lock(&self.0).break_with(Broken::Cancelled);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ConduitSend for Sender {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        let mut pipe = lock(&self.0);
        if let Some(broken) = pipe.broken {
            return Poll::Ready(Err(broken));
        }
        while pipe.bytes < pipe.window.max(1)
            && let Some(mut chunk) = chunks.pop_front()
        {
            let room = pipe.window.max(1) - pipe.bytes;
            if chunk.len() > room {
                chunks.push_front(chunk.split_off(room));
            }
            if !chunk.is_empty() {
                pipe.bytes += chunk.len();
                pipe.chunks.push_back(chunk);
            }
        }
        if !pipe.chunks.is_empty()
            && let Some(reader) = pipe.reader.take()
        {
            reader.wake();
        }
        if chunks.is_empty() {
            return Poll::Ready(Ok(()));
        }
        pipe.wait_to_write(cx);
        Poll::Pending
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let mut pipe = lock(&self.0);
        pipe.wait_to_write(cx);
        pipe.broken.map_or(Poll::Pending, Poll::Ready)
    }

    fn finish(&mut self) {
        let mut pipe = lock(&self.0);
        pipe.finished = true;
        pipe.wake();
    }

    fn reset(&mut self) {
        lock(&self.0).break_with(Broken::Cancelled);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut pipe = lock(&self.0);
        if !pipe.finished {
            pipe.break_with(Broken::Cancelled);
        }
    }
}
