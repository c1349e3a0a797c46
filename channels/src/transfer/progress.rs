//! How far transfers are, as streams of values that never go back.

use std::sync::Arc;

use cellbus_proto::{name::Fqcn, transfer::Progress};
use tokio::sync::watch;

use super::books::Books;

/// How far one fetch is: the latest value whenever there is a newer one.
#[derive(Clone, Debug)]
pub struct FetchProgress {
    values: watch::Receiver<Progress>,
    is_new: bool,
}

impl FetchProgress {
    pub(super) fn new(values: watch::Receiver<Progress>) -> Self {
        Self { values, is_new: true }
    }

    /// The latest value.
    #[must_use]
    pub fn latest(&self) -> Progress {
        *self.values.borrow()
    }

    /// The next value: the latest, once it is another than the last one given. `None` when the fetch is over and
    /// its last value was given.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Progress> {
        if !std::mem::take(&mut self.is_new) {
            self.values.changed().await.ok()?;
        }
        Some(*self.values.borrow_and_update())
    }
}

/// How far every receiver of a transfer is, by what was written to it.
#[derive(Debug)]
pub struct ServeProgress {
    books: Arc<Books>,
    changes: watch::Receiver<u64>,
    /// Of each receiver, the last value that was given.
    given: std::collections::BTreeMap<Fqcn, u64>,
    /// Whose value was given last.
    last: Option<Fqcn>,
}

impl ServeProgress {
    #[cfg(test)]
    pub(super) fn forget(&mut self, name: &str) {
        self.given.remove(name);
    }

    pub(super) fn new(books: Arc<Books>) -> Self {
        let changes = books.changes();
        Self { books, changes, given: std::collections::BTreeMap::new(), last: None }
    }

    /// The next value of any receiver: its latest. `None` when the transfer is over and every last value was
    /// given.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(Fqcn, Progress)> {
        loop {
            self.changes.borrow_and_update();
            let moved = self.books.with(|ledger| {
                let has_moved = |(name, progress): &(&Fqcn, Progress)| {
                    self.given.get(*name) != Some(&progress.sequence)
                };
                // One behind the other: who moves all the time does not hide that others do.
                let is_later = |(name, _): &(&Fqcn, Progress)| self.last.as_ref() < Some(*name);
                let later = ledger.progress().filter(has_moved).find(is_later);
                let moved = later.or_else(|| ledger.progress().find(has_moved));
                moved.map(|(name, progress)| (name.clone(), progress))
            });
            if let Some((name, progress)) = moved {
                self.given.insert(name.clone(), progress.sequence);
                self.last = Some(name.clone());
                return Some((name, progress));
            }
            if self.books.outcome().is_some() {
                return None;
            }
            self.changes.changed().await.ok()?;
        }
    }
}
