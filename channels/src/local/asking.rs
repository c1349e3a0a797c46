//! Requests, publishes and registrations of job code, from admission to their one end.

use std::{fs::File, num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    envelope::{Flags, Lane},
    local::{HEADERS_MAX, MessageFlags, MessageOptions, Outcome, ToCell, is_content_type},
    name::Fqcn,
    status::{Class, Status},
};
use tokio::{
    sync::{MutexGuard, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    carry::{ATTACH_FROM, Packed, pieces},
    job_side::{Ending, JobSide, Parts, Permits},
    outbox::{Closed, Room},
};
use crate::{
    error::{HandleError, PublishError, RequestError},
    handler::{Handler, HandlerOptions, Reply, Selector},
    transport::{Outgoing, Rare},
};

/// How much longer than the budget job code waits for its cell to say how the request ended; the cell itself
/// waits for less.
pub(super) const GRACE: Duration = Duration::from_millis(225);

/// What stands between asking and the answer; asks the cell to stop when dropped before it.
#[derive(Debug)]
pub(super) struct Asked {
    side: Arc<JobSide>,
    id: u64,
    ended: oneshot::Receiver<Ending>,
    is_over: bool,
}

impl Asked {
    pub(super) async fn ending(&mut self) -> Result<Ending, Closed> {
        let ending = (&mut self.ended).await;
        self.is_over = true;
        ending.map_err(|_| Closed)
    }

    /// Asks the cell to end it; the end still comes.
    pub(super) fn cancel(&self) {
        self.side.give_up(self.id);
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
    let refused = |status| returned(&side, status);
    check(&side, &outgoing).map_err(refused)?;
    let admitted = timeout_at(started + budget, admit_message(&side, &outgoing)).await;
    let (admission, packed) = admitted.map_err(|_elapsed| refused(Status::ExpiredInQueue))??;
    let left = budget.saturating_sub(started.elapsed());
    let (options, target) = (options(&outgoing, false), outgoing.target);
    let Packed { body, file } = packed;
    let asked = ask(&side, admission, file, false, |id| ToCell::Request {
        id,
        to: to.as_str().into(),
        channel: target.channel().as_str().into(),
        topic: target.topic().as_str().into(),
        budget_ms: Some(whole_millis(left)),
        body,
        options,
    });
    let (mut asked, _no_parts) = asked.map_err(|Closed| RequestError::Closed)?;
    match timeout_at(started + budget + GRACE, asked.ending()).await {
        Err(_elapsed) => Err(RequestError::TimedOut { to, budget }),
        Ok(Err(Closed)) => Err(RequestError::Closed),
        Ok(Ok(Ending::Reply(packed))) => unpack(&side, packed).await,
        Ok(Ok(Ending::Return { status, by, detail })) => {
            Err(error_of(&side, to, budget, (status, by, detail)))
        }
        // The wrong kind of answer, from a cell that does not keep to the protocol.
        Ok(Ok(Ending::Accepted | Ending::Handled(_) | Ending::End | Ending::Fetched { .. })) => {
            Err(RequestError::Closed)
        }
    }
}

pub(super) async fn publish(
    side: Arc<JobSide>,
    to: Fqcn,
    outgoing: Outgoing,
) -> Result<(), PublishError> {
    let refused = |status| PublishError::Refused { by: side.cell.clone(), status };
    check(&side, &outgoing).map_err(refused)?;
    let (admission, Packed { body, file }) =
        admit_message(&side, &outgoing).await.map_err(PublishError::from)?;
    let (options, target) = (options(&outgoing, false), outgoing.target);
    let asked = ask(&side, admission, file, false, |id| ToCell::Publish {
        id,
        to: to.as_str().into(),
        channel: target.channel().as_str().into(),
        topic: target.topic().as_str().into(),
        body,
        options,
    });
    let (mut asked, _no_parts) = asked.map_err(|Closed| PublishError::Closed)?;
    accepted(asked.ending().await)
}

/// How a publish ended.
pub(super) fn accepted(ending: Result<Ending, Closed>) -> Result<(), PublishError> {
    match ending {
        Ok(Ending::Accepted) => Ok(()),
        Ok(Ending::Return { status, by, detail }) => match status.class() {
            Class::Refused => Err(PublishError::Refused { by, status }),
            Class::Unknown | Class::Failed => {
                Err(PublishError::NoReceipt(RequestError::Returned { by, status, detail }))
            }
        },
        Ok(_wrong_kind) => Err(PublishError::Closed),
        Err(Closed) => Err(PublishError::Closed),
    }
}

/// What a RETURN means to whoever asked.
pub(super) fn error_of(
    side: &JobSide,
    to: Fqcn,
    budget: Duration,
    (status, by, detail): (Status, Fqcn, Bytes),
) -> RequestError {
    if status == Status::Deadline && by == side.cell {
        return RequestError::TimedOut { to, budget };
    }
    RequestError::Returned { by, status, detail }
}

/// Refused before anything was sent.
pub(super) fn returned(side: &JobSide, status: Status) -> RequestError {
    RequestError::Returned { by: side.cell.clone(), status, detail: Bytes::new() }
}

/// A reply in memory. The work has been done, whatever becomes of it here.
pub(super) async fn unpack(side: &JobSide, packed: Packed) -> Result<Reply, RequestError> {
    let content_type = packed.body.content_type.clone();
    let payload = packed.unpack().await.map_err(|error| RequestError::Returned {
        by: side.cell.clone(),
        status: Status::HandlerFailed,
        detail: Bytes::from(format!("the reply cannot be read: {error}")),
    })?;
    Ok(Reply { payload, content_type })
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
    options: HandlerOptions,
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
    let concurrency = (options.concurrency != NonZeroU32::MIN).then_some(options.concurrency);
    let asked =
        ask(&side, admission, None, false, |id| ToCell::Handle { id, channel, topic, concurrency });
    let (mut asked, _no_parts) = asked.map_err(|Closed| HandleError::Closed)?;
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
        Ok(
            Ending::Reply(_)
            | Ending::Return { .. }
            | Ending::Accepted
            | Ending::End
            | Ending::Fetched { .. },
        ) => Err(HandleError::Closed),
    }
}

/// What the cell would refuse, or end the connection for.
pub(super) fn check(side: &JobSide, outgoing: &Outgoing) -> Result<(), Status> {
    let headers = outgoing.rare.as_ref().map_or(0, |rare| rare.headers.len());
    if outgoing.payload.len() as u64 > side.limits.attachment_max || headers > HEADERS_MAX {
        return Err(Status::TooLarge);
    }
    match &outgoing.content_type {
        Some(text) if !is_content_type(text) => Err(Status::BadHeader),
        Some(_) | None => Ok(()),
    }
}

/// What the sender asks for, as it stands in a frame.
pub(super) fn options(outgoing: &Outgoing, takes_many: bool) -> Option<Box<MessageOptions>> {
    const SAME: [(Flags, MessageFlags); 5] = [
        (Flags::OPTIONAL, MessageFlags::OPTIONAL),
        (Flags::IDEMPOTENT, MessageFlags::IDEMPOTENT),
        (Flags::SEALED, MessageFlags::SEALED),
        (Flags::RECEIPT, MessageFlags::RECEIPT),
        (Flags::BATCH, MessageFlags::BATCH),
    ];
    let mut flags = MessageFlags::default();
    for (flag, same) in SAME {
        if outgoing.flags.contains(flag) {
            flags = flags.with(same);
        }
    }
    if outgoing.lane == Lane::Bulk {
        flags = flags.with(MessageFlags::BULK);
    }
    if takes_many {
        flags = flags.with(MessageFlags::MANY);
    }
    let Rare { headers, trace, retry } = outgoing.rare.as_deref().cloned().unwrap_or_default();
    let options = MessageOptions { flags, retry, trace, headers };
    (options != MessageOptions::default()).then(|| Box::new(options))
}

/// The right to send one frame, before all who asked later.
pub(super) struct Admission<'a> {
    permits: Permits,
    room: Room,
    _turn: MutexGuard<'a, ()>,
}

