//! Publishes of this cell itself on their way to its filter: many of them in one batch.
//!
//! A sender holds a [`Lease`]: the filter's word that messages to one place would pass and which way they
//! take, good until anything changes that it rests on. With it a publish is a push to a list; the filter
//! still decides on every one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use actix::Addr;
use cellbus_proto::{
    envelope::{Address, Envelope, Lane, cost},
    name::{ChannelTopic, Fqcn},
};

use crate::{
    filter::{AuthFilter, TakeIngress},
    outbox::Outbox,
    seam::{Gone, post},
};

/// What waits for the filter.
#[derive(Debug, Default)]
pub struct Ingress {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Envelope>,
    bytes: usize,
    /// Whether the filter has been told.
    told: bool,
}

/// The filter's word that messages from this cell to one place would pass now.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Good while the cell's own generation is this.
    pub generation: u64,
    /// The destination, the same allocation for every message.
    pub address: Arc<Address>,
    /// Where the messages wait for their link; none for this cell itself.
    pub outbox: Option<Arc<Outbox>>,
}

/// Leases by destination and target, found by where the caller's names live.
#[derive(Debug, Default)]
pub struct Leases {
    known: HashMap<(usize, usize), (Lease, Fqcn, ChannelTopic)>,
}

/// The filter has not yet taken what waits, and that is as much as may.
#[derive(Debug)]
pub enum NotPushed {
    /// Try again when others have run.
    Full(Box<Envelope>),
    /// The filter has ended.
    Gone,
}

impl Ingress {
    /// Bytes that may wait.
    const MAX: usize = 1 << 20;

    /// Adds a message, and tells the filter where it does not know yet that something waits.
    ///
    /// # Errors
    /// [`NotPushed`]; the message was not taken.
    pub fn push(&self, envelope: Envelope, filter: &Addr<AuthFilter>) -> Result<(), NotPushed> {
        let size = cost(&envelope);
        let mut state = self.lock();
        if state.bytes + size > Self::MAX {
            return Err(NotPushed::Full(Box::new(envelope)));
        }
        state.bytes += size;
        state.waiting.push(envelope);
        if std::mem::replace(&mut state.told, true) {
            return Ok(());
        }
        drop(state);
        post(filter, TakeIngress).map_err(|Gone| NotPushed::Gone)
    }

    /// Takes everything.
    pub(crate) fn take(&self) -> Vec<Envelope> {
        let mut state = self.lock();
        (state.bytes, state.told) = (0, false);
        let room = state.waiting.len();
        std::mem::replace(&mut state.waiting, Vec::with_capacity(room))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Whether the way has room for best-effort messages, or leads nowhere but to this cell.
    #[must_use]
    pub fn has_room(&self, lane: Lane) -> bool {
        self.outbox.as_ref().is_none_or(|outbox| outbox.has_room(lane))
    }
}

impl Leases {
    /// Leases kept; when there would be more, all are forgotten.
    const MAX: usize = 1024;

    /// The lease for these names, if it is still good.
    #[must_use]
    pub fn find(&self, to: &Fqcn, target: &ChannelTopic, generation: u64) -> Option<&Lease> {
        let (lease, ..) = self.known.get(&(to.allocation(), target.allocation()))?;
        (lease.generation == generation).then_some(lease)
    }

    /// Keeps a lease.
    pub fn insert(&mut self, to: Fqcn, target: ChannelTopic, lease: Lease) {
        if self.known.len() >= Self::MAX {
            self.known.clear();
        }
        self.known.insert((to.allocation(), target.allocation()), (lease, to, target));
    }
}
