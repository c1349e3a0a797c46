//! A job that is to be run: what runs where, for how long, with which files; and why it is not.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use cellbus_proto::{
    job::{SlurmRequest, Value},
    name::{Fqcn, Segment},
    topology::job_file::{JobBudget, JobPart},
};

use super::RUNNING_MAX;
use crate::{
    config::ConfigReport,
    job::files::{PackError, Package},
};

/// Why a job is not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Its file is not good.
    #[error("{0}")]
    File(ConfigReport),
    /// Its files cannot be taken along.
    #[error("files of the job")]
    Pack(#[from] PackError),
    /// A job of this name runs.
    #[error("job `{0}` runs already")]
    Running(Segment),
    /// Too many jobs run.
    #[error("{RUNNING_MAX} jobs run already")]
    TooMany,
    /// No site of the topology is meant.
    #[error("no site of the topology is among {0}")]
    NoSites(String),
    /// What it asks for is not what the cells let jobs do.
    #[error("{cell}: COMPONENT_NOT_ALLOWED")]
    Refused {
        /// The cell.
        cell: Fqcn,
        /// Why.
        source: cellbus_proto::job::Refusal,
    },
    /// The record cannot be written.
    #[error("record of the job")]
    Record(#[from] cellbus_runtime::secret_file::SecretFileError),
    /// There are no random bytes to name the run.
    #[error("a name for the run")]
    Random(#[source] std::io::Error),
    /// The name does not fit below the server.
    #[error("name of the job")]
    Name(#[from] cellbus_proto::name::NameError),
}

/// A job to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: Segment,
    /// What runs at the server.
    pub server: PlanPart,
    /// What runs at each site.
    pub site: PlanPart,
    /// The sites.
    pub sites: Vec<Fqcn>,
    /// How long it may take.
    pub budget: JobBudget,
    /// The files that travel with it.
    pub package: Arc<Package>,
}

/// What runs in one place.
#[derive(Clone, Debug)]
pub struct PlanPart {
    /// The program.
    pub program: Segment,
    /// Values for its parameters.
    pub arguments: BTreeMap<String, Value>,
    /// Variables for it.
    pub environment: BTreeMap<String, String>,
    /// MiB of memory that it may use at most.
    pub memory_mib: Option<u64>,
    /// Seconds that it goes on while its cell is away; 0 where it ends with its cell.
    pub detach_s: u32,
    /// What is asked of the scheduler that runs the program, where one does.
    pub resources: SlurmRequest,
    /// Whether the files go there.
    pub has_files: bool,
    /// What a program of this binary is told.
    pub payload: Bytes,
}

impl From<JobPart> for PlanPart {
    fn from(part: JobPart) -> Self {
        let JobPart { program, arguments, environment, memory_mib, .. } = part;
        let JobPart { detach_s, resources, has_files, .. } = part;
        let payload = Bytes::new();
        Self {
            program,
            arguments,
            environment,
            memory_mib,
            detach_s,
            resources,
            has_files,
            payload,
        }
    }
}
