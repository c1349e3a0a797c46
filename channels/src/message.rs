//! A message that is being put together, and what can be done with it when it is for one cell.

use std::{fmt, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    envelope::{Flags, Lane, TraceContext},
    exchange::RetryPolicy,
    name::Fqcn,
};

use crate::{
    bus::Bus,
    error::{PublishError, RequestError},
    filter::Point,
    handler::Reply,
    passage,
    publisher::Publisher,
    replies::Replies,
    trace,
    transport::{Outgoing, Probe, Rare},
};

/// A message that is being put together: for one cell, or with [`Many`](crate::Many) for many.
#[must_use = "a message does nothing until it is sent"]
pub struct RequestBuilder<To = Fqcn> {
    pub(crate) bus: Bus,
    pub(crate) to: To,
    pub(crate) outgoing: Outgoing,
}

impl<To> RequestBuilder<To> {
    pub(crate) fn new(bus: Bus, to: To, outgoing: Outgoing) -> Self {
        let message = Self { bus, to, outgoing };
        match trace::current() {
            Some(trace) => message.trace(trace),
            None => message,
        }
    }

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
    ///
    /// A request ends at the latest 250 ms after it: for so long the answer of the cell where it died is
    /// waited for. In whole milliseconds, rounded down; less than one is refused.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.outgoing.budget = Some(budget);
        self
    }

    /// Priority class. Default: [`Lane::Interactive`], which [`Lane::Control`] is taken for too.
    pub fn lane(mut self, lane: Lane) -> Self {
        self.outgoing.lane = lane;
        self
    }

    /// Sends a request again, with the same id, for as long as nothing is heard of it, within its budget. The
    /// destination executes it at most once for each start of its process, and answers every copy alike.
    /// Default: a request is sent once.
    ///
    /// A request with this option outlasts the loss of a link, also of this cell's own: it is sent again when
    /// the link is back. A refusal ends it at once, except one for overload (`OVERLOADED`, `SLOW_CONSUMER`,
    /// `RATE_LIMIT`), which is waited out, and one of a later copy while an earlier one may still run. A
    /// destination that has been started again since ends it with `PEER_RESTARTED`, since the former start may
    /// have executed it; not so with [`Self::idempotent`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.rare().retry = Some(policy);
        self
    }

    /// Executing the message twice does no harm. Default: it may.
    pub fn idempotent(self) -> Self {
        self.flag(Flags::IDEMPOTENT)
    }

    /// A publish may be dropped where there is too much to do. Default: it is refused there, or waits.
    pub fn optional(self) -> Self {
        self.flag(Flags::OPTIONAL)
    }

    /// A publish ends well only when the destination cell has accepted it: it has found a handler and room
    /// for it, which says nothing of what the handler makes of it. Default: when this cell has taken it.
    pub fn receipt(self) -> Self {
        self.flag(Flags::RECEIPT)
    }

    /// Only the destination can read what the message carries, and the destination only what it is answered: both
    /// are encrypted to the certificate of whoever they are for, and bound to where they go. Takes about 1 KiB
    /// and the work of some signatures for each. Default: where the project's policy demands it.
    ///
    /// Content type and headers are protected from change, and can be read on the way.
    pub fn sealed(self) -> Self {
        self.flag(Flags::SEALED)
    }

    /// Headers of the application: opaque to every cell, handed to the handler. At most 4 KiB. Default: none.
    pub fn headers(mut self, headers: impl Into<Bytes>) -> Self {
        self.rare().headers = headers.into();
        self
    }

    /// The trace that the message belongs to. Default: that of the message on which a handler works that sends this
    /// one ([`trace::current`](crate::trace::current)); else none.
    pub fn trace(mut self, trace: TraceContext) -> Self {
        self.rare().trace = Some(trace);
        self
    }

    fn rare(&mut self) -> &mut Rare {
        self.outgoing.rare.get_or_insert_default()
    }

    fn flag(mut self, flag: Flags) -> Self {
        self.outgoing.flags = self.outgoing.flags.with(flag);
        self
    }

    /// Whether whatever carries the messages knows everything that this one has.
    pub(crate) fn is_carried(&self) -> bool {
        const NEW: [Flags; 4] = [Flags::RECEIPT, Flags::BATCH, Flags::PROBE, Flags::SEALED];
        let needs_more = self.outgoing.rare.as_ref().is_some_and(|rare| !rare.headers.is_empty())
            || NEW.iter().any(|flag| self.outgoing.flags.contains(*flag));
        !needs_more || self.bus.transport().is_complete()
    }
}

