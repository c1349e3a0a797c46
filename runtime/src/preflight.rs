//! Reaches a parent as a cell would, up to the point at which it would register, and no further.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use cellbus_proto::{
    clock_offset::ClockOffset,
    codec::{
        Decoder, Encoder, Frame, FrameLimits, Octets,
        body::{FEATURE_CLOCK, Hello, VERSION, WireIncarnation},
    },
    identity::Identity,
    name::{Fqcn, Segment},
};

use crate::{
    authority::Credentials,
    carrier::{DialError, DialTarget},
    clock::{self, WallClock},
    conn::{CloseCode, Connection, End},
    counters::Counters,
    quic::{Checks, QuicPort, QuicPortError},
    quic_settings::{QuicSettings, QuicTransport},
};

/// Whom to reach, and as whom.
#[derive(Clone, Debug)]
pub struct Errand {
    /// Full name of the cell that would register.
    pub own: Fqcn,
    /// Base name of its parent.
    pub parent: Segment,
    /// Full name of its parent.
    pub parent_path: Fqcn,
    /// Where the parent is found.
    pub target: DialTarget,
    /// Time for each step.
    pub patience: Duration,
}

/// How far it came.
#[derive(Debug)]
pub struct Reached {
    /// Who the parent is, by its certificate.
    pub parent: Identity,
    /// First second of the parent's certificate.
    pub parent_not_before: u64,
    /// Time of the handshake.
    pub handshake: Duration,
    /// Bytes of the largest packet that passed.
    pub mtu: u16,
    /// Whether the parent took this cell for a child of its own; and where it says what time it is, how far its clock is from
    /// this machine's.
    pub hello: Result<Option<ClockOffset>, HelloRefused>,
}

/// Why a parent did not greet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelloRefused {
    /// It closed the connection.
    #[error("the parent closed the connection{}", said(.0))]
    Closed(String),
    /// It said nothing.
    #[error("the parent said nothing")]
    Silent,
    /// It said something else.
    #[error("the parent answered with something else")]
    Strange,
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// Why a parent was not reached at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No port can be opened here.
    #[error(transparent)]
    Port(#[from] QuicPortError),
    /// The name of its machine cannot be resolved.
    #[error(transparent)]
    Resolve(DialError),
    /// It answers, and one of the two does not accept the other.
    #[error(transparent)]
    Refused(DialError),
    /// Nothing answers.
    #[error("no answer within {0:?}")]
    Unanswered(Duration),
}

/// Dials the parent, greets it, and leaves. Nothing is registered, and no cell that runs is disturbed.
///
/// # Errors
/// [`ProbeError`] when there is no connection.
pub async fn probe(credentials: &Credentials, errand: &Errand) -> Result<Reached, ProbeError> {
    let wall = WallClock::system();
    let checks = Checks { wall, counters: Arc::new(Counters::default()) };
    // Whether what an Ethernet carries passes is soon found out; what is larger takes attempts that are lost.
    let settings = QuicSettings { mtu_upper_bound: None, ..QuicSettings::default() };
    let transport = QuicTransport::new(settings).map_err(QuicPortError::from)?;
    let port = QuicPort::dialling(&transport, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
    let dial = port.dial_parent(credentials, &errand.parent, errand.target.clone(), &checks)?;
    let begun = clock::now();
    let dialled = tokio::time::timeout(errand.patience, dial.dial()).await;
    let connection = match dialled {
        Err(_) => return Err(ProbeError::Unanswered(errand.patience)),
        Ok(Err(error @ DialError::Resolve { .. })) => return Err(ProbeError::Resolve(error)),
        Ok(Err(DialError::Handshake(quinn::ConnectionError::TimedOut))) => {
            return Err(ProbeError::Unanswered(errand.patience));
        }
        Ok(Err(error)) => return Err(ProbeError::Refused(error)),
        Ok(Ok(connection)) => connection,
    };
    let handshake = clock::now().saturating_duration_since(begun);
    let greeted = tokio::time::timeout(errand.patience, greet(&connection, errand, wall)).await;
    let hello = greeted.unwrap_or(Err(HelloRefused::Silent));
    let mtu = largest_packet(&connection, errand.patience).await;
    let peer = connection.peer();
    connection.close(CloseCode::Done, "");
    // What is not said by then, the parent finds out.
    let _ = tokio::time::timeout(errand.patience, port.wait_idle()).await;
    Ok(Reached {
        parent: peer.identity.clone(),
        parent_not_before: peer.dates.not_before,
        handshake,
        mtu,
        hello,
    })
}

/// Says HELLO and waits for its answer.
async fn greet(
    connection: &Connection,
    errand: &Errand,
    wall: WallClock,
) -> Result<Option<ClockOffset>, HelloRefused> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| HelloRefused::Random)?;
    let lost = |_| HelloRefused::Closed(String::new());
    let (mut send, mut recv) = connection.open_both_ways().await.map_err(lost)?;
    let hello = Frame::Hello(Hello {
        version_min: VERSION,
        version_max: VERSION,
        features: vec![FEATURE_CLOCK.to_owned()],
        name: errand.own.clone(),
        parent: errand.parent_path.clone(),
        incarnation: WireIncarnation(1, 0),
        nonce: Octets(nonce),
    });
    let mut bytes = BytesMut::new();
    let payload = Encoder::new().encode(&hello, &mut bytes);
    let mut chunks = vec![bytes.freeze()];
    chunks.extend(payload);
    let sent_ms = wall.unix_ms();
    send.write_all(&mut chunks).await.map_err(lost)?;
    let mut decoder = Decoder::new(FrameLimits::BEFORE_HELLO);
    loop {
        let chunk = match recv.read_chunk(64 << 10).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) | Err(_) => return Err(closed(connection).await),
        };
        let mut answer = None;
        let fed = decoder.feed(chunk, |frame| {
            let said = if let Frame::HelloOk(ok) = frame { Some(ok.unix_ms) } else { None };
            answer.get_or_insert(said);
            true
        });
        match (answer, fed) {
            (Some(Some(said)), _) => {
                let measured = |said| ClockOffset::measured(sent_ms, wall.unix_ms(), said);
                return Ok(said.map(measured));
            }
            (Some(None), _) | (None, Err(_)) => return Err(HelloRefused::Strange),
            (None, Ok(_)) => {}
        }
    }
}

async fn closed(connection: &Connection) -> HelloRefused {
    match connection.ended().await {
        End::ByPeer(_, text) | End::Broken(text) => HelloRefused::Closed(text),
        End::Here => HelloRefused::Silent,
    }
}

/// What path discovery finds within a second, or less.
async fn largest_packet(connection: &Connection, patience: Duration) -> u16 {
    const STEP: Duration = Duration::from_millis(50);
    const ENOUGH: u16 = 1400;
    let until = clock::now() + patience.min(Duration::from_secs(1));
    loop {
        let mtu = connection.stats().mtu;
        if mtu >= ENOUGH || clock::now() >= until {
            return mtu;
        }
        tokio::time::sleep(STEP).await;
    }
}
