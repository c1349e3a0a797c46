//! Handlers of job code: one task for each delivery, and one answer from each task.

use std::{fs::File, io, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    local::{self, DETAIL_MAX, Limits, ToCell, is_content_type},
    status::Status,
};
use tokio::time::timeout;

use super::{
    carry::{ATTACH_FROM, Packed},
    job_side::JobSide,
};
use crate::{
    call::{Call, Outcome, Step},
    handler::{Delivery, Failure, Handler, Line, Origin, Reply},
    passage, trace,
};

/// Starts the handler for a delivery, or answers that there is none.
pub(super) fn deliver(side: &Arc<JobSide>, delivery: local::Delivery, file: Option<File>) {
    let id = delivery.id;
    let Some(handler) = side.handler_for(&delivery) else {
        return refuse(side, id, Status::NoHandler);
    };
    let started = side.run(id, || {
        // An argument of the task, not a variable of it: it may be dropped before it has run.
        let unanswered = Unanswered { side: Arc::clone(side), id };
        tokio::spawn(work(unanswered, handler, delivery, file)).abort_handle()
    });
    if let Err(status) = started {
        refuse(side, id, status);
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

async fn work(
    unanswered: Unanswered,
    handler: Arc<dyn Handler>,
    delivery: local::Delivery,
    file: Option<File>,
) {
    let Unanswered { side, id } = &unanswered;
    let budget = Duration::from_millis(delivery.budget_ms.into());
    let is_awaited = delivery.expects_reply;
    let (peer, target) = (delivery.origin.name.clone(), delivery.target.clone());
    let fail = |status, detail| {
        let frame = ToCell::DeliverFail { id: *id, status, detail };
        side.answer(*id, |outbox| outbox.push_small(&frame));
    };
    let Ok(delivery) = from_wire(delivery, file).await else {
        return fail(Status::StorageFull, Bytes::new());
    };
    let delivery = match passage::inward(&side.filters, delivery) {
        Ok(delivery) => delivery,
        Err(stopped) => return fail(stopped.status(), stopped.detail()),
    };
    let trace = delivery.trace;
    let line = if is_awaited { Line::default() } else { Line::for_one_reply() };
    let mut call = trace::within(trace, || Call::new(&*handler, delivery, line));
    let ended = trace::carried(trace, async {
        let answer = loop {
            match call.step().await {
                Step::Reply(reply) => {
                    let part = passage::outward(&side.filters, &peer, &target, Ok(reply));
                    match part {
                        Ok(reply) => send_part(side, *id, reply).await,
                        Err(failure) => break Err(failure),
                    }
                }
                Step::End(Outcome::Replied(reply)) => break Ok(reply),
                Step::End(Outcome::Failed(failure)) => break Err(failure),
                Step::End(Outcome::Panicked) => {
                    break Err(Failure::Unknown(Status::HandlerPanic));
                }
            }
        };
        passage::outward(&side.filters, &peer, &target, answer)
    });
    let outcome = if is_awaited {
        timeout(budget, ended).await.unwrap_or(Err(Failure::Unknown(Status::Deadline)))
    } else {
        ended.await.map(|_discarded| Reply::default())
    };
    let (frame, file) = to_wire(*id, outcome, &side.limits).await;
    if let Ok(room) = side.outbox.reserve(payload_len(&frame)).await {
        side.answer(*id, |outbox| outbox.push(&frame, file, room));
    }
}

/// A reply that more follow; one that cannot be sent is left out, as one that nobody waits for is.
async fn send_part(side: &JobSide, id: u64, reply: Reply) {
    let Ok(Packed { body, file }) = pack(reply, &side.limits).await else { return };
    let Ok(room) = side.outbox.reserve(body.payload.len()).await else { return };
    if side.is_running(id) {
        side.outbox.push(&ToCell::DeliverPart { id, body }, file, room);
    }
}

/// What can be sent of a reply, or a text that says why it cannot.
async fn pack(reply: Reply, limits: &Limits) -> Result<Packed, String> {
    let Reply { payload, content_type } = reply;
    let (len, max) = (payload.len() as u64, limits.attachment_max);
    if len > max {
        return Err(format!("the reply has {len} bytes, the limit is {max}"));
    }
    if content_type.as_ref().is_some_and(|text| !is_content_type(text)) {
        return Err("the content type of the reply is none".to_owned());
    }
    let inline_max = ATTACH_FROM.min(limits.payload_max as usize);
    let packed = Packed::pack(payload, content_type, inline_max).await;
    packed.map_err(|error| format!("no memory file for the reply: {error}"))
}

fn refuse(side: &JobSide, id: u64, status: Status) {
    side.outbox.push_small(&ToCell::DeliverFail { id, status, detail: Bytes::new() });
}

async fn from_wire(delivery: local::Delivery, file: Option<File>) -> io::Result<Delivery> {
    let local::Delivery { id: _, origin, target, budget_ms, expects_reply, body, headers, trace } =
        delivery;
    let local::Origin { name, kind, org, job } = origin;
    let content_type = body.content_type.clone();
    let payload = Packed { body, file }.unpack().await?;
    let mut delivered = Delivery::new(Origin { name, kind, org, job }, target, payload);
    delivered.content_type = content_type;
    delivered.headers = headers;
    delivered.trace = trace;
    delivered.budget = Duration::from_millis(budget_ms.into());
    delivered.expects_reply = expects_reply;
    Ok(delivered)
}

async fn to_wire(
    id: u64,
    outcome: Result<Reply, Failure>,
    limits: &Limits,
) -> (ToCell, Option<File>) {
    let failed = |status, detail| (ToCell::DeliverFail { id, status, detail }, None);
    match outcome {
        Ok(reply) => match pack(reply, limits).await {
            Ok(Packed { body, file }) => (ToCell::DeliverReply { id, body }, file),
            Err(text) => failed(Status::HandlerFailed, Bytes::from(text)),
        },
        Err(Failure::Failed(mut detail)) => {
            detail.truncate(DETAIL_MAX);
            failed(Status::HandlerFailed, detail)
        }
        Err(Failure::Refused(status) | Failure::Unknown(status)) => failed(status, Bytes::new()),
    }
}

fn payload_len(frame: &ToCell) -> usize {
    use cellbus_proto::local::Frame as _;
    frame.payload().len()
}
