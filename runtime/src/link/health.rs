//! How a link is doing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    clock,
    conn::{CarrierStats, Connection},
};

/// How a link is doing, readable from anywhere.
#[derive(Debug)]
pub struct Health {
    connection: Connection,
    start: Instant,
    heard_ms: AtomicU64,
    pub(super) rtt_us: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    pub(super) lane_written: Arc<AtomicU64>,
    pub(super) lane_read: AtomicU64,
    pub(super) closed: watch::Sender<bool>,
}

impl Health {
    pub(super) fn new(connection: Connection) -> Arc<Self> {
        Arc::new(Self {
            connection,
            start: clock::now(),
            heard_ms: AtomicU64::new(0),
            rtt_us: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            lane_written: Arc::default(),
            lane_read: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        })
    }

    pub(super) fn hear(&self) {
        let since = clock::now().saturating_duration_since(self.start).as_millis();
        self.heard_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the neighbour was heard within `span`.
    #[must_use]
    pub fn heard_within(&self, span: Duration) -> bool {
        let last = self.start + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        clock::now().saturating_duration_since(last) < span && !*self.closed.borrow()
    }

    /// Round trip of the last beat, in microseconds, at the end that sends them.
    #[must_use]
    pub fn rtt_us(&self) -> Option<u64> {
        Some(self.rtt_us.load(Ordering::Relaxed)).filter(|rtt| *rtt > 0)
    }

    /// Half the round trip that the transport has measured, in microseconds.
    pub(crate) fn wire_us(&self) -> u32 {
        u32::try_from(self.connection.stats().rtt_us / 2).unwrap_or(u32::MAX)
    }

    /// Bytes of the interactive lane that the transport has taken.
    pub(super) fn lane_written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lane_written)
    }

    pub(super) fn count_lane_read(&self, bytes: usize) {
        self.lane_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_sent(&self, messages: u64) {
        self.sent.fetch_add(messages, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, messages: usize) {
        self.received.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Messages written to and read from this link.
    #[must_use]
    pub fn messages(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// What the transport knows.
    #[must_use]
    pub fn carrier(&self) -> CarrierStats {
        self.connection.stats()
    }

    /// The neighbour's organisation, as its certificate says.
    #[must_use]
    pub fn org(&self) -> String {
        self.connection.peer().identity.org.to_string()
    }

    /// End of the neighbour's certificate, in seconds since 1970.
    #[must_use]
    pub fn cert_expires_unix(&self) -> u64 {
        self.connection.peer().dates.not_after
    }

    /// Waits until the link has ended.
    pub async fn wait_closed(&self) {
        let mut closed = self.closed.subscribe();
        // Ends also when the link itself is gone.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}
