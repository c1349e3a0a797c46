//! Ids of spans: those that messages already carry, else random ones.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

thread_local! {
    static NEXT: Cell<Option<SpanId>> = const { Cell::new(None) };
}

/// Gives the span of a handler the id below which the messages hang that the handler sends: the cell has drawn it when
/// it called the handler. Every other id is random.
#[derive(Clone, Debug, Default)]
pub struct SpanIds(RandomIdGenerator);

impl IdGenerator for SpanIds {
    fn new_trace_id(&self) -> TraceId {
        self.0.new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.take().unwrap_or_else(|| self.0.new_span_id())
    }
}

/// Makes a span, with this id where there is one.
pub(crate) fn with_next<T>(id: Option<SpanId>, make: impl FnOnce() -> T) -> T {
    NEXT.set(id);
    let made = make();
    NEXT.set(None);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_was_drawn_is_given_once() {
        let (ids, drawn) = (SpanIds::default(), SpanId::from_bytes([7; 8]));
        let given = with_next(Some(drawn), || [ids.new_span_id(), ids.new_span_id()]);
        assert_eq!(given[0], drawn);
        assert_ne!(given[1], drawn);
        with_next(Some(drawn), || ());
        assert_ne!(ids.new_span_id(), drawn, "it was not for this one");
    }
}
