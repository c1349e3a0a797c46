//! One connection to a job cell, as a transport.

use std::{io, pin::pin, sync::Arc, time::Duration};

use cellbus_proto::{
    local::{ToCell, ToJob, Welcome},
    name::Fqcn,
    status::Status,
};
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    time::timeout,
};

use super::{
    asking, deliver,
    inbox::{Inbox, InboxError},
    job_side::{JobSide, Unasked},
    outbox::{Closed, Drain, Outbox},
};
use crate::{
    error::{HandleError, PublishError, RequestError},
    filter::Filters,
    handler::{Handler, Reply, Selector},
    transport::{BoxFuture, Outgoing, Transport},
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
    pub(super) fn start(
        welcome: Welcome,
        inbox: Inbox<ToJob, OwnedReadHalf>,
        socket: OwnedWriteHalf,
    ) -> Self {
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
    mut inbox: Inbox<ToJob, OwnedReadHalf>,
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
async fn read(side: &Arc<JobSide>, inbox: &mut Inbox<ToJob, OwnedReadHalf>) -> Result<(), Status> {
    loop {
        let frame = match inbox.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(InboxError::Io(_) | InboxError::Truncated) => return Ok(()),
            Err(error @ (InboxError::Decode(_) | InboxError::Silent)) => {
                return Err(error.status().unwrap_or(Status::BadFrame));
            }
        };
        match side.settle(frame) {
            Ok(None) => {}
            Err(Unasked) => return Err(Status::ReplyUnsolicited),
            Ok(Some(ToJob::Deliver(delivery))) => deliver::deliver(side, delivery),
            Ok(Some(ToJob::Cancel { id })) => side.cancel_delivery(id),
            Ok(Some(ToJob::Ping { token })) => {
                if side.outbox.send(ToCell::Pong { token }).await == Err(Closed) {
                    return Ok(());
                }
            }
            Ok(Some(ToJob::Pong { .. })) => {}
            Ok(Some(ToJob::Bye { .. })) => return Ok(()),
            Ok(Some(
                ToJob::Welcome(_)
                | ToJob::Reject { .. }
                | ToJob::Reply { .. }
                | ToJob::Return { .. }
                | ToJob::Accepted { .. }
                | ToJob::Handled { .. },
            )) => return Err(Status::BadFrame),
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

    fn filters(&self) -> Filters {
        self.side.filters.clone()
    }

    fn register(
        &self,
        selector: Selector,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        Box::pin(asking::register(Arc::clone(&self.side), selector, handler))
    }

    fn closed(&self) -> BoxFuture<()> {
        let side = Arc::clone(&self.side);
        Box::pin(async move { side.closed().await })
    }
}

impl Drop for LocalTransport {
    fn drop(&mut self) {
        self.side.outbox.push_last(&ToCell::Bye { status: None });
        self.side.close();
    }
}
