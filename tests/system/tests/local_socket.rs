//! Job code of real job cells: what it sends through its local socket, over relays, and gets through another.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen to be tests")]

#[path = "local_socket/files.rs"]
mod files;
#[path = "local_socket/jobs.rs"]
mod jobs;
#[path = "local_socket/messages.rs"]
mod messages;
