//! Doing what the frames of job code ask for.

use std::{fs::File, future::Future, sync::Arc, task::Poll};

use cellbus_channels::{
    BoxFuture, HandlerOptions, Selector,
    local::{carry::Packed, outbox::Closed},
};
use cellbus_proto::{
    local::{Registration, Step, ToJob},
    status::Status,
};
use futures_util::poll;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    task::JoinSet,
};

use super::{
    around,
    asked::{self, Message, handled, refused},
    files,
    forward::Forward,
    link::{Answered, Link, OnCancel, Ticket, Waiting},
};

/// The frame that ends what job code has asked.
pub(super) struct End {
    pub(super) frame: ToJob,
    pub(super) file: Option<File>,
    /// The place of the file, until the frame is queued.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

impl End {
    pub(super) fn new(frame: ToJob) -> Self {
        Self { frame, file: None, _permit: None }
    }
}

pub(super) async fn act(
    link: &Arc<Link>,
    tasks: &mut JoinSet<()>,
    step: Step<Waiting>,
    file: Option<File>,
) -> Result<(), Closed> {
    const DEADLINE: OnCancel = OnCancel::Return(Status::Deadline);
    match step {
        Step::Request { id, to, target, budget, body, options } => {
            let packed = Packed { body, file };
            let message = Message { target, budget, packed, options };
            let work = asked::request(Arc::clone(link), id, to, message);
            start(link, tasks, id, DEADLINE, work).await
        }
        Step::Publish { id, to, target, body, options } => {
            let (budget, packed) = (link.limits.budget(), Packed { body, file });
            let message = Message { target, budget, packed, options };
            let work = asked::publish(Arc::clone(link), id, to, message);
            start(link, tasks, id, DEADLINE, work).await
        }
        Step::Multicast { id, to, target, publish, budget, body, options } => {
            let packed = Packed { body, file };
            let message = Message { target, budget, packed, options };
            let work = asked::multicast(Arc::clone(link), id, to, publish, message);
            start(link, tasks, id, DEADLINE, work).await
        }
        Step::Handle { id, registration, concurrency } => {
            let task_link = Arc::clone(link);
            let work = async move {
                let handler = Forward(Arc::clone(&task_link));
                let options = HandlerOptions::concurrent(concurrency.get());
                let selector = selector(registration);
                let outcome = task_link.bus.handle_with(selector, options, handler).await;
                if outcome.is_err() {
                    task_link.forget_handler();
                }
                handled(id, outcome)
            };
            start(link, tasks, id, DEADLINE, work).await
        }
        Step::Events { id } => {
            let work = around::events(Arc::clone(link), id);
            start(link, tasks, id, OnCancel::End, work).await
        }
        Step::Serve { id, serve } => {
            let stop = Arc::<Notify>::default();
            let work = files::serve(Arc::clone(link), id, serve, file, Arc::clone(&stop));
            start(link, tasks, id, OnCancel::Tell(stop), work).await
        }
        Step::Fetch { id, reference, size_max, patience } => {
            let work = files::fetch(Arc::clone(link), id, reference, size_max, patience);
            let on_cancel = OnCancel::Return(Status::TransferCancelled);
            start(link, tasks, id, on_cancel, work).await
        }
        Step::Refuse { id, status } => link.outbox.send(refused(link, id, status).frame).await,
        Step::RefuseHandler { id, outcome } => {
            link.outbox.send(ToJob::Handled { id, outcome }).await
        }
        Step::Part { id, body } => {
            // Fails, as below, where the requester has given up; then the answer is for nobody.
            if let Some(answers) = link.answers(id) {
                let _ = answers.send(Answered::Part(body, file)).await;
            }
            Ok(())
        }
        Step::Answered { ticket, answer } => {
            let _ = ticket.answers.send(Answered::End(answer, file)).await;
            Ok(())
        }
        Step::Cancel { id } => match link.cancel(id) {
            Some(OnCancel::Return(status)) => {
                link.outbox.send(refused(link, id, status).frame).await
            }
            Some(OnCancel::End) => link.outbox.send(ToJob::End { id }).await,
            Some(OnCancel::Tell(_)) | None => Ok(()),
        },
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
    on_cancel: OnCancel,
    work: impl Future<Output = End> + Send + 'static,
) -> Result<(), Closed> {
    let mut work: BoxFuture<End> = Box::pin(work);
    if let Poll::Ready(End { frame, file, _permit }) = poll!(&mut work) {
        return link.finish(id, frame, file).await;
    }
    while tasks.try_join_next().is_some() {}
    let task_link = Arc::clone(link);
    let task = tasks.spawn(async move {
        let End { frame, file, _permit } = work.await;
        // Fails where the connection has ended; then nobody waits for the answer.
        let _ = task_link.finish(id, frame, file).await;
    });
    link.attach(id, Ticket { task, on_cancel });
    Ok(())
}

fn selector(registration: Registration) -> Selector {
    match registration {
        Registration::Exact(target) => Selector::Exact(target),
        Registration::Channel(channel) => Selector::Channel(channel),
        Registration::All => Selector::All,
    }
}
