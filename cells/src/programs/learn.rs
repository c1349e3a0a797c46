//! A federated training over the bus: the server's side, and the trainer's.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::{
    Bus, ChannelTopic, Delivery, Failure, Fqcn, HandlerOptions, Reply, from_fn,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{JOB_CHANNEL, PARAMETERS, ProgramError};
use crate::learning::{
    aggregate::Contribution,
    digits,
    optimiser::Schedule,
    softmax,
    split::{among_sites, train_and_test},
    training::{Progress, Task, Training},
    wire,
};

pub use super::process::VERB as TRAINER_VERB;

/// Channel of the training.
pub const LEARN: &str = "learn";
/// A site asks what to do.
pub const FETCH: &str = "fetch";
/// A site hands in what it has computed.
pub const SUBMIT: &str = "submit";
/// The server's cell asks how far the training is.
pub const PROGRESS: &str = "progress";
/// The server's cell takes the result, and lets the job end.
pub const RESULT: &str = "result";

/// How long a question may wait for news before it is to be asked again.
const NEWS: Duration = Duration::from_secs(10);
/// How long the training waits for its sites.
const IDLE: Duration = Duration::from_secs(120);

/// What every cell of the job is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The job cell at the server.
    pub server: Fqcn,
    /// The sites that take part.
    pub sites: Vec<Fqcn>,
    /// How the training rows are shared among them, in their order.
    pub shares: Vec<u32>,
    /// Rounds.
    pub rounds: u32,
}

/// How far the training is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Rounds that are complete.
    pub round: u32,
    /// Rounds in all.
    pub of: u32,
    /// Mean loss of the last complete round, in nats.
    pub loss: f64,
    /// Share of test rows that the weights get right.
    pub accuracy: f64,
    /// Payload bytes that the training has sent and received.
    pub bytes: u64,
}

/// The address of a topic of the training.
#[must_use]
pub fn topic(name: &str) -> ChannelTopic {
    ChannelTopic::parse(LEARN, name).expect("both are names")
}

struct Server {
    training: Mutex<Training>,
    test: Vec<digits::Row>,
    standing: watch::Sender<Standing>,
    /// Who knows that it is over: sites that were told, and whether the result was taken.
    informed: watch::Sender<(BTreeSet<Fqcn>, bool)>,
}

impl Server {
    fn training(&self) -> MutexGuard<'_, Training> {
        self.training.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, bytes: usize) {
        self.standing.send_modify(|standing| standing.bytes += bytes as u64);
    }

    async fn fetch(&self, delivery: Delivery) -> Result<Reply, Failure> {
        let site = site_of(&delivery)?;
        let mut news = self.standing.subscribe();
        let patience = NEWS.min(delivery.budget.mul_f32(0.5));
        let deadline = tokio::time::sleep(patience);
        tokio::pin!(deadline);
        loop {
            let task = {
                let training = self.training();
                training.task_for(&site).map_err(|error| Failure::failed(error.to_string()))?
            };
            let round = news.borrow_and_update().round;
            let reply = |task: &Task| {
                let payload = wire::encode_task(task);
                self.count(payload.len());
                Reply { payload: payload.into(), content_type: Some(wire::CONTENT_TYPE.into()) }
            };
            match &task {
                Task::Train { .. } => return Ok(reply(&task)),
                Task::Done { .. } => {
                    self.informed.send_modify(|(sites, _)| {
                        sites.insert(site.clone());
                    });
                    return Ok(reply(&task));
                }
                Task::Wait { .. } => tokio::select! {
                    _ = news.wait_for(|standing| standing.round > round) => {}
                    () = &mut deadline => return Ok(reply(&task)),
                },
            }
        }
    }

    fn submit(&self, delivery: &Delivery) -> Result<Reply, Failure> {
        let site = site_of(delivery)?;
        let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
        let (round, contribution) =
            wire::decode_contribution(&delivery.payload).map_err(|error| failed(&error))?;
        self.count(delivery.payload.len());
        let mut training = self.training();
        let progress =
            training.submit(&site, round, contribution).map_err(|error| failed(&error))?;
        if let Progress::RoundDone { round, loss } = progress {
            let accuracy = softmax::accuracy(training.weights(), &self.test);
            drop(training);
            self.standing.send_modify(|standing| {
                standing.round = round;
                standing.loss = loss;
                standing.accuracy = accuracy;
            });
        }
        Ok(Reply::default())
    }

    /// Answers when more rounds are done than the asker knows of, or after a while.
    async fn progress(&self, delivery: Delivery) -> Result<Reply, Failure> {
        let known = delivery.payload.as_ref().try_into().map_or(0, u32::from_be_bytes);
        let mut news = self.standing.subscribe();
        let patience = NEWS.min(delivery.budget.mul_f32(0.5));
        // Either there is news, or there is none.
        let _ = tokio::time::timeout(patience, news.wait_for(|now| now.round > known)).await;
        let standing = *news.borrow();
        let json =
            serde_json::to_vec(&standing).map_err(|error| Failure::failed(error.to_string()))?;
        Ok(json.into())
    }

    fn result(&self) -> Result<Reply, Failure> {
        let training = self.training();
        if !training.is_done() {
            return Err(Failure::failed("the training is not done"));
        }
        let weights = training.weights().iter().flat_map(|weight| weight.to_le_bytes());
        let payload: Vec<u8> = weights.collect();
        self.informed.send_modify(|(_, taken)| *taken = true);
        Ok(payload.into())
    }
}

