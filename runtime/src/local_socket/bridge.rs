//! One connection after its HELLO: frames of job code become operations on the cell's bus.

use std::{io, pin::pin, sync::Arc, time::Duration};

use cellbus_channels::{
    Bus,
    local::{
        inbox::{Inbox, InboxError, Received},
        outbox::{Closed, Outbox},
    },
};
use cellbus_proto::{
    local::{Step, ToCell, ToJob, Welcome},
    status::Status,
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Ended, Options, Stage,
    act::act,
    arrival::{Admitted, Socket},
    link::Link,
};

/// Silence within a frame that ends the connection.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Bytes that wait for job code to read them, at most, before senders wait.
const OUTBOX_BYTES: usize = 4 << 20;
/// Time for the last frames to be written, and the last to be read, when the connection ends.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Heartbeats in a row that job code may let pass.
const SILENT_MAX: u32 = 3;
/// Time in which nobody reads any of what job code has sent, when it has gone, until that is given up.
const SETTLE_IDLE: Duration = Duration::from_secs(60);

/// Also when the future of the conversation is dropped.
struct CloseOnDrop(Arc<Link>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

pub(super) async fn converse(admitted: Admitted, bus: Bus, options: Options) -> Ended {
    let Admitted { version, socket: Socket { mut inbox, mut write } } = admitted;
    let Options { limits, launch, heartbeat, stage, .. } = options;
    inbox.set_limits(&limits);
    inbox.set_silence_max(SILENCE_MAX);
    let (outbox, mut drain) = Outbox::new(OUTBOX_BYTES);
    let link = Arc::new(Link::new(bus.clone(), version, limits, outbox.clone()));
    let closing = CloseOnDrop(Arc::clone(&link));
    outbox.push_small(&ToJob::Welcome(Welcome {
        version,
        cell: bus.name(),
        job: launch.job,
        attempt: launch.attempt,
        role: launch.role,
        heartbeat_ms: heartbeat.map(|period| u32::try_from(period.as_millis()).unwrap_or(u32::MAX)),
        limits,
    }));

    let mut tasks = JoinSet::new();
    let mut writing = pin!(drain.run(&mut write));
    let mut reading = Box::pin(read(&link, &mut inbox, &mut tasks));
    let (ended, can_write) = tokio::select! {
        ended = &mut reading => (ended, true),
        () = bus.closed() => (Ended::CellClosed, true),
        () = beat(&link, heartbeat) => (Ended::Violation(Status::Deadline), true),
        // Job code may have said goodbye and closed; its last words are still to be read.
        _failed = &mut writing => {
            outbox.close();
            (timeout(FAREWELL_MAX, &mut reading).await.unwrap_or(Ended::Gone), false)
        }
    };
    drop(reading);
    drop(closing);
    drop(tasks);
    if can_write {
        outbox.push_last(&ToJob::Bye { status: farewell(ended) });
        let _: Result<io::Result<()>, _> = timeout(FAREWELL_MAX, writing).await;
    }
    // What job code has sent last, its result perhaps, is fetched from this cell.
    stage.send_replace(Stage::Settling);
    tokio::select! {
        () = link.settled(SETTLE_IDLE) => {}
        () = bus.closed() => {}
    }
    ended
}

fn farewell(ended: Ended) -> Option<Status> {
    match ended {
        Ended::Violation(status) => Some(status),
        Ended::CellClosed => Some(Status::ShuttingDown),
        Ended::Unclaimed | Ended::Finished | Ended::Gone => None,
    }
}

async fn read(link: &Arc<Link>, inbox: &mut Inbox<ToCell>, tasks: &mut JoinSet<()>) -> Ended {
    loop {
        let Received { frame, file } = match inbox.next().await {
            Ok(Some(received)) => received,
            Ok(None) | Err(InboxError::Io(_) | InboxError::Truncated) => return Ended::Gone,
            Err(error) => {
                tracing::debug!(%error, cell = %link.cell, "job code broke the protocol");
                return Ended::Violation(error.status().unwrap_or(Status::BadFrame));
            }
        };
        link.heard();
        let step = match link.handle_frame(frame) {
            Ok(Step::Bye) => return Ended::Finished,
            Ok(step) => step,
            Err(violation) => {
                tracing::debug!(%violation, cell = %link.cell, "job code broke the protocol");
                return Ended::Violation(violation.status());
            }
        };
        // Waits while job code does not read: then nothing more is read from it either.
        if act(link, tasks, step, file).await == Err(Closed) {
            return Ended::Gone;
        }
    }
}

/// Ends when nothing was heard of job code for too long; never where nobody wants to know.
async fn beat(link: &Link, period: Option<Duration>) {
    let Some(period) = period else { return std::future::pending().await };
    let mut silent = 0;
    for token in 1.. {
        link.outbox.push_small(&ToJob::Ping { token });
        sleep(period).await;
        silent = if link.take_heard() { 0 } else { silent + 1 };
        if silent >= SILENT_MAX {
            return;
        }
    }
}
