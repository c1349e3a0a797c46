//! Reading a conduit from a spool, at its own pace.

use std::{collections::VecDeque, future::poll_fn, sync::Arc};

use bytes::Bytes;
use cellbus_channels::{Broken, ConduitRecv, ConduitSend};
use cellbus_proto::transfer::{Next, Spooled, chunk_head, trailer_bytes};

use super::{Reading, spool::Spool};
use crate::conduits::{
    relay::{Ends, carry},
    tied::{TiedRecv, TiedSend},
};

/// Bytes of a chunk that is read from a spool.
const CHUNK: u64 = 256 << 10;
/// Bytes that a holder has to say before its receiver has everything.
const EARLY_MAX: usize = 1024;

/// Gives a follower its bytes from the spool; what it writes, and what the holder says to it, passes.
pub(in crate::conduits) async fn follow(
    reading: Reading,
    spool: Arc<Spool>,
    at: Spooled,
    (mut up_send, up_recv): Ends,
    (down_send, mut down_recv): Ends,
) {
    let back = async {
        let mut early = Early::default();
        let served = tokio::select! {
            biased;
            broken = early.watch(&mut down_recv) => Err(broken),
            served = serve(&reading, &spool, at, &mut up_send) => served,
        };
        drop(reading);
        let passed = match served {
            Ok(()) => early.pass(&mut up_send).await,
            Err(broken) => Err(broken),
        };
        match passed {
            Ok(()) => carry(down_recv, up_send).await,
            Err(broken) => {
                up_send.reset_with(broken);
                down_recv.stop_with(broken);
            }
        }
    };
    futures_util::future::join(carry(up_recv, down_send), back).await;
}

/// Writes what is in the spool for a reader, its trailer last.
pub(super) async fn serve(
    reading: &Reading,
    spool: &Arc<Spool>,
    at: Spooled,
    up: &mut TiedSend,
) -> Result<(), Broken> {
    let Spooled { capacity, .. } = at;
    loop {
        let waiting =
            reading.shares.until(|table| match table.next(&reading.key, reading.reader) {
                Next::Wait => None,
                next @ (Next::Read { .. } | Next::Trailer(_) | Next::Cut) => Some(next),
            });
        let next = tokio::select! {
            biased;
            next = waiting => next,
            broken = poll_fn(|cx| up.poll_broken(cx)) => return Err(broken),
        };
        let mut chunks: VecDeque<Bytes> = match next {
            Next::Read { from, len } => {
                let len = len.min(CHUNK);
                let size = usize::try_from(len).unwrap_or(usize::MAX);
                let bytes = spool.read(from, capacity, size).await.map_err(|error| {
                    reading.shares.give_up(&reading.key, &error);
                    Broken::Lost
                })?;
                let is_theirs =
                    reading.shares.lock().table.handle_read(&reading.key, reading.reader, len);
                reading.shares.tell();
                if !is_theirs {
                    return Err(Broken::Lost);
                }
                [Bytes::copy_from_slice(&chunk_head(size)), bytes].into()
            }
            Next::Trailer(trailer) => {
                let mut last = [trailer_bytes(&trailer)].into();
                return poll_fn(|cx| up.poll_write(cx, &mut last)).await;
            }
            Next::Wait | Next::Cut => return Err(Broken::Lost),
        };
        poll_fn(|cx| up.poll_write(cx, &mut chunks)).await?;
    }
}

/// What the holder says before the receiver has everything.
#[derive(Default)]
struct Early {
    chunks: Vec<Bytes>,
}

impl Early {
    /// Waits until the holder has given up, or has said too much.
    async fn watch(&mut self, down: &mut TiedRecv) -> Broken {
        loop {
            match poll_fn(|cx| down.poll_chunks(cx, &mut self.chunks)).await {
                Ok(true) if self.chunks.iter().map(Bytes::len).sum::<usize>() > EARLY_MAX => {
                    return Broken::Lost;
                }
                Ok(true) => {}
                // It has nothing more to say, which is no end of what the spool has.
                Ok(false) => std::future::pending().await,
                Err(broken) => return broken,
            }
        }
    }

    async fn pass(self, up: &mut TiedSend) -> Result<(), Broken> {
        let mut chunks: VecDeque<Bytes> = self.chunks.into();
        poll_fn(|cx| up.poll_write(cx, &mut chunks)).await
    }
}
