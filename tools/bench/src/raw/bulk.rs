//! Objects over plain QUIC: asked for by one byte, or pushed behind one, each on a stream of its own. Where digests are
//! made, the one of an object stands before it, as the reference to a transfer says it before any byte, and what comes is
//! held against it.

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
use cellbus_proto::transfer::{Digest, Digester};
use futures_util::future::try_join_all;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc::{Receiver, channel};

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
    hashes: bool,
    held: Arc<OnceLock<Held>>,
    written: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Held {
    /// With its digest, where digests are made.
    Memory(Bytes, Option<Digest>),
    File(PathBuf),
}

impl Store {
    /// Holds nothing so far. Says a digest with what it sends where it `hashes`.
    #[must_use]
    pub fn new(hashes: bool) -> Self {
        Self { hashes, ..Self::default() }
    }

    /// Holds `size` random bytes, in memory or in a file in `directory`.
    ///
    /// # Errors
    /// [`SideError`].
    pub fn hold(&self, size: u64, file: bool, directory: &Path) -> Result<(), SideError> {
        let held = match file {
            true => Held::File(object::write(directory, size)?),
            false => {
                let bytes = payload(size)?;
                let digest = self.hashes.then(|| Digest::of(&bytes));
                Held::Memory(bytes, digest)
            }
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

    /// The digest that is known; none where none are made.
    fn digest(&self) -> Option<Digest> {
        match self.held.get() {
            Some(Held::Memory(_, digest)) => *digest,
            Some(Held::File(_)) | None => None,
        }
    }

    /// The digest as of an object that nobody has seen before.
    async fn digest_anew(&self) -> Result<Option<Digest>, SideError> {
        let Some(Held::Memory(bytes, Some(_))) = self.held.get() else { return Ok(None) };
        let bytes = bytes.clone();
        let made = tokio::task::spawn_blocking(move || Digest::of(&bytes));
        made.await.map(Some).map_err(SideError::new)
    }

    async fn write(&self, send: &mut SendStream, digest: Option<Digest>) -> Result<(), SideError> {
        if let Some(digest) = digest {
            send.write_all(digest.as_bytes()).await.map_err(SideError::new)?;
        }
        match self.held.get() {
            None => return Err(SideError::text("nothing is held")),
            Some(Held::Memory(bytes, _)) => {
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

/// Serves one stream: gives what is held, or takes what is pushed, and acknowledges it by one byte.
pub async fn serve(mut send: SendStream, mut recv: RecvStream, store: Store) -> Option<()> {
    let mut asked = [0];
    recv.read_exact(&mut asked).await.ok()?;
    match asked {
        [PULL] => store.write(&mut send, store.digest()).await.ok(),
        _pushed => {
            let wanted = declared(&mut recv, store.hashes).await.ok()?;
            drain(&mut recv, wanted).await.ok()?;
            send.write_all(&asked).await.ok()?;
            send.finish().ok()
        }
    }
}

/// The digest that stands before an object, where digests are made.
async fn declared(recv: &mut RecvStream, hashes: bool) -> Result<Option<Digest>, SideError> {
    if !hashes {
        return Ok(None);
    }
    let mut digest = [0; 32];
    recv.read_exact(&mut digest).await.map_err(SideError::new)?;
    Ok(Some(Digest::from_bytes(digest)))
}

/// Pulls one object into `directory`, if it is for a file, of which no digest is made; what else comes goes through BLAKE3
/// where `store` makes digests.
///
/// # Errors
/// [`SideError`], also when it has not `size` bytes, or another digest than was said.
pub async fn pull(
    connection: &Connection,
    size: u64,
    keep: Keep,
    store: &Store,
    directory: &Path,
) -> Result<(), SideError> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(SideError::new)?;
    send.write_all(&[PULL]).await.map_err(SideError::new)?;
    send.finish().map_err(SideError::new)?;
    let wanted = declared(&mut recv, store.hashes && keep != Keep::File).await?;
    let got = match keep {
        Keep::Drop => drain(&mut recv, wanted).await?,
        Keep::Keep => self::keep(&mut recv, size, wanted).await?,
        Keep::File => self::store(&mut recv, directory.join(object::GOT)).await?,
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
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let mut piece = Vec::with_capacity(PIECE);
    while let Some(read) = recv.read_chunks(&mut chunks).await.map_err(SideError::new)? {
        chunks[..read].iter().for_each(|chunk| piece.extend_from_slice(chunk));
        if piece.len() >= PIECE {
            let full = std::mem::replace(&mut piece, Vec::with_capacity(PIECE));
            // Why nobody takes it is what the writing ends with.
            if pieces.send(full).await.is_err() {
                break;
            }
        }
    }
    let _ = pieces.send(piece).await;
    drop(pieces);
    writing.await.map_err(SideError::new)?.map_err(SideError::new)
}

/// Reads to the end; what comes goes through BLAKE3 while it is warm, where a digest is `wanted`.
async fn drain(recv: &mut RecvStream, wanted: Option<Digest>) -> Result<u64, SideError> {
    let (mut digester, mut all) = (Digester::default(), 0);
    each_read(recv, |chunks| {
        all += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        if wanted.is_some() {
            chunks.iter().for_each(|chunk| digester.update(chunk));
        }
    })
    .await?;
    is_as_declared(&digester, wanted).map(|()| all)
}

/// Puts what comes together in one piece of memory, which is hashed as it grows where a digest is `wanted`.
async fn keep(recv: &mut RecvStream, size: u64, wanted: Option<Digest>) -> Result<u64, SideError> {
    let mut digester = Digester::default();
    let mut kept = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    each_read(recv, |chunks| {
        let from = kept.len();
        chunks.iter().for_each(|chunk| kept.extend_from_slice(chunk));
        if wanted.is_some() {
            digester.update(&kept[from..]);
        }
    })
    .await?;
    is_as_declared(&digester, wanted).map(|()| std::hint::black_box(&kept).len() as u64)
}

fn is_as_declared(digester: &Digester, wanted: Option<Digest>) -> Result<(), SideError> {
    match wanted {
        Some(wanted) if digester.finish() != wanted => Err(SideError::text("other bytes came")),
        Some(_) | None => Ok(()),
    }
}

/// Hands over what each read yields, to the end.
async fn each_read(recv: &mut RecvStream, mut each: impl FnMut(&[Bytes])) -> Result<(), SideError> {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    while let Some(read) = recv.read_chunks(&mut chunks).await.map_err(SideError::new)? {
        each(&chunks[..read]);
    }
    Ok(())
}

/// Pushes what is held over every connection at once, until the last one has acknowledged it.
///
/// # Errors
/// [`SideError`].
pub async fn spread(connections: &[Connection], store: &Store) -> Result<(), SideError> {
    let digest = store.digest_anew().await?;
    let each = connections.iter().map(|connection| async move {
        let (mut send, mut recv) = connection.open_bi().await.map_err(SideError::new)?;
        send.write_all(&[PUSH]).await.map_err(SideError::new)?;
        store.write(&mut send, digest).await?;
        let mut answer = [0];
        recv.read_exact(&mut answer).await.map_err(SideError::new)
    });
    try_join_all(each).await.map(|_| ())
}
