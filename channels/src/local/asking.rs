//! Requests, publishes and registrations of job code, from admission to their one end.

use std::{sync::Arc, time::Duration};

use cellbus_proto::{
    local::{Outcome, ToCell, is_content_type},
    name::Fqcn,
    status::Status,
};
use tokio::{
    sync::{MutexGuard, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    job_side::{Ending, JobSide, Permits},
    outbox::{Closed, Room},
};
use crate::{
    error::{HandleError, PublishError, RequestError},
    handler::{Handler, Reply, Selector},
    transport::Outgoing,
};

/// How much longer than the budget job code waits for its cell to say how the request ended; the cell itself
/// waits for less.
const GRACE: Duration = Duration::from_millis(225);

/// What stands between asking and the answer; asks the cell to stop when dropped before it.
struct Asked {
    side: Arc<JobSide>,
    id: u64,
    ended: oneshot::Receiver<Ending>,
    is_over: bool,
}

impl Asked {
    async fn ending(&mut self) -> Result<Ending, Closed> {
        let ending = (&mut self.ended).await;
        self.is_over = true;
        ending.map_err(|_| Closed)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.is_over {
            self.side.give_up(self.id);
        }
    }
}

pub(super) async fn request(
    side: Arc<JobSide>,
    to: Fqcn,
    outgoing: Outgoing,
) -> Result<Reply, RequestError> {
    let budget = outgoing.budget.unwrap_or(side.limits.budget());
    let started = Instant::now();
    let refused = |status| RequestError::Returned {
        by: side.cell.clone(),
        status,
        detail: bytes::Bytes::new(),
    };
    check(&side, &outgoing).map_err(refused)?;
    let Ok(admitted) = timeout_at(started + budget, admit(&side, outgoing.payload.len())).await
    else {
        return Err(refused(Status::ExpiredInQueue));
    };
    let admission = admitted.map_err(|Closed| RequestError::Closed)?;
    let left = budget.saturating_sub(started.elapsed());
    let asked = ask(&side, admission, |id| ToCell::Request {
        id,
        to: to.as_str().into(),
        channel: outgoing.target.channel().as_str().into(),
        topic: outgoing.target.topic().as_str().into(),
        budget_ms: Some(whole_millis(left)),
        content_type: outgoing.content_type,
        payload: outgoing.payload,
    });
    let mut asked = asked.map_err(|Closed| RequestError::Closed)?;
    match timeout_at(started + budget + GRACE, asked.ending()).await {
        Err(_elapsed) => Err(RequestError::TimedOut { to, budget }),
        Ok(Err(Closed)) => Err(RequestError::Closed),
        Ok(Ok(Ending::Reply(reply))) => Ok(reply),
        Ok(Ok(Ending::Return { status: Status::Deadline, by, .. })) if by == side.cell => {
            Err(RequestError::TimedOut { to, budget })
        }
        Ok(Ok(Ending::Return { status, by, detail })) => {
            Err(RequestError::Returned { by, status, detail })
        }
        // The wrong kind of answer, from a cell that does not keep to the protocol.
        Ok(Ok(Ending::Accepted | Ending::Handled(_))) => Err(RequestError::Closed),
    }
}

pub(super) async fn publish(
    side: Arc<JobSide>,
    to: Fqcn,
    outgoing: Outgoing,
) -> Result<(), PublishError> {
    let refused = |status| PublishError::Refused { by: side.cell.clone(), status };
    check(&side, &outgoing).map_err(refused)?;
    let admitted = admit(&side, outgoing.payload.len()).await;
    let admission = admitted.map_err(|Closed| PublishError::Closed)?;
    let asked = ask(&side, admission, |id| ToCell::Publish {
        id,
        to: to.as_str().into(),
        channel: outgoing.target.channel().as_str().into(),
        topic: outgoing.target.topic().as_str().into(),
        content_type: outgoing.content_type,
        payload: outgoing.payload,
    });
    let mut asked = asked.map_err(|Closed| PublishError::Closed)?;
    match asked.ending().await {
        Ok(Ending::Accepted) => Ok(()),
        Ok(Ending::Return { status, by, .. }) => Err(PublishError::Refused { by, status }),
        Ok(Ending::Reply(_) | Ending::Handled(_)) | Err(Closed) => Err(PublishError::Closed),
    }
}

/// Takes a handler back that the cell did not register.
struct Registering {
    side: Arc<JobSide>,
    selector: Selector,
    is_registered: bool,
}

impl Drop for Registering {
    fn drop(&mut self) {
        if !self.is_registered {
            self.side.remove_handler(&self.selector);
        }
    }
}

pub(super) async fn register(
    side: Arc<JobSide>,
    selector: Selector,
    handler: Arc<dyn Handler>,
) -> Result<(), HandleError> {
    let admission = admit(&side, 0).await.map_err(|Closed| HandleError::Closed)?;
    // Before the cell knows of it: a delivery may come ahead of the answer.
    if !side.add_handler(selector.clone(), handler) {
        return Err(HandleError::Taken(selector.to_string()));
    }
    let (channel, topic) = match &selector {
        Selector::Exact(target) => (Some(target.channel()), Some(target.topic().as_str().into())),
        Selector::Channel(channel) => (Some(channel), None),
        Selector::All => (None, None),
    };
    let channel = channel.map(|channel| channel.as_str().to_owned());
    let mut registering =
        Registering { side: Arc::clone(&side), selector: selector.clone(), is_registered: false };
    let asked = ask(&side, admission, |id| ToCell::Handle { id, channel, topic });
    let mut asked = asked.map_err(|Closed| HandleError::Closed)?;
    match asked.ending().await {
        Ok(Ending::Handled(Outcome::Registered)) => {
            registering.is_registered = true;
            Ok(())
        }
        Ok(Ending::Handled(Outcome::Taken)) => Err(HandleError::Taken(selector.to_string())),
        Ok(Ending::Handled(Outcome::Reserved | Outcome::BadSelector)) => {
            Err(HandleError::Reserved(selector.to_string()))
        }
        Ok(Ending::Handled(Outcome::TooMany)) => Err(HandleError::TooMany),
        Ok(Ending::Handled(Outcome::Closed)) | Err(Closed) => Err(HandleError::Closed),
        Ok(Ending::Reply(_) | Ending::Return { .. } | Ending::Accepted) => Err(HandleError::Closed),
    }
}

/// What the cell would refuse, or end the connection for.
fn check(side: &JobSide, outgoing: &Outgoing) -> Result<(), Status> {
    if outgoing.payload.len() > side.limits.payload_max as usize {
        return Err(Status::TooLarge);
    }
    match &outgoing.content_type {
        Some(text) if !is_content_type(text) => Err(Status::BadHeader),
        Some(_) | None => Ok(()),
    }
}

/// The right to send one frame, before all who asked later.
struct Admission<'a> {
    permits: Permits,
    room: Room,
    _turn: MutexGuard<'a, ()>,
}

