//! The receiver of one transfer: from where to ask, what of it to believe, when it is stored, and when
//! to give up.
//!
//! ```text
//!  rebuilding -> waiting -> asking -> receiving -> digesting -> verified -> committing -> confirming -> done
//!                   ^          |          |                                                   |
//!                   +----------+----------+---------------- lost, idle, changed --------------+
//! ```
//! Whoever runs it does what [`Pull::poll`] says, hands in what happens, and writes what
//! [`Pull::handle_bytes`] gives out to the sink, in that order. No byte is given out twice, unless
//! [`Step::Rewind`] was asked for in between; [`Step::Commit`] comes after the digest was found right.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    body::{Answer, Fetch, Nonce, Receipt, Trailer},
    chunk::{Piece, PieceReader, Settlement},
    digest::{Digest, Digester},
    progress::{Meter, Progress},
    reference::Reference,
};
use crate::{codec::Octets, status::Status};

mod failing;
mod step;

pub use self::failing::not_ready;
use self::step::may_pass;
pub use self::step::{PullEnd, PullSettings, Step, Told, Violation};

/// Failures in a row after which a fetch no longer names the digest.
const NAMED_MAX: u32 = 3;

/// The receiver of one transfer.
///
/// Holds no bytes of it. About 8 KiB with its digester and marks, and what that puts together.
#[derive(Debug)]
pub struct Pull {
    reference: Arc<Reference>,
    settings: PullSettings,
    state: State,
    steps: VecDeque<Step>,
    /// `None` where somebody else hashes.
    digester: Option<Digester>,
    reader: PieceReader,
    attempt: Option<Attempt>,
    /// Bytes that have been handed out and not taken back.
    position: u64,
    durable: u64,
    /// Ascending; what was asked to be made durable and is not yet.
    syncing: VecDeque<u64>,
    stored: Option<(u64, Digest)>,
    meter: Meter,
    /// The furthest position since the last beginning at zero.
    high: u64,
    /// When patience began.
    patient_since: Instant,
    unserved_since: Option<Instant>,
    /// What the holder said last of how far it has read its source.
    holder_read: Option<u64>,
    /// In a row, without progress.
    failures: u32,
    restarts: u32,
    mismatches: u32,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    nonce: Nonce,
    /// When a byte last came, or this end was last the one to wait for.
    moved: Instant,
    /// Bytes that the transfer cannot exceed, once the holder has answered.
    end: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Rebuilding {
        to: u64,
    },
    /// A wait has to be drawn.
    Pausing,
    Waiting {
        until: Instant,
    },
    Asking,
    Receiving,
    Digesting(Trailer),
    Verified {
        size: u64,
        digest: Digest,
        commit_at: Option<Instant>,
    },
    Committing {
        size: u64,
        digest: Digest,
    },
    Confirming,
    Done(PullEnd),
}

impl Pull {
    /// A pull from the first byte on.
    #[must_use]
    pub fn new(now: Instant, reference: Arc<Reference>, settings: PullSettings) -> Self {
        let meter = Meter::new(now, reference.generation, reference.size);
        let settings = PullSettings { sync_every: settings.sync_every.max(1), ..settings };
        let mut pull = Self {
            settings,
            state: State::Waiting { until: now },
            steps: VecDeque::new(),
            digester: Some(Digester::marking_every(settings.sync_every)),
            reader: PieceReader::new(false),
            attempt: None,
            position: 0,
            durable: 0,
            syncing: VecDeque::new(),
            stored: None,
            meter,
            high: 0,
            patient_since: now,
            unserved_since: None,
            holder_read: None,
            failures: 0,
            restarts: 0,
            mismatches: 0,
            reference,
        };
        if pull.reference.size.is_some_and(|size| size > pull.settings.size_cap) {
            pull.fail(Status::TooLarge);
        }
        pull
    }

    /// A pull that goes on after a restart: the first `durable` bytes of the content that the reference
    /// describes are in the part.
    #[must_use]
    pub fn resume(
        now: Instant,
        reference: Arc<Reference>,
        settings: PullSettings,
        durable: u64,
    ) -> Self {
        let mut pull = Self::new(now, reference, settings);
        let end = pull.reference.size.unwrap_or(pull.reference.size_max);
        if !matches!(pull.state, State::Waiting { .. }) {
            return pull;
        }
        if durable > end {
            pull.steps.push_back(Step::Rewind { to: 0 });
        } else if durable > 0 {
            pull.state = State::Rebuilding { to: durable };
            pull.steps.push_back(Step::Rebuild { to: durable });
        }
        pull
    }

