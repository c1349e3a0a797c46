//! Conduits: requests whose stream stays open, so that more bytes can follow than a message may carry.
//!
//! A conduit begins as a request and is decided on as one: by the filter of every cell on the way and by
//! the handler at its end. Only when that has answered do bytes flow, both ways, on a stream of its own
//! on every link. No cell on the way looks at them, and none holds more of them than a window.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    panic::AssertUnwindSafe,
    task::{Context, Poll},
};

use bytes::Bytes;
use cellbus_proto::status::Status;
use futures_util::FutureExt;

use crate::{
    filter::Filters,
    handler::{Delivery, Failure, Reply},
    passage,
    transport::BoxFuture,
};

pub mod pair;
#[cfg(test)]
mod tests;

/// Both halves of a stream that belongs to one request that was let in and answered.
pub struct Conduit {
    /// What this end writes.
    pub send: Box<dyn ConduitSend>,
    /// What this end reads.
    pub recv: Box<dyn ConduitRecv>,
}

/// Why a conduit carries nothing more in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Broken {
    /// The other end has given up: it reset its half, wants no more of this one, or has let go of both.
    #[error("the other end has given up")]
    Cancelled,
    /// A link on the way, or a cell on it, is gone. What was written last may or may not have arrived.
    #[error("a link on the way was lost")]
    Lost,
}

/// The half of a conduit that is read. Dropped before its end, it is stopped.
pub trait ConduitRecv: Send {
    /// Adds the next bytes to `into`, in pieces and without copying; ready with `true` when there were
    /// some, and with `false` at the end of what the other end wrote. An end is no proof of anything: whoever
    /// reads knows by the bytes whether they are all there.
    ///
    /// At most a window of bytes waits unread; what is not read holds the other end.
    ///
    /// # Errors
    /// [`Broken`], then and ever after.
    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, Broken>>;

    /// Tells the other end that nothing more is wanted.
    fn stop(&mut self);
}

/// The half of a conduit that is written. Dropped before it was finished, it is reset.
pub trait ConduitSend: Send {
    /// Writes from the front of `chunks`, without copying; ready when all were taken. What was taken is no
    /// longer in `chunks`, also while it is pending.
    ///
    /// # Errors
    /// [`Broken`], then and ever after; what is left in `chunks` was not taken, and of what was taken
    /// nobody knows how much has arrived.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), Broken>>;

    /// Ready when nothing that is written can arrive any more.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;

    /// Ends the half after what was written.
    fn finish(&mut self);

    /// Ends the half at once; what was not yet delivered is lost.
    fn reset(&mut self);
}

/// What whoever opens a conduit asks of the cells on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConduitOptions {
    /// What the conduit is for, where several cells fetch the same: relays carry the bytes of conduits to
    /// one cell and topic that share this once. Default: nothing is shared.
    pub share: Option<[u8; 16]>,
    /// Larger goes first where conduits wait for one another. Default 0.
    pub priority: u8,
    /// Whether only those that have the key can read the bytes. Cells on the way let such a conduit pass where the
    /// rules demand sealing, and the other end refuses it unless it says the same ([`Accepted::sealed`]). Default
    /// false.
    pub sealed: bool,
}

/// What follows on a conduit that was accepted. Dropping the future lets go of the conduit.
pub type Serve = Box<dyn FnOnce(Conduit) -> BoxFuture<()> + Send>;

/// A conduit that was accepted: the answer, and what follows it.
pub struct Accepted {
    /// The answer to the request.
    pub reply: Reply,
    /// Run when the answer is on its way.
    pub serve: Serve,
    /// Where this is set nothing was accepted: the request is returned with this status, and the payload
    /// of `reply` says more.
    pub returned: Option<Status>,
    /// Whether all that is written on it is sealed, so that no cell on the way can read it.
    pub is_sealed: bool,
}

/// Decides on the conduits that end at a cell.
pub trait ConduitHandler: Send + Sync + 'static {
    /// Answers one request. The future is dropped when its budget is spent or the requester has gone.
    ///
    /// # Arguments
    /// `wants_data`: whether bytes are to follow. Where this is false the requester gets them from a relay,
    /// and only the decision, the answer and what the requester writes cross the way.
    fn accept(&self, delivery: Delivery, wants_data: bool) -> BoxFuture<Result<Accepted, Failure>>;
}

