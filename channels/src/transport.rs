//! What a bus needs from whatever carries its messages.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::name::{ChannelTopic, Fqcn};

use crate::{
    error::{HandleError, PublishError, RequestError},
    handler::{Handler, Reply, Selector},
};

/// A future that can be sent between threads and borrows nothing.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// One message on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The cell it is for.
    pub to: Fqcn,
    /// Where inside that cell.
    pub target: ChannelTopic,
    /// What it carries; shared, never copied.
    pub payload: Bytes,
    /// Media type of the payload.
    pub content_type: Option<Arc<str>>,
    /// Time until the sender gives up. `None` takes the cell's default.
    pub budget: Option<Duration>,
}

/// Carries messages for a [`Bus`](crate::Bus): a cell in this process, or the local socket of one.
pub trait Transport: Send + Sync + 'static {
    /// The cell that speaks here.
    fn name(&self) -> Fqcn;

    /// Sends a request and waits for its one end. Dropping the future gives up.
    fn request(&self, outgoing: Outgoing) -> BoxFuture<Result<Reply, RequestError>>;

    /// Hands over a publish. `Ok` means that this cell has taken it, not that it arrived.
    fn publish(&self, outgoing: Outgoing) -> BoxFuture<Result<(), PublishError>>;

    /// Registers a handler; it stays until the bus is closed.
    fn register(
        &self,
        selector: Selector,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>>;

    /// Completes when nothing more can be sent or received.
    fn closed(&self) -> BoxFuture<()>;
}
