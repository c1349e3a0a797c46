//! What is served and fetched at one cell at this moment, for whoever looks at it or ends it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    transfer::{End, Ledger, Progress, SignedReference, TransferId},
};

use super::{Transfers, books::Books, fetch::Canceller, now, progress::FetchProgress};

/// One transfer of this cell with one other cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which transfer.
    pub id: TransferId,
    /// Whether this cell has the bytes and the other one pulls them.
    pub holds: bool,
    /// The other cell: the receiver, or the holder. `None` where nobody is expected and nobody has come.
    pub other: Option<Fqcn>,
    /// What the fetch is addressed to.
    pub target: ChannelTopic,
    /// How far it is; at the holder by what was written to the receiver.
    pub progress: Option<Progress>,
    /// How it ended at this receiver, where it has while others go on.
    pub end: Option<End>,
    /// How long it has been served or fetched.
    pub age: Duration,
}

/// A fetch that runs.
pub(super) struct RunningFetch {
    pub(super) reference: Arc<SignedReference>,
    pub(super) progress: FetchProgress,
    pub(super) canceller: Canceller,
    pub(super) begun: Instant,
}

impl Transfers {
    /// What is served and fetched now, with a row for every receiver of what is served.
    #[must_use]
    pub fn running(&self) -> Vec<Running> {
        let now = now();
        let shelf = self.bus.shelf();
        let mut rows: Vec<Running> =
            shelf.served().iter().flat_map(|books| rows(books, now)).collect();
        rows.extend(shelf.fetched(|fetch| {
            let reference = &fetch.reference.reference;
            Running {
                id: reference.id,
                holds: false,
                other: Some(reference.holder.clone()),
                target: reference.target.clone(),
                progress: Some(fetch.progress.latest()),
                end: None,
                age: now.saturating_duration_since(fetch.begun),
            }
        }));
        rows
    }

    /// Gives up everything of this transfer that is served or fetched here, as [`Served::cancel`](super::Served::cancel) and
    /// [`Canceller::cancel`] do; says whether there was anything.
    pub fn cancel(&self, id: TransferId) -> bool {
        let shelf = self.bus.shelf();
        let mut found = false;
        for books in shelf.served().iter().filter(|books| books.id() == id) {
            books.close(cellbus_proto::status::Status::TransferCancelled);
            found = true;
        }
        for canceller in shelf.fetched(|f| (f.reference.reference.id, f.canceller.clone())) {
            if canceller.0 == id {
                canceller.1.cancel();
                found = true;
            }
        }
        found
    }
}

fn rows(books: &Arc<Books>, now: Instant) -> Vec<Running> {
    let signed = books.reference();
    let row = |other: Option<&Fqcn>, progress, end| Running {
        id: signed.reference.id,
        holds: true,
        other: other.cloned(),
        target: signed.reference.target.clone(),
        progress,
        end,
        age: now.saturating_duration_since(books.begun),
    };
    let each = |ledger: &Ledger| -> Vec<Running> {
        let all = ledger.progress();
        all.map(|(name, progress)| row(Some(name), Some(progress), ledger.end_of(name))).collect()
    };
    let rows = books.with(each);
    if rows.is_empty() { vec![row(None, None, None)] } else { rows }
}
