//! Logs: to stderr, as text for people and as JSON for programs, counted where they are warnings.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::{
    args::Global,
    codes::CliCode,
    output::{Failure, Format, stderr_is_colourful},
};

/// How many events at WARN or ERROR there have been in this process, shown or not.
#[derive(Clone, Debug, Default)]
pub struct WarnCount(Arc<AtomicU64>);

impl WarnCount {
    /// The count so far.
    pub fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S: Subscriber> Layer<S> for WarnCount {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() <= Level::WARN {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Starts logging for the whole process, and where it `runs_cells` and is built to, the export of their spans.
///
/// # Errors
/// A usage error when the filter is not one, or the collector of spans has no address.
pub fn start(global: &Global, runs_cells: bool) -> Result<WarnCount, Box<Failure>> {
    let level = match global.verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = global.log.as_deref().unwrap_or(level);
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Failure::new(CliCode::Usage, format!("--log {filter:?} is not a filter: {error}"))
    })?;
    let count = WarnCount::default();
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match global.format {
        Format::Json | Format::Jsonl => layer.json().with_filter(filter).boxed(),
        Format::Table => layer.with_ansi(stderr_is_colourful()).with_filter(filter).boxed(),
    };
    let counting = count.clone().with_filter(LevelFilter::WARN);
    let subscriber = tracing_subscriber::registry().with(layer).with(counting);
    #[cfg(feature = "otel")]
    let subscriber = subscriber.with(spans::start(runs_cells)?);
    #[cfg(not(feature = "otel"))]
    let _ = runs_cells;
    let started = subscriber.try_init();
    started.expect("logging is started once, before anything logs");
    Ok(count)
}

/// Sends what is left of the spans.
#[cfg(feature = "otel")]
pub use self::spans::finish;

/// Nothing is left where nothing is exported.
#[cfg(not(feature = "otel"))]
pub fn finish() {}

/// Spans of messages, to a collector of OpenTelemetry.
#[cfg(feature = "otel")]
mod spans {
    use std::sync::{Mutex, PoisonError};

    use cellbus_otel::{Export, MessageSpans, is_wanted};
    use tracing::Subscriber;
    use tracing_subscriber::{
        filter::{FilterFn, Filtered},
        registry::LookupSpan,
    };

    use crate::{codes::CliCode, output::Failure};

    static EXPORT: Mutex<Option<Export>> = Mutex::new(None);

    pub(super) fn start<S>(
        runs_cells: bool,
    ) -> Result<Option<Filtered<MessageSpans, FilterFn, S>>, Box<Failure>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        if !runs_cells || !is_wanted() {
            return Ok(None);
        }
        let export = Export::from_environment().map_err(|error| {
            Failure::new(CliCode::Usage, format!("OTEL_EXPORTER_OTLP_ENDPOINT: {error}"))
        })?;
        let layer = export.layer().filtered();
        *EXPORT.lock().unwrap_or_else(PoisonError::into_inner) = Some(export);
        Ok(Some(layer))
    }

    pub fn finish() {
        let export = EXPORT.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = export.map(Export::finish) {
            tracing::info!(%error, "spans are lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_errors_are_counted_and_nothing_else() {
        let count = WarnCount::default();
        let subscriber = tracing_subscriber::registry().with(count.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not this");
            tracing::warn!("this");
            tracing::error!("and this");
        });
        assert_eq!(count.so_far(), 2);
    }
}
