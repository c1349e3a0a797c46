//! The exchange of tasks for federated work: who is given what to do, and whose result counts.
//!
//! One cell hands out tasks, its *board*; *workers* at sites fetch them and submit results. [`Board`] decides,
//! [`wire`] is what travels. The site is always the verified origin of a message and never a field of it, so
//! no site can take part for another.

mod board;
pub mod wire;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use self::board::{Assignment, Board, Fetched, Missing, Posting, Standing, TaskId, Unknown};

/// A worker: drawn by each process of a trainer when it starts.
pub type Worker = crate::codec::Octets<16>;
