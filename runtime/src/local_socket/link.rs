//! What a cell has outstanding with its job code, as requests, deliveries and the reader see it.

use std::{
    fs::File,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cellbus_channels::{
    Bus,
    local::{
        carry::pieces,
        outbox::{Closed, Outbox},
    },
};
use cellbus_proto::{
    local::{Answer, Body, CellSide, Frame, Limits, Step, ToCell, ToJob, Violation},
    name::Fqcn,
    status::Status,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::AbortHandle,
    time::timeout,
};

/// One connection, for as long as anything of it is left.
pub(super) struct Link {
    pub(super) bus: Bus,
    pub(super) cell: Fqcn,
    /// The version of the protocol that is spoken.
    pub(super) version: u16,
    pub(super) limits: Limits,
    pub(super) outbox: Outbox,
    /// Deliveries that job code may have at once.
    pub(super) slots: Arc<Semaphore>,
    /// Bytes of these and of those that wait for their turn.
    pub(super) bytes: Arc<Semaphore>,
    /// Pieces of what this cell attaches.
    pub(super) attached: Arc<Semaphore>,
    side: Mutex<Option<Side>>,
    /// What was sent, and is served until it has been fetched.
    lingering: watch::Sender<Lingering>,
    /// Whether a frame has come since this was last looked at.
    is_heard: AtomicBool,
}

/// Who waits for job code's answer to a delivery. The permits are given back with the answer, whether
/// or not anybody still waits for it.
pub(super) struct Waiting {
    pub(super) answers: mpsc::Sender<Answered>,
    pub(super) _slot: OwnedSemaphorePermit,
    pub(super) _bytes: OwnedSemaphorePermit,
    pub(super) _attached: Option<OwnedSemaphorePermit>,
}

/// What job code answers.
pub(super) enum Answered {
    Part(Body, Option<File>),
    End(Answer, Option<File>),
}

/// What works on something that job code has asked.
pub(super) struct Ticket {
    pub(super) task: AbortHandle,
    pub(super) on_cancel: OnCancel,
}

/// What is done when job code does not wait any longer.
#[derive(Clone)]
pub(super) enum OnCancel {
    /// It ends at once, with this status.
    Return(Status),
    /// It ends at once.
    End,
    /// It is told, and ends by itself.
    Tell(Arc<Notify>),
}

type Side = CellSide<Ticket, Waiting>;

/// Something that is still served after what it belongs to has ended; counts as attached until dropped.
pub(super) struct Held {
    link: Arc<Link>,
    bytes: u64,
    /// Whether somebody reads it.
    is_moving: bool,
}

/// What is still served.
#[derive(Clone, Copy, Debug, Default)]
struct Lingering {
    count: usize,
    /// How many of these somebody reads.
    moving: usize,
}

impl Link {
    pub(super) fn new(bus: Bus, version: u16, limits: Limits, outbox: Outbox) -> Self {
        let attached = pieces(limits.attached_max, limits.attached_max) as usize;
        Self {
            cell: bus.name(),
            version,
            bus,
            outbox,
            slots: Arc::new(Semaphore::new(limits.deliveries_max as usize)),
            bytes: Arc::new(Semaphore::new(limits.deliveries_bytes_max as usize)),
            attached: Arc::new(Semaphore::new(attached)),
            side: Mutex::new(Some(CellSide::new(limits))),
            lingering: watch::Sender::default(),
            is_heard: AtomicBool::new(true),
            limits,
        }
    }

    /// Notes that a frame has come.
    pub(super) fn heard(&self) {
        self.is_heard.store(true, Ordering::Relaxed);
    }

    /// Whether one has come since the last call.
    pub(super) fn take_heard(&self) -> bool {
        self.is_heard.swap(false, Ordering::Relaxed)
    }

    pub(super) fn handle_frame(&self, frame: ToCell) -> Result<Step<Waiting>, Violation> {
        self.lock().as_mut().map_or(Ok(Step::Bye), |side| side.handle_frame(frame))
    }

    /// Ends what job code has asked with `frame`, unless that has been done.
    pub(super) async fn finish(
        &self,
        id: u64,
        frame: ToJob,
        file: Option<File>,
    ) -> Result<(), Closed> {
        let room = self.outbox.reserve(frame.payload().len()).await?;
        let ended = self.lock().as_mut().and_then(|side| side.end_request(id));
        if ended.is_some() {
            self.outbox.push(&frame, file, room);
        }
        Ok(())
    }

    /// Sends something that comes before the end, unless that has come.
    pub(super) async fn part(
        &self,
        id: u64,
        frame: ToJob,
        file: Option<File>,
    ) -> Result<(), Closed> {
        let room = self.outbox.reserve(frame.payload().len()).await?;
        let side = self.lock();
        if side.as_ref().is_some_and(|side| side.is_outstanding(id)) {
            self.outbox.push(&frame, file, room);
        }
        Ok(())
    }

    /// Stops the work on something that job code has asked; says how it still has to be ended.
    pub(super) fn cancel(&self, id: u64) -> Option<OnCancel> {
        let mut side = self.lock();
        let side = side.as_mut()?;
        if let Some(Ticket { on_cancel: OnCancel::Tell(told), .. }) = side.ticket(id) {
            told.notify_one();
            return None;
        }
        let ticket = side.end_request(id)??;
        ticket.task.abort();
        Some(ticket.on_cancel)
    }

    /// Makes the work on something stoppable, unless it is done.
    pub(super) fn attach(&self, id: u64, ticket: Ticket) {
        if let Some(side) = self.lock().as_mut() {
            side.attach(id, ticket);
        }
    }

    pub(super) fn forget_handler(&self) {
        if let Some(side) = self.lock().as_mut() {
            side.forget_handler();
        }
    }

    /// Opens a delivery and queues its frame, in the order of the ids; `None` after the end.
    pub(super) fn begin_delivery<T>(
        &self,
        waiting: Waiting,
        queue: impl FnOnce(&Outbox, u64) -> T,
    ) -> Option<(u64, T)> {
        let mut side = self.lock();
        let id = side.as_mut()?.begin_delivery(waiting);
        Some((id, queue(&self.outbox, id)))
    }

    /// Where the parts of an answer go.
    pub(super) fn answers(&self, id: u64) -> Option<mpsc::Sender<Answered>> {
        Some(self.lock().as_ref()?.delivery(id)?.answers.clone())
    }

    /// Ends a delivery that job code has seen nothing of.
    pub(super) fn end_delivery(&self, id: u64) {
        let ended = self.lock().as_mut().and_then(|side| side.end_delivery(id));
        drop(ended);
    }

    /// Counts `bytes` as attached for as long as they are served.
    pub(super) fn hold(self: &Arc<Self>, bytes: u64) -> Held {
        self.lingering.send_modify(|lingering| lingering.count += 1);
        if let Some(side) = self.lock().as_mut() {
            side.hold_attached(bytes);
        }
        Held { link: Arc::clone(self), bytes, is_moving: false }
    }

    /// Completes when nothing is served any longer of what was sent, or nobody has read any of it for `idle`.
    pub(super) async fn settled(&self, idle: Duration) {
        let mut lingering = self.lingering.subscribe();
        loop {
            // The sender lives in self.
            let ended = timeout(idle, lingering.wait_for(|now| now.count == 0 || now.moving > 0));
            match ended.await {
                Ok(Ok(now)) if now.count > 0 => {}
                Ok(_) | Err(_) => return,
            }
            let _ = lingering.wait_for(|now| now.moving == 0).await;
        }
    }

    /// Ends everything: whoever waits for job code learns that it is gone.
    pub(super) fn close(&self) {
        let side = self.lock().take();
        self.slots.close();
        self.bytes.close();
        self.attached.close();
        self.outbox.close();
        drop(side);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Side>> {
        // No code of others runs under the lock, so a poisoned state is a whole one.
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Notes whether somebody reads it.
    pub(super) fn set_moving(&mut self, is_moving: bool) {
        if std::mem::replace(&mut self.is_moving, is_moving) != is_moving {
            self.link.lingering.send_modify(|lingering| match is_moving {
                true => lingering.moving += 1,
                false => lingering.moving -= 1,
            });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(side) = self.link.lock().as_mut() {
            side.release_attached(self.bytes);
        }
        self.link.lingering.send_modify(|lingering| {
            lingering.count -= 1;
            lingering.moving -= usize::from(self.is_moving);
        });
    }
}
