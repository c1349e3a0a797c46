//! Connections over QUIC.

use std::{
    collections::VecDeque,
    fmt,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::Broken;
use quinn::{Connection, ConnectionError, ReadError, StoppedError, VarInt, WriteError};
use rustls_pki_types::CertificateDer;

use super::{
    CarrierStats, CloseCode, End, Lost, PeerError, PeerFacts, RecvStream, SendHalf, SendStream,
    halves::{broken_of, code_of},
};

/// Pieces of a conduit that one read yields at most; each is as long as a datagram carries.
const PIECES: usize = 64;

/// Opening a stream waits for the peer's credit; a peer that gives none must not hold a task for ever.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);

/// Label of the exporter that binds a signature to a TLS session.
///
/// # Source
/// RFC 9266 section 2: this label, no context, 32 bytes.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

pub(super) fn peer_facts(connection: &Connection) -> Result<PeerFacts, PeerError> {
    let identity = connection.peer_identity().ok_or(PeerError::NoCertificate)?;
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| PeerError::NoCertificate)?;
    let chain = chain.iter().map(|der| Bytes::copy_from_slice(der)).collect();
    let mut exporter = [0; 32];
    connection
        .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
        .map_err(|_| PeerError::NoExporter)?;
    PeerFacts::new(chain, exporter)
}

pub(super) async fn open_bi(connection: &Connection) -> Result<(SendStream, RecvStream), Lost> {
    let opened = in_time(connection.open_bi()).await?;
    let (send, recv) = opened.map_err(|error| Lost(error.to_string()))?;
    Ok((guarded(send), reader(recv)))
}

pub(super) async fn accept_bi(connection: &Connection) -> Result<(SendStream, RecvStream), Lost> {
    let (send, recv) = connection.accept_bi().await.map_err(|error| Lost(error.to_string()))?;
    Ok((guarded(send), reader(recv)))
}

pub(super) async fn open_uni(connection: &Connection) -> Result<SendStream, Lost> {
    let opened = in_time(connection.open_uni()).await?;
    opened.map(guarded).map_err(|error| Lost(error.to_string()))
}

pub(super) async fn accept_uni(connection: &Connection) -> Result<RecvStream, Lost> {
    let accepted = connection.accept_uni().await;
    accepted.map(reader).map_err(|error| Lost(error.to_string()))
}

async fn in_time<F: Future>(open: F) -> Result<F::Output, Lost> {
    let opened = tokio::time::timeout(OPEN_DEADLINE, open).await;
    opened.map_err(|_| Lost("the peer grants no stream".to_owned()))
}

pub(super) fn end_of(error: ConnectionError) -> End {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = CloseCode::from_wire(close.error_code.into_inner());
            let text = String::from_utf8_lossy(&close.reason[..close.reason.len().min(200)]);
            End::ByPeer(code, text.chars().flat_map(char::escape_debug).collect())
        }
        ConnectionError::LocallyClosed => End::Here,
        other @ (ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::CidsExhausted) => End::Broken(other.to_string()),
    }
}

pub(super) fn stats(connection: &Connection) -> CarrierStats {
    let stats = connection.stats();
    CarrierStats {
        rtt_us: u64::try_from(stats.path.rtt.as_micros()).unwrap_or(u64::MAX),
        sent_bytes: stats.udp_tx.bytes,
        received_bytes: stats.udp_rx.bytes,
        lost_packets: stats.path.lost_packets,
        mtu: stats.path.current_mtu,
        black_holes: stats.path.black_holes_detected,
    }
}

fn guarded(stream: quinn::SendStream) -> SendStream {
    let half = Guarded {
        stream,
        committed: false,
        drop_code: CloseCode::Protocol as u32,
        written: Arc::default(),
        stopped: Stopped::Unasked,
    };
    SendStream(SendHalf::Quic(half), None)
}

fn reader(stream: quinn::RecvStream) -> RecvStream {
    RecvStream::Quic(Reader { stream, drop_code: None })
}

/// A stream that is reset when it is dropped before it was finished: for quinn, dropping one is a clean
/// end, which a reader cannot tell from a sender that meant it.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: quinn::SendStream,
    committed: bool,
    /// What the peer is told when the stream is dropped before it was finished.
    drop_code: u32,
    /// Bytes that the transport has taken.
    written: Arc<AtomicU64>,
    stopped: Stopped,
}

/// Whether the peer has said that it wants no more of a stream.
enum Stopped {
    Unasked,
    Asked(Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>),
    /// It has everything.
    Never,
    By(Broken),
}

impl fmt::Debug for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopped")
    }
}

