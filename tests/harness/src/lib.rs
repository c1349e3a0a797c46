//! cellbus-harness

pub mod alone;
pub mod guard;
pub mod leaks;
pub mod seeds;
pub mod sim;
