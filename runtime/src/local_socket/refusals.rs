//! Counting and logging who was not let in.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cellbus_proto::status::Status;
use tokio::time::Instant;

/// At most one line per reason in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Reason {
    /// The process belongs to a user who is not allowed.
    User,
    /// It is not the process that was launched.
    Process,
    /// The secret is not the right one.
    Secret,
    /// The secret is the right one and has been used.
    Reused,
    /// The secret is the right one and too old.
    Expired,
    /// No version that both sides speak.
    Version,
    /// The first frame is no HELLO.
    Malformed,
    /// No HELLO came in 5 s.
    Silent,
}

/// How many connections were refused, for each [`Reason`].
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; Reason::ALL.len()],
    logged: Mutex<[Option<Instant>; Reason::ALL.len()]>,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Process,
        Self::Secret,
        Self::Reused,
        Self::Expired,
        Self::Version,
        Self::Malformed,
        Self::Silent,
    ];

    /// The word for it in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Process => "process",
            Self::Secret => "secret",
            Self::Reused => "reused",
            Self::Expired => "expired",
            Self::Version => "version",
            Self::Malformed => "malformed",
            Self::Silent => "silent",
        }
    }

    /// What the peer is told: nothing about which part of its proof was wrong.
    pub(super) fn status(self) -> Status {
        match self {
            Self::User | Self::Process | Self::Secret | Self::Reused | Self::Expired => {
                Status::Unauthenticated
            }
            Self::Version => Status::Version,
            Self::Malformed => Status::BadFrame,
            Self::Silent => Status::NoHello,
        }
    }
}

impl Refusals {
    /// Connections refused for `reason`.
    #[must_use]
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize].load(Ordering::Relaxed)
    }

    /// Connections refused.
    #[must_use]
    pub fn total(&self) -> u64 {
        Reason::ALL.into_iter().map(|reason| self.count(reason)).sum()
    }

    pub(super) fn record(&self, reason: Reason, uid: u32, pid: Option<i32>) {
        let count = self.counts[reason as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut logged[reason as usize];
        if last.is_some_and(|last| now < last + LOG_INTERVAL) {
            return;
        }
        *last = Some(now);
        drop(logged);
        let reason = reason.as_str();
        tracing::warn!(reason, uid, pid, count, "local socket refused a connection");
    }
}
