//! What a holder does on a conduit that it has answered: bytes, a trailer, and one word to the receipt.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use cellbus_proto::{
    name::Fqcn,
    transfer::{Answer, Receipt, ReceiptReader, Settlement, Trailer, chunk_head, trailer_bytes},
};
use tokio::time::{sleep_until, timeout};

use super::{books::Books, error::SourceError, source::Content};
use crate::conduit::{Broken, Conduit, ConduitRecv, ConduitSend};

/// How long a receiver that takes nothing any more may take to say why.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Why no more bytes go out.
enum Stopped {
    /// The receiver takes none, or the way is lost.
    Broken,
    /// There are none to be had.
    Source(SourceError),
    /// The receiver has taken none for too long.
    Stalled,
}

/// Serves one receiver on one conduit, until its receipt was answered or there is nothing to wait for.
pub(super) async fn serve(
    books: Arc<Books>,
    receiver: Fqcn,
    answer: Answer,
    content: Content,
    conduit: Conduit,
) {
    let _attended = books.attend(&receiver);
    let Conduit { mut send, mut recv } = conduit;
    let receipt = {
        let receipt = read_receipt(&mut *recv);
        let writing = async {
            match answer.data {
                true => write(&books, &receiver, &answer, &content, &mut *send).await,
                false => Ok(()),
            }
        };
        tokio::pin!(receipt, writing);
        tokio::select! {
            biased;
            () = books.closed() => return,
            receipt = &mut receipt => receipt,
            written = &mut writing => match written {
                Ok(()) => tokio::select! {
                    biased;
                    () = books.closed() => return,
                    receipt = &mut receipt => receipt,
                },
                Err(Stopped::Source(SourceError::Changed)) => {
                    // Who comes back is told what has become of it.
                    let _ = books.look_at_source().await;
                    return;
                }
                Err(Stopped::Source(error)) => {
                    books.close(error.status());
                    return;
                }
                Err(Stopped::Broken | Stopped::Stalled) => {
                    timeout(LAST_WORD, &mut receipt).await.ok().flatten()
                }
            },
        }
    };
    let Some(receipt) = receipt else { return };
    let settlement = match books.receive(&receiver, &receipt).await {
        Ok(_counted) => Settlement::Settled,
        Err(_refusal) => Settlement::Refused,
    };
    if send.write_one(Bytes::copy_from_slice(&[settlement.to_wire()])).await.is_ok() {
        send.finish();
    }
}

async fn write(
    books: &Books,
    receiver: &Fqcn,
    answer: &Answer,
    content: &Content,
    send: &mut dyn ConduitSend,
) -> Result<(), Stopped> {
    let generation = answer.generation;
    let mut offset = answer.offset;
    let mut next = content.read(offset).await.map_err(Stopped::Source)?;
    while !next.is_empty() {
        let end = offset + next.len() as u64;
        books.sent.fetch_add(next.len() as u64, Ordering::Relaxed);
        let head = Bytes::copy_from_slice(&chunk_head(next.len()));
        let mut chunks = VecDeque::from([head, next.clone()]);
        let written = async { timeout(books.patience, send.write(&mut chunks)).await };
        // What comes next is read, and this hashed, while this is written.
        let (written, read, ()) =
            tokio::join!(written, content.read(end), books.hash(generation, offset, next));
        match written {
            Ok(Ok(())) => {}
            Ok(Err(Broken::Cancelled | Broken::Lost)) => return Err(Stopped::Broken),
            Err(_elapsed) => return Err(Stopped::Stalled),
        }
        let paced = books.pace.lock().await.spend(usize::try_from(end - offset).unwrap_or(0));
        books.served(receiver, end);
        if let Some(until) = paced {
            sleep_until(until).await;
        }
        (offset, next) = (end, read.map_err(Stopped::Source)?);
    }
    let digest = books.digest(generation, content, offset).await.map_err(Stopped::Source)?;
    content.check().await.map_err(Stopped::Source)?;
    let trailer = trailer_bytes(&Trailer { size: offset, digest, generation });
    send.write_one(trailer).await.map_err(|_broken| Stopped::Broken)
}

/// The receipt; `None` when the conduit ends without one.
async fn read_receipt(recv: &mut dyn ConduitRecv) -> Option<Receipt> {
    let (mut reader, mut chunks) = (ReceiptReader::default(), Vec::new());
    loop {
        if !recv.chunks(&mut chunks).await.ok()? {
            return None;
        }
        for mut chunk in chunks.drain(..) {
            if let Some(receipt) = reader.read(&mut chunk).ok()? {
                return Some(receipt);
            }
        }
    }
}
