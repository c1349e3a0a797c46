//! One transfer at its holder: source, reference and ledger, and who wants to know of changes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cellbus_proto::{
    name::Fqcn,
    status::Status,
    transfer::{
        Answer, ContentKey, Digest, Digester, Fetch, FetchRefusal, Ledger, Outcome, Receipt,
        ReceiptRefusal, Receipted, Receiver, Reference, SignedReference, TransferId,
    },
};
use tokio::{sync::watch, time::timeout};

use super::{
    error::{ServeError, SourceError},
    now,
    pace::Pace,
    source::{Content, blocking},
};
use crate::bus::Bus;

/// How long a fetch waits for a source that is read anew. Whoever asks is told then how far that is, and comes again.
const LOOK: Duration = Duration::from_secs(5);

/// One transfer at its holder.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) bus: Bus,
    pub(super) project: String,
    pub(super) patience: Duration,
    /// As `patience`, for who has not taken the offer yet.
    pub(super) attendance: Duration,
    pub(super) begun: Instant,
    /// Bytes that were written to receivers, those that were written again too.
    pub(super) sent: AtomicU64,
    pub(super) pace: tokio::sync::Mutex<Pace>,
    state: Mutex<State>,
    /// Held while the source is compared and opened again.
    pub(super) opening: tokio::sync::Mutex<()>,
    /// Bytes of it that have been read anew.
    pub(super) read: AtomicU64,
    /// Held while what nobody has hashed is hashed.
    digesting: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    /// Set when nothing more is served.
    closed: watch::Sender<Option<Status>>,
}

/// What its holder has said of a transfer.
pub(super) struct Limits {
    pub(super) project: String,
    pub(super) patience: Duration,
    pub(super) attendance: Duration,
    pub(super) rate: Option<u64>,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    signed: Arc<SignedReference>,
    content: Content,
    /// Of the bytes that have been read in order by whoever was ahead; `None` where the digest is known.
    digester: Option<Digester>,
    digest: Option<Digest>,
}

/// What a fetch gets.
pub(super) struct Granted {
    pub(super) answer: Answer,
    pub(super) content: Content,
}

/// Why a fetch gets nothing.
pub(super) enum Denied {
    Refused(Status),
    /// So many bytes of the source have been read anew, and not yet all.
    NotReady(u64),
    Changed(Arc<SignedReference>),
}

impl Books {
    pub(super) fn new(
        bus: Bus,
        limits: Limits,
        ledger: Ledger,
        signed: SignedReference,
        content: Content,
    ) -> Self {
        let Limits { project, patience, attendance, rate } = limits;
        let digest = signed.reference.digest;
        let digester = digest.is_none().then(Digester::default);
        let signed = Arc::new(signed);
        let state = State { ledger, signed, content, digester, digest };
        Self {
            bus,
            project,
            patience,
            attendance,
            begun: now(),
            sent: AtomicU64::new(0),
            pace: tokio::sync::Mutex::new(Pace::new(rate)),
            state: Mutex::new(state),
            opening: tokio::sync::Mutex::default(),
            read: AtomicU64::new(0),
            digesting: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            closed: watch::Sender::new(None),
        }
    }

    fn lock<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the ledger.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        self.lock(|state| look(&state.ledger))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = self.lock(change);
        self.changes.send_modify(|count| *count += 1);
        changed
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn reference(&self) -> Arc<SignedReference> {
        self.lock(|state| Arc::clone(&state.signed))
    }

    /// What opens what is served, where it is sealed.
    pub(super) fn key(&self) -> Option<ContentKey> {
        self.lock(|state| state.content.key().cloned())
    }

    pub(super) fn id(&self) -> TransferId {
        self.lock(|state| state.signed.reference.id)
    }

    pub(super) fn outcome(&self) -> Option<Arc<Outcome>> {
        self.with(|ledger| ledger.outcome().cloned())
    }

