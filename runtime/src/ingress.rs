//! Publishes of this cell itself on their way to its filter: many of them in one batch.
//!
//! A sender holds a [`Lease`]: the filter's word that messages to one place would pass and which way they
//! take, good until anything changes that it rests on. With it a publish is a push to a list; the filter
//! still decides on every one.

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use cellbus_channels::{Passage, Payload, PublishError};
use cellbus_proto::{
    bundle::Joiner,
    envelope::{Common, Envelope, Lane, cost, cost_of_plain},
    folded::Folded,
    name::{ChannelTopic, Fqcn},
};
use tokio::sync::Notify;

use crate::{
    filter::{AuthFilter, TakeIngress},
    outbox::Outbox,
    own::Own,
    seam::{Gone, post},
};

/// What waits for the filter.
#[derive(Debug, Default)]
pub struct Ingress {
    waiting: Mutex<Waiting>,
    /// Bytes of what waits; changed only while that is locked.
    bytes: AtomicUsize,
    taken: Notify,
}

/// Messages that wait, in bundles where they go together, which saves keeping each.
#[derive(Debug, Default)]
struct Waiting {
    joiner: Joiner,
    count: usize,
    is_told: bool,
}

/// Which way messages from this cell to one place take.
#[derive(Clone, Debug)]
pub struct Way {
    /// Good while the cell's own generation is this.
    pub generation: u64,
    /// Where the messages wait for their link; none for this cell itself.
    pub outbox: Option<Arc<Outbox>>,
}

/// The filter's word that messages from this cell to one place would pass now, and what a sender needs to
/// put them together.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The way.
    pub way: Way,
    /// Who decides on the messages.
    pub filter: Addr<AuthFilter>,
    /// What the messages have in common.
    pub common: Arc<Common>,
    /// The lane that was asked for.
    pub lane: Lane,
    /// Budget of a message that states none.
    pub budget: Duration,
    /// Largest payload, in bytes.
    pub payload_max: usize,
}

/// Leases by destination and target, found by where the caller's names live.
#[derive(Debug, Default)]
pub struct Leases(Mutex<Held>);

type Held = HashMap<(usize, usize), Named, BuildHasherDefault<Folded>>;

/// A lease, and the names that it is found by.
#[derive(Debug)]
struct Named {
    lease: Lease,
    _names: (Fqcn, ChannelTopic),
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPushed {
    /// As much waits as may: try again when the filter has taken it.
    Full,
    /// The filter has ended.
    Gone,
}

impl Ingress {
    /// Bytes that may wait.
    const MAX: usize = 1 << 20;

    /// Whether a message more may wait.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < Self::MAX
    }

    /// Waits until the filter has taken what waits, where that is as much as may.
    pub async fn wait_room(&self) {
        loop {
            let mut taken = std::pin::pin!(self.taken.notified());
            taken.as_mut().enable();
            if self.has_room() {
                return;
            }
            taken.await;
        }
    }

    /// Takes everything: the messages, in bundles, and how many they are.
    pub(crate) fn take(&self, own: &Own) -> (Vec<Envelope>, usize) {
        let mut waiting = self.lock();
        let taken = (own.joined(&mut waiting.joiner), mem::take(&mut waiting.count));
        waiting.is_told = false;
        let before = self.bytes.swap(0, Ordering::Relaxed);
        drop(waiting);
        if before >= Self::MAX {
            self.taken.notify_waiters();
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a message to what waits, and tells the filter where it does not know yet that something does.
///
/// # Errors
/// [`NotPushed`]; the message was not taken.
pub fn push(
    own: &Arc<Own>,
    envelope: Envelope,
    filter: &Addr<AuthFilter>,
) -> Result<(), NotPushed> {
    let cost = cost(&envelope);
    add(own, cost, filter, |joiner| own.join(joiner, envelope))
}

/// The same of a publish that has nothing beside its payload.
fn push_plain(
    own: &Arc<Own>,
    lease: &Lease,
    budget_ms: u32,
    payload: Payload<'_>,
) -> Result<(), NotPushed> {
    let cost = cost_of_plain(payload.len());
    add(own, cost, &lease.filter, |joiner| {
        own.join_plain(joiner, &lease.common, budget_ms, payload);
    })
}

fn add(
    own: &Arc<Own>,
    cost: usize,
    filter: &Addr<AuthFilter>,
    join: impl FnOnce(&mut Joiner),
) -> Result<(), NotPushed> {
    let ingress = &own.ingress;
    let mut waiting = ingress.lock();
    let bytes = ingress.bytes.load(Ordering::Relaxed);
    if bytes >= Ingress::MAX {
        return Err(NotPushed::Full);
    }
    ingress.bytes.store(bytes.saturating_add(cost), Ordering::Relaxed);
    join(&mut waiting.joiner);
    waiting.count += 1;
    if mem::replace(&mut waiting.is_told, true) {
        return Ok(());
    }
    drop(waiting);
    post(filter, TakeIngress::of(own)).map_err(|Gone| NotPushed::Gone)
}

impl Lease {
    /// Whether the way has room for best-effort messages, or leads nowhere but to this cell.
    #[must_use]
    pub fn has_room(&self, lane: Lane) -> bool {
        self.way.outbox.as_ref().is_none_or(|outbox| outbox.has_room(lane))
    }

    /// Waits for that.
    pub async fn wait_room(&self, lane: Lane) {
        if let Some(outbox) = &self.way.outbox {
            outbox.wait_room(lane).await;
        }
    }
}

impl Leases {
    /// Leases kept; when there would be more, all are forgotten.
    const MAX: usize = 1024;

    /// What `take` makes of the lease for these names, if there is one that is still good.
    pub fn with<R>(
        &self,
        to: &Fqcn,
        target: &ChannelTopic,
        generation: u64,
        take: impl FnOnce(&Lease) -> R,
    ) -> Option<R> {
        let leases = self.lock();
        let held = leases.get(&(to.allocation(), target.allocation()))?;
        (held.lease.way.generation == generation).then(|| take(&held.lease))
    }

    /// Keeps a lease.
    pub fn insert(&self, to: Fqcn, target: ChannelTopic, lease: Lease) {
        let mut leases = self.lock();
        if leases.len() >= Self::MAX {
            leases.clear();
        }
        let key = (to.allocation(), target.allocation());
        leases.insert(key, Named { lease, _names: (to, target) });
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of publishes that have nothing beside their payload.
#[derive(Debug)]
pub(crate) struct PlainWay {
    pub(crate) own: Arc<Own>,
    pub(crate) lease: Lease,
    pub(crate) budget_ms: u32,
}

impl Passage for PlainWay {
    fn publish_at_once(&self, payload: Payload<'_>) -> Option<Result<(), PublishError>> {
        let Self { own, lease, budget_ms } = self;
        let is_good = lease.way.generation == own.generation()
            && payload.len() <= lease.payload_max
            && lease.has_room(lease.lane);
        if !is_good {
            return None;
        }
        match push_plain(own, lease, *budget_ms, payload) {
            Ok(()) => Some(Ok(())),
            Err(NotPushed::Full) => None,
            Err(NotPushed::Gone) => Some(Err(PublishError::Closed)),
        }
    }
}
