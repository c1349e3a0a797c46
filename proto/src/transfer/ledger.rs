//! The holder of one transfer: who may fetch it, whose receipt counts, and how it ended. Settled once.
//!
//! Nothing but a receipt is evidence that a receiver has the bytes: not that they were sent, and not
//! that the stream ended. Whoever has given none when the ledger is closed does not have them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    body::{Answer, Fetch, Nonce, Receipt},
    digest::Digest,
    progress::{Meter, Progress},
    reference::{Audience, BadReference, Receiver, Reference},
};
use crate::{name::Fqcn, status::Status, transcript::Signable};

mod outcome;

pub use self::outcome::{
    Counts, End, FetchRefusal, Outcome, ReceiptRefusal, Receipted, Terms, Verdict,
};

/// Seconds behind expiry after which nobody goes on.
const WEEK_S: u64 = 7 * 24 * 3600;

/// The books of one transfer at its holder.
///
/// At most [`Ledger::RECEIVERS_MAX`] receivers, about 500 bytes each.
#[derive(Debug)]
pub struct Ledger {
    reference: Arc<Reference>,
    terms: Terms,
    expected: BTreeSet<Fqcn>,
    /// Of the content that is served, once they are known.
    source: Option<(u64, Digest)>,
    entries: BTreeMap<Fqcn, Entry>,
    counts: Counts,
    closed: Option<Status>,
    outcome: Option<Arc<Outcome>>,
}

#[derive(Debug)]
struct Entry {
    /// Of the last fetch of the content that is served now.
    nonce: Option<Nonce>,
    end: Option<End>,
    meter: Meter,
    /// Whether it was given an answer: it may come again, also when the reference has expired.
    is_let_in: bool,
    /// Its conduits that have not ended.
    open: u32,
    /// When one of them last began or ended.
    seen: Instant,
}

impl Ledger {
    /// Receivers that are kept books of.
    pub const RECEIVERS_MAX: usize = 4096;

    /// Opens the books.
    ///
    /// # Errors
    /// [`BadReference`] for a reference that nobody would take.
    pub fn new(
        now: Instant,
        reference: Arc<Reference>,
        terms: Terms,
    ) -> Result<Self, BadReference> {
        reference.check()?;
        let expected = match (&terms.expected, &reference.audience) {
            (Some(expected), _) => expected.clone(),
            (None, Audience::Receivers(names)) => names.clone(),
            (None, Audience::Job(_)) => BTreeSet::new(),
        };
        if expected.len() > Self::RECEIVERS_MAX {
            return Err(BadReference::Audience);
        }
        let entries =
            expected.iter().map(|name| (name.clone(), Entry::new(now, &reference))).collect();
        let source = reference.size.zip(reference.digest);
        Ok(Self {
            reference,
            terms,
            expected,
            source,
            entries,
            counts: Counts::default(),
            closed: None,
            outcome: None,
        })
    }

    /// What is served.
    #[must_use]
    pub fn reference(&self) -> &Arc<Reference> {
        &self.reference
    }

    /// Decides on a fetch. Whoever may have it gets this answer, then the bytes from `fetch.offset` on if
    /// `answer.data` says so.
    ///
    /// # Arguments
    /// `receiver`: the verified origin of the request. `wants_data`: whether the conduit asks for more than
    /// the answer.
    /// # Errors
    /// [`FetchRefusal`]; no byte goes out, and nothing changes but a counter.
    pub fn handle_fetch(
        &mut self,
        now: Instant,
        now_unix: u64,
        receiver: Receiver<'_>,
        fetch: &Fetch,
        wants_data: bool,
    ) -> Result<Answer, FetchRefusal> {
        let checked = self.check_fetch(now_unix, receiver, fetch);
        if let Err(refusal) = checked {
            self.counts.refuse_fetch(refusal);
            return Err(refusal);
        }
        let reference = &self.reference;
        let entry =
            self.entries.entry(receiver.name.clone()).or_insert_with(|| Entry::new(now, reference));
        entry.nonce = Some(fetch.nonce);
        (entry.is_let_in, entry.seen) = (true, now);
        self.counts.fetches += 1;
        Ok(Answer {
            id: reference.id,
            generation: reference.generation,
            size: reference.size.or(self.source.map(|(size, _)| size)),
            size_max: reference.size_max,
            offset: fetch.offset,
            data: wants_data && !fetch.have,
            digest: reference.digest,
        })
    }

