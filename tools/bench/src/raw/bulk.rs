//! Objects over plain QUIC: asked for by one byte, or pushed behind one, each on a stream of its own.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cellbus_proto::transfer::Digester;
use futures_util::future::try_join_all;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::frames::CHUNKS;
use crate::{
    drive::payload,
    measure::Keep,
    object::{self, PIECE},
    side::SideError,
};

/// The byte before an object, and that which asks for one.
const PUSH: u8 = 1;
const PULL: u8 = 2;
/// Pieces that are read, or wait to be written, ahead.
const AHEAD: usize = 4;

/// What a process holds for others. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Store {
    held: Arc<OnceLock<Held>>,
    written: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Held {
    Memory(Bytes),
    File(PathBuf),
}

impl Store {
    /// Holds `size` random bytes, in memory or in a file in `directory`.
    ///
    /// # Errors
    /// [`SideError`].
    pub fn hold(&self, size: u64, file: bool, directory: &Path) -> Result<(), SideError> {
        let held = match file {
            true => Held::File(object::write(directory, size)?),
            false => Held::Memory(payload(size)?),
        };
        // Asked once in the life of a process.
        let _ = self.held.set(held);
        Ok(())
    }

    /// Bytes that were written for others.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    async fn write(&self, send: &mut SendStream) -> Result<(), SideError> {
        match self.held.get() {
            None => return Err(SideError::text("nothing is held")),
            Some(Held::Memory(bytes)) => {
                self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                send.write_chunk(bytes.clone()).await.map_err(SideError::new)?;
            }
            Some(Held::File(path)) => {
                let mut pieces = read_ahead(path.clone());
                while let Some(piece) = pieces.recv().await {
                    let piece = piece.map_err(SideError::new)?;
                    self.written.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    send.write_chunk(piece).await.map_err(SideError::new)?;
                }
            }
        }
        send.finish().map_err(SideError::new)
    }
}

fn read_ahead(path: PathBuf) -> Receiver<std::io::Result<Bytes>> {
    let (pieces, read) = channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let read = File::open(path).and_then(|mut file| {
            loop {
                let mut piece = vec![0; PIECE];
                let len = file.read(&mut piece)?;
                piece.truncate(len);
                if len == 0 || pieces.blocking_send(Ok(piece.into())).is_err() {
                    return Ok(());
                }
            }
        });
        if let Err(error) = read {
            // Nobody reads any more where this is not taken.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    read
}

/// Serves one stream: gives what is held, or takes what is pushed and acknowledges it by one byte.
pub async fn serve(mut send: SendStream, mut recv: RecvStream, store: Store) -> Option<()> {
    let mut asked = [0];
    recv.read_exact(&mut asked).await.ok()?;
    match asked {
        [PULL] => store.write(&mut send).await.ok(),
        _pushed => {
            drain(&mut recv, |_| {}).await.ok()?;
            send.write_all(&asked).await.ok()?;
            send.finish().ok()
        }
    }
}

async fn drain(recv: &mut RecvStream, mut each: impl FnMut(&Bytes)) -> Result<u64, SideError> {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let mut all = 0;
    while let Some(read) = recv.read_chunks(&mut chunks).await.map_err(SideError::new)? {
        for chunk in &chunks[..read] {
            all += chunk.len() as u64;
            each(chunk);
        }
    }
    Ok(all)
}

/// Pulls one object; where it `hashes`, what is not for a file goes through BLAKE3 on a thread beside the one that
/// receives.
///
/// # Errors
/// [`SideError`], also when it has not `size` bytes.
pub async fn pull(
    connection: &Connection,
    size: u64,
    keep: Keep,
    hashes: bool,
    directory: &Path,
) -> Result<(), SideError> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(SideError::new)?;
    send.write_all(&[PULL]).await.map_err(SideError::new)?;
    send.finish().map_err(SideError::new)?;
    let got = match keep {
        Keep::Drop if hashes => hash(&mut recv).await?,
        Keep::Keep if hashes => keep_hashed(&mut recv, size).await?,
        Keep::Drop => drain(&mut recv, |_| {}).await?,
        Keep::Keep => {
            let mut kept = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            drain(&mut recv, |chunk| kept.extend_from_slice(chunk)).await?;
            std::hint::black_box(&kept).len() as u64
        }
        Keep::File => store(&mut recv, directory.join(object::GOT)).await?,
    };
    if got == size { Ok(()) } else { Err(SideError::text(format!("{got} of {size} bytes came"))) }
}

