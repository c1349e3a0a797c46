//! What is served and received at one cell, and who decides on what comes for it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cellbus_proto::{
    name::ChannelTopic,
    status::Status,
    transfer::{
        Audience, CONTENT_TYPE, Fetch, Receiver, SEALED_CONTENT_TYPE, TransferId, not_ready,
    },
};

use super::{
    books::{Books, Denied, Granted},
    receive::Reception,
    running::RunningFetch,
    stream,
};
use crate::{
    bus::Bus,
    conduit::{Accepted, ConduitHandler},
    error::HandleError,
    handler::{Delivery, Failure, Reply},
    transport::BoxFuture,
};

/// Transfers that ended and of which is remembered why.
const GONE_MAX: usize = 1024;

/// What is served and received at one cell. Cheap to clone; every clone is the same one.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Inner>);

#[derive(Default)]
pub(super) struct Inner {
    served: Mutex<BTreeMap<TransferId, Arc<Books>>>,
    /// What is fetched, by numbers that are given to nothing else.
    fetched: Mutex<BTreeMap<u64, RunningFetch>>,
    fetches: AtomicU64,
    /// What is read before it is served.
    prepared: Mutex<BTreeMap<TransferId, Preparation>>,
    /// What is not served any more, and why.
    gone: Mutex<VecDeque<(TransferId, Status)>>,
    /// Whether conduits come here.
    is_open: tokio::sync::OnceCell<()>,
    pub(super) reception: Reception,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    /// Has the conduits of the cell come here.
    pub(super) async fn open(&self, bus: &Bus) -> Result<(), HandleError> {
        let opened = self.0.is_open.get_or_try_init(|| bus.serve_conduits(Desk(self.clone())));
        opened.await.copied()
    }

    /// Serves it from now on; `false` where its id is taken.
    pub(super) fn put(&self, books: &Arc<Books>) -> bool {
        let id = books.id();
        let mut served = lock(&self.0.served);
        if served.contains_key(&id) {
            return false;
        }
        served.insert(id, Arc::clone(books));
        lock(&self.0.gone).retain(|(gone, _)| *gone != id);
        true
    }

    /// Serves it no longer; whoever asks is told `status`.
    pub(super) fn remove(&self, id: TransferId, status: Status) {
        lock(&self.0.served).remove(&id);
        let mut gone = lock(&self.0.gone);
        if gone.len() == GONE_MAX {
            gone.pop_front();
        }
        gone.push_back((id, status));
    }

    /// Has those of `audience` hear that it is being read, and how far that is, until what is returned is dropped.
    pub(super) fn prepare(
        &self,
        id: TransferId,
        target: &ChannelTopic,
        audience: &Audience,
    ) -> Preparing {
        let read = Arc::<AtomicU64>::default();
        let preparation = Preparation {
            target: target.clone(),
            audience: audience.clone(),
            read: Arc::clone(&read),
        };
        lock(&self.0.prepared).insert(id, preparation);
        Preparing { shelf: self.clone(), id, read }
    }

    /// Bytes that have been read of what is not served yet, where it will be served to this receiver.
    fn is_preparing(
        &self,
        id: TransferId,
        target: &ChannelTopic,
        receiver: Receiver<'_>,
    ) -> Option<u64> {
        let prepared = lock(&self.0.prepared);
        let is_for = |p: &&Preparation| p.target == *target && p.audience.has(receiver);
        prepared.get(&id).filter(is_for).map(|found| found.read.load(Ordering::Relaxed))
    }

    /// Everything that is served.
    pub(super) fn served(&self) -> Vec<Arc<Books>> {
        lock(&self.0.served).values().cloned().collect()
    }

    /// Notes a fetch for as long as what is returned is kept.
    pub(super) fn note(&self, fetch: RunningFetch) -> NotedFetch {
        let number = self.0.fetches.fetch_add(1, Ordering::Relaxed);
        lock(&self.0.fetched).insert(number, fetch);
        NotedFetch { shelf: self.clone(), number }
    }

