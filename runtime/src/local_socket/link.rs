//! What a cell has outstanding with its job code, as requests, deliveries and the reader see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cellbus_channels::{
    Bus, Failure, Reply,
    local::outbox::{Closed, Outbox},
};
use cellbus_proto::{
    local::{CellSide, Frame, Limits, Step, ToCell, ToJob, Violation},
    name::Fqcn,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::AbortHandle,
};

/// One connection, for as long as anything of it is left.
pub(super) struct Link {
    pub(super) bus: Bus,
    pub(super) cell: Fqcn,
    pub(super) limits: Limits,
    pub(super) outbox: Outbox,
    /// Deliveries that job code may have at once.
    pub(super) slots: Arc<Semaphore>,
    /// Bytes of these and of those that wait for their turn.
    pub(super) bytes: Arc<Semaphore>,
    side: Mutex<Option<Side>>,
}

/// Who waits for job code's answer to a delivery. The permits are given back with the answer, whether
/// or not anybody still waits for it.
pub(super) struct Waiting {
    pub(super) answer: oneshot::Sender<Result<Reply, Failure>>,
    pub(super) _slot: OwnedSemaphorePermit,
    pub(super) _bytes: OwnedSemaphorePermit,
}

type Side = CellSide<AbortHandle, Waiting>;

impl Link {
    pub(super) fn new(bus: Bus, limits: Limits, outbox: Outbox) -> Self {
        Self {
            cell: bus.name(),
            bus,
            outbox,
            slots: Arc::new(Semaphore::new(limits.deliveries_max as usize)),
            bytes: Arc::new(Semaphore::new(limits.deliveries_bytes_max as usize)),
            side: Mutex::new(Some(CellSide::new(limits))),
            limits,
        }
    }

    pub(super) fn handle_frame(&self, frame: ToCell) -> Result<Step<Waiting>, Violation> {
        self.lock().as_mut().map_or(Ok(Step::Bye), |side| side.handle_frame(frame))
    }

    /// Answers a REQUEST, PUBLISH or HANDLE, unless that has been done.
    pub(super) async fn finish(&self, id: u64, frame: ToJob) -> Result<(), Closed> {
        let room = self.outbox.reserve(frame.payload().len()).await?;
        let ended = self.lock().as_mut().and_then(|side| side.end_request(id));
        if ended.is_some() {
            self.outbox.push(&frame, room);
        }
        Ok(())
    }

    /// Stops the work for a request; says whether it still has to be answered.
    pub(super) fn abort(&self, id: u64) -> bool {
        let ended = self.lock().as_mut().and_then(|side| side.end_request(id));
        let Some(task) = ended else { return false };
        if let Some(task) = task {
            task.abort();
        }
        true
    }

    /// Makes the work for a request stoppable, unless it is done.
    pub(super) fn attach(&self, id: u64, task: AbortHandle) {
        if let Some(side) = self.lock().as_mut() {
            side.attach(id, task);
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

    /// Ends a delivery that job code has seen nothing of.
    pub(super) fn end_delivery(&self, id: u64) {
        let ended = self.lock().as_mut().and_then(|side| side.end_delivery(id));
        drop(ended);
    }

    /// Ends everything: whoever waits for job code learns that it is gone.
    pub(super) fn close(&self) {
        let side = self.lock().take();
        self.slots.close();
        self.bytes.close();
        self.outbox.close();
        drop(side);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Side>> {
        // No code of others runs under the lock, so a poisoned state is a whole one.
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
