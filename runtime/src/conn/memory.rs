//! Connections within one process: the same promises as QUIC, and faults on demand.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
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
    reset: bool,
    reader_gone: bool,
}

/// The writing half of a stream.
#[derive(Debug)]
pub struct Writer {
    pipe: Arc<Pipe>,
    shared: Arc<Shared>,
    committed: bool,
    /// Bytes that the stream has taken.
    written: Arc<AtomicU64>,
}

/// The reading half of a stream.
#[derive(Debug)]
pub struct Reader {
    pipe: Arc<Pipe>,
    shared: Arc<Shared>,
}

/// A connection: the end that dialled, the end that was dialled, and the wire between them.
#[must_use]
pub fn connection() -> (End, End, Wire) {
    let shared = Arc::new(Shared {
        cut: [AtomicBool::new(false), AtomicBool::new(false)],
        changed: Notify::new(),
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
        self.0.changed.notify_waiters();
    }

    /// Ends the connection and tells both ends.
    pub fn sever(&self) {
        self.0.lock().severed = true;
        self.0.changed.notify_waiters();
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

    fn is_cut(&self, direction: usize) -> bool {
        self.cut[direction].load(Ordering::SeqCst)
    }

    fn close(&self, by: usize, code: CloseCode, reason: &str) {
        self.lock().closed[by].get_or_insert((code, reason.to_owned()));
        self.changed.notify_waiters();
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
        SendStream(SendHalf::Memory(Writer {
            pipe,
            shared,
            committed: false,
            written: Arc::default(),
        }))
    }

    fn reader(&self, pipe: Arc<Pipe>) -> RecvStream {
        RecvStream::Memory(Reader { pipe, shared: Arc::clone(&self.shared) })
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
        self.shared.changed.notify_waiters();
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
        self.shared.changed.notify_waiters();
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
                    if state.reader_gone {
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
            self.shared.changed.notify_waiters();
        }
        Ok(())
    }

    pub(super) fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written)
    }

    pub(super) fn count_into(&mut self, bytes: Arc<AtomicU64>) {
        self.written = bytes;
    }

    pub(super) async fn finish(mut self) {
        self.committed = true;
        self.pipe.lock().finished = true;
        self.shared.changed.notify_waiters();
        self.shared
            .wait(|| {
                let over = self.shared.closed_for(self.pipe.direction).is_some();
                let state = self.pipe.lock();
                (over || state.chunks.is_empty() || state.reader_gone).then_some(())
            })
            .await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.committed {
            self.pipe.lock().reset = true;
            self.shared.changed.notify_waiters();
        }
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
                    (true, _) => Some(Ok(None)),
                    (false, true) => Some(Err(Lost("the stream was reset".to_owned()))),
                    (false, false) => None,
                }
            })
            .await?;
        self.shared.changed.notify_waiters();
        Ok(chunk)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.pipe.lock().reader_gone = true;
        self.shared.changed.notify_waiters();
    }
}
