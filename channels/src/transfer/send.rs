//! Sending: serving, offering to every receiver, and waiting until each has it or has failed.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use cellbus_proto::{
    name::Fqcn,
    status::Status,
    transfer::{
        CONTENT_TYPE, ContentKey, End, OfferReply, Outcome, SEALED_CONTENT_TYPE, SealedOffer,
        SignedReference,
    },
};
use tokio::time::{Instant, sleep_until};

use super::{
    Transfers, books::Books, error::ServeError, options::ServeOptions, progress::ServeProgress,
    serve::Served, source::Source,
};
use crate::{bus::Bus, transport::BoxFuture};

/// Between two offers to a receiver that is not there, or of which nothing is heard.
pub(crate) const AGAIN_MIN: Duration = Duration::from_millis(500);
pub(crate) const AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long an offer may take to be decided on.
pub(crate) const DECIDE: Duration = Duration::from_secs(30);

/// A transfer that is being sent: it ends with what became of it at every receiver.
///
/// # Cancellation
/// Dropping it gives up, as [`Served`] does.
#[must_use = "nothing is offered until this is awaited"]
pub struct Delivering {
    served: Arc<Served>,
    run: BoxFuture<Arc<Outcome>>,
}

/// How it stands with one receiver.
struct Waiting {
    /// Of its progress.
    sequence: u64,
    /// Bytes that it says it has. A relay may give them to it, and then this cell sees nothing of them.
    said: u64,
    heard: Instant,
    offer_at: Instant,
    pause: Duration,
    /// Whether it has taken the offer, or come for the bytes.
    taken: bool,
    /// What the last offer ended with.
    refused: Option<Status>,
}

impl Waiting {
    fn patience(&self, books: &Books) -> Duration {
        if self.taken { books.patience } else { books.attendance }
    }
}

impl Transfers {
    /// Sends `source` to the receivers that `options` name: serves it, offers it to them, at the same channel and
    /// topic, and waits for their receipts. Every link is crossed once where relays share.
    ///
    /// An offer is made again to who is not there, or does not come for the bytes; a receiver that was started
    /// again goes on with its part. Who is not heard of for [`ServeOptions::patience`] has failed.
    ///
    /// # Errors
    /// [`ServeError`]; nothing is offered.
    pub async fn send(
        &self,
        source: impl Into<Source>,
        options: ServeOptions,
    ) -> Result<Delivering, ServeError> {
        let served = Arc::new(self.serve(source, options).await?);
        let run = Box::pin(deliver(self.bus.clone(), Arc::clone(&served.books)));
        Ok(Delivering { served, run })
    }
}

impl Delivering {
    /// What is offered.
    #[must_use]
    pub fn reference(&self) -> Arc<SignedReference> {
        self.served.reference()
    }

    /// What opens it, where it is sealed: what the receivers are offered with it.
    #[must_use]
    pub fn key(&self) -> Option<ContentKey> {
        self.served.key()
    }

    /// How far each receiver is, from now on.
    pub fn progress(&self) -> ServeProgress {
        self.served.progress()
    }

    /// As [`Served::sent`].
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.served.sent()
    }

    /// Why nothing more is served, where nothing is.
    #[must_use]
    pub fn closed_with(&self) -> Option<Status> {
        self.served.closed_with()
    }

    /// How it has ended at each receiver where it has.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<Fqcn, End> {
        self.served.ends()
    }

    /// Waits for the outcome, and goes on serving: for those that were not expected, or come late.
    pub async fn keep(self) -> (Arc<Outcome>, Arc<Served>) {
        let Self { served, run } = self;
        (run.await, served)
    }

    /// Gives it up.
    pub fn cancel(&self) -> Arc<Outcome> {
        self.served.cancel()
    }
}

impl Future for Delivering {
    type Output = Arc<Outcome>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.run.as_mut().poll(cx)
    }
}

impl fmt::Debug for Delivering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delivering").field(&self.served).finish()
    }
}

