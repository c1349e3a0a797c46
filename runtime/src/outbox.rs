//! What waits to leave by one link: a queue per lane, bounded in bytes at the push.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cellbus_proto::{
    admission::Admitted,
    codec::Frame,
    envelope::{Kind, Lane, cost},
    status::Status,
};
use tokio::sync::Notify;

use crate::counters::Counters;

/// The outbox of one link.
#[derive(Debug)]
pub struct Outbox {
    lanes: [Queue; 3],
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    wake: Notify,
    /// Told when best-effort messages find room again.
    room: Notify,
    /// Whether they do, asked with every publish: as of the last time that the state was let go.
    has_room: AtomicBool,
    max_bytes: usize,
}

/// A state that is being looked at or changed.
struct Held<'a> {
    state: MutexGuard<'a, State>,
    queue: &'a Queue,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// Bytes of everything that was pushed and is not yet written.
    bytes: usize,
    /// Takes nothing more; what is there still leaves.
    ending: bool,
    /// Nothing leaves any more.
    closed: bool,
}

impl State {
    /// A neighbour that takes slowly costs best-effort messages first: these fill three quarters of a
    /// queue, what somebody waits for all of it.
    fn admits(&self, size: usize, best_effort: bool, max_bytes: usize) -> Result<(), Status> {
        if self.closed || self.ending {
            return Err(Status::NoRoute);
        }
        if best_effort && self.bytes + size > max_bytes / 4 * 3 {
            return Err(Status::SlowConsumer);
        }
        if self.bytes + size > max_bytes { Err(Status::Overloaded) } else { Ok(()) }
    }
}

/// One thing to be written.
#[derive(Debug)]
pub enum Item {
    /// A message that was let in.
    Message(Admitted),
    /// A frame of the link itself.
    Frame(Frame),
}

/// The queue is full, or the link is gone; the message was not taken.
#[derive(Debug)]
pub struct NotTaken {
    /// The message.
    pub message: Box<Admitted>,
    /// Why.
    pub status: Status,
}

impl Outbox {
    /// Bytes kept for the system's own frames and messages, whatever the other lanes hold.
    const CONTROL_MAX: usize = 1 << 20;

    /// An outbox that holds at most `max_bytes` on each lane for applications.
    #[must_use]
    pub fn new(max_bytes: usize, counters: Arc<Counters>) -> Arc<Self> {
        let queue = |max_bytes| Queue {
            state: Mutex::default(),
            wake: Notify::new(),
            room: Notify::new(),
            has_room: AtomicBool::new(true),
            max_bytes,
        };
        Arc::new(Self {
            lanes: [queue(Self::CONTROL_MAX), queue(max_bytes), queue(max_bytes)],
            counters,
        })
    }

    /// Queues messages that were let in, each on its lane, in order, and gives back those that were not
    /// taken: their lane is full, or the link is gone.
    #[must_use]
    pub fn push_all(&self, messages: Vec<Admitted>) -> Vec<NotTaken> {
        let mut left = Vec::new();
        let mut taken = 0;
        let mut messages = messages.into_iter().peekable();
        while let Some(message) = messages.next() {
            let lane = message.header().lane;
            let queue = &self.lanes[lane as usize];
            let mut state = queue.lock();
            let mut next = Some(message);
            while let Some(message) = next {
                let (size, count) = (cost(message.envelope()), message.count());
                let header = message.header();
                let best_effort = header.kind == Kind::Publish && !header.wants_answer();
                match state.admits(size, best_effort, queue.max_bytes) {
                    Ok(()) => {
                        state.bytes += size;
                        state.items.push_back(Item::Message(message));
                        taken += count;
                    }
                    Err(status) => left.push(NotTaken { message: Box::new(message), status }),
                }
                next = messages.next_if(|message| message.header().lane == lane);
            }
            drop(state);
            queue.wake.notify_one();
        }
        self.counters.enqueue(taken);
        left
    }

    /// Queues a frame of the link itself on the control lane. `false` when the neighbour takes so
    /// little that even these have piled up: the link is to be closed.
    #[must_use]
    pub fn push_frame(&self, frame: Frame) -> bool {
        const FRAME_COST: usize = 512;
        let queue = &self.lanes[Lane::Control as usize];
        let mut state = queue.lock();
        if state.closed || state.bytes + FRAME_COST > queue.max_bytes {
            return false;
        }
        state.bytes += FRAME_COST;
        state.items.push_back(Item::Frame(frame));
        drop(state);
        queue.wake.notify_one();
        true
    }

