//! What every job cell answers to its own program, and when it takes the program for idle.

use std::time::Duration;

use bytes::Bytes;
use cellbus_channels::{ChannelTopic, HandleError, Reply, from_fn};
use cellbus_proto::{idle::Idle, name::Fqcn};
use cellbus_runtime::host::RunningCell;
use serde_json::json;

use super::{JOB_CHANNEL, PARAMETERS, SURROUNDINGS, progress};
use crate::job::JobBootstrap;

/// Answers for the parameters of the job, and for what a program finds in its environment where it was launched.
pub(super) async fn serve(
    cell: &RunningCell,
    bootstrap: &JobBootstrap,
    parameters: Bytes,
) -> Result<(), HandleError> {
    let bus = cell.bus();
    progress::serve(&bus, bootstrap).await?;
    let names: Vec<&str> = bootstrap.site_cells.iter().map(Fqcn::as_str).collect();
    let surroundings = json!({
        "job": bootstrap.id.job,
        "attempt": bootstrap.id.attempt,
        "run": bootstrap.run,
        "cell": bootstrap.name,
        "server_cell": bootstrap.server_cell,
        "sites": names,
    });
    for (topic, told) in [(PARAMETERS, parameters), (SURROUNDINGS, surroundings.to_string().into())]
    {
        let target = ChannelTopic::parse(JOB_CHANNEL, topic).expect("both are names");
        let handler = from_fn(move |_| {
            let told = told.clone();
            async move { Ok(Reply::from(told)) }
        });
        bus.handle(target, handler).await?;
    }
    Ok(())
}

/// Ends when no message has come to or gone from this cell for so many seconds; never for 0.
pub(super) async fn idle(cell: &RunningCell, seconds: u32) -> Duration {
    if seconds == 0 {
        return std::future::pending().await;
    }
    let limit = Duration::from_secs(u64::from(seconds));
    let mut seen = None;
    let mut since = tokio::time::Instant::now();
    loop {
        let report = cell.own().counters.report();
        let now = Some((report.delivered, report.forwarded));
        if now != seen {
            (seen, since) = (now, tokio::time::Instant::now());
        }
        if since.elapsed() >= limit {
            return limit;
        }
        tokio::time::sleep(Idle::LOOK.min(limit / 4)).await;
    }
}