    fn check_fetch(
        &self,
        now_unix: u64,
        receiver: Receiver<'_>,
        fetch: &Fetch,
    ) -> Result<(), FetchRefusal> {
        let entry = self.entries.get(receiver.name);
        if fetch.id != self.reference.id {
            return Err(FetchRefusal::Unknown);
        }
        if !self.reference.audience.has(receiver) {
            return Err(FetchRefusal::NotForThem);
        }
        // Whose receipt counted, and who was not told, may ask for as long as there are books.
        let is_known =
            fetch.have && entry.is_some_and(|e| matches!(e.end, Some(End::Stored { .. })));
        if !is_known && self.closed.is_some() {
            return Err(FetchRefusal::Closed);
        }
        let is_under_way = entry.is_some_and(|entry| entry.is_let_in && entry.end.is_none())
            && !self.is_long_over(now_unix);
        if !is_known && !is_under_way && self.reference.has_expired(now_unix) {
            return Err(FetchRefusal::Expired);
        }
        if fetch.generation != self.reference.generation {
            return Err(FetchRefusal::SourceChanged);
        }
        let size = self.reference.size.or(self.source.map(|(size, _)| size));
        let end = size.unwrap_or(self.reference.size_max);
        if fetch.offset > end || (fetch.have && size.is_some_and(|size| fetch.offset != size)) {
            return Err(FetchRefusal::BadOffset);
        }
        let is_used = entry.is_some_and(|entry| entry.nonce == Some(fetch.nonce));
        if is_used || fetch.nonce.0 == [0; 16] {
            return Err(FetchRefusal::BadNonce);
        }
        if entry.is_none() && self.entries.len() >= Self::RECEIVERS_MAX {
            return Err(FetchRefusal::Full);
        }
        Ok(())
    }

    /// Notes size and digest of what is served, once it has been read to its end. Says whether they
    /// agree with the reference and with what was noted before.
    pub fn set_source(&mut self, size: u64, digest: Digest) -> bool {
        let agrees = self.reference.size.is_none_or(|known| known == size)
            && size <= self.reference.size_max
            && self.reference.digest.is_none_or(|known| known == digest)
            && self.source.is_none_or(|known| known == (size, digest));
        if agrees {
            self.source = Some((size, digest));
            self.entries.values_mut().for_each(|entry| entry.meter.set_size(size));
        }
        agrees
    }

    /// The source has another content, which `reference` describes. Receipts of the content before count
    /// no longer, and those that were taken do not make the transfer complete.
    ///
    /// # Errors
    /// [`BadReference`] unless it is of the same transfer and a later generation; nothing changes.
    pub fn change_source(
        &mut self,
        now: Instant,
        reference: Arc<Reference>,
    ) -> Result<(), BadReference> {
        reference.check()?;
        let old = &self.reference;
        let is_same = reference.id == old.id
            && reference.holder == old.holder
            && reference.target == old.target
            && reference.audience == old.audience;
        if !is_same || reference.generation <= old.generation {
            return Err(BadReference::Generation);
        }
        self.source = reference.size.zip(reference.digest);
        for entry in self.entries.values_mut() {
            entry.nonce = None;
            entry.meter.restart(now, reference.generation, reference.size);
        }
        self.reference = reference;
        Ok(())
    }

    /// Notes that the bytes below `offset` were written to a receiver.
    pub fn handle_served(&mut self, now: Instant, receiver: &Fqcn, offset: u64) -> bool {
        self.entries.get_mut(receiver).is_some_and(|entry| entry.meter.advance(now, offset))
    }

    /// Notes that a conduit of a receiver that was let in has begun, or has ended.
    pub fn handle_conduit(&mut self, now: Instant, receiver: &Fqcn, begins: bool) {
        if let Some(entry) = self.entries.get_mut(receiver) {
            entry.open = if begins { entry.open + 1 } else { entry.open.saturating_sub(1) };
            entry.seen = now;
        }
    }