    /// A pull that has stored everything before a restart and only gives its receipt.
    #[must_use]
    pub fn stored(
        now: Instant,
        reference: Arc<Reference>,
        settings: PullSettings,
        size: u64,
        digest: Digest,
    ) -> Self {
        let mut pull = Self::new(now, reference, settings);
        (pull.position, pull.durable, pull.high) = (size, size, size);
        pull.stored = Some((size, digest));
        pull.meter.advance(now, size);
        pull.state = State::Waiting { until: now };
        pull.steps.clear();
        pull
    }

    /// Takes the digester away: whoever asks hashes what is handed out, in order, rewinds it at
    /// [`Step::Rewind`] and answers [`Step::Digest`]; and hashes the part at [`Step::Rebuild`], marks that
    /// end and says [`handle_rebuilt`](Self::handle_rebuilt). `None` where that was done before or bytes
    /// have been handed out.
    pub fn take_digester(&mut self) -> Option<Digester> {
        let is_new = self.digester.as_ref().is_some_and(|digester| digester.offset() == 0);
        if is_new { self.digester.take() } else { None }
    }

    /// What is fetched; another one after the source has changed.
    #[must_use]
    pub fn reference(&self) -> &Arc<Reference> {
        &self.reference
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.meter.progress()
    }

    /// Bytes that have been handed out; the next one has this offset.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that a restart would find.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether bytes are wanted now. Where not, leave them unread, so that the holder waits.
    #[must_use]
    pub fn takes_bytes(&self) -> bool {
        match self.state {
            State::Receiving => self.room() > 0,
            State::Confirming => true,
            State::Rebuilding { .. }
            | State::Pausing
            | State::Waiting { .. }
            | State::Asking
            | State::Digesting(_)
            | State::Verified { .. }
            | State::Committing { .. }
            | State::Done(_) => false,
        }
    }

    /// What to do next.
    ///
    /// # Arguments
    /// `draw` gives random bytes, and is asked only where some are needed.
    pub fn poll(&mut self, now: Instant, draw: impl FnOnce() -> [u8; 16]) -> Step {
        self.check_deadlines(now);
        if let Some(step) = self.steps.pop_front() {
            return step;
        }
        match self.state {
            State::Pausing => {
                let until = now + self.pause(draw());
                self.state = State::Waiting { until };
            }
            State::Waiting { until } if now >= until => return self.open(now, draw()),
            State::Verified { size, digest, commit_at } if commit_at.is_none_or(|at| now >= at) => {
                self.state = State::Committing { size, digest };
                return Step::Commit { size, digest };
            }
            State::Done(end) => return Step::Done(end),
            State::Rebuilding { .. }
            | State::Waiting { .. }
            | State::Asking
            | State::Receiving
            | State::Digesting(_)
            | State::Verified { .. }
            | State::Committing { .. }
            | State::Confirming => {}
        }
        Step::Wait { until: self.deadline() }
    }

    fn open(&mut self, now: Instant, nonce: [u8; 16]) -> Step {
        let nonce = Octets(nonce);
        self.attempt = Some(Attempt { nonce, moved: now, end: None });
        self.state = State::Asking;
        Step::Open(self.fetch(nonce))
    }

    fn fetch(&self, nonce: Nonce) -> Fetch {
        Fetch {
            id: self.reference.id,
            generation: self.reference.generation,
            offset: self.position,
            nonce,
            have: self.stored.is_some(),
            // What a relay has under this digest may be what comes to nothing again and again.
            digest: self
                .reference
                .size
                .and(self.reference.digest)
                .filter(|_| self.failures < NAMED_MAX && self.may_share()),
        }
    }

    /// Whether the bytes may come from what a relay keeps: not where what came before had another digest.
    #[must_use]
    pub fn may_share(&self) -> bool {
        self.mismatches == 0
    }

    /// How a holder is told that a pull has failed which has no stream to say so: what is asked, and the receipt
    /// that is given as soon as that is answered.
    #[must_use]
    pub fn last_word(&self, status: Status, nonce: [u8; 16]) -> (Fetch, Receipt) {
        let fetch = self.fetch(Octets(nonce));
        let receipt = self.receipt_of(fetch.nonce, Err(status));
        (fetch, receipt)
    }

