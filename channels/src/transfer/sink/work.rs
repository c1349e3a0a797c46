//! The work on a sink: in order, off the thread that receives, and hashed on the way.
//!
//! One block is being written while the next one comes in, and what was written before is made durable
//! beside that. A link brings small pieces; they are put together where they are received, while they are warm, and
//! a thread is woken for a whole block only.

use std::{
    collections::VecDeque,
    fs::File,
    future::poll_fn,
    sync::LazyLock,
    task::{Context, Poll},
    thread::available_parallelism,
};

use bytes::Bytes;
use cellbus_proto::transfer::{Digest, Digester, SignedReference};

use self::desk::{Desk, Done, Place};
use super::{super::error::SinkError, Found, Kind, Sink, Syncing};
use crate::transport::BoxFuture;

mod desk;

/// Bytes that wait or are being written, from which on no more are to be pushed.
pub(in crate::transfer) const ROOM: usize = 2 << 20;
/// Bytes that another thread is woken for. What is less waits for more to come, or for another step behind it.
const BLOCK: usize = 512 << 10;
/// Bytes that are put into memory and hashed where they are received: few enough to be warm still.
const WARM: usize = 128 << 10;
/// Pieces from this length on are written as they are.
const LARGE: usize = 32 << 10;
/// Bytes from which on no more is done without looking up.
const TURN: usize = 2 * BLOCK;
/// Bytes that a sink in memory takes where it is, also where there is a processor for another thread.
const INLINE: usize = 64 << 10;

/// One step of the work.
#[derive(Debug)]
pub(in crate::transfer) enum Op {
    Open(Box<SignedReference>),
    Change(Box<SignedReference>),
    Rebuild {
        from: u64,
        to: u64,
    },
    Write(Vec<Bytes>),
    /// Small pieces, put together.
    Block(Vec<u8>),
    Sync {
        to: u64,
    },
    Rewind {
        to: u64,
    },
    /// Sees whether there is room for `bytes` more, after there was none.
    Probe {
        bytes: u64,
    },
    Digest,
    Commit {
        size: u64,
        digest: Digest,
    },
    Settle,
    Discard,
}

/// What has become of a step.
#[derive(Debug)]
pub(in crate::transfer) enum Event {
    Opened(Option<Found>),
    Rebuilt,
    PartLost,
    Synced(u64),
    /// There is room again.
    Probed,
    Digest(Digest),
    Committed,
    /// More bytes may be pushed again.
    Room,
    Failed(SinkError),
}

/// The work on one sink.
pub(in crate::transfer) struct Work {
    queue: VecDeque<Op>,
    /// Bytes that wait, and those of what is being done.
    bytes: usize,
    /// How bytes come to the sink.
    manner: Manner,
    /// Whether all that a sink in memory is to do is done where bytes are received.
    stays: bool,
    /// Pieces that are put together, behind all that is in the queue.
    block: Vec<u8>,
    /// Blocks that were written, to be filled again.
    spare: Vec<Vec<u8>>,
    /// Whether nothing more comes.
    is_last: bool,
    is_writer: bool,
    desk: Option<Box<Desk>>,
    running: Option<Running>,
    syncing: Option<BoxFuture<(u64, Result<(), SinkError>)>>,
    /// To be done when what is being synced is.
    next_sync: Option<(u64, Syncing)>,
    events: VecDeque<Event>,
    /// Below this the digester needs no marks any more.
    forget_below: u64,
    /// Where whoever pushes wants to go back to, as soon as that is its turn.
    way_back: Option<u64>,
}

/// How bytes come to a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// In blocks.
    Blocks,
    /// In pieces, many at once: the sink puts them together itself.
    Pieces,
    /// In pieces, as soon as they are there: somebody may wait for them, or nothing is gained by more.
    AtOnce,
}

struct Running {
    bytes: usize,
    done: BoxFuture<Option<(Box<Desk>, Done)>>,
}

impl Work {
    pub(in crate::transfer) fn new(sink: Sink) -> Self {
        Self::beside(sink, !few_processors())
    }

