//! Hands tasks on to those below, and passes one mean of what they have computed on in place of many results.
//!
//! It is a worker to the part above and hands tasks out to those below ([`cellbus_channels::task`]), so neither has to
//! know that it is there. Each result is added as it comes: memory is one number of 8 bytes for each number of one
//! model, and one result, whatever the number of sites.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cellbus_channels::{
    Bus, ChannelTopic, Fqcn,
    task::{
        CONTENT_TYPE_TENSORS, End, Given, NoMean, Order, Submitted, TaskError, Tasking, Tasks,
        Tensors, Verdict, WeightedMean,
    },
};
use cellbus_proto::status::Status;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{JOB_CHANNEL, PARAMETERS, ProgramError, SURROUNDINGS};

/// The argument that makes this binary a combiner. Nobody types it.
pub const VERB: &str = "combiner";

/// What results say beside their arrays about what the numbers stand for: all of a mean say the same.
const PARAMS_TYPE: &str = "params_type";
/// How long the program above may take to be there, or back.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two questions to a program that is not there.
const AGAIN: Duration = Duration::from_millis(200);
/// How long those below may take for a task: as long as the job lets them.
const TASK: Duration = Duration::from_secs(30 * 86_400);
/// Time between two questions to the part above whether the task is still worked on.
const LOOK: Duration = Duration::from_secs(2);
/// How long they have to hear that the work is over.
const FAREWELL: Duration = Duration::from_secs(10);

/// What the job gives it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// So many results are enough; those of all where left out.
    quorum: Option<usize>,
    /// Seconds that the others have then.
    grace_s: u64,
}

/// Where it stands in its job.
#[derive(Debug, Deserialize)]
struct Surroundings {
    server_cell: Fqcn,
    sites: Vec<Fqcn>,
}

/// The results of one task so far.
#[derive(Debug, Default)]
struct Combined {
    mean: WeightedMean,
    /// What the numbers of the first that was found sound stand for, where it says.
    kind: Option<Option<String>>,
    /// What all of them say beside their arrays.
    metadata: Option<BTreeMap<String, String>>,
    /// Of each figure: the sum of value times weight, and of weights.
    figures: BTreeMap<String, (f64, f64)>,
}

impl Combined {
    fn read(result: &Submitted) -> Result<(Tensors, BTreeMap<String, String>, f64), String> {
        let (tensors, metadata) =
            Tensors::read_all(&result.body).map_err(|error| error.to_string())?;
        Ok((tensors, metadata, result.weight.unwrap_or(1.0)))
    }

    /// Whether a result can be added. The others are to go with the first that can, also where it is added later.
    fn check(&mut self, result: &Submitted) -> Result<(), String> {
        let (tensors, metadata, weight) = Self::read(result)?;
        let kind = metadata.get(PARAMS_TYPE).cloned();
        if self.kind.as_ref().is_some_and(|ours| *ours != kind) {
            return Err(format!("its `{PARAMS_TYPE}` is not that of the others"));
        }
        self.mean.expect(&tensors, weight).map_err(|error| error.to_string())?;
        self.kind = Some(kind);
        Ok(())
    }

    /// Adds what was checked; `false` where another result came in between that it does not go with.
    fn add(&mut self, result: &Submitted) -> bool {
        if self.check(result).is_err() {
            return false;
        }
        let Ok((tensors, metadata, weight)) = Self::read(result) else { return false };
        if self.mean.add(&tensors, weight).is_err() {
            return false;
        }
        match &mut self.metadata {
            Some(ours) => ours.retain(|key, value| metadata.get(key) == Some(value)),
            None => self.metadata = Some(metadata),
        }
        for (name, value) in result.metrics.iter().filter(|(_, value)| value.is_finite()) {
            let (total, weights) = self.figures.entry(name.clone()).or_default();
            *total = value.mul_add(weight, *total);
            *weights += weight;
        }
        true
    }

    fn into_result(self) -> Result<(bytes::Bytes, f64, BTreeMap<String, f64>), NoMean> {
        let weight = self.mean.weight();
        let bytes = self.mean.write_with(self.metadata.unwrap_or_default())?;
        let figures = self.figures.into_iter().map(|(name, (total, sum))| (name, total / sum));
        Ok((bytes, weight, figures.collect()))
    }
}

