//! Handlers of job code, as the cell's bus sees them.

use std::sync::Arc;

use cellbus_channels::{
    BoxFuture, Delivery, Failure, Handler, Reply,
    local::outbox::{Passage, Room},
};
use cellbus_proto::{
    local::{self, Answer, ToJob, is_content_type},
    status::{Class, Status},
};
use tokio::{
    sync::{OwnedSemaphorePermit, TryAcquireError, oneshot},
    time::{Instant, timeout_at},
};

use super::link::{Link, Waiting};

/// Bytes that a delivery is reckoned to take beside its payload, so that many small ones are bounded.
const OVERHEAD: usize = 1024;

/// Sends what it is given to job code and waits for the answer.
///
/// A delivery that job code saw nothing of is refused; one that it may have seen part of ends as
/// unknown when job code goes away.
pub(super) struct Forward(pub(super) Arc<Link>);

impl Handler for Forward {
    fn handle(&self, delivery: Delivery) -> BoxFuture<Result<Reply, Failure>> {
        Box::pin(forward(Arc::clone(&self.0), delivery))
    }
}

/// What a delivery needs before it is queued.
struct Turn {
    slot: OwnedSemaphorePermit,
    room: Room,
}

/// A delivery on its way; withdraws or cancels it when nobody waits any longer.
struct Forwarded {
    link: Arc<Link>,
    id: u64,
    passage: Arc<Passage>,
    is_over: bool,
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if self.passage.withdraw() {
            self.link.end_delivery(self.id);
        } else {
            self.link.outbox.push_small(&ToJob::Cancel { id: self.id });
        }
    }
}

async fn forward(link: Arc<Link>, delivery: Delivery) -> Result<Reply, Failure> {
    let started = Instant::now();
    let len = delivery.payload.len();
    if len > link.limits.payload_max as usize {
        return Err(Failure::Refused(Status::TooLarge));
    }
    let bytes = reserve_bytes(&link, len).map_err(Failure::Refused)?;
    let turn = if delivery.expects_reply {
        let turn = timeout_at(started + delivery.budget, turn(&link, len)).await;
        turn.map_err(|_elapsed| Failure::Refused(Status::ExpiredInQueue))?
    } else {
        turn(&link, len).await
    };
    // Neither a turn nor an open connection: job code has gone before this reached it.
    let Turn { slot, room } = turn.ok_or(Failure::Refused(Status::NoHandler))?;
    let left = delivery.budget.saturating_sub(started.elapsed());
    let (answer, answered) = oneshot::channel();
    let waiting = Waiting { answer, _slot: slot, _bytes: bytes };
    let begun = link.begin_delivery(waiting, |outbox, id| {
        let left = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        outbox.push_revocable(&to_wire(id, left, delivery), room)
    });
    let (id, passage) = begun.ok_or(Failure::Refused(Status::NoHandler))?;
    let mut forwarded = Forwarded { link, id, passage, is_over: false };
    let answer = answered.await;
    forwarded.is_over = true;
    match answer {
        Ok(answer) => answer,
        Err(_gone) if forwarded.passage.withdraw() => Err(Failure::Refused(Status::NoHandler)),
        Err(_gone) => Err(Failure::Unknown(Status::HandlerGone)),
    }
}

fn reserve_bytes(link: &Link, len: usize) -> Result<OwnedSemaphorePermit, Status> {
    let bytes = (len + OVERHEAD).min(link.limits.deliveries_bytes_max as usize);
    let bytes = u32::try_from(bytes).expect("limits fit 32 bits");
    match Arc::clone(&link.bytes).try_acquire_many_owned(bytes) {
        Ok(permit) => Ok(permit),
        Err(TryAcquireError::NoPermits) => Err(Status::Overloaded),
        Err(TryAcquireError::Closed) => Err(Status::NoHandler),
    }
}

async fn turn(link: &Link, len: usize) -> Option<Turn> {
    let slot = Arc::clone(&link.slots).acquire_owned().await.ok()?;
    let room = link.outbox.reserve(len).await.ok()?;
    Some(Turn { slot, room })
}

fn to_wire(id: u64, budget_ms: u32, delivery: Delivery) -> ToJob {
    let Delivery { origin, target, payload, content_type, expects_reply, .. } = delivery;
    ToJob::Deliver(local::Delivery {
        id,
        origin: local::Origin {
            name: origin.name,
            kind: origin.kind,
            org: origin.org,
            job: origin.job,
        },
        target,
        budget_ms,
        expects_reply,
        content_type: content_type.filter(|text| is_content_type(text)),
        payload,
    })
}

/// What job code's answer means to the requester.
pub(super) fn from_wire(answer: Answer) -> Result<Reply, Failure> {
    match answer {
        Answer::Reply { content_type, payload } => Ok(Reply { payload, content_type }),
        Answer::Fail { status, detail } => Err(match status.class() {
            Class::Refused => Failure::Refused(status),
            Class::Unknown => Failure::Unknown(status),
            Class::Failed => Failure::Failed(detail),
        }),
    }
}
