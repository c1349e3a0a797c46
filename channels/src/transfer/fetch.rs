//! Fetching: a reference is judged, and then pulled into a sink.

use std::{
    fmt,
    fs::File,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
};

use bytes::Bytes;
use cellbus_proto::{
    name::{Fqcn, Segment},
    status::Status,
    transfer::{
        ContentKey, Digest, KeyError, Meter, Progress, Receiver, Reference, Sealer,
        SignedReference, Told, Unfit,
    },
};
use tokio::sync::watch;

use super::{
    Transfers,
    carried::elsewhere,
    engine::{Engine, giving_up::unless},
    error::FetchError,
    now,
    options::FetchOptions,
    progress::FetchProgress,
    running::RunningFetch,
    sink::Sink,
};
use crate::{bus::Bus, error::RequestError, transport::BoxFuture};

/// What has been fetched: verified, and durable where the sink makes it so.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What it is; another reference than the one that was given, where the source has changed.
    pub reference: Arc<SignedReference>,
    /// Bytes in the sink; of what was sealed, those of the content.
    pub size: u64,
    /// Of all bytes that travelled, as the reference and the receipt have it; of what was sealed, it is not that of
    /// the bytes in the sink.
    pub digest: Digest,
    /// Whether the holder has counted it.
    pub told: Told,
    pub(super) bytes: Option<Bytes>,
    pub(super) file: Option<Arc<File>>,
}

impl Fetched {
    /// The bytes, where the sink was memory.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }

    /// The bytes, where the sink was memory; nothing otherwise.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes.unwrap_or_default()
    }

    /// The file, sealed, where the sink was a memory file.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// The named parts of an object, where the sink was memory: slices that share it.
    pub fn parts(&self) -> impl Iterator<Item = (&str, Bytes)> {
        let bytes = self.bytes.clone().unwrap_or_default();
        self.reference.reference.places().map(move |(name, place)| {
            // What was verified has all parts; the ends of its places are its own bytes.
            let [start, end] =
                [place.start, place.end].map(|at| at.min(bytes.len() as u64) as usize);
            (name, bytes.slice(start..end))
        })
    }
}

/// Gives up a fetch. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Canceller(Arc<watch::Sender<bool>>);

impl Canceller {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Gives it up. The holder is told, and nothing of it stays. Once the bytes are being put in their place it is
    /// too late, and the fetch ends well.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

/// A fetch that runs while it is awaited.
///
/// # Cancellation
/// Dropping it gives up at once: the holder notices, and what is durable of a file stays, to be gone on with.
#[must_use = "a fetch does nothing until it is awaited"]
pub struct Fetching {
    run: BoxFuture<Result<Fetched, FetchError>>,
    progress: FetchProgress,
    canceller: Canceller,
    is_rebuilding: Arc<AtomicBool>,
}

impl Transfers {
    /// Fetches what `reference` describes into `sink`. The end comes when everything is verified and durable, and
    /// the holder has been told.
    ///
    /// # Errors
    /// [`FetchError`]; the sink has not been committed: a file is not in its place. Nothing is asked for by a
    /// reference that is not signed by its holder, that has expired, or that is for others, nor without the key of
    /// what is sealed.
    pub fn fetch(
        &self,
        reference: &SignedReference,
        sink: Sink,
        options: FetchOptions,
    ) -> Fetching {
        let signed = Arc::new(reference.clone());
        let parts = Parts::new(&signed);
        let (bus, shown) = (self.bus.clone(), parts.shown.clone());
        if let Some(files) = bus.transport().files() {
            return Fetching::of(parts, move |_running, cancelled| {
                elsewhere(files, signed, sink, options, shown.progress, cancelled)
            });
        }
        Fetching::of(parts, move |running, mut cancelled| async move {
            let judged = unless(true, &mut cancelled, judge(&bus, &signed)).await;
            judged.unwrap_or(Err(FetchError::Failed(Status::TransferCancelled)))?;
            let sink = opening(&bus, &signed, sink, &options)?;
            let _noted = bus.shelf().note(running);
            let mut engine = Engine::new(bus.clone(), signed, sink, options, shown);
            match unless(true, &mut cancelled, engine.open_sink()).await {
                Some(opened) => opened?,
                // It is being opened still, and cleared when it is open.
                None => engine.cancel(),
            }
            engine.run(cancelled).await
        })
    }