    /// Work that is done on other threads where it is much and there are `others`, or may wait for a disk.
    pub(super) fn beside(sink: Sink, others: bool) -> Self {
        let stays = sink.is_quick() && !others;
        let manner = match &sink.0 {
            Kind::Store(store) if store.lies(0).is_some() => Manner::Pieces,
            Kind::Store(_) if !stays => Manner::Blocks,
            Kind::Store(_) | Kind::Writer(..) => Manner::AtOnce,
        };
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            manner,
            stays,
            block: Vec::new(),
            spare: Vec::new(),
            is_last: false,
            is_writer: matches!(sink.0, Kind::Writer(..)),
            desk: Some(Box::new(Desk::new(sink))),
            running: None,
            syncing: None,
            next_sync: None,
            events: VecDeque::new(),
            forget_below: 0,
            way_back: None,
        }
    }

    /// Bytes that are enough for a step.
    fn enough(&self) -> usize {
        if self.stays { WARM } else { BLOCK }
    }

    /// Whether another thread is at work.
    #[cfg(test)]
    pub(super) fn is_elsewhere(&self) -> bool {
        self.running.is_some()
    }

    /// Sets what hashes; before anything is written.
    pub(in crate::transfer) fn hash_with(&mut self, digester: Digester) {
        if let Some(desk) = &mut self.desk {
            desk.digester = digester;
        }
    }

    pub(in crate::transfer) fn push(&mut self, op: Op) {
        self.bytes += op.len();
        if let Op::Rewind { to } = op {
            self.way_back = Some(self.way_back.map_or(to, |before| before.min(to)));
        }
        let enough = self.enough();
        match (self.queue.back_mut(), op) {
            (_, Op::Write(pieces)) if self.manner == Manner::Blocks => {
                pieces.into_iter().for_each(|piece| self.push_piece(piece));
            }
            (Some(last @ Op::Write(_)), Op::Write(more)) if last.len() < enough => {
                if let Op::Write(pieces) = last {
                    pieces.extend(more);
                }
            }
            (_, op) => {
                self.close_block();
                self.queue.push_back(op);
            }
        }
    }

    fn push_piece(&mut self, piece: Bytes) {
        let is_large = piece.len() >= LARGE;
        if is_large || self.block.len() + piece.len() > self.enough() {
            self.close_block();
        }
        if is_large {
            return self.queue.push_back(Op::Write(vec![piece]));
        }
        if self.block.capacity() == 0 {
            let enough = self.enough();
            self.block = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(enough));
        }
        self.block.extend_from_slice(&piece);
    }

    /// Has what was put together written.
    fn close_block(&mut self) {
        if !self.block.is_empty() {
            self.queue.push_back(Op::Block(std::mem::take(&mut self.block)));
        }
    }

    /// Whether more bytes may be pushed.
    pub(in crate::transfer) fn has_room(&self) -> bool {
        self.bytes < ROOM
    }

    /// The next thing that has happened. Nothing is lost when the future is dropped.
    pub(in crate::transfer) async fn next(&mut self) -> Event {
        poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(event),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Waits until everything that was pushed is done; what happened is forgotten but for the last failure.
    pub(in crate::transfer) async fn finish(&mut self) {
        self.is_last = true;
        self.close_block();
        while poll_fn(|cx| self.poll(cx)).await.is_some() {}
        self.is_last = false;
    }

    /// Bytes that the sink takes; nothing while it is being worked on.
    pub(in crate::transfer) fn cap(&self) -> u64 {
        match self.desk.as_ref().map(|desk| &desk.place) {
            Some(Place::Store(store)) => store.cap(),
            Some(Place::Writer { cap, .. }) => *cap,
            None => 0,
        }
    }

    /// Whether the sink is a writer of the application.
    pub(in crate::transfer) fn is_writer(&self) -> bool {
        self.is_writer
    }

    /// What the sink holds in memory.
    pub(in crate::transfer) fn take(&mut self) -> Option<Bytes> {
        match &mut self.desk.as_mut()?.place {
            Place::Store(store) => store.take(),
            Place::Writer { .. } => None,
        }
    }

    /// The file that the sink holds.
    pub(in crate::transfer) fn take_file(&mut self) -> Option<File> {
        match &mut self.desk.as_mut()?.place {
            Place::Store(store) => store.take_file(),
            Place::Writer { .. } => None,
        }
    }

    /// `None` when there is nothing to do and nothing to say.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if self.poll_sync(cx) | self.poll_running(cx) | self.begin() {
                continue;
            }
            let is_idle = self.running.is_none() && self.syncing.is_none() && self.queue.is_empty();
            return if is_idle { Poll::Ready(None) } else { Poll::Pending };
        }
    }

    fn poll_sync(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(syncing) = &mut self.syncing else { return false };
        let Poll::Ready((to, synced)) = syncing.as_mut().poll(cx) else { return false };
        self.syncing = self.next_sync.take().map(|(to, sync)| start_sync(to, sync));
        match synced {
            Ok(()) => {
                self.forget_below = to;
                self.events.push_back(Event::Synced(to));
            }
            Err(error) => self.events.push_back(Event::Failed(error)),
        }
        true
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(running) = &mut self.running else { return false };
        let Poll::Ready(done) = running.done.as_mut().poll(cx) else { return false };
        let bytes = running.bytes;
        self.running = None;
        match done {
            Some((desk, done)) => self.take_back(desk, done, bytes),
            None => {
                self.forget_all();
                self.events.push_back(Event::Failed(SinkError::BrokenOff));
            }
        }
        true
    }

    /// It was broken off: nothing can be done any more.
    fn forget_all(&mut self) {
        self.queue.clear();
        self.block.clear();
        self.bytes = 0;
    }

    fn take_back(&mut self, desk: Box<Desk>, done: Done, bytes: usize) {
        self.desk = Some(desk);
        let had_room = self.has_room();
        self.bytes -= bytes;
        if !had_room && self.has_room() {
            self.events.push_back(Event::Room);
        }
        for event in done.events {
            if let Event::Synced(to) = event {
                self.forget_below = to;
            }
            self.events.push_back(event);
        }
        self.spare.extend(done.blocks);
        if let Some(rest) = done.rest {
            self.queue.push_front(rest);
        }
        if let Some((to, sync)) = done.sync {
            match self.syncing {
                // Of two that wait, the later one makes durable what the earlier one would have.
                Some(_) => self.next_sync = Some((to, sync)),
                None => self.syncing = Some(start_sync(to, sync)),
            }
        }
    }

    /// Begins with what comes next, where the sink is free.
    fn begin(&mut self) -> bool {
        let Some(first) = self.queue.front() else { return false };
        let waits_for_sync = match first {
            Op::Rewind { .. } | Op::Change(_) | Op::Commit { .. } | Op::Settle | Op::Discard => {
                self.syncing.is_some()
            }
            Op::Open(_)
            | Op::Rebuild { .. }
            | Op::Write(_)
            | Op::Block(_)
            | Op::Sync { .. }
            | Op::Probe { .. }
            | Op::Digest => false,
        };
        let waits_for_more = self.manner == Manner::Pieces
            && matches!(first, Op::Write(_))
            && self.queue.len() == 1
            && first.len() < self.enough()
            && !self.is_last;
        if waits_for_sync || waits_for_more || self.running.is_some() {
            return false;
        }
        let Some(mut desk) = self.desk.take() else {
            // It was broken off, and that has been said.
            self.forget_all();
            return false;
        };
        // What became durable after the way back was decided on does not take the mark away that it leads to.
        let needed_from = self.way_back.unwrap_or(u64::MAX);
        desk.digester.forget_below(std::mem::take(&mut self.forget_below).min(needed_from));
        let ops = self.next_batch();
        if matches!(ops[..], [Op::Rewind { .. }]) {
            self.way_back = None;
        }
        let bytes = ops.iter().map(Op::len).sum();
        if self.stays || (desk.is_quick() && bytes <= INLINE) {
            let done = desk.run(ops);
            self.take_back(desk, done, bytes);
            return true;
        }
        let done: BoxFuture<_> = match &desk.place {
            Place::Store(_) => Box::pin(async move {
                let work = tokio::task::spawn_blocking(move || {
                    let done = desk.run(ops);
                    (desk, done)
                });
                work.await.ok()
            }),
            Place::Writer { .. } => Box::pin(async move {
                let done = desk.run_writer(ops).await;
                Some((desk, done))
            }),
        };
        self.running = Some(Running { bytes, done });
        true
    }

    /// One step that stands alone, or writes and one that follows them.
    fn next_batch(&mut self) -> Vec<Op> {
        let (mut ops, mut bytes) = (Vec::new(), 0);
        while bytes < TURN
            && let Some(op) = self.queue.pop_front()
        {
            bytes += op.len();
            let is_write = matches!(op, Op::Write(_) | Op::Block(_));
            if !is_write && !ops.is_empty() && !matches!(op, Op::Sync { .. } | Op::Digest) {
                self.queue.push_front(op);
                break;
            }
            ops.push(op);
            if !is_write {
                break;
            }
        }
        ops
    }
}

/// Whether another thread would only take the processor from the one that sends or receives.
fn few_processors() -> bool {
    static FEW: LazyLock<bool> =
        LazyLock::new(|| available_parallelism().is_ok_and(|processors| processors.get() <= 2));
    *FEW
}

fn start_sync(to: u64, sync: Syncing) -> BoxFuture<(u64, Result<(), SinkError>)> {
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(sync).await;
        (to, done.unwrap_or(Err(SinkError::BrokenOff)))
    })
}

impl Op {
    fn len(&self) -> usize {
        match self {
            Self::Write(pieces) => pieces.iter().map(Bytes::len).sum(),
            Self::Block(block) => block.len(),
            Self::Open(_)
            | Self::Change(_)
            | Self::Rebuild { .. }
            | Self::Sync { .. }
            | Self::Rewind { .. }
            | Self::Probe { .. }
            | Self::Digest
            | Self::Commit { .. }
            | Self::Settle
            | Self::Discard => 0,
        }
    }
}
