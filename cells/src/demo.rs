//! The main job: a real federation on this machine, one real federated training, and its proof.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cellbus_channels::{Bus, Fqcn, RequestError, Segment};
use cellbus_proto::{
    identity::CellKind,
    job::Outcome,
    name::NameError,
    topology::{Topology, job_file::JobBudget},
    well_known,
};
use cellbus_runtime::clock;

use crate::{
    config::{self, ConfigReport},
    job::{JobHost, PartReport, Plan, PlanPart, SubmitError},
    learning::{
        digits,
        optimiser::{Schedule, train_centrally},
        report::{Check, DemoEvent, DemoReport, Findings, SiteShare},
        softmax::{accuracy, max_abs_diff},
        split::{SplitError, among_sites, train_and_test},
    },
    node::{Node, NodeCell, UpError},
    programs::{
        Program,
        learn::{PROGRESS, Parameters, RESULT, Standing, topic},
    },
    up::tree_order,
};

/// The federation of the demo.
pub const TOPOLOGY: &str = include_str!("../data/demo.toml");

/// Name of the job; the last segment of its cells.
const JOB: &str = "digits";
/// How the training rows are shared among the sites, in their order.
const SHARES: [u32; 3] = [50, 30, 20];
/// Time for every cell to register.
const READY: Duration = Duration::from_secs(30);
/// Time for one round.
const ROUND: Duration = Duration::from_secs(60);
/// Time to learn whose part has failed, once the job does not answer.
const BLAME: Duration = Duration::from_secs(5);

/// What may be chosen.
#[derive(Clone, Debug, Default)]
pub struct DemoOptions {
    /// Rounds; enough to pass the accuracy floor unless chosen.
    pub rounds: Option<u32>,
}

