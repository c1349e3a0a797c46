//! The dead letters of a running cell, for all of its parts to write and for people to read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cellbus_proto::{
    bundle,
    dead_letters::{ChannelClass, DeadLetter, DeadLetters},
    envelope::Header,
    route::Hop,
    status::Status,
};
use serde::Serialize;

use crate::clock::{self, WallClock};

/// Where messages end that nobody can be told about. Sends nothing.
#[derive(Debug)]
pub struct DeadLetterOffice {
    letters: Mutex<DeadLetters>,
    wall: WallClock,
}

/// What a [`DeadLetterOffice`] holds at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeadLetterReport {
    /// All that there have been.
    pub counts: Vec<DeadLetterCount>,
    /// The latest of them, latest first.
    pub letters: Vec<DeadLetter>,
}

/// How many dead letters there have been of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetterCount {
    /// Why.
    pub code: &'static str,
    /// Whose channel.
    pub class: ChannelClass,
    /// How many.
    pub count: u64,
}

impl DeadLetterOffice {
    pub(crate) fn new(wall: WallClock) -> Self {
        Self { letters: Mutex::default(), wall }
    }

    /// Remembers a message that has ended with `status`; logs at most one line a second for each status.
    pub fn bury(&self, header: &Header, payload_len: usize, status: Status, from: Hop) {
        let unix = self.wall.unix();
        let line = self.lock().bury(clock::now(), unix, header, payload_len, status, from);
        if let Some(left_out) = line {
            tracing::info!(
                code = status.code(), kind = header.kind.as_str(), origin = %header.origin.name,
                destination = %header.destination.name, target = %header.target, ?from, left_out,
                "a message has ended here"
            );
        }
    }

    /// Remembers each of the messages that one stands for.
    pub fn bury_all(&self, header: &Header, payload: &Bytes, status: Status, from: Hop) {
        for len in bundle::lengths(header, payload) {
            self.bury(header, len, status, from);
        }
    }

    /// The counts, and the latest `limit` letters with `status`, or with any.
    #[must_use]
    pub fn report(&self, limit: usize, status: Option<Status>) -> DeadLetterReport {
        let letters = self.lock();
        let count = |(status, class, count): (Status, _, _)| DeadLetterCount {
            code: status.code(),
            class,
            count,
        };
        let wanted = |letter: &DeadLetter| status.is_none_or(|status| letter.code == status.code());
        DeadLetterReport {
            counts: letters.counts().into_iter().map(count).collect(),
            letters: letters.latest(limit, wanted),
        }
    }

    fn lock(&self) -> MutexGuard<'_, DeadLetters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
