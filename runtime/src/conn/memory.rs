//! Connections within one process: the same promises as QUIC, and faults on demand.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use cellbus_channels::Broken;
use tokio::sync::Notify;

use super::{CloseCode, Lost, RecvStream, SendHalf, SendStream};

/// Bytes that a stream holds unread; the writer waits beyond it.
const STREAM_WINDOW: usize = 1 << 20;

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct End {
    shared: Arc<Shared>,
    is_dialler: bool,
}

/// The wire between the two ends, for whoever wants to cut it.
#[derive(Clone, Debug)]
pub struct Wire(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Cut from the dialler to the acceptor, and back.
    cut: [AtomicBool; 2],
    changed: Notify,
    /// Whoever polls, and is woken as those that wait for `changed` are.
    wakers: Mutex<Vec<Waker>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Streams that wait to be accepted, by the end that will accept them.
    bi: [VecDeque<(Arc<Pipe>, Arc<Pipe>)>; 2],
    uni: [VecDeque<Arc<Pipe>>; 2],
    /// What each end closed with.
    closed: [Option<(CloseCode, String)>; 2],
    severed: bool,
}

#[derive(Debug)]
struct Pipe {
    /// Which way the bytes go.
    direction: usize,
    state: Mutex<PipeState>,
}

#[derive(Debug, Default)]
struct PipeState {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    finished: bool,
    reset: Option<Broken>,
    reader_gone: Option<Broken>,
}

/// The writing half of a stream.
#[derive(Debug)]
pub struct Writer {
    pipe: Arc<Pipe>,
    shared: Arc<Shared>,
    committed: bool,
    when_dropped: Broken,
    /// Bytes that the stream has taken.
    written: Arc<AtomicU64>,
}

/// The reading half of a stream.
#[derive(Debug)]
pub struct Reader {
    pipe: Arc<Pipe>,
    shared: Arc<Shared>,
    when_dropped: Broken,
}

/// A connection: the end that dialled, the end that was dialled, and the wire between them.
#[must_use]
pub fn connection() -> (End, End, Wire) {
    let shared = Arc::new(Shared {
        cut: [AtomicBool::new(false), AtomicBool::new(false)],
        changed: Notify::new(),
        wakers: Mutex::default(),
        state: Mutex::default(),
    });
    let end = |is_dialler| End { shared: Arc::clone(&shared), is_dialler };
    (end(true), end(false), Wire(Arc::clone(&shared)))
}

impl Wire {
    /// Loses everything from the dialler to the acceptor (`up`) and back (`down`) from now on, without
    /// telling either; what is lost arrives when the wire is whole again, as it would over QUIC.
    pub fn cut(&self, up: bool, down: bool) {
        self.0.cut[0].store(up, Ordering::SeqCst);
        self.0.cut[1].store(down, Ordering::SeqCst);
        self.0.tell();
    }

    /// Ends the connection and tells both ends.
    pub fn sever(&self) {
        self.0.lock().severed = true;
        self.0.tell();
    }

