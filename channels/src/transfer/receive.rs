//! Receiving what others offer: the application gives a sink or refuses, and its cell fetches.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use cellbus_proto::{
    name::Fqcn,
    status::Status,
    transfer::{
        ContentKey, KeyError, OfferReply, SEALED_CONTENT_TYPE, SealedOffer, SignedReference,
        TransferId,
    },
};
use tokio::sync::Semaphore;

use super::{
    Transfers,
    error::FetchError,
    fetch::{Fetched, judge, judge_key},
    options::FetchOptions,
    progress::FetchProgress,
    shelf::is_offer,
    sink::Sink,
};
use crate::{
    bus::Bus,
    error::HandleError,
    handler::{Delivery, Failure, Handler, HandlerOptions, Origin, Reply, Selector},
    transport::BoxFuture,
};

/// Offers of one cell that are thought about at once.
const OFFERS: u32 = 64;

/// A transfer that is offered to this cell. It is the word of its holder, which has signed it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Who offers it; not always its holder.
    pub origin: Origin,
    /// What is offered.
    pub reference: Arc<SignedReference>,
    /// What opens it, where it is sealed and the sender gave the key. It is used for the fetch, unless that is given
    /// another one.
    pub key: Option<ContentKey>,
}

/// Where what was offered goes.
pub struct Taken {
    sink: Sink,
    options: FetchOptions,
    then: Then,
}

type Then = Box<dyn FnOnce(Result<Fetched, FetchError>) -> BoxFuture<()> + Send>;

impl Taken {
    /// It goes into `sink`.
    #[must_use]
    pub fn new(sink: Sink) -> Self {
        let then: Then = Box::new(|_told_to_the_holder| Box::pin(std::future::ready(())));
        Self { sink, options: FetchOptions::default(), then }
    }

    /// How it is fetched.
    #[must_use]
    pub fn options(mut self, options: FetchOptions) -> Self {
        self.options = options;
        self
    }

    /// What is done at its end, once the holder has been told.
    #[must_use]
    pub fn then<F>(
        mut self,
        then: impl FnOnce(Result<Fetched, FetchError>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.then = Box::new(|fetched| Box::pin(then(fetched)));
        self
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Taken").field(&self.sink).finish()
    }
}

/// Decides on what is offered.
pub trait Receive: Send + Sync + 'static {
    /// Gives a sink, or refuses with a reason, which the sender is told.
    fn take(&self, offer: Offer) -> BoxFuture<Result<Taken, Failure>>;
}

impl<F, Fut> Receive for F
where
    F: Fn(Offer) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Taken, Failure>> + Send + 'static,
{
    fn take(&self, offer: Offer) -> BoxFuture<Result<Taken, Failure>> {
        Box::pin(self(offer))
    }
}

/// Offers are taken for as long as this is kept. What was taken is fetched to its end.
#[must_use = "offers are taken for as long as this is kept"]
pub struct Receiving {
    bus: Bus,
    selector: Selector,
}

impl fmt::Debug for Receiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiving({})", self.selector)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        lock(&self.bus.shelf().reception().desks).remove(&self.selector);
    }
}

/// Who receives what is offered to one cell.
#[derive(Default)]
pub(super) struct Reception {
    desks: Mutex<BTreeMap<Selector, Arc<Counter>>>,
    /// Selectors whose messages come here; they stay registered.
    registered: tokio::sync::Mutex<BTreeSet<Selector>>,
    /// What is being fetched because it was offered, or waits for its turn.
    running: Mutex<BTreeMap<Named, Standing>>,
}

/// A transfer, by its holder and what that calls it.
type Named = (Fqcn, TransferId);

/// How it stands with what was taken.
enum Standing {
    /// Its turn has not come.
    Waits,
    /// With whether it still hashes what is there from before.
    Fetched(FetchProgress, Arc<AtomicBool>),
}

impl Standing {
    /// What the holder is told when it offers again.
    fn told(&self) -> OfferReply {
        match self {
            Self::Waits => OfferReply { bytes: 0, waits: true },
            Self::Fetched(progress, is_rebuilding) => OfferReply {
                bytes: progress.latest().bytes,
                waits: is_rebuilding.load(Ordering::Relaxed),
            },
        }
    }
}