/// Runs a combiner over `bus`, the local socket of its job cell, until the part above says that the work is over.
///
/// # Errors
/// [`ProgramError`].
pub async fn run(bus: &Bus) -> Result<(), ProgramError> {
    let parameters: Parameters = ask(bus, PARAMETERS).await?;
    let Surroundings { server_cell, sites } = ask(bus, SURROUNDINGS).await?;
    let below = Tasks::serve(bus).await?;
    let above = Tasking::new(bus.clone(), server_cell)?;
    while let Some(given) = next(&above).await? {
        pass_on(&below, &sites, &parameters, &given).await?;
    }
    below.close();
    if !below.farewell(&sites, FAREWELL).await {
        tracing::info!("some sites have not asked again, and do not know that the work is over");
    }
    if !bus.finish(FAREWELL).await {
        tracing::info!("some questions of sites were not answered");
    }
    Ok(())
}

async fn ask<T: DeserializeOwned>(bus: &Bus, topic: &str) -> Result<T, ProgramError> {
    let question = ChannelTopic::parse(JOB_CHANNEL, topic).expect("both are names");
    let reply = bus.request(bus.name(), question).send().await?;
    serde_json::from_slice(&reply.payload)
        .map_err(|error| ProgramError::Parameters(error.to_string()))
}

/// The next task; a program above that is not there yet, or not for a moment, is waited for.
async fn next(above: &Tasking) -> Result<Option<Given<'_>>, TaskError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match above.next().await {
            Err(TaskError::Request(error))
                if will_pass(error.status()) && Instant::now() < until =>
            {
                tracing::debug!(%error, "no task yet");
            }
            outcome => return outcome,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether somebody who says so may say something else in a moment.
fn will_pass(status: Status) -> bool {
    use Status::{Draining, ExpiredInQueue, NoHandler, NoRoute, Overloaded, PeerUnknown};
    [NoRoute, NoHandler, PeerUnknown, ExpiredInQueue, Overloaded, Draining].contains(&status)
}

/// Ends when the part above has gone on without a result of this task. Who does not answer has not gone on.
async fn left_behind(given: &Given<'_>, count: &AtomicUsize, of: usize) {
    loop {
        tokio::time::sleep(LOOK).await;
        let (share, text) = so_far(count.load(Ordering::Relaxed), of);
        match given.outlook(share, Some(&text)).await {
            Ok(Verdict::Late | Verdict::Stale) => return,
            Ok(Verdict::Accepted | Verdict::Before | Verdict::Rejected(_)) => {}
            Err(error) => tracing::debug!(%error, "nobody says whether the task is still open"),
        }
    }
}

fn so_far(count: usize, of: usize) -> (f64, String) {
    (count as f64 / of as f64, format!("{count} of {of} results"))
}

/// Has those below do what was given, and submits the mean of what they bring. Ends early, and their task with it,
/// where the part above goes on without that.
async fn pass_on(
    below: &Tasks,
    sites: &[Fqcn],
    parameters: &Parameters,
    given: &Given<'_>,
) -> Result<(), ProgramError> {
    let combined = Arc::new(Mutex::new(Combined::default()));
    let checked = Arc::clone(&combined);
    let task = &given.task;
    let mut order = Order::new(task.name.clone(), sites.to_vec(), TASK)
        .check(move |result| lock(&checked).check(result));
    if let Some(content_type) = &task.content_type {
        order = order.body(content_type, given.body.clone());
    }
    if let Some(round) = task.round {
        order = order.round(round, task.rounds);
    }
    if let Some(quorum) = parameters.quorum {
        order = order.quorum(quorum.clamp(1, sites.len()), Duration::from_secs(parameters.grace_s));
    }
    let mut running = below.post(order);
    let count = AtomicUsize::new(0);
    let mut left_behind = pin!(left_behind(given, &count, sites.len()));
    loop {
        let result = tokio::select! {
            result = running.next() => result,
            () = &mut left_behind => {
                tracing::info!(task = task.id, "the part above has gone on without this one");
                return Ok(());
            }
        };
        let Some(result) = result else { break };
        if !lock(&combined).add(&result) {
            tracing::warn!(site = %result.site, "a result does not go with those of others");
            continue;
        }
        let (share, text) = so_far(count.fetch_add(1, Ordering::Relaxed) + 1, sites.len());
        // Of use to whoever watches, and to nobody else.
        let _ = given.progress(share, Some(&text)).await;
    }
    if running.end().await.end == End::Failed {
        return Err(ProgramError::Refused("too few results from below".to_owned()));
    }
    let combined = std::mem::take(&mut *lock(&combined));
    let (mean, weight, figures) =
        combined.into_result().map_err(|error| ProgramError::Refused(error.to_string()))?;
    match given.submit(Some(CONTENT_TYPE_TENSORS), &mean, Some(weight), figures).await? {
        Verdict::Accepted | Verdict::Before => Ok(()),
        verdict @ (Verdict::Late | Verdict::Stale) => {
            tracing::info!(task = task.id, ?verdict, "the mean does not count");
            Ok(())
        }
        Verdict::Rejected(why) => Err(ProgramError::Refused(why)),
    }
}

