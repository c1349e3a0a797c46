//! Files that job code serves, and what it fetches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::{
    Fqcn, Segment,
    local::outbox::Closed,
    transfer::{
        End as TransferEnd, FetchError, FetchOptions, ServeOptions, Served, SignedReference, Sink,
        Source,
    },
};
use cellbus_proto::{
    local::{ServeStep, Settled, ToJob, is_content_type},
    status::Status,
};
use tokio::{sync::Notify, time::Instant};

use super::{
    act::End,
    asked::refused,
    attached::{bytes_of, reserve, serve_status},
    link::Link,
};

/// Between two reports of how far something is.
const REPORT: Duration = Duration::from_millis(250);
/// Between two looks at who has ended, without progress.
const LOOK: Duration = Duration::from_secs(1);

/// Serves a file until its receivers have settled, it expires, or job code stops it.
pub(super) async fn serve(
    link: Arc<Link>,
    id: u64,
    serve: ServeStep,
    file: Option<File>,
    stop: Arc<Notify>,
) -> End {
    let begun = tokio::select! {
        begun = begin(&link, serve, file) => begun,
        () = stop.notified() => Err(Status::TransferCancelled),
    };
    let served = match begun {
        Ok(served) => served,
        Err(status) => return refused(&link, id, status),
    };
    let reference = match served.reference().encode() {
        Ok(reference) if reference.len() <= link.limits.payload_max as usize => reference,
        Ok(_) | Err(_) => return refused(&link, id, Status::TooLarge),
    };
    let ended = async {
        link.part(id, ToJob::Served { id, reference }, None).await?;
        let mut told = BTreeSet::new();
        let outcome = tokio::select! {
            Err(closed) = report(&link, id, &served, &mut told) => return Err(closed),
            outcome = served.outcome() => outcome,
            () = stop.notified() => served.cancel(),
        };
        settle(&link, id, &outcome.ends, &mut told).await
    };
    // An error is the end of the connection; then nobody waits for the answer.
    let _ = ended.await;
    End::new(ToJob::End { id })
}

async fn begin(link: &Link, serve: ServeStep, file: Option<File>) -> Result<Served, Status> {
    let ServeStep { to, target, lifetime, content_type, headers, size: _checked } = serve;
    let file = file.ok_or(Status::BadFrame)?;
    let mut options = match to {
        Some(to) => ServeOptions::new(target, to),
        None => ServeOptions::for_job(target, own_job(&link.cell).ok_or(Status::JobScope)?),
    };
    if let Some(lifetime) = lifetime {
        options = options.lifetime(lifetime);
    }
    if let Some(content_type) = content_type {
        options = options.content_type(&content_type);
    }
    let served = link.bus.transfers().serve(Source::opened(file), options.headers(headers)).await;
    served.map_err(|error| {
        tracing::debug!(%error, "a file of job code is not served");
        serve_status(&error)
    })
}

/// The job of a job cell is its base name.
fn own_job(cell: &Fqcn) -> Option<Segment> {
    cell.base().parse().ok()
}

/// Reports the latest value of every receiver, not too often, and who has ended; never ends well.
async fn report(
    link: &Link,
    id: u64,
    served: &Served,
    told: &mut BTreeSet<Fqcn>,
) -> Result<(), Closed> {
    let mut progress = served.progress();
    loop {
        let mut latest = BTreeMap::new();
        match tokio::time::timeout(LOOK, progress.next()).await {
            Ok(Some((from, value))) => {
                latest.insert(from, value);
            }
            // What has become of it is said by its outcome.
            Ok(None) => std::future::pending().await,
            Err(_elapsed) => {
                settle(link, id, &stored(served), told).await?;
                continue;
            }
        }
        let until = Instant::now() + REPORT;
        while let Ok(Some((from, value))) = tokio::time::timeout_at(until, progress.next()).await {
            latest.insert(from, value);
        }
        for (from, value) in latest {
            let (bytes, size) = bytes_of(&value);
            link.part(id, ToJob::Progress { id, from: Some(from), bytes, size }, None).await?;
        }
        settle(link, id, &stored(served), told).await?;
    }
}

/// The receivers that have it. Who has failed may come again, so that its end is known with that of all.
fn stored(served: &Served) -> BTreeMap<Fqcn, TransferEnd> {
    let is_stored = |end: &TransferEnd| matches!(end, TransferEnd::Stored { .. });
    served.ends().into_iter().filter(|(_, end)| is_stored(end)).collect()
}

/// Says what has become of each receiver, once.
async fn settle(
    link: &Link,
    id: u64,
    ends: &BTreeMap<Fqcn, TransferEnd>,
    told: &mut BTreeSet<Fqcn>,
) -> Result<(), Closed> {
    for (from, end) in ends {
        if !told.insert(from.clone()) {
            continue;
        }
        let end = match end {
            TransferEnd::Stored { .. } => Settled::Stored,
            TransferEnd::Failed(status) => Settled::Failed(*status),
            TransferEnd::Missing => Settled::Missing,
        };
        link.part(id, ToJob::Settled { id, from: from.clone(), end }, None).await?;
    }
    Ok(())
}

/// Fetches what a reference stands for into a memory file.
pub(super) async fn fetch(
    link: Arc<Link>,
    id: u64,
    reference: Bytes,
    size_max: u64,
    patience: Option<Duration>,
) -> End {
    match fetched(&link, id, &reference, size_max, patience).await {
        Ok(end) => end,
        Err(status) => refused(&link, id, status),
    }
}

async fn fetched(
    link: &Link,
    id: u64,
    reference: &[u8],
    size_max: u64,
    patience: Option<Duration>,
) -> Result<End, Status> {
    let signed = SignedReference::decode(reference).map_err(|error| error.status)?;
    let size_max = size_max.min(link.limits.attached_max);
    // Of a size that nobody knows, it may become as much as is taken.
    let most = signed.reference.size.unwrap_or(signed.reference.size_max.min(size_max));
    if most > size_max {
        return Err(Status::TooLarge);
    }
    let permit = reserve(link, most)?;
    let mut options = FetchOptions::default();
    if let Some(patience) = patience {
        options = options.patience(patience);
    }
    let sink = Sink::memory_file(size_max);
    let mut fetching = link.bus.transfers().fetch(&signed, sink, options);
    let progress = fetching.progress();
    let mut next_report = Instant::now() + REPORT;
    let fetched = loop {
        tokio::select! {
            fetched = &mut fetching => break fetched,
            () = tokio::time::sleep_until(next_report) => {}
        }
        next_report = Instant::now() + REPORT;
        let (bytes, size) = bytes_of(&progress.latest());
        let frame = ToJob::Progress { id, from: None, bytes, size };
        link.part(id, frame, None).await.map_err(|Closed| Status::ShuttingDown)?;
    };
    let fetched = fetched.map_err(|error: FetchError| {
        tracing::debug!(%error, "job code's fetch has failed");
        error.status()
    })?;
    let described = &fetched.reference.reference;
    let content_type = described.content_type.as_deref().filter(|text| is_content_type(text));
    let frame = ToJob::Fetched {
        id,
        content_type: content_type.map(Arc::from),
        size: fetched.size,
        headers: Bytes::copy_from_slice(&described.headers.0),
        digest: *fetched.digest.as_bytes(),
    };
    let file = fetched.file().ok_or(Status::StorageDegraded)?.try_clone();
    let file = file.map_err(|_| Status::StorageFull)?;
    Ok(End { frame, file: Some(file), _permit: Some(permit) })
}
