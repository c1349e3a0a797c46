//! What job code has outstanding on its one connection.

use std::{
    collections::BTreeMap,
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cellbus_proto::{
    local::{self, Event, Limits, Outcome, Settled, ToCell, ToJob},
    name::{Channel, Fqcn},
    status::Status,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::AbortHandle,
};

use super::{
    carry::{Packed, pieces},
    outbox::Outbox,
};
use crate::{
    filter::Filters,
    handler::{Handler, Selector},
};

/// What comes before the end of something that was asked, and has not been taken, at most.
const PARTS_MAX: usize = 1024;

/// One connection, as everything that uses it sees it.
pub(super) struct JobSide {
    pub(super) cell: Fqcn,
    pub(super) limits: Limits,
    pub(super) outbox: Outbox,
    /// What messages of job code pass in its own process.
    pub(super) filters: Filters,
    /// Held from the first wait until the frame is queued: frames leave in the order of asking.
    pub(super) turnstile: tokio::sync::Mutex<()>,
    pub(super) slots: Arc<Semaphore>,
    pub(super) bytes: Arc<Semaphore>,
    /// In pieces, for what is attached.
    pub(super) attached: Arc<Semaphore>,
    state: Mutex<State>,
    /// Told when nothing runs any longer.
    idle: Notify,
    closed: watch::Sender<bool>,
}

/// Permits of one frame that awaits its answer; given back with the answer, not before.
pub(super) struct Permits {
    pub(super) _slot: OwnedSemaphorePermit,
    pub(super) _bytes: Option<OwnedSemaphorePermit>,
    pub(super) _attached: Option<OwnedSemaphorePermit>,
}

/// How something that was asked ended.
#[derive(Debug)]
pub(super) enum Ending {
    Reply(Packed),
    Return {
        status: Status,
        by: Fqcn,
        detail: Bytes,
    },
    Accepted,
    Handled(Outcome),
    End,
    Fetched {
        file: Option<File>,
        size: u64,
        content_type: Option<Arc<str>>,
        headers: Bytes,
        digest: [u8; 32],
    },
}

/// What came before that.
#[derive(Debug)]
pub(super) enum Part {
    Reply { from: Fqcn, packed: Packed },
    Failed { from: Fqcn, status: Status, by: Fqcn, detail: Bytes },
    Event(Event),
    Served(Bytes),
    Progress { from: Option<Fqcn>, bytes: u64, size: Option<u64> },
    Settled { from: Fqcn, end: Settled },
}

/// Where the parts of something that was asked are taken from.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) queue: mpsc::Receiver<Part>,
    /// Those that were not taken in time.
    pub(super) missed: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    /// Nothing more is begun.
    is_finishing: bool,
    last_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    handlers: BTreeMap<Selector, Arc<dyn Handler>>,
    running: BTreeMap<u64, Option<AbortHandle>>,
}

struct Waiting {
    ending: oneshot::Sender<Ending>,
    /// `None` where none may come.
    parts: Option<(mpsc::Sender<Part>, Arc<AtomicU64>)>,
    _permits: Permits,
}

/// The cell answers what was not asked. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unasked;

impl JobSide {
    pub(super) fn new(cell: Fqcn, limits: Limits, outbox: Outbox) -> Self {
        Self {
            cell,
            outbox,
            filters: Filters::default(),
            turnstile: tokio::sync::Mutex::default(),
            slots: Arc::new(Semaphore::new(limits.requests_max as usize)),
            bytes: Arc::new(Semaphore::new(limits.bytes_max as usize)),
            attached: Arc::new(Semaphore::new(
                pieces(limits.attached_max, limits.attached_max) as usize
            )),
            limits,
            state: Mutex::default(),
            idle: Notify::new(),
            closed: watch::Sender::new(false),
        }
    }

    /// Queues a frame that awaits an answer. Ids go out in the order in which they are given.
    ///
    /// `None` after the end of the connection.
    pub(super) fn ask(
        &self,
        permits: Permits,
        takes_parts: bool,
        queue: impl FnOnce(&Outbox, u64),
    ) -> Option<(u64, oneshot::Receiver<Ending>, Option<Parts>)> {
        let mut state = self.lock();
        if state.is_closed {
            return None;
        }
        state.last_id += 1;
        let id = state.last_id;
        let (ending, ended) = oneshot::channel();
        let (sender, parts) = if takes_parts {
            let (sender, queue) = mpsc::channel(PARTS_MAX);
            let missed = Arc::<AtomicU64>::default();
            (Some((sender, Arc::clone(&missed))), Some(Parts { queue, missed }))
        } else {
            (None, None)
        };
        state.waiting.insert(id, Waiting { ending, parts: sender, _permits: permits });
        queue(&self.outbox, id);
        Some((id, ended, parts))
    }

    /// Asks the cell to end what nobody waits for any longer.
    pub(super) fn give_up(&self, id: u64) {
        if self.lock().waiting.contains_key(&id) {
            self.outbox.push_small(&ToCell::Cancel { id });
        }
    }

