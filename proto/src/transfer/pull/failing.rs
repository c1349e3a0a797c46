//! What a pull makes of everything that goes wrong: lost, late, refused, changed, full, given up.

use std::{sync::Arc, time::Instant};

use super::{Pull, PullEnd, State, Step, Told, Violation, may_pass};
use crate::{status::Status, transfer::Reference};

/// What a holder says with `TRANSFER_NOT_READY`: bytes of its source that it has read.
#[must_use]
pub fn not_ready(read: u64) -> [u8; 8] {
    read.to_be_bytes()
}

impl Pull {
    /// The stream of the attempt is gone, or none could be had; however it ended, what was not said
    /// on it was not said.
    pub fn handle_lost(&mut self) {
        self.attempt = None;
        self.steps.retain(|step| !matches!(step, Step::Confirm(_) | Step::Close));
        self.lose();
    }

    /// All that has not come has not; what has come stays.
    fn lose(&mut self) {
        match self.state {
            State::Asking | State::Receiving | State::Confirming => self.pause_after_failure(),
            State::Rebuilding { .. }
            | State::Pausing
            | State::Waiting { .. }
            | State::Digesting(_)
            | State::Verified { .. }
            | State::Committing { .. }
            | State::Done(_) => {}
        }
    }

    /// The fetch was returned.
    ///
    /// # Arguments
    /// `changed`: with `SOURCE_CHANGED`, the new reference, which has been judged as the first one was.
    pub fn handle_return(&mut self, now: Instant, status: Status, changed: Option<Arc<Reference>>) {
        if self.state != State::Asking {
            return;
        }
        self.attempt = None;
        let is_unserved = matches!(status, Status::NoHandler | Status::TransferUnknown);
        if is_unserved {
            let since = *self.unserved_since.get_or_insert(now);
            if now.saturating_duration_since(since) < self.settings.unserved {
                return self.pause_after_failure();
            }
        } else {
            self.unserved_since = None;
        }
        if may_pass(status) {
            self.pause_after_failure();
        } else if self.stored.is_some() {
            self.end_stored(Told::Unheard);
        } else if status == Status::SourceChanged {
            self.change(now, changed);
        } else {
            self.fail(status);
        }
    }

    /// The fetch was returned because the holder still reads its source. That is progress for as long as it comes
    /// further: this end has nothing else to wait for.
    ///
    /// # Arguments
    /// `detail`: of the return, [`not_ready`].
    pub fn handle_not_ready(&mut self, now: Instant, detail: &[u8]) {
        if self.state != State::Asking {
            return;
        }
        let read = detail.try_into().ok().map(u64::from_be_bytes);
        if read.is_some() && read != self.holder_read {
            (self.holder_read, self.patient_since) = (read, now);
        }
        self.handle_return(now, Status::TransferNotReady, None);
    }

    fn change(&mut self, now: Instant, changed: Option<Arc<Reference>>) {
        let old = &self.reference;
        let usable = changed.filter(|new| {
            new.id == old.id
                && new.holder == old.holder
                && new.target == old.target
                && new.generation > old.generation
        });
        let Some(new) = usable.filter(|_| self.restarts < self.settings.restarts_max) else {
            return self.fail(Status::SourceChanged);
        };
        if new.size.is_some_and(|size| size > self.settings.size_cap) {
            return self.fail(Status::TooLarge);
        }
        self.restarts += 1;
        self.meter.restart(now, new.generation, new.size);
        self.reference = new;
        self.begin_anew(now);
        self.pause_after_failure();
    }

    /// The sink cannot take bytes. Where it is full, the pull goes back to what is durable and tries
    /// again while its patience lasts; otherwise it fails.
    pub fn handle_sink_failed(&mut self, now: Instant, status: Status) {
        match self.state {
            State::Done(_) => {}
            State::Committing { .. } => self.handle_commit_failed(now, status),
            State::Receiving | State::Digesting(_) | State::Verified { .. }
                if status == Status::StorageFull =>
            {
                self.close();
                self.rewind(now, self.durable);
                self.pause_after_failure();
            }
            // What was being made durable when it went back is not: no more was lost by that.
            State::Pausing | State::Waiting { .. } | State::Asking
                if status == Status::StorageFull && self.stored.is_none() => {}
            State::Rebuilding { .. }
            | State::Pausing
            | State::Waiting { .. }
            | State::Asking
            | State::Receiving
            | State::Digesting(_)
            | State::Verified { .. }
            | State::Confirming => {
                if self.stored.is_none() {
                    self.fail(status);
                }
            }
        }
    }

