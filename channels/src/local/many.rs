//! What job code asks once and hears of more than once: messages to many cells, several replies, events.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use cellbus_proto::{
    envelope::Flags,
    local::{self, EventKind, NAMES_BYTES_MAX, NAMES_MAX, ToCell},
    name::Fqcn,
    status::Status,
};
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use super::{
    asking::{
        Asked, GRACE, accepted, admit, admit_message, ask, check, error_of, options, returned,
        unpack, whole_millis,
    },
    carry::Packed,
    job_side::{Ending, JobSide, Part, Parts},
    outbox::Closed,
};
use crate::{
    error::{PublishError, RequestError},
    events::{Event, JobChange},
    handler::Reply,
    transport::{BoxStream, OneOfMany, Outgoing},
};

/// Sends one message to many cells and gives one outcome for each.
pub(super) fn multicast(
    side: Arc<JobSide>,
    to: Vec<Fqcn>,
    outgoing: Outgoing,
) -> BoxStream<OneOfMany> {
    let groups = grouped(to).into_iter().map(|group| {
        let started = Started::new(Arc::clone(&side), group, outgoing.clone());
        stream::unfold(started, Started::next).boxed()
    });
    Box::pin(stream::select_all(groups))
}

/// Publishes one message to many cells; this cell has taken it.
pub(super) async fn publish_many(
    side: Arc<JobSide>,
    to: Vec<Fqcn>,
    outgoing: Outgoing,
) -> Result<(), PublishError> {
    let mut first = Ok(());
    for group in grouped(to) {
        let sent = send(&side, &group, &outgoing, true, false).await;
        let published = match sent {
            Ok((mut asked, _no_parts)) => accepted(asked.ending().await),
            Err(error) => Err(error.into()),
        };
        first = first.and(published);
    }
    first
}

/// As many names as one frame holds.
fn grouped(to: Vec<Fqcn>) -> Vec<Vec<Fqcn>> {
    let mut groups: Vec<Vec<Fqcn>> = Vec::new();
    let mut bytes = usize::MAX;
    for name in to {
        let len = name.as_str().len();
        bytes = bytes.saturating_add(len);
        let is_full = groups.last().is_none_or(|group| group.len() >= NAMES_MAX as usize);
        if is_full || bytes > NAMES_BYTES_MAX {
            groups.push(Vec::new());
            bytes = len;
        }
        groups.last_mut().expect("there is one now").push(name);
    }
    groups
}

async fn send(
    side: &Arc<JobSide>,
    to: &[Fqcn],
    outgoing: &Outgoing,
    publish: bool,
    takes_parts: bool,
) -> Result<(Asked, Option<Parts>), RequestError> {
    check(side, outgoing).map_err(|status| returned(side, status))?;
    let (admission, Packed { body, file }) = admit_message(side, outgoing).await?;
    let asked = ask(side, admission, file, takes_parts, |id| ToCell::Multicast {
        id,
        to: Some(to.iter().map(|name| name.as_str().to_owned()).collect()),
        channel: outgoing.target.channel().as_str().into(),
        topic: outgoing.target.topic().as_str().into(),
        publish,
        budget_ms: outgoing.budget.map(whole_millis),
        body,
        options: options(outgoing, false),
    });
    asked.map_err(|Closed| RequestError::Closed)
}

/// A message to many cells, from before it is sent to its last outcome.
struct Started {
    side: Arc<JobSide>,
    outgoing: Outgoing,
    budget: Duration,
    /// Those of which nothing was heard.
    left: BTreeSet<Fqcn>,
    sent: Option<(Asked, Parts)>,
    /// What the rest ends with.
    rest: Option<RequestError>,
}

impl Started {
    fn new(side: Arc<JobSide>, to: Vec<Fqcn>, outgoing: Outgoing) -> Self {
        let budget = outgoing.budget.unwrap_or(side.limits.budget());
        let left = to.into_iter().collect();
        Self { side, outgoing, budget, left, sent: None, rest: None }
    }

    async fn next(mut self) -> Option<(OneOfMany, Self)> {
        loop {
            if self.left.is_empty() {
                return None;
            }
            if let Some(error) = &self.rest {
                let error = error.clone();
                let to = self.left.pop_first()?;
                return Some(((to, Err(error)), self));
            }
            let Some((asked, parts)) = &mut self.sent else {
                let to: Vec<Fqcn> = self.left.iter().cloned().collect();
                let publish = self.outgoing.flags.contains(Flags::RECEIPT);
                match send(&self.side, &to, &self.outgoing, publish, true).await {
                    Ok((asked, Some(parts))) => self.sent = Some((asked, parts)),
                    Ok((_, None)) => self.rest = Some(RequestError::Closed),
                    Err(error) => self.rest = Some(error),
                }
                continue;
            };
            match parts.queue.recv().await {
                Some(Part::Reply { from, packed }) if self.left.remove(&from) => {
                    let outcome = unpack(&self.side, packed).await;
                    return Some(((from, outcome), self));
                }
                Some(Part::Failed { from, status, by, detail }) if self.left.remove(&from) => {
                    let returned = (status, by, detail);
                    let error = error_of(&self.side, from.clone(), self.budget, returned);
                    return Some(((from, Err(error)), self));
                }
                // Nothing that was asked for.
                Some(_) => {}
                None => {
                    self.rest = Some(match asked.ending().await {
                        Ok(Ending::Return { status, by, detail }) => {
                            RequestError::Returned { by, status, detail }
                        }
                        Ok(_) | Err(Closed) => RequestError::Closed,
                    });
                }
            }
        }
    }
}

