//! Transfers that a person begins, looks at and ends over the control socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use cellbus_channels::transfer::{
    Delivering, End, FetchError, FetchOptions, Fetched, Outcome, ServeError, ServeOptions,
    ServeProgress, Served, SignedReference, Source, Verdict,
};
use cellbus_proto::{
    causes::with_sources,
    name::{ChannelTopic, Fqcn},
    status::Status,
};
use cellbus_runtime::clock;
use tokio::sync::mpsc::Sender;

use super::{
    controlled::{ControlledCell, millis},
    observed::bad,
};
use crate::control::{
    ControlError, Event, LocalCode, PutAsk, Reply, Seen, Talk, TransferAsk, TransferCancelled,
    TransferEnd, TransferEnds, TransferEvent,
};

mod fetching;
mod listed;
mod named;

/// Least time between two events about the progress of one receiver.
const PACE: Duration = Duration::from_millis(100);

/// A file that is served, with or without being offered.
enum Putting {
    Offered(Delivering),
    Waited(Served),
}

impl Putting {
    async fn outcome(&mut self) -> Arc<Outcome> {
        match self {
            Self::Offered(delivering) => delivering.await,
            Self::Waited(served) => served.outcome().await,
        }
    }

    fn reference(&self) -> Arc<SignedReference> {
        match self {
            Self::Offered(delivering) => delivering.reference(),
            Self::Waited(served) => served.reference(),
        }
    }

    fn progress(&self) -> ServeProgress {
        match self {
            Self::Offered(delivering) => delivering.progress(),
            Self::Waited(served) => served.progress(),
        }
    }

    fn ends(&self) -> BTreeMap<Fqcn, End> {
        match self {
            Self::Offered(delivering) => delivering.ends(),
            Self::Waited(served) => served.ends(),
        }
    }

    fn sent(&self) -> u64 {
        match self {
            Self::Offered(delivering) => delivering.sent(),
            Self::Waited(served) => served.sent(),
        }
    }

    fn closed_with(&self) -> Option<Status> {
        match self {
            Self::Offered(delivering) => delivering.closed_with(),
            Self::Waited(served) => served.closed_with(),
        }
    }
}

impl ControlledCell {
    /// Begins transfers and tells how they go, until they are over.
    pub(super) async fn transfer(
        &self,
        ask: TransferAsk,
        talk: Talk,
    ) -> Result<Reply, ControlError> {
        match ask {
            TransferAsk::Put(ask) => self.put(ask, talk).await,
            TransferAsk::Get(ask) => self.get(ask, talk).await,
            TransferAsk::Receive(ask) => self.receive(ask, talk).await,
            TransferAsk::Resume(ask) => self.resume(ask, talk).await,
            TransferAsk::List(_) | TransferAsk::Cancel { .. } => self.transfer_now(ask).await,
        }
    }

    /// Lists transfers, or gives one up.
    pub(super) async fn transfer_now(&self, ask: TransferAsk) -> Result<Reply, ControlError> {
        match ask {
            TransferAsk::List(ask) => self.list(ask).await,
            TransferAsk::Cancel { id } => {
                let which = id.parse().map_err(|_| bad("`id` is no id".to_owned()))?;
                if self.bus.transfers().cancel(which) {
                    return Ok(Reply::TransferCancelled(TransferCancelled { id }));
                }
                let text = format!("{} neither serves nor fetches {id}", self.name());
                let hint = "`cellbus transfer ls` lists what it does";
                Err(ControlError::status(Status::TransferUnknown, text).hint(hint))
            }
            TransferAsk::Put(_)
            | TransferAsk::Get(_)
            | TransferAsk::Receive(_)
            | TransferAsk::Resume(_) => Err(bad("this request goes on".to_owned())),
        }
    }

