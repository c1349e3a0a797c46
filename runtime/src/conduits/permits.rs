//! Places for conduits on one link: whoever is more urgent gets the next one that is free.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The places of one link.
#[derive(Debug)]
pub(crate) struct Permits(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: BTreeMap<(Reverse<u8>, u64), oneshot::Sender<Permit>>,
    last: u64,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Option<Arc<Permits>>);

impl Permits {
    /// As many places as `max`.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: max, waiting: BTreeMap::new(), last: 0 })))
    }

    /// Takes a place, when it is the turn of `priority`; larger goes first, then who came first.
    pub(crate) async fn take(self: &Arc<Self>, priority: u8) -> Permit {
        loop {
            let turn = {
                let mut state = self.lock();
                if state.free > 0 {
                    state.free -= 1;
                    return Permit(Some(Arc::clone(self)));
                }
                let (sender, turn) = oneshot::channel();
                state.last += 1;
                let place = (Reverse(priority), state.last);
                // Those that have given up are not kept.
                state.waiting.retain(|_, waiting| !waiting.is_closed());
                state.waiting.insert(place, sender);
                turn
            };
            if let Ok(permit) = turn.await {
                return permit;
            }
        }
    }

    fn give_back(self: Arc<Self>) {
        let mut permit = Permit(Some(Arc::clone(&self)));
        let mut state = self.lock();
        while let Some((_, waiting)) = state.waiting.pop_first() {
            match waiting.send(permit) {
                Ok(()) => return,
                Err(unwanted) => permit = unwanted,
            }
        }
        permit.0 = None;
        state.free += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permits) = self.0.take() {
            permits.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_more_urgent_goes_first_and_then_who_came_first() {
        let permits = Permits::new(1);
        let held = permits.take(0).await;
        let mut low = Box::pin(permits.take(1));
        let mut high = Box::pin(permits.take(9));
        let mut later = Box::pin(permits.take(9));
        assert!(low.as_mut().now_or_never().is_none());
        assert!(high.as_mut().now_or_never().is_none());
        assert!(later.as_mut().now_or_never().is_none());
        drop(held);
        let first = high.as_mut().now_or_never().expect("it is its turn");
        assert!(low.as_mut().now_or_never().is_none());
        drop(first);
        assert!(low.as_mut().now_or_never().is_none());
        drop(later.as_mut().now_or_never().expect("it is its turn"));
        assert!(low.as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_gave_up_waiting_holds_nothing() {
        let permits = Permits::new(1);
        let held = permits.take(0).await;
        let mut gone = Box::pin(permits.take(9));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        drop(held);
        let again = permits.take(0).now_or_never();
        assert!(again.is_some());
        drop(again);
        assert_eq!(permits.lock().free, 1);
    }

    #[tokio::test]
    async fn a_turn_that_nobody_took_is_the_next_ones() {
        let permits = Permits::new(1);
        let held = permits.take(0).await;
        let mut gone = Box::pin(permits.take(9));
        let mut next = Box::pin(permits.take(1));
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(next.as_mut().now_or_never().is_none());
        drop(held);
        drop(gone);
        assert!(next.as_mut().now_or_never().is_some());
    }
}