/// Why the demo has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// Its own topology is no good.
    #[error("the demo's topology")]
    Topology(#[from] ConfigReport),
    /// A cell cannot be started.
    #[error(transparent)]
    Up(#[from] UpError),
    /// A cell did not register in time.
    #[error("{0} did not register within {READY:?}")]
    NotReady(Fqcn),
    /// The job is not taken.
    #[error("job")]
    Submit(#[from] SubmitError),
    /// There is no cell that takes jobs.
    #[error("the server takes no jobs")]
    NoJobs,
    /// A request that the demo needs failed.
    #[error("{what}")]
    Request {
        /// What it was for.
        what: String,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// A name does not fit.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The rows cannot be dealt out.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The job's cell said what is no answer.
    #[error("the job cell of the server said what is no answer: {0}")]
    Answer(&'static str),
    /// A site's part of the job failed.
    #[error("the job failed at {0}")]
    Site(String),
    /// The training did not move.
    #[error("no round was completed within {ROUND:?}")]
    Stalled,
}

/// A federation that runs in this process.
pub struct Federation {
    node: Node,
    cells: Vec<(NodeCell, JobHost)>,
}

impl Federation {
    /// Starts the demo's cells with state below `root`, and waits until all are registered.
    ///
    /// # Errors
    /// [`DemoError`].
    pub async fn start(root: PathBuf) -> Result<Self, DemoError> {
        let topology = config::read("demo.toml", TOPOLOGY)?.topology;
        let names = tree_order(&topology);
        let mut node = Node::prepare(topology, root)?;
        let mut cells = Vec::new();
        for name in &names {
            let cell = node.start(name)?;
            let host = JobHost::serve(&cell, &node);
            cells.push((cell, host));
        }
        for (cell, _) in &cells {
            let ready = tokio::time::timeout(READY, cell.ready()).await;
            ready.map_err(|_| DemoError::NotReady(cell.name().clone()))?;
        }
        Ok(Self { node, cells })
    }

    /// What runs.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        self.node.topology()
    }

    fn server(&self) -> &(NodeCell, JobHost) {
        self.cells.first().expect("a topology has a server, which is started first")
    }

    fn sites(&self) -> Vec<Fqcn> {
        let is_site = |cell: &&(NodeCell, JobHost)| cell.0.spec().kind == CellKind::Client;
        let mut sites: Vec<Fqcn> =
            self.cells.iter().filter(is_site).map(|(cell, _)| cell.name().clone()).collect();
        sites.sort();
        sites
    }

    fn bus_of(&self, name: &Fqcn) -> Option<Bus> {
        let found = self.cells.iter().find(|(cell, _)| cell.name() == name);
        found.map(|(cell, _)| cell.running().bus())
    }

    /// Ends everything, children first.
    pub async fn stop(&self) {
        let deadline = self.topology().limits.drain_deadline;
        for (_, host) in &self.cells {
            host.stop_all().await;
        }
        for (cell, _) in self.cells.iter().rev() {
            cell.running().drain(deadline).await;
        }
        self.node.finish().await;
    }
}

/// Runs the training on `federation` and examines its claims, except what the log says.
///
/// # Errors
/// [`DemoError`] when there is nothing to examine.
pub async fn train(
    federation: &Federation,
    options: &DemoOptions,
    show: &mut dyn FnMut(&DemoEvent),
) -> Result<Findings, DemoError> {
    let begun = clock::now();
    let sites = federation.sites();
    let job: Segment = JOB.parse()?;
    let (server, host) = federation.server();
    let schedule = Schedule::default();
    let schedule = Schedule { rounds: options.rounds.unwrap_or(schedule.rounds), ..schedule };
    let job_cell = server.job_name(&job)?;
    let parameters = Parameters {
        server: job_cell.clone(),
        sites: sites.clone(),
        shares: SHARES.to_vec(),
        rounds: schedule.rounds,
    };
    let parameters = serde_json::to_vec(&parameters).expect("parameters are plain data");
    let part = |program: Program| {
        Ok::<_, NameError>(PlanPart {
            program: program.name().parse()?,
            arguments: Default::default(),
            environment: Default::default(),
            memory_mib: None,
            detach_s: 0,
            resources: cellbus_proto::job::SlurmRequest::default(),
            has_files: false,
            payload: parameters.clone().into(),
        })
    };

    show(&DemoEvent::Phase { name: "starting the job".to_owned() });
    let plan = Plan {
        name: job.clone(),
        server: part(Program::LearnServer)?,
        relay: None,
        site: part(Program::LearnTrainer)?,
        sites: sites.clone(),
        budget: JobBudget::default(),
        package: Arc::default(),
    };
    host.submit(plan).await.ok_or(DemoError::NoJobs)??;
    let bus = server.running().bus();
    tokio::select! {
        biased;
        failed = host.failure(&job) => return Err(DemoError::Site(failed)),
        there = await_job_cell(&bus, &job_cell) => there?,
    }

    show(&DemoEvent::Phase { name: "training".to_owned() });
    let standing = tokio::select! {
        biased;
        failed = host.failure(&job) => return Err(DemoError::Site(failed)),
        standing = follow(&bus, &job_cell, schedule.rounds, show) => standing,
    };
    let standing = match standing {
        Ok(standing) => standing,
        // The job cell of the server may be gone before it is known here whose part has failed.
        Err(error) => match tokio::time::timeout(BLAME, host.failure(&job)).await {
            Ok(failed) => return Err(DemoError::Site(failed)),
            Err(_nobodys) => return Err(error),
        },
    };
    let federated = result(&bus, &job_cell).await?;
    // The job cells end by themselves.
    let ended = host.wait_end(&job, ROUND).await;
    if let Some(detail) = ended.and_then(|report| report.detail) {
        return Err(DemoError::Site(detail));
    }

    show(&DemoEvent::Phase { name: "examining the result".to_owned() });
    let examined = tokio::task::spawn_blocking(move || examine(&federated, &schedule)).await;
    let examined = examined.expect("it is computed to its end")?;
    let denied_code = forbidden(federation, &sites).await;
    let elapsed = clock::now().saturating_duration_since(begun);
    Ok(Findings {
        accuracy: examined.accuracy,
        weights_max_abs_diff: examined.weights_max_abs_diff,
        denied_code,
        log_warn_or_error: 0,
        rounds: standing.round,
        sites: sites
            .iter()
            .zip(examined.rows)
            .map(|(site, rows)| SiteShare { name: site.to_string(), rows })
            .collect(),
        bytes_sent: standing.bytes,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    })
}

/// What the weights are worth, and how far they are from those of training in one place.
struct Examined {
    accuracy: f64,
    weights_max_abs_diff: f64,
    /// Of each site.
    rows: Vec<usize>,
}

fn examine(federated: &[f64], schedule: &Schedule) -> Result<Examined, SplitError> {
    let parts = train_and_test(digits::embedded());
    let rows = among_sites(&parts.train, &SHARES)?.iter().map(|rows| rows.len()).collect();
    let central = train_centrally(&parts.train, schedule);
    Ok(Examined {
        accuracy: accuracy(federated, &parts.test),
        weights_max_abs_diff: max_abs_diff(federated, &central),
        rows,
    })
}

/// Turns what was measured into claims, with those of the jobs' ends.
#[must_use]
pub fn report(findings: Findings, federation: &Federation) -> DemoReport {
    let expected = federation.sites().len();
    let (server, host) = federation.server();
    let parts = JOB.parse().ok().and_then(|job| host.look(&job, 0, 0));
    let parts = parts.map(|known| known.report.parts).unwrap_or_default();
    let is_done = |part: &&PartReport| {
        part.cell != *server.name() && part.outcome == Some(Outcome::Completed)
    };
    let completed = parts.iter().filter(is_done).count();
    let mut report = DemoReport::new(findings);
    report.push(Check {
        name: "site_jobs_completed".to_owned(),
        ok: completed == expected,
        value: completed.to_string(),
        expect: expected.to_string(),
    });
    report
}

/// Waits until the job cell of the server answers.
async fn await_job_cell(bus: &Bus, job_cell: &Fqcn) -> Result<(), DemoError> {
    const LOOK: Duration = Duration::from_millis(20);
    let deadline = clock::now() + READY;
    loop {
        let ping = bus.request(job_cell.clone(), well_known::PING.into()).send().await;
        match ping {
            Ok(_) => return Ok(()),
            Err(source) if clock::now() > deadline => {
                return Err(DemoError::Request { what: format!("waiting for {job_cell}"), source });
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn follow(
    bus: &Bus,
    job_cell: &Fqcn,
    rounds: u32,
    show: &mut dyn FnMut(&DemoEvent),
) -> Result<Standing, DemoError> {
    let begun = clock::now();
    let mut known = 0u32;
    let mut moved = clock::now();
    loop {
        let request = bus.request(job_cell.clone(), topic(PROGRESS));
        let reply = request.payload(known.to_be_bytes().to_vec()).send().await;
        let reply = reply.map_err(|source| DemoError::Request {
            what: "asking for progress".to_owned(),
            source,
        })?;
        let standing: Standing = serde_json::from_slice(&reply.payload)
            .map_err(|_| DemoError::Answer("progress is not JSON"))?;
        if standing.round > known {
            known = standing.round;
            moved = clock::now();
            let elapsed = clock::now().saturating_duration_since(begun);
            show(&DemoEvent::Round {
                round: standing.round,
                of: rounds,
                loss: standing.loss,
                accuracy: standing.accuracy,
                bytes: standing.bytes,
                elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            });
        }
        if known >= rounds {
            return Ok(standing);
        }
        if clock::now().saturating_duration_since(moved) > ROUND {
            return Err(DemoError::Stalled);
        }
    }
}

async fn result(bus: &Bus, job_cell: &Fqcn) -> Result<Vec<f64>, DemoError> {
    let reply = bus.request(job_cell.clone(), topic(RESULT)).send().await;
    let reply = reply
        .map_err(|source| DemoError::Request { what: "taking the result".to_owned(), source })?;
    let chunks = reply.payload.chunks_exact(size_of::<f64>());
    if !chunks.remainder().is_empty() {
        return Err(DemoError::Answer("weights are not whole numbers of eight bytes"));
    }
    let weights = chunks.map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    Ok(weights.collect())
}

/// A message from one site to another, which nothing allows: the code that it is refused with.
async fn forbidden(federation: &Federation, sites: &[Fqcn]) -> Option<String> {
    let (from, to) = (sites.first()?, sites.last()?);
    let target = "notes/hello".parse().ok()?;
    let request = federation.bus_of(from)?.request(to.clone(), target).payload("hello");
    match request.send().await {
        Ok(_) => None,
        Err(error) => Some(error.status().code().to_owned()),
    }
}
