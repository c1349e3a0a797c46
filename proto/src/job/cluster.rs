//! The cluster that some cells give programs to.

use std::net::IpAddr;

use super::SlurmSpec;
use crate::policy::{End, Pattern};

/// A Slurm cluster, and where its users and its nodes meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    /// The cells that use it.
    pub cells: Vec<Pattern>,
    /// A directory that these cells and the nodes see under the same path; absolute.
    pub directory: String,
    /// Where nodes reach the machine of such a cell; `None` where they are that machine.
    pub address: Option<IpAddr>,
    /// What may be asked of it, and how.
    pub slurm: SlurmSpec,
}

impl ClusterSpec {
    /// Whether the cell at this end uses it.
    #[must_use]
    pub fn is_used_at(&self, cell: End<'_>) -> bool {
        self.cells.iter().any(|pattern| pattern.matches(cell))
    }
}
