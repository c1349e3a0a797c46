//! One connection to a job cell, as a transport.

use std::{io, pin::pin, sync::Arc, time::Duration};

use cellbus_proto::{
    local::{ToCell, ToJob, Welcome},
    name::Fqcn,
    status::Status,
};
use tokio::{net::unix::OwnedWriteHalf, time::timeout};

use super::{
    asking, deliver,
    files::Files,
    inbox::{Inbox, InboxError, Received},
    job_side::{JobSide, Unasked},
    many,
    outbox::{Closed, Drain, Outbox},
};
use crate::{
    error::{HandleError, PublishError, RequestError},
    events::Event,
    filter::Filters,
    handler::{Handler, HandlerOptions, Reply, Selector},
    passage,
    transport::{BoxFuture, BoxStream, OneOfMany, Outgoing, Probe, Transport},
};

/// Bytes that wait to be written, at most, before senders wait.
const OUTBOX_BYTES: usize = 4 << 20;
/// Time for the last frames to be written when the connection ends.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Speaks for a job cell from another process.
pub(super) struct LocalTransport {
    side: Arc<JobSide>,
}

impl LocalTransport {
    pub(super) fn start(welcome: Welcome, inbox: Inbox<ToJob>, socket: OwnedWriteHalf) -> Self {
        let (outbox, drain) = Outbox::new(OUTBOX_BYTES);
        let side = Arc::new(JobSide::new(welcome.cell, welcome.limits, outbox));
        tokio::spawn(converse(Arc::clone(&side), inbox, drain, socket));
        Self { side }
    }
}

/// Also when the runtime drops the task that holds it.
struct CloseOnDrop(Arc<JobSide>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn converse(
    side: Arc<JobSide>,
    mut inbox: Inbox<ToJob>,
    mut drain: Drain,
    mut socket: OwnedWriteHalf,
) {
    let closing = CloseOnDrop(Arc::clone(&side));
    let mut writing = pin!(drain.run(&mut socket));
    let end = tokio::select! {
        end = read(&side, &mut inbox) => end,
        // The bus is gone and has said goodbye, or the socket has failed.
        _written = &mut writing => return,
    };
    drop(closing);
    if let Err(status) = end {
        side.outbox.push_last(&ToCell::Bye { status: Some(status) });
        let _: Result<io::Result<()>, _> = timeout(FAREWELL_MAX, writing).await;
    }
}

/// Takes frames until there are no more; the error is what the cell did wrong.
async fn read(side: &Arc<JobSide>, inbox: &mut Inbox<ToJob>) -> Result<(), Status> {
    loop {
        let Received { frame, file } = match inbox.next().await {
            Ok(Some(received)) => received,
            Ok(None) | Err(InboxError::Io(_) | InboxError::Truncated) => return Ok(()),
            Err(error) => return Err(error.status().unwrap_or(Status::BadFrame)),
        };
        let (frame, file) = match side.settle(frame, file) {
            Ok(None) => continue,
            Err(Unasked) => return Err(Status::ReplyUnsolicited),
            Ok(Some(unsettled)) => unsettled,
        };
        match frame {
            ToJob::Deliver(delivery) => deliver::deliver(side, delivery, file),
            ToJob::Cancel { id } => side.cancel_delivery(id),
            ToJob::Ping { token } => {
                // Fails when the bus is gone; its goodbye is being written, and ends this.
                let _: Result<(), Closed> = side.outbox.send(ToCell::Pong { token }).await;
            }
            ToJob::Pong { .. } => {}
            ToJob::Bye { .. } => return Ok(()),
            // A second greeting; everything else has settled something.
            ToJob::Welcome(_)
            | ToJob::Reject { .. }
            | ToJob::Reply { .. }
            | ToJob::Return { .. }
            | ToJob::Accepted { .. }
            | ToJob::Handled { .. }
            | ToJob::Part { .. }
            | ToJob::PartFailed { .. }
            | ToJob::End { .. }
            | ToJob::Event(_)
            | ToJob::Served { .. }
            | ToJob::Progress { .. }
            | ToJob::Settled { .. }
            | ToJob::Fetched { .. } => return Err(Status::BadFrame),
        }
    }
}

impl Transport for LocalTransport {
    fn name(&self) -> Fqcn {
        self.side.cell.clone()
    }

    fn request(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<Reply, RequestError>> {
        Box::pin(asking::request(Arc::clone(&self.side), to, outgoing))
    }

    fn publish(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<(), PublishError>> {
        Box::pin(asking::publish(Arc::clone(&self.side), to, outgoing))
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn replies(&self, to: Fqcn, outgoing: Outgoing) -> BoxStream<Result<Reply, RequestError>> {
        many::replies(Arc::clone(&self.side), to, outgoing)
    }

    fn multicast(&self, to: Vec<Fqcn>, outgoing: Outgoing) -> BoxStream<OneOfMany> {
        many::multicast(Arc::clone(&self.side), to, outgoing)
    }

    fn publish_many(
        &self,
        to: Vec<Fqcn>,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), PublishError>> {
        Box::pin(many::publish_many(Arc::clone(&self.side), to, outgoing))
    }

    /// The way of a message is between cells; job code does not see it.
    fn probe(&self, _to: Fqcn, _outgoing: Outgoing) -> BoxFuture<Probe> {
        let outcome = Err(passage::not_carried(&self.side.cell));
        Box::pin(std::future::ready(Probe { path: Vec::new(), outcome }))
    }

    fn events(&self) -> BoxStream<Event> {
        many::events(Arc::clone(&self.side))
    }

    fn files(&self) -> Option<Files> {
        Some(Files::new(Arc::clone(&self.side)))
    }

    fn filters(&self) -> Filters {
        self.side.filters.clone()
    }

    fn register(
        &self,
        selector: Selector,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        self.register_with(selector, HandlerOptions::default(), handler)
    }

    fn register_with(
        &self,
        selector: Selector,
        options: HandlerOptions,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        Box::pin(asking::register(Arc::clone(&self.side), selector, options, handler))
    }

    fn closed(&self) -> BoxFuture<()> {
        let side = Arc::clone(&self.side);
        Box::pin(async move { side.closed().await })
    }

    fn finish(&self, patience: Duration) -> BoxFuture<bool> {
        let side = Arc::clone(&self.side);
        Box::pin(async move {
            let is_answered = timeout(patience, side.finish()).await.unwrap_or(false);
            side.outbox.push_last(&ToCell::Bye { status: None });
            // It closes when that is written.
            let _ = timeout(FAREWELL_MAX, side.closed()).await;
            side.close();
            is_answered
        })
    }
}

impl Drop for LocalTransport {
    fn drop(&mut self) {
        self.side.outbox.push_last(&ToCell::Bye { status: None });
        self.side.close();
    }
}
