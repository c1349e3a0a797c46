//! The roles of cells and their services: from a topology file to running cells, jobs and answers to
//! people. This is the only crate that reads configuration.

pub mod config;
pub mod control;
pub mod demo;
pub mod door;
pub mod job;
pub mod learning;
pub mod list_files;
pub mod metrics;
pub mod node;
pub mod programs;
pub mod up;

pub use cellbus_launch::shim::{VERB as LAUNCH_SHIM, run as launch_shim};
