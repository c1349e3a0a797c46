//! Writing the streams of a link: everything that waits leaves in as few writes as possible.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::Addr;
use bytes::{Bytes, BytesMut};
use cellbus_proto::{
    codec::{Encoder, Frame},
    envelope::Lane,
    route::LinkId,
    status::Status,
};
use futures_util::FutureExt;

use super::{Health, Link, Say};
use crate::{
    clock,
    conn::{CloseCode, Connection, Lost, SendStream},
    counters::Counters,
    filter::{AuthFilter, Expired},
    outbox::{Item, Outbox},
    seam::post,
    stats::Stats,
};

/// How long a neighbour may take nothing while something waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes gathered before a write.
const WRITE: usize = 64 << 10;

/// Where what is written is counted, and what was not written goes.
#[derive(Clone)]
pub(super) struct Meters {
    pub(super) link: LinkId,
    pub(super) filter: Addr<AuthFilter>,
    pub(super) own_link: Addr<Link>,
    pub(super) counters: Arc<Counters>,
    pub(super) health: Arc<Health>,
    pub(super) stats: Arc<Stats>,
}

/// Writes the control lane to the control stream.
pub(super) async fn write_control(stream: SendStream, outbox: Arc<Outbox>, meters: Meters) {
    run(stream, Encoder::new(), BytesMut::new(), Lane::Control, &outbox, &meters).await;
}

/// Opens the stream of a lane when there is something to send, and writes it.
pub(super) async fn write_lane(
    connection: Connection,
    lane: Lane,
    outbox: Arc<Outbox>,
    meters: Meters,
) {
    if !outbox.wait(lane).await {
        return;
    }
    let Ok(mut stream) = connection.open_lane().await else { return };
    if lane == Lane::Interactive {
        stream.count_into(meters.health.lane_written());
    }
    stream.set_priority(if lane == Lane::Interactive { 1 } else { 0 });
    let mut encoder = Encoder::new();
    let mut buffer = BytesMut::new();
    // A lane frame has no payload.
    let _ = encoder.encode(&Frame::Lane(lane), &mut buffer);
    run(stream, encoder, buffer, lane, &outbox, &meters).await;
}

async fn run(
    mut stream: SendStream,
    mut encoder: Encoder,
    mut buffer: BytesMut,
    lane: Lane,
    outbox: &Outbox,
    meters: &Meters,
) {
    while let Some((mut items, bytes)) = outbox.take(lane).await {
        let written = write(&mut stream, &mut encoder, &mut buffer, &mut items, meters).await;
        outbox.written(lane, bytes);
        if written.is_err() {
            // The connection is gone, and the link hears of that by itself. What was taken and not
            // written may have been written in part: nobody knows.
            for item in items {
                if let Item::Message(message) = item {
                    meters.counters.drop_queued(Status::PeerLost, message.count());
                }
            }
            return;
        }
    }
    stream.finish().await;
}

async fn write(
    stream: &mut SendStream,
    encoder: &mut Encoder,
    buffer: &mut BytesMut,
    items: &mut VecDeque<Item>,
    meters: &Meters,
) -> Result<(), Lost> {
    while !items.is_empty() {
        let now = clock::now();
        let mut chunks: Vec<Bytes> = Vec::new();
        let mut gathered = 0;
        let mut messages = 0;
        let mut expired = Vec::new();
        while gathered < WRITE
            && let Some(item) = items.pop_front()
        {
            let tail = match item {
                Item::Frame(frame) => encoder.encode(&frame, buffer),
                Item::Message(mut message) => {
                    let Some(budget_ms) = message.budget_left(now) else {
                        meters.counters.unqueue(message.count());
                        expired.push(message);
                        continue;
                    };
                    messages += message.count();
                    message.stamp_departure(now, || meters.health.wire_us());
                    meters.stats.left(|| now.saturating_duration_since(message.at()));
                    encoder.encode_message(message.envelope(), budget_ms, buffer)
                }
            };
            if let Some(payload) = tail {
                chunks.push(buffer.split().freeze());
                gathered += payload.len();
                chunks.push(payload);
            }
            if buffer.len() >= WRITE {
                break;
            }
        }
        if !buffer.is_empty() {
            chunks.push(buffer.split().freeze());
        }
        if !expired.is_empty() {
            let expired = Expired { link: meters.link, messages: expired };
            // Fails only when the filter has ended, and with it whoever could be told.
            let _ = post(&meters.filter, expired);
        }
        let total = chunks.iter().map(Bytes::len).sum();
        let outcome = write_patiently(stream, &mut chunks, meters).await;
        match outcome {
            Ok(()) => meters.counters.forward(messages),
            Err(_) => meters.counters.drop_queued(Status::PeerLost, messages),
        }
        outcome?;
        meters.counters.wrote(total);
        meters.health.count_sent(messages as u64);
    }
    Ok(())
}

/// Writes all of `chunks`; a neighbour that takes nothing of them for [`PATIENCE`] is given up.
async fn write_patiently(
    stream: &mut SendStream,
    chunks: &mut [Bytes],
    meters: &Meters,
) -> Result<(), Lost> {
    let taken = stream.taken();
    let mut writing = std::pin::pin!(stream.write_all(chunks));
    // Most writes find room at once, and need no timer.
    if let Some(outcome) = writing.as_mut().now_or_never() {
        return outcome;
    }
    let mut before = taken.load(Ordering::Relaxed);
    loop {
        if let Ok(outcome) = tokio::time::timeout(PATIENCE, writing.as_mut()).await {
            return outcome;
        }
        let now = taken.load(Ordering::Relaxed);
        if now == before {
            meters.counters.refuse(Status::SlowConsumer);
            let what = "the neighbour takes nothing";
            let close = Say::Close(CloseCode::SlowConsumer, what);
            // Fails only when the link has ended already.
            let _ = post(&meters.own_link, close);
            return Err(Lost(what.to_owned()));
        }
        before = now;
    }
}
