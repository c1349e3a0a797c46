//! Answers to the requests of conduits, on their way back.

use std::{sync::Arc, time::Duration};

use actix::Addr;
use cellbus_channels::{Broken, ConduitSend};
use cellbus_proto::{admission::Admitted, envelope::Header, route::Hop, status::Status};

use super::head;
use crate::{
    clock,
    filter::{AuthFilter, ReturnConduit},
    own::Own,
};

/// How long a neighbour may take to read an answer that it waits for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes an answer that was let out, and counts what became of it.
pub(super) async fn write_answer(
    own: &Arc<Own>,
    send: &mut dyn ConduitSend,
    answer: Admitted,
) -> Result<(), Broken> {
    let queued = Queued::new(own);
    let budget_ms = answer.budget_left(clock::now()).unwrap_or(1);
    let writing = head::write(send, None, answer.envelope(), budget_ms);
    let written = tokio::time::timeout(PATIENCE, writing).await.unwrap_or(Err(Broken::Lost));
    queued.end(written.is_ok());
    written
}

/// A message that waits to be written: counted as dropped, should its task end before.
pub(super) struct Queued<'a> {
    own: &'a Own,
    is_open: bool,
}

impl<'a> Queued<'a> {
    /// The message is on its way.
    pub(super) fn new(own: &'a Own) -> Self {
        own.counters.enqueue(1);
        Self { own, is_open: true }
    }

    /// The message was written, or not.
    pub(super) fn end(mut self, is_written: bool) {
        if is_written {
            self.is_open = false;
            self.own.counters.forward(1);
        }
    }

    /// The message certainly did not leave.
    pub(super) fn refuse(mut self, status: Status) {
        self.is_open = false;
        self.own.counters.drop_queued(status, 1);
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.own.counters.drop_queued(Status::PeerLost, 1);
        }
    }
}

/// Tells whoever asked that this cell has no answer, on the stream of the conduit.
pub(super) async fn give_back(
    own: &Arc<Own>,
    filter: &Addr<AuthFilter>,
    send: &mut dyn ConduitSend,
    request: &Header,
    arrived: Hop,
    status: Status,
    detail: bytes::Bytes,
) {
    let back = ReturnConduit { request: Box::new(request.clone()), arrived, status, detail };
    let Ok(Some(back)) = filter.send(back).await else { return };
    if write_answer(own, send, *back).await.is_ok() {
        send.finish();
    }
}
