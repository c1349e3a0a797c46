//! Spans of messages, exported through OpenTelemetry.
//!
//! A message that its sender gave a W3C trace context carries it to its destination. There, the work of the
//! handler is a span of that trace, below the span of the sender, and what the handler sends hangs below that one.
//! Messages without a context have no span.
//!
//! Nothing depends on this crate but the `otel` feature of the command: a build without it compiles nothing of
//! OpenTelemetry.

use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

mod ids;
mod layer;

pub use self::{ids::SpanIds, layer::MessageSpans};

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtelError {
    /// The address of the collector, or another setting, is no good.
    #[error("exporter of spans")]
    Exporter(#[from] ExporterBuildError),
    /// What was left could not be sent.
    #[error("the last spans were not sent")]
    Unsent(#[from] opentelemetry_sdk::error::OTelSdkError),
}

/// Sends spans to a collector, from a thread of its own.
#[derive(Debug)]
pub struct Export(SdkTracerProvider);

impl Export {
    /// Over OTLP, protobuf over HTTP, to where the environment says: `OTEL_EXPORTER_OTLP_ENDPOINT` and the other
    /// variables of the OTLP specification.
    ///
    /// # Errors
    /// [`OtelError::Exporter`].
    pub fn from_environment() -> Result<Self, OtelError> {
        let exporter = SpanExporter::builder().with_http().build()?;
        let resource = Resource::builder().with_service_name("cellbus").build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_id_generator(SpanIds::default());
        Ok(Self(provider.with_batch_exporter(exporter).build()))
    }

    /// What makes the spans, for a subscriber of `tracing`.
    #[must_use]
    pub fn layer(&self) -> MessageSpans {
        MessageSpans::new(&self.0)
    }

    /// Sends what is left, and ends the thread.
    ///
    /// # Errors
    /// [`OtelError::Unsent`].
    pub fn finish(self) -> Result<(), OtelError> {
        Ok(self.0.shutdown()?)
    }
}

/// Whether the environment names a collector.
#[must_use]
pub fn is_wanted() -> bool {
    ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}