    /// Whether the connection has ended for at least one end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let state = self.0.lock();
        state.severed || state.closed.iter().any(Option::is_some)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed: whoever waits looks again.
    fn tell(&self) {
        self.changed.notify_waiters();
        let wakers = std::mem::take(&mut *self.wakers());
        wakers.into_iter().for_each(Waker::wake);
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::wait`], polled.
    fn poll_wait<T>(&self, cx: &Context<'_>, mut ready: impl FnMut() -> Option<T>) -> Poll<T> {
        if let Some(value) = ready() {
            return Poll::Ready(value);
        }
        let mut wakers = self.wakers();
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        drop(wakers);
        ready().map_or(Poll::Pending, Poll::Ready)
    }

    fn is_cut(&self, direction: usize) -> bool {
        self.cut[direction].load(Ordering::SeqCst)
    }

    fn close(&self, by: usize, code: CloseCode, reason: &str) {
        self.lock().closed[by].get_or_insert((code, reason.to_owned()));
        self.tell();
    }

    /// The close, as far as `end` can know of it: its own at once, the other's unless the wire is cut.
    fn closed_for(&self, end: usize) -> Option<super::End> {
        let state = self.lock();
        if state.severed {
            return Some(super::End::Broken("the wire was severed".to_owned()));
        }
        if state.closed[end].is_some() {
            return Some(super::End::Here);
        }
        let other = 1 - end;
        let (code, reason) = state.closed[other].as_ref().filter(|_| !self.is_cut(other))?;
        Some(super::End::ByPeer(*code, reason.clone()))
    }

    /// Waits until `ready` gives something. The waiter is registered before `ready` looks, so that
    /// nothing is missed in between.
    async fn wait<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready() {
                return value;
            }
            changed.await;
        }
    }
}

fn lost() -> Lost {
    Lost("the connection is closed".to_owned())
}

impl End {
    fn index(&self) -> usize {
        usize::from(!self.is_dialler)
    }

    fn pipe(&self, direction: usize) -> Arc<Pipe> {
        Arc::new(Pipe { direction, state: Mutex::default() })
    }

    fn halves(&self, out: Arc<Pipe>, back: Arc<Pipe>) -> (SendStream, RecvStream) {
        (self.writer(out), self.reader(back))
    }

    fn writer(&self, pipe: Arc<Pipe>) -> SendStream {
        let shared = Arc::clone(&self.shared);
        let half = Writer {
            pipe,
            shared,
            committed: false,
            when_dropped: Broken::Cancelled,
            written: Arc::default(),
        };
        SendStream(SendHalf::Memory(half), None)
    }

    fn reader(&self, pipe: Arc<Pipe>) -> RecvStream {
        let (shared, when_dropped) = (Arc::clone(&self.shared), Broken::Cancelled);
        RecvStream::Memory(Reader { pipe, shared, when_dropped })
    }

    pub(super) fn open_bi(&self) -> Result<(SendStream, RecvStream), Lost> {
        let me = self.index();
        let (out, back) = (self.pipe(me), self.pipe(1 - me));
        if self.shared.closed_for(me).is_some() {
            return Err(lost());
        }
        let mut state = self.shared.lock();
        state.bi[1 - me].push_back((Arc::clone(&back), Arc::clone(&out)));
        drop(state);
        self.shared.tell();
        Ok(self.halves(out, back))
    }

    pub(super) async fn accept_bi(&self) -> Result<(SendStream, RecvStream), Lost> {
        let me = self.index();
        self.accept(|state| state.bi[me].pop_front())
            .await
            .map(|(out, back)| self.halves(out, back))
    }

    pub(super) fn open_uni(&self) -> Result<SendStream, Lost> {
        let me = self.index();
        let out = self.pipe(me);
        if self.shared.closed_for(me).is_some() {
            return Err(lost());
        }
        let mut state = self.shared.lock();
        state.uni[1 - me].push_back(Arc::clone(&out));
        drop(state);
        self.shared.tell();
        Ok(self.writer(out))
    }

    pub(super) async fn accept_uni(&self) -> Result<RecvStream, Lost> {
        let me = self.index();
        self.accept(|state| state.uni[me].pop_front()).await.map(|pipe| self.reader(pipe))
    }

    async fn accept<T>(&self, mut take: impl FnMut(&mut State) -> Option<T>) -> Result<T, Lost> {
        let me = self.index();
        self.shared
            .wait(|| {
                if self.shared.closed_for(me).is_some() {
                    return Some(Err(lost()));
                }
                if self.shared.is_cut(1 - me) {
                    return None;
                }
                take(&mut self.shared.lock()).map(Ok)
            })
            .await
    }

    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        self.shared.close(self.index(), code, reason);
    }

    pub(super) async fn ended(&self) -> super::End {
        self.shared.wait(|| self.shared.closed_for(self.index())).await
    }
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    pub(super) async fn write_all(&mut self, chunks: &mut [Bytes]) -> Result<(), Lost> {
        for chunk in chunks {
            let chunk = std::mem::take(chunk);
            self.shared
                .wait(|| {
                    if self.shared.closed_for(self.pipe.direction).is_some() {
                        return Some(Err(lost()));
                    }
                    let mut state = self.pipe.lock();
                    if state.reader_gone.is_some() {
                        return Some(Err(lost()));
                    }
                    if state.bytes > STREAM_WINDOW {
                        return None;
                    }
                    state.bytes += chunk.len();
                    state.chunks.push_back(chunk.clone());
                    Some(Ok(()))
                })
                .await?;
            self.written.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            self.shared.tell();
        }
        Ok(())
    }

    pub(super) fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written)
    }

    pub(super) fn count_into(&mut self, bytes: Arc<AtomicU64>) {
        self.written = bytes;
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &Context<'_>,
        chunks: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        let (mut taken, mut moved) = (0, false);
        let polled = self.shared.poll_wait(cx, || {
            if self.shared.closed_for(self.pipe.direction).is_some() {
                return Some(Err(Broken::Lost));
            }
            let mut state = self.pipe.lock();
            if let Some(broken) = state.reader_gone.filter(|_| !self.is_cut_back()).or(state.reset)
            {
                return Some(Err(broken));
            }
            while state.bytes < STREAM_WINDOW
                && let Some(mut chunk) = chunks.pop_front()
            {
                let room = STREAM_WINDOW - state.bytes;
                if chunk.len() > room {
                    chunks.push_front(chunk.split_off(room));
                }
                if !chunk.is_empty() {
                    taken += chunk.len();
                    state.bytes += chunk.len();
                    state.chunks.push_back(chunk);
                    moved = true;
                }
            }
            chunks.is_empty().then_some(Ok(()))
        });
        if moved {
            self.written.fetch_add(taken as u64, Ordering::Relaxed);
            self.shared.tell();
        }
        polled
    }

    pub(super) fn poll_broken(&mut self, cx: &Context<'_>) -> Poll<Broken> {
        self.shared.poll_wait(cx, || {
            if self.shared.closed_for(self.pipe.direction).is_some() {
                return Some(Broken::Lost);
            }
            self.pipe.lock().reader_gone.filter(|_| !self.is_cut_back())
        })
    }

    /// Whether what the other end says does not arrive.
    fn is_cut_back(&self) -> bool {
        self.shared.is_cut(1 - self.pipe.direction)
    }

    pub(super) fn finish_now(&mut self) {
        self.committed = true;
        self.pipe.lock().finished = true;
        self.shared.tell();
    }

    pub(super) fn reset_with(&mut self, why: Broken) {
        if !self.committed {
            self.committed = true;
            self.pipe.lock().reset = Some(why);
            self.shared.tell();
        }
    }

    pub(super) fn reset_when_dropped(&mut self, why: Broken) {
        self.when_dropped = why;
    }

    pub(super) async fn finish(mut self) {
        self.finish_now();
        self.shared
            .wait(|| {
                let over = self.shared.closed_for(self.pipe.direction).is_some();
                let state = self.pipe.lock();
                (over || state.chunks.is_empty() || state.reader_gone.is_some()).then_some(())
            })
            .await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.reset_with(self.when_dropped);
    }
}

impl Reader {
    pub(super) async fn read_chunk(&mut self) -> Result<Option<Bytes>, Lost> {
        let direction = self.pipe.direction;
        let chunk = self
            .shared
            .wait(|| {
                if self.shared.closed_for(1 - direction).is_some() {
                    return Some(Err(lost()));
                }
                if self.shared.is_cut(direction) {
                    return None;
                }
                let mut state = self.pipe.lock();
                if let Some(chunk) = state.chunks.pop_front() {
                    state.bytes -= chunk.len();
                    return Some(Ok(Some(chunk)));
                }
                match (state.finished, state.reset) {
                    (_, Some(_)) => Some(Err(Lost("the stream was reset".to_owned()))),
                    (true, None) => Some(Ok(None)),
                    (false, None) => None,
                }
            })
            .await?;
        self.shared.tell();
        Ok(chunk)
    }

    pub(super) fn poll_chunks(
        &mut self,
        cx: &Context<'_>,
        into: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, Broken>> {
        let direction = self.pipe.direction;
        let polled = self.shared.poll_wait(cx, || {
            if self.shared.closed_for(1 - direction).is_some() {
                return Some(Err(Broken::Lost));
            }
            let mut state = self.pipe.lock();
            if let Some(broken) = state.reader_gone {
                return Some(Err(broken));
            }
            if self.shared.is_cut(direction) {
                return None;
            }
            if let Some(broken) = state.reset {
                return Some(Err(broken));
            }
            if !state.chunks.is_empty() {
                into.extend(std::mem::take(&mut state.chunks));
                state.bytes = 0;
                return Some(Ok(true));
            }
            state.finished.then_some(Ok(false))
        });
        if polled == Poll::Ready(Ok(true)) {
            self.shared.tell();
        }
        polled
    }

    pub(super) fn stop_with(&mut self, why: Broken) {
        let mut state = self.pipe.lock();
        if !state.finished || !state.chunks.is_empty() {
            state.reader_gone.get_or_insert(why);
        }
        drop(state);
        self.shared.tell();
    }

    pub(super) fn stop_when_dropped(&mut self, why: Broken) {
        self.when_dropped = why;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop_with(self.when_dropped);
    }
}
