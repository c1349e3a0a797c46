//! Where connections come from: dialling a parent, and accepting children.

use std::{future::Future, net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc};

use cellbus_proto::link::Redial;
use quinn::ConnectionError;

use crate::{
    conn::{Connection, PeerError},
    quic_settings::Reach,
    tls::SERVER_NAME,
};

/// A future on its way.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Dials the parent.
pub trait Dial: Send + Sync + 'static {
    /// One attempt, including the handshake. Dropping it gives up.
    fn dial(&self) -> Task<Result<Connection, DialError>>;

    /// Whom it dials, for people.
    fn target(&self) -> String;
}

/// Accepts children.
pub trait Accept: Send + Sync + 'static {
    /// Waits for the next caller and gives its handshake, which is to be awaited elsewhere: who is slow
    /// must not hold up the others. `None` when nothing will come any more.
    fn accept(&self) -> Task<Option<Task<Result<Connection, DialError>>>>;

    /// Takes nobody any more; connections that exist go on.
    fn close(&self);

    /// Where it listens.
    fn address(&self) -> Option<SocketAddr>;

    /// Waits until everything that was closed has been said.
    fn wait_idle(&self) -> Task<()>;
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name of the parent's machine cannot be resolved.
    #[error("cannot resolve `{target}`")]
    Resolve {
        /// What was to be resolved.
        target: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The transport refuses to try.
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] quinn::ConnectionError),
    /// The handshake told nothing about the peer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Nobody is there, within this process.
    #[error("nobody listens as `{0}`")]
    Nobody(String),
    /// Too many are being served.
    #[error("too many handshakes at once")]
    Busy,
}

impl DialError {
    /// What it means for the next attempt.
    pub(crate) fn redial(&self) -> Redial {
        match self {
            Self::Handshake(ConnectionError::TimedOut | ConnectionError::Reset)
            | Self::Resolve { .. }
            | Self::Connect(_)
            | Self::Nobody(_)
            | Self::Busy => Redial::Unanswered,
            Self::Handshake(_) | Self::Peer(_) => Redial::Refused,
        }
    }
}

/// Where the parent is found.
#[derive(Clone, Debug)]
pub enum DialTarget {
    /// Host and port.
    Host(String),
    /// A file in which the parent, on this machine, has written its address and port.
    File(PathBuf),
}

impl std::fmt::Display for DialTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::File(path) => write!(f, "the address in {}", path.display()),
        }
    }
}

/// Dials over QUIC.
pub struct QuicDial {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    target: DialTarget,
    near: Option<Arc<quinn::TransportConfig>>,
}

impl QuicDial {
    /// Dials `target` from `endpoint`.
    #[must_use]
    pub fn new(endpoint: quinn::Endpoint, config: quinn::ClientConfig, target: DialTarget) -> Self {
        Self { endpoint, config, target, near: None }
    }

    /// The same, with settings of their own for a target on this machine.
    #[must_use]
    pub fn near(mut self, near: Arc<quinn::TransportConfig>) -> Self {
        self.near = Some(near);
        self
    }
}

impl Dial for QuicDial {
    fn dial(&self) -> Task<Result<Connection, DialError>> {
        let (endpoint, mut config, target) =
            (self.endpoint.clone(), self.config.clone(), self.target.clone());
        let near = self.near.clone();
        Box::pin(async move {
            let address = resolve(&endpoint, target).await?;
            if let Some(near) = near.filter(|_| Reach::of(address) == Reach::Machine) {
                config.transport_config(near);
            }
            let connecting = endpoint.connect_with(config, address, SERVER_NAME)?;
            Ok(Connection::quic(connecting.await?)?)
        })
    }

    fn target(&self) -> String {
        self.target.to_string()
    }
}

/// The first address of the same family as the socket's own, or any.
async fn resolve(endpoint: &quinn::Endpoint, target: DialTarget) -> Result<SocketAddr, DialError> {
    let target = match target {
        DialTarget::Host(host) => host,
        DialTarget::File(path) => {
            let failed = |source| DialError::Resolve { target: path.display().to_string(), source };
            std::fs::read_to_string(&path).map_err(failed)?.trim().to_owned()
        }
    };
    if let Ok(address) = target.parse() {
        return Ok(address);
    }
    let failed = |source| DialError::Resolve { target: target.clone(), source };
    let found: Vec<SocketAddr> = tokio::net::lookup_host(&target).await.map_err(failed)?.collect();
    let v4 = endpoint.local_addr().is_ok_and(|own| own.is_ipv4());
    let fits = found.iter().find(|address| address.is_ipv4() == v4).or(found.first()).copied();
    fits.ok_or_else(|| failed(std::io::Error::other("no address")))
}

/// Accepts over QUIC.
pub struct QuicAccept {
    endpoint: quinn::Endpoint,
    in_flight: Arc<()>,
    near: Option<Arc<quinn::ServerConfig>>,
}

impl QuicAccept {
    /// Handshakes at once; further callers first have to show that their address is their own, and
    /// beyond twice as many are turned away.
    const HANDSHAKES_MAX: usize = 64;

    /// Accepts what comes to `endpoint`.
    #[must_use]
    pub fn new(endpoint: quinn::Endpoint) -> Self {
        Self { endpoint, in_flight: Arc::new(()), near: None }
    }

    /// The same, with settings of their own for callers on this machine.
    #[must_use]
    pub fn near(mut self, near: Arc<quinn::ServerConfig>) -> Self {
        self.near = Some(near);
        self
    }
}

impl Accept for QuicAccept {
    fn accept(&self) -> Task<Option<Task<Result<Connection, DialError>>>> {
        let (endpoint, in_flight) = (self.endpoint.clone(), Arc::clone(&self.in_flight));
        let near = self.near.clone();
        Box::pin(async move {
            loop {
                let incoming = endpoint.accept().await?;
                let busy = Arc::strong_count(&in_flight) - 2;
                if busy >= 2 * Self::HANDSHAKES_MAX {
                    incoming.refuse();
                    continue;
                }
                if busy >= Self::HANDSHAKES_MAX && incoming.may_retry() {
                    // Fails only for one that has been retried, which `may_retry` excludes.
                    let _ = incoming.retry();
                    continue;
                }
                let handshake: Task<Result<Connection, DialError>> = Box::pin(async move {
                    let counted = in_flight;
                    let connecting = match near {
                        Some(near) if Reach::of(incoming.remote_address()) == Reach::Machine => {
                            incoming.accept_with(near)?
                        }
                        Some(_) | None => incoming.accept()?,
                    };
                    let connection = connecting.await?;
                    drop(counted);
                    Ok(Connection::quic(connection)?)
                });
                return Some(handshake);
            }
        })
    }

    fn close(&self) {
        self.endpoint.set_server_config(None);
    }

    fn address(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    fn wait_idle(&self) -> Task<()> {
        let endpoint = self.endpoint.clone();
        Box::pin(async move { endpoint.wait_idle().await })
    }
}
