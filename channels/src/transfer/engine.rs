//! Runs a pull: asks the holder, hands what comes to the sink, and gives the receipt when that is durable.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use cellbus_proto::{
    envelope::Lane,
    status::Status,
    transfer::{
        Answer, Fetch, Pull, PullEnd, PullSettings, Receipt, Reference, SignedReference, Stage,
        Step,
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    giving_up::{LEAVE, given_up, unless},
    room::is_full,
};
use super::{
    Blob,
    error::{FetchError, SinkError},
    fetch::{Fetched, Shown, judge, judge_key},
    now,
    options::FetchOptions,
    pace::Pace,
    random,
    sink::{
        Found, Sink,
        work::{Event, Op, Work},
    },
};
use crate::{
    bus::Bus,
    conduit::{Broken, Conduit, ConduitOptions},
    error::RequestError,
    handler::Reply,
    transport::{BoxFuture, Outgoing},
};

pub(super) mod giving_up;
mod room;

/// Bytes that are written at once.
const BATCH: usize = 256 << 10;
/// How long a receipt may take to be taken by the way.
const RECEIPT: Duration = Duration::from_secs(2);
/// How long, and how often, a part that somebody else writes is waited for.
const BUSY: Duration = Duration::from_millis(100);
const BUSY_TRIES: u32 = 10;
/// Most time for the holder to answer a fetch.
const ANSWER: Duration = Duration::from_secs(30);
/// Time for the work on a sink to end when the bus is closed.
const FAREWELL: Duration = Duration::from_secs(1);
type Opened = Result<(Reply, Conduit), RequestError>;

/// One fetch that runs.
pub(super) struct Engine {
    bus: Bus,
    signed: Arc<SignedReference>,
    options: FetchOptions,
    pull: Pull,
    work: Work,
    /// What the sink has from before.
    found: Option<Found>,
    opening: Option<BoxFuture<Opened>>,
    conduit: Option<Conduit>,
    /// Came in and not handed out yet.
    inputs: VecDeque<Bytes>,
    chunks: Vec<Bytes>,
    /// Whether nothing more comes on the conduit.
    is_ended: bool,
    pace: Pace,
    paced_until: Option<Instant>,
    shown: Shown,
    sink_error: Option<SinkError>,
    is_cancelled: bool,
    /// Whether a receipt was written.
    has_told: bool,
}

/// What an engine that waits is woken by.
enum Woken {
    Late,
    Cancelled,
    Closed,
    Sink(Event),
    Opened(Box<Opened>),
    Read(Result<bool, Broken>),
}

impl Engine {
    pub(super) fn new(
        bus: Bus,
        signed: Arc<SignedReference>,
        sink: Sink,
        options: FetchOptions,
        shown: Shown,
    ) -> Self {
        let settings = PullSettings { size_cap: sink.cap(), ..options.pull };
        let pull = Pull::new(now(), Arc::new(signed.reference.clone()), settings);
        let pace = Pace::new(options.rate);
        Self {
            bus,
            signed,
            options,
            pull,
            work: Work::new(sink),
            found: None,
            opening: None,
            conduit: None,
            inputs: VecDeque::new(),
            chunks: Vec::new(),
            is_ended: false,
            pace,
            paced_until: None,
            shown,
            sink_error: None,
            is_cancelled: false,
            has_told: false,
        }
    }

