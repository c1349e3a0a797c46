//! Jobs of a cell: their own cells, as processes of their own, that never see the cell's key.
//!
//! A job cell is this same program. Everything that it needs comes through its standard input, an
//! anonymous file that nobody else can open: its certificate and key, minted for this launch, the
//! address and certificate hash of its parent, and what to run. Nothing secret is an argument, in the
//! environment or in a named file.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use cellbus_channels::{Event, Failure, JobChange, Reply, from_fn};
use cellbus_proto::{
    causes::with_sources,
    codec::body::{self, JobEnded, JobStart, JobStop},
    directory::Directory,
    identity::{CellKind, Identity},
    name::{Fqcn, Segment},
    status::Status,
    well_known,
};
use cellbus_runtime::{
    authority::{AuthorityError, mint_job},
    quic::QuicPortError,
};
use tokio::{process::Child, sync::watch};

use crate::node::{JobDoor, Node, NodeCell};

mod bootstrap;
mod child_log;
pub mod process;
#[cfg(test)]
mod tests;

pub use self::bootstrap::JobBootstrap;

/// Why a job cell cannot be launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The job's name does not fit below this cell.
    #[error("job name")]
    Name(#[from] cellbus_proto::name::NameError),
    /// A job of this name runs here already.
    #[error("job `{0}` runs here already")]
    Running(Segment),
    /// The certificate cannot be minted.
    #[error("certificate of the job")]
    Certificate(#[from] AuthorityError),
    /// The port for job cells cannot be opened.
    #[error("port for job cells")]
    Port(#[from] QuicPortError),
    /// The process cannot be started.
    #[error("process of the job cell")]
    Process(#[from] std::io::Error),
}

/// Starts and watches the job cells of one cell.
#[derive(Clone)]
pub struct JobHost {
    inner: Arc<Inner>,
}

struct Inner {
    own: Arc<cellbus_runtime::own::Own>,
    running: cellbus_runtime::host::RunningCell,
    door: Arc<JobDoor>,
    directory: Arc<Directory>,
    dir: PathBuf,
    jobs: Mutex<BTreeMap<Segment, watch::Sender<JobState>>>,
    /// How jobs have ended at sites, as these told the server.
    site_ends: watch::Sender<BTreeMap<(Segment, Fqcn), JobState>>,
}

/// Where a job of this cell is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Its cell runs.
    Running,
    /// It is being ended.
    Stopping,
    /// Its cell has ended: whether with success, and else how.
    Ended {
        /// Whether it did what it was for.
        completed: bool,
        /// What happened otherwise.
        detail: String,
    },
}

impl JobHost {
    /// Serves the jobs of `cell`: a site starts what the server asks for.
    #[must_use]
    pub fn serve(cell: &NodeCell, node: &Node) -> Self {
        let host = Self {
            inner: Arc::new(Inner {
                own: Arc::clone(cell.running().own()),
                running: cell.running().clone(),
                door: Arc::clone(cell.jobs()),
                directory: Arc::clone(node.directory()),
                dir: cell.dir().to_owned(),
                jobs: Mutex::default(),
                site_ends: watch::Sender::default(),
            }),
        };
        match cell.spec().kind {
            CellKind::Client => host.serve_server(),
            CellKind::Server => host.hear_sites(),
            CellKind::Relay | CellKind::Admin | CellKind::Job => {}
        }
        host
    }

    fn serve_server(&self) {
        let host = self.clone();
        let start = from_fn(move |delivery| {
            let host = host.clone();
            async move {
                let start: JobStart =
                    body::decode_exact(&delivery.payload).map_err(|error| error.status)?;
                host.launch(start.job, start.program, start.parameters.0.into())
                    .map_err(|error| Failure::failed(with_sources(&error)))?;
                Ok(Reply::default())
            }
        });
        let host = self.clone();
        let stop = from_fn(move |delivery| {
            let host = host.clone();
            async move {
                let JobStop { job } =
                    body::decode_exact(&delivery.payload).map_err(|error| error.status)?;
                host.stop(&job).ok_or(Failure::Refused(Status::BadTarget))?;
                Ok(Reply::default())
            }
        });
        let running = &self.inner.running;
        for (topic, outcome) in [
            (well_known::JOB_START, running.handle_system(well_known::JOB_START, start)),
            (well_known::JOB_STOP, running.handle_system(well_known::JOB_STOP, stop)),
        ] {
            if let Err(error) = outcome {
                tracing::error!(topic = topic.topic, %error, "a job topic is not served");
            }
        }
    }

    /// The server hears how jobs end at sites. Which site says so is what the filter verified, and a
    /// site speaks for its own part of a job only.
    fn hear_sites(&self) {
        let host = self.clone();
        let heard = from_fn(move |delivery| {
            let host = host.clone();
            async move {
                let JobEnded { job, completed, detail } =
                    body::decode_exact(&delivery.payload).map_err(|error| error.status)?;
                let site = delivery.origin.name;
                tracing::info!(%job, %site, completed, "job has ended at a site");
                host.inner.running.allow_job(site.clone(), job.clone(), false);
                host.notice(&site, &job, end_of(completed, &detail));
                host.inner.site_ends.send_modify(|ends| {
                    const ENDS_MAX: usize = 4096;
                    if ends.len() < ENDS_MAX {
                        ends.insert((job, site), JobState::Ended { completed, detail });
                    }
                });
                Ok(Reply::default())
            }
        });
        if let Err(error) = self.inner.running.handle_system(well_known::JOB_ENDED, heard) {
            tracing::error!(%error, "the ends of jobs are not heard");
        }
    }

    /// Waits until `sites` sites have told how `job` ended, or `patience` is over.
    pub async fn wait_site_ends(&self, job: &Segment, sites: usize, patience: std::time::Duration) {
        let mut ends = self.inner.site_ends.subscribe();
        let all =
            ends.wait_for(|ends| ends.keys().filter(|(name, _)| name == job).count() >= sites);
        // Whoever is missing is missing in the report.
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// Waits until a site tells that its part of `job` has failed, and gives which and why.
    pub async fn site_failure(&self, job: &Segment) -> String {
        let mut ends = self.inner.site_ends.subscribe();
        loop {
            let failed =
                ends.borrow_and_update().iter().find_map(|((name, site), state)| match state {
                    JobState::Ended { completed: false, detail } if name == job => {
                        Some(format!("{site}: {detail}"))
                    }
                    JobState::Ended { .. } | JobState::Running | JobState::Stopping => None,
                });
            if let Some(failed) = failed {
                return failed;
            }
            if ends.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Sites that have told of a job which did what it was for.
    #[must_use]
    pub fn completed_sites(&self) -> usize {
        let done = |state: &&JobState| matches!(state, JobState::Ended { completed: true, .. });
        self.inner.site_ends.borrow().values().filter(done).count()
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, BTreeMap<Segment, watch::Sender<JobState>>> {
        self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Launches the cell of `job` with `program`, and watches it.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing of the job runs then.
    pub fn launch(
        &self,
        job: Segment,
        program: Segment,
        parameters: Bytes,
    ) -> Result<watch::Receiver<JobState>, LaunchError> {
        let inner = &self.inner;
        let name = inner.own.name.child(&job)?;
        let (state, watch) = watch::channel(JobState::Running);
        {
            let mut jobs = self.jobs();
            let lives = |state: &watch::Sender<JobState>| {
                !matches!(*state.borrow(), JobState::Ended { .. })
            };
            if jobs.get(&job).is_some_and(lives) {
                return Err(LaunchError::Running(job));
            }
            jobs.insert(job.clone(), state);
        }
        match self.start_process(&name, program, parameters) {
            Ok((child, pin)) => {
                self.notice(&inner.own.name, &job, JobChange::Started);
                actix_rt::spawn(self.clone().watch(job, child, pin));
                Ok(watch)
            }
            Err(error) => {
                self.jobs().remove(&job);
                Err(error)
            }
        }
    }

    fn start_process(
        &self,
        name: &Fqcn,
        program: Segment,
        parameters: Bytes,
    ) -> Result<(Child, [u8; 32]), LaunchError> {
        let inner = &self.inner;
        let identity = Identity {
            project: inner.own.identity.project.clone(),
            kind: CellKind::Job,
            name: name.clone(),
            org: inner.own.identity.org.clone(),
            role: None,
        };
        let issued = mint_job(&identity, inner.own.wall.unix())?;
        let address = inner.door.open()?;
        let lists = inner.own.lists.view();
        let bootstrap = JobBootstrap::new(
            &inner.own,
            name.clone(),
            &issued,
            address,
            lists.directory().unwrap_or(&inner.directory),
            inner.dir.join("jobs").join(name.base()),
            program,
            parameters,
        );
        let pin = issued.hash();
        inner.door.pins.add(pin);
        // What whoever started this process left open is not for jobs; what this one opens never is.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let spawned = bootstrap.to_memfd().and_then(|fd| {
            tokio::process::Command::new(std::env::current_exe()?)
                .args(["-o", "json", process::VERB])
                .env_clear()
                .envs(process::allowed_environment())
                .stdin(Stdio::from(fd))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
        });
        match spawned {
            Ok(child) => Ok((child, pin)),
            Err(error) => {
                inner.door.pins.remove(&pin);
                Err(error.into())
            }
        }
    }

    /// Waits for the end of a job cell; ends it when it is to be stopped.
    async fn watch(self, job: Segment, mut child: Child, pin: [u8; 32]) {
        const GRACE: std::time::Duration = std::time::Duration::from_secs(5);
        if let Some(stderr) = child.stderr.take() {
            actix_rt::spawn(child_log::relay(stderr, job.clone()));
        }
        let mut state = match self.jobs().get(&job) {
            Some(state) => state.subscribe(),
            None => return,
        };
        let stopping = async {
            // Ends also when the record is gone, which it is not before the end of the job.
            let _ = state.wait_for(|state| *state == JobState::Stopping).await;
        };
        let status = tokio::select! {
            status = child.wait() => status,
            () = stopping => {
                process::signal_group(child.id(), rustix::process::Signal::TERM);
                match tokio::time::timeout(GRACE, child.wait()).await {
                    Ok(status) => status,
                    Err(_elapsed) => {
                        process::signal_group(child.id(), rustix::process::Signal::KILL);
                        child.wait().await
                    }
                }
            }
        };
        self.inner.door.pins.remove(&pin);
        let (completed, detail) = match status {
            Ok(status) if status.success() => (true, String::new()),
            Ok(status) => (false, status.to_string()),
            Err(error) => (false, error.to_string()),
        };
        tracing::info!(cell = %self.inner.own.name, %job, completed, detail, "job has ended");
        if let Some(state) = self.jobs().get(&job) {
            let detail = detail.clone();
            state.send_replace(JobState::Ended { completed, detail });
        }
        self.notice(&self.inner.own.name, &job, end_of(completed, &detail));
        self.report(job, completed, detail).await;
    }

    /// Tells those who listen to events of this cell what has become of `job` at `runner`.
    fn notice(&self, runner: &Fqcn, job: &Segment, change: JobChange) {
        // A name that does not fit below its cell never got as far as a process.
        if let Ok(cell) = runner.child(job) {
            self.inner.own.notices.tell(Event::Job { cell, change });
        }
    }

    /// Tells the server how a job of this site has ended.
    async fn report(&self, job: Segment, completed: bool, detail: String) {
        if self.inner.own.kind() != CellKind::Client {
            return;
        }
        let body = body::encode(&JobEnded { job, completed, detail });
        let bus = self.inner.running.bus();
        let told = bus
            .request(self.inner.own.server.clone(), well_known::JOB_ENDED.into())
            .payload(body)
            .budget(std::time::Duration::from_secs(5))
            .send()
            .await;
        if let Err(error) = told {
            tracing::info!(cell = %self.inner.own.name, %error, "the server was not told");
        }
    }

    /// Ends a job; `None` where there is none of this name.
    pub fn stop(&self, job: &Segment) -> Option<watch::Receiver<JobState>> {
        let jobs = self.jobs();
        let state = jobs.get(job)?;
        state.send_if_modified(|state| {
            let runs = *state == JobState::Running;
            if runs {
                *state = JobState::Stopping;
            }
            runs
        });
        Some(state.subscribe())
    }

    /// Ends every job of this cell and waits until they have.
    pub async fn stop_all(&self) {
        let names: Vec<Segment> = self.jobs().keys().cloned().collect();
        let ending: Vec<_> = names.iter().filter_map(|job| self.stop(job)).collect();
        for mut state in ending {
            // Ends also when the record is gone.
            let _ = state.wait_for(|state| matches!(state, JobState::Ended { .. })).await;
        }
    }
}

fn end_of(completed: bool, detail: &str) -> JobChange {
    if completed { JobChange::Completed } else { JobChange::Failed(detail.to_owned()) }
}
