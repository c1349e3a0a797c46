//! What answers over plain QUIC, and what counts.

use std::mem;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};

use super::{
    bulk,
    frames::{ACKNOWLEDGE, CHUNKS, Decoder, encode},
};
use crate::{count::Counter, message::Peer};

/// Longest request, in bytes.
const REQUEST_MAX: usize = 1 << 21;

/// Answers whatever comes over `connection`: streams by echoes or objects, frames on one-way streams by counting.
/// Ends with the connection, as do the tasks that it starts.
pub fn serve(connection: Connection, peer: Peer, counter: Counter, store: bulk::Store) {
    let counted = connection.clone();
    tokio::spawn(async move {
        while let Ok(recv) = counted.accept_uni().await {
            tokio::spawn(count(recv, counter.clone()));
        }
    });
    tokio::spawn(async move {
        while let Ok((send, recv)) = connection.accept_bi().await {
            match peer {
                Peer::RawRrf => drop(tokio::spawn(echo_frames(send, recv))),
                Peer::Raw | Peer::RawDigest | Peer::RawDefaults => {
                    drop(tokio::spawn(bulk::serve(send, recv, store.clone())));
                }
                Peer::RawRr | Peer::Cellbus => drop(tokio::spawn(echo(send, recv))),
            }
        }
    });
}

/// `None` when the stream is gone; whoever asked finds out as well.
async fn echo(mut send: SendStream, mut recv: RecvStream) -> Option<()> {
    let request = recv.read_to_end(REQUEST_MAX).await.ok()?;
    send.write_chunk(request.into()).await.ok()?;
    send.finish().ok()
}

/// Answers all frames that one read yields in one write.
async fn echo_frames(mut send: SendStream, mut recv: RecvStream) -> Option<()> {
    let mut decoder = Decoder::default();
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let mut out = BytesMut::new();
    loop {
        let read = recv.read_chunks(&mut chunks).await.ok()??;
        for chunk in &mut chunks[..read] {
            let fed = decoder.feed(mem::take(chunk), |frame| {
                let empty = frame.number & ACKNOWLEDGE != 0;
                let payload: &[u8] = if empty { &[] } else { &frame.payload };
                encode(frame.number, payload, &mut out);
            });
            fed.ok()?;
        }
        if !out.is_empty() {
            send.write_chunk(out.split().freeze()).await.ok()?;
        }
    }
}

async fn count(mut recv: RecvStream, counter: Counter) -> Option<()> {
    let mut decoder = Decoder::default();
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    loop {
        let read = recv.read_chunks(&mut chunks).await.ok()??;
        let mut received = 0;
        for chunk in &mut chunks[..read] {
            decoder.feed(mem::take(chunk), |_| received += 1).ok()?;
        }
        counter.add(received);
    }
}
