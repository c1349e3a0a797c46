//! The learning part of the demo: pure numbers, the same for the same input, no cell and no clock.
//!
//! Softmax regression over the digits data by full-batch gradient descent. Sites send sums over
//! their rows; the sums add up to what one place with all rows would compute, so the federated and
//! the central result can be compared weight by weight.

pub mod aggregate;
pub mod digits;
pub mod optimiser;
pub mod report;
pub mod softmax;
pub mod split;
pub mod training;
pub mod wire;