/// Waits until the connection may carry this message, and makes a file of it where it is large.
///
/// # Errors
/// [`RequestError::Closed`], or that there is no memory for it.
pub(super) async fn admit_message<'a>(
    side: &'a JobSide,
    outgoing: &Outgoing,
) -> Result<(Admission<'a>, Packed), RequestError> {
    let len = outgoing.payload.len();
    let inline_max = ATTACH_FROM.min(side.limits.payload_max as usize);
    // Before the turn: small messages do not wait for the room of a large one.
    let attached = match len > inline_max {
        true => {
            let pieces = pieces(len as u64, side.limits.attached_max);
            let permit = Arc::clone(&side.attached).acquire_many_owned(pieces).await;
            Some(permit.map_err(|_closed| RequestError::Closed)?)
        }
        false => None,
    };
    let packed =
        Packed::pack(outgoing.payload.clone(), outgoing.content_type.clone(), inline_max).await;
    let packed = packed.map_err(|error| RequestError::Returned {
        by: side.cell.clone(),
        status: Status::StorageFull,
        detail: Bytes::from(format!("no memory file for the payload: {error}")),
    })?;
    let admitted = admit(side, packed.body.payload.len()).await;
    let mut admission = admitted.map_err(|Closed| RequestError::Closed)?;
    admission.permits._attached = attached;
    Ok((admission, packed))
}

/// Waits until the connection may carry one frame more.
pub(super) async fn admit(side: &JobSide, payload: usize) -> Result<Admission<'_>, Closed> {
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
    let permits = Permits { _slot: slot, _bytes: bytes, _attached: None };
    Ok(Admission { permits, room, _turn: turn })
}

pub(super) fn ask(
    side: &Arc<JobSide>,
    admission: Admission<'_>,
    file: Option<File>,
    takes_parts: bool,
    frame: impl FnOnce(u64) -> ToCell,
) -> Result<(Asked, Option<Parts>), Closed> {
    let Admission { permits, room, _turn } = admission;
    let asked = side.ask(permits, takes_parts, |outbox, id| outbox.push(&frame(id), file, room));
    let (id, ended, parts) = asked.ok_or(Closed)?;
    Ok((Asked { side: Arc::clone(side), id, ended, is_over: false }, parts))
}

/// Rounded up: a budget that is not spent is not zero.
pub(super) fn whole_millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}
