//! Conduits of a cell: requests whose streams stay open, whoever they are for.
//!
//! ```text
//!  stream ─▶ head ─▶ filter ─┬─▶ elsewhere: a stream to the next hop, the answer back, then bytes both ways
//!                            ├─▶ here: the cell's handler, its answer back, then what it does with the bytes
//!                            └─▶ refused: the return, on the same stream
//! ```
//! The filter decides on the request and on its answer as on every message. One task per conduit does the
//! rest; it holds no more of the bytes than one read yields.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
    time::Duration,
};

use actix::Addr;
use cellbus_channels::{
    HandleError,
    conduit::{ConduitHandler, pair::Breaker},
};
use cellbus_proto::{
    envelope::{Address, Header},
    idle::Idle,
    name::Fqcn,
    status::Status,
    transfer::ShareSettings,
};
use futures_util::task::AtomicWaker;

use crate::{filter::AuthFilter, own::Own};

mod answer;
mod answered;
mod arrived;
pub(crate) mod head;
mod open;
mod permits;
mod relay;
mod serve;
mod share;
mod tied;

pub(crate) use self::{
    arrived::{Arrived, take},
    open::open,
    permits::{Permit, Permits},
};

/// The conduits of a cell, and what decides on those that end there.
#[derive(Debug, Default)]
pub struct Conduits {
    state: Mutex<State>,
    shares: Arc<share::Shares>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<u64, Running>,
    last: u64,
    handler: Option<Arc<dyn ConduitHandler>>,
    bounds: Option<Bounds>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

/// What a cell gives to its conduits when it starts.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// The filter in front of the cell.
    pub(crate) filter: Addr<AuthFilter>,
    /// Largest payload of a request or answer.
    pub(crate) payload_max: usize,
    /// Budget of a request that states none.
    pub(crate) budget: Duration,
    /// What it may spend on bytes that several receivers share, and where it keeps them.
    pub(crate) share: (ShareSettings, Option<PathBuf>),
}

struct Running {
    /// Who asks, and who is asked.
    ends: [Fqcn; 2],
    state: Arc<TieState>,
}

/// What breaks a conduit from outside.
#[derive(Debug, Default)]
struct TieState {
    broken: AtomicBool,
    /// Bytes that were read and written, on all halves.
    moved: AtomicU64,
    wakers: [AtomicWaker; Tie::HALVES],
    /// For what stays within this process.
    breaker: OnceLock<Breaker>,
}

/// One conduit that the filter let through this cell. It counts as running until this is dropped.
#[derive(Debug)]
pub(crate) struct Tie {
    own: Arc<Own>,
    number: u64,
    state: Arc<TieState>,
    /// The places that it takes on links.
    permits: Mutex<Vec<Permit>>,
}

impl Conduits {
    /// Conduits that run through this cell, or begin or end here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().running.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are kept for several receivers.
    #[must_use]
    pub fn spooled_bytes(&self) -> u64 {
        self.shares.used()
    }

    /// Registers what decides on conduits that end here.
    pub(crate) fn serve(&self, handler: Arc<dyn ConduitHandler>) -> Result<(), HandleError> {
        let mut state = self.lock();
        if state.handler.is_some() {
            return Err(HandleError::Taken("conduits".to_owned()));
        }
        state.handler = Some(handler);
        Ok(())
    }

    fn handler(&self) -> Option<Arc<dyn ConduitHandler>> {
        self.lock().handler.clone()
    }

    /// The cell has started (again).
    pub(crate) fn set_bounds(&self, bounds: Bounds) {
        let (settings, directory) = bounds.share.clone();
        self.shares.start(settings, directory);
        self.lock().bounds = Some(bounds);
    }

    fn bounds(&self) -> Option<Bounds> {
        self.lock().bounds.clone()
    }

    /// Breaks what `subject` has asked for, or was asked for.
    pub(crate) fn break_of(&self, subject: &Fqcn) {
        self.break_all_that(|ends| ends.contains(subject));
    }

    /// Breaks everything.
    pub(crate) fn break_all(&self) {
        self.break_all_that(|_| true);
    }

    /// Breaks all between ends that `is_meant` names.
    pub(crate) fn break_all_that(&self, is_meant: impl Fn(&[Fqcn; 2]) -> bool) {
        let meant: Vec<Arc<TieState>> = self
            .lock()
            .running
            .values()
            .filter(|running| is_meant(&running.ends))
            .map(|running| Arc::clone(&running.state))
            .collect();
        meant.iter().for_each(|state| state.break_off());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TieState {
    fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
        self.wakers.iter().for_each(AtomicWaker::wake);
        if let Some(breaker) = self.breaker.get() {
            breaker.lose();
        }
    }
}

impl Tie {
    /// Halves of streams that one conduit has in a cell.
    const HALVES: usize = 4;
    /// How long what works on a conduit may take to end when it is broken off.
    const LAST_WORDS: Duration = Duration::from_secs(1);

    /// The filter has let a request through.
    pub(crate) fn new(own: &Arc<Own>, request: &Header) -> Arc<Self> {
        let state = Arc::<TieState>::default();
        let ends = [request.origin.name.clone(), request.destination.name.clone()];
        let mut conduits = own.conduits.lock();
        conduits.last += 1;
        let number = conduits.last;
        conduits.running.insert(number, Running { ends, state: Arc::clone(&state) });
        drop(conduits);
        Arc::new(Self { own: Arc::clone(own), number, state, permits: Mutex::default() })
    }

    /// Keeps a place on a link for as long as the conduit runs.
    fn keep(&self, permit: Permit) {
        self.permits.lock().unwrap_or_else(PoisonError::into_inner).push(permit);
    }

    /// Whether it is broken; else one of its halves is woken when it is.
    fn poll_broken(&self, half: usize, cx: &Context<'_>) -> bool {
        let is_broken = || self.state.broken.load(Ordering::Acquire);
        if is_broken() {
            return true;
        }
        self.state.wakers[half].register(cx.waker());
        is_broken()
    }

    fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::Acquire)
    }

    fn count_moved(&self, bytes: usize) {
        self.state.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Does `work` on a conduit that has been answered, until that ends or no byte has moved for a minute: whoever
    /// neither reads nor writes must not keep its places on links.
    async fn while_it_moves(&self, work: impl Future<Output = ()>) {
        let stands_still = async {
            let mut idle = Idle::default();
            loop {
                tokio::time::sleep(Idle::LOOK).await;
                if idle.look(self.state.moved.load(Ordering::Relaxed)) {
                    return;
                }
            }
        };
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            () = &mut work => return,
            () = stands_still => {}
        }
        self.own.counters.refuse(Status::Deadline);
        tracing::info!(
            cell = %self.own.name, code = Status::Deadline.code(), "a conduit stood still and is broken off"
        );
        self.state.break_off();
        // It is told so; what does not end then is dropped.
        let _ = tokio::time::timeout(Self::LAST_WORDS, work).await;
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        self.own.conduits.lock().running.remove(&self.number);
    }
}

/// What an answer must fit: kept of a request while its answer is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) sequence: u64,
    pub(crate) origin: Arc<Address>,
}

impl Asked {
    fn of(request: &Header) -> Self {
        Self { sequence: request.sequence, origin: Arc::clone(&request.origin) }
    }
}
