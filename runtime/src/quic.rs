//! A UDP port of this machine that speaks QUIC: it accepts children, dials a parent, or both.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use cellbus_proto::name::Segment;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::{
    authority::{Credentials, OwnCertificate, Presented},
    carrier::{Accept, Dial, DialError, DialTarget, QuicAccept, QuicDial, Task},
    certificate::LeafHash,
    clock::WallClock,
    conn::Connection,
    counters::Counters,
    quic_settings::{BindError, QuicSettingsError, QuicTransport, Reach, Side, bind},
    tls::{self, OnRefusal, PinnedPeers},
};

/// One UDP port.
#[derive(Clone, Debug)]
pub struct QuicPort {
    endpoint: quinn::Endpoint,
    transport: QuicTransport,
    receive_buffer: usize,
    /// How callers on this machine are let in.
    near: Option<Arc<quinn::ServerConfig>>,
}

/// Keys by which a peer recognises a port that was closed and opened again.
pub struct PortKeys {
    /// Signs stateless resets.
    pub reset: Zeroizing<[u8; 64]>,
    /// Marks the connection ids that this port gave out.
    pub connection_ids: u64,
}

impl PortKeys {
    /// Keys that nobody knows and that end with this process.
    ///
    /// # Errors
    /// [`QuicPortError::Random`].
    pub fn drawn() -> Result<Self, QuicPortError> {
        let mut reset = Zeroizing::new([0; 64]);
        getrandom::fill(reset.as_mut_slice())?;
        Ok(Self { reset, connection_ids: getrandom::u64()? })
    }
}

