//! Spans of messages that carry a trace context: for who exports them. Of a message without one nothing is
//! made.

use cellbus_channels::trace;
use cellbus_proto::{
    envelope::{Header, TraceContext},
    name::Fqcn,
};
use tracing::Span;

/// Target of these spans.
///
/// Their fields are `traceparent` (the binary W3C context of the message, 25 bytes in hex: version, trace and
/// span of the sender), `passed_on` (the same of what the handler sends: of the same trace, with the span that this
/// one is to be), `cell`, `origin`, `kind`, `channel` and `topic`.
pub const TARGET: &str = "cellbus::message";

/// Bytes before those of the span in a context.
const SPAN_AT: usize = 17;

/// The work of a handler on one message: its span, and the trace of what it sends.
pub(crate) struct Traced {
    span: Span,
    /// What the messages that it sends belong to.
    pub(crate) trace: Option<TraceContext>,
}

impl Traced {
    /// Runs a step of the work.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        match self.trace {
            None => work(),
            some => self.span.in_scope(|| trace::within(some, work)),
        }
    }
}

/// From the moment when a handler of `cell` is called for the message to its end.
pub(crate) fn of_handler(cell: &Fqcn, message: &Header) -> Traced {
    let Some(sender) = message.extras.as_ref().and_then(|extras| extras.trace) else {
        return Traced { span: Span::none(), trace: None };
    };
    let own = own(sender);
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "handle",
        traceparent = ?sender,
        passed_on = ?own,
        cell = %cell,
        origin = %message.origin.name,
        kind = ?message.kind,
        channel = %message.target.channel(),
        topic = %message.target.topic(),
    );
    // Where nobody makes a span of it, what the handler sends hangs below the span of the sender.
    let trace = if span.is_disabled() { sender } else { own };
    Traced { span, trace: Some(trace) }
}

/// A span of the same trace. Without random bytes it is the one that there is.
fn own(sender: TraceContext) -> TraceContext {
    let mut own = sender;
    match getrandom::fill(&mut own.0[SPAN_AT..]) {
        Ok(()) => own,
        Err(_) => sender,
    }
}
