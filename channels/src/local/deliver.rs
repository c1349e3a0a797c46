//! Handlers of job code: one task for each delivery, and one answer from each task.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    local::{self, DETAIL_MAX, ToCell, is_content_type},
    status::Status,
};
use tokio::time::timeout;

use super::job_side::JobSide;
use crate::{
    call::{Call, Outcome},
    handler::{Delivery, Failure, Handler, Line, Origin, Reply},
    passage,
};

/// Starts the handler for a delivery, or answers that there is none.
pub(super) fn deliver(side: &Arc<JobSide>, delivery: local::Delivery) {
    let id = delivery.id;
    let Some(handler) = side.handler_for(&delivery) else {
        return refuse(side, id, Status::NoHandler);
    };
    let started = side.run(id, || {
        // An argument of the task, not a variable of it: it may be dropped before it has run.
        let unanswered = Unanswered { side: Arc::clone(side), id };
        tokio::spawn(work(unanswered, handler, delivery)).abort_handle()
    });
    if !started {
        refuse(side, id, Status::Overloaded);
    }
}

/// Answers for a handler that ends in any other way than by returning.
struct Unanswered {
    side: Arc<JobSide>,
    id: u64,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let is_panic = std::thread::panicking();
        let status = if is_panic { Status::HandlerPanic } else { Status::HandlerGone };
        let frame = ToCell::DeliverFail { id: self.id, status, detail: Bytes::new() };
        // Has no effect where the handler has returned. One for each delivery, so it is bounded.
        self.side.answer(self.id, |outbox| outbox.push_small(&frame));
    }
}

async fn work(unanswered: Unanswered, handler: Arc<dyn Handler>, delivery: local::Delivery) {
    let Unanswered { side, id } = &unanswered;
    let budget = Duration::from_millis(delivery.budget_ms.into());
    let is_awaited = delivery.expects_reply;
    let (peer, target) = (delivery.origin.name.clone(), delivery.target.clone());
    let delivery = match passage::inward(&side.filters, from_wire(delivery)) {
        Ok(delivery) => delivery,
        Err(stopped) => {
            let (id, status, detail) = (*id, stopped.status(), stopped.detail());
            let frame = ToCell::DeliverFail { id, status, detail };
            return side.answer(id, |outbox| outbox.push_small(&frame));
        }
    };
    let call = Call::new(&*handler, delivery, Line::for_one_reply());
    let ended = async {
        let answer = match call.end().await {
            Outcome::Replied(reply) => Ok(reply),
            Outcome::Failed(failure) => Err(failure),
            Outcome::Panicked => Err(Failure::Unknown(Status::HandlerPanic)),
        };
        passage::outward(&side.filters, &peer, &target, answer)
    };
    let outcome = if is_awaited {
        timeout(budget, ended).await.unwrap_or(Err(Failure::Unknown(Status::Deadline)))
    } else {
        ended.await.map(|_discarded| Reply::default())
    };
    let frame = to_wire(*id, outcome, side.limits.payload_max as usize);
    if let Ok(room) = side.outbox.reserve(payload_len(&frame)).await {
        side.answer(*id, |outbox| outbox.push(&frame, room));
    }
}

fn refuse(side: &JobSide, id: u64, status: Status) {
    side.outbox.push_small(&ToCell::DeliverFail { id, status, detail: Bytes::new() });
}

fn from_wire(delivery: local::Delivery) -> Delivery {
    let local::Delivery { id: _, origin, target, budget_ms, expects_reply, content_type, payload } =
        delivery;
    let local::Origin { name, kind, org, job } = origin;
    let mut delivered = Delivery::new(Origin { name, kind, org, job }, target, payload);
    delivered.content_type = content_type;
    delivered.budget = Duration::from_millis(budget_ms.into());
    delivered.expects_reply = expects_reply;
    delivered
}

fn to_wire(id: u64, outcome: Result<Reply, Failure>, payload_max: usize) -> ToCell {
    let failed = |text: String| ToCell::DeliverFail {
        id,
        status: Status::HandlerFailed,
        detail: Bytes::from(text),
    };
    match outcome {
        Ok(Reply { payload, .. }) if payload.len() > payload_max => {
            failed(format!("the reply has {} bytes, the limit is {payload_max}", payload.len()))
        }
        Ok(Reply { content_type: Some(text), .. }) if !is_content_type(&text) => {
            failed("the content type of the reply is none".to_owned())
        }
        Ok(Reply { payload, content_type }) => ToCell::DeliverReply { id, content_type, payload },
        Err(Failure::Failed(mut detail)) => {
            detail.truncate(DETAIL_MAX);
            ToCell::DeliverFail { id, status: Status::HandlerFailed, detail }
        }
        Err(Failure::Refused(status) | Failure::Unknown(status)) => {
            ToCell::DeliverFail { id, status, detail: Bytes::new() }
        }
    }
}

fn payload_len(frame: &ToCell) -> usize {
    use cellbus_proto::local::Frame as _;
    frame.payload().len()
}
