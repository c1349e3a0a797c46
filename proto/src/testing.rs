//! Points in time for tests, which read the clock no more than the code does; and golden vectors: bytes in one file,
//! what they mean as JSON of one form in the other.

use std::{
    fs,
    path::Path,
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

/// Compares the pair of files `name` of the vectors in `tests/vectors/{set}`; with `CELLBUS_WRITE_VECTORS=1` writes it first.
pub(crate) fn compare_vector(set: &str, name: &str, bytes: &[u8], json: &serde_json::Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(set);
    let text = pretty(json) + "\n";
    let (bin, described) = (dir.join(format!("{name}.bin")), dir.join(format!("{name}.json")));
    if std::env::var_os("CELLBUS_WRITE_VECTORS").is_some_and(|value| value == "1") {
        fs::create_dir_all(&dir).expect("the directory of the vectors is ours");
        fs::write(&bin, bytes).expect("the vectors are ours");
        fs::write(&described, &text).expect("the vectors are ours");
    }
    assert_eq!(fs::read(&bin).expect("the vector is there"), bytes, "{name}");
    let found = fs::read_to_string(&described).expect("the vector is there");
    assert_eq!(found, text, "{name}");
}
