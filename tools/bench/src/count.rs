//! Messages that a receiver has counted.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::message::Tell;

/// Counts messages. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    received: AtomicU64,
    span: Mutex<Option<Span>>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    first: Instant,
    last: Instant,
    /// What had been received at `last`.
    received: u64,
}

impl Counter {
    /// Messages after which the clock is read, however they come.
    const LOOK: u64 = 64;

    /// Counts messages that came together.
    pub fn add(&self, received: u64) {
        let before = self.0.received.fetch_add(received, Ordering::Relaxed);
        if received > 0 && (before == 0 || before / Self::LOOK != (before + received) / Self::LOOK)
        {
            self.look(before + received);
        }
    }

    /// Waits until `sent` messages have come, or none has come for a while; then begins anew.
    pub async fn settle(&self, sent: u64) -> Tell {
        const LOOK: Duration = Duration::from_millis(2);
        const PATIENCE: Duration = Duration::from_secs(2);
        let mut last = (self.received(), Instant::now());
        while last.0 < sent && last.1.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK).await;
            let now = self.received();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        let received = self.0.received.swap(0, Ordering::Relaxed);
        // The last few may have come since the clock was read: then it is late rather than early.
        let is_timed = self.span().is_none_or(|span| span.received == received);
        if !is_timed {
            self.look(received);
        }
        let span = self.span().take().map_or(Duration::ZERO, |span| span.last - span.first);
        Tell::Received { received, span_ns: u64::try_from(span.as_nanos()).unwrap_or(u64::MAX) }
    }

    fn look(&self, received: u64) {
        let last = Instant::now();
        let mut span = self.span();
        let first = span.map_or(last, |span| span.first);
        *span = Some(Span { first, last, received });
    }

    fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    fn span(&self) -> MutexGuard<'_, Option<Span>> {
        self.0.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