    /// What was to be committed is not. Where storage is full it is tried again while patience lasts.
    pub fn handle_commit_failed(&mut self, now: Instant, status: Status) {
        let State::Committing { size, digest } = self.state else { return };
        let is_patient = now.saturating_duration_since(self.patient_since) < self.settings.patience;
        if status == Status::StorageFull && is_patient {
            let commit_at = Some(now + self.settings.retry_max);
            self.state = State::Verified { size, digest, commit_at };
        } else {
            self.fail(status);
        }
    }

    /// The receiver wants it no longer. Says whether that came in time: not while, or after, the bytes are
    /// put in their place.
    pub fn cancel(&mut self) -> bool {
        match self.state {
            State::Done(_) | State::Committing { .. } => false,
            State::Rebuilding { .. }
            | State::Pausing
            | State::Waiting { .. }
            | State::Asking
            | State::Receiving
            | State::Digesting(_)
            | State::Verified { .. }
            | State::Confirming => {
                if self.stored.is_some() {
                    self.end_stored(Told::Unheard);
                    return false;
                }
                self.fail(Status::TransferCancelled);
                true
            }
        }
    }

    /// When to poll at the latest, if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let patience = self.patient_since + self.settings.patience;
        match self.state {
            State::Waiting { until } => Some(until.min(patience)),
            State::Verified { commit_at, .. } => commit_at,
            State::Receiving if self.room() == 0 => None,
            State::Asking | State::Receiving | State::Confirming => {
                let idle = self.attempt.map(|attempt| attempt.moved + self.settings.idle);
                Some(idle.map_or(patience, |idle| idle.min(patience)))
            }
            State::Pausing => Some(patience),
            State::Rebuilding { .. }
            | State::Digesting(_)
            | State::Committing { .. }
            | State::Done(_) => None,
        }
    }

    pub(super) fn check_deadlines(&mut self, now: Instant) {
        let waits_for_holder = match self.state {
            State::Asking | State::Confirming | State::Pausing | State::Waiting { .. } => true,
            State::Receiving => self.room() > 0,
            State::Rebuilding { .. }
            | State::Digesting(_)
            | State::Verified { .. }
            | State::Committing { .. }
            | State::Done(_) => false,
        };
        if !waits_for_holder {
            return;
        }
        if now.saturating_duration_since(self.patient_since) >= self.settings.patience {
            if self.stored.is_some() {
                self.end_stored(Told::Unheard);
            } else {
                self.fail(Status::TransferStalled);
            }
            return;
        }
        let idle = self.settings.idle;
        if self.attempt.is_some_and(|a| now.saturating_duration_since(a.moved) >= idle) {
            self.close();
            self.pause_after_failure();
        }
    }

    pub(super) fn violated(&mut self, status: Status, what: &'static str) -> Violation {
        self.close();
        self.lose();
        Violation { status, what }
    }

    /// What came is not what was announced. A part that was damaged on disk is cured by beginning anew,
    /// once.
    pub(super) fn mismatched(&mut self, now: Instant) {
        self.mismatches += 1;
        if self.mismatches > 1 {
            return self.fail(Status::DigestMismatch);
        }
        self.close();
        self.begin_anew(now);
        self.pause_after_failure();
    }

    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.rewind(now, 0);
        self.high = 0;
        self.patient_since = now;
    }

    fn rewind(&mut self, now: Instant, to: u64) {
        self.steps.retain(|step| !matches!(step, Step::Sync { .. } | Step::Digest));
        self.syncing.clear();
        (self.position, self.durable) = (to, to);
        self.steps.push_back(Step::Rewind { to });
        let rewound = self.digester.as_mut().map_or(Ok(()), |digester| digester.rewind(to));
        if rewound.is_err() {
            // Every offset that became durable was marked when it was asked for.
            debug_assert!(false, "no mark at {to}");
            self.begin_anew(now);
        }
    }

    fn pause_after_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.state = State::Pausing;
    }

    fn close(&mut self) {
        if self.attempt.take().is_some() {
            self.steps.push_back(Step::Close);
        }
    }

    pub(super) fn fail(&mut self, status: Status) {
        self.keep_only_endings();
        let receipt = self.receipt(Err(status));
        self.steps.extend(receipt.map(Step::Confirm));
        self.close();
        self.state = State::Done(PullEnd::Failed(status));
    }

    fn keep_only_endings(&mut self) {
        self.steps.retain(|step| matches!(step, Step::Close | Step::Rewind { .. }));
    }

    pub(super) fn end_stored(&mut self, told: Told) {
        if let Some((size, digest)) = self.stored {
            self.keep_only_endings();
            self.close();
            self.state = State::Done(PullEnd::Stored { size, digest, told });
        }
    }
}
