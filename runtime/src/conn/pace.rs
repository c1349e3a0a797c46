//! No more bytes of conduits in a second over one link than are allowed, whoever sends them, and to each its share.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use cellbus_proto::transfer::{Turn, TurnId, Turns};
use tokio::time::{Instant, Sleep, sleep_until};

/// When the next bytes may go over one link, and whose.
#[derive(Debug)]
pub(crate) struct LinkPace(Mutex<State>);

#[derive(Debug)]
struct State {
    turns: Turns,
    /// Of those that wait.
    wakers: BTreeMap<TurnId, Waker>,
}

impl LinkPace {
    /// For `rate` bytes a second.
    pub(crate) fn new(rate: u64) -> Arc<Self> {
        let turns = Turns::new(Instant::now().into_std(), rate);
        Arc::new(Self(Mutex::new(State { turns, wakers: BTreeMap::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Has whoever is next look at when the link is free.
    fn call_next(&mut self) {
        if let Some(waker) = self.turns.next().and_then(|next| self.wakers.remove(&next)) {
            waker.wake();
        }
    }
}

/// One stream that keeps to the pace of its link.
#[derive(Debug)]
pub(super) struct Paced {
    pace: Arc<LinkPace>,
    id: TurnId,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    /// Larger priorities go first.
    pub(super) fn new(pace: Arc<LinkPace>, priority: u8) -> Self {
        let id = pace.lock().turns.join(priority);
        Self { pace, id, waiting: None }
    }

    /// Ready when something may go: at most so many bytes.
    pub(super) fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            let mut state = self.pace.lock();
            let until = match state.turns.ask(Instant::now().into_std(), self.id) {
                Turn::Now => {
                    state.wakers.remove(&self.id);
                    self.waiting = None;
                    return Poll::Ready(state.turns.bytes());
                }
                Turn::Later(until) => Instant::from_std(until),
            };
            state.wakers.insert(self.id, cx.waker().clone());
            drop(state);
            match &mut self.waiting {
                Some(waiting) if waiting.deadline() == until => {}
                Some(waiting) => waiting.as_mut().reset(until),
                none => *none = Some(Box::pin(sleep_until(until))),
            }
            if let Some(waiting) = &mut self.waiting {
                std::task::ready!(waiting.as_mut().poll(cx));
            }
            // Others may have been quicker.
            self.waiting = None;
        }
    }

    /// So many bytes have gone in the turn.
    pub(super) fn spend(&self, bytes: usize) {
        let mut state = self.pace.lock();
        if bytes > 0 {
            state.turns.handle_written(Instant::now().into_std(), self.id, bytes);
        }
        state.call_next();
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        let mut state = self.pace.lock();
        state.turns.leave(self.id);
        state.wakers.remove(&self.id);
        state.call_next();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    async fn write(pace: Arc<LinkPace>, size: usize, until: Instant) -> usize {
        let mut paced = Paced::new(pace, 0);
        let mut written = 0;
        while Instant::now() < until {
            let most = poll_fn(|cx| paced.poll_free(cx)).await;
            paced.spend(size.min(most));
            written += size.min(most);
        }
        written
    }

    #[tokio::test(start_paused = true)]
    async fn all_streams_of_a_link_together_keep_to_its_pace_and_share_it_equally() {
        let pace = LinkPace::new(1_000_000);
        let until = Instant::now() + Duration::from_secs(4);
        let (large, small) = tokio::join!(
            write(Arc::clone(&pace), 10_000, until),
            write(Arc::clone(&pace), 1000, until)
        );
        assert!((3_900_000..=4_100_000).contains(&(large + small)), "{large} and {small}");
        assert!(large.abs_diff(small) <= 20_000, "{large} and {small}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_and_is_gone_holds_nobody() {
        let pace = LinkPace::new(1_000_000);
        let mut gone = Paced::new(Arc::clone(&pace), 9);
        let mut stays = Paced::new(Arc::clone(&pace), 9);
        poll_fn(|cx| stays.poll_free(cx)).await;
        stays.spend(200_000);
        poll_fn(|cx| Poll::Ready(assert!(gone.poll_free(cx).is_pending()))).await;
        poll_fn(|cx| Poll::Ready(assert!(stays.poll_free(cx).is_pending()))).await;
        drop(gone);
        let begun = Instant::now();
        let written = write(pace, 10_000, begun + Duration::from_secs(1)).await;
        assert!(written >= 700_000, "{written}");
    }
}
