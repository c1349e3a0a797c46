//! What one measurement found.

use serde::{Deserialize, Serialize};

use crate::scene::Part;

/// Cores that other programs may use before a row counts as noisy.
pub const FOREIGN_MAX: f64 = 0.25;

/// One measurement. What a measure does not have is absent from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name.
    pub measure: String,
    /// Who carried the messages: `cellbus`, `raw-rr`, `raw-rrf`, `raw`, `raw-digest` or `raw-defaults`.
    pub peer: String,
    /// The round, from 1.
    pub round: u32,
    /// How often it has been tried in this round, from 1. The last one counts.
    pub attempt: u32,
    /// Per second: replies, messages, objects or connections.
    pub rate: Option<f64>,
    /// Half took no longer.
    pub p50_us: Option<f64>,
    /// 99 % took no longer.
    pub p99_us: Option<f64>,
    /// 99.9 % took no longer.
    pub p999_us: Option<f64>,
    /// How many were counted.
    pub done: u64,
    /// Time in which they were, in seconds.
    pub window_s: f64,
    /// Processor time of all sides, in seconds.
    pub cpu_s: f64,
    /// The same for each of what was counted, in microseconds.
    pub cpu_us_each: Option<f64>,
    /// Largest peak of memory among the sides, in MiB.
    pub peak_mib: f64,
    /// Megabytes of objects per second.
    pub mb_s: Option<f64>,
    /// What the process that grows most grew by while objects moved, beyond what was asked to be kept in memory; of a
    /// fan, what the server grew by. In MiB.
    pub growth_mib: Option<f64>,
    /// Bytes of datagrams that left the holder for each byte of an object.
    pub wire: Option<f64>,
    /// Bytes of objects that the holder wrote for each byte of an object: as many as its links carry.
    pub copies: Option<f64>,
    /// Growth of the server for each connected cell, in KiB.
    pub kib_per_cell: Option<f64>,
    /// Growth of both ends for each request whose reply is held back, in KiB.
    #[serde(default)]
    pub kib_per_request: Option<f64>,
    /// Every process.
    pub sides: Vec<Side>,
    /// Cores that programs used which have no part in it.
    pub foreign: f64,
    /// Whether that was too much for the row to count.
    pub noisy: bool,
    /// What failed, was lost, or came too often.
    pub failed: u64,
    /// How the first one failed.
    pub why: Option<String>,
    /// How often a sender was told to try again.
    pub refused: u64,
}

/// One process of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Its part.
    pub part: Part,
    /// Processor time, in seconds.
    pub cpu_s: f64,
    /// Peak of memory, in MiB.
    pub peak_mib: f64,
    /// By how much that is more than before, where objects moved, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth_mib: Option<f64>,
}
