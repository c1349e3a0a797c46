//! Turns events and spans into text for the log.

use std::{
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tracing::{
    Dispatch, Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use super::log::Log;

/// Hands every event to the log, with the fields of the spans around it.
pub(super) struct Collector {
    log: Arc<Mutex<Log>>,
}

/// The fields of a span as text, kept with the span.
struct Fields(String);

impl Collector {
    pub(super) fn new(log: Arc<Mutex<Log>>) -> Self {
        Self { log }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Collector
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        let mut text = Text::default();
        attributes.record(&mut text);
        self.log().check(&place(metadata.target(), metadata.line()), &text.0);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Fields(text.0));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut text = Text::default();
        values.record(&mut text);
        self.log().check(&place(span.metadata().target(), span.metadata().line()), &text.0);
        if let Some(Fields(fields)) = span.extensions_mut().get_mut::<Fields>() {
            fields.push_str(&text.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let level = *metadata.level();
        if !self.log().wants(level) {
            return;
        }
        let mut text = Text(format!("{level} {}:", metadata.target()));
        event.record(&mut text);
        for span in context.event_scope(event).into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<Fields>().map_or("", |fields| &fields.0);
            text.push(format_args!(" in {}{{{}}}", span.name(), fields.trim_start()));
        }
        // Only now: what a field prints may log in turn.
        self.log().add(level, &place(metadata.target(), metadata.line()), text.0);
    }
}

fn place(target: &str, line: Option<u32>) -> String {
    line.map_or_else(|| target.to_owned(), |line| format!("{target} (line {line})"))
}

/// ` message field=value ..`
#[derive(Default)]
struct Text(String);

impl Text {
    fn push(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes everything");
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(format_args!(" {}={value:?}", field.name()));
        if value.contains(['"', '\\']) || value.chars().any(char::is_control) {
            // Quoted it may not look like itself, and then a secret would not either.
            self.push(format_args!(" ({value})"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.push(format_args!(" {value:?}"));
        } else {
            self.push(format_args!(" {}={value:?}", field.name()));
        }
    }
}

/// Keeps the library from deciding, for all threads, that nobody wants an event.
///
/// It caches that for each place in the code that logs. As long as there is one subscriber in the process, it asks
/// only the thread that comes by that place first, which may be one without a guard. This makes one more subscriber,
/// which is in nobody's way and wants everything.
pub(super) fn see_every_callsite() {
    static WANTS_ALL: OnceLock<Dispatch> = OnceLock::new();
    WANTS_ALL.get_or_init(|| Dispatch::new(Registry::default().with(WantsAll)));
}

struct WantsAll;

impl<S: Subscriber> Layer<S> for WantsAll {
    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(Level::TRACE.into())
    }
}
