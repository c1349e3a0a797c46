//! Filling a spool with what a holder sends to whoever leads.

use std::{collections::VecDeque, future::poll_fn, sync::Arc};

use bytes::Bytes;
use cellbus_channels::{Broken, ConduitRecv, ConduitSend};
use cellbus_proto::transfer::{Piece, PieceReader, ShareKey, Spooled, Trailer};
use tokio::sync::oneshot;

use super::{Reading, Shares, read::serve, spool::Spool};
use crate::conduits::{
    relay::{Ends, carry},
    tied::{TiedRecv, TiedSend},
};

/// What of a stream is left behind its trailer.
type Tail = (TiedRecv, Bytes);

/// Fills a spool for all that follow, and gives the leader its bytes from there. Goes on while anybody
/// reads, also when the leader itself has left.
pub(in crate::conduits) async fn lead(
    mut reading: Reading,
    filling: Filling,
    up: Ends,
    (mut down_send, down_recv): Ends,
) {
    let (tail, tail_there) = oneshot::channel();
    let (spool, at) = (Arc::clone(&filling.spool), filling.at);
    let mut fill = std::pin::pin!(async {
        let filled = filling.fill(down_recv).await;
        // Nobody waits for it when the leader has left.
        let _ = tail.send(filled);
    });
    let mut is_filled = false;
    {
        let own = take_part(&reading, &spool, at, up, &mut down_send, tail_there);
        let mut own = std::pin::pin!(own);
        loop {
            tokio::select! {
                biased;
                () = &mut fill, if !is_filled => is_filled = true,
                () = &mut own => break,
            }
        }
    }
    let is_last = reading.leave();
    if !is_filled && !is_last {
        fill.await;
    }
    // Held until now: whoever sends would take its end for that of everybody.
    drop(down_send);
}

/// The leader's own share in it.
async fn take_part(
    reading: &Reading,
    spool: &Arc<Spool>,
    at: Spooled,
    (mut up_send, mut up_recv): Ends,
    down_send: &mut TiedSend,
    tail: oneshot::Receiver<Option<Tail>>,
) {
    let back = async {
        let served = serve(reading, spool, at, &mut up_send).await;
        let passed = match served {
            Ok(()) => pass(&mut up_send, tail.await.ok().flatten()).await,
            Err(broken) => Err(broken),
        };
        match passed {
            Ok(recv) => carry(recv, up_send).await,
            Err(broken) => up_send.reset_with(broken),
        }
    };
    let there = async {
        let (mut read, mut chunks) = (Vec::new(), VecDeque::new());
        loop {
            match poll_fn(|cx| up_recv.poll_chunks(cx, &mut read)).await {
                Ok(true) => {
                    chunks.extend(read.drain(..));
                    if let Err(broken) = poll_fn(|cx| down_send.poll_write(cx, &mut chunks)).await {
                        return up_recv.stop_with(broken);
                    }
                }
                Ok(false) => return ConduitSend::finish(down_send),
                // It leaves; what is sent to it may still be wanted by others.
                Err(_broken) => return,
            }
        }
    };
    futures_util::future::join(back, there).await;
}

/// Passes what came behind the trailer.
async fn pass(up: &mut TiedSend, tail: Option<Tail>) -> Result<TiedRecv, Broken> {
    let (recv, rest) = tail.ok_or(Broken::Lost)?;
    let mut chunks: VecDeque<Bytes> = [rest].into();
    poll_fn(|cx| up.poll_write(cx, &mut chunks)).await?;
    Ok(recv)
}

/// What fills a spool. Whoever reads it hears that no more comes when this is dropped.
pub(in crate::conduits) struct Filling {
    shares: Arc<Shares>,
    key: ShareKey,
    leader: u64,
    spool: Arc<Spool>,
    /// Where the next byte goes.
    at: Spooled,
}

impl Drop for Filling {
    fn drop(&mut self) {
        // Of what is whole by now nothing is lost.
        self.shares.lock().table.handle_source_lost(&self.key, self.leader);
        self.shares.tell();
    }
}

impl Filling {
    pub(super) fn new(reading: &Reading, spool: Arc<Spool>, at: Spooled) -> Self {
        let (shares, key) = (Arc::clone(&reading.shares), reading.key.clone());
        Self { shares, key, leader: reading.reader, spool, at }
    }

    /// Writes all that comes, up to the trailer; `None` where that does not come, or is not wanted.
    async fn fill(mut self, mut recv: TiedRecv) -> Option<Tail> {
        let tail = self.fill_from(&mut recv).await;
        tail.map(|rest| (recv, rest))
    }

    async fn fill_from(&mut self, recv: &mut TiedRecv) -> Option<Bytes> {
        let mut pieces = PieceReader::new(true);
        let mut read = Vec::new();
        loop {
            let is_more = {
                let unwanted = self.shares.until(|table| {
                    (!table.handle_filling(&self.key, self.leader, 0)).then_some(())
                });
                tokio::select! {
                    biased;
                    more = poll_fn(|cx| recv.poll_chunks(cx, &mut read)) => more.ok()?,
                    () = unwanted => return None,
                }
            };
            if !is_more {
                return None;
            }
            let mut chunks: VecDeque<Bytes> = read.drain(..).collect();
            while !chunks.is_empty() {
                if let Some(trailer) = self.take(&mut pieces, &mut chunks).await.ok()? {
                    self.shares.lock().table.handle_trailer(&self.key, self.leader, trailer);
                    let rest: Vec<Bytes> = chunks.into();
                    return Some(rest.concat().into());
                }
            }
        }
    }

    /// Writes as much of `chunks` as there is room for. Where there is none, it waits, and so does the holder.
    async fn take(
        &mut self,
        pieces: &mut PieceReader,
        chunks: &mut VecDeque<Bytes>,
    ) -> Result<Option<Trailer>, Broken> {
        let mut room = self.shares.lock().table.room(&self.key, self.leader);
        let (mut data, mut total, mut trailer) = (Vec::new(), 0, None);
        while let Some(chunk) = chunks.front_mut()
            && trailer.is_none()
        {
            match pieces.read(chunk, room) {
                Ok(Some(Piece::Data(bytes))) => {
                    room -= bytes.len() as u64;
                    total += bytes.len() as u64;
                    data.push(bytes);
                }
                Ok(Some(Piece::Trailer(last))) => trailer = Some(last),
                Ok(None) if chunk.is_empty() => drop(chunks.pop_front()),
                Ok(None) => break,
                Ok(Some(Piece::Settlement(_))) | Err(_) => return Err(Broken::Lost),
            }
        }
        if !data.is_empty() {
            self.write(data, total).await?;
        } else if trailer.is_none() && !chunks.is_empty() {
            let is_wanted =
                self.shares.until(|table| match table.handle_filling(&self.key, self.leader, 0) {
                    true => (table.room(&self.key, self.leader) > 0).then_some(true),
                    false => Some(false),
                });
            if !is_wanted.await {
                return Err(Broken::Lost);
            }
        }
        Ok(trailer)
    }

    async fn write(&mut self, data: Vec<Bytes>, total: u64) -> Result<(), Broken> {
        if !self.shares.lock().table.handle_filling(&self.key, self.leader, total) {
            return Err(Broken::Lost);
        }
        self.spool.write(self.at.from, self.at.capacity, data).await.map_err(|error| {
            self.shares.give_up(&self.key, &error);
            Broken::Lost
        })?;
        self.at.from += total;
        self.shares.lock().table.handle_spooled(&self.key, self.leader, total);
        self.shares.tell();
        Ok(())
    }
}