    /// Ends what a frame of the cell answers. Frames that answer nothing are handed back.
    pub(super) fn settle(
        &self,
        frame: ToJob,
        file: Option<File>,
    ) -> Result<Option<(ToJob, Option<File>)>, Unasked> {
        let (id, ending) = match frame {
            ToJob::Reply { id, body } => (id, Ending::Reply(Packed { body, file })),
            ToJob::Return { id, status, by, detail } => (id, Ending::Return { status, by, detail }),
            ToJob::Accepted { id } => (id, Ending::Accepted),
            ToJob::Handled { id, outcome } => (id, Ending::Handled(outcome)),
            ToJob::End { id } => (id, Ending::End),
            ToJob::Fetched { id, content_type, size, headers, digest } => {
                (id, Ending::Fetched { file, size, content_type, headers, digest })
            }
            ToJob::Part { id, from, body } => {
                return self.part(id, Part::Reply { from, packed: Packed { body, file } });
            }
            ToJob::PartFailed { id, from, status, by, detail } => {
                return self.part(id, Part::Failed { from, status, by, detail });
            }
            ToJob::Event(event) => return self.part(event.id, Part::Event(event)),
            ToJob::Served { id, reference } => return self.part(id, Part::Served(reference)),
            ToJob::Progress { id, from, bytes, size } => {
                return self.part(id, Part::Progress { from, bytes, size });
            }
            ToJob::Settled { id, from, end } => {
                return self.part(id, Part::Settled { from, end });
            }
            other @ (ToJob::Welcome(_)
            | ToJob::Reject { .. }
            | ToJob::Deliver(_)
            | ToJob::Cancel { .. }
            | ToJob::Ping { .. }
            | ToJob::Pong { .. }
            | ToJob::Bye { .. }) => return Ok(Some((other, file))),
        };
        let waiting = self.lock().waiting.remove(&id).ok_or(Unasked)?;
        // Fails where the asker has given up; then the answer is for nobody.
        let _ = waiting.ending.send(ending);
        Ok(None)
    }

    fn part(&self, id: u64, part: Part) -> Result<Option<(ToJob, Option<File>)>, Unasked> {
        let state = self.lock();
        let waiting = state.waiting.get(&id).ok_or(Unasked)?;
        let (sender, missed) = waiting.parts.as_ref().ok_or(Unasked)?;
        if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(part) {
            missed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(None)
    }

    /// Keeps `handler`; `false` when something is kept for exactly this selector.
    pub(super) fn add_handler(&self, selector: Selector, handler: Arc<dyn Handler>) -> bool {
        let mut state = self.lock();
        if state.is_closed || state.handlers.contains_key(&selector) {
            return false;
        }
        state.handlers.insert(selector, handler);
        true
    }

    pub(super) fn remove_handler(&self, selector: &Selector) {
        let removed = self.lock().handlers.remove(selector);
        // Outside the lock: it may own the last clone of this bus.
        drop(removed);
    }

    /// The most specific handler for a delivery.
    pub(super) fn handler_for(&self, delivery: &local::Delivery) -> Option<Arc<dyn Handler>> {
        let channel: Channel = delivery.target.channel().clone();
        let state = self.lock();
        let candidates =
            [Selector::Exact(delivery.target.clone()), Selector::Channel(channel), Selector::All];
        candidates.iter().find_map(|selector| state.handlers.get(selector)).cloned()
    }

    /// Starts a delivery's task, unless too many are running, or nothing more is begun.
    pub(super) fn run(&self, id: u64, start: impl FnOnce() -> AbortHandle) -> Result<(), Status> {
        let mut state = self.lock();
        if state.is_closed || state.is_finishing {
            return Err(Status::ShuttingDown);
        }
        if state.running.len() >= self.limits.deliveries_max as usize {
            return Err(Status::Overloaded);
        }
        state.running.insert(id, None);
        drop(state);
        // Outside the lock: a runtime that is stopping drops the task here and now.
        let task = start();
        match self.lock().running.get_mut(&id) {
            Some(running) => *running = Some(task),
            None => task.abort(),
        }
        Ok(())
    }

    /// Ends a delivery with `frame`; once.
    pub(super) fn answer(&self, id: u64, queue: impl FnOnce(&Outbox)) {
        let mut state = self.lock();
        if state.running.remove(&id).is_some() {
            // Under the lock: once nothing runs, the last frame may follow.
            queue(&self.outbox);
        }
        if state.running.is_empty() {
            self.idle.notify_waiters();
        }
    }

    /// Begins nothing more, and waits until all that runs has been answered; `false` where the connection has ended.
    pub(super) async fn finish(&self) -> bool {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            {
                let mut state = self.lock();
                state.is_finishing = true;
                if state.is_closed || state.running.is_empty() {
                    return !state.is_closed;
                }
            }
            idle.await;
        }
    }

    /// Whether a delivery has not been answered.
    pub(super) fn is_running(&self, id: u64) -> bool {
        self.lock().running.contains_key(&id)
    }

    /// Drops the task of a delivery that nobody waits for; it answers as it goes.
    pub(super) fn cancel_delivery(&self, id: u64) {
        let task = self.lock().running.get(&id).cloned().flatten();
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Ends everything.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        let handlers = std::mem::take(&mut state.handlers);
        let running = std::mem::take(&mut state.running);
        // Handlers and waiters may own a clone of this bus, whose end comes back here.
        drop(state);
        self.slots.close();
        self.bytes.close();
        self.attached.close();
        self.outbox.close();
        self.closed.send_replace(true);
        self.idle.notify_waiters();
        running.values().flatten().for_each(AbortHandle::abort);
        drop((waiting, handlers));
    }

    pub(super) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives in self.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under the lock, so a poisoned state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for JobSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JobSide of {}", self.cell)
    }
}
