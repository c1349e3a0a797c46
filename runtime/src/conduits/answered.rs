//! The writing half of a conduit that this cell has answered: the answer is heard, whatever follows it.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::{Broken, ConduitSend};
use tokio::time::Instant;

use super::tied::TiedSend;

/// Time for an answer to arrive, also when a packet is lost. A stream that is reset takes with it what its reader has
/// not read yet.
const TO_ARRIVE: Duration = Duration::from_secs(1);

/// A half that was answered on. Dropped right behind the answer, it is reset only when that had time to arrive.
#[derive(Debug)]
pub(super) struct Answered {
    /// `None` only while it is dropped.
    send: Option<TiedSend>,
    until: Instant,
    is_over: bool,
}

impl Answered {
    /// The answer was written now.
    pub(super) fn new(send: TiedSend) -> Self {
        Self { send: Some(send), until: Instant::now() + TO_ARRIVE, is_over: false }
    }
}

impl ConduitSend for Answered {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        match &mut self.send {
            Some(send) => send.poll_write(cx, chunks),
            None => Poll::Ready(Err(Broken::Lost)),
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match &mut self.send {
            Some(send) => send.poll_broken(cx),
            None => Poll::Ready(Broken::Lost),
        }
    }

    fn finish(&mut self) {
        self.is_over = true;
        if let Some(send) = &mut self.send {
            ConduitSend::finish(send);
        }
    }

    fn reset(&mut self) {
        self.is_over = true;
        if let Some(send) = &mut self.send {
            ConduitSend::reset(send);
        }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        let Some(mut send) = self.send.take() else { return };
        if self.is_over || Instant::now() >= self.until {
            return;
        }
        let until = self.until;
        // Where nothing can be started any more, the cell itself has ended.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    _ = std::future::poll_fn(|cx| send.poll_broken(cx)) => {}
                }
            });
        }
    }
}
