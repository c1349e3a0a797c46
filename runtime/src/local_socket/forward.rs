//! Handlers of job code, as the cell's bus sees them.

use std::{fs::File, sync::Arc};

use cellbus_channels::{
    BoxFuture, ChannelTopic, Delivery, Failure, Fqcn, Handler, Reply,
    local::{
        carry::Packed,
        outbox::{Passage, Room},
    },
};
use cellbus_proto::{
    local::{self, Answer, Body, ToJob},
    status::{Class, Status},
};
use tokio::{
    sync::{OwnedSemaphorePermit, TryAcquireError, mpsc},
    time::{Instant, timeout_at},
};

use super::{
    attached::{Inward, Outward, inward, linger, outward},
    link::{Answered, Link, Waiting},
};

/// Bytes that a delivery is reckoned to take beside its payload, so that many small ones are bounded.
const OVERHEAD: usize = 1024;
/// Replies of job code that wait for whoever takes them; then job code is not read from.
const ANSWERS_MAX: usize = 4;

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

/// Who waits for the answer, to what.
struct Asked {
    peer: Fqcn,
    target: ChannelTopic,
    /// Whether the answer must be sealed.
    is_sealed: bool,
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

async fn forward(link: Arc<Link>, mut delivery: Delivery) -> Result<Reply, Failure> {
    let started = Instant::now();
    let until = delivery.expects_reply.then(|| started + delivery.budget);
    let bytes = reserve_bytes(&link, delivery.payload.len()).map_err(Failure::Refused)?;
    let payload = std::mem::take(&mut delivery.payload);
    let (content_type, is_sealed) = (delivery.content_type.take(), delivery.is_sealed);
    let fetched = inward(&link, &delivery.origin.name, payload, content_type, is_sealed);
    let Inward { packed: Packed { body, file }, permit } =
        within(until, fetched).await.map_err(Failure::Refused)?.map_err(Failure::Refused)?;
    let turn = within(until, turn(&link, body.payload.len())).await.map_err(Failure::Refused)?;
    // Neither a turn nor an open connection: job code has gone before this reached it.
    let Turn { slot, room } = turn.ok_or(Failure::Refused(Status::NoHandler))?;
    let left = delivery.budget.saturating_sub(started.elapsed());
    let (answers, answered) = mpsc::channel(ANSWERS_MAX);
    // What is left of the budget of a publish that took long to be fetched is for the fetch alone.
    let handles_until = (until.is_none() && permit.is_some())
        .then(|| Instant::now() + left.min(link.limits.budget()));
    let waiting = Waiting { answers, _slot: slot, _bytes: bytes, _attached: permit };
    let replies = delivery.expects_reply.then(|| delivery.clone());
    let asked =
        Asked { peer: delivery.origin.name.clone(), target: delivery.target.clone(), is_sealed };
    let knows_traces = link.version >= local::VERSION_TRACES;
    delivery.trace = delivery.trace.filter(|_| knows_traces);
    let begun = link.begin_delivery(waiting, |outbox, id| {
        let left = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        outbox.push_revocable(&to_wire(id, left, delivery, body), file, room)
    });
    let (id, passage) = begun.ok_or(Failure::Refused(Status::NoHandler))?;
    let mut forwarded = Forwarded { link: Arc::clone(&link), id, passage, is_over: false };
    let answering = within(handles_until, answer(&link, &asked, replies, answered));
    let answer = answering.await.map_err(|_late| Failure::Unknown(Status::Deadline))?;
    forwarded.is_over = true;
    match answer {
        Some(answer) => answer,
        None if forwarded.passage.withdraw() => Err(Failure::Refused(Status::NoHandler)),
        None => Err(Failure::Unknown(Status::HandlerGone)),
    }
}

/// Passes replies on as they come, up to the last; `None` where job code goes away before that.
async fn answer(
    link: &Arc<Link>,
    asked: &Asked,
    delivery: Option<Delivery>,
    mut answered: mpsc::Receiver<Answered>,
) -> Option<Result<Reply, Failure>> {
    loop {
        match answered.recv().await? {
            Answered::Part(body, file) => {
                let Some(delivery) = &delivery else { continue };
                match reply(link, asked, body, file).await {
                    // Fails where the requester takes no more; then the end is for nobody either.
                    Ok(reply) => drop(delivery.replies().send(reply).await),
                    Err(failure) => return Some(Err(failure)),
                }
            }
            Answered::End(Answer::Reply(body), file) => {
                return Some(match delivery {
                    Some(_) => reply(link, asked, body, file).await,
                    None => Ok(Reply::default()),
                });
            }
            Answered::End(Answer::Fail { status, detail }, _) => {
                return Some(Err(match status.class() {
                    Class::Refused => Failure::Refused(status),
                    Class::Unknown => Failure::Unknown(status),
                    Class::Failed => Failure::Failed(detail),
                }));
            }
        }
    }
}

/// A reply as it leaves for the network. The work has been done, also where the reply cannot leave.
async fn reply(
    link: &Arc<Link>,
    asked: &Asked,
    body: Body,
    file: Option<File>,
) -> Result<Reply, Failure> {
    let packed = Packed { body, file };
    let Outward { payload, content_type, served } =
        outward(&link.bus, [asked.peer.clone()], &asked.target, asked.is_sealed, packed)
            .await
            .map_err(|status| Failure::failed(format!("the reply cannot be sent: {status}")))?;
    linger(link, served);
    Ok(Reply { payload, content_type })
}

/// What `future` gives before `until`, where there is such a time.
async fn within<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Result<T, Status> {
    match until {
        Some(until) => timeout_at(until, future).await.map_err(|_| Status::ExpiredInQueue),
        None => Ok(future.await),
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

fn to_wire(id: u64, budget_ms: u32, delivery: Delivery, body: Body) -> ToJob {
    let Delivery { origin, target, headers, expects_reply, trace, .. } = delivery;
    let origin = Arc::unwrap_or_clone(origin);
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
        body,
        headers,
        trace,
    })
}
