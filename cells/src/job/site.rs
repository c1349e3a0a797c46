//! What a site, or a relay, does for jobs: it starts what the server asks for, and tells again and again what it has.

use std::{sync::Arc, time::Duration};

use cellbus_channels::{Failure, Reply, from_fn};
use cellbus_proto::{
    codec::body::{self, JobStart, JobStop},
    job::{FileChunk, JobId, LogBatch, LogLine, PartSpec, Table, TableAnswer, Why},
    name::Fqcn,
    status::Status,
    well_known::{self, SystemTopic},
};
use cellbus_runtime::{clock, host::RunningCell};
use tokio::sync::{Notify, broadcast::error::RecvError};

use super::parts::{Parts, refusal_of};

/// Time between two tables, without news.
const PERIOD: Duration = Duration::from_secs(2);
/// Time for the server to answer.
const BUDGET: Duration = Duration::from_secs(5);
/// Time without the server after which nothing is wanted any longer.
const FORSAKEN: Duration = Duration::from_secs(60);

/// Serves the server of `running`, a site, with `parts`.
pub(super) fn serve(running: &RunningCell, parts: &Parts) {
    let asked = Arc::new(Notify::new());
    let at = parts.clone();
    let start = from_fn(move |delivery| {
        let parts = at.clone();
        async move {
            let JobStart { job, program, parameters } =
                body::decode_exact(&delivery.payload).map_err(|error| error.status)?;
            let spec: PartSpec = body::decode_exact(&parameters.0).map_err(|error| error.status)?;
            parts
                .start(job, &program, spec)
                .await
                .map_err(|error| Failure::failed(refusal_of(&error)))?;
            Ok(Reply::default())
        }
    });
    let at = parts.clone();
    let file = from_fn(move |delivery| {
        let parts = at.clone();
        async move {
            let chunk: FileChunk =
                body::decode_exact(&delivery.payload).map_err(|error| error.status)?;
            parts
                .stage(chunk)
                .await
                .map_err(|error| Failure::failed(cellbus_proto::causes::with_sources(&error)))?;
            Ok(Reply::default())
        }
    });
    let (at, ask) = (parts.clone(), Arc::clone(&asked));
    let stop = from_fn(move |delivery| {
        let decoded = body::decode_exact::<JobStop>(&delivery.payload);
        let outcome = decoded.map_err(|error| Failure::from(error.status)).and_then(|stop| {
            let is_here = at.rows().iter().any(|row| row.id.job == stop.job);
            // Which attempt is to end, the answer to the table says.
            ask.notify_one();
            is_here.then(Reply::default).ok_or(Failure::Refused(Status::BadTarget))
        });
        async move { outcome }
    });
    register(running, well_known::JOB_START, start);
    register(running, well_known::JOB_FILE, file);
    register(running, well_known::JOB_STOP, stop);
    let told = running.clone();
    parts.log_to(Box::new(move |id, lines| Box::pin(tell_log(told.clone(), id, lines))));
    tokio::spawn(tell_tables(running.clone(), parts.clone(), asked));
    tokio::spawn(end_when_turned_out(running.clone(), parts.clone()));
}

pub(super) fn register(
    running: &RunningCell,
    topic: SystemTopic,
    handler: impl cellbus_channels::Handler,
) {
    if let Err(error) = running.handle_system(topic, handler) {
        tracing::error!(topic = topic.topic, %error, "a job topic is not served");
    }
}

/// Tells the server what a part has printed. What it does not take is not told again.
async fn tell_log(running: RunningCell, id: JobId, lines: Vec<LogLine>) {
    let body = body::encode(&LogBatch { id, lines });
    let server = running.own().server.clone();
    let request = running.bus().request(server, well_known::JOB_LOG.into());
    if let Err(error) = request.payload(body).budget(BUDGET).send().await {
        tracing::debug!(%error, "lines of a job did not reach the server");
    }
}

/// Ends every part as soon as this site hears that it may no longer take part.
async fn end_when_turned_out(running: RunningCell, parts: Parts) {
    let own = running.own();
    let (bus, mut turned_out) = (running.bus(), own.notices.turned_out());
    loop {
        let cell = tokio::select! {
            () = bus.closed() => return,
            cell = turned_out.recv() => cell,
        };
        let is_own = match cell {
            Ok(cell) => cell == own.name,
            // A site is told of itself and of its jobs, and of nobody else.
            Err(RecvError::Lagged(_)) => true,
            Err(RecvError::Closed) => return,
        };
        if !is_own {
            continue;
        }
        let ended = parts.turn_out();
        if ended > 0 {
            tracing::warn!(cell = %own.name, ended, "the jobs here are ended: this cell may no longer take part");
        }
    }
}

/// Tells the server what this site has, whenever that changes and every two seconds, as long as it has anything; and
/// does what the answer says.
async fn tell_tables(running: RunningCell, parts: Parts, asked: Arc<Notify>) {
    let bus = running.bus();
    let server: Fqcn = running.own().server.clone();
    let mut changes = parts.changes();
    let mut heard = clock::now();
    loop {
        let is_asked = tokio::select! {
            () = bus.closed() => return,
            changed = changes.changed() => if changed.is_err() { return } else { true },
            () = asked.notified() => true,
            () = tokio::time::sleep(PERIOD) => false,
        };
        let rows = parts.rows();
        if rows.is_empty() && !is_asked {
            heard = clock::now();
            continue;
        }
        let body = body::encode(&Table { rows: rows.clone() });
        let request = bus.request(server.clone(), well_known::JOB_TABLE.into());
        let answer = request.payload(body).budget(BUDGET).send().await;
        let answer: Option<TableAnswer> =
            answer.ok().and_then(|reply| body::decode_exact(&reply.payload).ok());
        if let Some(TableAnswer { stop, known }) = answer {
            heard = clock::now();
            for id in stop {
                parts.stop(&id, Why::NotNeeded);
            }
            parts.forget(&known);
        } else if clock::now().saturating_duration_since(heard) >= FORSAKEN {
            let why = Why::Forsaken(format!("the server was not heard of for {FORSAKEN:?}"));
            for row in &rows {
                parts.stop(&row.id, why.clone());
            }
        }
    }
}
