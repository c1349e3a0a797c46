//! The frames at the beginning of a conduit's stream, and the line between them and the bytes that follow.

use std::{collections::VecDeque, future::poll_fn};

use bytes::{Bytes, BytesMut};
use cellbus_channels::{Broken, ConduitRecv, ConduitSend};
use cellbus_proto::{
    codec::{CodecError, Decoder, Encoder, Frame, FrameLimits, body},
    envelope::{Envelope, Kind, Lane},
    name::ChannelTopic,
    status::Status,
    well_known,
};

use crate::{conn::RecvStream, counters::Counters};

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum HeadError {
    /// The neighbour wrote what nothing begins with; it is at fault.
    Wrong(CodecError),
    /// The stream ended before, or broke.
    Broken,
}

impl From<CodecError> for HeadError {
    fn from(error: CodecError) -> Self {
        Self::Wrong(error)
    }
}

const fn wrong(what: &'static str) -> CodecError {
    CodecError { status: Status::BadFrame, what }
}

/// Whether a topic is the system's: no conduit leads there.
pub(super) fn is_systems(target: &ChannelTopic) -> bool {
    well_known::lookup(target).is_some() || well_known::is_reserved(target.channel())
}

/// Reads what a conduit is for, the request, and what of the bytes behind it came along.
///
/// # Errors
/// [`HeadError`]; the stream is of no use any more.
pub(crate) async fn read_request(
    recv: &mut RecvStream,
    limits: FrameLimits,
    counters: &Counters,
) -> Result<(body::Conduit, Envelope, Bytes), HeadError> {
    let mut conduit = None;
    let (envelope, rest) = read(recv, limits, counters, |frame| match (frame, conduit) {
        (Frame::Conduit(first), None) => {
            conduit = Some(first);
            Ok(None)
        }
        (Frame::Message(envelope), Some(_)) => Ok(Some(envelope)),
        (_, None) => Err(wrong("a second control stream, or no conduit")),
        (_, Some(_)) => Err(wrong("a frame that begins no conduit")),
    })
    .await?;
    let header = &envelope.header;
    let fits = header.kind == Kind::Request
        && header.fan().is_empty()
        && header.lane == Lane::Bulk
        && !is_systems(&header.target);
    match conduit {
        Some(conduit) if fits => Ok((conduit, envelope, rest)),
        _ => Err(wrong("a message that begins no conduit").into()),
    }
}

/// Reads the answer to a conduit's request, and what of the bytes behind it came along.
///
/// # Errors
/// [`HeadError`]; the stream is of no use any more.
pub(crate) async fn read_answer(
    recv: &mut RecvStream,
    limits: FrameLimits,
    counters: &Counters,
) -> Result<(Envelope, Bytes), HeadError> {
    read(recv, limits, counters, |frame| {
        let Frame::Message(envelope) = frame else {
            return Err(wrong("a frame that is no answer to a conduit's request"));
        };
        Ok(Some(envelope))
    })
    .await
}

async fn read(
    recv: &mut RecvStream,
    limits: FrameLimits,
    counters: &Counters,
    mut take: impl FnMut(Frame) -> Result<Option<Envelope>, CodecError>,
) -> Result<(Envelope, Bytes), HeadError> {
    let mut decoder = Decoder::new(limits);
    let mut chunks = Vec::new();
    let mut found = None;
    loop {
        let more = poll_fn(|cx| recv.poll_chunks(cx, &mut chunks)).await;
        if !more.map_err(|_broken| HeadError::Broken)? {
            return Err(HeadError::Broken);
        }
        let mut behind = Vec::new();
        for chunk in chunks.drain(..) {
            counters.read(chunk.len());
            if found.is_some() {
                behind.push(chunk);
                continue;
            }
            decoder.feed(chunk, |frame| {
                found = take(frame).transpose();
                found.is_none()
            })?;
        }
        match found.take() {
            None => {}
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(envelope)) => {
                let rest = decoder.into_rest();
                if behind.is_empty() {
                    return Ok((envelope, rest));
                }
                behind.insert(0, rest);
                return Ok((envelope, behind.concat().into()));
            }
        }
    }
}

/// Writes a message as the first of its direction, behind what the conduit is for.
///
/// # Errors
/// [`Broken`]; how much was written is not known.
pub(crate) async fn write(
    send: &mut dyn ConduitSend,
    conduit: Option<body::Conduit>,
    envelope: &Envelope,
    budget_ms: u32,
) -> Result<(), Broken> {
    let mut encoder = Encoder::new();
    let mut buffer = BytesMut::new();
    if let Some(conduit) = conduit {
        // This frame has no payload.
        let _ = encoder.encode(&Frame::Conduit(conduit), &mut buffer);
    }
    let payload = encoder.encode_message(envelope, budget_ms, &mut buffer);
    let mut chunks: VecDeque<Bytes> = [buffer.freeze()].into();
    chunks.extend(payload);
    poll_fn(|cx| send.poll_write(cx, &mut chunks)).await
}
