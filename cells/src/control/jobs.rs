//! What people ask the server about jobs.

use cellbus_proto::name::Segment;
use serde::{Deserialize, Serialize};

/// A job to run. The cell reads its files itself: this socket is of one machine and one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRunAsk {
    /// The directory with its `job.toml`, as an absolute path.
    pub dir: String,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobAsk {
    /// Its name.
    pub job: Segment,
}

/// What a job has printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobLogsAsk {
    /// Its name.
    pub job: Segment,
    /// Whether to go on until it ends.
    pub follow: bool,
}