    async fn put(&self, ask: PutAsk, talk: Talk) -> Result<Reply, ControlError> {
        let begun = clock::now();
        let to: BTreeSet<Fqcn> =
            ask.to.iter().map(|name| self.known(name)).collect::<Result<_, _>>()?;
        let path = look_at(&ask.file, false).await?;
        let file = ask.file.path;
        let target = ChannelTopic::new(ask.channel, ask.topic);
        let mut options = ServeOptions::new(target, to)
            .headers(named::header(&path))
            .lifetime(Duration::from_secs(ask.lifetime_s))
            .attendance(Duration::from_millis(ask.wait_ms))
            .patience(Duration::from_millis(ask.patience_ms));
        if let Some(content_type) = &ask.content_type {
            options = options.content_type(content_type);
        }
        if let Some(rate) = ask.rate {
            options = options.rate(rate);
        }
        if ask.sealed && (!ask.offer || ask.again.is_some()) {
            return Err(bad("`sealed` is for what is offered, and not begun before".to_owned()));
        }
        if ask.sealed {
            options = options.sealed();
        }
        if let Some(id) = &ask.again {
            options = options.again(id.parse().map_err(|_| bad("`again` is no id".to_owned()))?, 1);
        }
        let (transfers, source) = (self.bus.transfers(), Source::file(path));
        let putting = match ask.offer {
            true => transfers.send(source, options).await.map(Putting::Offered),
            false => transfers.serve(source, options).await.map(Putting::Waited),
        };
        let putting = putting.map_err(|error| not_served(&error))?;
        let (events, _says_nothing) = talk.split();
        let signed = putting.reference();
        let encoded = match ask.offer {
            true => None,
            false => Some(named::to_base64(&signed)?),
        };
        let served = TransferEvent::Served {
            id: signed.reference.id.to_string(),
            file: file.clone(),
            size: signed.reference.content_size(),
            digest: signed.reference.digest.map(|digest| digest.to_string()),
            reference: encoded,
        };
        tell(&events, served).await;
        Ok(Reply::TransferEnds(follow(putting, &file, begun, &events).await))
    }

    /// The full name of a cell that this project has.
    fn known(&self, name: &Fqcn) -> Result<Fqcn, ControlError> {
        let full = self.full_name(name.clone());
        if self.directory().kind_of(&full).is_some() {
            return Ok(full);
        }
        let text = format!("the project of {} has no cell `{name}`", self.name());
        Err(ControlError::status(Status::NoRoute, text).hint("`cellbus cells` lists them"))
    }
}

/// Tells how the receivers get on, and of the end of each when it comes.
async fn follow(
    mut putting: Putting,
    file: &str,
    begun: Instant,
    events: &Sender<Event>,
) -> TransferEnds {
    let mut progress = putting.progress();
    let mut told: BTreeMap<Fqcn, Instant> = BTreeMap::new();
    let mut ends = Vec::new();
    let mut ended = BTreeSet::new();
    let mut moves = true;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = putting.outcome() => break outcome,
            moved = progress.next(), if moves => {
                let Some((other, now)) = moved else {
                    moves = false;
                    continue;
                };
                let id = putting.reference().reference.id.to_string();
                let at = clock::now();
                let is_due = told.get(&other).is_none_or(|last| at.saturating_duration_since(*last) >= PACE);
                if is_due || now.size == Some(now.bytes) {
                    told.insert(other.clone(), at);
                    let (bytes, size, generation) = (now.bytes, now.size, now.generation);
                    // Who does not keep up misses some, and gets the end all the same.
                    let _ = events.try_send(Event::Transfer(TransferEvent::Progress {
                        id, other, bytes, size, generation,
                    }));
                }
                for (other, end) in putting.ends() {
                    // Another content may still take the place of what is stored.
                    if matches!(end, End::Stored { .. }) && ended.insert(other.clone()) {
                        let end = end_of(&putting, file, begun, other, end);
                        tell(events, TransferEvent::Ended(end.clone())).await;
                        ends.push(end);
                    }
                }
            }
        }
    };
    let current = |end: &TransferEnd| matches!(outcome.ends.get(&end.other), Some(End::Stored { generation, .. }) if *generation == outcome.generation);
    ends.retain(current);
    for (other, end) in &outcome.ends {
        if ends.iter().any(|known| known.other == *other) {
            continue;
        }
        let end = end_of(&putting, file, begun, other.clone(), *end);
        tell(events, TransferEvent::Ended(end.clone())).await;
        ends.push(end);
    }
    debug_assert!(
        outcome.verdict != Verdict::Completed || ends.iter().all(|end| end.stored),
        "complete is what everybody has"
    );
    TransferEnds { ends, sent: Some(putting.sent()) }
}