    /// What `look` says of everything that is fetched.
    pub(super) fn fetched<T>(&self, look: impl Fn(&RunningFetch) -> T) -> Vec<T> {
        lock(&self.0.fetched).values().map(look).collect()
    }

    pub(super) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(super) fn reception(&self) -> &Reception {
        &self.0.reception
    }

    fn find(&self, id: TransferId) -> Result<Arc<Books>, Status> {
        if let Some(books) = lock(&self.0.served).get(&id) {
            return Ok(Arc::clone(books));
        }
        let gone = lock(&self.0.gone);
        let known = gone.iter().rev().find(|(gone, _)| *gone == id);
        Err(known.map_or(Status::TransferUnknown, |(_, status)| *status))
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({} transfers)", lock(&self.0.served).len())
    }
}

/// A fetch that is noted as running.
pub(super) struct NotedFetch {
    shelf: Shelf,
    number: u64,
}

impl Drop for NotedFetch {
    fn drop(&mut self) {
        lock(&self.shelf.0.fetched).remove(&self.number);
    }
}

struct Preparation {
    target: ChannelTopic,
    audience: Audience,
    read: Arc<AtomicU64>,
}

/// A transfer that is read before it is served.
pub(super) struct Preparing {
    shelf: Shelf,
    id: TransferId,
    /// Bytes of it that have been read.
    pub(super) read: Arc<AtomicU64>,
}

impl Drop for Preparing {
    fn drop(&mut self) {
        let mut prepared = lock(&self.shelf.0.prepared);
        // Another one of the same id may have come.
        if prepared.get(&self.id).is_some_and(|found| Arc::ptr_eq(&found.read, &self.read)) {
            prepared.remove(&self.id);
        }
    }
}

/// Decides on the fetches that come to a cell.
struct Desk(Shelf);

impl ConduitHandler for Desk {
    fn accept(&self, delivery: Delivery, wants_data: bool) -> BoxFuture<Result<Accepted, Failure>> {
        let shelf = self.0.clone();
        Box::pin(async move { decide(&shelf, delivery, wants_data).await })
    }
}

async fn decide(shelf: &Shelf, delivery: Delivery, wants_data: bool) -> Result<Accepted, Failure> {
    let fetch = Fetch::decode(&delivery.payload).map_err(|error| error.status)?;
    let budget = delivery.budget;
    let receiver = Receiver { name: &delivery.origin.name, job: delivery.origin.job.as_ref() };
    let books = match shelf.find(fetch.id) {
        Ok(books) => books,
        Err(status) => {
            let preparing = shelf.is_preparing(fetch.id, &delivery.target, receiver);
            return preparing.map(returned_not_ready).ok_or(status.into());
        }
    };
    if books.reference().reference.target != delivery.target {
        // The rules for the transfer's own target have not been asked.
        return Err(Status::TransferUnknown.into());
    }
    let origin = delivery.origin;
    let receiver = Receiver { name: &origin.name, job: origin.job.as_ref() };
    let Granted { answer, content } = match books.grant(receiver, &fetch, wants_data, budget).await
    {
        Ok(granted) => granted,
        Err(Denied::Refused(status)) => return Err(status.into()),
        Err(Denied::NotReady(read)) => return Ok(returned_not_ready(read)),
        Err(Denied::Changed(signed)) => {
            let detail = signed.encode().unwrap_or_default();
            return Ok(Accepted::returned(Status::SourceChanged, detail));
        }
    };
    let reply = Reply::from(answer.encode());
    let is_sealed = content.key().is_some();
    let accepted = Accepted::new(reply, move |conduit| {
        stream::serve(books, origin.name.clone(), answer, content, conduit)
    });
    Ok(accepted.sealed(is_sealed))
}

fn returned_not_ready(read: u64) -> Accepted {
    let detail = Bytes::copy_from_slice(&not_ready(read));
    Accepted::returned(Status::TransferNotReady, detail)
}

/// Whether a message offers a transfer.
pub(super) fn is_offer(delivery: &Delivery) -> bool {
    matches!(delivery.content_type.as_deref(), Some(CONTENT_TYPE | SEALED_CONTENT_TYPE))
}
