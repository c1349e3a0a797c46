//! cellbus-cells
pub mod config;
pub mod control;
pub mod learning;
