//! Messages that a receiver has counted.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::message::Tell;

/// Counts messages. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    received: u64,
    span: Option<(Instant, Instant)>,
}

impl Counter {
    /// Counts messages that came together.
    pub fn add(&self, received: u64) {
        if received == 0 {
            return;
        }
        let now = Instant::now();
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.received += received;
        let first = counted.span.map_or(now, |(first, _)| first);
        counted.span = Some((first, now));
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
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { received, span } = std::mem::take(&mut *counted);
        let span = span.map_or(Duration::ZERO, |(first, last)| last - first);
        Tell::Received { received, span_ns: u64::try_from(span.as_nanos()).unwrap_or(u64::MAX) }
    }

    fn received(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).received
    }
}
