//! Actors and I/O around the core: QUIC, TLS, local sockets, and the actors that own a cell's state.
//!
//! Every decision is made in `cellbus-proto`; here it is carried out. This is the only crate that names
//! quinn or rustls.

pub mod authority;
mod bus;
pub mod carrier;
pub mod cell;
pub mod certificate;
pub mod clock;
mod conduits;
pub mod conn;
pub mod counters;
pub mod dead_letters;
pub mod endpoint;
pub mod filter;
pub mod host;
pub mod ingress;
pub mod joining;
pub mod link;
pub mod lists;
pub mod local_socket;
pub mod outbox;
pub mod own;
pub mod preflight;
pub mod quic;
pub mod quic_settings;
pub mod seal;
pub mod seam;
pub mod secret_file;
pub mod spans;
pub mod state_dir;
pub mod stats;
pub mod tap;
pub mod throttle;
pub mod tls;
