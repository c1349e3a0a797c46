//! Publishes to one place, again and again.

use std::{fmt, mem};

use bytes::Bytes;
use cellbus_proto::name::Fqcn;

use crate::{
    bus::Bus,
    error::PublishError,
    filter::Point,
    message::{RequestBuilder, carries},
    trace,
    transport::{Outgoing, Rare},
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
}

impl Publisher {
    pub(crate) fn new(message: RequestBuilder) -> Self {
        let RequestBuilder { bus, to, mut outgoing } = message;
        outgoing.payload = Bytes::new();
        Self { bus, to, outgoing }
    }

    /// Sends one message, as [`RequestBuilder::publish`] does.
    ///
    /// # Errors
    /// [`PublishError`], as there.
    ///
    /// # Cancellation
    /// Dropping the future leaves open whether the message was sent.
    pub async fn publish(&mut self, payload: impl Into<Bytes>) -> Result<(), PublishError> {
        self.outgoing.payload = payload.into();
        if let Some(outcome) = self.publish_at_once() {
            return outcome;
        }
        let payload = mem::take(&mut self.outgoing.payload);
        let mut outgoing = Outgoing { payload, ..self.outgoing.clone() };
        if let Some(trace) = trace::current() {
            let rare: &mut Rare = outgoing.rare.get_or_insert_default();
            rare.trace = rare.trace.or(Some(trace));
        }
        RequestBuilder { bus: self.bus.clone(), to: self.to.clone(), outgoing }.publish().await
    }

    /// Whether that is all there is to do with most messages: nothing looks at them here, and there is room.
    fn publish_at_once(&mut self) -> Option<Result<(), PublishError>> {
        let (bus, outgoing) = (&self.bus, &self.outgoing);
        let is_plain = trace::current().is_none()
            && !bus.filters().applies(Point::RequestOut, &outgoing.target)
            && carries(bus, outgoing);
        let outcome = is_plain.then(|| bus.transport().publish_at_once(&self.to, outgoing))??;
        // Else the last payload would be kept until the next one.
        self.outgoing.payload = Bytes::new();
        Some(outcome)
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to, self.outgoing.target)
    }
}