struct Counter {
    bus: Bus,
    receive: Arc<dyn Receive>,
    places: Arc<Semaphore>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transfers {
    /// Has `receive` decide on what is offered to `selector`. At most `at_once` of it are fetched at the same time,
    /// at least one; what is taken beyond that waits for its turn.
    ///
    /// The sender hears what became of the offer at once, and by the receipt what became of the transfer. What is
    /// offered again while it is being fetched is not asked about again.
    ///
    /// # Errors
    /// [`HandleError`] when the selector is taken or belongs to the system.
    pub async fn receive(
        &self,
        selector: impl Into<Selector>,
        at_once: usize,
        receive: impl Receive,
    ) -> Result<Receiving, HandleError> {
        let selector = selector.into();
        let reception = self.bus.shelf().reception();
        let mut registered = reception.registered.lock().await;
        if lock(&reception.desks).contains_key(&selector) {
            return Err(HandleError::Taken(selector.to_string()));
        }
        if !registered.contains(&selector) {
            let offers = Offers { shelf: self.bus.shelf().downgrade(), selector: selector.clone() };
            let options = HandlerOptions::concurrent(OFFERS);
            self.bus.handle_with(selector.clone(), options, offers).await?;
            registered.insert(selector.clone());
        }
        let counter = Counter {
            bus: self.bus.clone(),
            receive: Arc::new(receive),
            places: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))),
        };
        lock(&reception.desks).insert(selector.clone(), Arc::new(counter));
        Ok(Receiving { bus: self.bus.clone(), selector })
    }
}

/// Takes offers to one selector, for as long as somebody receives there.
struct Offers {
    shelf: Weak<super::shelf::Inner>,
    selector: Selector,
}

impl Handler for Offers {
    fn handle(&self, delivery: Delivery) -> BoxFuture<Result<Reply, Failure>> {
        let (shelf, selector) = (self.shelf.upgrade(), self.selector.clone());
        Box::pin(async move {
            let shelf = shelf.ok_or(Status::ShuttingDown)?;
            let counter = lock(&shelf.reception.desks).get(&selector).cloned();
            let counter = counter.ok_or(Status::NoHandler)?;
            if !is_offer(&delivery) {
                return Err(Status::BadTarget.into());
            }
            let told = take(shelf, counter, delivery).await?;
            Ok(Reply::from(told.encode().to_vec()))
        })
    }
}

/// Has an offer decided on, and fetches what is taken. Says how it stands with it.
async fn take(
    shelf: Arc<super::shelf::Inner>,
    counter: Arc<Counter>,
    delivery: Delivery,
) -> Result<OfferReply, Failure> {
    let (signed, key) = read(&delivery)?;
    let named = (signed.reference.holder.clone(), signed.reference.id);
    // It may have expired meanwhile, which is of no matter for what was begun.
    if delivery.origin.name == named.0
        && let Some(standing) = lock(&shelf.reception.running).get(&named)
    {
        return Ok(standing.told());
    }
    judge(&counter.bus, &signed).await.map_err(|error| error.status())?;
    if key.is_some() {
        judge_key(&counter.bus, &signed.reference, key.as_ref()).map_err(KeyError::status)?;
    }
    match lock(&shelf.reception.running).entry(named.clone()) {
        Entry::Occupied(running) => return Ok(running.get().told()),
        Entry::Vacant(place) => place.insert(Standing::Waits),
    };
    let running = Running { shelf, named };
    let reference = Arc::new(signed);
    let offer = Offer {
        origin: Arc::unwrap_or_clone(delivery.origin),
        reference: Arc::clone(&reference),
        key: key.clone(),
    };
    let Taken { sink, mut options, then } = counter.receive.take(offer).await?;
    options.key = options.key.or(key);
    if reference.reference.content_size().is_some_and(|size| size > sink.cap()) {
        // It may be offered again before whoever has taken it has heard.
        drop(running);
        then(Err(FetchError::Failed(Status::TooLarge))).await;
        return Err(Status::TooLarge.into());
    }
    // What cannot be stored is said at once, and not by a receipt that may be late.
    let fetching = counter.bus.transfers().prepare(&reference, sink, options).await;
    let fetching = match fetching {
        Ok(fetching) => fetching,
        Err(error) => {
            let status = error.status();
            drop(running);
            then(Err(error)).await;
            return Err(status.into());
        }
    };
    tokio::spawn(async move {
        let mut given_up = fetching.canceller().watch();
        let place = tokio::select! {
            biased;
            // It says so to the holder at once, and needs no place for that.
            _ = given_up.wait_for(|given_up| *given_up) => None,
            place = counter.places.acquire() => place.ok(),
        };
        let standing = Standing::Fetched(fetching.progress(), fetching.is_rebuilding());
        lock(&running.shelf.reception.running).insert(running.named.clone(), standing);
        let fetched = fetching.await;
        drop(place);
        drop(running);
        then(fetched).await;
    });
    Ok(Standing::Waits.told())
}

/// What a message offers, and its key where it says that.
fn read(delivery: &Delivery) -> Result<(SignedReference, Option<ContentKey>), Status> {
    if delivery.content_type.as_deref() == Some(SEALED_CONTENT_TYPE) {
        let offer = SealedOffer::decode(&delivery.payload).map_err(|error| error.status)?;
        return Ok((offer.reference, Some(offer.key)));
    }
    let signed = SignedReference::decode(&delivery.payload).map_err(|error| error.status)?;
    Ok((signed, None))
}

/// Notes that a transfer is being fetched.
struct Running {
    shelf: Arc<super::shelf::Inner>,
    named: Named,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.shelf.reception.running).remove(&self.named);
    }
}
