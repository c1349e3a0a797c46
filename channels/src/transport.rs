//! What a bus needs from whatever carries its messages.

use std::{
    future::{Future, ready},
    ops::Deref,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cellbus_proto::{
    envelope::{Flags, HopRecord, Kind, Lane, TraceContext},
    exchange::RetryPolicy,
    name::{ChannelTopic, Fqcn, Segment},
    status::Status,
    transcript::Signable,
};
use futures_core::Stream;
use futures_util::stream::{self, FuturesUnordered};

use crate::{
    conduit::{Conduit, ConduitHandler, ConduitOptions},
    error::{HandleError, PublishError, RequestError},
    events::Event,
    filter::Filters,
    handler::{Handler, HandlerOptions, Reply, Selector},
    local::files::Files,
    passage::not_carried,
    transfer::Shelf,
};

/// A future that can be sent between threads and borrows nothing.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// A stream that can be sent between threads and borrows nothing.
pub type BoxStream<T> = Pin<Box<dyn Stream<Item = T> + Send + 'static>>;

/// What became of a request to one of many cells.
pub type OneOfMany = (Fqcn, Result<Reply, RequestError>);

/// One message on its way out, whoever it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where inside the destination.
    pub target: ChannelTopic,
    /// What it carries; shared, never copied.
    pub payload: Bytes,
    /// Media type of the payload.
    pub content_type: Option<Arc<str>>,
    /// Time until the sender gives up. `None` takes the cell's default.
    pub budget: Option<Duration>,
    /// Priority class.
    pub lane: Lane,
    /// What the sender asks for.
    pub flags: Flags,
    /// What few messages have.
    pub rare: Option<Box<Rare>>,
}

/// What few messages have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rare {
    /// Headers of the application.
    pub headers: Bytes,
    /// Trace context.
    pub trace: Option<TraceContext>,
    /// How often the message is sent again while nothing is heard of it.
    pub retry: Option<RetryPolicy>,
}

/// What a message that asks for the way found out, whether or not it arrived.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What each cell on the way did, in order. The word of these cells; nothing is decided on it.
    pub path: Vec<HopRecord>,
    /// How the request ended.
    pub outcome: Result<Reply, RequestError>,
}

/// A way to one place, on which all that can be decided before there is a payload is.
pub trait Passage: Send + Sync {
    /// Sends `payload`, where that can be done without waiting for anything; else `None`.
    fn publish_at_once(&self, payload: Payload<'_>) -> Option<Result<(), PublishError>>;
}

/// A payload that is looked at, and kept only where it has to be.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// To be shared.
    Shared(&'a Bytes),
    /// To be copied.
    Slice(&'a [u8]),
}

impl Payload<'_> {
    /// A payload of its own.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Shared(bytes) => bytes.clone(),
            Self::Slice(bytes) => Bytes::copy_from_slice(bytes),
        }
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Slice(bytes) => bytes,
        }
    }
}