/// Has `handler` decide on one request, between the filters: for whoever runs handlers.
///
/// # Errors
/// The status and the detail to return.
pub async fn decide(
    handler: &dyn ConduitHandler,
    filters: &Filters,
    delivery: Delivery,
    wants_data: bool,
) -> Result<Accepted, (Status, Bytes)> {
    let (peer, target) = (delivery.origin.name.clone(), delivery.target.clone());
    let delivery = passage::inward(filters, delivery)
        .map_err(|stopped| (stopped.status(), stopped.detail()))?;
    // The call itself may panic as well as what it gives.
    let work = async { handler.accept(delivery, wants_data).await };
    let decided = AssertUnwindSafe(work).catch_unwind().await;
    let (answer, serve) = match decided {
        Ok(Ok(Accepted { reply, returned: Some(status), .. })) => {
            let told =
                passage::outward(filters, &peer, &target, Err(Failure::Failed(reply.payload)));
            return match told {
                Err(Failure::Failed(detail)) => Err((status, detail)),
                Ok(_) | Err(Failure::Refused(_) | Failure::Unknown(_)) => {
                    Err((status, Bytes::new()))
                }
            };
        }
        Ok(Ok(Accepted { reply, serve, returned: None, is_sealed })) => {
            (Ok(reply), Some((serve, is_sealed)))
        }
        Ok(Err(failure)) => (Err(failure), None),
        Err(_panic) => return Err((Status::HandlerPanic, Bytes::new())),
    };
    match (passage::outward(filters, &peer, &target, answer), serve) {
        (Ok(reply), Some((serve, is_sealed))) => {
            Ok(Accepted { reply, serve, returned: None, is_sealed })
        }
        (Ok(_), None) => Err((Status::HandlerFailed, Bytes::new())),
        (Err(Failure::Refused(status) | Failure::Unknown(status)), _) => {
            Err((status, Bytes::new()))
        }
        (Err(Failure::Failed(detail)), _) => Err((Status::HandlerFailed, detail)),
    }
}

impl Accepted {
    /// Answers `reply`, then does what `serve` does with the conduit.
    pub fn new<F>(
        reply: impl Into<Reply>,
        serve: impl FnOnce(Conduit) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self {
            reply: reply.into(),
            serve: Box::new(|conduit| Box::pin(serve(conduit))),
            returned: None,
            is_sealed: false,
        }
    }

    /// Says whether all that is written on it is sealed. Who asked for that is refused otherwise.
    #[must_use]
    pub fn sealed(self, is_sealed: bool) -> Self {
        Self { is_sealed, ..self }
    }

    /// Not accepted after all: returned with `status`, and `detail` says more than a [`Failure`] can.
    #[must_use]
    pub fn returned(status: Status, detail: Bytes) -> Self {
        Self { returned: Some(status), ..Self::new(detail, |_never| std::future::ready(())) }
    }
}

impl dyn ConduitRecv + '_ {
    /// Waits for the next bytes and adds them to `into`; `false` at the end. Nothing is lost when the
    /// future is dropped.
    ///
    /// # Errors
    /// [`Broken`], then and ever after.
    pub async fn chunks(&mut self, into: &mut Vec<Bytes>) -> Result<bool, Broken> {
        poll_fn(|cx| self.poll_chunks(cx, into)).await
    }
}

impl dyn ConduitSend + '_ {
    /// Writes all of `chunks`. What was taken is no longer in `chunks` when the future is dropped.
    ///
    /// # Errors
    /// [`Broken`], then and ever after.
    pub async fn write(&mut self, chunks: &mut VecDeque<Bytes>) -> Result<(), Broken> {
        poll_fn(|cx| self.poll_write(cx, chunks)).await
    }

    /// Writes `bytes`. How much was taken is not known when the future is dropped.
    ///
    /// # Errors
    /// [`Broken`], then and ever after.
    pub async fn write_one(&mut self, bytes: impl Into<Bytes>) -> Result<(), Broken> {
        let mut chunks = VecDeque::from([bytes.into()]);
        self.write(&mut chunks).await
    }

    /// Waits until nothing that is written can arrive any more.
    pub async fn broken(&mut self) -> Broken {
        poll_fn(|cx| self.poll_broken(cx)).await
    }
}

impl fmt::Debug for Conduit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conduit").finish_non_exhaustive()
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted").field("reply", &self.reply).finish_non_exhaustive()
    }
}
