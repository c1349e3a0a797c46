//! Serving: a source becomes a reference, and its receivers are kept books of.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
};

use cellbus_proto::{
    name::Fqcn,
    status::Status,
    transfer::{
        ContentKey, Counts, End, Ledger, Outcome, Reference, SignedReference, Terms, TransferId,
    },
};

use super::{
    Blob, Transfers,
    books::{Books, Limits, sign},
    error::ServeError,
    now,
    options::{DigestFrom, ServeOptions},
    progress::ServeProgress,
    random,
    shelf::Shelf,
    source::Source,
};

/// A transfer that is being served. Dropping it ends that: who is fetching is let go of, and told that it was
/// cancelled.
#[must_use = "a transfer is served for as long as this is kept"]
pub struct Served {
    pub(super) books: Arc<Books>,
    shelf: Shelf,
}

impl Transfers {
    /// Serves `source` to whoever `options` name, and says by which reference it is fetched.
    ///
    /// A source whose digest is declared is read once for that before this returns.
    ///
    /// # Errors
    /// [`ServeError`]; nothing is served.
    pub async fn serve(
        &self,
        source: impl Into<Source>,
        options: ServeOptions,
    ) -> Result<Served, ServeError> {
        let transport = self.bus.transport();
        let project = transport.project().ok_or(ServeError::NotCarried)?.to_string();
        let content = source.into().open().await?;
        let id = options.id.unwrap_or_else(|| TransferId::from_bytes(random()));
        let holder = self.bus.name();
        let generation = content.generation().max(options.generation);
        let key = options.sealing.into_key();
        let of = (project.as_str(), &holder, &id, generation);
        let (content, seal) = content.sealed_with(key.as_ref(), of)?;
        let shelf = self.bus.shelf().clone();
        shelf.open(&self.bus).await.map_err(ServeError::Handle)?;
        // Whoever fetches it since before a restart hears that it is coming.
        let preparing = shelf.prepare(id, &options.target, &options.audience);
        let digest = match options.digest {
            DigestFrom::Caller(digest) => Some(digest),
            DigestFrom::Reading if content.size.is_some() => {
                Some(content.digest(&preparing.read).await?)
            }
            DigestFrom::Reading | DigestFrom::OnTheWay => None,
        };
        let unix_ms = transport.unix_ms();
        let reference = Reference {
            id,
            holder,
            target: options.target,
            size: content.size,
            size_max: content.size_max,
            digest,
            generation,
            content_type: options.content_type,
            headers: Blob(options.headers.to_vec()),
            parts: content.parts.clone(),
            audience: options.audience,
            expires_unix: (unix_ms / 1000).saturating_add(options.lifetime.as_secs()),
            unix_ms,
            seal,
        };
        let terms = Terms {
            project: project.clone(),
            expected: options.expected,
            quorum: options.quorum,
            signed: options.is_signed,
        };
        let signed = sign(&self.bus, &project, reference).await?;
        signed.encode()?;
        let ledger = Ledger::new(now(), Arc::new(signed.reference.clone()), terms)?;
        let limits = Limits {
            project,
            patience: options.patience,
            attendance: options.attendance.unwrap_or(options.patience),
            rate: options.rate,
        };
        let books = Arc::new(Books::new(self.bus.clone(), limits, ledger, signed, content));
        if !shelf.put(&books) {
            return Err(ServeError::Taken);
        }
        drop(preparing);
        Ok(Served { books, shelf })
    }
}

impl Served {
    /// What it is fetched by: to be handed to the receivers, as the payload of any message. Another one after the
    /// source has changed.
    #[must_use]
    pub fn reference(&self) -> Arc<SignedReference> {
        self.books.reference()
    }

    /// What opens it, where it is sealed: for its receivers, in sealed messages, and for nobody else.
    #[must_use]
    pub fn key(&self) -> Option<ContentKey> {
        self.books.key()
    }

    /// How far each receiver is, from now on.
    pub fn progress(&self) -> ServeProgress {
        ServeProgress::new(Arc::clone(&self.books))
    }

    /// Waits until every expected receiver has stored it or failed. Once the reference has expired, that is only for
    /// those that were let in before, and are not away for longer than [`ServeOptions::patience`].
    ///
    /// # Cancellation
    /// Dropping the future changes nothing.
    pub async fn outcome(&self) -> Arc<Outcome> {
        let mut changes = self.books.changes();
        let mut look = now() + self.books.expires_in();
        loop {
            if let Some(outcome) = self.books.outcome() {
                return outcome;
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(look.into()) => match self.books.expire() {
                    Ok(again) => look = again,
                    Err(outcome) => return outcome,
                }
            }
        }
    }

    /// How it stands: as [`Self::outcome`], where that is known.
    #[must_use]
    pub fn outcome_now(&self) -> Option<Arc<Outcome>> {
        self.books.outcome()
    }

    /// Bytes that this cell has written for it, to all receivers together and with all that was written again. Less
    /// than receivers times size where relays share.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.books.sent.load(Ordering::Relaxed)
    }

    /// Whether a receiver is reading it now, be it from a relay that has the bytes.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.books.with(Ledger::is_under_way)
    }

    /// Why nothing more is served, where nothing is.
    #[must_use]
    pub fn closed_with(&self) -> Option<Status> {
        self.books.closed_with()
    }

    /// How it has ended at each receiver where it has.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<Fqcn, End> {
        self.books.with(|ledger| {
            let named = ledger.progress().map(|(name, _)| (name, ledger.end_of(name)));
            named.filter_map(|(name, end)| Some((name.clone(), end?))).collect()
        })
    }

    /// What was taken and refused.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.books.with(Ledger::counts)
    }

    /// Gives it up: who is fetching is let go of at once, and told so when it comes back. Who has given no receipt
    /// has not got it.
    pub fn cancel(&self) -> Arc<Outcome> {
        self.books.close(Status::TransferCancelled)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.books.close(Status::TransferCancelled);
        let status = self.books.closed_with().unwrap_or(Status::TransferCancelled);
        self.shelf.remove(self.books.id(), status);
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Served").field(&self.books.id()).finish()
    }
}