    /// Waits for the first thing to write on `lane`; `false` when the link is gone before.
    pub(crate) async fn wait(&self, lane: Lane) -> bool {
        let queue = &self.lanes[lane as usize];
        loop {
            {
                let state = queue.lock();
                let over = state.closed || state.ending;
                if !state.items.is_empty() || over {
                    return !state.items.is_empty() && !state.closed;
                }
            }
            queue.wake.notified().await;
        }
    }

    /// Waits for something to write on `lane`; `None` when the link is gone. What is taken counts
    /// until [`Self::written`].
    pub(crate) async fn take(&self, lane: Lane) -> Option<(VecDeque<Item>, usize)> {
        let queue = &self.lanes[lane as usize];
        loop {
            {
                let mut state = queue.lock();
                if !state.items.is_empty() {
                    let bytes = state.bytes;
                    return Some((std::mem::take(&mut state.items), bytes));
                }
                if state.closed || state.ending {
                    return None;
                }
            }
            queue.wake.notified().await;
        }
    }

    /// Gives back the bytes of what was taken and is written or dropped.
    pub(crate) fn written(&self, lane: Lane, bytes: usize) {
        let queue = &self.lanes[lane as usize];
        let mut state = queue.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        drop(state);
        if queue.has_room() {
            queue.room.notify_waiters();
        }
    }

    /// Whether best-effort messages of this cell itself may be added on `lane`: it is at most half full.
    #[must_use]
    pub fn has_room(&self, lane: Lane) -> bool {
        self.lanes[lane as usize].has_room()
    }

    /// Waits until [`Self::has_room`] says yes.
    pub async fn wait_room(&self, lane: Lane) {
        loop {
            let mut room = std::pin::pin!(self.lanes[lane as usize].room.notified());
            room.as_mut().enable();
            if self.has_room(lane) {
                return;
            }
            room.await;
        }
    }

    /// Takes no messages on the control lane any more; its writer ends when all has left.
    pub(crate) fn end_control(&self) {
        let queue = &self.lanes[Lane::Control as usize];
        queue.lock().ending = true;
        queue.wake.notify_one();
    }

    /// Whether anything of `lane` waits or is being written.
    pub(crate) fn waits(&self, lane: Lane) -> bool {
        self.lanes[lane as usize].lock().bytes > 0
    }

    /// Takes nothing more on the lanes of applications; their writers end when all has left.
    pub(crate) fn end_lanes(&self) {
        for lane in [Lane::Interactive, Lane::Bulk] {
            let queue = &self.lanes[lane as usize];
            queue.lock().ending = true;
            queue.wake.notify_one();
        }
    }

    /// Takes nothing more and gives back what was never written.
    pub(crate) fn close(&self) -> Vec<Admitted> {
        let mut left = Vec::new();
        for queue in &self.lanes {
            let mut state = queue.lock();
            state.closed = true;
            left.extend(std::mem::take(&mut state.items).into_iter().filter_map(Item::message));
            drop(state);
            queue.wake.notify_one();
            queue.room.notify_waiters();
        }
        left
    }

    /// Bytes that wait or are being written, on all lanes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes_by_lane().into_iter().sum()
    }

    /// The same for each lane.
    #[must_use]
    pub fn bytes_by_lane(&self) -> [usize; 3] {
        self.lanes.each_ref().map(|queue| queue.lock().bytes)
    }

    /// Whether everything has been written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.bytes() == 0
    }
}

impl Item {
    fn message(self) -> Option<Admitted> {
        match self {
            Self::Message(message) => Some(message),
            Self::Frame(_) => None,
        }
    }
}

impl Queue {
    fn lock(&self) -> Held<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Held { state, queue: self }
    }

    fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Acquire)
    }
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let State { bytes, ending, closed, .. } = *self.state;
        let has_room = closed || ending || bytes <= self.queue.max_bytes / 2;
        self.queue.has_room.store(has_room, Ordering::Release);
    }
}