    /// Runs to the end, once the sink is open.
    pub(super) async fn run(
        mut self,
        mut cancelled: watch::Receiver<bool>,
    ) -> Result<Fetched, FetchError> {
        let mut closed = {
            let bus = self.bus.clone();
            let closed: BoxFuture<()> = Box::pin(async move { bus.closed().await });
            closed
        };
        if !self.is_cancelled {
            self.begin();
        }
        loop {
            let step = self.pull.poll(now(), random);
            self.tell_progress();
            match step {
                Step::Rebuild { to } => {
                    self.shown.is_rebuilding.store(true, Ordering::Relaxed);
                    self.work.push(Op::Rebuild { from: 0, to });
                }
                Step::Open(fetch) => {
                    let is_cancelled = self.is_cancelled;
                    let asking = self.open_if_room(&fetch);
                    let asked = unless(!is_cancelled, &mut cancelled, asking).await;
                    asked.unwrap_or_else(|| self.cancel());
                }
                Step::Close => self.close(),
                Step::Rewind { to } => self.work.push(Op::Rewind { to }),
                Step::Sync { to } => self.work.push(Op::Sync { to }),
                Step::Digest => self.work.push(Op::Digest),
                Step::Commit { size, digest } => self.work.push(Op::Commit { size, digest }),
                Step::Confirm(receipt) => self.confirm(receipt).await,
                Step::Done(end) => return self.end(end).await,
                Step::Wait { until } => {
                    if self.take_input() {
                        continue;
                    }
                    match self.wait(until, &mut cancelled, &mut closed).await {
                        Woken::Late => {}
                        Woken::Cancelled => self.cancel(),
                        Woken::Closed => {
                            self.close();
                            // What is running on the sink ends by itself, should it take longer.
                            let _ = timeout(FAREWELL, self.work.finish()).await;
                            return Err(FetchError::Closed);
                        }
                        Woken::Sink(event) => self.handle_sink(event),
                        Woken::Opened(opened) => {
                            let is_cancelled = self.is_cancelled;
                            let handling = self.handle_opened(*opened);
                            let handled = unless(!is_cancelled, &mut cancelled, handling).await;
                            handled.unwrap_or_else(|| self.cancel());
                        }
                        Woken::Read(read) => self.handle_read(read),
                    }
                }
            }
        }
    }

    /// Prepares the sink, and finds what is there from before.
    ///
    /// # Errors
    /// [`FetchError`] when it cannot be used.
    pub(super) async fn open_sink(&mut self) -> Result<(), FetchError> {
        let mut tries = 0;
        let opened = loop {
            self.work.push(Op::Open(Box::new((*self.signed).clone())));
            let event = self.work.next().await;
            // A fetch that was dropped may be at its last step.
            if !matches!(event, Event::Failed(SinkError::Busy(_))) || tries == BUSY_TRIES {
                break event;
            }
            tries += 1;
            sleep(BUSY).await;
        };
        self.found = match opened {
            Event::Opened(found) => found,
            Event::Failed(error) => return Err(error.into()),
            Event::Rebuilt
            | Event::PartLost
            | Event::Synced(_)
            | Event::Probed
            | Event::Digest(_)
            | Event::Committed
            | Event::Room => None,
        };
        Ok(())
    }

    /// Begins, or goes on with what is there from before. Time counts from now on.
    fn begin(&mut self) {
        let reference = Arc::clone(self.pull.reference());
        let settings = PullSettings { size_cap: self.work.cap(), ..self.options.pull };
        match self.found.take() {
            Some(Found { durable, stage: Stage::Receiving }) => {
                self.pull = Pull::resume(now(), reference, settings, durable);
            }
            Some(Found { durable, stage: Stage::Verified(digest) }) => {
                self.pull = Pull::stored(now(), reference, settings, durable, digest);
            }
            None => self.pull = Pull::new(now(), reference, settings),
        }
        if let Some(digester) = self.pull.take_digester() {
            self.work.hash_with(digester);
        }
    }

    fn tell_progress(&self) {
        let now = self.pull.progress();
        self.shown.progress.send_if_modified(|last| {
            let is_new = *last != now;
            *last = now;
            is_new
        });
    }

    fn open(&mut self, fetch: &Fetch) {
        let reference = self.pull.reference();
        let mut outgoing = Outgoing::new(reference.target.clone());
        outgoing.payload = fetch.encode();
        outgoing.lane = Lane::Bulk;
        outgoing.budget = Some(self.options.pull.idle.clamp(Duration::from_millis(100), ANSWER));
        // Bytes for one receiver are carried once anyway.
        let is_for_many = match &reference.audience {
            cellbus_proto::transfer::Audience::Receivers(names) => names.len() > 1,
            cellbus_proto::transfer::Audience::Job(_) => true,
        };
        let may_share = is_for_many && !fetch.have && self.pull.may_share() && !self.is_cancelled;
        let share = may_share.then(|| *reference.id.as_bytes());
        let sealed = reference.seal.is_some();
        let options = ConduitOptions { share, priority: self.options.priority, sealed };
        let (bus, to) = (self.bus.clone(), reference.holder.clone());
        self.close();
        self.opening = Some(Box::pin(async move { bus.open_conduit(to, outgoing, options).await }));
    }