fn lock(combined: &Mutex<Combined>) -> MutexGuard<'_, Combined> {
    combined.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cellbus_channels::task::{Dtype, Tensor, TensorsWriter};

    use super::*;

    fn result(numbers: &[f32], weight: Option<f64>, kind: &str, loss: f64) -> Submitted {
        let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let shape = vec![numbers.len() as u64];
        let metadata = [(PARAMS_TYPE, kind), ("of", &numbers[0].to_string())];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut writer = TensorsWriter::default().metadata(metadata.into());
        writer.push("w", &Tensor { dtype: Dtype::F32, shape, data: data.into() }).unwrap();
        Submitted {
            site: "relay.site-1".parse().unwrap(),
            weight,
            metrics: [("loss".to_owned(), loss)].into(),
            content_type: None,
            body: writer.finish(),
        }
    }

    fn numbers(body: &Bytes) -> (Vec<f32>, BTreeMap<String, String>) {
        let (tensors, metadata) = Tensors::read_all(body).unwrap();
        let data = tensors.0["w"].data.as_chunks::<4>().0;
        (data.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(), metadata)
    }

    #[test]
    fn what_is_passed_on_counts_as_much_as_what_it_stands_for() {
        let mut combined = Combined::default();
        assert!(combined.add(&result(&[1.0, 4.0], Some(3.0), "DIFF", 1.0)));
        assert!(combined.add(&result(&[5.0, 8.0], None, "DIFF", f64::NAN)));
        let (body, weight, figures) = combined.into_result().unwrap();
        assert_eq!((weight, figures["loss"]), (4.0, 1.0));
        let (mean, metadata) = numbers(&body);
        assert_eq!(mean, [2.0, 5.0]);
        assert_eq!(metadata, BTreeMap::from([(PARAMS_TYPE.to_owned(), "DIFF".to_owned())]));
    }

    #[test]
    fn what_does_not_go_with_the_others_is_refused_and_changes_nothing() {
        let mut combined = Combined::default();
        assert!(combined.into_result().is_err());
        combined = Combined::default();
        assert!(combined.add(&result(&[1.0], Some(1.0), "FULL", 0.0)));
        for bad in [
            result(&[1.0], Some(1.0), "DIFF", 0.0),
            result(&[1.0, 2.0], Some(1.0), "FULL", 0.0),
            result(&[f32::NAN], Some(1.0), "FULL", 0.0),
            result(&[1.0], Some(0.0), "FULL", 0.0),
            Submitted { body: Bytes::from_static(b"none"), ..result(&[1.0], None, "FULL", 0.0) },
        ] {
            assert!(combined.check(&bad).is_err() && !combined.add(&bad), "{bad:?}");
        }
        let (body, weight, _) = combined.into_result().unwrap();
        assert_eq!((numbers(&body).0, weight), (vec![1.0], 1.0));
        // One that was found sound is counted on before it is added.
        let mut combined = Combined::default();
        assert_eq!(combined.check(&result(&[1.0], Some(1.0), "FULL", 0.0)), Ok(()));
        for other in [result(&[1.0, 2.0], None, "FULL", 0.0), result(&[1.0], None, "DIFF", 0.0)] {
            assert!(combined.check(&other).is_err(), "{other:?}");
        }
    }
}