impl Guarded {
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut VecDeque<Bytes>,
    ) -> Poll<Result<(), Broken>> {
        while !chunks.is_empty() {
            // What the write has to remember is in the stream and in the chunks.
            let polled = pin!(self.stream.write_chunks(chunks.make_contiguous())).poll(cx);
            let written = match ready!(polled) {
                Ok(written) => written,
                Err(WriteError::Stopped(code)) => {
                    return Poll::Ready(Err(broken_of(code.into_inner())));
                }
                Err(WriteError::ClosedStream) => return Poll::Ready(Err(Broken::Cancelled)),
                Err(WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected) => {
                    return Poll::Ready(Err(Broken::Lost));
                }
            };
            self.written.fetch_add(written.bytes as u64, Ordering::Relaxed);
            chunks.drain(..written.chunks);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        loop {
            self.stopped = match &mut self.stopped {
                Stopped::Unasked => Stopped::Asked(Box::pin(self.stream.stopped())),
                Stopped::Asked(asked) => match ready!(asked.as_mut().poll(cx)) {
                    Ok(Some(code)) => Stopped::By(broken_of(code.into_inner())),
                    Ok(None) => Stopped::Never,
                    Err(_lost) => Stopped::By(Broken::Lost),
                },
                Stopped::Never => return Poll::Pending,
                Stopped::By(broken) => return Poll::Ready(*broken),
            }
        }
    }

    pub(super) fn finish_now(&mut self) {
        // Fails only on a stream that has ended already.
        self.committed |= self.stream.finish().is_ok();
    }

    pub(super) fn reset_with(&mut self, why: Broken) {
        self.committed = true;
        // Fails only on a stream that has ended already.
        let _ = self.stream.reset(VarInt::from_u32(code_of(why)));
    }

    pub(super) fn reset_when_dropped(&mut self, why: Broken) {
        self.drop_code = code_of(why);
    }

    pub(super) async fn write_all(&mut self, chunks: &mut [Bytes]) -> Result<(), Lost> {
        let mut left = chunks;
        while !left.is_empty() {
            let written = self.stream.write_chunks(left).await;
            let written = written.map_err(|error| Lost(error.to_string()))?;
            self.written.fetch_add(written.bytes as u64, Ordering::Relaxed);
            left = &mut left[written.chunks..];
        }
        Ok(())
    }

    pub(super) fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.written)
    }

    pub(super) fn count_into(&mut self, bytes: Arc<AtomicU64>) {
        self.written = bytes;
    }

    pub(super) async fn finish(mut self) {
        self.committed = self.stream.finish().is_ok();
        // What is closed before it was acknowledged is lost. Fails only with the connection.
        let _ = self.stream.stopped().await;
    }

    pub(super) fn set_priority(&self, priority: i32) {
        // Fails only on a stream that is gone, whose next write says so.
        let _ = self.stream.set_priority(priority);
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !self.committed {
            // Fails only on a stream that has ended already.
            let _ = self.stream.reset(VarInt::from_u32(self.drop_code));
        }
    }
}

/// A stream that is read.
#[derive(Debug)]
pub struct Reader {
    stream: quinn::RecvStream,
    /// What the peer is told when the stream is dropped before its end, where that has been decided on.
    drop_code: Option<u32>,
}

impl Reader {
    pub(super) async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, Lost> {
        match self.stream.read_chunk(max, true).await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(error) => Err(Lost(error.to_string())),
        }
    }

    pub(super) async fn read_chunks(&mut self, pieces: &mut [Bytes]) -> Result<usize, Lost> {
        match self.stream.read_chunks(pieces).await {
            Ok(count) => Ok(count.unwrap_or(0)),
            Err(error) => Err(Lost(error.to_string())),
        }
    }

    pub(super) fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, Broken>> {
        let mut pieces: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
        // What the read has to remember is in the stream.
        let polled = pin!(self.stream.read_chunks(&mut pieces)).poll(cx);
        Poll::Ready(match ready!(polled) {
            Ok(Some(count)) => {
                into.extend(pieces.into_iter().take(count));
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(ReadError::Reset(code)) => Err(broken_of(code.into_inner())),
            Err(ReadError::ClosedStream) => Err(Broken::Cancelled),
            Err(
                ReadError::ConnectionLost(_)
                | ReadError::IllegalOrderedRead
                | ReadError::ZeroRttRejected,
            ) => Err(Broken::Lost),
        })
    }

    pub(super) fn stop_with(&mut self, why: Broken) {
        // Fails only on a stream that has ended already.
        let _ = self.stream.stop(VarInt::from_u32(code_of(why)));
        self.drop_code = None;
    }

    pub(super) fn stop_when_dropped(&mut self, why: Broken) {
        self.drop_code = Some(code_of(why));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(code) = self.drop_code {
            // Fails on a stream that has ended already.
            let _ = self.stream.stop(VarInt::from_u32(code));
        }
    }
}
