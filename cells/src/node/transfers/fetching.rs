//! Fetching on behalf of a person: by a reference, what is offered, and the rest of what was interrupted.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cellbus_channels::{
    Failure,
    transfer::{FetchOptions, Offer, SignedReference, Sink, Taken, Transfers},
};
use cellbus_proto::{name::ChannelTopic, status::Status, transfer::TransferId};
use cellbus_runtime::clock;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc::Sender, time::interval};

use super::{
    super::{controlled::ControlledCell, observed::bad, talks::not_registered},
    PACE, fetched_end, look_at, named, not_fetched, options, tell,
};
use crate::control::{
    ControlError, Event, GetAsk, ReceiveAsk, Reply, ResumeAsk, Talk, TransferEnd, TransferEnds,
    TransferEvent,
};

impl ControlledCell {
    pub(super) async fn get(&self, ask: GetAsk, talk: Talk) -> Result<Reply, ControlError> {
        let signed = named::from_base64(&ask.reference)?;
        let directory = look_at(&ask.into, true).await?;
        let name = match ask.name {
            Some(name) if named::is_plain(&name) => name,
            Some(name) => return Err(bad(format!("`name` is {name:?}, which is no plain name"))),
            None => named::name_of(&signed),
        };
        let file = directory.join(&name);
        if !ask.replace && is_taken(&file, signed.reference.id).await {
            let text = format!("{} is there already", file.display());
            return Err(bad(text).hint("choose another name, or say --replace"));
        }
        let (events, _says_nothing) = talk.split();
        let options = options(ask.patience_ms, ask.rate);
        let fetched = fetch(&self.bus.transfers(), &signed, file, 0, options, &events).await;
        let end = fetched?;
        Ok(Reply::TransferEnds(TransferEnds { ends: vec![end], sent: None }))
    }

    pub(super) async fn resume(&self, ask: ResumeAsk, talk: Talk) -> Result<Reply, ControlError> {
        let directory = look_at(&ask.into, true).await?;
        let transfers = self.bus.transfers();
        let parts = transfers.parts_in(&directory).await.map_err(|error| bad(error.to_string()))?;
        let id: Option<TransferId> = ask.id.as_deref().and_then(|id| id.parse().ok());
        let is_meant = |of: TransferId| id.is_none_or(|id| id == of);
        let is_fetched =
            |of: TransferId| transfers.running().iter().any(|r| !r.holds && r.id == of);
        let (events, _says_nothing) = talk.split();
        let all: FuturesUnordered<_> = parts
            .into_iter()
            .filter(|part| is_meant(part.reference.reference.id))
            .filter(|part| !is_fetched(part.reference.reference.id))
            .map(|part| {
                let (transfers, events) = (&transfers, &events);
                let options = options(ask.patience_ms, None);
                async move {
                    let signed = part.reference;
                    let begun = clock::now();
                    let at = part.durable;
                    let file = part.target.clone();
                    match fetch(transfers, &signed, part.target, at, options, events).await {
                        Ok(end) => end,
                        Err(error) => TransferEnd {
                            code: Some(error.code),
                            text: Some(error.message),
                            stored: false,
                            digest: None,
                            size: signed.reference.content_size(),
                            id: signed.reference.id.to_string(),
                            other: signed.reference.holder.clone(),
                            file: file.display().to_string(),
                            elapsed_ms: super::millis(
                                clock::now().saturating_duration_since(begun),
                            ),
                        },
                    }
                }
            })
            .collect();
        if let (Some(id), true) = (id, all.is_empty()) {
            let text = format!("no part of {id} waits in {}", directory.display());
            let hint = "`cellbus transfer ls DIR` lists what can be gone on with";
            return Err(ControlError::status(Status::TransferUnknown, text).hint(hint));
        }
        let ends = all.collect().await;
        Ok(Reply::TransferEnds(TransferEnds { ends, sent: None }))
    }

    pub(super) async fn receive(&self, ask: ReceiveAsk, talk: Talk) -> Result<Reply, ControlError> {
        let directory = look_at(&ask.into, true).await?;
        let target = ChannelTopic::new(ask.channel, ask.topic);
        let (events, _says_nothing) = talk.split();
        let desk = Arc::new(Desk {
            directory,
            replace: ask.replace,
            size_max: ask.size_max.unwrap_or(u64::MAX),
            options: options(ask.patience_ms, None),
            events: events.clone(),
            names: Mutex::default(),
        });
        let transfers = self.bus.transfers();
        let take = move |offer: Offer| {
            let desk = Arc::clone(&desk);
            async move { desk.take(offer).await }
        };
        let at_once = usize::try_from(ask.at_once).unwrap_or(1);
        // Kept to the end of this future: whoever hangs up is stored nothing new.
        let _receiving = transfers
            .receive(target.clone(), at_once, take)
            .await
            .map_err(|error| not_registered(self.name().as_ref(), &error))?;
        let ready = Event::Ready { cell: self.name(), of: target.to_string() };
        // Fails only when the other side has hung up, and this future is about to be dropped.
        let _ = events.send(ready).await;
        let mut told: BTreeMap<TransferId, u64> = BTreeMap::new();
        let mut ticks = interval(PACE);
        loop {
            ticks.tick().await;
            let rows = transfers.running();
            let ours: Vec<_> =
                rows.into_iter().filter(|row| !row.holds && row.target == target).collect();
            told.retain(|id, _| ours.iter().any(|row| row.id == *id));
            for row in ours {
                let (Some(other), Some(now)) = (row.other, row.progress) else { continue };
                if told.insert(row.id, now.sequence) != Some(now.sequence) {
                    let progress = TransferEvent::Progress {
                        id: row.id.to_string(),
                        other,
                        bytes: now.bytes,
                        size: now.size,
                        generation: now.generation,
                    };
                    // Who does not keep up misses some, and gets the end all the same.
                    let _ = events.try_send(Event::Transfer(progress));
                }
            }
        }
    }
}

