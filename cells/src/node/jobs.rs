//! What a running cell answers about jobs.

use std::path::Path;

use cellbus_proto::{causes::with_sources, job::JobState, name::Segment, status::Status};

use super::controlled::ControlledCell;
use crate::{
    control::{
        ControlError, Event, JobAsk, JobAttachAsk, JobLogsAsk, JobRunAsk, LocalCode, Reply, Talk,
    },
    job::{AttachError, JobHost, JobReport, LogRow, SubmitError},
};

/// Lines that are told at a time.
const LINES: usize = 200;

impl ControlledCell {
    fn host(&self) -> Result<&JobHost, ControlError> {
        self.jobs.get().filter(|host| host.takes_jobs()).ok_or_else(|| {
            let text = format!("{} takes no jobs: the server does", self.name());
            ControlError::local(LocalCode::ControlBadRequest, text)
                .hint("ask the server, with --at or by leaving --at out")
        })
    }

    /// Starts a job, and tells what becomes of it until its end.
    pub(super) async fn run_job(&self, ask: JobRunAsk, talk: &Talk) -> Result<Reply, ControlError> {
        let host = self.host()?.clone();
        let dir = ask.dir;
        let reader = host.clone();
        // Reading files may take a while, and others are served meanwhile.
        let plan = actix_rt::task::spawn_blocking(move || reader.plan(Path::new(&dir))).await;
        let plan =
            plan.map_err(|error| ControlError::status(Status::HandlerPanic, error.to_string()))?;
        let plan = plan.ok_or_else(no_jobs)?.map_err(|error| refused(&error))?;
        let id = host.submit(plan).await.ok_or_else(no_jobs)?.map_err(|error| refused(&error))?;
        self.follow(&host, &id.job, true, talk).await
    }

    /// Tells what a job has printed.
    pub(super) async fn job_logs(
        &self,
        ask: JobLogsAsk,
        talk: &Talk,
    ) -> Result<Reply, ControlError> {
        let host = self.host()?.clone();
        self.follow(&host, &ask.job, ask.follow, talk).await
    }

    async fn follow(
        &self,
        host: &JobHost,
        job: &Segment,
        goes_on: bool,
        talk: &Talk,
    ) -> Result<Reply, ControlError> {
        let mut news = host.news().ok_or_else(no_jobs)?;
        let mut seen = 0;
        let mut told: Option<JobReport> = None;
        let mut until = None;
        loop {
            news.mark_unchanged();
            let known = host.look(job, seen, LINES).ok_or_else(|| unknown(job))?;
            if told.as_ref() != Some(&known.report) {
                talk.tell(Event::Job(known.report.clone())).await;
                told = Some(known.report.clone());
            }
            // What comes while this is told is told to those who follow only.
            let until = *until.get_or_insert(known.count);
            let is_all = known.lines.len() < LINES
                || (!goes_on && known.lines.last().is_some_and(|line| line.number >= until));
            let is_asked_for = |line: &LogRow| goes_on || line.number <= until;
            for line in known.lines.into_iter().filter(is_asked_for) {
                seen = line.number;
                talk.tell(Event::JobLog(line)).await;
            }
            if !is_all {
                continue;
            }
            if known.report.state == JobState::Ended || !goes_on {
                return Ok(Reply::Job(Box::new(known.report)));
            }
            if news.changed().await.is_err() {
                return Err(no_jobs());
            }
        }
    }

    pub(super) fn jobs_here(&self) -> Result<Reply, ControlError> {
        Ok(Reply::Jobs(self.host()?.list()))
    }

    pub(super) fn job(&self, ask: &JobAsk) -> Result<Reply, ControlError> {
        let known = self.host()?.look(&ask.job, 0, 0).ok_or_else(|| unknown(&ask.job))?;
        Ok(Reply::Job(Box::new(known.report)))
    }

    pub(super) fn cancel_job(&self, ask: &JobAsk) -> Result<Reply, ControlError> {
        let (ran, report) = self.host()?.cancel(&ask.job).ok_or_else(|| unknown(&ask.job))?;
        if ran {
            return Ok(Reply::Job(Box::new(report)));
        }
        let text = format!("job `{}` has ended", ask.job);
        Err(ControlError::local(LocalCode::JobOver, text))
    }

    /// Opens the part of a job that this very cell runs.
    pub(super) async fn attach_to_job(&self, ask: JobAttachAsk) -> Result<Reply, ControlError> {
        let job = &ask.job;
        let host = self.jobs.get().ok_or_else(no_jobs)?;
        let met = host.attach(job, ask.lifetime_s).await;
        met.map(Reply::Meeting).map_err(|error| not_attached(job, &error))
    }
}

fn unknown(job: &Segment) -> ControlError {
    ControlError::local(LocalCode::JobUnknown, format!("no job is called `{job}`"))
        .hint("`cellbus job ls` lists the jobs")
}

fn not_attached(job: &Segment, error: &AttachError) -> ControlError {
    let code = match error {
        AttachError::NotHere(_) => LocalCode::JobUnknown,
        AttachError::NotWaiting(_) => LocalCode::JobNotAttachable,
        AttachError::Taken(_) => LocalCode::JobAttached,
        AttachError::Request(_) | AttachError::Answer | AttachError::Offer(_) => {
            LocalCode::ControlBadReply
        }
    };
    let hint = match error {
        AttachError::NotHere(_) | AttachError::NotWaiting(_) => {
            format!("name the site whose part waits: `cellbus job attach {job} --at SITE`")
        }
        AttachError::Taken(_) => "one process is let in for each part".to_owned(),
        AttachError::Request(_) | AttachError::Answer | AttachError::Offer(_) => {
            format!("`cellbus job show {job}` says whether the part still runs")
        }
    };
    ControlError::local(code, with_sources(error)).hint(hint)
}

fn no_jobs() -> ControlError {
    ControlError::local(LocalCode::ControlBadRequest, "this cell takes no jobs")
}

fn refused(error: &SubmitError) -> ControlError {
    let code = match error {
        SubmitError::Refused { .. } => LocalCode::JobNotAllowed,
        SubmitError::Running(_) | SubmitError::TooMany => LocalCode::JobRunning,
        SubmitError::File(_)
        | SubmitError::Pack(_)
        | SubmitError::NoSites(_)
        | SubmitError::Record(_)
        | SubmitError::Random(_)
        | SubmitError::NoRelays(_)
        | SubmitError::Name(_) => LocalCode::JobInvalid,
    };
    let refused = ControlError::local(code, with_sources(error));
    match error {
        SubmitError::Refused { .. } => {
            refused.hint("what jobs may run stands under [[program]] in the topology file")
        }
        SubmitError::File(report) => {
            let first = report.findings().first();
            let first = first.map(|finding| finding.problem().message.clone());
            refused.hint(first.unwrap_or_else(|| "look at the file".to_owned()))
        }
        SubmitError::Running(job) => refused.hint(format!("`cellbus job cancel {job}` ends it")),
        SubmitError::TooMany
        | SubmitError::Pack(_)
        | SubmitError::NoSites(_)
        | SubmitError::Record(_)
        | SubmitError::Random(_)
        | SubmitError::NoRelays(_)
        | SubmitError::Name(_) => refused,
    }
}
