//! How far a program says that it is, on its way from the program to the cell that launched its job cell.
//!
//! A program says it as often as it likes; its job cell passes on what was said last, once in a second at most.

use std::time::Duration;

use cellbus_channels::{Bus, ChannelTopic, Delivery, Failure, HandleError, Reply, from_fn};
use cellbus_proto::{codec::body, job::PartProgress, status::Status};
use serde::Deserialize;
use tokio::sync::watch;

use super::{JOB_CHANNEL, PROGRESS};
use crate::job::JobBootstrap;

/// Between two words to the parent.
const PACE: Duration = Duration::from_secs(1);
/// Time for the parent to take one.
const BUDGET: Duration = Duration::from_secs(5);

/// What a program says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    task: Option<String>,
    round: Option<u32>,
    rounds: Option<u32>,
    /// A share from 0 to 1.
    done: Option<f64>,
    text: Option<String>,
}

impl From<Told> for PartProgress {
    fn from(told: Told) -> Self {
        let Told { task, round, rounds, done, text } = told;
        // Between 0 and 1000, and 0 for what is no number.
        let permille = |done: f64| (done.clamp(0.0, 1.0) * 1000.0).round() as u16;
        let done_permille = done.map(permille);
        Self { task, round, rounds, done_permille, text }.tidy()
    }
}

/// The topic.
pub(crate) fn target() -> ChannelTopic {
    ChannelTopic::parse(JOB_CHANNEL, PROGRESS).expect("both are names")
}

/// Hears what this cell's own program says, and tells it to the parent.
pub(super) async fn serve(bus: &Bus, bootstrap: &JobBootstrap) -> Result<(), HandleError> {
    let (said, mut saying) = watch::channel(PartProgress::default());
    let own = bootstrap.name.clone();
    let handler = from_fn(move |delivery: Delivery| {
        let heard = if delivery.origin.name == own {
            serde_json::from_slice::<Told>(&delivery.payload)
                .map(|told| drop(said.send_replace(told.into())))
                .map_err(|error| Failure::failed(error.to_string()))
        } else {
            Err(Failure::Refused(Status::Forbidden))
        };
        async move { heard.map(|()| Reply::default()) }
    });
    bus.handle(target(), handler).await?;
    let (bus, parent) = (bus.clone(), bootstrap.parent.clone());
    tokio::spawn(async move {
        while saying.changed().await.is_ok() {
            let now = body::encode(&*saying.borrow_and_update());
            let request = bus.request(parent.clone(), target());
            // What the parent does not hear is said again with the next word.
            if let Err(error) = request.payload(now).budget(BUDGET).send().await {
                tracing::debug!(%error, "the parent does not hear how far the program is");
            }
            tokio::time::sleep(PACE).await;
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_read_strictly() {
        let told: Told =
            serde_json::from_str(r#"{"task": "train", "round": 1, "done": 0.25}"#).unwrap();
        let said = PartProgress::from(told);
        assert_eq!((said.task.as_deref(), said.done_permille), (Some("train"), Some(250)));
        for bad in ["", "[]", "{\"dome\": 1}", "{\"round\": -1}"] {
            assert!(serde_json::from_str::<Told>(bad).is_err(), "{bad}");
        }
        let beyond = |done: f64| {
            let told = Told { task: None, round: None, rounds: None, done: Some(done), text: None };
            PartProgress::from(told).done_permille
        };
        assert_eq!(beyond(7.0), Some(1000));
        assert_eq!(beyond(-1.0), Some(0));
        assert_eq!(beyond(f64::NAN), Some(0));
    }
}