/// Writes what comes into a file on a thread of its own, and makes it durable.
async fn store(recv: &mut RecvStream, path: PathBuf) -> Result<u64, SideError> {
    let (pieces, mut waiting) = channel::<Vec<u8>>(AHEAD);
    let writing = tokio::task::spawn_blocking(move || {
        let mut file = object::open(&path)?;
        let mut all = 0;
        while let Some(piece) = waiting.blocking_recv() {
            file.write_all(&piece)?;
            all += piece.len() as u64;
        }
        file.sync_all().map(|()| all)
    });
    pass_on(recv, pieces, || Vec::with_capacity(PIECE)).await?;
    writing.await.map_err(SideError::new)?.map_err(SideError::new)
}

/// Hashes what comes, and drops it.
async fn hash(recv: &mut RecvStream) -> Result<u64, SideError> {
    let (pieces, mut waiting) = channel::<Vec<u8>>(AHEAD);
    let (emptied, mut again) = channel(AHEAD);
    let hashing = tokio::task::spawn_blocking(move || {
        let mut digester = Digester::default();
        while let Some(mut piece) = waiting.blocking_recv() {
            digester.update(&piece);
            piece.clear();
            let _ = emptied.try_send(piece);
        }
        std::hint::black_box(digester.finish());
        digester.offset()
    });
    let empty = || again.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
    pass_on(recv, pieces, empty).await?;
    hashing.await.map_err(SideError::new)
}

/// Puts what comes together in one piece of memory, which is hashed as it grows.
async fn keep_hashed(recv: &mut RecvStream, size: u64) -> Result<u64, SideError> {
    let (batches, mut waiting) = channel::<Vec<Bytes>>(AHEAD);
    // Memory is used again where it came from.
    let (emptied, mut again) = channel::<Vec<Bytes>>(2 * AHEAD);
    let keeping = tokio::task::spawn_blocking(move || {
        let mut kept = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut digester = Digester::default();
        while let Some(batch) = waiting.blocking_recv() {
            let from = kept.len();
            batch.iter().for_each(|chunk| kept.extend_from_slice(chunk));
            digester.update(&kept[from..]);
            let _ = emptied.try_send(batch);
        }
        std::hint::black_box(digester.finish());
        std::hint::black_box(&kept).len() as u64
    });
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let (mut batch, mut len) = (Vec::new(), 0);
    while let Some(read) = recv.read_chunks(&mut chunks).await.map_err(SideError::new)? {
        for chunk in &mut chunks[..read] {
            len += chunk.len();
            batch.push(std::mem::take(chunk));
        }
        if len >= PIECE {
            len = 0;
            let mut next = again.try_recv().unwrap_or_default();
            next.clear();
            if batches.send(std::mem::replace(&mut batch, next)).await.is_err() {
                break;
            }
        }
    }
    let _ = batches.send(batch).await;
    drop(batches);
    keeping.await.map_err(SideError::new)
}

/// Puts what comes together to pieces, until nobody takes them any more.
async fn pass_on(
    recv: &mut RecvStream,
    pieces: Sender<Vec<u8>>,
    mut empty: impl FnMut() -> Vec<u8>,
) -> Result<(), SideError> {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let mut piece = empty();
    while let Some(read) = recv.read_chunks(&mut chunks).await.map_err(SideError::new)? {
        chunks[..read].iter().for_each(|chunk| piece.extend_from_slice(chunk));
        if piece.len() >= PIECE
            && pieces.send(std::mem::replace(&mut piece, empty())).await.is_err()
        {
            return Ok(());
        }
    }
    let _ = pieces.send(piece).await;
    Ok(())
}

/// Pushes what is held over every connection at once, until the last one has acknowledged it.
///
/// # Errors
/// [`SideError`].
pub async fn spread(connections: &[Connection], store: &Store) -> Result<(), SideError> {
    let each = connections.iter().map(|connection| async move {
        let (mut send, mut recv) = connection.open_bi().await.map_err(SideError::new)?;
        send.write_all(&[PUSH]).await.map_err(SideError::new)?;
        store.write(&mut send).await?;
        let mut answer = [0];
        recv.read_exact(&mut answer).await.map_err(SideError::new)
    });
    try_join_all(each).await.map(|_| ())
}
