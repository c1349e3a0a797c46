//! Many small messages to one handler, which travel in batches and each have an outcome of their own.

use std::{fmt, pin::Pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    envelope::Lane,
    name::{ChannelTopic, Fqcn},
    status::Status,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{bus::Bus, error::RequestError, passage, transport::Outgoing};

mod batch;
mod worker;

use self::batch::Item;

/// What an item counts for beside its own bytes.
const ITEM_COST: usize = 256;

/// A queue that is being set up.
#[must_use = "a queue does nothing until it is opened"]
pub struct QueueBuilder {
    bus: Bus,
    to: Fqcn,
    outgoing: Outgoing,
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    batch_bytes: usize,
    batch_items: usize,
    linger: Duration,
    in_flight: usize,
    bytes_max: usize,
}

/// Sends small messages in batches. Cheap to clone; every clone is the same queue.
///
/// Items are handled one by one, and start in the order in which they were pushed; each ends with its own
/// outcome. When the last clone is dropped, what was pushed is still sent.
#[derive(Clone)]
pub struct Queue {
    bus: Bus,
    to: Fqcn,
    outgoing: Outgoing,
    work: mpsc::UnboundedSender<Work>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

/// What the worker of a queue is given.
#[derive(Debug)]
enum Work {
    Item(Item),
    /// What is there is sent now.
    Flush,
}

/// An item that is in the queue; resolves to its outcome. Dropping it does not take the item back.
#[derive(Debug)]
#[must_use = "the outcome says whether the item was handled"]
pub struct Pushed(oneshot::Receiver<Result<Bytes, RequestError>>);

impl QueueBuilder {
    pub(crate) fn new(bus: Bus, to: Fqcn, target: ChannelTopic) -> Self {
        let settings = Settings {
            batch_bytes: 64 << 10,
            batch_items: cellbus_proto::batch::ITEMS_MAX,
            linger: Duration::from_millis(5),
            in_flight: 4,
            bytes_max: 8 << 20,
        };
        Self { bus, to, outgoing: Outgoing::new(target), settings }
    }

    /// Bytes of items after which a batch is sent; a longer item travels alone. Default: 64 KiB.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes;
        self
    }

    /// Items after which a batch is sent: 1 to 1024. Default: 1024.
    pub fn batch_items(mut self, items: usize) -> Self {
        self.settings.batch_items = items.clamp(1, cellbus_proto::batch::ITEMS_MAX);
        self
    }

    /// Time that the first item of a batch waits for others. Default: 5 ms.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// Batches that may be on their way at once; at least 1. Default: 4.
    pub fn in_flight(mut self, batches: usize) -> Self {
        self.settings.in_flight = batches.max(1);
        self
    }

    /// Bytes of items that are in the queue or on their way, each counted with 256 bytes more; who pushes
    /// beyond that waits. This is what the queue holds at worst. At most 4 GiB. Default: 8 MiB.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.settings.bytes_max = bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        self
    }

    /// Time that a batch has from being sent to its outcomes. Default: the cell's configured budget.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.outgoing.budget = Some(budget);
        self
    }

    /// Priority class. Default: [`Lane::Interactive`].
    pub fn lane(mut self, lane: Lane) -> Self {
        self.outgoing.lane = lane;
        self
    }

    /// Media type of every item, at most 128 bytes. Default: none.
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.outgoing.content_type = Some(content_type.into());
        self
    }

    /// Opens the queue. Must be called within a runtime of tokio, which runs its worker.
    #[must_use]
    pub fn open(self) -> Queue {
        let Self { bus, to, outgoing, settings } = self;
        // Holds no more than there is room for: every item has its part of it, and flushes are its own user's.
        let (work, worker) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(settings.bytes_max));
        tokio::spawn(worker::run(bus.clone(), to.clone(), settings, worker));
        Queue { bus, to, outgoing, work, room, bytes_max: settings.bytes_max }
    }
}

impl Queue {
    /// Pushes an item and waits for its outcome: the reply of the handler to it.
    ///
    /// # Errors
    /// [`RequestError`], of this item alone; where the whole batch failed, of every item in it.
    ///
    /// # Cancellation
    /// Dropping the future before there was room pushes nothing; after that, the item is sent all the same.
    pub async fn push(&self, item: impl Into<Bytes>) -> Result<Bytes, RequestError> {
        self.enqueue(item).await?.await
    }

    /// Pushes an item as soon as there is room, and does not wait for its outcome.
    ///
    /// # Errors
    /// [`RequestError`] when the item is larger than the queue, was stopped by a filter, or the queue is
    /// closed; it was not pushed then.
    ///
    /// # Cancellation
    /// Dropping the future pushes nothing.
    pub async fn enqueue(&self, item: impl Into<Bytes>) -> Result<Pushed, RequestError> {
        let refused =
            |status| RequestError::Returned { by: self.bus.name(), status, detail: Bytes::new() };
        let outgoing = Outgoing { payload: item.into(), ..self.outgoing.clone() };
        let outgoing = passage::out(self.bus.filters(), &self.to, outgoing)
            .map_err(|error| passage::stopped(&self.bus.name(), &error))?;
        let cost = outgoing.payload.len() + ITEM_COST;
        if cost > self.bytes_max {
            return Err(refused(Status::TooLarge));
        }
        let cost = u32::try_from(cost).map_err(|_| refused(Status::TooLarge))?;
        let room = Arc::clone(&self.room).acquire_many_owned(cost).await;
        let room = room.map_err(|_closed| RequestError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let item = Item { outgoing, answer, _room: room };
        self.work.send(Work::Item(item)).map_err(|_gone| RequestError::Closed)?;
        Ok(Pushed(answered))
    }

    /// Sends what is there and waits until everything that was pushed before has its outcome.
    pub async fn flush(&self) {
        if self.work.send(Work::Flush).is_err() {
            return;
        }
        let all = u32::try_from(self.bytes_max).unwrap_or(u32::MAX);
        // Fails when the queue is closed: then nothing is in it.
        let _all_room = self.room.acquire_many(all).await;
    }

    /// Flushes, and takes nothing more, from no clone.
    pub async fn close(self) {
        self.flush().await;
        self.room.close();
    }
}

impl Future for Pushed {
    type Output = Result<Bytes, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(outcome.unwrap_or(Err(RequestError::Closed)))
    }
}

impl fmt::Debug for QueueBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueueBuilder({} {}, {:?})", self.to, self.outgoing.target, self.settings)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.bytes_max - self.room.available_permits();
        write!(f, "Queue({} {}, {used} of {} bytes)", self.to, self.outgoing.target, self.bytes_max)
    }
}