/// Waits until the connection may carry one frame more.
async fn admit(side: &JobSide, payload: usize) -> Result<Admission<'_>, Closed> {
    let turn = side.turnstile.lock().await;
    let slot = Arc::clone(&side.slots).acquire_owned().await.map_err(|_| Closed)?;
    let bytes = u32::try_from(payload).expect("a payload is within its limit");
    let bytes = if bytes == 0 {
        None
    } else {
        let bytes = Arc::clone(&side.bytes).acquire_many_owned(bytes).await;
        Some(bytes.map_err(|_| Closed)?)
    };
    let room = side.outbox.reserve(payload).await?;
    Ok(Admission { permits: Permits { _slot: slot, _bytes: bytes }, room, _turn: turn })
}

fn ask(
    side: &Arc<JobSide>,
    admission: Admission<'_>,
    frame: impl FnOnce(u64) -> ToCell,
) -> Result<Asked, Closed> {
    let Admission { permits, room, _turn } = admission;
    let asked = side.ask(permits, |outbox, id| outbox.push(&frame(id), room)).ok_or(Closed)?;
    let (id, ended) = asked;
    Ok(Asked { side: Arc::clone(side), id, ended, is_over: false })
}

/// Rounded up: a budget that is not spent is not zero.
fn whole_millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
