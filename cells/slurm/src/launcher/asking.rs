//! How far a job is, and whether it is one of this launcher at all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cellbus_launch::{Exit, Handle, HandleError, Progress};

use super::{Inner, SlurmLauncher, TABLE_AGE};
use crate::{
    SlurmError,
    command::PATIENCE,
    parse::{self, Facts, Row},
    spool::Mark,
    state::Stage,
    submit,
};

/// A job of Slurm with its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Job {
    pub id: u32,
    pub mark: Mark,
}

/// What has been learned about a job.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// That it bears its mark.
    pub is_ours: bool,
    /// What was said about it last.
    pub told: Option<Progress>,
    /// How it ended.
    pub ended: Option<Exit>,
    /// Since when its step is to kill its program.
    pub killed: Option<Instant>,
}

/// How long a step may take to kill its program.
const KILLING: Duration = Duration::from_secs(10);

impl Job {
    /// The job that `handle` names; `None` for a handle of another launcher.
    pub(super) fn of(handle: &Handle) -> Option<Self> {
        let (id, mark) = handle.token.split_once('.')?;
        let (id, mark) = (parse::number_of(id)?, mark.parse().ok()?);
        (handle.launcher == SlurmLauncher::NAME).then_some(Self { id, mark })
    }

    pub(super) fn handle(&self) -> Handle {
        let token = format!("{}.{}", self.id, self.mark);
        Handle { launcher: SlurmLauncher::NAME.to_owned(), token }
    }

    pub(super) fn unknown(&self) -> HandleError {
        HandleError::Unknown(self.handle().to_string())
    }

    pub(super) fn system(&self, error: SlurmError) -> HandleError {
        HandleError::System { handle: self.handle().to_string(), source: error.into() }
    }
}

impl Inner {
    /// What `handle` names, if it has a directory here.
    pub(super) fn find(&self, handle: &Handle) -> Result<Job, HandleError> {
        let unknown = || HandleError::Unknown(handle.to_string());
        Job::of(handle).filter(|job| self.spool.holds(&job.mark)).ok_or_else(unknown)
    }

    fn seen_of(&self, job: &Job) -> Seen {
        self.seen().get(job).copied().unwrap_or_default()
    }

    fn learn(&self, job: &Job, learn: impl FnOnce(&mut Seen)) {
        learn(self.seen().entry(job.clone()).or_default());
    }

    /// Whether the step of a job was to kill its program long ago. It is to kill it from now on.
    pub(super) fn is_overdue(&self, job: &Job) -> bool {
        let mut is_overdue = false;
        self.learn(job, |seen| {
            is_overdue = seen.killed.get_or_insert_with(Instant::now).elapsed() > KILLING;
        });
        is_overdue
    }

    /// Whether `progress` is not what was said last. It is what was said last from now on.
    pub(super) fn is_news(&self, job: &Job, progress: Progress) -> bool {
        let mut is_news = true;
        self.learn(job, |seen| {
            let is_end = matches!(progress, Progress::Ended(_));
            is_news = seen.told.replace(progress) != Some(progress) || is_end;
        });
        is_news
    }

    /// What Slurm says about a job; `None` when it knows none of this number.
    async fn facts(&self, id: u32) -> Result<Option<Facts>, SlurmError> {
        let arguments = ["show", "job", &id.to_string()].map(str::to_owned);
        let said = self.commands.run("scontrol", &arguments, "", PATIENCE).await?;
        if said.is_no_such_job() {
            return Ok(None);
        }
        parse::facts(&said.success()?, id).map(Some)
    }