    /// Decides on a fetch, after a look at whether the source is still the same.
    pub(super) async fn grant(
        self: &Arc<Self>,
        receiver: Receiver<'_>,
        fetch: &Fetch,
        wants_data: bool,
        budget: Duration,
    ) -> Result<Granted, Denied> {
        if let Some(status) = *self.closed.borrow()
            && !fetch.have
        {
            return Err(Denied::Refused(status));
        }
        // Who is not to have it learns nothing of it, and has no disk looked at.
        let may = self.with(|ledger| ledger.reference().audience.has(receiver));
        if may && !fetch.have {
            let books = Arc::clone(self);
            let looking = async move {
                if books.is_reading().is_some() {
                    // One that waits for it is enough.
                    drop(books.opening.lock().await);
                }
                tokio::spawn(async move { books.look_at_source().await }).await
            };
            // Hashing what has changed may take longer than the fetch waits, and is done once all the same.
            let Ok(looked) = timeout(LOOK.min(budget / 2), looking).await else {
                // Whoever comes again for as long as that takes is not away.
                self.lock(|state| state.ledger.handle_seen(now(), receiver.name));
                return Err(Denied::NotReady(self.read.load(Ordering::Relaxed)));
            };
            let looked = looked.unwrap_or(Err(SourceError::Changed));
            looked.map_err(|error| Denied::Refused(error.status()))?;
        }
        let unix = self.bus.transport().unix_ms() / 1000;
        self.change(|state| {
            let granted = state.ledger.handle_fetch(now(), unix, receiver, fetch, wants_data);
            match granted {
                Ok(answer) => Ok(Granted { answer, content: state.content.clone() }),
                Err(FetchRefusal::SourceChanged) => Err(Denied::Changed(Arc::clone(&state.signed))),
                Err(refusal) => Err(Denied::Refused(refusal.status())),
            }
        })
    }

    /// Bytes of the source that have been read anew, while it is.
    pub(super) fn is_reading(&self) -> Option<u64> {
        let is_idle = self.opening.try_lock().is_ok();
        (!is_idle).then(|| self.read.load(Ordering::Relaxed))
    }

    /// Where the source is no longer what the reference describes, describes it anew.
    pub(super) async fn look_at_source(&self) -> Result<(), SourceError> {
        let _one_at_a_time = self.opening.lock().await;
        let content = self.lock(|state| state.content.clone());
        match content.check().await {
            Ok(()) => return Ok(()),
            Err(SourceError::Changed) => {}
            Err(error) => return Err(error),
        }
        let key = content.key().cloned();
        let content = content.reopen().await?;
        let old = self.reference();
        let generation = content.generation().max(old.reference.generation.saturating_add(1));
        let of = (self.project.as_str(), &old.reference.holder, &old.reference.id, generation);
        let (content, seal) = content.sealed_with(key.as_ref(), of)?;
        let digest = match old.reference.digest {
            Some(_) => Some(content.digest(&self.read).await?),
            None => None,
        };
        let reference = Reference {
            size: content.size,
            size_max: content.size_max,
            digest,
            generation,
            parts: content.parts.clone(),
            unix_ms: self.bus.transport().unix_ms(),
            seal,
            ..old.reference.clone()
        };
        let signed = sign(&self.bus, &self.project, reference).await;
        let signed = signed.map_err(|_unsigned| SourceError::Changed)?;
        self.change(|state| {
            let reference = Arc::new(signed.reference.clone());
            if state.ledger.change_source(now(), reference).is_err() {
                return Err(SourceError::Changed);
            }
            state.digester = digest.is_none().then(Digester::default);
            (state.signed, state.content, state.digest) = (Arc::new(signed), content, digest);
            Ok(())
        })
    }

    /// Hashes `bytes` where nobody has read so far, unless the content is another by now.
    pub(super) async fn hash(&self, generation: u64, offset: u64, bytes: Bytes) {
        let end = offset + bytes.len() as u64;
        let taken = self.lock(|state| {
            let is_current = state.signed.reference.generation == generation;
            let at = state.digester.as_ref().filter(|_| is_current)?.offset();
            (offset..end).contains(&at).then(|| state.digester.take()).flatten()
        });
        // Whoever comes while this is away has the same bytes, and leaves the hashing to this one.
        let Some(mut digester) = taken else { return };

        let skip = usize::try_from(digester.offset() - offset).unwrap_or(0);
        let hashed = blocking(move || {
            digester.update(&bytes[skip..]);
            Ok(digester)
        });
        let Ok(digester) = hashed.await else { return };
        self.lock(|state| {
            if state.signed.reference.generation == generation && state.digest.is_none() {
                state.digester = Some(digester);
            }
        });
    }

