//! Publishes to one place, again and again.

use std::fmt;

use bytes::Bytes;
use cellbus_proto::name::Fqcn;

use crate::{
    bus::Bus,
    error::PublishError,
    filter::Point,
    message::RequestBuilder,
    trace,
    transport::{Outgoing, Passage, Payload},
};

/// Publishes to one place, again and again: what the messages have in common is put together once, which a
/// publish of a few bytes costs most of its time.
///
/// Made by [`RequestBuilder::publisher`], whose options hold for every message; each belongs to the trace of the
/// handler that sends it, if any, unless one was given.
#[must_use = "a publisher does nothing until something is published"]
pub struct Publisher {
    bus: Bus,
    to: Fqcn,
    /// Every message, but for the payload.
    outgoing: Outgoing,
    /// The way that the last one took, if the next ones can too.
    passage: Option<Box<dyn Passage>>,
}

impl Publisher {
    pub(crate) fn new(message: RequestBuilder) -> Self {
        let RequestBuilder { bus, to, mut outgoing } = message;
        outgoing.payload = Bytes::new();
        Self { bus, to, outgoing, passage: None }
    }

    /// Sends one message, as [`RequestBuilder::publish`] does.
    ///
    /// # Errors
    /// [`PublishError`], as there.
    ///
    /// # Cancellation
    /// Dropping the future leaves open whether the message was sent.
    pub async fn publish(&mut self, payload: impl Into<Bytes>) -> Result<(), PublishError> {
        let payload = payload.into();
        match self.publish_at_once(Payload::Shared(&payload)) {
            Some(outcome) => outcome,
            None => self.publish_slowly(payload).await,
        }
    }

    /// The same of a copy of `payload`, which of a few bytes costs less than to share them.
    ///
    /// # Errors
    /// [`PublishError`], as [`Self::publish`].
    ///
    /// # Cancellation
    /// As [`Self::publish`].
    pub async fn publish_slice(&mut self, payload: &[u8]) -> Result<(), PublishError> {
        match self.publish_at_once(Payload::Slice(payload)) {
            Some(outcome) => outcome,
            None => self.publish_slowly(Bytes::copy_from_slice(payload)).await,
        }
    }

    async fn publish_slowly(&mut self, payload: Bytes) -> Result<(), PublishError> {
        let mut outgoing = Outgoing { payload, ..self.outgoing.clone() };
        if let Some(trace) = trace::current() {
            let rare = outgoing.rare.get_or_insert_default();
            rare.trace = rare.trace.or(Some(trace));
        }
        let (bus, to) = (self.bus.clone(), self.to.clone());
        let outcome = RequestBuilder { bus, to, outgoing }.publish().await;
        self.passage = self.bus.transport().passage(&self.to, &self.outgoing);
        outcome
    }

    /// Where nothing looks at the message here, and nothing belongs to it.
    fn publish_at_once(&self, payload: Payload<'_>) -> Option<Result<(), PublishError>> {
        let passage = self.passage.as_ref()?;
        let is_plain = trace::current().is_none()
            && !self.bus.filters().applies(Point::RequestOut, &self.outgoing.target);
        is_plain.then(|| passage.publish_at_once(payload)).flatten()
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to, self.outgoing.target)
    }
}