    fn close(&mut self) {
        self.opening = None;
        self.conduit = None;
        self.inputs.clear();
        self.chunks.clear();
        self.is_ended = false;
        self.paced_until = None;
    }

    /// Signs the receipt and writes it. What goes wrong shows on the conduit.
    async fn confirm(&mut self, mut receipt: Receipt) {
        let transport = self.bus.transport();
        let holder = &self.pull.reference().holder;
        if let Some(project) = transport.project() {
            let signable = receipt.signable(project.as_str(), &transport.name(), holder);
            let signature = transport.sign(signable).await.ok();
            receipt.signature = signature.map(|signature| Blob(signature.to_vec()));
        }
        // What the holder says to it is no byte of the transfer, and waits for none.
        self.paced_until = None;
        let Some(conduit) = &mut self.conduit else { return self.pull.handle_lost() };
        let limit = if self.is_cancelled { LEAVE } else { RECEIPT };
        let written = timeout(limit, conduit.send.write_one(receipt.to_stream())).await;
        if matches!(written, Ok(Ok(()))) {
            conduit.send.finish();
            self.has_told = true;
        } else {
            self.close();
            self.pull.handle_lost();
        }
    }

    /// Hands out the next bytes that are there, as many as are written at once; `false` where none are, or none
    /// are wanted.
    fn take_input(&mut self) -> bool {
        if !self.pull.takes_bytes() || !self.work.has_room() {
            return false;
        }
        let Some(mut input) = self.inputs.front_mut() else {
            if std::mem::take(&mut self.is_ended) {
                self.close();
                self.pull.handle_lost();
                return true;
            }
            return false;
        };
        let now = now();
        let (mut batch, mut len) = (Vec::new(), 0);
        loop {
            match self.pull.handle_bytes(now, input) {
                Ok(Some(data)) => {
                    len += data.len();
                    batch.push(data);
                }
                Ok(None) => {}
                // The attempt is over, and that is what comes next.
                Err(_violation) => {
                    self.inputs.clear();
                    break;
                }
            }
            if self.inputs.front().is_some_and(Bytes::is_empty) {
                self.inputs.pop_front();
            }
            if len >= BATCH || !self.pull.takes_bytes() {
                break;
            }
            match self.inputs.front_mut() {
                Some(next) => input = next,
                None => break,
            }
        }
        if len > 0 {
            self.paced_until = self.pace.spend(len).or(self.paced_until);
            self.work.push(Op::Write(batch));
        }
        true
    }

