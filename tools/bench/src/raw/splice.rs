//! A relay with nothing to decide: whatever comes over one connection goes out over another, stream by
//! stream.

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::watch;

use super::frames::CHUNKS;

/// Passes the streams that `from` opens on to `to`, until one of the two is gone.
pub fn pass_on(from: Connection, to: Connection) {
    let (source, sink) = (from.clone(), to.clone());
    tokio::spawn(async move {
        while let Ok(recv) = source.accept_uni().await {
            let sink = sink.clone();
            tokio::spawn(async move {
                if let Ok(send) = sink.open_uni().await {
                    pump(recv, send).await;
                }
            });
        }
    });
    tokio::spawn(async move {
        while let Ok((back, recv)) = from.accept_bi().await {
            let to = to.clone();
            tokio::spawn(async move {
                if let Ok((send, answers)) = to.open_bi().await {
                    tokio::spawn(pump(answers, back));
                    pump(recv, send).await;
                }
            });
        }
    });
}

/// Passes the streams that `from` opens on to each of `downs` in turn, until it is gone. Every receiver costs a copy
/// over the link to here: plain QUIC has nobody who makes two of one.
pub fn hand_out(from: Connection, downs: watch::Receiver<Vec<Connection>>) {
    tokio::spawn(async move {
        let mut turn = 0;
        while let Ok((back, recv)) = from.accept_bi().await {
            let to = {
                let downs = downs.borrow();
                let Some(place) = usize::checked_rem(turn, downs.len()) else { continue };
                downs[place].clone()
            };
            turn += 1;
            tokio::spawn(async move {
                if let Ok((send, answers)) = to.open_bi().await {
                    tokio::spawn(pump(answers, back));
                    pump(recv, send).await;
                }
            });
        }
    });
}

/// What is dropped half way is reset, which its reader sees.
async fn pump(mut recv: RecvStream, mut send: SendStream) -> Option<()> {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    while let Some(read) = recv.read_chunks(&mut chunks).await.ok()? {
        send.write_all_chunks(&mut chunks[..read]).await.ok()?;
    }
    send.finish().ok()
}
