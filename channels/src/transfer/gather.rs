//! Gathering: many offer, a bounded number is fetched at once, and each is verified before it is combined.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    status::Status,
    transfer::{Digest, Reference, SignedReference},
};
use tokio::sync::Notify;

use super::{
    Transfers,
    error::{FetchError, SinkError},
    fetch::Fetched,
    options::FetchOptions,
    receive::{Offer, Receiving, Taken},
    sink::{Found, Sink, Store, Syncing, hold},
};
use crate::{error::HandleError, handler::Failure};

/// What is said once a combiner has panicked.
const PANICKED: &str = "the combiner has panicked";
/// Bytes of a part that a combiner sees at once: a multiple of every size of a number.
pub const PIECE: usize = 1 << 20;

/// Puts what many send into one, part by part.
///
/// It is called for one contribution at a time, on a thread that may wait, and only with what was verified
/// as a whole. Each contribution is combined once, whatever is lost on the way.
pub trait Combine: Send + 'static {
    /// Whether a contribution fits what was combined so far; nothing of it has been seen yet. Called again for the
    /// same one when it is offered again.
    ///
    /// # Errors
    /// The reason, which fails this contribution and nothing else.
    fn check(&mut self, from: &Fqcn, reference: &Reference) -> Result<(), String> {
        let _fits = (from, reference);
        Ok(())
    }

    /// Takes the next bytes of a part, which begin at `offset` in it: [`PIECE`] of them, and fewer at its end.
    /// What is no object has one part with no name.
    ///
    /// # Errors
    /// The reason. What was combined is of no use then, and nothing more is gathered.
    fn part(&mut self, from: &Fqcn, name: &str, offset: u64, bytes: &[u8]) -> Result<(), String>;

    /// All parts of a contribution have been taken.
    fn end(&mut self, from: &Fqcn) {
        let _taken = from;
    }
}

/// Where contributions are until they are verified.
#[derive(Clone, Debug)]
pub enum Hold {
    /// In memory, each of at most so many bytes: as many of them as are fetched at once.
    Memory(u64),
    /// In files without a name in this directory.
    Directory(PathBuf),
}

/// Contributions as they come. Dropping it takes no more offers.
#[must_use = "contributions are gathered for as long as this is kept"]
pub struct Gathering<C> {
    shared: Arc<Shared<C>>,
    left: BTreeSet<Fqcn>,
    _receiving: Receiving,
}

struct Shared<C> {
    combiner: Mutex<Option<C>>,
    came: Mutex<Came>,
    notify: Notify,
}

#[derive(Default)]
struct Came {
    outcomes: VecDeque<(Fqcn, Result<Fetched, FetchError>)>,
    /// Whose contribution is being fetched, or was combined.
    taken: BTreeSet<Fqcn>,
    broken: Option<String>,
}

impl Came {
    /// Of the failures of one cell the last one is kept, so that there are no more than cells.
    fn add(&mut self, from: Fqcn, outcome: Result<Fetched, FetchError>) {
        self.outcomes.retain(|(cell, before)| *cell != from || before.is_ok());
        self.outcomes.push_back((from, outcome));
    }
}

/// Has whoever waits look again where a combiner panics.
struct Alarm<'a>(&'a Notify);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

impl Transfers {
    /// Takes what each of the cells `from` offers to `target`, and combines it with `combiner`. At most
    /// `at_once` are fetched at the same time, and held in `hold` until they are verified.
    ///
    /// Memory is what the combiner has, and with [`Hold::Memory`] `at_once` contributions; it does not
    /// grow with the number of cells. A cell that offers another transfer while its first is being fetched or has been combined is
    /// refused.
    ///
    /// # Errors
    /// [`HandleError`] when something receives at `target` already.
    pub async fn gather<C: Combine>(
        &self,
        from: impl IntoIterator<Item = Fqcn>,
        target: ChannelTopic,
        at_once: usize,
        hold: Hold,
        combiner: C,
    ) -> Result<Gathering<C>, HandleError> {
        let left: BTreeSet<Fqcn> = from.into_iter().collect();
        let shared = Arc::new(Shared {
            combiner: Mutex::new(Some(combiner)),
            came: Mutex::default(),
            notify: Notify::new(),
        });
        let (expected, desk) = (left.clone(), Arc::clone(&shared));
        let receive = move |offer: Offer| {
            let taken = take(&desk, &expected, &hold, offer);
            async move { taken }
        };
        let receiving = self.receive(target, at_once, receive).await?;
        Ok(Gathering { shared, left, _receiving: receiving })
    }
}

