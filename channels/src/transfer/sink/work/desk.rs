//! What is done with a sink, one step after the other, and the digest of what is in it.

use std::pin::Pin;

use bytes::Bytes;
use cellbus_proto::transfer::Digester;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    super::{super::error::SinkError, Kind, Sink, Store, Syncing},
    Event, Op,
};

/// Bytes of a part that are read back at once, and between two looks at whether that is still wanted.
const REBUILD: usize = 1 << 20;
const REBUILD_AT_ONCE: u64 = 64 << 20;

/// The sink and the digest of what is in it.
pub(super) struct Desk {
    pub(super) place: Place,
    pub(super) digester: Digester,
    written: u64,
    /// Where small pieces are put together.
    scratch: Vec<u8>,
    /// Whether everything is skipped up to the next way back.
    failed: bool,
    /// Where it is to go back to, where it could not yet.
    way_back: Option<u64>,
}

pub(super) enum Place {
    Store(Box<dyn Store>),
    Writer { writer: Pin<Box<dyn AsyncWrite + Send>>, cap: u64 },
}

#[derive(Default)]
pub(super) struct Done {
    pub(super) events: Vec<Event>,
    pub(super) sync: Option<(u64, Syncing)>,
    pub(super) rest: Option<Op>,
    /// What was written and can be filled again.
    pub(super) blocks: Vec<Vec<u8>>,
    /// What was written: given back where it came from, which is where its memory is used again.
    pieces: Vec<Vec<Bytes>>,
}

impl Desk {
    pub(super) fn new(sink: Sink) -> Self {
        let place = match sink.0 {
            Kind::Store(store) => Place::Store(store),
            Kind::Writer(writer, cap) => Place::Writer { writer, cap },
        };
        Self {
            place,
            digester: Digester::default(),
            written: 0,
            scratch: Vec::new(),
            failed: false,
            way_back: None,
        }
    }

    pub(super) fn is_quick(&self) -> bool {
        matches!(&self.place, Place::Store(store) if store.is_quick())
    }

    pub(super) fn run(&mut self, ops: Vec<Op>) -> Done {
        let mut done = Done::default();
        for op in ops {
            let probes = matches!(op, Op::Probe { .. });
            if let Err(error) = self.step(op, &mut done) {
                // What was not written yet has not failed.
                self.failed |= !probes;
                done.events.push(Event::Failed(error));
            }
        }
        done
    }

    fn step(&mut self, op: Op, done: &mut Done) -> Result<(), SinkError> {
        match op {
            Op::Rewind { to } => {
                self.way_back = Some(to);
                return self.go_back();
            }
            // Whoever goes on believes that it has gone back.
            Op::Write(_) | Op::Block(_) | Op::Sync { .. } | Op::Digest => self.go_back()?,
            Op::Open(_)
            | Op::Change(_)
            | Op::Rebuild { .. }
            | Op::Probe { .. }
            | Op::Commit { .. }
            | Op::Settle
            | Op::Discard => {}
        }
        let Place::Store(store) = &mut self.place else { return Ok(()) };
        match op {
            Op::Open(signed) => done.events.push(Event::Opened(store.open(&signed)?)),
            Op::Change(signed) => store.change(&signed),
            Op::Rebuild { from, to } => {
                done.rest = rebuild(&mut **store, &mut self.digester, (from, to), done)?;
                self.written = to;
            }
            Op::Write(_) | Op::Block(_) | Op::Sync { .. } | Op::Digest if self.failed => {}
            Op::Write(pieces) => {
                write(&mut **store, &mut self.digester, &mut self.written, &pieces)?;
                done.pieces.push(pieces);
            }
            Op::Block(mut block) => {
                store.write(&block)?;
                self.digester.update(&block);
                self.written += block.len() as u64;
                block.clear();
                done.blocks.push(block);
            }
            Op::Sync { to } => match store.sync(to) {
                Some(sync) => done.sync = Some((to, sync)),
                None => done.events.push(Event::Synced(to)),
            },
            Op::Rewind { .. } => {}
            Op::Probe { bytes } => {
                store.probe(bytes)?;
                done.events.push(Event::Probed);
            }
            Op::Digest => done.events.push(Event::Digest(self.digester.finish())),
            Op::Commit { size, digest } => {
                store.commit(size, digest)?;
                done.events.push(Event::Committed);
            }
            Op::Settle => store.settle(),
            Op::Discard => store.discard(),
        }
        Ok(())
    }

