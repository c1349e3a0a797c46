//! Slurm as a launcher: programs of jobs as batch jobs of a cluster.
//!
//! [`SlurmLauncher`] gives orders to a cluster with the cluster's own commands, and asks them how far these are.
//! [`step`] is what runs on the node: it takes the secret, which is gone before the program runs, and stays above the
//! program until nothing of it is left. Both meet in a directory that the node and the cell share ([`spool`]).
#![warn(missing_docs)]

pub mod error;
pub mod launcher;
pub mod spool;
pub mod state;
pub mod step;

mod command;
mod parse;
mod submit;
mod table;

pub use cellbus_proto::job::{SlurmAllowance, SlurmRefusal, SlurmRequest, SlurmSpec};

pub use self::{error::SlurmError, launcher::SlurmLauncher};
