//! Reading the streams of a link: bytes to frames, and messages in batches to the filter.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use actix::{Addr, AsyncContext, Context};
use bytes::Bytes;
use cellbus_proto::{
    codec::{CodecError, Decoder, Frame, FrameLimits},
    envelope::{Envelope, Lane, cost},
    link::Side,
    route::{Hop, LinkId},
    status::Status,
    well_known,
};
use tokio::sync::{Semaphore, watch};

use super::{Control, Health, LaneAccepted, Link, Unreadable, conduits, writer};
use crate::{
    conn::{Connection, Lost, Pieces, RecvStream},
    counters::Counters,
    filter::{AuthFilter, Inbound},
    seam::post,
};

/// Bytes taken from a stream at once.
const CHUNK: usize = 64 << 10;
/// Bytes of control messages that may be read and not yet decided on.
const CONTROL_MAX: usize = 2 << 20;
/// Messages handed to the filter at once.
const BATCH: usize = 256;

/// What every reader of one link shares.
#[derive(Clone)]
struct Reading {
    id: LinkId,
    side: Side,
    link: Addr<Link>,
    filter: Addr<AuthFilter>,
    counters: Arc<Counters>,
    health: Arc<Health>,
    /// Bytes that may be read and not yet decided on, over all streams but control.
    allowance: Arc<Semaphore>,
    /// The same for the control stream, which nothing else may use up.
    control_allowance: Arc<Semaphore>,
    inbound_max: usize,
    limits: FrameLimits,
    hold: watch::Receiver<bool>,
    /// Lanes that the neighbour has opened, a bit each.
    lanes: Arc<AtomicU8>,
}

impl Link {
    /// Opens or awaits the control stream, and starts reading and writing.
    pub(super) fn start_streams(&mut self, ctx: &mut Context<Self>) {
        let reading = Reading {
            id: self.id,
            side: self.side(),
            link: ctx.address(),
            filter: self.filter.clone(),
            counters: Arc::clone(&self.own.counters),
            health: Arc::clone(&self.health),
            allowance: Arc::new(Semaphore::new(self.settings.inbound_max)),
            control_allowance: Arc::new(Semaphore::new(CONTROL_MAX)),
            inbound_max: self.settings.inbound_max,
            limits: self.settings.limits,
            hold: self.hold.subscribe(),
            lanes: Arc::default(),
        };
        let taking = conduits::Taking {
            own: Arc::clone(&self.own),
            link: ctx.address(),
            filter: self.filter.clone(),
            conduits: Arc::clone(&self.conduits),
            allowance: Arc::clone(&reading.allowance),
            inbound_max: self.settings.inbound_max,
            hold: self.hold.subscribe(),
        };
        let connection = self.connection.clone();
        let outbox = Arc::clone(&self.outbox);
        let meters = writer::Meters {
            link: self.id,
            filter: self.filter.clone(),
            own_link: ctx.address(),
            counters: Arc::clone(&self.own.counters),
            health: Arc::clone(&self.health),
            stats: Arc::clone(&self.own.stats),
        };
        let side = self.side();
        let open = Arc::new(self.lanes_written.sender());
        let control_open = self.control_written.sender();
        if side == Side::Child {
            self.say_hello();
        }
        actix::spawn(async move {
            let opened = match side {
                Side::Child => connection.open_both_ways().await,
                Side::Parent => connection.accept_both_ways().await,
            };
            let Ok((send, recv)) = opened else { return };
            send.set_priority(2);
            let writing = writer::write_control(send, Arc::clone(&outbox), meters.clone());
            actix::spawn(async move {
                writing.await;
                drop(control_open);
            });
            for lane in [Lane::Interactive, Lane::Bulk] {
                let (connection, outbox) = (connection.clone(), Arc::clone(&outbox));
                let (meters, open) = (meters.clone(), Arc::clone(&open));
                actix::spawn(async move {
                    writer::write_lane(connection, lane, outbox, meters).await;
                    drop(open);
                });
            }
            drop(open);
            actix::spawn(accept_lanes(connection.clone(), reading.clone()));
            actix::spawn(conduits::accept(connection, taking));
            read_control(recv, reading).await;
        });
    }
}

async fn accept_lanes(connection: Connection, reading: Reading) {
    while let Ok(stream) = connection.accept_lane().await {
        if post(&reading.link, LaneAccepted).is_err() {
            return;
        }
        actix::spawn(read_lane(stream, reading.clone()));
    }
}