fn end_of(putting: &Putting, file: &str, begun: Instant, other: Fqcn, end: End) -> TransferEnd {
    let reference = putting.reference();
    let reference = &reference.reference;
    let failed = match end {
        End::Stored { generation, .. } if generation == reference.generation => None,
        End::Stored { .. } => Some(Status::SourceChanged),
        End::Failed(status) => Some(status),
        End::Missing => Some(putting.closed_with().unwrap_or(Status::TransferStalled)),
    };
    TransferEnd {
        id: reference.id.to_string(),
        other,
        file: file.to_owned(),
        stored: failed.is_none(),
        size: reference.content_size(),
        digest: reference.digest.filter(|_| failed.is_none()).map(|digest| digest.to_string()),
        elapsed_ms: millis(clock::now().saturating_duration_since(begun)),
        code: failed.map(|status| status.code().to_owned()),
        text: failed.map(why_not_stored),
    }
}

/// Why a receiver has not got it, and what to do about it, where that is known here.
fn why_not_stored(status: Status) -> String {
    const KNOWN: [(Status, &str); 6] = [
        (
            Status::NoHandler,
            "nobody receives there; `cellbus transfer receive DIR --at CELL` would",
        ),
        (Status::NoRoute, "it is not connected"),
        (Status::StorageFull, "its disk is full; what it has stays there, to be gone on with"),
        (
            Status::Forbidden,
            "it does not take it: a file of this name is there and it was not told to replace it, or the \
             reference is not for it",
        ),
        (Status::TooLarge, "it is larger than what is taken there"),
        (Status::TransferCancelled, "it was given up"),
    ];
    let known = KNOWN.iter().find(|(known, _)| *known == status);
    known.map_or_else(|| status.meaning(), |(_, text)| text).to_owned()
}

/// Tells something that must not be missed.
async fn tell(events: &Sender<Event>, event: TransferEvent) {
    // Fails only when the other side has hung up, and this future is about to be dropped.
    let _ = events.send(Event::Transfer(event)).await;
}

/// The path of what the asking side has seen, if it is still that.
async fn look_at(seen: &Seen, directory: bool) -> Result<PathBuf, ControlError> {
    let path = PathBuf::from(&seen.path);
    let looked = tokio::task::spawn_blocking({
        let path = path.clone();
        move || std::fs::metadata(path)
    });
    let shown = path.display();
    let found = looked
        .await
        .map_err(std::io::Error::other)
        .and_then(|found| found)
        .map_err(|error| bad(format!("this cell cannot use {shown}: {error}")))?;
    if (found.dev(), found.ino()) != (seen.device, seen.inode) {
        return Err(bad(format!("{shown} is another file to this cell than to who asks")));
    }
    match (directory, found.is_dir(), found.is_file()) {
        (true, true, _) | (false, _, true) => Ok(path),
        (true, ..) => Err(bad(format!("{shown} is no directory"))),
        (false, ..) => Err(bad(format!("{shown} is no regular file"))),
    }
}

fn not_served(error: &ServeError) -> ControlError {
    let text = with_sources(error);
    if let ServeError::NotSigned(status) = error {
        return ControlError::status(*status, text);
    }
    if matches!(error, ServeError::Taken | ServeError::Handle(_)) {
        return ControlError::local(LocalCode::ControlTaken, text)
            .hint("`cellbus transfer ls` shows what is served");
    }
    bad(text)
}

fn not_fetched(error: &FetchError) -> ControlError {
    let hint = if matches!(error, FetchError::Unfit(_)) {
        "ask its holder for another reference".to_owned()
    } else if error.status() == Status::StorageFull {
        "make room, then `cellbus transfer resume`".to_owned()
    } else {
        format!("`cellbus errors explain {}` says what it means", error.status())
    };
    ControlError::status(error.status(), with_sources(error)).hint(hint)
}

fn fetched_end(
    signed: &SignedReference,
    file: String,
    begun: Instant,
    fetched: &Result<Fetched, FetchError>,
) -> TransferEnd {
    let (size, digest) = match fetched {
        Ok(fetched) => (Some(fetched.size), Some(fetched.digest.to_string())),
        Err(_) => (signed.reference.content_size(), None),
    };
    let error = fetched.as_ref().err();
    TransferEnd {
        id: signed.reference.id.to_string(),
        other: signed.reference.holder.clone(),
        file,
        stored: error.is_none(),
        size,
        digest,
        elapsed_ms: millis(clock::now().saturating_duration_since(begun)),
        code: error.map(|error| error.status().code().to_owned()),
        text: error.map(|error| with_sources(error)),
    }
}

fn options(patience_ms: u64, rate: Option<u64>) -> FetchOptions {
    let options = FetchOptions::default().patience(Duration::from_millis(patience_ms));
    match rate {
        Some(rate) => options.rate(rate),
        None => options,
    }
}
