//! What a cell has counted: every message ends in exactly one of these.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

use cellbus_proto::status::Status;
use serde::Serialize;

/// Counters of one cell. Reading them is a snapshot, not a transaction.
#[derive(Debug)]
pub struct Counters {
    accepted: AtomicU64,
    delivered: AtomicU64,
    exempt: AtomicU64,
    forwarded: AtomicU64,
    queued: AtomicI64,
    refused: [AtomicU64; 256],
    dead: [AtomicU64; 256],
    late_replies: AtomicU64,
    certificates_issued: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            exempt: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            queued: AtomicI64::new(0),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            dead: std::array::from_fn(|_| AtomicU64::new(0)),
            late_replies: AtomicU64::new(0),
            certificates_issued: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }
}

/// What [`Counters`] said at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CounterReport {
    /// Messages that the auth filter let in.
    pub accepted: u64,
    /// Of these, handed to this cell itself.
    pub delivered: u64,
    /// Of these, challenges, registers and byes.
    pub exempt: u64,
    /// Of these, written to another link.
    pub forwarded: u64,
    /// Of these, ended without reaching anybody, by code.
    pub dead: BTreeMap<&'static str, u64>,
    /// Of these, waiting in an outbox.
    pub queued: i64,
    /// Messages that were not let in, by code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Replies that came after their request had ended.
    pub late_replies: u64,
    /// Certificates that this cell has issued to cells that had one.
    pub certificates_issued: u64,
    /// Bytes read from links.
    pub bytes_in: u64,
    /// Bytes written to links.
    pub bytes_out: u64,
}

impl Counters {
    pub(crate) fn accept(&self, messages: u64) {
        self.accepted.fetch_add(messages, Ordering::Relaxed);
    }

    pub(crate) fn deliver(&self) {
        self.deliver_many(1);
    }

    pub(crate) fn deliver_many(&self, messages: u64) {
        self.delivered.fetch_add(messages, Ordering::Relaxed);
    }

    pub(crate) fn exempt(&self) {
        self.exempt.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn enqueue(&self, messages: usize) {
        self.queued.fetch_add(messages as i64, Ordering::Relaxed);
    }

    pub(crate) fn unqueue(&self, messages: usize) {
        self.queued.fetch_sub(messages as i64, Ordering::Relaxed);
    }

    pub(crate) fn forward(&self, messages: usize) {
        self.unqueue(messages);
        self.forwarded.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(crate) fn drop_queued(&self, status: Status, messages: usize) {
        self.unqueue(messages);
        self.dead[status as usize].fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(crate) fn bury(&self, status: Status, messages: u64) {
        self.dead[status as usize].fetch_add(messages, Ordering::Relaxed);
    }

    /// Counts a refusal and gives how many there have been with this code.
    pub(crate) fn refuse(&self, status: Status) -> u64 {
        self.refuse_many(status, 1)
    }

    /// Counts the refusal of a message that is `messages` ones.
    pub(crate) fn refuse_many(&self, status: Status, messages: u64) -> u64 {
        self.refused[status as usize].fetch_add(messages, Ordering::Relaxed) + messages
    }

    pub(crate) fn issue_certificate(&self) {
        self.certificates_issued.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn late_reply(&self) {
        self.late_replies.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Refusals with this code so far.
    #[must_use]
    pub fn refused(&self, status: Status) -> u64 {
        self.refused[status as usize].load(Ordering::Relaxed)
    }

    /// All of them.
    #[must_use]
    pub fn report(&self) -> CounterReport {
        let by_code = |counters: &[AtomicU64; 256]| {
            Status::ALL
                .iter()
                .map(|status| (status.code(), counters[*status as usize].load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect()
        };
        CounterReport {
            accepted: self.accepted.load(Ordering::Relaxed),
            delivered: self.delivered.load(Ordering::Relaxed),
            exempt: self.exempt.load(Ordering::Relaxed),
            forwarded: self.forwarded.load(Ordering::Relaxed),
            dead: by_code(&self.dead),
            queued: self.queued.load(Ordering::Relaxed),
            refused: by_code(&self.refused),
            late_replies: self.late_replies.load(Ordering::Relaxed),
            certificates_issued: self.certificates_issued.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}

impl CounterReport {
    /// What was accepted and is in none of the places where a message can be. Zero at rest.
    #[must_use]
    pub fn missing(&self) -> i64 {
        let dead: u64 = self.dead.values().sum();
        let ended = self.delivered + self.exempt + self.forwarded + dead;
        i64::try_from(self.accepted).unwrap_or(i64::MAX)
            - i64::try_from(ended).unwrap_or(i64::MAX)
            - self.queued
    }
}
