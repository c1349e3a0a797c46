//! A peer that does each step of the protocol only when it is told to, rightly or not.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::BytesMut;
use cellbus_proto::{
    bundle,
    codec::{Decoder, Encoder, Frame, FrameLimits},
    envelope::{Incarnation, Lane},
    name::Fqcn,
    token::Token,
};
use cellbus_runtime::clock::WallClock;
use quinn::{ConnectionError, Endpoint};
use tokio::{sync::mpsc, time::timeout};

use crate::{papers::Papers, target::Target};

pub mod conduits;
mod dialling;
mod handshake;
mod messages;
mod tickets;

pub(crate) use self::dialling::AnyServer;
pub use self::{
    dialling::{Dialling, endpoint},
    messages::Outcome,
    tickets::Tickets,
};

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// One raw connection to one cell.
pub struct RawPeer {
    /// The connection.
    pub connection: quinn::Connection,
    /// The certificate it was made with.
    pub papers: Papers,
    /// The name that this peer goes by.
    pub me: Fqcn,
    /// The cell at the other end.
    pub parent: Fqcn,
    /// The start of a process that it claims to be.
    pub incarnation: Incarnation,
    /// Drawn for this connection.
    pub nonce: [u8; 32],
    /// Exporter of this TLS session.
    pub exporter: [u8; 32],
    /// The session token, once it has one.
    pub token: Option<Token>,
    /// Whether it signs what must be signed, as an honest cell does.
    pub signs: bool,
    /// The clock that it signs by.
    pub wall: WallClock,
    sequence: u64,
    beats: u64,
    control: quinn::SendStream,
    encoder: Encoder,
    lanes: BTreeMap<Lane, (quinn::SendStream, Encoder)>,
    frames: mpsc::UnboundedReceiver<Frame>,
    stash: Vec<Frame>,
    lanes_in: tokio::task::JoinHandle<()>,
    _endpoint: Endpoint,
}

/// How the other end closed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// With a code of cellbus, and a text.
    Application(u64, String),
    /// By the transport, with its error code and a text.
    Transport(u64, String),
    /// Otherwise.
    Other(String),
}

impl Closed {
    /// A neighbour that is not let in.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::Application(5, String::new())
    }

    /// A registered neighbour that broke the protocol.
    #[must_use]
    pub fn protocol(code: cellbus_proto::status::Status) -> Self {
        Self::Application(4, code.code().to_owned())
    }

    /// What a connection error says.
    #[must_use]
    pub fn from_error(error: &ConnectionError) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let ConnectionError::ApplicationClosed(close) = error {
            return Self::Application(close.error_code.into_inner(), text(&close.reason));
        }
        if let ConnectionError::ConnectionClosed(close) = error {
            return Self::Transport(u64::from(close.error_code), text(&close.reason));
        }
        Self::Other(error.to_string())
    }
}

/// Waits for the end of a connection.
///
/// # Panics
/// When it does not end.
pub async fn closed(connection: &quinn::Connection) -> Closed {
    let error = timeout(PATIENCE, connection.closed()).await.expect("the connection is closed");
    Closed::from_error(&error)
}

impl RawPeer {
    /// Connects to `parent` with the papers of the provisioned cell `name`, and opens the control stream; nothing is
    /// sent on it yet.
    ///
    /// # Panics
    /// When the connection is refused.
    pub async fn connect(target: &Target, parent: &str, name: &str) -> Self {
        Self::connect_with(target, parent, name, &target.papers(name)).await
    }

    /// [`Self::connect`] with other papers than those of `name`.
    ///
    /// # Panics
    /// When the connection is refused.
    pub async fn connect_with(target: &Target, parent: &str, name: &str, papers: &Papers) -> Self {
        let me = target.full_name(name);
        let address = target.address(parent);
        Self::dial(papers, address, me, target.full_name(parent)).await
    }

    /// Connects to any address under any name.
    ///
    /// # Panics
    /// When the connection is refused.
    pub async fn dial(papers: &Papers, to: SocketAddr, me: Fqcn, parent: Fqcn) -> Self {
        let (connection, endpoint) =
            Dialling::honest(papers).connect(to).await.expect("the papers are good");
        Self::over(connection, endpoint, papers, me, parent).await
    }

    /// Goes on with a connection that has been made.
    ///
    /// # Panics
    /// When the connection is lost.
    pub async fn over(
        connection: quinn::Connection,
        endpoint: Endpoint,
        papers: &Papers,
        me: Fqcn,
        parent: Fqcn,
    ) -> Self {
        let (control, recv) = connection.open_bi().await.expect("a stream is granted");
        let exporter = exporter(&connection);
        let (sender, frames) = mpsc::unbounded_channel();
        tokio::spawn(read_frames(recv, sender.clone()));
        let lanes_in = tokio::spawn(read_lanes(connection.clone(), sender));
        Self {
            connection,
            papers: papers.clone(),
            me,
            parent,
            incarnation: Incarnation { counter: 1, nonce: random() },
            nonce: random_nonce(),
            exporter,
            token: None,
            signs: true,
            wall: WallClock::system(),
            sequence: 0,
            beats: 0,
            control,
            encoder: Encoder::new(),
            lanes: BTreeMap::new(),
            frames,
            stash: Vec::new(),
            lanes_in,
            _endpoint: endpoint,
        }
    }

    /// Writes bytes to the control stream as they are. What the other end has closed takes them and drops them.
    pub async fn write(&mut self, bytes: &[u8]) {
        // The other end may have closed already, which is what the test looks at then.
        let _ = timeout(PATIENCE, self.control.write_all(bytes)).await;
    }

