//! A connection to a neighbour, whatever carries it: QUIC, or memory within one process.
//!
//! Both give the same: who is at the other end (from its certificate), streams in either direction,
//! and a value that only the two ends of this connection share. Everything above is the same code.

use std::sync::{Arc, PoisonError, RwLock, atomic::AtomicU64};

use bytes::Bytes;
use cellbus_proto::identity::Identity;

use crate::certificate::{CertDates, CertificateError, LeafHash, identity_of, leaf_hash};

mod halves;
pub mod memory;
mod pace;
mod quic;

pub(crate) use self::pace::LinkPace;

/// Who is at the other end of a connection, and what binds this to the connection.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// What its certificate says.
    pub identity: Identity,
    /// When its certificate begins and ends.
    pub dates: CertDates,
    /// The chain that it presented, leaf first, DER.
    pub chain: Vec<Bytes>,
    /// SHA-256 of the leaf.
    pub leaf: LeafHash,
    /// Exporter of the TLS session (RFC 9266): the same at both ends, and nowhere else.
    pub exporter: [u8; 32],
}

/// Why a connection has no peer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No certificate was presented.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The certificate gives no identity.
    #[error("the certificate of the peer")]
    Certificate(#[from] CertificateError),
    /// The TLS session gives no exporter.
    #[error("the TLS session gives no exporter")]
    NoExporter,
}

impl PeerFacts {
    /// Reads the facts from a presented chain.
    ///
    /// # Errors
    /// [`PeerError`] when the leaf is missing or gives no identity.
    pub fn new(chain: Vec<Bytes>, exporter: [u8; 32]) -> Result<Self, PeerError> {
        let leaf = chain.first().ok_or(PeerError::NoCertificate)?;
        let (identity, dates) = identity_of(leaf)?;
        Ok(Self { identity, dates, leaf: leaf_hash(leaf), exporter, chain })
    }
}

fn live(peer: PeerFacts) -> Arc<RwLock<Arc<PeerFacts>>> {
    Arc::new(RwLock::new(Arc::new(peer)))
}

/// One connection. Clones are the same connection.
#[derive(Clone, Debug)]
pub struct Connection {
    carrier: Carrier,
    peer: Arc<RwLock<Arc<PeerFacts>>>,
}

#[derive(Clone, Debug)]
enum Carrier {
    Quic(quinn::Connection),
    Memory(memory::End),
}

/// The writing half of a stream. Dropped without [`Self::finish`], it is reset, so that a sender that
/// dies leaves no short message behind.
#[derive(Debug)]
pub struct SendStream(SendHalf, Option<pace::Paced>);

#[derive(Debug)]
enum SendHalf {
    Quic(quic::Guarded),
    Memory(memory::Writer),
}

/// The reading half of a stream.
#[derive(Debug)]
pub enum RecvStream {
    /// Over the network.
    Quic(quic::Reader),
    /// Within this process.
    Memory(memory::Reader),
}

/// The connection, or the stream, is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lost(pub String);

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The neighbour closed it, with this code and text.
    ByPeer(CloseCode, String),
    /// This end closed it.
    Here,
    /// It broke: silence, reset, transport error.
    Broken(String),
}

/// Why a connection is closed; the number travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    /// Both are done.
    Done = 0,
    /// The closer is going away, or not ready yet; come back later.
    Later = 1,
    /// A newer start of the same cell has taken over.
    Superseded = 2,
    /// The neighbour was silent for too long.
    HeartbeatLost = 3,
    /// The neighbour did what its turn did not allow, or sent what is no frame.
    Protocol = 4,
    /// The neighbour is not let in. Says no more, so that a probe learns nothing.
    Unauthenticated = 5,
    /// The name is held by another process.
    Duplicate = 6,
    /// The neighbour took nothing for too long while something waited for it.
    SlowConsumer = 7,
    /// A number that this version does not know.
    Other = 255,
}

impl CloseCode {
    /// The code with this number.
    #[must_use]
    pub fn from_wire(number: u64) -> Self {
        const KNOWN: [CloseCode; 8] = [
            CloseCode::Done,
            CloseCode::Later,
            CloseCode::Superseded,
            CloseCode::HeartbeatLost,
            CloseCode::Protocol,
            CloseCode::Unauthenticated,
            CloseCode::Duplicate,
            CloseCode::SlowConsumer,
        ];
        KNOWN.into_iter().find(|code| u64::from(*code as u32) == number).unwrap_or(Self::Other)
    }
}

/// What the transport knows about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CarrierStats {
    /// Smoothed round trip, in microseconds.
    pub rtt_us: u64,
    /// Bytes of datagrams sent.
    pub sent_bytes: u64,
    /// Bytes of datagrams received.
    pub received_bytes: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// Largest datagram in use.
    pub mtu: u16,
    /// How often datagrams of that size no longer arrived, and became the smallest for a minute.
    pub black_holes: u64,
}

impl Connection {
    /// Wraps an established QUIC connection.
    ///
    /// # Errors
    /// [`PeerError`] when the session does not say who the peer is.
    pub fn quic(connection: quinn::Connection) -> Result<Self, PeerError> {
        let peer = quic::peer_facts(&connection)?;
        Ok(Self { carrier: Carrier::Quic(connection), peer: live(peer) })
    }

