//! Spans of messages that carry a trace context: for who exports them. Of a message without one nothing is
//! made.

use cellbus_proto::{envelope::Header, name::Fqcn};
use tracing::Span;

/// Target of these spans.
///
/// Their fields are `traceparent` (the binary W3C context of the message, 25 bytes in hex: version, trace and
/// span of the sender), `cell`, `origin`, `kind`, `channel` and `topic`.
pub const TARGET: &str = "cellbus::message";

/// From the moment when a handler of `cell` is called for the message to its end.
pub(crate) fn of_handler(cell: &Fqcn, message: &Header) -> Span {
    let Some(trace) = message.extras.as_ref().and_then(|extras| extras.trace) else {
        return Span::none();
    };
    tracing::info_span!(
        target: TARGET,
        parent: None,
        "handle",
        traceparent = ?trace,
        cell = %cell,
        origin = %message.origin.name,
        kind = ?message.kind,
        channel = %message.target.channel(),
        topic = %message.target.topic(),
    )
}
