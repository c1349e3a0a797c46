//! What becomes of jobs is written down before anybody is told, beside the event loop and in order.
//!
//! One task writes for all jobs. What it has not come to is only what each job's latest report says, so that a slow
//! disk piles up nothing.

use cellbus_proto::{job::JobState, name::Segment};
use cellbus_runtime::secret_file::SecretFileError;
use tokio::sync::oneshot;

use super::{Run, Runs};
use crate::job::report::JobReport;

/// Who waits for the first record of a job.
pub(super) type First = oneshot::Sender<Result<(), SecretFileError>>;

impl Run {
    /// Whether something about it has not been told yet.
    fn is_news(&self) -> bool {
        self.latest != self.report || self.written != Some(self.latest.state)
    }
}

impl Runs {
    /// Writes and tells, for as long as this cell runs and anything is left to be written.
    pub(super) async fn keep(self) {
        let bus = self.inner.running.bus();
        loop {
            while let Some((report, is_to_write)) = self.next_news() {
                self.keep_one(report, is_to_write).await;
            }
            let is_over = tokio::select! {
                biased;
                () = self.inner.settled.notified() => false,
                () = bus.closed() => true,
            };
            if is_over && self.next_news().is_none() {
                return;
            }
        }
    }

    /// Waits until everything that is known has been written and told.
    pub(in crate::job) async fn kept(&self) {
        let mut news = self.news();
        while self.next_news().is_some() {
            self.inner.settled.notify_one();
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    fn next_news(&self) -> Option<(JobReport, bool)> {
        let jobs = self.jobs();
        let run = jobs.values().find(|run| run.is_news())?;
        // Of a job that ran before nothing has to be written that is not new.
        Some((run.latest.clone(), run.written != Some(run.latest.state)))
    }

    async fn keep_one(&self, report: JobReport, is_to_write: bool) {
        let (job, state) = (report.job.clone(), report.state);
        let mut written = Ok(());
        if is_to_write {
            let (records, report) = (self.inner.records.clone(), report.clone());
            let work = tokio::task::spawn_blocking(move || records.write(&report));
            // Fails only for work that panics, or for a runtime that ends.
            written = work.await.unwrap_or(Ok(()));
            if let Err(error) = &written {
                tracing::error!(%job, %error, "the record of a job cannot be written");
            }
        }
        self.show(&job, report, state, written);
        self.tell();
    }

    fn show(
        &self,
        job: &Segment,
        report: JobReport,
        state: JobState,
        written: Result<(), SecretFileError>,
    ) {
        let mut jobs = self.jobs();
        let Some(run) = jobs.get_mut(job).filter(|run| run.latest.attempt == report.attempt) else {
            return;
        };
        // What could not be written is told all the same; once is enough for the log.
        (run.report, run.written) = (report, Some(state));
        if let Some(first) = run.first.take() {
            if written.is_err() {
                jobs.remove(job);
            }
            // Nobody may be waiting any longer.
            let _ = first.send(written);
        }
    }
}