/// Messages of the control lane that wait while the neighbour registers (again).
struct Waiting {
    messages: Vec<Envelope>,
    hold: watch::Receiver<bool>,
    /// Whether the neighbour may have reason to send already: a parent as soon as it has let this cell
    /// in, a child once it has been let in before.
    may_come: bool,
}

impl Waiting {
    /// Messages that may wait: what a neighbour can have sent before it knew.
    const MAX: usize = 1024;

    /// Gives the messages whose turn has come.
    fn admit(&mut self, envelope: Envelope) -> Result<Vec<Envelope>, CodecError> {
        let exempt = well_known::EXEMPT.iter().any(|topic| topic.matches(&envelope.header.target));
        let open = !*self.hold.borrow();
        self.may_come |= open;
        if exempt || open {
            let mut batch = self.release();
            batch.push(envelope);
            return Ok(batch);
        }
        if !self.may_come || self.messages.len() >= Self::MAX {
            return Err(CodecError {
                status: Status::NoToken,
                what: "messages before the registration",
            });
        }
        self.messages.push(envelope);
        Ok(Vec::new())
    }

    fn release(&mut self) -> Vec<Envelope> {
        if *self.hold.borrow() { Vec::new() } else { std::mem::take(&mut self.messages) }
    }
}

/// Control frames go to the link, messages to the filter.
async fn read_control(mut stream: RecvStream, reading: Reading) {
    let mut decoder = Decoder::new(FrameLimits::BEFORE_HELLO);
    let mut greeted = false;
    let may_come = reading.side == Side::Child;
    let mut waiting = Waiting { messages: Vec::new(), hold: reading.hold.clone(), may_come };
    loop {
        let chunk = tokio::select! {
            biased;
            changed = waiting.hold.changed(), if !waiting.messages.is_empty() => {
                if changed.is_err() || !reading.pass(waiting.release()).await {
                    return;
                }
                continue;
            }
            chunk = stream.read_chunk(CHUNK) => chunk,
        };
        let outcome = match chunk {
            Ok(Some(chunk)) => {
                reading.counters.read(chunk.len());
                take_control(chunk, &mut decoder, &mut greeted, &mut waiting, &reading).await
            }
            Ok(None) => {
                Err(CodecError { status: Status::BadFrame, what: "the control stream was ended" })
            }
            Err(Lost(_)) => return,
        };
        if let Err(error) = outcome {
            let _ = post(&reading.link, Unreadable(error));
            return;
        }
    }
}

