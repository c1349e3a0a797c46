//! What cells say to each other, and every decision they make about it.
//!
//! Nothing in this crate performs I/O, reads a clock, draws a random number or spawns a task. Bytes
//! and time come in as arguments; values go out.
#![warn(missing_docs)]

pub mod admission;
pub mod batch;
pub mod breaker;
pub mod bundle;
pub mod causes;
pub mod challenge;
pub mod clock_offset;
pub mod codec;
pub mod dead_letters;
pub mod dedupe;
pub mod directory;
pub mod envelope;
pub mod exchange;
pub mod fan;
pub mod folded;
pub mod identity;
pub mod idle;
pub mod inflight;
pub mod job;
pub mod joining;
pub mod link;
pub mod load;
pub mod local;
pub mod name;
pub mod order;
pub mod policy;
pub mod proof;
pub mod registry;
pub mod renewal;
pub mod route;
pub mod sealing;
pub mod status;
pub mod task;
pub mod token;
pub mod topology;
pub mod transcript;
pub mod transfer;
pub mod trust;
pub mod well_known;

#[cfg(test)]
mod testing;
