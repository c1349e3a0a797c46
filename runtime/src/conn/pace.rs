//! No more bytes of conduits in a second over one link than are allowed, whoever sends them.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(50);

/// When the next bytes may go over one link.
#[derive(Debug)]
pub(crate) struct LinkPace {
    /// Bytes a second.
    rate: u64,
    free_at: Mutex<Instant>,
}

impl LinkPace {
    pub(crate) fn new(rate: u64) -> Arc<Self> {
        Arc::new(Self { rate: rate.max(1), free_at: Mutex::new(Instant::now()) })
    }

    fn free_at(&self) -> Instant {
        *self.free_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spend(&self, bytes: usize) {
        let took = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(now.checked_sub(BURST).unwrap_or(now)) + took;
    }
}

/// One stream that keeps to the pace of its link.
#[derive(Debug)]
pub(super) struct Paced {
    pace: Arc<LinkPace>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(super) fn new(pace: Arc<LinkPace>) -> Self {
        Self { pace, waiting: None }
    }

    /// Ready when something may go.
    pub(super) fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            // Others may have been quicker.
            let free_at = self.pace.free_at();
            if free_at <= Instant::now() {
                return Poll::Ready(());
            }
            self.waiting = Some(Box::pin(sleep_until(free_at)));
        }
    }

    pub(super) fn spend(&self, bytes: usize) {
        if bytes > 0 {
            self.pace.spend(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_streams_of_a_link_together_keep_to_its_pace() {
        let pace = LinkPace::new(1000);
        let begun = Instant::now();
        let stream = |pace: Arc<LinkPace>| async move {
            let mut paced = Paced::new(pace);
            for _ in 0..20 {
                poll_fn(|cx| paced.poll_free(cx)).await;
                paced.spend(100);
            }
        };
        tokio::join!(stream(Arc::clone(&pace)), stream(pace));
        let took = begun.elapsed().as_secs_f64();
        assert!((3.7..=4.0).contains(&took), "4000 bytes at 1000 a second: {took}");
    }
}
