//! The halves of a stream as conduits use them: polled, given up with a reason, and told so.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use cellbus_channels::{Broken, ConduitRecv, ConduitSend};

use super::{
    RecvStream, SendHalf, SendStream,
    pace::{LinkPace, Paced},
};

/// Streams that are reset or stopped say why with one of these numbers.
const CANCELLED: u32 = 0;
const LOST: u32 = 1;

/// The number that travels.
pub(super) fn code_of(why: Broken) -> u32 {
    match why {
        Broken::Cancelled => CANCELLED,
        Broken::Lost => LOST,
    }
}

/// What the number of a peer says. One that is not known promises nothing.
pub(super) fn broken_of(code: u64) -> Broken {
    if code == u64::from(CANCELLED) { Broken::Cancelled } else { Broken::Lost }
}

/// The first bytes of `chunks`, at most `most`.
fn take_front(chunks: &mut VecDeque<Bytes>, most: usize) -> VecDeque<Bytes> {
    let (mut front, mut left) = (VecDeque::new(), most);
    while left > 0
        && let Some(mut chunk) = chunks.pop_front()
    {
        let rest = chunk.split_off(left.min(chunk.len()));
        left -= chunk.len();
        front.push_back(chunk);
        if !rest.is_empty() {
            chunks.push_front(rest);
        }
    }
    front
}

fn len(chunks: &VecDeque<Bytes>) -> usize {
    chunks.iter().map(Bytes::len).sum()
}

impl SendStream {
    /// Keeps what is written as a conduit to the pace of its link.
    pub(crate) fn keep_pace(&mut self, pace: Option<&Arc<LinkPace>>, priority: u8) {
        self.1 = pace.map(|pace| Paced::new(Arc::clone(pace), priority));
    }

    fn poll_write_now(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        match &mut self.0 {
            SendHalf::Quic(stream) => stream.poll_write(cx, chunks),
            SendHalf::Memory(writer) => writer.poll_write(cx, chunks),
        }
    }

    /// What the peer is told when this half is dropped before it was finished.
    pub(crate) fn reset_when_dropped(&mut self, why: Broken) {
        match &mut self.0 {
            SendHalf::Quic(stream) => stream.reset_when_dropped(why),
            SendHalf::Memory(writer) => writer.reset_when_dropped(why),
        }
    }

    /// Ends the half at once.
    pub(crate) fn reset_with(&mut self, why: Broken) {
        match &mut self.0 {
            SendHalf::Quic(stream) => stream.reset_with(why),
            SendHalf::Memory(writer) => writer.reset_with(why),
        }
    }
}

impl RecvStream {
    /// What the peer is told when this half is dropped before its end.
    pub(crate) fn stop_when_dropped(&mut self, why: Broken) {
        match self {
            Self::Quic(reader) => reader.stop_when_dropped(why),
            Self::Memory(reader) => reader.stop_when_dropped(why),
        }
    }

    /// Tells the peer that nothing more is read.
    pub(crate) fn stop_with(&mut self, why: Broken) {
        match self {
            Self::Quic(reader) => reader.stop_with(why),
            Self::Memory(reader) => reader.stop_with(why),
        }
    }
}

impl ConduitSend for SendStream {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        if self.1.is_none() {
            return self.poll_write_now(cx, chunks);
        }
        while !chunks.is_empty() {
            let Some(Poll::Ready(most)) = self.1.as_mut().map(|paced| paced.poll_free(cx)) else {
                // Who waits for its turn hears all the same that nobody reads any more.
                return self.poll_broken(cx).map(Err);
            };
            let mut turn = take_front(chunks, most);
            let before = len(&turn);
            let polled = self.poll_write_now(cx, &mut turn);
            if let Some(paced) = &self.1 {
                paced.spend(before - len(&turn));
            }
            while let Some(left) = turn.pop_back() {
                chunks.push_front(left);
            }
            ready!(polled)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match &mut self.0 {
            SendHalf::Quic(stream) => stream.poll_broken(cx),
            SendHalf::Memory(writer) => writer.poll_broken(cx),
        }
    }

    fn finish(&mut self) {
        match &mut self.0 {
            SendHalf::Quic(stream) => stream.finish_now(),
            SendHalf::Memory(writer) => writer.finish_now(),
        }
    }

    fn reset(&mut self) {
        self.reset_with(Broken::Cancelled);
    }
}

impl ConduitRecv for RecvStream {
    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, Broken>> {
        match self {
            Self::Quic(reader) => reader.poll_chunks(cx, into),
            Self::Memory(reader) => reader.poll_chunks(cx, into),
        }
    }

    fn stop(&mut self) {
        self.stop_with(Broken::Cancelled);
    }
}
