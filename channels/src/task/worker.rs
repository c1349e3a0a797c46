//! The side that fetches tasks and brings results.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    codec::Octets,
    exchange::RetryPolicy,
    name::{ChannelTopic, Fqcn},
    task::{
        Worker,
        wire::{self, BadMessage, Verdict},
    },
};

use super::{fetch, job_progress, progress, submit};
use crate::{Bus, PublishError, Reply, RequestError};

/// How long a question waits for something to do before it is asked again.
const WAIT: Duration = Duration::from_secs(20);
/// Time that the way of a question takes at most.
const WAY: Duration = Duration::from_secs(10);
/// Time that a result has to arrive.
const SUBMIT: Duration = Duration::from_secs(300);

/// A worker that asks one cell for tasks.
#[derive(Debug)]
pub struct Tasking {
    bus: Bus,
    server: Fqcn,
    worker: Worker,
    /// Whether the own cell is a job cell that is told how far this worker is.
    tells_job: bool,
}

/// A task that this worker was given.
#[derive(Debug)]
pub struct Given<'a> {
    /// What it is.
    pub task: wire::Task,
    /// Its data.
    pub body: Bytes,
    tasking: &'a Tasking,
}

/// Why there is no task, or no verdict on a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Nothing can be said on the way.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The answer is none.
    #[error("the answer of {from}")]
    Answer {
        /// Who answered.
        from: Fqcn,
        /// What is wrong with it.
        #[source]
        bad: BadMessage,
    },
    /// The system gives no random bytes to name this worker.
    #[error("no random bytes")]
    Random(#[source] std::io::Error),
}

impl Tasking {
    /// A new worker, which will ask the cell `server`.
    ///
    /// # Errors
    /// [`TaskError::Random`].
    pub fn new(bus: Bus, server: Fqcn) -> Result<Self, TaskError> {
        let mut worker = [0; 16];
        let flags = rustix::rand::GetRandomFlags::empty();
        rustix::rand::getrandom(&mut worker, flags)
            .map_err(|error| TaskError::Random(error.into()))?;
        Ok(Self { bus, server, worker: Octets(worker), tells_job: false })
    }

    /// Also tells the own job cell how far this worker is, for those who look at the job (`cellbus job show`). For job
    /// code; the bus is that of its local socket.
    #[must_use]
    pub fn telling_job(mut self) -> Self {
        self.tells_job = true;
        self
    }

    /// The next task; waits for it as long as it takes. `None` when the work is over.
    ///
    /// # Errors
    /// [`TaskError`]. A lost link is waited for, up to 30 s.
    pub async fn next(&self) -> Result<Option<Given<'_>>, TaskError> {
        let wait_ms = u32::try_from(WAIT.as_millis()).expect("some seconds");
        let question = wire::encode(&wire::Fetch { worker: self.worker, wait_ms }, b"");
        loop {
            let reply = self.ask(fetch(), WAIT + WAY, question.clone()).await?;
            let (given, body) = self.read::<wire::Given>(&reply)?;
            match given {
                wire::Given::Nothing => {}
                wire::Given::Task(task) => {
                    let given = Given { task, body, tasking: self };
                    given.tell_job(0.0, None).await;
                    return Ok(Some(given));
                }
                wire::Given::Over => return Ok(None),
            }
        }
    }

    /// Asking twice does no harm: the same worker is told the same, and a result counts once.
    async fn ask(
        &self,
        target: ChannelTopic,
        budget: Duration,
        payload: Bytes,
    ) -> Result<Reply, RequestError> {
        let request = self.bus.request(self.server.clone(), target).payload(payload);
        let request = request.content_type(wire::CONTENT_TYPE).budget(budget);
        request.idempotent().retry(RetryPolicy::default()).send().await
    }

    fn read<T: wire::Header>(&self, reply: &Reply) -> Result<(T, Bytes), TaskError> {
        wire::decode(&reply.payload)
            .map_err(|bad| TaskError::Answer { from: self.server.clone(), bad })
    }
}

impl Given<'_> {
    /// Says how far this worker is: a share from 0 to 1. May get lost.
    ///
    /// # Errors
    /// [`TaskError::Publish`].
    pub async fn progress(&self, done: f64, text: Option<&str>) -> Result<(), TaskError> {
        let said = self.say(done, text).await;
        let publish = self.tasking.bus.request(self.tasking.server.clone(), progress());
        Ok(publish.payload(said).publish().await?)
    }

    /// As [`Self::progress`], and asks what a result would meet that came now: [`Verdict::Accepted`] while one is
    /// waited for, [`Verdict::Late`] where the others have gone on without it, so that the rest of the work can be
    /// saved. Nobody has looked into a result for that.
    ///
    /// # Errors
    /// [`TaskError`] when nobody has answered; that says nothing about the task.
    pub async fn outlook(&self, done: f64, text: Option<&str>) -> Result<Verdict, TaskError> {
        let said = self.say(done, text).await;
        let reply = self.tasking.ask(progress(), WAY, said).await?;
        Ok(self.tasking.read::<Verdict>(&reply)?.0)
    }

    /// Tells the job, and gives what the server is told.
    async fn say(&self, done: f64, text: Option<&str>) -> Bytes {
        self.tell_job(done, text).await;
        let said = wire::Progress {
            worker: self.tasking.worker,
            task: self.task.id,
            attempt: self.task.attempt,
            done: done.clamp(0.0, 1.0),
            text: text.map(str::to_owned),
        };
        wire::encode(&said, b"")
    }

    /// Brings the result: what it is, how much it counts, figures about it.
    ///
    /// # Errors
    /// [`TaskError`] when nobody knows whether it has arrived; it may be brought again.
    pub async fn submit(
        &self,
        content_type: Option<&str>,
        result: &[u8],
        weight: Option<f64>,
        metrics: BTreeMap<String, f64>,
    ) -> Result<Verdict, TaskError> {
        let submitted = wire::Submit {
            worker: self.tasking.worker,
            task: self.task.id,
            attempt: self.task.attempt,
            weight,
            metrics,
            content_type: content_type.map(str::to_owned),
        };
        let message = wire::encode(&submitted, result);
        let reply = self.tasking.ask(submit(), SUBMIT, message).await?;
        let verdict = self.tasking.read::<Verdict>(&reply)?.0;
        self.tell_job(1.0, None).await;
        Ok(verdict)
    }

    /// What cannot be told is not told: nothing depends on it.
    async fn tell_job(&self, done: f64, text: Option<&str>) {
        let Tasking { bus, tells_job, .. } = self.tasking;
        if !tells_job {
            return;
        }
        let mut told = serde_json::json!({ "task": self.task.name, "done": done.clamp(0.0, 1.0) });
        for (key, value) in [("round", self.task.round), ("rounds", self.task.rounds)] {
            if let Some(value) = value {
                told[key] = value.into();
            }
        }
        if let Some(text) = text {
            told["text"] = text.into();
        }
        let request = bus.request(bus.name(), job_progress()).payload(told.to_string());
        // The next word says the same or more.
        let _ = request.publish().await;
    }
}
