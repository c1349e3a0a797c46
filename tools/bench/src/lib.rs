//! How fast cells are, held against the limit of what carries them.
//!
//! One run measures cells and plain QUIC side by side, in turns, every part in a process of its own. The
//! process that measures starts the others, keeps their accounts and does no work meanwhile.
#![warn(missing_docs)]

mod accounts;
mod count;
mod drive;
mod growth;
mod hold;
pub mod local;
pub mod measure;
mod message;
mod object;
mod perform;
mod raw;
pub mod report;
pub mod row;
mod run;
mod scene;
pub mod side;
mod stage;

pub use self::{
    perform::PerformError,
    run::{BenchError, BenchEvent, Options, run},
    scene::Part,
    stage::{Program, StageError},
};
