//! Objects between cells: held, pulled, and sent to many.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use cellbus_cells::node::NodeCell;
use cellbus_channels::{
    Bus, ChannelTopic, Fqcn,
    transfer::{
        FetchOptions, Offer, Receiving, ServeOptions, Served, SignedReference, Sink, Source, Taken,
        Verdict,
    },
};
use tokio::task::spawn_blocking;

use super::{SideError, say};
use crate::{
    drive::payload,
    measure::Keep,
    message::{ObjectAsk, Tell},
    object,
    scene::OBJECT,
};

/// Transfers that a receiver takes at once.
const AT_ONCE: usize = 8;

/// What a process of cells has to do with objects.
#[derive(Default)]
pub struct Objects {
    directory: PathBuf,
    object: Option<Bytes>,
    served: Option<Served>,
    receiving: Vec<Receiving>,
    sent: u64,
}

impl Objects {
    /// None so far; files lie in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, ..Self::default() }
    }

    /// Does what is asked, as `cells`.
    ///
    /// # Errors
    /// [`SideError`].
    pub async fn obey(&mut self, ask: ObjectAsk, cells: &[NodeCell]) -> Result<(), SideError> {
        let first = cells.first().ok_or_else(|| SideError::text("there is no cell"))?;
        let bus = first.running().bus();
        match ask {
            ObjectAsk::Hold { size, file, to } => {
                let reference = self.hold(&bus, size, file, &to).await?;
                say(&Tell::Held { reference });
            }
            ObjectAsk::Receive => {
                for cell in cells {
                    let transfers = cell.running().bus().transfers();
                    let receiving = transfers.receive(target()?, AT_ONCE, take);
                    self.receiving.push(receiving.await.map_err(SideError::new)?);
                }
                say(&Tell::Held { reference: None });
            }
            ObjectAsk::Pull { reference, size, keep, window_ms } => {
                let signed = decode(&reference)?;
                let (path, to) = (self.directory.join(object::GOT), keep);
                let driven =
                    object::again_and_again(Duration::from_millis(window_ms), async || {
                        pull(&bus, &signed, size, to, path.clone()).await
                    });
                say(&Tell::Driven(driven.await?));
            }
            ObjectAsk::Spread { to, window_ms } => {
                let to = names(&to)?;
                let (mut sent, mut number) = (0, 0);
                let held = self.object.clone();
                let driven =
                    object::again_and_again(Duration::from_millis(window_ms), async || {
                        number += 1;
                        sent += spread(&bus, held.clone(), number, &to).await?;
                        Ok(())
                    });
                let driven = driven.await?;
                self.sent += sent;
                say(&Tell::Driven(driven));
            }
            ObjectAsk::Account => {
                let report = first.running().inspect().await;
                let report = report.ok_or_else(|| SideError::text("the cell has ended"))?;
                let wire = report.links.iter().map(|link| link.sent_bytes).sum();
                let written = self.served.as_ref().map_or(0, Served::sent) + self.sent;
                say(&Tell::Account { wire, written });
            }
        }
        Ok(())
    }

    async fn hold(
        &mut self,
        bus: &Bus,
        size: u64,
        file: bool,
        to: &[String],
    ) -> Result<Option<String>, SideError> {
        // Cells go on with what they do while it is made.
        let directory = self.directory.clone();
        let made = spawn_blocking(move || {
            Ok::<_, SideError>(if file {
                (Source::file(object::write(&directory, size)?), None)
            } else {
                let bytes = payload(size)?;
                (Source::bytes(bytes.clone()), Some(bytes))
            })
        });
        let (source, object) = made.await.map_err(SideError::new)??;
        self.object = object.or(self.object.take());
        if to.is_empty() {
            return Ok(None);
        }
        let options = ServeOptions::new(target()?, names(to)?);
        let served = bus.transfers().serve(source, options).await.map_err(SideError::new)?;
        let encoded = served.reference().encode().map_err(SideError::new)?;
        self.served = Some(served);
        Ok(Some(object::to_hex(&encoded)))
    }
}

fn target() -> Result<ChannelTopic, SideError> {
    OBJECT.parse().map_err(SideError::new)
}

fn names(to: &[String]) -> Result<Vec<Fqcn>, SideError> {
    to.iter().map(|name| name.parse().map_err(SideError::new)).collect()
}

fn decode(reference: &Option<String>) -> Result<SignedReference, SideError> {
    let text = reference.as_deref().ok_or_else(|| SideError::text("nothing is referred to"))?;
    SignedReference::decode(&object::from_hex(text)?).map_err(SideError::new)
}

async fn take(_offer: Offer) -> Result<Taken, cellbus_channels::Failure> {
    Ok(Taken::new(Sink::discard()))
}

async fn pull(
    bus: &Bus,
    signed: &SignedReference,
    size: u64,
    keep: Keep,
    path: PathBuf,
) -> Result<(), SideError> {
    let sink = match keep {
        Keep::Drop => Sink::discard(),
        Keep::Keep => Sink::memory(size),
        Keep::File => Sink::file(path),
    };
    let fetched = bus.transfers().fetch(signed, sink, FetchOptions::default()).await;
    let fetched = fetched.map_err(SideError::new)?;
    let kept = fetched.bytes().map_or(fetched.size, |bytes| bytes.len() as u64);
    if (fetched.size, kept) == (size, size) {
        return Ok(());
    }
    Err(SideError::text(format!("{} of {size} bytes came", fetched.size)))
}

/// Sends what is held to all, until the last one has given its receipt; says how much was written for that. Its first
/// bytes are `number`: what a relay has kept of the one before would cross no link again.
async fn spread(
    bus: &Bus,
    held: Option<Bytes>,
    number: u64,
    to: &[Fqcn],
) -> Result<u64, SideError> {
    let bytes = held.ok_or_else(|| SideError::text("nothing is held"))?;
    let first = Bytes::copy_from_slice(&number.to_be_bytes());
    let rest = bytes.slice(first.len().min(bytes.len())..);
    let parts = [("number", first), ("object", rest)];
    let source = Source::object(parts.map(|(name, part)| (name.to_owned(), Source::bytes(part))));
    let options = ServeOptions::new(target()?, to.iter().cloned());
    let sending = bus.transfers().send(source, options).await.map_err(SideError::new)?;
    let (outcome, served) = sending.keep().await;
    if outcome.verdict == Verdict::Completed {
        return Ok(served.sent());
    }
    Err(SideError::text(format!("not everybody has it: {:?}", outcome.ends)))
}