/// Carries messages for a [`Bus`](crate::Bus): a cell in this process, or the local socket of one.
pub trait Transport: Send + Sync + 'static {
    /// The cell that speaks here.
    fn name(&self) -> Fqcn;

    /// Sends a request and waits for its one end. Dropping the future gives up.
    fn request(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<Reply, RequestError>>;

    /// Hands over a publish. `Ok` means that this cell has taken it, not that it arrived; where the
    /// message has [`Flags::RECEIPT`], that the destination cell has.
    fn publish(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<(), PublishError>>;

    /// As [`Self::publish`], where that can be done without waiting for anything; else `None`, and nothing has
    /// been done.
    ///
    /// Default: nothing can.
    fn publish_at_once(&self, to: &Fqcn, outgoing: &Outgoing) -> Option<Result<(), PublishError>> {
        let _never_sent = (to, outgoing);
        None
    }

    /// The way that publishes like this one, but for their payloads, take from now on. `None` where none is known, or
    /// they have more beside their payload than it carries.
    ///
    /// Default: none is.
    fn passage(&self, to: &Fqcn, outgoing: &Outgoing) -> Option<Box<dyn Passage>> {
        let _never_known = (to, outgoing);
        None
    }

    /// Registers a handler; it stays until the bus is closed.
    fn register(
        &self,
        selector: Selector,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>>;

    /// Registers a handler whose messages are run as `options` say.
    ///
    /// Default: as [`Self::register`], one message of a cell and channel at a time.
    fn register_with(
        &self,
        selector: Selector,
        options: HandlerOptions,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        let _one_at_a_time = options;
        self.register(selector, handler)
    }

    /// Completes when nothing more can be sent or received.
    fn closed(&self) -> BoxFuture<()>;

    /// Ends the connection to the cell once everything that was asked has been answered, which says `true`, or after
    /// `patience`.
    ///
    /// Default: there is no connection, and the cell sees to its own end.
    fn finish(&self, patience: Duration) -> BoxFuture<bool> {
        let _for_a_connection = patience;
        Box::pin(ready(true))
    }

    /// What every message of this cell passes. Always the same list.
    fn filters(&self) -> Filters {
        Filters::default()
    }

    /// Whether messages may have [`Flags::RECEIPT`], [`Flags::BATCH`], [`Flags::PROBE`] and headers of the
    /// application. Default: no.
    fn is_complete(&self) -> bool {
        false
    }

    /// Sends a request to which several replies may come. The stream ends once; dropping it gives up.
    ///
    /// Default: one reply.
    fn replies(&self, to: Fqcn, outgoing: Outgoing) -> BoxStream<Result<Reply, RequestError>> {
        Box::pin(stream::once(self.request(to, outgoing)))
    }

    /// Sends one message to many cells, each of which is named once: a request, or a publish where it has
    /// [`Flags::RECEIPT`]. Gives exactly one outcome for each, as they come; dropping the stream gives up.
    ///
    /// Default: a request for each.
    fn multicast(&self, to: Vec<Fqcn>, outgoing: Outgoing) -> BoxStream<OneOfMany> {
        let one = |to: Fqcn| {
            let asked = self.request(to.clone(), outgoing.clone());
            async move { (to, asked.await) }
        };
        Box::pin(to.into_iter().map(one).collect::<FuturesUnordered<_>>())
    }

    /// Hands over one publish for many cells, each of which is named once.
    ///
    /// Default: a publish for each; the error is the first.
    fn publish_many(
        &self,
        to: Vec<Fqcn>,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), PublishError>> {
        let all: Vec<_> = to.into_iter().map(|to| self.publish(to, outgoing.clone())).collect();
        Box::pin(async move {
            let mut first = Ok(());
            for one in all {
                first = first.and(one.await);
            }
            first
        })
    }

    /// Sends a request that asks every cell on the way what it did.
    ///
    /// Default: a request, and nothing of the way.
    fn probe(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Probe> {
        let asked = self.request(to, outgoing);
        Box::pin(async move { Probe { path: Vec::new(), outcome: asked.await } })
    }

    /// The cells that are registered below this one, as far as it knows.
    ///
    /// Default: none.
    fn below(&self) -> BoxFuture<Vec<Fqcn>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// What happens to the links of this cell, and to the cells below it, from now on.
    ///
    /// Default: a stream that has ended.
    fn events(&self) -> BoxStream<Event> {
        Box::pin(stream::empty())
    }

    /// Sends a request whose stream stays open, and waits for its answer; the budget bounds the time to
    /// that, and nothing after it. Dropping the future gives up.
    ///
    /// Default: not carried.
    ///
    /// # Errors
    /// As for [`Self::request`]; then there is no conduit.
    fn open_conduit(
        &self,
        to: Fqcn,
        outgoing: Outgoing,
        options: ConduitOptions,
    ) -> BoxFuture<Result<(Reply, Conduit), RequestError>> {
        let _never_sent = (to, outgoing, options);
        Box::pin(ready(Err(not_carried(&self.name()))))
    }

    /// Has `handler` decide on every conduit that ends here; a cell has one such handler.
    ///
    /// Default: no conduit ends here.
    ///
    /// # Errors
    /// [`HandleError`] when there is one already, or conduits are not carried.
    fn serve_conduits(
        &self,
        handler: Arc<dyn ConduitHandler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        let _never_called = handler;
        Box::pin(ready(Err(HandleError::NotCarried)))
    }

    /// What carries transfers out for this bus, where another process does: the job cell of job code.
    ///
    /// Default: nobody; this process does it.
    fn files(&self) -> Option<Files> {
        None
    }

    /// The project of this cell, by its certificate.
    ///
    /// Default: unknown.
    fn project(&self) -> Option<Segment> {
        None
    }

    /// Milliseconds since 1970, by the clock that this cell judges ages with.
    ///
    /// Default: the system's.
    fn unix_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// What is served and received at this cell. Always the same one.
    ///
    /// Default: one of its own for every bus.
    fn shelf(&self) -> Shelf {
        Shelf::default()
    }

    /// Signs with the key of this cell's certificate what says that something is transferred: a reference,
    /// or a receipt. Everything else the transport signs by itself, or not at all.
    ///
    /// Default: not signed.
    ///
    /// # Errors
    /// [`Status::TopicDenied`] for what has another purpose, [`Status::Version`] where nothing is signed.
    fn sign(&self, signable: Signable) -> BoxFuture<Result<Bytes, Status>> {
        let _never_signed = signable;
        Box::pin(ready(Err(Status::Version)))
    }

    /// Whether `signature` is that of the cell `signer` over `signable`, by the key of the certificate with
    /// which it is registered now. Asks for that certificate where it is not known.
    ///
    /// Default: not verified.
    ///
    /// # Errors
    /// [`Status::BadSignature`] when it is not, with this cell as the one that says so; others when the
    /// certificate cannot be had.
    fn verify(
        &self,
        signer: Fqcn,
        signable: Signable,
        signature: Bytes,
    ) -> BoxFuture<Result<(), RequestError>> {
        let _never_verified = (signer, signable, signature);
        Box::pin(ready(Err(not_carried(&self.name()))))
    }
}

impl Outgoing {
    /// A message of no bytes, with no options.
    #[must_use]
    pub fn new(target: ChannelTopic) -> Self {
        Self {
            target,
            payload: Bytes::new(),
            content_type: None,
            budget: None,
            lane: Lane::Interactive,
            flags: Flags::default(),
            rare: None,
        }
    }

    /// What the message is, where somebody waits for an answer to it: a publish that asks for a receipt,
    /// else a request.
    #[must_use]
    pub fn awaited_kind(&self) -> Kind {
        let is_receipt = self.flags.contains(Flags::RECEIPT) && !self.flags.contains(Flags::PROBE);
        if is_receipt { Kind::Publish } else { Kind::Request }
    }

    /// Headers of the application.
    #[must_use]
    pub fn headers(&self) -> Bytes {
        self.rare.as_ref().map_or_else(Bytes::new, |rare| rare.headers.clone())
    }

    /// How often the message is sent again, where the sender asked for that.
    #[must_use]
    pub fn retry(&self) -> Option<RetryPolicy> {
        self.rare.as_ref()?.retry
    }
}
