//! Conduits that this cell opens.

use std::{sync::Arc, time::Duration};

use actix::Addr;
use bytes::Bytes;
use cellbus_channels::{
    Broken, Conduit, ConduitOptions, Outgoing, Reply, RequestError, conduit::pair::pair,
};
use cellbus_proto::{
    admission::Admitted,
    codec::{Octets, body},
    envelope::{Envelope, Flags, Kind, Lane},
    name::Fqcn,
    route::Hop,
    status::Status,
};

use super::{
    Asked, Bounds, Tie,
    answer::Queued,
    head::is_systems,
    relay, serve,
    tied::{Side, tied},
};
use crate::{
    cell::{check_outgoing, millis},
    clock,
    filter::{AuthFilter, Course, JudgeConduit, JudgeConduitAnswer, Onward},
    own::Own,
};

/// Bytes that a conduit within this process holds unread in each direction.
const LOCAL_WINDOW: usize = 1 << 20;

/// Sends a request whose stream stays open, and waits for its answer.
pub(crate) async fn open(
    own: Arc<Own>,
    to: Fqcn,
    outgoing: Outgoing,
    options: ConduitOptions,
) -> Result<(Reply, Conduit), RequestError> {
    let begun = clock::now();
    let bounds = own.conduits.bounds().ok_or(RequestError::Closed)?;
    let budget = outgoing.budget.unwrap_or(bounds.budget);
    let opened = opened(&own, bounds, &to, outgoing, options, budget).await;
    own.stats.asked(begun);
    match opened {
        Err(Unopened::Here(Status::Deadline)) => Err(RequestError::TimedOut { to, budget }),
        Err(Unopened::Here(status)) => Err(returned(&own.name, status)),
        Err(Unopened::There(error)) => Err(error),
        Ok(opened) => Ok(opened),
    }
}

/// Why there is no conduit.
enum Unopened {
    /// This cell says so.
    Here(Status),
    /// Another does.
    There(RequestError),
}

impl From<Status> for Unopened {
    fn from(status: Status) -> Self {
        Self::Here(status)
    }
}

fn returned(by: &Fqcn, status: Status) -> RequestError {
    RequestError::Returned { by: by.clone(), status, detail: Bytes::new() }
}

async fn opened(
    own: &Arc<Own>,
    bounds: Bounds,
    to: &Fqcn,
    outgoing: Outgoing,
    options: ConduitOptions,
    budget: Duration,
) -> Result<(Reply, Conduit), Unopened> {
    check_outgoing(&outgoing, bounds.payload_max)?;
    if is_systems(&outgoing.target) {
        return Err(Status::BadTarget.into());
    }
    let is_bare = !options.sealed && *to != own.name;
    if is_bare && own.protection.requires_seal(&outgoing.target) {
        return Err(Status::NotSealed.into());
    }
    if millis(budget) == 0 {
        return Err(Status::ExpiredInQueue.into());
    }
    let flags = if options.sealed { Flags::SEALED } else { Flags::default() };
    let outgoing = Outgoing { lane: Lane::Bulk, flags, ..outgoing };
    let sequence = own.next_sequence();
    let envelope = own.envelope(Kind::Request, sequence, to, &outgoing, millis(budget));
    let asked = Asked::of(&envelope.header);
    let judge = JudgeConduit { from: Hop::Local, envelope };
    let closed = |_ended| Unopened::There(RequestError::Closed);
    match bounds.filter.send(judge).await.map_err(closed)? {
        Course::Refused { back, status } => Err(match back {
            Some(back) => {
                own.counters.deliver();
                Unopened::There(failure(back.into_envelope(), status))
            }
            None => status.into(),
        }),
        Course::Here(admitted, tie) => within(own, &bounds.filter, *admitted, tie, asked).await,
        Course::Onward(onward) => {
            let conduit = body::Conduit {
                share: options.share.map(Octets),
                priority: options.priority,
                data: true,
            };
            beyond(own, &bounds.filter, *onward, conduit, asked).await
        }
    }
}

/// What an answer that is a return says.
fn failure(answer: Envelope, otherwise: Status) -> RequestError {
    match answer.header.kind {
        Kind::Return { status, by, .. } => {
            RequestError::Returned { by, status, detail: answer.payload }
        }
        Kind::Reply { .. } | Kind::Publish | Kind::Request => {
            returned(&answer.header.origin.name, otherwise)
        }
    }
}

/// To another cell.
async fn beyond(
    own: &Arc<Own>,
    filter: &Addr<AuthFilter>,
    onward: Onward,
    conduit: body::Conduit,
    asked: Asked,
) -> Result<(Reply, Conduit), Unopened> {
    let Onward { admitted, via, tie } = onward;
    let queued = Queued::new(own);
    let passed = relay::pass(own, admitted, queued, conduit, &via, &tie);
    let (stream, answer, rest) = passed.await?;
    let judge = JudgeConduitAnswer { from: Hop::Link(via.id()), answer, asked, to: Hop::Local };
    let judged = filter.send(judge).await;
    let judged = judged.map_err(|_ended| Unopened::There(RequestError::Closed))?;
    let answer = judged.map_err(|_refused| Unopened::Here(Status::PeerLost))?;
    own.counters.deliver();
    let reply = reply_of(answer.into_envelope())?;
    let (send, recv) = tied(stream, rest, &tie, Side::Down, Broken::Cancelled);
    Ok((reply, Conduit { send: Box::new(send), recv: Box::new(recv) }))
}

fn reply_of(answer: Envelope) -> Result<Reply, Unopened> {
    let content_type = answer.header.content_type().cloned();
    match answer.header.kind {
        Kind::Reply { .. } => Ok(Reply { payload: answer.payload, content_type }),
        Kind::Return { .. } | Kind::Publish | Kind::Request => {
            Err(Unopened::There(failure(answer, Status::PeerLost)))
        }
    }
}

/// To this cell itself.
async fn within(
    own: &Arc<Own>,
    filter: &Addr<AuthFilter>,
    admitted: Admitted,
    tie: Arc<Tie>,
    asked: Asked,
) -> Result<(Reply, Conduit), Unopened> {
    let decided = serve::decide(own, admitted, true).await;
    let (answer, serve) = decided.map_err(|(status, detail)| {
        let by = own.name.clone();
        Unopened::There(RequestError::Returned { by, status, detail })
    })?;
    let judge = JudgeConduitAnswer { from: Hop::Local, answer, asked, to: Hop::Local };
    let judged = filter.send(judge).await;
    let judged = judged.map_err(|_ended| Unopened::There(RequestError::Closed))?;
    let answer = judged?;
    own.counters.deliver();
    let reply = reply_of(answer.into_envelope())?;
    let (here, there, breaker) = pair(LOCAL_WINDOW);
    // Set once: the tie is new.
    let _ = tie.state.breaker.set(breaker);
    let own = Arc::clone(own);
    tokio::spawn(async move {
        serve::run(&own, serve, there).await;
        drop(tie);
    });
    Ok((reply, here))
}
