//! One batch: items that travel together, and what comes back for each.

use bytes::Bytes;
use cellbus_proto::{
    batch::{self, Outcome},
    envelope::Flags,
    name::Fqcn,
    status::Status,
};
use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Settings;
use crate::{bus::Bus, error::RequestError, handler::Reply, passage, transport::Outgoing};

/// An item and whoever waits for its outcome.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) outgoing: Outgoing,
    pub(super) answer: oneshot::Sender<Result<Bytes, RequestError>>,
    pub(super) _room: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    items: Vec<Item>,
    bytes: usize,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn is_full(&self, settings: &Settings) -> bool {
        self.bytes >= settings.batch_bytes || self.items.len() >= settings.batch_items
    }

    /// Whether `item` may travel with what is here: it fits, and all that a batch says once is the same.
    pub(super) fn takes(&self, item: &Item, settings: &Settings) -> bool {
        let Some(first) = self.items.first() else { return true };
        let (a, b) = (&first.outgoing, &item.outgoing);
        a.content_type == b.content_type
            && a.rare == b.rare
            && self.bytes + item.outgoing.payload.len() <= settings.batch_bytes
            && !self.is_full(settings)
    }

    pub(super) fn push(&mut self, item: Item) {
        self.bytes += item.outgoing.payload.len();
        self.items.push(item);
    }

    /// Sends the batch and tells every item its outcome.
    pub(super) async fn send(self, bus: Bus, to: Fqcn) {
        let Some(first) = self.items.first() else { return };
        let target = first.outgoing.target.clone();
        let outcomes = if bus.transport().is_complete() {
            together(&bus, &to, &self.items).await
        } else {
            one_by_one(&bus, &to, &self.items).await
        };
        let me = bus.name();
        for (item, outcome) in self.items.into_iter().zip(outcomes) {
            let outcome = passage::back(bus.filters(), &me, &to, &target, outcome);
            // Whoever pushed it may not want to know.
            let _ = item.answer.send(outcome.map(|reply| reply.payload));
        }
    }
}

type Outcomes = Vec<Result<Reply, RequestError>>;

async fn together(bus: &Bus, to: &Fqcn, items: &[Item]) -> Outcomes {
    let all = |error: RequestError| vec![Err(error); items.len()];
    let first = &items[0].outgoing;
    let payloads = items.iter().map(|item| item.outgoing.payload.clone());
    let payload = match batch::encode(payloads) {
        Ok(payload) => payload,
        Err(_too_much) => {
            let (by, detail) = (bus.name(), Bytes::new());
            return all(RequestError::Returned { by, status: Status::TooLarge, detail });
        }
    };
    let outgoing = Outgoing { payload, flags: first.flags.with(Flags::BATCH), ..first.clone() };
    let reply = match bus.transport().request(to.clone(), outgoing).await {
        Ok(reply) => reply,
        Err(error) => return all(error),
    };
    match batch::decode_outcomes(reply.payload) {
        Ok(outcomes) if outcomes.len() == items.len() => {
            outcomes.into_iter().map(|outcome| result(to, outcome)).collect()
        }
        Ok(_) | Err(_) => {
            let detail = Bytes::from_static(b"the reply is no list of outcomes of this batch");
            all(RequestError::Returned { by: to.clone(), status: Status::HandlerFailed, detail })
        }
    }
}

fn result(to: &Fqcn, outcome: Outcome) -> Result<Reply, RequestError> {
    match outcome {
        Outcome::Done(payload) => Ok(payload.into()),
        Outcome::Failed { status, detail } => {
            Err(RequestError::Returned { by: to.clone(), status, detail })
        }
    }
}

/// Where batches cannot travel, each item does so alone; all are asked before the first has answered.
async fn one_by_one(bus: &Bus, to: &Fqcn, items: &[Item]) -> Outcomes {
    let ask = |item: &Item| bus.transport().request(to.clone(), item.outgoing.clone());
    join_all(items.iter().map(ask)).await
}
