//! The local socket, over a real one: who is let in, what is bridged, and what hostile job code can do.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen to be tests")]

mod attached;
mod bridge;
mod cell_and_job;
mod door;
mod hostile;
mod launch;
mod loss;
mod meeting;
mod operations;
mod place;