fn take<C: Combine>(
    shared: &Arc<Shared<C>>,
    expected: &BTreeSet<Fqcn>,
    hold: &Hold,
    offer: Offer,
) -> Result<Taken, Failure> {
    let reference = &offer.reference.reference;
    let from = reference.holder.clone();
    if !expected.contains(&from) || offer.origin.name != from {
        return Err(Status::Forbidden.into());
    }
    shared.check(&from, reference)?;
    if !shared.came(|came| came.taken.insert(from.clone())) {
        return Err(Status::Forbidden.into());
    }
    let place = Place { shared: Arc::clone(shared), from: from.clone(), is_kept: false };
    let inner = match hold {
        Hold::Memory(cap) => hold::memory(*cap),
        Hold::Directory(directory) => hold::spool(directory.clone()),
    };
    let combining =
        Combining { inner, from: from.clone(), signed: None, shared: Arc::clone(shared) };
    let taken = Taken::new(Sink::store(combining)).options(FetchOptions::default());
    Ok(taken.then(move |outcome| async move { place.end(outcome) }))
}

/// That a cell has offered, and may not offer again. It may where nothing came of that, however that has ended.
struct Place<C> {
    shared: Arc<Shared<C>>,
    from: Fqcn,
    is_kept: bool,
}

impl<C> Place<C> {
    /// Both in one step: what the cell offers next is told after this.
    fn end(mut self, outcome: Result<Fetched, FetchError>) {
        self.is_kept = true;
        self.shared.came(|came| {
            if outcome.is_err() {
                came.taken.remove(&self.from);
            }
            came.add(self.from.clone(), outcome);
        });
        self.shared.notify.notify_one();
    }
}

impl<C> Drop for Place<C> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.shared.came(|came| came.taken.remove(&self.from));
        }
    }
}

impl<C> Shared<C> {
    fn came<T>(&self, change: impl FnOnce(&mut Came) -> T) -> T {
        change(&mut self.came.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why nothing more is combined; what there is may hold half of a contribution.
    fn broken(&self) -> Option<String> {
        let panicked = || self.combiner.is_poisoned().then(|| PANICKED.to_owned());
        self.came(|came| came.broken.clone()).or_else(panicked)
    }
}

impl<C: Combine> Shared<C> {
    fn check(&self, from: &Fqcn, reference: &Reference) -> Result<(), Failure> {
        if let Some(broken) = self.broken() {
            return Err(Failure::failed(broken));
        }
        // Dropped behind the lock, which is poisoned then.
        let _alarm = Alarm(&self.notify);
        // Whoever combines now may take long; it is checked again before anything is combined.
        let Ok(mut combiner) = self.combiner.try_lock() else { return Ok(()) };
        let combiner = combiner.as_mut().ok_or(Status::NoHandler)?;
        combiner.check(from, reference).map_err(Failure::failed)
    }
}

impl<C: Combine> Gathering<C> {
    /// What became of the next contribution: combined, or not and why. `None` when each cell has contributed, or
    /// what was combined is broken.
    ///
    /// A cell whose contribution failed may offer again; who never does is waited for, for as long as
    /// the caller likes.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(Fqcn, Result<Fetched, FetchError>)> {
        loop {
            let is_broken = self.shared.broken().is_some();
            let next = self.shared.came(|came| came.outcomes.pop_front());
            if let Some((from, outcome)) = next {
                if outcome.is_ok() {
                    self.left.remove(&from);
                }
                return Some((from, outcome));
            }
            if self.left.is_empty() || is_broken {
                return None;
            }
            self.shared.notify.notified().await;
        }
    }

    /// The cells that have not contributed.
    #[must_use]
    pub fn left(&self) -> &BTreeSet<Fqcn> {
        &self.left
    }

    /// Ends it: what was combined, of those that have contributed; nothing where a contribution broke it.
    ///
    /// # Errors
    /// The reason that the combiner gave.
    pub fn finish(self) -> Result<C, String> {
        let mut combiner = self.shared.combiner.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.shared.broken(), combiner.take()) {
            (None, Some(combiner)) => Ok(combiner),
            (broken, _) => Err(broken.unwrap_or_default()),
        }
    }
}