    async fn wait(
        &mut self,
        until: Option<std::time::Instant>,
        cancelled: &mut watch::Receiver<bool>,
        closed: &mut BoxFuture<()>,
    ) -> Woken {
        let wants_bytes = self.pull.takes_bytes()
            && self.work.has_room()
            && self.inputs.is_empty()
            && !self.is_ended;
        let paced_until = self.paced_until.filter(|_| wants_bytes);
        let is_cancelled = self.is_cancelled;
        let Self { work, opening, conduit, chunks, .. } = self;
        let late = async {
            match until {
                Some(until) => sleep_until(Instant::from_std(until)).await,
                None => std::future::pending().await,
            }
        };
        let opened = async {
            match opening {
                Some(opening) => Pin::as_mut(opening).await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            if let Some(until) = paced_until {
                sleep_until(until).await;
            }
            match conduit {
                Some(conduit) if wants_bytes => conduit.recv.chunks(chunks).await,
                Some(_) | None => std::future::pending().await,
            }
        };
        let given_up = given_up(cancelled);
        tokio::select! {
            biased;
            () = closed => Woken::Closed,
            () = given_up, if !is_cancelled => Woken::Cancelled,
            event = work.next() => Woken::Sink(event),
            opened = opened => Woken::Opened(Box::new(opened)),
            read = read => Woken::Read(read),
            () = late => Woken::Late,
        }
    }

    fn handle_read(&mut self, read: Result<bool, Broken>) {
        self.paced_until = None;
        self.inputs.extend(self.chunks.drain(..).filter(|chunk| !chunk.is_empty()));
        match read {
            Ok(true) => {}
            // What came before counts before that.
            Ok(false) | Err(Broken::Cancelled | Broken::Lost) => self.is_ended = true,
        }
    }

    fn handle_sink(&mut self, event: Event) {
        let now = now();
        match event {
            Event::Opened(_) | Event::Room | Event::Probed => {}
            Event::Rebuilt => {
                self.shown.is_rebuilding.store(false, Ordering::Relaxed);
                self.pull.handle_rebuilt(now);
            }
            Event::PartLost => {
                self.shown.is_rebuilding.store(false, Ordering::Relaxed);
                self.pull.handle_part_lost(now);
            }
            Event::Synced(to) => self.pull.handle_synced(now, to),
            Event::Digest(digest) => self.pull.handle_digest(now, digest),
            Event::Committed => self.pull.handle_committed(now),
            Event::Failed(error) => {
                self.pull.handle_sink_failed(now, error.status());
                self.sink_error = Some(error);
            }
        }
    }

    async fn handle_opened(&mut self, opened: Opened) {
        self.opening = None;
        let now = now();
        match opened {
            Ok((reply, conduit)) => match Answer::decode(&reply.payload) {
                Ok(answer) => {
                    self.conduit = Some(conduit);
                    // A violation ends the attempt, and that is what comes next.
                    let _ = self.pull.handle_answer(now, &answer);
                }
                Err(error) => self.pull.handle_return(now, error.status, None),
            },
            Err(RequestError::Returned { status: Status::SourceChanged, detail, .. }) => {
                let changed = self.judge_changed(&detail).await;
                self.pull.handle_return(now, Status::SourceChanged, changed);
            }
            Err(RequestError::Returned { status: Status::TransferNotReady, detail, .. }) => {
                self.pull.handle_not_ready(now, &detail);
            }
            Err(error) => self.pull.handle_return(now, error.status(), None),
        }
    }

    /// The reference to what the source is now, where it is the holder's own and for this cell.
    async fn judge_changed(&mut self, detail: &[u8]) -> Option<Arc<Reference>> {
        let signed = SignedReference::decode(detail).ok()?;
        let holder = &self.signed.reference.holder;
        if signed.reference.id != self.signed.reference.id || signed.reference.holder != *holder {
            return None;
        }
        judge(&self.bus, &signed).await.ok()?;
        // What was sealed stays sealed, and with the same key.
        judge_key(&self.bus, &signed.reference, self.options.key.as_ref()).ok()?;
        self.work.push(Op::Change(Box::new(signed.clone())));
        self.signed = Arc::new(signed);
        Some(Arc::new(self.signed.reference.clone()))
    }

    async fn end(mut self, end: PullEnd) -> Result<Fetched, FetchError> {
        let is_settled = match end {
            PullEnd::Stored { told, .. } => told != cellbus_proto::transfer::Told::Unheard,
            PullEnd::Failed(_) => false,
        };
        match end {
            PullEnd::Stored { .. } if is_settled => self.work.push(Op::Settle),
            PullEnd::Stored { .. } => {}
            PullEnd::Failed(Status::TransferCancelled)
                if self.sink_error.as_ref().is_none_or(is_full) =>
            {
                self.work.push(Op::Discard);
            }
            PullEnd::Failed(_) => {}
        }
        if end == PullEnd::Failed(Status::TransferCancelled) && self.is_cancelled {
            if !self.has_told {
                let _ = timeout(LEAVE, self.tell_given_up()).await;
            }
            // Who gives up does not wait for a writer that takes nothing, or a disk that is slow.
            if timeout(LEAVE, self.work.finish()).await.is_err() {
                return Err(self.leave());
            }
        }
        self.work.finish().await;
        self.close();
        match end {
            PullEnd::Stored { size, digest, told } => {
                let bytes = self.work.take();
                let file = self.work.take_file().map(Arc::new);
                let size = self.signed.reference.content_of(size);
                Ok(Fetched { reference: self.signed, size, digest, told, bytes, file })
            }
            PullEnd::Failed(status) => match self.sink_error {
                Some(error) if error.status() == status => Err(error.into()),
                Some(_) | None => Err(FetchError::Failed(status)),
            },
        }
    }
}