    fn go_back(&mut self) -> Result<(), SinkError> {
        let (Some(to), Place::Store(store)) = (self.way_back, &mut self.place) else {
            return Ok(());
        };
        store.rewind(to)?;
        self.digester.rewind(to).map_err(|_| SinkError::NoWayBack)?;
        (self.written, self.failed, self.way_back) = (to, false, None);
        Ok(())
    }

    pub(super) async fn run_writer(&mut self, ops: Vec<Op>) -> Done {
        let mut done = Done::default();
        for op in ops {
            if let Err(error) = self.step_writer(op, &mut done).await {
                self.failed = true;
                done.events.push(Event::Failed(error));
            }
        }
        done
    }

    async fn step_writer(&mut self, op: Op, done: &mut Done) -> Result<(), SinkError> {
        let Place::Writer { writer, cap } = &mut self.place else { return Ok(()) };
        match op {
            Op::Open(_) => done.events.push(Event::Opened(None)),
            Op::Write(_) | Op::Block(_) | Op::Sync { .. } | Op::Digest if self.failed => {}
            Op::Write(pieces) => {
                if let Some(bytes) = joined(&mut self.scratch, &pieces) {
                    put(writer, *cap, bytes, &mut self.written).await?;
                    self.digester.update(bytes);
                }
            }
            Op::Block(block) => {
                put(writer, *cap, &block, &mut self.written).await?;
                self.digester.update(&block);
            }
            Op::Sync { to } => {
                writer.flush().await.map_err(SinkError::of_writer)?;
                done.events.push(Event::Synced(to));
            }
            Op::Rewind { to } if to == self.written && !self.failed => {}
            Op::Rewind { .. } => return Err(SinkError::NoWayBack),
            Op::Probe { .. } => done.events.push(Event::Probed),
            Op::Digest => done.events.push(Event::Digest(self.digester.finish())),
            Op::Commit { .. } => {
                writer.shutdown().await.map_err(SinkError::of_writer)?;
                done.events.push(Event::Committed);
            }
            Op::Change(_) | Op::Rebuild { .. } | Op::Settle | Op::Discard => {}
        }
        Ok(())
    }
}

/// Has a writer take `bytes`, unless that is more than it takes.
async fn put(
    writer: &mut Pin<Box<dyn AsyncWrite + Send>>,
    cap: u64,
    bytes: &[u8],
    written: &mut u64,
) -> Result<(), SinkError> {
    if *written + bytes.len() as u64 > cap {
        return Err(SinkError::TooLarge(cap));
    }
    writer.write_all(bytes).await.map_err(SinkError::of_writer)?;
    *written += bytes.len() as u64;
    Ok(())
}

/// Writes and hashes `pieces`.
fn write(
    store: &mut dyn Store,
    digester: &mut Digester,
    written: &mut u64,
    pieces: &[Bytes],
) -> Result<(), SinkError> {
    if store.lies(*written).is_some() {
        for bytes in pieces {
            store.write(bytes)?;
        }
        let hashed = store.lies(*written).unwrap_or_default();
        digester.update(hashed);
        *written += hashed.len() as u64;
        return Ok(());
    }
    for bytes in pieces {
        store.write(bytes)?;
        digester.update(bytes);
        *written += bytes.len() as u64;
    }
    Ok(())
}

/// All of `pieces` in one piece, copied where they are several.
fn joined<'a>(scratch: &'a mut Vec<u8>, pieces: &'a [Bytes]) -> Option<&'a [u8]> {
    if let [one] = pieces {
        return Some(one);
    }
    scratch.clear();
    pieces.iter().for_each(|piece| scratch.extend_from_slice(piece));
    (!scratch.is_empty()).then_some(scratch)
}

/// Hashes what is there from before; gives what is left to do of that.
fn rebuild(
    store: &mut dyn Store,
    digester: &mut Digester,
    (from, to): (u64, u64),
    done: &mut Done,
) -> Result<Option<Op>, SinkError> {
    let mut at = from;
    while at < to {
        if at - from >= REBUILD_AT_ONCE {
            return Ok(Some(Op::Rebuild { from: at, to }));
        }
        let want = usize::try_from(to - at).unwrap_or(REBUILD).min(REBUILD);
        let bytes = store.read_back(at, want)?;
        if bytes.is_empty() {
            done.events.push(Event::PartLost);
            return Ok(None);
        }
        digester.update(&bytes);
        at += bytes.len() as u64;
    }
    digester.mark();
    done.events.push(Event::Rebuilt);
    Ok(None)
}
