//! Jobs of a cell: their own cells, as processes of their own, that never see the cell's key.
//!
//! A job cell is this same program. Everything that it needs comes through its standard input, an
//! anonymous file that nobody else can open: its certificate and key, minted for this launch, the
//! address and certificate hash of its parent, and what to run. Nothing secret is an argument, in the
//! environment or in a named file.
//!
//! `parts` runs what one cell has of jobs, `site` and `runs` are the two ends between a site and the server;
//! what is decided is `proto::job`.

use std::{path::Path, time::Duration};

use cellbus_proto::{
    identity::CellKind,
    job::{JobId, JobState, Outcome},
    name::Segment,
};

use self::{parts::Parts, runs::Runs};
use crate::{
    control::JobMeeting,
    node::{Node, NodeCell},
};

mod bootstrap;
mod child_log;
mod files;
mod launchers;
mod parts;
pub mod process;
mod report;
mod runs;
mod site;
#[cfg(test)]
mod tests;

pub use cellbus_launch::Launcher;

pub use self::{
    bootstrap::{JobBootstrap, Limits, Work},
    files::{JOB_FILE, PackError, Package, pack},
    launchers::OpenCluster,
    parts::{AttachError, LaunchError},
    report::{JobReport, LogRow, PartReport},
    runs::{JobNews, Plan, PlanPart, SubmitError},
};

/// Starts and watches the jobs of one cell.
#[derive(Clone)]
pub struct JobHost {
    parts: Option<Parts>,
    runs: Option<Runs>,
}

impl JobHost {
    /// Serves the jobs of `cell`: a site or a relay runs what the server asks for, the server what people do.
    #[must_use]
    pub fn serve(cell: &NodeCell, node: &Node) -> Self {
        let host = match cell.spec().kind {
            CellKind::Client | CellKind::Relay | CellKind::Server => Self::start(cell, node),
            CellKind::Admin | CellKind::Job => Self { parts: None, runs: None },
        };
        cell.set_jobs(host.clone());
        host
    }

    fn start(cell: &NodeCell, node: &Node) -> Self {
        let parts = match Parts::new(cell, node) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::error!(cell = %cell.name(), %error, "this cell runs no jobs");
                return Self { parts: None, runs: None };
            }
        };
        if cell.spec().kind != CellKind::Server {
            site::serve(cell.running(), &parts);
            return Self { parts: Some(parts), runs: None };
        }
        match Runs::serve(cell.running(), node.topology(), &parts, cell.dir()) {
            Ok(runs) => Self { parts: Some(parts), runs: Some(runs) },
            Err(error) => {
                tracing::error!(cell = %cell.name(), %error, "this server takes no jobs");
                Self { parts: Some(parts), runs: None }
            }
        }
    }

    /// Whether jobs can be run from here: at the server.
    #[must_use]
    pub fn takes_jobs(&self) -> bool {
        self.runs.is_some()
    }

    /// Reads the job that is described in `dir`; `None` where this is not the server.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn plan(&self, dir: &Path) -> Option<Result<Plan, SubmitError>> {
        Some(self.runs.as_ref()?.plan(dir))
    }

    /// Starts a job; `None` where this is not the server.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing of the job runs then.
    pub async fn submit(&self, plan: Plan) -> Option<Result<JobId, SubmitError>> {
        Some(self.runs.as_ref()?.submit(plan).await)
    }

    /// Has a job end, and says whether it ran; `None` where there is none of this name.
    #[must_use]
    pub fn cancel(&self, job: &Segment) -> Option<(bool, JobReport)> {
        self.runs.as_ref()?.cancel(job)
    }

    /// Has the part of `job` that this cell runs let one process in that somebody else starts, for so many
    /// seconds from now.
    ///
    /// # Errors
    /// [`AttachError`].
    pub async fn attach(&self, job: &Segment, lifetime_s: u32) -> Result<JobMeeting, AttachError> {
        let parts = self.parts.as_ref().ok_or_else(|| AttachError::NotHere(job.clone()))?;
        parts.attach(job, lifetime_s).await
    }

    /// Every job, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<JobReport> {
        self.runs.as_ref().map(Runs::list).unwrap_or_default()
    }

    /// What is known of `job`, with at most `max` of the lines after line `seen`.
    #[must_use]
    pub fn look(&self, job: &Segment, seen: u64, max: usize) -> Option<JobNews> {
        self.runs.as_ref()?.look(job, seen, max)
    }

    /// Waits until something about some job is new since the last call with this receiver.
    #[must_use]
    pub fn news(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        self.runs.as_ref().map(Runs::news)
    }

    /// Waits until `job` has ended, or `patience` is over, and gives what is known then.
    pub async fn wait_end(&self, job: &Segment, patience: Duration) -> Option<JobReport> {
        let mut news = self.news()?;
        let ended = async {
            loop {
                let known = self.look(job, 0, 0)?;
                if known.report.state == JobState::Ended {
                    return Some(known.report);
                }
                news.changed().await.ok()?;
            }
        };
        match tokio::time::timeout(patience, ended).await {
            Ok(report) => report,
            Err(_elapsed) => self.look(job, 0, 0).map(|known| known.report),
        }
    }

    /// Waits until a part of `job` has failed, and gives where and why.
    pub async fn failure(&self, job: &Segment) -> String {
        let Some(mut news) = self.news() else { return std::future::pending().await };
        loop {
            let failed = self.look(job, 0, 0).and_then(|known| {
                let is_bad = |part: &&PartReport| {
                    matches!(part.outcome, Some(Outcome::Failed | Outcome::Lost))
                };
                let part = known.report.parts.iter().find(is_bad)?;
                let detail = part.detail.as_deref().unwrap_or("it ended");
                Some(format!("{}: {detail}", part.cell))
            });
            if let Some(failed) = failed {
                return failed;
            }
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Ends every job of this cell and waits until they have.
    pub async fn stop_all(&self) {
        if let Some(parts) = &self.parts {
            parts.stop_all().await;
        }
        if let Some(runs) = &self.runs {
            runs.flush().await;
        }
    }
}