    /// Wraps one end of a connection within this process.
    #[must_use]
    pub fn memory(end: memory::End, peer: PeerFacts) -> Self {
        Self { carrier: Carrier::Memory(end), peer: live(peer) }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> Arc<PeerFacts> {
        Arc::clone(&self.peer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The peer has proven another certificate on this connection.
    pub(crate) fn set_peer(&self, peer: PeerFacts) {
        *self.peer.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(peer);
    }

    /// Opens a stream that carries bytes both ways: the control stream first of all, then one for every
    /// conduit.
    ///
    /// # Errors
    /// [`Lost`] when the connection is gone, or the peer grants no stream within five seconds.
    pub async fn open_both_ways(&self) -> Result<(SendStream, RecvStream), Lost> {
        match &self.carrier {
            Carrier::Quic(connection) => quic::open_bi(connection).await,
            Carrier::Memory(end) => end.open_bi(),
        }
    }

    /// Waits for a stream of the peer that carries bytes both ways.
    ///
    /// # Errors
    /// [`Lost`] when the connection is gone.
    pub async fn accept_both_ways(&self) -> Result<(SendStream, RecvStream), Lost> {
        match &self.carrier {
            Carrier::Quic(connection) => quic::accept_bi(connection).await,
            Carrier::Memory(end) => end.accept_bi().await,
        }
    }

    /// Opens a one-way stream.
    ///
    /// # Errors
    /// [`Lost`] when the connection is gone, or the peer grants no stream within five seconds.
    pub async fn open_lane(&self) -> Result<SendStream, Lost> {
        match &self.carrier {
            Carrier::Quic(connection) => quic::open_uni(connection).await,
            Carrier::Memory(end) => end.open_uni(),
        }
    }

    /// Waits for a one-way stream of the peer.
    ///
    /// # Errors
    /// [`Lost`] when the connection is gone.
    pub async fn accept_lane(&self) -> Result<RecvStream, Lost> {
        match &self.carrier {
            Carrier::Quic(connection) => quic::accept_uni(connection).await,
            Carrier::Memory(end) => end.accept_uni().await,
        }
    }

    /// Closes the connection for both.
    pub fn close(&self, code: CloseCode, reason: &str) {
        match &self.carrier {
            Carrier::Quic(connection) => {
                connection.close(quinn::VarInt::from_u32(code as u32), reason.as_bytes());
            }
            Carrier::Memory(end) => end.close(code, reason),
        }
    }

    /// Waits for the end of the connection.
    pub async fn ended(&self) -> End {
        match &self.carrier {
            Carrier::Quic(connection) => quic::end_of(connection.closed().await),
            Carrier::Memory(end) => end.ended().await,
        }
    }

    /// What the transport knows.
    #[must_use]
    pub fn stats(&self) -> CarrierStats {
        match &self.carrier {
            Carrier::Quic(connection) => quic::stats(connection),
            Carrier::Memory(_) => CarrierStats::default(),
        }
    }
}

impl SendStream {
    /// Writes all of `chunks`, in order.
    ///
    /// # Errors
    /// [`Lost`] when the stream or the connection is gone.
    pub async fn write_all(&mut self, chunks: &mut [Bytes]) -> Result<(), Lost> {
        match &mut self.0 {
            SendHalf::Quic(stream) => stream.write_all(chunks).await,
            SendHalf::Memory(writer) => writer.write_all(chunks).await,
        }
    }

    /// Adds to `bytes` what is handed to the transport from now on.
    pub fn count_into(&mut self, bytes: Arc<AtomicU64>) {
        match &mut self.0 {
            SendHalf::Quic(stream) => stream.count_into(bytes),
            SendHalf::Memory(writer) => writer.count_into(bytes),
        }
    }

    /// Bytes that the transport has taken so far, or that [`Self::count_into`] was given.
    #[must_use]
    pub fn taken(&self) -> Arc<AtomicU64> {
        match &self.0 {
            SendHalf::Quic(stream) => stream.taken(),
            SendHalf::Memory(writer) => writer.taken(),
        }
    }

    /// Ends the stream after everything that was written, and waits until the peer has all of it, or
    /// wants no more.
    pub async fn finish(self) {
        match self.0 {
            SendHalf::Quic(stream) => stream.finish().await,
            SendHalf::Memory(writer) => writer.finish().await,
        }
    }

    /// Larger goes first among the streams of a connection.
    pub fn set_priority(&self, priority: i32) {
        if let SendHalf::Quic(stream) = &self.0 {
            stream.set_priority(priority);
        }
    }
}

impl RecvStream {
    /// The next bytes, at most `max`; `None` at the end of the stream.
    ///
    /// # Errors
    /// [`Lost`] when the peer reset the stream, or the connection is gone.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, Lost> {
        match self {
            Self::Quic(reader) => reader.read_chunk(max).await,
            Self::Memory(reader) => reader.read_chunk().await,
        }
    }

    /// The next bytes, in pieces, each at most as long as a datagram carries; none at the end of the
    /// stream.
    ///
    /// # Errors
    /// [`Lost`] when the peer reset the stream, or the connection is gone.
    pub async fn read_chunks(&mut self, pieces: &mut Pieces) -> Result<usize, Lost> {
        match self {
            Self::Quic(reader) => reader.read_chunks(&mut pieces.0).await,
            Self::Memory(reader) => {
                let chunk = reader.read_chunk().await?;
                Ok(chunk.map_or(0, |chunk| {
                    pieces.0[0] = chunk;
                    1
                }))
            }
        }
    }
}

/// Room for what one read yields.
#[derive(Debug)]
pub struct Pieces([Bytes; Pieces::MAX]);

impl Pieces {
    /// Pieces of one read.
    pub const MAX: usize = 32;

    /// The first `count` of them.
    pub fn take(&mut self, count: usize) -> impl Iterator<Item = Bytes> {
        self.0[..count].iter_mut().map(std::mem::take)
    }
}

impl Default for Pieces {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Bytes::new()))
    }
}