    /// The digest of all `size` bytes; reads again what was never read in order.
    pub(super) async fn digest(
        &self,
        generation: u64,
        content: &Content,
        size: u64,
    ) -> Result<Digest, SourceError> {
        let _one_at_a_time = self.digesting.lock().await;
        let (known, taken) = self.lock(|state| match state.signed.reference.generation {
            current if current == generation => (state.digest, state.digester.take()),
            _ => (None, None),
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let mut digester = taken.unwrap_or_default();
        while digester.offset() < size {
            let bytes = content.read(digester.offset()).await?;
            if bytes.is_empty() {
                return Err(SourceError::Changed);
            }
            digester = blocking(move || {
                digester.update(&bytes);
                Ok(digester)
            })
            .await?;
            // Whoever waits for this may give up, and the next one goes on from here.
            self.lock(|state| {
                if state.signed.reference.generation == generation && state.digest.is_none() {
                    state.digester = Some(digester.clone());
                }
            });
        }
        let digest = digester.finish();
        self.change(|state| {
            if state.signed.reference.generation == generation
                && state.ledger.set_source(size, digest)
            {
                state.digest = Some(digest);
                return Ok(digest);
            }
            Err(SourceError::Changed)
        })
    }

    /// Notes that everything below `offset` was written to a receiver.
    pub(super) fn served(&self, receiver: &Fqcn, offset: u64) {
        self.change(|state| state.ledger.handle_served(now(), receiver, offset));
    }

    /// Decides on a receipt, whose signature is verified first.
    pub(super) async fn receive(
        &self,
        receiver: &Fqcn,
        receipt: &Receipt,
    ) -> Result<Receipted, ReceiptRefusal> {
        let signable = receipt.signable(&self.project, receiver, &self.bus.name());
        let is_good = match &receipt.signature {
            Some(signature) => {
                let signature = Bytes::copy_from_slice(&signature.0);
                let verified =
                    self.bus.transport().verify(receiver.clone(), signable.clone(), signature);
                verified.await.is_ok()
            }
            None => false,
        };
        self.change(|state| {
            let verifies = |asked: &_, _: &[u8]| is_good && *asked == signable;
            let received = state.ledger.handle_receipt(receiver, receipt, verifies);
            if received.is_ok() {
                state.ledger.handle_served(now(), receiver, receipt.size);
            }
            received
        })
    }

    /// An expected receiver will not come.
    pub(super) fn decline(&self, receiver: &Fqcn, status: Status) {
        self.change(|state| state.ledger.decline(receiver, status));
    }

    /// Nothing more is served: running fetches are let go of, and told why when they come back.
    pub(super) fn close(&self, status: Status) -> Arc<Outcome> {
        let outcome = self.change(|state| state.ledger.close(status));
        self.closed.send_if_modified(|closed| {
            let is_first = closed.is_none();
            closed.get_or_insert(status);
            is_first
        });
        outcome
    }

    /// Completes when nothing more is served.
    pub(super) async fn closed(&self) {
        // Fails only when the books are gone, and this holds them.
        let _ = self.closed.subscribe().wait_for(Option::is_some).await;
    }

    pub(super) fn closed_with(&self) -> Option<Status> {
        *self.closed.borrow()
    }

    /// Notes that a conduit of a receiver has begun; it has ended when what is returned is dropped.
    pub(super) fn attend<'a>(&'a self, receiver: &'a Fqcn) -> Attended<'a> {
        self.lock(|state| state.ledger.handle_conduit(now(), receiver, true));
        Attended { books: self, receiver }
    }

    /// Nobody new may fetch any more. Says when to ask again, or how it has ended.
    pub(super) fn expire(&self) -> Result<Instant, Arc<Outcome>> {
        let unix = self.bus.transport().unix_ms() / 1000;
        let next = self.change(|state| state.ledger.expire(now(), unix, self.patience));
        next.ok_or_else(|| self.close(Status::TransferExpired))
    }

    /// When nobody new may fetch any more.
    pub(super) fn expires_in(&self) -> Duration {
        let expires = self.lock(|state| state.signed.reference.expires_unix);
        let left = expires.saturating_mul(1000).saturating_sub(self.bus.transport().unix_ms());
        Duration::from_millis(left)
    }

    /// Receivers that have not ended, each with how far it is.
    pub(super) fn waiting(&self) -> Vec<(Fqcn, u64)> {
        self.with(|ledger| {
            let all = ledger.progress();
            let waiting = all.filter(|(name, _)| ledger.end_of(name).is_none());
            waiting.map(|(name, progress)| (name.clone(), progress.sequence)).collect()
        })
    }
}

/// A conduit of a receiver, for as long as it lasts.
pub(super) struct Attended<'a> {
    books: &'a Books,
    receiver: &'a Fqcn,
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.books.change(|state| state.ledger.handle_conduit(now(), self.receiver, false));
    }
}

/// Signs a reference with the key of this cell.
pub(super) async fn sign(
    bus: &Bus,
    project: &str,
    reference: Reference,
) -> Result<SignedReference, ServeError> {
    reference.check()?;
    let signed = bus.transport().sign(reference.signable(project)).await;
    let signature = signed.map_err(ServeError::NotSigned)?.to_vec();
    Ok(SignedReference { reference, signature: super::Blob(signature) })
}