/// The site that a job cell belongs to: its parent, by the sender's verified name.
fn site_of(delivery: &Delivery) -> Result<Fqcn, Failure> {
    delivery
        .origin
        .name
        .parent()
        .ok_or_else(|| Failure::failed(format!("{} belongs to no site", delivery.origin.name)))
}

/// Runs the server's side until the result has been taken and every site knows that it is over.
pub(super) async fn serve(bus: &Bus, parameters: &[u8]) -> Result<(), ProgramError> {
    let Parameters { sites, rounds, .. } = parse(parameters)?;
    let expected = sites.len();
    let (informed, mut over) = watch::channel((BTreeSet::new(), false));
    let schedule = Schedule { rounds, ..Schedule::default() };
    let (standing, mut news) = watch::channel(Standing { of: rounds, ..Standing::default() });
    let server = Arc::new(Server {
        training: Mutex::new(Training::new(sites, &schedule)),
        test: train_and_test(digits::embedded()).test,
        standing,
        informed,
    });
    // Who waits for the next round must not keep the same cell's other questions waiting.
    let at_once = HandlerOptions::concurrent(8);
    let at = Arc::clone(&server);
    bus.handle_with(
        topic(FETCH),
        at_once,
        from_fn(move |delivery| {
            let server = Arc::clone(&at);
            async move { server.fetch(delivery).await }
        }),
    )
    .await?;
    let at = Arc::clone(&server);
    bus.handle_with(
        topic(SUBMIT),
        at_once,
        from_fn(move |delivery| {
            let outcome = at.submit(&delivery);
            async move { outcome }
        }),
    )
    .await?;
    let at = Arc::clone(&server);
    bus.handle_with(
        topic(PROGRESS),
        at_once,
        from_fn(move |delivery| {
            let server = Arc::clone(&at);
            async move { server.progress(delivery).await }
        }),
    )
    .await?;
    let at = Arc::clone(&server);
    bus.handle_with(
        topic(RESULT),
        at_once,
        from_fn(move |_| {
            let outcome = at.result();
            async move { outcome }
        }),
    )
    .await?;
    loop {
        tokio::select! {
            _ = over.wait_for(|(sites, taken)| *taken && sites.len() == expected) => return Ok(()),
            moved = tokio::time::timeout(IDLE, news.changed()) => {
                if moved.is_err() {
                    return Err(ProgramError::Idle(IDLE));
                }
            }
        }
    }
}

fn parse(parameters: &[u8]) -> Result<Parameters, ProgramError> {
    serde_json::from_slice(parameters).map_err(|error| ProgramError::Parameters(error.to_string()))
}

/// Runs a trainer over `bus`, the local socket of its job cell, until the server says that it is over.
///
/// # Errors
/// [`ProgramError`].
pub async fn train(bus: &Bus) -> Result<(), ProgramError> {
    let own = bus.name();
    let question = ChannelTopic::parse(JOB_CHANNEL, PARAMETERS).expect("both are names");
    let reply = bus.request(own.clone(), question).send().await?;
    let parameters = parse(&reply.payload)?;
    let wrong = |what: String| ProgramError::Parameters(what);
    let site = own.parent().ok_or_else(|| wrong(format!("{own} belongs to no site")))?;
    let index = parameters.sites.iter().position(|other| *other == site);
    let index = index.ok_or_else(|| wrong(format!("{site} takes no part")))?;
    let all = train_and_test(digits::embedded()).train;
    let shares = among_sites(&all, &parameters.shares).map_err(|error| wrong(error.to_string()))?;
    let rows = *shares.get(index).ok_or_else(|| wrong(format!("{site} has no share")))?;
    loop {
        let reply = bus.request(parameters.server.clone(), topic(FETCH)).send().await?;
        let task = wire::decode_task(&reply.payload).map_err(|error| wrong(error.to_string()))?;
        match task {
            Task::Done { .. } => return Ok(()),
            Task::Wait { .. } => {}
            Task::Train { round, weights } => {
                let weights = checked(weights)?;
                let gradient = softmax::gradient(&weights, rows);
                let contribution = Contribution {
                    rows: gradient.rows as f64,
                    loss: gradient.loss,
                    sum: gradient.sum,
                };
                let payload = Bytes::from(wire::encode_contribution(round, &contribution));
                bus.request(parameters.server.clone(), topic(SUBMIT))
                    .payload(payload)
                    .content_type(wire::CONTENT_TYPE)
                    .send()
                    .await?;
            }
        }
    }
}

/// As many weights as the model has; what comes over the bus may have any number.
fn checked(weights: Vec<f64>) -> Result<Vec<f64>, ProgramError> {
    if weights.len() == softmax::WEIGHTS {
        return Ok(weights);
    }
    Err(ProgramError::Parameters(format!(
        "{} weights instead of {}",
        weights.len(),
        softmax::WEIGHTS
    )))
}
