//! A cell's place on the bus: where every message starts, and where handlers and filters are registered.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    well_known,
};

use crate::{
    conduit::{Conduit, ConduitHandler, ConduitOptions},
    error::{HandleError, RequestError},
    events::Events,
    fan::{Many, Targets},
    filter::{Filter, Filters, Point},
    handler::{Handler, HandlerOptions, Reply, Selector},
    message::RequestBuilder,
    passage,
    queue::QueueBuilder,
    transfer::{Shelf, Transfers},
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
    shelf: Shelf,
}

impl Bus {
    /// A bus over `transport`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        let (filters, shelf) = (transport.filters(), transport.shelf());
        Self { inner: Arc::new(Inner { transport, filters, shelf }) }
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.inner.transport
    }

    pub(crate) fn filters(&self) -> &Filters {
        &self.inner.filters
    }

    pub(crate) fn shelf(&self) -> &Shelf {
        &self.inner.shelf
    }

    /// Payloads of any size: served, fetched, sent to many and gathered from many.
    #[must_use]
    pub fn transfers(&self) -> Transfers {
        Transfers::new(self.clone())
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

    /// Starts a message to the cell `to` from one that was put together elsewhere.
    pub fn message(&self, to: Fqcn, outgoing: Outgoing) -> RequestBuilder {
        RequestBuilder::new(self.clone(), to, outgoing)
    }

    /// Starts a message to many cells from one that was put together elsewhere; otherwise as
    /// [`Self::multicast`].
    pub fn message_to_many(
        &self,
        to: impl IntoIterator<Item = Fqcn>,
        outgoing: Outgoing,
    ) -> RequestBuilder<Many> {
        let many = Many::new(Targets::Named(to.into_iter().collect()));
        RequestBuilder::new(self.clone(), many, outgoing)
    }

    /// The cells that are registered below this one, as far as it knows.
    pub async fn below(&self) -> Vec<Fqcn> {
        self.inner.transport.below().await
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

    /// Sends a request to the cell `to` whose stream stays open, and waits for its answer. The budget bounds
    /// the time to that, and nothing after it. Dropping the future gives up.
    ///
    /// # Errors
    /// [`RequestError`]; then there is no conduit.
    pub async fn open_conduit(
        &self,
        to: Fqcn,
        outgoing: Outgoing,
        options: ConduitOptions,
    ) -> Result<(Reply, Conduit), RequestError> {
        let (me, target) = (self.name(), outgoing.target.clone());
        let outgoing = passage::out(self.filters(), &to, outgoing)
            .map_err(|error| passage::stopped(&me, &error))?;
        let opened = self.transport().open_conduit(to.clone(), outgoing, options).await;
        let (outcome, conduit) = match opened {
            Ok((reply, conduit)) => (Ok(reply), Some(conduit)),
            Err(error) => (Err(error), None),
        };
        let reply = passage::back(self.filters(), &me, &to, &target, outcome)?;
        Ok((reply, conduit.ok_or(RequestError::Closed)?))
    }

    /// Has `handler` decide on every conduit that ends here. It stays until the bus is closed.
    ///
    /// # Errors
    /// [`HandleError`] when there is one already, or this bus carries no conduits.
    pub async fn serve_conduits(&self, handler: impl ConduitHandler) -> Result<(), HandleError> {
        self.inner.transport.serve_conduits(Arc::new(handler)).await
    }

    /// What happens to the links of this cell, and to the cells below it, from now on.
    pub fn events(&self) -> Events {
        Events::new(self.inner.transport.events())
    }

    /// Completes when nothing more can be sent or received.
    pub async fn closed(&self) {
        self.inner.transport.closed().await;
    }

    /// The end of job code that answers others: nothing more is let in, what its handlers are about to answer is waited
    /// for, at most for `patience`, and written; then the connection to the cell ends. Says whether everything was
    /// answered. A process that just ends takes answers along that were on their way.
    ///
    /// The bus of a cell in this process has no connection to end: `true` at once.
    pub async fn finish(&self, patience: Duration) -> bool {
        self.inner.transport.finish(patience).await
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.inner.transport.name()).finish()
    }
}