    /// Takes the next bytes of the part, for the digest of what was there before.
    pub fn rebuild(&mut self, now: Instant, bytes: &[u8]) {
        let State::Rebuilding { to } = self.state else { return };
        let Some(digester) = &mut self.digester else { return };
        let left = usize::try_from(to - digester.offset()).unwrap_or(usize::MAX);
        digester.update(&bytes[..bytes.len().min(left)]);
        if digester.offset() == to {
            digester.mark();
            self.handle_rebuilt(now);
        }
    }

    /// The digester that was taken is where the part ends.
    pub fn handle_rebuilt(&mut self, now: Instant) {
        if let State::Rebuilding { to } = self.state {
            (self.position, self.durable, self.high) = (to, to, to);
            self.meter.advance(now, to);
            self.patient_since = now;
            self.state = State::Waiting { until: now };
        }
    }

    /// The part is not what was noted: it is dropped, and the pull begins at zero.
    pub fn handle_part_lost(&mut self, now: Instant) {
        if matches!(self.state, State::Rebuilding { .. }) {
            self.begin_anew(now);
            self.state = State::Waiting { until: now };
        }
    }

    /// The holder has answered.
    ///
    /// # Errors
    /// [`Violation`]; the attempt is over.
    pub fn handle_answer(&mut self, now: Instant, answer: &Answer) -> Result<(), Violation> {
        let (State::Asking, Some(attempt)) = (self.state, &mut self.attempt) else { return Ok(()) };
        let end = answer.size.unwrap_or(answer.size_max.min(self.reference.size_max));
        let is_asked = answer.id == self.reference.id
            && answer.generation == self.reference.generation
            && answer.offset == self.position
            && self.reference.size.is_none_or(|size| answer.size == Some(size))
            && end <= self.reference.size_max
            && self.position <= end
            && answer.digest == self.reference.digest
            && !(answer.data && self.stored.is_some());
        if !is_asked {
            return Err(self.violated(Status::BadFrame, "the answer is to another fetch"));
        }
        attempt.moved = now;
        attempt.end = Some(end.min(self.settings.size_cap));
        self.unserved_since = None;
        if let Some(size) = answer.size {
            self.meter.set_size(size);
            if size > self.settings.size_cap {
                self.fail(Status::TooLarge);
                return Ok(());
            }
        }
        self.reader = PieceReader::new(self.stored.is_none());
        if self.stored.is_some() {
            self.confirm(now);
        } else {
            self.state = State::Receiving;
        }
        Ok(())
    }

    /// Takes bytes from the front of `input` and gives out the next ones for the sink: a slice of what
    /// came in. Call it until it gives none; what is left in `input` then has to be kept while
    /// [`takes_bytes`](Self::takes_bytes) says no.
    ///
    /// # Errors
    /// [`Violation`]; the attempt is over.
    pub fn handle_bytes(
        &mut self,
        now: Instant,
        input: &mut Bytes,
    ) -> Result<Option<Bytes>, Violation> {
        loop {
            if self.attempt.is_none() {
                input.clear();
                return Ok(None);
            }
            let piece = match self.reader.read(input, self.room()) {
                Ok(None) => return Ok(None),
                Ok(Some(piece)) => piece,
                Err(error) => return Err(self.violated(error.status, error.what)),
            };
            match (piece, self.state) {
                (Piece::Data(data), State::Receiving) => return self.take(now, data).map(Some),
                (Piece::Trailer(trailer), State::Receiving) => self.take_trailer(now, trailer)?,
                (Piece::Settlement(settlement), State::Confirming) => self.settle(settlement),
                (Piece::Data(_) | Piece::Trailer(_) | Piece::Settlement(_), _) => {
                    return Err(self.violated(Status::BadFrame, "bytes out of turn"));
                }
            }
        }
    }

    fn room(&self) -> u64 {
        match self.state {
            State::Receiving => {
                let every = self.settings.sync_every;
                let ahead = (2 * every).saturating_sub(self.position - self.durable);
                // What is made durable ends at multiples, so that a digester elsewhere marks the same.
                ahead.min(every - self.position % every)
            }
            State::Rebuilding { .. }
            | State::Pausing
            | State::Waiting { .. }
            | State::Asking
            | State::Digesting(_)
            | State::Verified { .. }
            | State::Committing { .. }
            | State::Confirming
            | State::Done(_) => 0,
        }
    }

