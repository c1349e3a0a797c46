//! Giving up: looked for wherever an engine waits, and said to the holder.

use std::{future::Future, time::Duration};

use cellbus_proto::status::Status;
use tokio::sync::watch;

use super::{Engine, FetchError, random};

/// Time for each thing that is left to do when a fetch is given up: three of them fit into the two seconds in which
/// both ends are free.
pub(super) const LEAVE: Duration = Duration::from_millis(500);

/// Completes when a fetch is given up.
pub(super) async fn given_up(cancelled: &mut watch::Receiver<bool>) {
    if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What `work` gives, which may wait for a disk or for another cell; `None` where it `may_end` before, since the fetch
/// is given up.
pub(in crate::transfer) async fn unless<T>(
    may_end: bool,
    cancelled: &mut watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = given_up(cancelled), if may_end => None,
    }
}

impl Engine {
    /// Gives it up, where that is not too late.
    pub(in crate::transfer) fn cancel(&mut self) {
        self.is_cancelled = true;
        self.pull.cancel();
    }

    /// Leaves what is left to do behind: a store is still cleared, a writer is let go of.
    pub(super) fn leave(mut self) -> FetchError {
        self.close();
        let mut work = self.work;
        if !work.is_writer() {
            tokio::spawn(async move { work.finish().await });
        }
        FetchError::Failed(Status::TransferCancelled)
    }

    /// Tells the holder, which was not asked or has not answered, that this is given up: it would offer it again.
    pub(super) async fn tell_given_up(&mut self) {
        let (fetch, receipt) = self.pull.last_word(Status::TransferCancelled, random());
        self.open(&fetch);
        let Some(opening) = self.opening.take() else { return };
        let Ok((_answer, conduit)) = opening.await else { return };
        self.conduit = Some(conduit);
        self.confirm(receipt).await;
    }
}