    /// Notes that a receiver has come, and was told to come again.
    pub fn handle_seen(&mut self, now: Instant, receiver: &Fqcn) {
        if let Some(entry) = self.entries.get_mut(receiver) {
            entry.seen = now;
        }
    }

    /// Whether somebody is reading it, or about to give its receipt.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.entries.values().any(|entry| entry.open > 0 && entry.end.is_none())
    }

    /// Whether it expired so long ago that nothing can still be under way: a receiver that only seems to be is no
    /// reason to keep books for ever.
    fn is_long_over(&self, now_unix: u64) -> bool {
        now_unix >= self.reference.expires_unix.saturating_add(WEEK_S)
    }

    /// The reference has expired: whoever of the expected was not let in by now, or was gone for `patience`, has
    /// missed it; a week later everybody has. Says when to ask again; `None` where nobody is waited for.
    pub fn expire(&mut self, now: Instant, now_unix: u64, patience: Duration) -> Option<Instant> {
        let is_over = self.is_long_over(now_unix);
        let missed = |entry: &Entry| {
            let is_away = entry.open == 0 && now >= entry.seen + patience;
            entry.end.is_none() && (!entry.is_let_in || is_away || is_over)
        };
        for entry in self.entries.values_mut().filter(|entry| missed(entry)) {
            entry.end = Some(End::Failed(Status::TransferExpired));
        }
        self.settle_if_all_ended();
        let left = self.entries.values().filter(|entry| entry.end.is_none());
        left.map(|entry| if entry.open > 0 { now } else { entry.seen } + patience).min()
    }

    /// Decides on a receipt.
    ///
    /// # Arguments
    /// `receiver`: the verified origin of the request on whose stream it came. `verifies` is given the
    /// signable and the signature, and says whether the leaf key of the receiver made it.
    /// # Errors
    /// [`ReceiptRefusal`]; it counts for nothing, and nothing changes but a counter.
    pub fn handle_receipt(
        &mut self,
        receiver: &Fqcn,
        receipt: &Receipt,
        verifies: impl FnOnce(&Signable, &[u8]) -> bool,
    ) -> Result<Receipted, ReceiptRefusal> {
        let checked = self.check_receipt(receiver, receipt, verifies);
        let end = match checked {
            Ok(end) => end,
            Err(refusal) => {
                self.counts.refuse_receipt(refusal);
                return Err(refusal);
            }
        };
        let entry = self.entries.get_mut(receiver).expect("who gives a receipt has fetched");
        match (entry.end, end) {
            (Some(End::Stored { generation, .. }), End::Stored { generation: now, .. })
                if generation == now =>
            {
                self.counts.repeated += 1;
                return Ok(Receipted::Again);
            }
            (Some(End::Stored { .. }), End::Failed(_) | End::Missing) => {
                self.counts.contradictory += 1;
                return Err(ReceiptRefusal::Contradicts);
            }
            (None | Some(End::Failed(_) | End::Missing | End::Stored { .. }), _) => {}
        }
        entry.end = Some(end);
        self.counts.receipts += 1;
        let is_late = self.outcome.is_some();
        self.settle_if_all_ended();
        Ok(match end {
            End::Stored { .. } if is_late => Receipted::Late,
            End::Stored { .. } => Receipted::Settled,
            End::Failed(status) => Receipted::Failed(status),
            End::Missing => Receipted::Failed(Status::HandlerFailed),
        })
    }

    fn check_receipt(
        &self,
        receiver: &Fqcn,
        receipt: &Receipt,
        verifies: impl FnOnce(&Signable, &[u8]) -> bool,
    ) -> Result<End, ReceiptRefusal> {
        let entry = self.entries.get(receiver).ok_or(ReceiptRefusal::Foreign)?;
        if receipt.id != self.reference.id {
            return Err(ReceiptRefusal::Foreign);
        }
        if receipt.generation != self.reference.generation || entry.nonce != Some(receipt.nonce) {
            return Err(ReceiptRefusal::Stale);
        }
        let signed = match &receipt.signature {
            Some(signature) => {
                let signable =
                    receipt.signable(&self.terms.project, receiver, &self.reference.holder);
                if !verifies(&signable, &signature.0) {
                    return Err(ReceiptRefusal::BadSignature);
                }
                true
            }
            None if self.terms.signed => return Err(ReceiptRefusal::NotSigned),
            None => false,
        };
        if let Err(status) = receipt.outcome() {
            return Ok(End::Failed(status));
        }
        let source = self.source.ok_or(ReceiptRefusal::NotServed)?;
        if Some(source) != receipt.digest.map(|digest| (receipt.size, digest)) {
            return Err(ReceiptRefusal::WrongDigest);
        }
        Ok(End::Stored { generation: receipt.generation, signed })
    }

    /// An expected receiver will not come: it does not want it, or cannot be reached. Has no effect on one
    /// that has ended.
    pub fn decline(&mut self, receiver: &Fqcn, status: Status) {
        if let Some(entry) = self.entries.get_mut(receiver) {
            entry.end.get_or_insert(End::Failed(status));
            self.settle_if_all_ended();
        }
    }

    /// Closes the books: who has not ended has not got it. Closing again, and receipts after it, change
    /// nothing.
    pub fn close(&mut self, status: Status) -> Arc<Outcome> {
        self.closed.get_or_insert(status);
        if self.outcome.is_none() {
            self.outcome = Some(Arc::new(self.judge()));
        }
        self.outcome.clone().expect("it has just been judged")
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Arc<Outcome>> {
        self.outcome.as_ref()
    }

    /// How far each receiver has come, by what was written to it.
    pub fn progress(&self) -> impl Iterator<Item = (&Fqcn, Progress)> {
        self.entries.iter().map(|(name, entry)| (name, entry.meter.progress()))
    }

    /// How far one receiver has come.
    #[must_use]
    pub fn progress_of(&self, receiver: &Fqcn) -> Option<Progress> {
        self.entries.get(receiver).map(|entry| entry.meter.progress())
    }

    /// Whether a receiver has its bytes, did not get them, or neither yet.
    #[must_use]
    pub fn end_of(&self, receiver: &Fqcn) -> Option<End> {
        self.entries.get(receiver).and_then(|entry| entry.end)
    }

    /// What was taken and refused.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn settle_if_all_ended(&mut self) {
        let has_ended = |name: &Fqcn| self.entries.get(name).is_some_and(|e| e.end.is_some());
        let all = !self.expected.is_empty() && self.expected.iter().all(has_ended);
        if all && self.outcome.is_none() {
            self.outcome = Some(Arc::new(self.judge()));
        }
    }

    fn judge(&self) -> Outcome {
        let end_of = |name: &Fqcn| {
            let end = self.entries.get(name).and_then(|entry| entry.end);
            end.unwrap_or(End::Missing)
        };
        let generation = self.reference.generation;
        let is_stored =
            |end: End| matches!(end, End::Stored { generation: of, .. } if of == generation);
        let stored = self.expected.iter().filter(|name| is_stored(end_of(name))).count();
        let is_complete = !self.expected.is_empty() && stored == self.expected.len();
        let verdict = if is_complete { Verdict::Completed } else { Verdict::Failed };
        let others = self.entries.iter().filter(|(_, entry)| entry.end.is_some());
        let names = self.expected.iter().chain(others.map(|(name, _)| name));
        Outcome {
            verdict,
            quorum_met: self.terms.quorum.map_or(is_complete, |least| stored >= least.max(1)),
            generation,
            stored,
            expected: self.expected.len(),
            ends: names.map(|name| (name.clone(), end_of(name))).collect(),
        }
    }
}

impl Entry {
    fn new(now: Instant, reference: &Reference) -> Self {
        let meter = Meter::new(now, reference.generation, reference.size);
        Self { nonce: None, end: None, meter, is_let_in: false, open: 0, seen: now }
    }
}

#[cfg(test)]
mod tests;
