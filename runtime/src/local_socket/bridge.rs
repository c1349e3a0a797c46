//! One connection after its HELLO: frames of job code become operations on the cell's bus.

use std::{future::Future, io, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use cellbus_channels::{
    BoxFuture, Bus, HandleError, PublishError, Reply, RequestError, Selector,
    local::{
        inbox::{Inbox, InboxError},
        outbox::{Closed, Outbox},
    },
};
use cellbus_proto::{
    local::{
        DETAIL_MAX, Limits, Outcome, Registration, Step, ToCell, ToJob, Welcome, is_content_type,
    },
    name::Fqcn,
    status::Status,
};
use futures_util::poll;
use tokio::{net::unix::OwnedReadHalf, task::JoinSet, time::timeout};

use super::{
    Ended, Options,
    arrival::{Admitted, Socket},
    forward::{Forward, from_wire},
    link::Link,
};

/// Silence within a frame that ends the connection.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Bytes that wait for job code to read them, at most, before senders wait.
const OUTBOX_BYTES: usize = 4 << 20;
/// Time for the last frames to be written, and the last to be read, when the connection ends.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Also when the future of the conversation is dropped.
struct CloseOnDrop(Arc<Link>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

pub(super) async fn converse(admitted: Admitted, bus: Bus, options: Options) -> Ended {
    let Admitted { version, socket: Socket { mut inbox, mut write } } = admitted;
    let Options { limits, job, .. } = options;
    inbox.set_payload_max(limits.payload_max);
    inbox.set_silence_max(SILENCE_MAX);
    let (outbox, mut drain) = Outbox::new(OUTBOX_BYTES);
    let link = Arc::new(Link::new(bus.clone(), limits, outbox.clone()));
    let closing = CloseOnDrop(Arc::clone(&link));
    outbox.push_small(&ToJob::Welcome(Welcome { version, cell: bus.name(), job, limits }));

    let mut tasks = JoinSet::new();
    let mut writing = pin!(drain.run(&mut write));
    let mut reading = Box::pin(read(&link, &mut inbox, &mut tasks));
    let (ended, can_write) = tokio::select! {
        ended = &mut reading => (ended, true),
        () = bus.closed() => (Ended::CellClosed, true),
        // Job code may have said goodbye and closed; its last words are still to be read.
        _failed = &mut writing => {
            outbox.close();
            (timeout(FAREWELL_MAX, &mut reading).await.unwrap_or(Ended::Gone), false)
        }
    };
    drop(reading);
    drop(closing);
    drop(tasks);
    if can_write {
        outbox.push_last(&ToJob::Bye { status: farewell(ended) });
        let _: Result<io::Result<()>, _> = timeout(FAREWELL_MAX, writing).await;
    }
    ended
}

fn farewell(ended: Ended) -> Option<Status> {
    match ended {
        Ended::Violation(status) => Some(status),
        Ended::CellClosed => Some(Status::ShuttingDown),
        Ended::Unclaimed | Ended::Finished | Ended::Gone => None,
    }
}

async fn read(
    link: &Arc<Link>,
    inbox: &mut Inbox<ToCell, OwnedReadHalf>,
    tasks: &mut JoinSet<()>,
) -> Ended {
    loop {
        let frame = match inbox.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(InboxError::Io(_) | InboxError::Truncated) => return Ended::Gone,
            Err(error @ (InboxError::Decode(_) | InboxError::Silent)) => {
                tracing::debug!(%error, cell = %link.cell, "job code broke the protocol");
                return Ended::Violation(error.status().unwrap_or(Status::BadFrame));
            }
        };
        let step = match link.handle_frame(frame) {
            Ok(Step::Bye) => return Ended::Finished,
            Ok(step) => step,
            Err(violation) => {
                tracing::debug!(%violation, cell = %link.cell, "job code broke the protocol");
                return Ended::Violation(violation.status());
            }
        };
        // Waits while job code does not read: then nothing more is read from it either.
        if act(link, tasks, step).await == Err(Closed) {
            return Ended::Gone;
        }
    }
}

async fn act(
    link: &Arc<Link>,
    tasks: &mut JoinSet<()>,
    step: Step<super::link::Waiting>,
) -> Result<(), Closed> {
    match step {
        Step::Request { id, to, target, budget, content_type, payload } => {
            let mut message = link.bus.request(to, target).payload(payload).budget(budget);
            if let Some(content_type) = &content_type {
                message = message.content_type(content_type);
            }
            let (cell, limits) = (link.cell.clone(), link.limits);
            let work = async move { replied(id, &cell, limits, message.send().await) };
            start(link, tasks, id, work).await
        }
        Step::Publish { id, to, target, content_type, payload } => {
            let mut message = link.bus.request(to, target).payload(payload);
            if let Some(content_type) = &content_type {
                message = message.content_type(content_type);
            }
            let cell = link.cell.clone();
            let work = async move { published(id, &cell, message.publish().await) };
            start(link, tasks, id, work).await
        }
        Step::Handle { id, registration } => {
            let task_link = Arc::clone(link);
            let work = async move {
                let handler = Forward(Arc::clone(&task_link));
                let outcome = task_link.bus.handle(selector(registration), handler).await;
                if outcome.is_err() {
                    task_link.forget_handler();
                }
                handled(id, outcome)
            };
            start(link, tasks, id, work).await
        }
        Step::Refuse { id, status } => {
            let by = link.cell.clone();
            link.outbox.send(ToJob::Return { id, status, by, detail: Bytes::new() }).await
        }
        Step::RefuseHandler { id, outcome } => {
            link.outbox.send(ToJob::Handled { id, outcome }).await
        }
        Step::Answered { ticket, answer } => {
            // Fails where the requester has given up; then the answer is for nobody.
            let _ = ticket.answer.send(from_wire(answer));
            Ok(())
        }
        Step::Cancel { id } => {
            if !link.abort(id) {
                return Ok(());
            }
            let (status, by) = (Status::Deadline, link.cell.clone());
            link.outbox.send(ToJob::Return { id, status, by, detail: Bytes::new() }).await
        }
        Step::Pong { token } => link.outbox.send(ToJob::Pong { token }).await,
        Step::Nothing | Step::Bye => Ok(()),
    }
}

/// Begins `work` here, so that messages reach the bus in the order in which they came, and leaves the
/// rest of it to a task.
async fn start(
    link: &Arc<Link>,
    tasks: &mut JoinSet<()>,
    id: u64,
    work: impl Future<Output = ToJob> + Send + 'static,
) -> Result<(), Closed> {
    let mut work: BoxFuture<ToJob> = Box::pin(work);
    if let Poll::Ready(frame) = poll!(&mut work) {
        return link.finish(id, frame).await;
    }
    while tasks.try_join_next().is_some() {}
    let task_link = Arc::clone(link);
    let task = tasks.spawn(async move {
        let frame = work.await;
        // Fails where the connection has ended; then nobody waits for the answer.
        let _ = task_link.finish(id, frame).await;
    });
    link.attach(id, task);
    Ok(())
}

fn replied(id: u64, cell: &Fqcn, limits: Limits, outcome: Result<Reply, RequestError>) -> ToJob {
    let returned = |status, by: &Fqcn, mut detail: Bytes| {
        detail.truncate(DETAIL_MAX);
        ToJob::Return { id, status, by: by.clone(), detail }
    };
    match outcome {
        Ok(Reply { payload, content_type }) => {
            let max = limits.payload_max as usize;
            if payload.len() > max {
                // The work has been done; a status that says otherwise would be a lie.
                let text = format!("the reply has {} bytes, the limit is {max}", payload.len());
                return returned(Status::HandlerFailed, cell, text.into());
            }
            let content_type = content_type.filter(|text| is_content_type(text));
            ToJob::Reply { id, content_type, payload }
        }
        Err(RequestError::Returned { by, status, detail }) => returned(status, &by, detail),
        Err(RequestError::TimedOut { .. }) => returned(Status::Deadline, cell, Bytes::new()),
        Err(_closed) => returned(Status::AbortedRunning, cell, Bytes::new()),
    }
}

fn published(id: u64, cell: &Fqcn, outcome: Result<(), PublishError>) -> ToJob {
    let (status, by) = match outcome {
        Ok(()) => return ToJob::Accepted { id },
        Err(PublishError::Refused { by, status }) => (status, by),
        Err(_closed) => (Status::ShuttingDown, cell.clone()),
    };
    ToJob::Return { id, status, by, detail: Bytes::new() }
}

fn handled(id: u64, outcome: Result<(), HandleError>) -> ToJob {
    let outcome = match outcome {
        Ok(()) => Outcome::Registered,
        Err(HandleError::Taken(_)) => Outcome::Taken,
        Err(HandleError::Reserved(_)) => Outcome::Reserved,
        Err(HandleError::TooMany) => Outcome::TooMany,
        Err(_closed) => Outcome::Closed,
    };
    ToJob::Handled { id, outcome }
}

fn selector(registration: Registration) -> Selector {
    match registration {
        Registration::Exact(target) => Selector::Exact(target),
        Registration::Channel(channel) => Selector::Channel(channel),
        Registration::All => Selector::All,
    }
}