async fn deliver(bus: Bus, books: Arc<Books>) -> Arc<Outcome> {
    let begun = Instant::now();
    let mut changes = books.changes();
    let mut waiting: BTreeMap<Fqcn, Waiting> = BTreeMap::new();
    let mut expires = begun + books.expires_in();
    let mut read = None;
    loop {
        if let Some(outcome) = books.outcome() {
            return outcome;
        }
        let now = Instant::now();
        if now >= expires {
            match books.expire() {
                Ok(again) => expires = again.into(),
                Err(outcome) => return outcome,
            }
        }
        changes.borrow_and_update();
        if let Some(reading) = books.is_reading()
            && read.replace(reading) != Some(reading)
        {
            // It is this cell that they wait for.
            waiting.values_mut().for_each(|receiver| receiver.heard = now);
        }
        let left = books.waiting();
        waiting.retain(|name, _| left.iter().any(|(left, _)| left == name));
        for (name, sequence) in left {
            let receiver = waiting.entry(name.clone()).or_insert_with(|| Waiting {
                sequence,
                said: 0,
                heard: now,
                offer_at: now,
                pause: AGAIN_MIN,
                taken: false,
                refused: None,
            });
            if receiver.sequence != sequence {
                receiver.taken = true;
                (receiver.sequence, receiver.heard) = (sequence, now);
                receiver.pause = AGAIN_MIN;
                receiver.offer_at = receiver.offer_at.max(now + AGAIN_MAX);
            }
            if now >= receiver.heard + receiver.patience(&books) {
                books.decline(&name, receiver.refused.unwrap_or(Status::TransferStalled));
            }
        }
        let due: Vec<Fqcn> = waiting
            .iter()
            .filter(|(_, receiver)| now >= receiver.offer_at)
            .map(|(name, _)| name.clone())
            .collect();
        if !due.is_empty() {
            offer(&bus, &books, due, &mut waiting).await;
            continue;
        }
        let next = waiting.values().map(|r| r.offer_at.min(r.heard + r.patience(&books))).min();
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = sleep_until(next.unwrap_or(expires).min(expires)) => {}
        }
    }
}

/// Offers it to all that are due, and notes what they say.
async fn offer(bus: &Bus, books: &Books, due: Vec<Fqcn>, waiting: &mut BTreeMap<Fqcn, Waiting>) {
    let signed = books.reference();
    let offer =
        bus.multicast(due, signed.reference.target.clone()).budget(DECIDE.min(books.patience));
    let offer = match books.key() {
        // Whoever reads this reads the transfer.
        Some(key) => {
            let sealed = SealedOffer { reference: (*signed).clone(), key };
            let Ok(payload) = sealed.encode() else { return };
            offer.payload(payload).content_type(SEALED_CONTENT_TYPE).sealed()
        }
        None => {
            let Ok(payload) = signed.encode() else { return };
            offer.payload(payload).content_type(CONTENT_TYPE)
        }
    };
    let mut offers = offer.send().await;
    loop {
        // Who has it may end the transfer while others still think about the offer.
        let offered = tokio::select! {
            biased;
            () = books.closed() => return,
            offered = offers.next() => offered,
        };
        let Some((name, said)) = offered else { return };
        let Some(receiver) = waiting.get_mut(&name) else { continue };
        let now = Instant::now();
        match said {
            Ok(taken) => {
                if !std::mem::replace(&mut receiver.taken, true) {
                    receiver.heard = now;
                }
                receiver.refused = None;
                let said = OfferReply::decode(&taken.payload).unwrap_or_default();
                // Who has not had its turn is not slow; whose turn it is has patience of its own.
                if said.bytes > receiver.said || said.waits {
                    (receiver.said, receiver.heard) = (said.bytes.max(receiver.said), now);
                }
                receiver.offer_at = now + AGAIN_MAX;
            }
            Err(error) if may_pass(error.status()) => {
                receiver.refused = Some(error.status());
                receiver.offer_at = now + receiver.pause;
                receiver.pause = (receiver.pause * 2).min(AGAIN_MAX);
            }
            Err(error) => books.decline(&name, error.status()),
        }
    }
}

/// Whether an offer that was returned with this may be taken later: the receiver is not there, or nobody
/// receives there yet. An offer does no harm twice.
pub(crate) fn may_pass(status: Status) -> bool {
    status.is_transient()
        || matches!(
            status,
            Status::NoHandler
                | Status::PeerUnknown
                | Status::PeerLost
                | Status::PeerRestarted
                | Status::Deadline
                | Status::ShuttingDown
                | Status::HandlerGone
                | Status::StorageFull
        )
}