    fn take(&mut self, now: Instant, data: Bytes) -> Result<Bytes, Violation> {
        let position = self.position + data.len() as u64;
        let end = self.attempt.and_then(|attempt| attempt.end).unwrap_or(0);
        if position > end {
            self.fail(Status::TooLarge);
            return Err(Violation {
                status: Status::TooLarge,
                what: "more bytes than were announced",
            });
        }
        if let Some(digester) = &mut self.digester {
            digester.update(&data);
        }
        self.position = position;
        self.touch(now);
        if position > self.high {
            self.high = position;
            self.failures = 0;
            self.patient_since = now;
        }
        self.meter.advance(now, position);
        if position.is_multiple_of(self.settings.sync_every) {
            self.syncing.push_back(position);
            self.steps.push_back(Step::Sync { to: position });
        }
        Ok(data)
    }

    fn take_trailer(&mut self, now: Instant, trailer: Trailer) -> Result<(), Violation> {
        if trailer.size != self.position || trailer.generation != self.reference.generation {
            return Err(self.violated(Status::BadFrame, "the trailer is of other bytes"));
        }
        self.touch(now);
        self.meter.set_size(trailer.size);
        self.state = State::Digesting(trailer);
        match &self.digester {
            Some(digester) => {
                let digest = digester.finish();
                self.handle_digest(now, digest);
            }
            None => self.steps.push_back(Step::Digest),
        }
        Ok(())
    }

    /// What the digester that was taken makes of all bytes.
    pub fn handle_digest(&mut self, now: Instant, digest: Digest) {
        let State::Digesting(trailer) = self.state else { return };
        let is_right = digest == trailer.digest
            && self.reference.digest.is_none_or(|expected| digest == expected)
            && self.reference.size.is_none_or(|expected| trailer.size == expected);
        if is_right {
            self.patient_since = now;
            self.state = State::Verified { size: trailer.size, digest, commit_at: None };
        } else {
            self.mismatched(now);
        }
    }

    /// Everything below `to` is durable, as [`Step::Sync`] asked for.
    pub fn handle_synced(&mut self, now: Instant, to: u64) {
        if self.syncing.contains(&to) {
            self.syncing.retain(|asked| *asked > to);
            self.durable = to;
            self.touch(now);
            if let Some(digester) = &mut self.digester {
                digester.forget_below(to);
            }
        }
    }

    /// Everything is durable and in its place, as [`Step::Commit`] asked for.
    pub fn handle_committed(&mut self, now: Instant) {
        let State::Committing { size, digest } = self.state else { return };
        self.durable = size;
        self.syncing.clear();
        self.stored = Some((size, digest));
        self.patient_since = now;
        self.failures = 0;
        if self.attempt.is_some() {
            self.confirm(now);
        } else {
            self.state = State::Waiting { until: now };
        }
    }

    fn confirm(&mut self, now: Instant) {
        self.touch(now);
        let receipt = self.receipt(Ok(()));
        self.steps.extend(receipt.map(Step::Confirm));
        self.state = State::Confirming;
    }

    fn receipt(&self, outcome: Result<(), Status>) -> Option<Receipt> {
        let attempt = self.attempt.filter(|attempt| attempt.end.is_some())?;
        Some(self.receipt_of(attempt.nonce, outcome))
    }

    fn receipt_of(&self, nonce: Nonce, outcome: Result<(), Status>) -> Receipt {
        Receipt {
            id: self.reference.id,
            generation: self.reference.generation,
            nonce,
            size: self.position,
            digest: outcome.ok().and(self.stored).map(|(_, digest)| digest),
            outcome: outcome.map_or_else(|status| status as u8, |()| 0),
            signature: None,
        }
    }

    fn settle(&mut self, settlement: Settlement) {
        self.end_stored(match settlement {
            Settlement::Settled => Told::Settled,
            Settlement::Refused => Told::Refused,
        });
    }

    fn touch(&mut self, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.moved = now;
        }
    }

    /// Half of the wait to all of it, by chance, so that those who lost one link do not come back at once.
    fn pause(&self, random: [u8; 16]) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let longest = self.settings.retry_max.min(self.settings.retry_min * (1 << doublings));
        let share = random.first_chunk().map_or(0, |chunk| u32::from_be_bytes(*chunk));
        longest / 2 + (longest / 2).mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests;