async fn take_control(
    chunk: Bytes,
    decoder: &mut Decoder,
    greeted: &mut bool,
    waiting: &mut Waiting,
    reading: &Reading,
) -> Result<(), CodecError> {
    let mut chunk = Some(chunk);
    loop {
        let mut read = Vec::new();
        let mut early = false;
        decoder.feed(chunk.take().unwrap_or_default(), |frame| {
            let first = !*greeted;
            *greeted = true;
            early = first && matches!(frame, Frame::Message(_));
            read.push(frame);
            // What follows the first frame is read by the limits of a link that has said HELLO.
            !first && read.len() < BATCH
        })?;
        if early {
            return Err(CodecError { status: Status::NoHello, what: "a message before HELLO" });
        }
        if read.is_empty() {
            return Ok(());
        }
        decoder.set_limits(reading.limits);
        for frame in read {
            match frame {
                Frame::Message(envelope) if envelope.header.lane != Lane::Control => {
                    let what = "a message of another lane on the control stream";
                    return Err(CodecError { status: Status::BadFrame, what });
                }
                Frame::Message(envelope) => {
                    let batch = waiting.admit(envelope)?;
                    if !reading.pass(batch).await {
                        return Ok(());
                    }
                }
                frame @ (Frame::Hello(_)
                | Frame::HelloOk(_)
                | Frame::Beat(_)
                | Frame::Echo(_)
                | Frame::Lane(_)
                | Frame::Conduit(_)
                | Frame::Drain(_)
                | Frame::Answer(_)) => {
                    if post(&reading.link, Control(frame)).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        // What the link or the filter concludes from these comes before what follows them.
        tokio::task::yield_now().await;
    }
}

impl Reading {
    /// Whether this is the first stream for `lane`.
    fn opens(&self, lane: Lane) -> bool {
        let bit = 1 << lane as u8;
        self.lanes.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Hands control messages to the filter; `false` when there is none any more.
    async fn pass(&self, batch: Vec<Envelope>) -> bool {
        if batch.is_empty() {
            return true;
        }
        let bytes = batch.iter().map(cost).sum::<usize>().min(CONTROL_MAX);
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        let allowance = Arc::clone(&self.control_allowance);
        let Ok(permit) = allowance.acquire_many_owned(wanted).await else { return false };
        self.health.count_received(batch.len());
        let from = Hop::Link(self.id);
        post(&self.filter, Inbound { from, batch, permit: Some(permit) }).is_ok()
    }
}

/// The first frame says which lane it is; every other one is a message.
async fn read_lane(mut stream: RecvStream, reading: Reading) {
    if let Err(error) = read_messages(&mut stream, &reading).await {
        let _ = post(&reading.link, Unreadable(error));
    }
}

async fn read_messages(stream: &mut RecvStream, reading: &Reading) -> Result<(), CodecError> {
    let mut decoder = Decoder::new(reading.limits);
    let mut lane = None;
    let mut hold = reading.hold.clone();
    let mut pieces = Pieces::default();
    loop {
        // While the neighbour registers again, what it sent before waits in the transport.
        if hold.wait_for(|held| !*held).await.is_err() {
            return Ok(());
        }
        let count = match stream.read_chunks(&mut pieces).await {
            Ok(0) | Err(Lost(_)) => return Ok(()),
            Ok(count) => count,
        };
        // Everything that one wake-up yields is one batch, as far as it is not too large.
        let mut batch = Vec::new();
        for piece in pieces.take(count) {
            reading.counters.read(piece.len());
            if lane == Some(Lane::Interactive) {
                reading.health.count_lane_read(piece.len());
            }
            let mut piece = Some(piece);
            loop {
                take_frames(&mut decoder, piece.take(), &mut lane, &mut batch, reading)?;
                if batch.len() < BATCH {
                    break;
                }
                let full = std::mem::take(&mut batch);
                if !hand_over(full, reading, &mut hold).await {
                    return Ok(());
                }
            }
        }
        if !batch.is_empty() && !hand_over(batch, reading, &mut hold).await {
            return Ok(());
        }
    }
}

/// Decodes until the bytes or the batch are at their end.
fn take_frames(
    decoder: &mut Decoder,
    piece: Option<Bytes>,
    lane: &mut Option<Lane>,
    batch: &mut Vec<Envelope>,
    reading: &Reading,
) -> Result<(), CodecError> {
    let mut wrong = None;
    decoder.feed(piece.unwrap_or_default(), |frame| {
        match (frame, *lane) {
            (Frame::Message(envelope), Some(lane)) if envelope.header.lane == lane => {
                batch.push(envelope);
            }
            (Frame::Lane(Lane::Control), _) | (Frame::Lane(_), Some(_)) => {
                wrong = Some("a lane that cannot be opened");
            }
            (Frame::Lane(first), None) if reading.opens(first) => *lane = Some(first),
            (Frame::Lane(_), None) => wrong = Some("a second stream for a lane"),
            (
                Frame::Hello(_)
                | Frame::HelloOk(_)
                | Frame::Message(_)
                | Frame::Beat(_)
                | Frame::Echo(_)
                | Frame::Conduit(_)
                | Frame::Drain(_)
                | Frame::Answer(_),
                _,
            ) => wrong = Some("a frame on the wrong stream"),
        }
        wrong.is_none() && batch.len() < BATCH
    })?;
    wrong.map_or(Ok(()), |what| Err(CodecError { status: Status::BadFrame, what }))
}

/// Waits until the filter has room for the batch; `false` when there is no filter any more.
async fn hand_over(
    batch: Vec<Envelope>,
    reading: &Reading,
    hold: &mut watch::Receiver<bool>,
) -> bool {
    let bytes = batch.iter().map(cost).sum::<usize>().min(reading.inbound_max);
    let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
    let Ok(permit) = Arc::clone(&reading.allowance).acquire_many_owned(wanted).await else {
        return false;
    };
    if hold.wait_for(|held| !*held).await.is_err() {
        return false;
    }
    reading.health.count_received(batch.len());
    let from = Hop::Link(reading.id);
    post(&reading.filter, Inbound { from, batch, permit: Some(permit) }).is_ok()
}
