//! Requests, publishes and handlers.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    well_known,
};
use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::{
    error::{HandleError, PublishError, RequestError},
    handler::{Handler, Reply, Selector},
    transport::{Outgoing, Transport},
};

/// A cell's place on the bus. Cheap to clone; every clone speaks for the same cell.
#[derive(Clone)]
pub struct Bus {
    transport: Arc<dyn Transport>,
}

impl Bus {
    /// A bus over `transport`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// The cell that speaks here.
    #[must_use]
    pub fn name(&self) -> Fqcn {
        self.transport.name()
    }

    /// Starts a request to `target` at the cell `to`.
    pub fn request(&self, to: Fqcn, target: ChannelTopic) -> RequestBuilder {
        let outgoing =
            Outgoing { to, target, payload: Bytes::new(), content_type: None, budget: None };
        RequestBuilder { transport: Arc::clone(&self.transport), outgoing }
    }

    /// Sends `payload` to many cells and gives each outcome as it comes, in no order.
    ///
    /// The payload is shared between all of them. Every cell in `to` yields exactly one outcome, at
    /// the latest when `budget` is spent.
    pub async fn broadcast(
        &self,
        to: impl IntoIterator<Item = Fqcn>,
        target: ChannelTopic,
        payload: impl Into<Bytes>,
        budget: Duration,
    ) -> Vec<(Fqcn, Result<Reply, RequestError>)> {
        let payload = payload.into();
        let mut pending: FuturesUnordered<_> = to
            .into_iter()
            .map(|to| {
                let request = self.request(to.clone(), target.clone());
                let request = request.payload(payload.clone()).budget(budget);
                async move { (to, request.send().await) }
            })
            .collect();
        let mut outcomes = Vec::with_capacity(pending.len());
        while let Some(outcome) = pending.next().await {
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Registers `handler` for `selector`. The most specific handler that matches is called.
    ///
    /// # Errors
    /// [`HandleError`] when the selector is taken or belongs to the system.
    pub async fn handle(
        &self,
        selector: impl Into<Selector>,
        handler: impl Handler,
    ) -> Result<(), HandleError> {
        let selector = selector.into();
        let channel = match &selector {
            Selector::Exact(target) => Some(target.channel()),
            Selector::Channel(channel) => Some(channel),
            Selector::All => None,
        };
        if let Some(channel) = channel.filter(|channel| well_known::is_reserved(channel)) {
            return Err(HandleError::Reserved(channel.to_string()));
        }
        self.transport.register(selector, Arc::new(handler)).await
    }

    /// Completes when nothing more can be sent or received.
    pub async fn closed(&self) {
        self.transport.closed().await;
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.transport.name()).finish()
    }
}

/// A message that is being put together.
#[must_use = "a message does nothing until it is sent"]
pub struct RequestBuilder {
    transport: Arc<dyn Transport>,
    outgoing: Outgoing,
}

impl RequestBuilder {
    /// What the message carries. Default: nothing. At most 1 MiB unless configured otherwise.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.outgoing.payload = payload.into();
        self
    }

    /// Media type of the payload, for the receiver. At most 128 bytes. Default: none.
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.outgoing.content_type = Some(content_type.into());
        self
    }

    /// Time until the sender gives up, reduced on the way by what each hop spends. Default: the
    /// cell's configured budget (30 s unless configured otherwise).
    pub fn budget(mut self, budget: Duration) -> Self {
        self.outgoing.budget = Some(budget);
        self
    }

    /// Sends the request and waits for its one end: a reply, or an error.
    ///
    /// # Errors
    /// [`RequestError`]; its [`class`](RequestError::class) says whether the work can have been done.
    ///
    /// # Cancellation
    /// Dropping the future gives up; a late reply is discarded and counted.
    pub async fn send(self) -> Result<Reply, RequestError> {
        self.transport.request(self.outgoing).await
    }

    /// Sends the message without asking for an answer: delivered at most once.
    ///
    /// # Errors
    /// [`PublishError`] when this cell did not take it.
    pub async fn publish(self) -> Result<(), PublishError> {
        self.transport.publish(self.outgoing).await
    }
}

impl fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outgoing { to, target, payload, .. } = &self.outgoing;
        write!(f, "{to} {target} ({} bytes)", payload.len())
    }
}
