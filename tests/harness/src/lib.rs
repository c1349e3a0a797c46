//! Scripts for networks of cells in one process: the product's own actors and protocol on links that a
//! test can cut, on a clock that it controls.

pub mod alone;
pub mod guard;
pub mod leaks;
pub mod memory;
pub mod net;
pub mod seeds;
pub mod sim;
