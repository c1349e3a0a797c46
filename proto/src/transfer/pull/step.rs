//! What a [`super::Pull`] asks of whoever runs it, and within which limits.

use std::time::{Duration, Instant};

use super::super::{
    SIZE_MAX,
    body::{Fetch, Receipt},
    digest::Digest,
};
use crate::{codec::CodecError, status::Status};

/// What to do next. Each is asked for once, and in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Feed the first `to` bytes of the part to [`super::Pull::rebuild`].
    Rebuild {
        /// Bytes that are durable.
        to: u64,
    },
    /// Ask the holder. Then comes `handle_answer`, `handle_return` or `handle_lost`.
    Open(Fetch),
    /// Drop the stream of the attempt; what was asked to be written before is written first.
    Close,
    /// The sink has nothing beyond `to` from here on: cut the part off, and the digester that was taken.
    Rewind {
        /// Bytes that stay.
        to: u64,
    },
    /// Make what has been handed out durable, and note that; then `handle_synced(to)`. Bytes go on.
    Sync {
        /// Bytes handed out when it was asked for, a multiple of `sync_every`.
        to: u64,
    },
    /// Say what the digester that was taken makes of all bytes: `handle_digest`.
    Digest,
    /// All bytes are there and verified: make them durable and put them in their place; then
    /// `handle_committed` or `handle_commit_failed`.
    Commit {
        /// Bytes in all.
        size: u64,
        /// Of all of them.
        digest: Digest,
    },
    /// Sign the receipt, write it on the stream of the attempt, and end that direction.
    Confirm(Receipt),
    /// Nothing, until something happens or it is that late.
    Wait {
        /// When to ask again, if nothing happens.
        until: Option<Instant>,
    },
    /// It is over. Said again whenever asked.
    Done(PullEnd),
}

/// How a pull has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullEnd {
    /// All bytes are verified, durable and in their place.
    Stored {
        /// Bytes in all.
        size: u64,
        /// Of all of them.
        digest: Digest,
        /// Whether the holder has counted it.
        told: Told,
    },
    /// They are not. What is durable may be gone on with later.
    Failed(Status),
}

/// What the holder made of the receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It has counted it.
    Settled,
    /// It does not: these are not the bytes that it served.
    Refused,
    /// It has not been heard; it may have counted it.
    Unheard,
}

/// Within which limits a pull works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullSettings {
    /// After this long without a byte an attempt is given up. 30 s.
    pub idle: Duration,
    /// After this long without progress the pull fails. 5 min. There is no limit on the whole.
    pub patience: Duration,
    /// After this long of a holder that says it does not serve the transfer, which it may not have
    /// begun again after a restart, the pull fails. 30 s.
    pub unserved: Duration,
    /// Wait after the first failure; doubles with every one in a row. 250 ms.
    pub retry_min: Duration,
    /// The longest wait. 10 s.
    pub retry_max: Duration,
    /// Bytes after each of which the sink is asked to be made durable, at least 1; at most twice as many
    /// are handed out beyond what is durable. 8 MiB.
    pub sync_every: u64,
    /// Bytes that the sink can take.
    pub size_cap: u64,
    /// How often to begin again because the source has changed. 8.
    pub restarts_max: u32,
}

impl Default for PullSettings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            patience: Duration::from_secs(300),
            unserved: Duration::from_secs(30),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(10),
            sync_every: 8 << 20,
            size_cap: SIZE_MAX,
            restarts_max: 8,
        }
    }
}

/// The other end did what it must not. The attempt is over; the pull goes on or has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {what}")]
pub struct Violation {
    /// The code.
    pub status: Status,
    /// What it was, for the log.
    pub what: &'static str,
}

impl From<CodecError> for Violation {
    fn from(CodecError { status, what }: CodecError) -> Self {
        Self { status, what }
    }
}

/// Whether a fetch that was returned with this status may succeed later without anybody changing
/// anything. A fetch changes nothing, so what may have been executed may be asked again.
pub(super) fn may_pass(status: Status) -> bool {
    status.is_transient()
        || matches!(
            status,
            Status::PeerUnknown
                | Status::PeerLost
                | Status::PeerRestarted
                | Status::Deadline
                | Status::ShuttingDown
                | Status::AbortedRunning
                | Status::HandlerGone
                | Status::NoToken
                | Status::TokenExpired
                | Status::TokenRevoked
                | Status::BadToken
                | Status::TokenWrongConn
                | Status::ClockSkew
                | Status::StorageFull
        )
}
