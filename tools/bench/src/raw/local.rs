//! Frames over a Unix socket and from there over plain QUIC: the limit of job code that speaks through its cell.
//!
//! In the pattern of one stream for every request, each caller has a socket to itself, on which it writes and reads
//! without another task; in the other one, all callers share one socket, whose bytes are one stream.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    calls::{FrameCall, StreamCall},
    frames::{CHUNKS, HEAD, PAYLOAD_MAX, encode},
};
use crate::{
    drive::{Call, Pace, closed_loop, payload},
    message::{Ask, Peer, SideSpec, Tell},
    side::{Inbox, SideError, say},
};

/// Name of the socket, below the directory of all sides.
const SOCKET: &str = "plain.sock";
/// Bytes that are read from the socket at once.
const READ: usize = 64 * 1024;

/// Requests over sockets of which every caller has one while it waits.
#[derive(Clone, Debug)]
struct SocketCall {
    path: PathBuf,
    free: Arc<Mutex<Vec<UnixStream>>>,
}

/// Passes what comes over the socket on over `up`, and the answers back.
pub(super) fn pass_on(directory: &Path, up: Connection, peer: Peer) -> Result<(), SideError> {
    let path = directory.join(SOCKET);
    // A process that was ended has left it.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(SideError::new(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(SideError::new)?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let up = up.clone();
            match peer {
                Peer::RawRrf => drop(tokio::spawn(splice(socket, up))),
                Peer::Cellbus | Peer::RawRr | Peer::Raw | Peer::RawDigest | Peer::RawDefaults => {
                    drop(tokio::spawn(one_by_one(socket, up)));
                }
            }
        }
    });
    Ok(())
}

/// Every frame on a stream of its own. `None` when one of the two is gone, which whoever asked finds out as well.
async fn one_by_one(mut socket: UnixStream, up: Connection) -> Option<()> {
    let (up, mut out) = (StreamCall(up), BytesMut::new());
    loop {
        let (number, payload) = read_frame(&mut socket).await.ok()?;
        let answer = up.call(payload).await.ok()?;
        encode(number, &answer, &mut out);
        socket.write_all(&out.split()).await.ok()?;
    }
}

/// Bytes as they come.
async fn splice(socket: UnixStream, up: Connection) -> Option<()> {
    let (recv, send) = socket.into_split();
    let (to, from) = up.open_bi().await.ok()?;
    tokio::spawn(down(from, send));
    self::up(recv, to).await
}

async fn up(mut recv: OwnedReadHalf, mut send: SendStream) -> Option<()> {
    let mut read = BytesMut::new();
    loop {
        read.reserve(READ);
        if recv.read_buf(&mut read).await.ok()? == 0 {
            return send.finish().ok();
        }
        send.write_chunk(read.split().freeze()).await.ok()?;
    }
}

async fn down(mut recv: RecvStream, mut send: OwnedWriteHalf) -> Option<()> {
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let mut out = BytesMut::new();
    while let Some(read) = recv.read_chunks(&mut chunks).await.ok()? {
        for chunk in &chunks[..read] {
            out.extend_from_slice(chunk);
        }
        send.write_all(&out.split()).await.ok()?;
    }
    Some(())
}

async fn read_frame(socket: &mut UnixStream) -> io::Result<(u32, Bytes)> {
    let mut head = [0; HEAD];
    socket.read_exact(&mut head).await?;
    let [a, b, c, d, number @ ..] = head;
    let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if len > PAYLOAD_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; len];
    socket.read_exact(&mut payload).await?;
    Ok((u32::from_be_bytes(number), payload.into()))
}

impl SocketCall {
    fn free(&self) -> std::sync::MutexGuard<'_, Vec<UnixStream>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call for SocketCall {
    async fn call(&self, payload: Bytes) -> Result<Bytes, String> {
        let free = self.free().pop();
        let socket = match free {
            Some(socket) => Ok(socket),
            None => UnixStream::connect(&self.path).await,
        };
        let mut socket = socket.map_err(|error| error.to_string())?;
        let mut out = BytesMut::new();
        encode(0, &payload, &mut out);
        socket.write_all(&out).await.map_err(|error| error.to_string())?;
        let answer = read_frame(&mut socket).await;
        let (_, answer) = answer.map_err(|error| error.to_string())?;
        self.free().push(socket);
        Ok(answer)
    }
}

/// Runs as job code until nobody asks any more.
///
/// # Errors
/// [`SideError`].
pub(super) async fn code(spec: &SideSpec, mut inbox: Inbox) -> Result<(), SideError> {
    let path = spec.state.parent().unwrap_or(&spec.state).join(SOCKET);
    say(&Tell::Ready { address: None });
    while let Some(ask) = inbox.recv().await {
        let Ask::Drive { fan: false, size, callers, warm_ms, window_ms, .. } = ask else {
            return Err(SideError::text("job code is asked for requests and for nothing else"));
        };
        let warm = Duration::from_millis(warm_ms);
        let pace = Pace { callers, warm, window: Duration::from_millis(window_ms) };
        let (payload, begun) = (payload(size)?, || say(&Tell::Begun));
        let driven = match spec.peer {
            Peer::RawRrf => {
                let socket = UnixStream::connect(&path).await.map_err(SideError::new)?;
                closed_loop(FrameCall::over_socket(socket), payload, pace, begun).await
            }
            Peer::RawRr | Peer::Raw | Peer::RawDigest | Peer::RawDefaults | Peer::Cellbus => {
                let call = SocketCall { path: path.clone(), free: Arc::default() };
                closed_loop(call, payload, pace, begun).await
            }
        };
        say(&Tell::Driven(driven));
    }
    Ok(())
}
