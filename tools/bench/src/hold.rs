//! Replies that are held back, so that their requests can be looked at meanwhile.

use std::sync::Arc;

use tokio::sync::watch;

/// Holds replies back until they are let go, all at once. Clones hold together.
#[derive(Clone, Debug)]
pub struct Hold {
    holds: Arc<watch::Sender<u32>>,
    /// How often they were let go.
    released: Arc<watch::Sender<u32>>,
}

impl Default for Hold {
    fn default() -> Self {
        Self { holds: Arc::new(watch::Sender::new(0)), released: Arc::new(watch::Sender::new(0)) }
    }
}

impl Hold {
    /// Holds one reply back until the next [`Self::release`].
    pub async fn wait(&self) {
        let mut released = self.released.subscribe();
        self.holds.send_modify(|holds| *holds += 1);
        // The sender lives for as long as this does.
        let _ = released.changed().await;
    }

    /// Waits until `count` replies are held back.
    pub async fn until(&self, count: u32) {
        // As above.
        let _ = self.holds.subscribe().wait_for(|holds| *holds >= count).await;
    }

    /// Lets all of them go.
    pub fn release(&self) {
        self.holds.send_replace(0);
        self.released.send_modify(|times| *times += 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_held_back_is_let_go_together_and_counted_anew() {
        let hold = Hold::default();
        let mut held = [0, 1].map(|_| Box::pin(hold.wait()));
        for wait in &mut held {
            assert!(wait.now_or_never().is_none());
        }
        hold.until(2).await;
        assert!(hold.until(3).now_or_never().is_none(), "there are two");
        hold.release();
        for wait in &mut held {
            assert!(wait.now_or_never().is_some());
        }
        assert!(hold.until(1).now_or_never().is_none(), "none is left");
        assert!(hold.wait().now_or_never().is_none(), "an earlier release is not for later ones");
    }
}