/// A message that asks for no receipt, because it will have a reply.
pub(crate) fn without_receipt(mut outgoing: Outgoing) -> Outgoing {
    if outgoing.flags.contains(Flags::RECEIPT) {
        outgoing.flags = Flags::from_wire(outgoing.flags.bits() & !Flags::RECEIPT.bits());
    }
    outgoing
}

impl RequestBuilder {
    /// Sends the request and waits for its one end: a reply, or an error. Where the handler gives several
    /// replies, it is the first, and the handler is cancelled.
    ///
    /// # Errors
    /// [`RequestError`]; its [`class`](RequestError::class) says whether the work can have been done.
    ///
    /// # Cancellation
    /// Dropping the future gives up: the handler is told, and a late reply is discarded and counted.
    pub async fn send(self) -> Result<Reply, RequestError> {
        if !self.is_carried() {
            return Err(passage::not_carried(&self.bus.name()));
        }
        let Self { bus, to, outgoing } = self;
        let outgoing = without_receipt(outgoing);
        let (filters, target) = (bus.filters(), &outgoing.target);
        let is_filtered =
            filters.applies(Point::RequestOut, target) || filters.applies(Point::ReplyIn, target);
        if !is_filtered {
            return bus.transport().request(to, outgoing).await;
        }
        let (me, target) = (bus.name(), outgoing.target.clone());
        let outgoing =
            passage::out(filters, &to, outgoing).map_err(|error| passage::stopped(&me, &error))?;
        let outcome = bus.transport().request(to.clone(), outgoing).await;
        passage::back(filters, &me, &to, &target, outcome)
    }

    /// Sends the request and gives the replies of its handler one after the other.
    ///
    /// The budget is for all of them.
    pub fn replies(self) -> Replies {
        let is_carried = self.is_carried();
        let Self { bus, to, outgoing } = self;
        let (me, target) = (bus.name(), outgoing.target.clone());
        let sent = passage::out(bus.filters(), &to, without_receipt(outgoing))
            .map_err(|error| passage::stopped(&me, &error))
            .and_then(|outgoing| {
                is_carried.then_some(outgoing).ok_or_else(|| passage::not_carried(&me))
            });
        let replies = match sent {
            Ok(outgoing) => bus.transport().replies(to.clone(), outgoing),
            Err(error) => Box::pin(futures_util::stream::iter([Err(error)])),
        };
        Replies::new(replies, bus.filters().clone(), (me, to), target)
    }

    /// Sends the message without asking for a reply: delivered at most once.
    ///
    /// # Errors
    /// [`PublishError`] when this cell did not take it, or with [`Self::receipt`], when the destination cell
    /// did not.
    ///
    /// # Cancellation
    /// Dropping the future leaves open whether the message was sent.
    pub async fn publish(self) -> Result<(), PublishError> {
        if !self.is_carried() {
            return Err(passage::not_carried(&self.bus.name()).into());
        }
        let Self { bus, to, outgoing } = self;
        let outgoing = passage::out(bus.filters(), &to, outgoing)
            .map_err(|error| passage::not_published(&bus.name(), &error))?;
        match bus.transport().publish_at_once(&to, &outgoing) {
            Some(outcome) => outcome,
            None => bus.transport().publish(to, outgoing).await,
        }
    }

    /// For many publishes to this cell and target, one after the other, each with a payload of its own.
    pub fn publisher(self) -> Publisher {
        Publisher::new(self)
    }

    /// Sends the request and has every cell on the way, and the last, note what it did with it. Handed to the
    /// handler only where `deliver` says so; else the destination cell answers with nothing.
    pub async fn probe(self, deliver: bool) -> Probe {
        let flags = if deliver { Flags::PROBE.with(Flags::RECEIPT) } else { Flags::PROBE };
        let mut probe = self;
        probe.outgoing = without_receipt(probe.outgoing);
        probe = probe.flag(flags);
        let is_carried = probe.is_carried();
        let Self { bus, to, outgoing } = probe;
        let (me, target) = (bus.name(), outgoing.target.clone());
        let none = |error| Probe { path: Vec::new(), outcome: Err(error) };
        if !is_carried {
            return none(passage::not_carried(&me));
        }
        match passage::out(bus.filters(), &to, outgoing) {
            Ok(outgoing) => {
                let Probe { path, outcome } = bus.transport().probe(to.clone(), outgoing).await;
                let outcome = passage::back(bus.filters(), &me, &to, &target, outcome);
                Probe { path, outcome }
            }
            Err(error) => none(passage::stopped(&me, &error)),
        }
    }
}

impl<To: fmt::Debug> fmt::Debug for RequestBuilder<To> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outgoing { target, payload, .. } = &self.outgoing;
        write!(f, "{:?} {target} ({} bytes)", self.to, payload.len())
    }
}