/// Whom a port lets in.
#[derive(Clone, Copy, Debug)]
pub enum Admits<'a> {
    /// Cells of the project, and pinned job cells.
    Project(&'a Credentials),
    /// Pinned job cells only.
    Jobs(&'a Presented),
}

/// What every certificate check of a cell needs.
#[derive(Clone, Debug)]
pub struct Checks {
    /// The time.
    pub wall: WallClock,
    /// Where refusals are counted.
    pub counters: Arc<Counters>,
}

/// Why a port cannot be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuicPortError {
    /// The address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system refuses the socket afterwards.
    #[error("socket on {address}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The settings do not fit together.
    #[error(transparent)]
    Settings(#[from] QuicSettingsError),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[from] getrandom::Error),
    /// The TLS library refuses the credentials.
    #[error("TLS configuration")]
    Tls(#[from] rustls::Error),
}

impl Checks {
    fn clock(&self) -> Arc<dyn rustls::time_provider::TimeProvider> {
        let wall = self.wall;
        tls::clock_from(move || wall.unix())
    }

    /// What counts refused certificates, and says in the log why.
    #[must_use]
    pub fn on_refusal(&self) -> OnRefusal {
        let counters = Arc::clone(&self.counters);
        Arc::new(move |refused| {
            counters.refuse(refused.status());
            tracing::warn!(code = refused.status().code(), why = %refused, "certificate refused");
        })
    }
}

impl QuicPort {
    /// Opens a port that only dials.
    ///
    /// # Errors
    /// [`QuicPortError`].
    pub fn dialling(transport: &QuicTransport, address: SocketAddr) -> Result<Self, QuicPortError> {
        Self::open(transport, address, transport.dialling_config(), None)
    }

    /// Opens a port that accepts, and can dial too.
    ///
    /// # Errors
    /// [`QuicPortError`].
    pub fn listening(
        transport: &QuicTransport,
        address: SocketAddr,
        keys: &PortKeys,
        admits: Admits<'_>,
        pins: &Arc<PinnedPeers>,
        checks: &Checks,
    ) -> Result<Self, QuicPortError> {
        let (clock, on_refusal, pins) = (checks.clock(), checks.on_refusal(), Arc::clone(pins));
        let tls = match admits {
            Admits::Project(own) => tls::server_config(own, pins, clock, on_refusal)?,
            Admits::Jobs(own) => tls::job_server_config(own, pins, clock, on_refusal)?,
        };
        let server = transport.server_config(tls)?;
        let endpoint = transport.endpoint_config(&keys.reset, keys.connection_ids);
        let mut near = server.clone();
        near.transport_config(transport.transport_config(Side::Accepts, Reach::Machine));
        let mut port = Self::open(transport, address, endpoint, Some(server))?;
        port.near = Some(Arc::new(near));
        Ok(port)
    }

    fn open(
        transport: &QuicTransport,
        address: SocketAddr,
        config: quinn::EndpointConfig,
        server: Option<quinn::ServerConfig>,
    ) -> Result<Self, QuicPortError> {
        let bound = bind(address, transport.settings().socket_buffer)?;
        let receive_buffer = bound.receive_buffer;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(config, server, bound.socket, runtime)
            .map_err(|source| QuicPortError::Socket { address, source })?;
        Ok(Self { endpoint, transport: transport.clone(), receive_buffer, near: None })
    }

    /// Bytes that the kernel really keeps for packets that have not been read.
    #[must_use]
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    /// Waits until everything that was closed has been said.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }

    /// Accepts what comes.
    #[must_use]
    pub fn accept(&self) -> Arc<dyn Accept> {
        let accept = QuicAccept::new(self.endpoint.clone());
        Arc::new(match &self.near {
            Some(near) => accept.near(Arc::clone(near)),
            None => accept,
        })
    }

    /// Dials a server or relay with base name `parent`.
    ///
    /// # Errors
    /// [`QuicPortError`].
    pub fn dial_parent(
        &self,
        own: &Credentials,
        parent: &Segment,
        target: DialTarget,
        checks: &Checks,
    ) -> Result<Arc<dyn Dial>, QuicPortError> {
        let tls = tls::client_config(own, parent, checks.clock(), checks.on_refusal())?;
        let config = self.transport.client_config(tls)?;
        Ok(self.dial(config, target))
    }

    fn dial(&self, config: quinn::ClientConfig, target: DialTarget) -> Arc<dyn Dial> {
        let near = self.transport.transport_config(Side::Dials, Reach::Machine);
        Arc::new(QuicDial::new(self.endpoint.clone(), config, target).near(near))
    }

    /// Dials, for a job cell, exactly the holder of the certificate with hash `parent`.
    ///
    /// # Errors
    /// [`QuicPortError`].
    pub fn dial_pinned(
        &self,
        own: &OwnCertificate,
        parent: LeafHash,
        target: DialTarget,
        checks: &Checks,
    ) -> Result<Arc<dyn Dial>, QuicPortError> {
        let tls = tls::job_client_config(own, parent, checks.clock(), checks.on_refusal())?;
        let config = self.transport.client_config(tls)?;
        Ok(self.dial(config, target))
    }
}

/// Accepts nobody until a port is opened for it: a site listens only while it has job cells.
#[derive(Debug, Default)]
pub struct LateAccept {
    port: Mutex<Option<QuicPort>>,
    opened: Notify,
}

impl LateAccept {
    /// The port, opened by `open` where there is none yet.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn ensure(
        &self,
        open: impl FnOnce() -> Result<QuicPort, QuicPortError>,
    ) -> Result<QuicPort, QuicPortError> {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(port) = &*port {
            return Ok(port.clone());
        }
        let opened = open()?;
        *port = Some(opened.clone());
        drop(port);
        self.opened.notify_one();
        Ok(opened)
    }

    fn current(&self) -> Option<QuicPort> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A [`LateAccept`] that an endpoint can hold.
#[derive(Debug)]
pub struct SharedLateAccept {
    late: Arc<LateAccept>,
    accept: Arc<Mutex<Option<Arc<dyn Accept>>>>,
}

impl std::fmt::Debug for dyn Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Accept({:?})", self.address())
    }
}

impl SharedLateAccept {
    /// Shares `late`.
    #[must_use]
    pub fn new(late: Arc<LateAccept>) -> Self {
        Self { late, accept: Arc::default() }
    }
}

impl Accept for SharedLateAccept {
    fn accept(&self) -> Task<Option<Task<Result<Connection, DialError>>>> {
        let (late, accept) = (Arc::clone(&self.late), Arc::clone(&self.accept));
        Box::pin(async move {
            let port = loop {
                match late.current() {
                    Some(port) => break port,
                    None => late.opened.notified().await,
                }
            };
            let accepting = {
                let mut accept = accept.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(accept.get_or_insert_with(|| port.accept()))
            };
            accepting.accept().await
        })
    }

    fn close(&self) {
        if let Some(port) = self.late.current() {
            port.accept().close();
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        self.late.current()?.address()
    }

    fn wait_idle(&self) -> Task<()> {
        let port = self.late.current();
        Box::pin(async move {
            if let Some(port) = port {
                port.accept().wait_idle().await;
            }
        })
    }
}
