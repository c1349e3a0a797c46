//! Asking a job cell to let a process in that nobody launched.

use std::time::Duration;

use cellbus_channels::{ChannelTopic, RequestError};
use cellbus_proto::{job::JobState, name::Segment, status::Status};

use super::Parts;
use crate::{
    control::JobMeeting,
    programs::{
        ATTACH, JOB_CHANNEL,
        attached::{Answer, Ask},
    },
};

/// Time for a job cell to answer.
const BUDGET: Duration = Duration::from_secs(10);
/// Between two questions to one that does not listen yet.
const LOOK: Duration = Duration::from_millis(50);

/// Why no process can be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// This cell runs no part of such a job at the moment.
    #[error("no part of job `{0}` runs at this cell")]
    NotHere(Segment),
    /// Its part here has a program that the cell starts itself.
    #[error(
        "the part of job `{0}` at this cell waits for nobody: its program is started by the cell"
    )]
    NotWaiting(Segment),
    /// A process is attached.
    #[error("a process is attached to the part of job `{0}` at this cell")]
    Taken(Segment),
    /// The job cell cannot be asked.
    #[error("the job cell")]
    Request(#[from] RequestError),
    /// What the job cell says is no answer.
    #[error("the job cell said something else")]
    Answer,
    /// The job cell cannot open a way in.
    #[error("{0}")]
    Offer(String),
}

impl Parts {
    /// Has the part of `job` that runs here let one process in, for so many seconds from now.
    pub(in crate::job) async fn attach(
        &self,
        job: &Segment,
        lifetime_s: u32,
    ) -> Result<JobMeeting, AttachError> {
        let not_here = || AttachError::NotHere(job.clone());
        let is_waiting = {
            let table = self.table();
            let entry = table.entries.get(job).filter(|entry| entry.state == JobState::Running);
            entry.map(|entry| entry.is_attached_to).ok_or_else(not_here)?
        };
        if !is_waiting {
            return Err(AttachError::NotWaiting(job.clone()));
        }
        let cell = self.inner.own.name.child(job).map_err(|_| not_here())?;
        let target = ChannelTopic::parse(JOB_CHANNEL, ATTACH).expect("both are names");
        let ask = serde_json::to_vec(&Ask { lifetime_s }).expect("a question is plain data");
        let bus = self.inner.running.bus();
        let begun = tokio::time::Instant::now();
        let reply = loop {
            let request = bus.request(cell.clone(), target.clone());
            match request.payload(ask.clone()).budget(BUDGET).send().await {
                // It is there, and about to listen.
                Err(RequestError::Returned { status: Status::NoHandler, .. })
                    if begun.elapsed() < BUDGET =>
                {
                    tokio::time::sleep(LOOK).await;
                }
                asked => break asked?,
            }
        };
        match serde_json::from_slice(&reply.payload).map_err(|_| AttachError::Answer)? {
            Answer::Offered { file, work_dir } => {
                Ok(JobMeeting { cell, file, work_dir, lifetime_s })
            }
            Answer::Taken => Err(AttachError::Taken(job.clone())),
            Answer::Failed(text) => Err(AttachError::Offer(text)),
        }
    }
}
