//! The JSON schema of the topology file, for editors and for other programs.

use cellbus_proto::topology;
use serde_json::Value;

/// The JSON schema of the topology file.
///
/// It states keys, types, ranges and defaults. What must hold between values, only a check of the
/// file itself tells.
#[must_use]
pub fn schema() -> Value {
    topology::schema().to_value()
}

/// The JSON schema of a `job.toml`.
#[must_use]
pub fn job_schema() -> Value {
    topology::job_schema().to_value()
}
