//! Points in time for tests, which read the clock no more than the code does; and JSON of one form.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// An arbitrary origin plus `secs`.
pub(crate) fn at(secs: u64) -> Instant {
    at_ms(secs * 1000)
}

/// The same origin plus `ms` milliseconds.
pub(crate) fn at_ms(ms: u64) -> Instant {
    #[expect(clippy::disallowed_methods, reason = "one arbitrary origin for all tests")]
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    *ORIGIN + Duration::from_millis(ms)
}

/// A value as text with its keys in order, whatever a map of the library keeps them in.
pub(crate) fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(&sorted(value)).expect("a value is JSON")
}

fn sorted(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let fields: std::collections::BTreeMap<_, _> = map.iter().collect();
            fields.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        Value::Array(values) => values.iter().map(sorted).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
