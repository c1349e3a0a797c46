//! What answers messages for this cell, and how much of it may run at once.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use actix::{AsyncContext, Context, Handler, Message};
use bytes::Bytes;
use cellbus_channels::{
    Delivery, Failure, HandleError, Handler as MessageHandler, Origin, Reply, Selector,
};
use cellbus_proto::{
    admission::{Admitted, Verified},
    envelope::{Header, cost},
    name::ChannelTopic,
    status::Status,
    well_known,
};
use futures_util::FutureExt;

use super::Cell;
use crate::seam::post;

/// Bytes of a failure's detail that travel.
const DETAIL_MAX: usize = 4096;

/// What the handlers of a cell may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerLimits {
    /// Messages being handled.
    pub running: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
}

impl Default for HandlerLimits {
    fn default() -> Self {
        Self { running: 4096, bytes: 64 << 20 }
    }
}

/// What is registered; outlives a restart of the cell's actor.
#[derive(Clone, Default)]
pub struct HandlerTable(Arc<RwLock<BTreeMap<Selector, Arc<dyn MessageHandler>>>>);

impl HandlerTable {
    /// Registers a handler.
    ///
    /// # Errors
    /// [`HandleError::Taken`] when something is registered for exactly this selector.
    pub fn add(
        &self,
        selector: Selector,
        handler: Arc<dyn MessageHandler>,
    ) -> Result<(), HandleError> {
        match self.0.write().unwrap_or_else(PoisonError::into_inner).entry(selector) {
            Entry::Occupied(taken) => Err(HandleError::Taken(taken.key().to_string())),
            Entry::Vacant(free) => {
                free.insert(handler);
                Ok(())
            }
        }
    }

    /// The most specific handler for `target`. A topic of the system has an exact one or none.
    fn find(&self, target: &ChannelTopic) -> Option<Arc<dyn MessageHandler>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let by_name = table.get(&Selector::Exact(target.clone()));
        if well_known::lookup(target).is_some() {
            return by_name.cloned();
        }
        let by_channel = || table.get(&Selector::Channel(target.channel().clone()));
        by_name.or_else(by_channel).or_else(|| table.get(&Selector::All)).cloned()
    }

    fn selectors(&self) -> Vec<String> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.keys().map(ToString::to_string).collect()
    }
}

impl std::fmt::Debug for HandlerTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HandlerTable({:?})", self.selectors())
    }
}

/// The handlers of a cell, and what they hold.
#[derive(Debug)]
pub(super) struct Handlers {
    table: HandlerTable,
    limits: HandlerLimits,
    running: usize,
    bytes: usize,
}

/// A handler has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HandlerDone {
    request: Header,
    cost: usize,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Replied(Reply),
    Refused(Failure),
    Panicked,
    TooLate,
}

impl Handlers {
    pub(super) fn new(table: HandlerTable, limits: HandlerLimits) -> Self {
        Self { table, limits, running: 0, bytes: 0 }
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    pub(super) fn selectors(&self) -> Vec<String> {
        self.table.selectors()
    }
}

impl Cell {
    /// Gives a message to its handler, in a task of its own.
    pub(super) fn dispatch(&mut self, admitted: Admitted, budget_ms: u32, ctx: &mut Context<Self>) {
        let Some(handler) = self.handlers.table.find(&admitted.header().target) else {
            return self.answer_failed(admitted.header(), Status::NoHandler, Bytes::new());
        };
        let size = cost(admitted.envelope());
        let full = self.handlers.running >= self.handlers.limits.running
            || self.handlers.bytes + size > self.handlers.limits.bytes;
        if full {
            return self.answer_failed(admitted.header(), Status::Overloaded, Bytes::new());
        }
        let Verified::Claims(claims) = admitted.verified().clone() else {
            // Only challenge, register and bye are verified otherwise, and these go to their link.
            return self.answer_failed(admitted.header(), Status::NoToken, Bytes::new());
        };
        self.handlers.running += 1;
        self.handlers.bytes += size;
        let envelope = admitted.into_envelope();
        let request = envelope.header;
        let delivery = Delivery {
            origin: Origin {
                name: claims.subject.clone(),
                kind: claims.kind,
                org: claims.org.clone(),
                job: claims.job.clone(),
            },
            target: request.target.clone(),
            payload: envelope.payload,
            content_type: request.content_type().cloned(),
            budget: Duration::from_millis(budget_ms.into()),
            expects_reply: request.wants_answer(),
        };
        let cell = ctx.address();
        // The task, not the actor, waits: an actor's cost per message grows with what it waits for.
        actix::spawn(async move {
            let budget = delivery.budget;
            let run =
                AssertUnwindSafe(async move { handler.handle(delivery).await }).catch_unwind();
            let outcome = match tokio::time::timeout(budget, run).await {
                Ok(Ok(Ok(reply))) => Outcome::Replied(reply),
                Ok(Ok(Err(failure))) => Outcome::Refused(failure),
                Ok(Err(_panic)) => Outcome::Panicked,
                Err(_elapsed) => Outcome::TooLate,
            };
            if post(&cell, HandlerDone { request, cost: size, outcome }).is_err() {
                tracing::debug!("a handler outlived its cell");
            }
        });
    }
}

impl Handler<HandlerDone> for Cell {
    type Result = ();

    fn handle(&mut self, done: HandlerDone, _: &mut Self::Context) {
        let HandlerDone { request, cost, outcome } = done;
        self.handlers.running -= 1;
        self.handlers.bytes -= cost;
        match outcome {
            Outcome::Replied(reply) if reply.payload.len() > self.settings.payload_max => {
                let detail = Bytes::from_static(b"the reply is larger than a message may be");
                self.answer_failed(&request, Status::HandlerFailed, detail);
            }
            Outcome::Replied(Reply { payload, content_type }) => {
                self.answer(&request, payload, content_type);
            }
            Outcome::Refused(Failure::Refused(status) | Failure::Unknown(status)) => {
                self.answer_failed(&request, status, Bytes::new());
            }
            Outcome::Refused(Failure::Failed(mut detail)) => {
                detail.truncate(DETAIL_MAX);
                self.answer_failed(&request, Status::HandlerFailed, detail);
            }
            Outcome::Panicked => {
                tracing::error!(cell = %self.own.name, target = %request.target, "a handler panicked");
                self.answer_failed(&request, Status::HandlerPanic, Bytes::new());
            }
            Outcome::TooLate => {
                // The requester's own clock has ended the request; this end only says so.
                self.answer_failed(&request, Status::Deadline, Bytes::new());
            }
        }
    }
}