impl<C> fmt::Debug for Gathering<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gathering({} left)", self.left.len())
    }
}

/// Holds one contribution, and combines it where others commit.
struct Combining<C> {
    inner: Box<dyn Store>,
    from: Fqcn,
    signed: Option<SignedReference>,
    shared: Arc<Shared<C>>,
}

impl<C: Combine> Combining<C> {
    fn combine(&mut self, combiner: &mut C, size: u64) -> Result<(), String> {
        let reference = self.signed.as_ref().map(|signed| &signed.reference);
        let places: Vec<(String, std::ops::Range<u64>)> = match reference {
            Some(reference) if !reference.parts.is_empty() => {
                reference.places().map(|(name, place)| (name.to_owned(), place)).collect()
            }
            Some(_) | None => vec![(String::new(), 0..size)],
        };
        for (name, place) in places {
            let mut at = place.start;
            while at < place.end {
                let want = usize::try_from(place.end - at).unwrap_or(PIECE).min(PIECE);
                let bytes = self.inner.read_back(at, want).map_err(|error| error.to_string())?;
                if bytes.len() != want {
                    return Err("what was held is gone".to_owned());
                }
                combiner.part(&self.from, &name, at - place.start, &bytes)?;
                at += want as u64;
            }
        }
        combiner.end(&self.from);
        Ok(())
    }
}

impl<C: Combine> Store for Combining<C> {
    fn open(&mut self, signed: &SignedReference) -> Result<Option<Found>, SinkError> {
        self.signed = Some(signed.clone());
        self.inner.open(signed)
    }

    fn change(&mut self, signed: &SignedReference) {
        self.signed = Some(signed.clone());
        self.inner.change(signed);
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.inner.write(bytes)
    }

    fn lies(&self, offset: u64) -> Option<&[u8]> {
        self.inner.lies(offset)
    }

    fn sync(&mut self, to: u64) -> Option<Syncing> {
        self.inner.sync(to)
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        self.inner.rewind(to)
    }

    fn read_back(&mut self, offset: u64, want: usize) -> Result<Bytes, SinkError> {
        self.inner.read_back(offset, want)
    }

    fn commit(&mut self, size: u64, _digest: Digest) -> Result<(), SinkError> {
        let shared = Arc::clone(&self.shared);
        let broken = |why: String| {
            shared.came(|came| came.broken.get_or_insert(why.clone()).clone());
            shared.notify.notify_one();
            SinkError::NotCombined(why)
        };
        if let Some(why) = shared.broken() {
            return Err(SinkError::NotCombined(why));
        }
        let Ok(mut combiner) = shared.combiner.lock() else {
            return Err(SinkError::NotCombined(PANICKED.to_owned()));
        };
        let Some(combiner) = combiner.as_mut() else {
            return Err(SinkError::NotCombined("nobody gathers any more".to_owned()));
        };
        if let Some(signed) = &self.signed {
            let fits = combiner.check(&self.from, &signed.reference);
            fits.map_err(SinkError::NotCombined)?;
        }
        self.combine(combiner, size).map_err(broken)?;
        self.inner.discard();
        Ok(())
    }

    fn discard(&mut self) {
        self.inner.discard();
    }

    fn cap(&self) -> u64 {
        self.inner.cap()
    }

    fn describe(&self) -> String {
        format!("what {} contributes", self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_comes_to_nothing_is_free_again_and_one_that_was_combined_is_not() {
        for is_kept in [false, true] {
            let shared = Arc::new(Shared {
                combiner: Mutex::new(Some(())),
                came: Mutex::default(),
                notify: Notify::new(),
            });
            let from: Fqcn = "site-1".parse().unwrap();
            assert!(shared.came(|came| came.taken.insert(from.clone())));
            // Nobody may ever have been told how it has ended.
            drop(Place { shared: Arc::clone(&shared), from: from.clone(), is_kept });
            assert_eq!(shared.came(|came| came.taken.contains(&from)), is_kept);
        }
    }
}
