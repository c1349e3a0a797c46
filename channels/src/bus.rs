//! A cell's place on the bus: where every message starts, and where handlers and filters are registered.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    well_known,
};

use crate::{
    error::HandleError,
    events::Events,
    fan::{Many, Targets},
    filter::{Filter, Filters, Point},
    handler::{Handler, HandlerOptions, Selector},
    message::RequestBuilder,
    queue::QueueBuilder,
    transport::{Outgoing, Transport},
};

/// A cell's place on the bus. Cheap to clone; every clone speaks for the same cell.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    filters: Filters,
}

impl Bus {
    /// A bus over `transport`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        let filters = transport.filters();
        Self { inner: Arc::new(Inner { transport, filters }) }
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.inner.transport
    }

    pub(crate) fn filters(&self) -> &Filters {
        &self.inner.filters
    }

    /// The cell that speaks here.
    #[must_use]
    pub fn name(&self) -> Fqcn {
        self.inner.transport.name()
    }

    /// Starts a request or publish to `target` at the cell `to`.
    pub fn request(&self, to: Fqcn, target: ChannelTopic) -> RequestBuilder {
        RequestBuilder::new(self.clone(), to, Outgoing::new(target))
    }

    /// Starts one message to many cells, each of which gets it once, however often it is named.
    ///
    /// The payload is encoded once and shared; every link is crossed once, and cells on the way duplicate it.
    pub fn multicast(
        &self,
        to: impl IntoIterator<Item = Fqcn>,
        target: ChannelTopic,
    ) -> RequestBuilder<Many> {
        let many = Many::new(Targets::Named(to.into_iter().collect()));
        RequestBuilder::new(self.clone(), many, Outgoing::new(target))
    }

    /// Starts one message to every cell that is registered below this one when it is sent: at the server
    /// that is every cell of the project, elsewhere the direct children. Otherwise as [`Self::multicast`].
    pub fn broadcast(&self, target: ChannelTopic) -> RequestBuilder<Many> {
        RequestBuilder::new(self.clone(), Many::new(Targets::Below), Outgoing::new(target))
    }

    /// Starts a message of its own for each of many cells; a cell may be named more than once. Options
    /// hold for all of them; a payload that is set as an option for none.
    pub fn scatter(
        &self,
        messages: impl IntoIterator<Item = (Fqcn, impl Into<Bytes>)>,
        target: ChannelTopic,
    ) -> RequestBuilder<Many> {
        let each = messages.into_iter().map(|(to, payload)| (to, payload.into())).collect();
        RequestBuilder::new(self.clone(), Many::new(Targets::Each(each)), Outgoing::new(target))
    }

    /// Starts a queue of small messages to `target` at the cell `to`, which travel in batches.
    pub fn queue(&self, to: Fqcn, target: ChannelTopic) -> QueueBuilder {
        QueueBuilder::new(self.clone(), to, target)
    }

    /// Registers `handler` for `selector`. The most specific handler that matches is called; what one cell
    /// sends on one channel is handled in order, one message at a time.
    ///
    /// # Errors
    /// [`HandleError`] when the selector is taken or belongs to the system.
    pub async fn handle(
        &self,
        selector: impl Into<Selector>,
        handler: impl Handler,
    ) -> Result<(), HandleError> {
        self.handle_with(selector, HandlerOptions::default(), handler).await
    }

    /// Registers `handler` for `selector`, to be run as `options` say.
    ///
    /// # Errors
    /// As [`Self::handle`].
    pub async fn handle_with(
        &self,
        selector: impl Into<Selector>,
        options: HandlerOptions,
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
        self.inner.transport.register_with(selector, options, Arc::new(handler)).await
    }

    /// Adds a filter behind all others of this cell, for what matches `selector`, at `points`. It stays for
    /// as long as the cell does, for every bus of it.
    pub fn filter(
        &self,
        points: impl IntoIterator<Item = Point>,
        selector: impl Into<Selector>,
        filter: impl Filter,
    ) {
        self.inner.filters.add(points, selector, filter);
    }

    /// What happens to the links of this cell, and to the cells below it, from now on.
    pub fn events(&self) -> Events {
        Events::new(self.inner.transport.events())
    }

    /// Completes when nothing more can be sent or received.
    pub async fn closed(&self) {
        self.inner.transport.closed().await;
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.inner.transport.name()).finish()
    }
}
