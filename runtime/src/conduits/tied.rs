//! The halves of a conduit in this cell: counted, with what was read before they began, and broken with
//! whatever they are tied to.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use cellbus_channels::{Broken, ConduitRecv, ConduitSend};

use super::Tie;
use crate::conn::{RecvStream, SendStream};

/// The half that is read.
#[derive(Debug)]
pub(super) struct TiedRecv {
    stream: RecvStream,
    /// Bytes that came with the head.
    rest: Option<Bytes>,
    tie: Arc<Tie>,
    half: usize,
}

/// The half that is written.
#[derive(Debug)]
pub(super) struct TiedSend {
    stream: SendStream,
    tie: Arc<Tie>,
    half: usize,
}

/// Which neighbour a stream leads to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// Where the request came from.
    Up,
    /// Where it went.
    Down,
}

/// Both halves of a stream. `when_dropped` is what the neighbour is told when they are let go of.
pub(super) fn tied(
    (mut send, mut recv): (SendStream, RecvStream),
    rest: Bytes,
    tie: &Arc<Tie>,
    side: Side,
    when_dropped: Broken,
) -> (TiedSend, TiedRecv) {
    send.reset_when_dropped(when_dropped);
    recv.stop_when_dropped(when_dropped);
    let first = match side {
        Side::Up => 0,
        Side::Down => 2,
    };
    let rest = Some(rest).filter(|rest| !rest.is_empty());
    let recv = TiedRecv { stream: recv, rest, tie: Arc::clone(tie), half: first };
    (TiedSend { stream: send, tie: Arc::clone(tie), half: first + 1 }, recv)
}

impl TiedRecv {
    pub(super) fn stop_with(&mut self, why: Broken) {
        self.stream.stop_with(why);
    }
}

impl ConduitRecv for TiedRecv {
    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, Broken>> {
        if self.tie.poll_broken(self.half, cx) {
            self.stream.stop_with(Broken::Lost);
            return Poll::Ready(Err(Broken::Lost));
        }
        if let Some(rest) = self.rest.take() {
            into.push(rest);
            return Poll::Ready(Ok(true));
        }
        let before = into.len();
        let polled = ready!(self.stream.poll_chunks(cx, into));
        let read = into[before..].iter().map(Bytes::len).sum();
        self.tie.own.counters.read(read);
        self.tie.count_moved(read);
        Poll::Ready(polled)
    }

    fn stop(&mut self) {
        self.stop_with(Broken::Cancelled);
    }
}

impl Drop for TiedRecv {
    fn drop(&mut self) {
        if self.tie.is_broken() {
            self.stream.stop_when_dropped(Broken::Lost);
        }
    }
}

impl TiedSend {
    pub(super) fn reset_with(&mut self, why: Broken) {
        self.stream.reset_with(why);
    }
}

impl ConduitSend for TiedSend {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        if self.tie.poll_broken(self.half, cx) {
            self.stream.reset_with(Broken::Lost);
            return Poll::Ready(Err(Broken::Lost));
        }
        let len = |chunks: &VecDeque<Bytes>| chunks.iter().map(Bytes::len).sum::<usize>();
        let before = len(chunks);
        let polled = self.stream.poll_write(cx, chunks);
        let written = before - len(chunks);
        self.tie.own.counters.wrote(written);
        self.tie.count_moved(written);
        polled
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.tie.poll_broken(self.half, cx) {
            self.stream.reset_with(Broken::Lost);
            return Poll::Ready(Broken::Lost);
        }
        self.stream.poll_broken(cx)
    }

    fn finish(&mut self) {
        ConduitSend::finish(&mut self.stream);
    }

    fn reset(&mut self) {
        self.reset_with(Broken::Cancelled);
    }
}

impl Drop for TiedSend {
    fn drop(&mut self) {
        if self.tie.is_broken() {
            self.stream.reset_when_dropped(Broken::Lost);
        }
    }
}
