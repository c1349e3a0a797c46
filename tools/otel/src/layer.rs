//! From spans of `tracing` to spans of OpenTelemetry.

use std::fmt::Debug;

use cellbus_runtime::spans::TARGET;
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, Filtered, filter_fn},
    layer,
    registry::LookupSpan,
};

use crate::ids;

/// A layer that makes a span of OpenTelemetry of each span of a message, and of no other.
#[derive(Debug)]
pub struct MessageSpans {
    tracer: SdkTracer,
}

impl MessageSpans {
    /// One whose spans `provider` exports. It must draw the ids of spans from [`SpanIds`](crate::SpanIds), or what
    /// handlers send hangs below spans that nobody knows.
    #[must_use]
    pub fn new(provider: &SdkTracerProvider) -> Self {
        Self { tracer: provider.tracer("cellbus") }
    }

    /// The same, which keeps others from making spans that nobody exports.
    #[must_use]
    pub fn filtered<S>(self) -> Filtered<Self, FilterFn, S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        fn is_of_message(metadata: &Metadata<'_>) -> bool {
            metadata.is_span() && metadata.target() == TARGET
        }
        self.with_filter(filter_fn(is_of_message as fn(&Metadata<'_>) -> bool))
    }
}

impl<S> Layer<S> for MessageSpans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: layer::Context<'_, S>) {
        if attributes.metadata().target() != TARGET {
            return;
        }
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let Some(sender) = fields.sender else { return };
        let span = self
            .tracer
            .span_builder(attributes.metadata().name())
            .with_kind(SpanKind::Server)
            .with_attributes(fields.others);
        let parent = Context::new().with_remote_span_context(sender);
        let own = fields.passed_on.map(|passed_on| passed_on.span_id());
        let span = ids::with_next(own, || self.tracer.build_with_context(span, &parent));
        if let Some(entry) = context.span(id) {
            entry.extensions_mut().insert(span);
        }
    }

    fn on_close(&self, id: Id, context: layer::Context<'_, S>) {
        let ended = context.span(&id).and_then(|entry| entry.extensions_mut().remove::<Span>());
        if let Some(mut span) = ended {
            span.end();
        }
    }
}

/// What a span of a message says.
#[derive(Debug, Default)]
struct Fields {
    sender: Option<SpanContext>,
    passed_on: Option<SpanContext>,
    others: Vec<KeyValue>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "traceparent" => self.sender = sender(&value),
            "passed_on" => self.passed_on = sender(&value),
            name => self.others.push(KeyValue::new(format!("cellbus.{name}"), value)),
        }
    }
}

/// The sender's span, from the binary W3C context in hex: version, 16 bytes of trace id, 8 of span id. It is
/// one that is recorded, since its sender has passed it on.
fn sender(hex: &str) -> Option<SpanContext> {
    let trace = TraceId::from_hex(hex.get(2..34)?).ok()?;
    let span = SpanId::from_hex(hex.get(34..50)?).ok()?;
    let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default());
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_that_is_none_is_no_parent() {
        let good = format!("00{}{}", "0a".repeat(16), "0b".repeat(8));
        assert_eq!(
            sender(&good).map(|context| context.span_id()),
            SpanId::from_hex("0b0b0b0b0b0b0b0b").ok()
        );
        for bad in ["", "00", &good[..49], &"00".repeat(25), "zz".repeat(25).as_str()] {
            assert_eq!(sender(bad), None, "{bad}");
        }
    }
}
