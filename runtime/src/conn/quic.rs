//! Connections over QUIC.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, VarInt};
use rustls_pki_types::CertificateDer;

use super::{
    CarrierStats, CloseCode, End, Lost, PeerError, PeerFacts, RecvStream, SendHalf, SendStream,
};

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
    Ok((guarded(send), RecvStream::Quic(recv)))
}

pub(super) async fn accept_bi(connection: &Connection) -> Result<(SendStream, RecvStream), Lost> {
    let (send, recv) = connection.accept_bi().await.map_err(|error| Lost(error.to_string()))?;
    Ok((guarded(send), RecvStream::Quic(recv)))
}

pub(super) async fn open_uni(connection: &Connection) -> Result<SendStream, Lost> {
    let opened = in_time(connection.open_uni()).await?;
    opened.map(guarded).map_err(|error| Lost(error.to_string()))
}

pub(super) async fn accept_uni(connection: &Connection) -> Result<RecvStream, Lost> {
    let accepted = connection.accept_uni().await;
    accepted.map(RecvStream::Quic).map_err(|error| Lost(error.to_string()))
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
    }
}

fn guarded(stream: quinn::SendStream) -> SendStream {
    SendStream(SendHalf::Quic(Guarded { stream, committed: false, written: Arc::default() }))
}

/// A stream that is reset when it is dropped before it was finished: for quinn, dropping one is a clean
/// end, which a reader cannot tell from a sender that meant it.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: quinn::SendStream,
    committed: bool,
    /// Bytes that the transport has taken.
    written: Arc<AtomicU64>,
}

impl Guarded {
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
            let _ = self.stream.reset(VarInt::from_u32(CloseCode::Protocol as u32));
        }
    }
}