    /// Ends the control stream.
    pub fn finish_control(&mut self) {
        // Fails only for a stream that has ended.
        let _ = self.control.finish();
    }

    /// Resets the control stream.
    pub fn reset_control(&mut self) {
        // Fails only for a stream that has ended.
        let _ = self.control.reset(7u32.into());
    }

    /// Sends a frame on the control stream.
    pub async fn send_frame(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        let tail = self.encoder.encode(frame, &mut bytes);
        self.write(&bytes).await;
        if let Some(tail) = tail {
            self.write(&tail).await;
        }
    }

    /// Opens a one-way stream without saying anything on it.
    ///
    /// # Panics
    /// When the connection is lost, or no stream granted.
    pub async fn open_uni(&self) -> quinn::SendStream {
        let opened = timeout(PATIENCE, self.connection.open_uni()).await;
        opened.expect("a stream is granted").expect("the connection lives")
    }

    async fn lane(&mut self, lane: Lane) -> &mut (quinn::SendStream, Encoder) {
        if !self.lanes.contains_key(&lane) {
            let mut stream = self.open_uni().await;
            let mut encoder = Encoder::new();
            let mut bytes = BytesMut::new();
            let _ = encoder.encode(&Frame::Lane(lane), &mut bytes);
            // As for the control stream.
            let _ = stream.write_all(&bytes).await;
            self.lanes.insert(lane, (stream, encoder));
        }
        self.lanes.get_mut(&lane).expect("it has just been opened")
    }

    /// Writes bytes to the stream of a lane as they are.
    pub async fn write_lane(&mut self, lane: Lane, bytes: &[u8]) {
        if lane == Lane::Control {
            return self.write(bytes).await;
        }
        let (stream, _) = self.lane(lane).await;
        // As for the control stream.
        let _ = timeout(PATIENCE, stream.write_all(bytes)).await;
    }

    /// Ends the stream of a lane.
    pub fn finish_lane(&mut self, lane: Lane) {
        if let Some((mut stream, _)) = self.lanes.remove(&lane) {
            // Fails only for a stream that has ended.
            let _ = stream.finish();
        }
    }

    /// The next frame that `wanted` accepts; the others are kept for later.
    ///
    /// # Panics
    /// When none comes.
    pub async fn expect_frame<T>(&mut self, mut wanted: impl FnMut(&Frame) -> Option<T>) -> T {
        for at in 0..self.stash.len() {
            if let Some(found) = wanted(&self.stash[at]) {
                self.stash.remove(at);
                return found;
            }
        }
        let frames = &mut self.frames;
        let stash = &mut self.stash;
        let found = timeout(PATIENCE, async {
            loop {
                let frame = frames.recv().await?;
                match wanted(&frame) {
                    Some(found) => return Some(found),
                    None => stash.push(frame),
                }
            }
        });
        let found = found.await.ok().flatten();
        let closed = self.connection.close_reason();
        found.unwrap_or_else(|| panic!("it never came; {closed:?}; {:?}", self.stash))
    }

    /// Reads nothing more but the control stream. Lanes that are open already are read on.
    pub fn stop_reading(&self) {
        self.lanes_in.abort();
    }

    /// Every frame that has come and was not asked for.
    pub fn unasked(&mut self) -> Vec<Frame> {
        while let Ok(frame) = self.frames.try_recv() {
            self.stash.push(frame);
        }
        std::mem::take(&mut self.stash)
    }

    /// Waits until the other end closes the connection.
    ///
    /// # Panics
    /// When it does not.
    pub async fn closed(&self) -> Closed {
        closed(&self.connection).await
    }

    /// Whether the connection lives.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Leaves without a word that cellbus knows.
    pub fn vanish(&self) {
        self.connection.close(0u32.into(), b"");
    }
}

impl Drop for RawPeer {
    /// Leaves as a process does that is killed: nothing is said on any stream.
    fn drop(&mut self) {
        self.vanish();
    }
}

/// What a signature is bound to a TLS session by (RFC 9266).
pub(crate) fn exporter(connection: &quinn::Connection) -> [u8; 32] {
    let mut exporter = [0; 32];
    connection
        .export_keying_material(&mut exporter, b"EXPORTER-Channel-Binding", b"")
        .expect("TLS 1.3 has exporters");
    exporter
}

pub(crate) async fn read_frames(
    mut stream: quinn::RecvStream,
    sender: mpsc::UnboundedSender<Frame>,
) {
    let limits = FrameLimits { payload_max: 16 << 20, ..FrameLimits::default() };
    let mut decoder = Decoder::new(limits);
    while let Ok(Some(chunk)) = stream.read_chunk(64 << 10, true).await {
        let fed = decoder.feed(chunk.bytes, |frame| {
            // Answers may come together.
            if let Frame::Message(whole) = frame {
                let mut each = bundle::split(whole).into_iter().map(Frame::Message);
                return each.all(|one| sender.send(one).is_ok());
            }
            sender.send(frame).is_ok()
        });
        fed.expect("honest cells send frames");
    }
}

pub(crate) async fn read_lanes(
    connection: quinn::Connection,
    sender: mpsc::UnboundedSender<Frame>,
) {
    while let Ok(stream) = connection.accept_uni().await {
        tokio::spawn(read_frames(stream, sender.clone()));
    }
}

fn random() -> u64 {
    getrandom::u64().expect("the system has random numbers")
}

pub(crate) fn random_nonce() -> [u8; 32] {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).expect("the system has random bytes");
    nonce
}