    /// What Slurm says about a job that bears its mark and is this user's; `None` when it has forgotten it.
    ///
    /// # Errors
    /// [`HandleError::Unknown`] for a job that is somebody else's.
    pub(super) async fn own_facts(&self, job: &Job) -> Result<Option<Facts>, HandleError> {
        let facts = self.facts(job.id).await.map_err(|error| job.system(error))?;
        let Some(facts) = facts else { return Ok(None) };
        if facts.row.uid == self.uid && facts.comment == submit::comment_of(&job.mark) {
            self.learn(job, |seen| seen.is_ours = true);
            return Ok(Some(facts));
        }
        tracing::warn!(
            id = job.id,
            uid = facts.row.uid,
            "a job in Slurm is not the one that was launched"
        );
        Err(job.unknown())
    }

    /// Makes sure that a job bears its mark, if Slurm still knows it.
    pub(super) async fn own(&self, job: &Job) -> Result<(), HandleError> {
        if self.seen_of(job).is_ours {
            return Ok(());
        }
        self.own_facts(job).await.map(drop)
    }

    /// How far a job is.
    ///
    /// # Errors
    /// [`HandleError::System`] when that is not known now.
    pub(super) async fn look(self: &Arc<Self>, job: &Job) -> Result<Progress, HandleError> {
        if let Some(exit) = self.seen_of(job).ended {
            return Ok(Progress::Ended(exit));
        }
        // In a task of its own: whoever waits for less time than Slurm needs still makes it be asked.
        let (inner, own) = (Arc::clone(self), job.clone());
        let row = tokio::spawn(async move { inner.row(&own).await });
        let row = row.await.map_err(|error| job.system(std::io::Error::other(error).into()))??;
        let told = self.spool.result(&job.mark);
        let progress = match row {
            Some(row) => row.state.progress(row.status, told),
            // Slurm forgets what has ended.
            None => Progress::Ended(told.unwrap_or(Exit::Unknown)),
        };
        if let Progress::Ended(exit) = progress {
            tracing::info!(id = job.id, ?exit, state = ?row.map(|row| row.state), "a job has ended in Slurm");
            self.learn(job, |seen| seen.ended = Some(exit));
        }
        Ok(progress)
    }

    /// What Slurm says about a job of this launcher; `None` when it has forgotten it.
    async fn row(&self, job: &Job) -> Result<Option<Row>, HandleError> {
        self.own(job).await?;
        // Once its step is through, its end is near.
        let is_near = self.spool.result(&job.mark).is_some();
        let age = if is_near { Duration::from_millis(200) } else { TABLE_AGE };
        let mut table = self.table.lock().await;
        let row = table.row(&self.commands, self.uid, job.id, age).await;
        drop(table);
        match row.map_err(|error| job.system(error))? {
            Some(row) => Ok(Some(row)),
            // Submitted after the table was asked for, in a state that is not known, or forgotten.
            None => match self.own_facts(job).await? {
                Some(facts) => Ok(Some(facts.row)),
                None => Ok(self.accounted(job).await),
            },
        }
    }

    /// What the accounting says about a job that the controller has forgotten. Many clusters have none.
    async fn accounted(&self, job: &Job) -> Option<Row> {
        let arguments = [
            "--noheader".to_owned(),
            "--parsable2".to_owned(),
            "--allocations".to_owned(),
            format!("--jobs={}", job.id),
            format!("--format={}", parse::ACCOUNT_COLUMNS),
        ];
        let name = self.spool.name_of(&job.mark);
        let said = self.commands.run("sacct", &arguments, "", PATIENCE).await;
        let row = said
            .and_then(|said| said.success())
            .and_then(|out| parse::accounted(&out, job.id, &name))
            .inspect_err(|error| tracing::debug!(id = job.id, %error, "no accounting"))
            .ok()??;
        // Behind what the controller says, the accounting may still have it running.
        (row.uid == self.uid && row.state.stage() == Stage::Ended).then_some(row)
    }

    /// Whether nothing more is printed by a job.
    pub(super) async fn is_over(self: &Arc<Self>, job: &Job) -> bool {
        if self.seen_of(job).ended.is_some() || self.spool.result(&job.mark).is_some() {
            return true;
        }
        // A step that was killed has not said so.
        matches!(self.look(job).await, Ok(Progress::Ended(_)))
    }
}