/// Sends a request that takes several replies.
pub(super) fn replies(
    side: Arc<JobSide>,
    to: Fqcn,
    outgoing: Outgoing,
) -> BoxStream<Result<Reply, RequestError>> {
    let budget = outgoing.budget.unwrap_or(side.limits.budget());
    let until = Instant::now() + budget;
    let asking = Replying { side, to, outgoing, budget, until, sent: None };
    Box::pin(stream::unfold(Some(asking), |asking| async { asking?.next().await }))
}

struct Replying {
    side: Arc<JobSide>,
    to: Fqcn,
    outgoing: Outgoing,
    budget: Duration,
    until: Instant,
    sent: Option<(Asked, Parts)>,
}

type Next = (Result<Reply, RequestError>, Option<Replying>);

impl Replying {
    async fn next(mut self) -> Option<Next> {
        if self.sent.is_none() {
            match self.send().await {
                Ok(sent) => self.sent = Some(sent),
                Err(error) => return Some((Err(error), None)),
            }
        }
        let (asked, parts) = self.sent.as_mut()?;
        let end = async {
            loop {
                match parts.queue.recv().await {
                    Some(Part::Reply { packed, .. }) => return Ok(packed),
                    Some(_) => {}
                    None => return Err(asked.ending().await),
                }
            }
        };
        let (side, to, budget) = (Arc::clone(&self.side), self.to.clone(), self.budget);
        let ended = timeout_at(self.until + GRACE, end).await;
        let missed = parts.missed.load(Ordering::Relaxed) > 0;
        match ended {
            Ok(Ok(packed)) => Some((unpack(&side, packed).await, Some(self))),
            Err(_elapsed) => Some((Err(RequestError::TimedOut { to, budget }), None)),
            Ok(Err(_)) if missed => Some((Err(RequestError::SlowConsumer { from: to }), None)),
            Ok(Err(Ok(Ending::End))) => None,
            Ok(Err(Ok(Ending::Return { status: Status::SlowConsumer, .. }))) => {
                Some((Err(RequestError::SlowConsumer { from: to }), None))
            }
            Ok(Err(Ok(Ending::Return { status, by, detail }))) => {
                Some((Err(error_of(&side, to, budget, (status, by, detail))), None))
            }
            Ok(Err(Ok(_) | Err(Closed))) => Some((Err(RequestError::Closed), None)),
        }
    }

    async fn send(&self) -> Result<(Asked, Parts), RequestError> {
        let Self { side, to, outgoing, until, .. } = self;
        let refused = |status| returned(side, status);
        check(side, outgoing).map_err(refused)?;
        let admitted = timeout_at(*until, admit_message(side, outgoing)).await;
        let (admission, Packed { body, file }) =
            admitted.map_err(|_elapsed| refused(Status::ExpiredInQueue))??;
        let left = until.saturating_duration_since(Instant::now());
        let asked = ask(side, admission, file, true, |id| ToCell::Request {
            id,
            to: to.as_str().into(),
            channel: outgoing.target.channel().as_str().into(),
            topic: outgoing.target.topic().as_str().into(),
            budget_ms: Some(whole_millis(left)),
            body,
            options: options(outgoing, true),
        });
        let (asked, parts) = asked.map_err(|Closed| RequestError::Closed)?;
        Ok((asked, parts.ok_or(RequestError::Closed)?))
    }
}

/// What happens around the cell, from the first time that this is asked for it.
pub(super) fn events(side: Arc<JobSide>) -> BoxStream<Event> {
    let listening = Listening { side, sent: None, ready: VecDeque::new() };
    Box::pin(stream::unfold(listening, Listening::next))
}

struct Listening {
    side: Arc<JobSide>,
    sent: Option<(Asked, Parts)>,
    ready: VecDeque<Event>,
}

impl Listening {
    async fn next(mut self) -> Option<(Event, Self)> {
        if self.sent.is_none() {
            let admission = admit(&self.side, 0).await.ok()?;
            let asked = ask(&self.side, admission, None, true, |id| ToCell::Events { id });
            let (asked, parts) = asked.ok()?;
            self.sent = Some((asked, parts?));
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((event, self));
            }
            let (asked, parts) = self.sent.as_mut()?;
            let Some(part) = parts.queue.recv().await else {
                let _ended = asked.ending().await;
                return None;
            };
            if let Part::Event(event) = part {
                self.ready.extend(from_wire(event));
            }
            match parts.missed.swap(0, Ordering::Relaxed) {
                0 => {}
                missed => self.ready.push_back(Event::Lagged(missed)),
            }
        }
    }
}

fn from_wire(event: local::Event) -> Option<Event> {
    let local::Event { kind, cell, missed, detail, .. } = event;
    if kind == EventKind::Lagged {
        return Some(Event::Lagged(missed));
    }
    let cell = cell?;
    let job = |cell, change| Event::Job { cell, change };
    Some(match kind {
        EventKind::LinkUp => Event::LinkUp(cell),
        EventKind::LinkDown => Event::LinkDown(cell),
        EventKind::CellUp => Event::CellUp(cell),
        EventKind::CellDown => Event::CellDown(cell),
        EventKind::JobStarted => job(cell, JobChange::Started),
        EventKind::JobCompleted => job(cell, JobChange::Completed),
        EventKind::JobFailed => job(cell, JobChange::Failed(text(&detail))),
        EventKind::Lagged => Event::Lagged(missed),
    })
}

fn text(detail: &Bytes) -> String {
    String::from_utf8_lossy(detail).into_owned()
}