    /// As [`Self::fetch`], by a reference that was judged, into a sink that is opened before this returns.
    ///
    /// # Errors
    /// [`FetchError`] when the sink cannot be opened; nothing was asked for.
    pub(super) async fn prepare(
        &self,
        signed: &Arc<SignedReference>,
        sink: Sink,
        options: FetchOptions,
    ) -> Result<Fetching, FetchError> {
        if self.bus.transport().files().is_some() {
            return Ok(self.fetch(signed, sink, options));
        }
        let sink = opening(&self.bus, signed, sink, &options)?;
        let parts = Parts::new(signed);
        let shown = parts.shown.clone();
        let mut engine = Engine::new(self.bus.clone(), Arc::clone(signed), sink, options, shown);
        engine.open_sink().await?;
        let bus = self.bus.clone();
        Ok(Fetching::of(parts, move |running, cancelled| {
            // Known from now on, though it may wait for its turn.
            let noted = bus.shelf().note(running);
            async move {
                let _noted = noted;
                engine.run(cancelled).await
            }
        }))
    }
}

/// What an engine shows of itself while it runs.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) progress: watch::Sender<Progress>,
    /// Whether it hashes what is there from before: no byte comes meanwhile.
    pub(super) is_rebuilding: Arc<AtomicBool>,
}

/// What a fetch shows of itself, and is given up by.
struct Parts {
    shown: Shown,
    running: RunningFetch,
}

impl Parts {
    fn new(signed: &Arc<SignedReference>) -> Self {
        let (generation, size) = (signed.reference.generation, signed.reference.size);
        let progress = watch::Sender::new(Meter::new(now(), generation, size).progress());
        let running = RunningFetch {
            reference: Arc::clone(signed),
            progress: FetchProgress::new(progress.subscribe()),
            canceller: Canceller::new(),
            begun: now(),
        };
        Self { shown: Shown { progress, is_rebuilding: Arc::default() }, running }
    }
}

impl Fetching {
    fn of<F>(parts: Parts, run: impl FnOnce(RunningFetch, watch::Receiver<bool>) -> F) -> Self
    where
        F: Future<Output = Result<Fetched, FetchError>> + Send + 'static,
    {
        let (progress, canceller) =
            (parts.running.progress.clone(), parts.running.canceller.clone());
        let cancelled = canceller.watch();
        let is_rebuilding = parts.shown.is_rebuilding;
        Self { run: Box::pin(run(parts.running, cancelled)), progress, canceller, is_rebuilding }
    }
}

impl Fetching {
    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> FetchProgress {
        self.progress.clone()
    }

    /// Whether it hashes what is there from before.
    pub(super) fn is_rebuilding(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_rebuilding)
    }

    /// What gives it up.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }
}

impl Future for Fetching {
    type Output = Result<Fetched, FetchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.run.as_mut().poll(cx)
    }
}

impl fmt::Debug for Fetching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fetching").field(&self.progress.latest()).finish()
    }
}

/// Whether this cell may believe and use a reference: it is in time, for this cell, and signed by its holder.
pub(super) async fn judge(bus: &Bus, signed: &SignedReference) -> Result<(), FetchError> {
    if bus.transport().files().is_some() {
        // Job code knows no authority; its cell judges before it fetches anything.
        return Ok(());
    }
    let (me, unix) = (bus.name(), bus.transport().unix_ms() / 1000);
    let project = bus
        .transport()
        .project()
        .ok_or_else(|| FetchError::Unverified(crate::passage::not_carried(&me)))?;
    let job = own_job(&me);
    let receiver = Receiver { name: &me, job: job.as_ref() };
    // What can be said without asking anybody comes first.
    let mut asked = None;
    let judged = signed.judge(project.as_str(), receiver, unix, |signable, signature| {
        asked = Some((signable.clone(), Bytes::copy_from_slice(signature)));
        true
    });
    judged?;
    let Some((signable, signature)) = asked else { return Err(Unfit::BadSignature.into()) };
    let holder = signed.reference.holder.clone();
    match bus.transport().verify(holder, signable, signature).await {
        Ok(()) => Ok(()),
        Err(RequestError::Closed) => Err(FetchError::Closed),
        Err(error) if error.status() == Status::BadSignature => Err(Unfit::BadSignature.into()),
        Err(error) => Err(FetchError::Unverified(error)),
    }
}

/// `sink`, opening what is sealed; refused where key and reference do not go together.
fn opening(
    bus: &Bus,
    signed: &SignedReference,
    sink: Sink,
    options: &FetchOptions,
) -> Result<Sink, KeyError> {
    let project = bus.transport().project();
    let project = project.as_ref().map_or("", Segment::as_str);
    sink.opening(&signed.reference, project, options.key.as_ref())
}

/// Whether `key` goes with what `reference` describes.
pub(super) fn judge_key(
    bus: &Bus,
    reference: &Reference,
    key: Option<&ContentKey>,
) -> Result<(), KeyError> {
    if bus.transport().files().is_some() {
        return Err(KeyError::NotCarried);
    }
    let project = bus.transport().project();
    let project = project.as_ref().map_or("", Segment::as_str);
    Sealer::of(reference, project, key).map(drop)
}

/// The job that a cell would be of, by its name. Whether it is, the holder decides by its token.
fn own_job(me: &Fqcn) -> Option<Segment> {
    me.base().parse().ok()
}