/// Where offers are decided on.
struct Desk {
    directory: PathBuf,
    replace: bool,
    size_max: u64,
    options: FetchOptions,
    events: Sender<Event>,
    /// Files that are being fetched, so that two of one name do not meet.
    names: Mutex<BTreeSet<String>>,
}

/// A name that is in use for as long as this is kept.
struct InUse {
    desk: Arc<Desk>,
    name: String,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut names = self.desk.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&self.name);
    }
}

impl Desk {
    async fn take(self: Arc<Self>, offer: Offer) -> Result<Taken, Failure> {
        let signed = offer.reference;
        let reference = &signed.reference;
        let name = named::name_of(&signed);
        let file = self.directory.join(&name);
        let (desk, origin) = (&self, &offer.origin.name);
        let refused = |status: Status, text: String| async move {
            let (id, other) = (reference.id.to_string(), origin.clone());
            tell(&desk.events, TransferEvent::Refused { id, other, text }).await;
            Err(Failure::Refused(status))
        };
        if reference.content_size().unwrap_or(reference.size_max) > self.size_max {
            let text = format!("{name} may have more than {} bytes", self.size_max);
            return refused(Status::TooLarge, text).await;
        }
        if !self.replace && is_taken(&file, reference.id).await {
            return refused(Status::Forbidden, format!("{} is there already", file.display()))
                .await;
        }
        let is_free = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.insert(name.clone())
        };
        if !is_free {
            // The other one may be over by the time that this one is offered again.
            return refused(Status::Overloaded, format!("another {name} is being fetched")).await;
        }
        let in_use = InUse { desk: Arc::clone(&self), name };
        let begun = clock::now();
        let shown = file.display().to_string();
        tell(&self.events, began(&signed, shown.clone(), 0)).await;
        let events = self.events.clone();
        let signed = Arc::clone(&signed);
        let taken = Taken::new(Sink::file(file)).options(self.options.clone());
        Ok(taken.then(move |fetched| async move {
            drop(in_use);
            let signed = fetched.as_ref().map_or(signed, |fetched| Arc::clone(&fetched.reference));
            let end = fetched_end(&signed, shown, begun, &fetched);
            tell(&events, TransferEvent::Ended(end)).await;
        }))
    }
}

fn began(signed: &SignedReference, file: String, offset: u64) -> TransferEvent {
    TransferEvent::Begun {
        id: signed.reference.id.to_string(),
        other: signed.reference.holder.clone(),
        file,
        size: signed.reference.content_size(),
        offset,
    }
}

/// Whether something stands at the path that is not what an earlier attempt at this transfer has put there.
async fn is_taken(file: &Path, id: TransferId) -> bool {
    let (Some(parent), Some(name)) = (file.parent(), file.file_name().and_then(|n| n.to_str()))
    else {
        return true;
    };
    let state = parent.join(format!(".{name}.{id}.state"));
    let file = file.to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        std::fs::symlink_metadata(file).is_ok() && std::fs::symlink_metadata(state).is_err()
    });
    looked.await.unwrap_or(true)
}

/// Fetches into a file and tells how it goes.
async fn fetch(
    transfers: &Transfers,
    signed: &SignedReference,
    file: PathBuf,
    offset: u64,
    options: FetchOptions,
    events: &Sender<Event>,
) -> Result<TransferEnd, ControlError> {
    let begun = clock::now();
    let shown = file.display().to_string();
    tell(events, began(signed, shown.clone(), offset)).await;
    let mut fetching = transfers.fetch(signed, Sink::file(file), options);
    let progress = fetching.progress();
    let (id, other) = (signed.reference.id.to_string(), signed.reference.holder.clone());
    let mut ticks = interval(PACE);
    let mut told = None;
    let fetched = loop {
        tokio::select! {
            biased;
            fetched = &mut fetching => break fetched,
            _ = ticks.tick() => {}
        }
        let now = progress.latest();
        if told.replace(now.sequence) != Some(now.sequence) {
            let progress = TransferEvent::Progress {
                id: id.clone(),
                other: other.clone(),
                bytes: now.bytes,
                size: now.size,
                generation: now.generation,
            };
            // Who does not keep up misses some, and gets the end all the same.
            let _ = events.try_send(Event::Transfer(progress));
        }
    };
    let end = fetched_end(signed, shown, begun, &fetched);
    tell(events, TransferEvent::Ended(end.clone())).await;
    fetched.map(|_| end).map_err(|error| not_fetched(&error))
}
