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
    /// No relay above its sites is meant.
    #[error("no relay above the sites of the job is among {0}")]
    NoRelays(String),
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
    /// What runs at relays, and which: each hands on what comes from the next part above, and passes what comes from
    /// those below on to it.
    pub relay: Option<(PlanPart, Vec<Fqcn>)>,
    /// What runs at each site.
    pub site: PlanPart,
    /// The sites.
    pub sites: Vec<Fqcn>,
    /// How long it may take.
    pub budget: JobBudget,
    /// The files that travel with it.
    pub package: Arc<Package>,
}

impl Plan {
    /// The relays that have a part.
    pub(super) fn relays(&self) -> &[Fqcn] {
        self.relay.as_ref().map_or(&[], |(_, relays)| relays)
    }

    /// What runs at `cell`, which is `server`, one of the relays or one of the sites.
    pub(super) fn part_at(&self, cell: &Fqcn, server: &Fqcn) -> &PlanPart {
        match &self.relay {
            Some((part, relays)) if relays.contains(cell) => part,
            _ if cell == server => &self.server,
            _ => &self.site,
        }
    }

    /// The cell that hands work to `cell`: the next relay above it that has a part, or `server`.
    pub(super) fn above<'a>(&'a self, cell: &Fqcn, server: &'a Fqcn) -> &'a Fqcn {
        let above = self.relays().iter().filter(|relay| relay.is_ancestor_of(cell));
        above.max_by_key(|relay| relay.depth()).unwrap_or(server)
    }

    /// The cells that `cell`, `server` or one of the relays, hands work to.
    pub(super) fn below(&self, cell: &Fqcn, server: &Fqcn) -> Vec<Fqcn> {
        let all = self.relays().iter().chain(&self.sites);
        all.filter(|other| *other != cell && self.above(other, server) == cell).cloned().collect()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &str) -> Vec<Fqcn> {
        names.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn work_goes_down_and_up_by_the_relays_that_have_a_part_and_past_the_others() {
        let part = |program: &str| PlanPart {
            program: program.parse().unwrap(),
            arguments: BTreeMap::new(),
            environment: BTreeMap::new(),
            memory_mib: None,
            detach_s: 0,
            resources: SlurmRequest::default(),
            has_files: false,
            payload: Bytes::new(),
        };
        let mut plan = Plan {
            name: "mean".parse().unwrap(),
            server: part("server"),
            relay: Some((part("relay"), names("a a.b"))),
            site: part("site"),
            sites: names("a.s1 a.b.s2 a.b.c.s3 d.s4 s5"),
            budget: JobBudget::default(),
            package: Arc::default(),
        };
        let server: Fqcn = "server".parse().unwrap();
        let below = |plan: &Plan, cell: &str| plan.below(&cell.parse().unwrap(), &server);
        assert_eq!(below(&plan, "server"), names("a d.s4 s5"));
        assert_eq!(below(&plan, "a"), names("a.b a.s1"));
        assert_eq!(below(&plan, "a.b"), names("a.b.s2 a.b.c.s3"));
        let runs = |plan: &Plan, cell: &str| {
            plan.part_at(&cell.parse().unwrap(), &server).program.to_string()
        };
        let all = ["server", "a", "a.b", "a.b.s2", "s5"].map(|cell| runs(&plan, cell));
        assert_eq!(all, ["server", "relay", "relay", "site", "site"]);
        plan.relay = None;
        assert_eq!(below(&plan, "server"), plan.sites);
    }
}
