//! The limit that cells are held against: plain QUIC with the same TLS, windows and sockets as cells
//! have, on one thread, with the least framing that tells messages apart. Nothing is routed.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cellbus_cells::node::figures;
use cellbus_proto::{
    identity::Identity,
    name::Segment,
    topology::{CellSpec, Topology},
};
use cellbus_runtime::{
    authority::{Credentials, ensure_dev_credentials},
    clock::WallClock,
    quic::PortKeys,
    quic_settings::{QuicTransport, Reach, Side, bind},
    tls::{self, OnRefusal, PinnedPeers, SERVER_NAME},
};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, TokioRuntime};
use tokio::task::JoinSet;

use crate::{
    count::Counter,
    drive::{Call, Pace, Times, closed_loop, payload},
    message::{Ask, Driven, ObjectAsk, Peer, Role, SideSpec, Tell},
    object,
    side::{Inbox, SideError, say},
};

mod answer;
mod bulk;
mod calls;
mod frames;
mod local;
mod splice;

/// Streams that a peer may have open: a stream for every request needs as many as there are callers.
const STREAMS: u32 = 1024;

/// What every process of plain QUIC needs.
struct Papers {
    topology: Topology,
    credentials: Vec<Credentials>,
    transport: QuicTransport,
    wall: WallClock,
    /// Whether the library decides on windows and sockets.
    defaults: bool,
}

impl Papers {
    fn read(spec: &SideSpec) -> Result<Self, SideError> {
        let topology = cellbus_cells::config::read("bench.toml", &spec.topology);
        let topology = topology.map_err(SideError::new)?.topology;
        let wall = WallClock::system();
        let identity = |cell: &CellSpec| Identity {
            project: topology.project.clone(),
            kind: cell.kind,
            name: cell.name.clone().into(),
            org: cell.org.clone(),
            role: None,
        };
        let cells: Vec<(Identity, Vec<String>)> =
            topology.cells().iter().map(|cell| (identity(cell), cell.hosts.clone())).collect();
        let pki = spec.state.join("pki");
        let credentials = ensure_dev_credentials(&pki, &topology.project, &cells, wall.unix());
        let transport = QuicTransport::new(figures::quic(&topology.limits));
        Ok(Self {
            credentials: credentials.map_err(SideError::new)?,
            transport: transport.map_err(SideError::new)?,
            topology,
            wall,
            defaults: spec.peer == Peer::RawDefaults,
        })
    }

    fn of(&self, name: &str) -> Result<(&CellSpec, &Credentials), SideError> {
        let cells = self.topology.cells().iter().zip(&self.credentials);
        let found = cells.into_iter().find(|(cell, _)| cell.name.as_str() == name);
        found.ok_or_else(|| SideError::text(format!("the topology has no cell `{name}`")))
    }

    fn listen(&self, name: &str) -> Result<Endpoint, SideError> {
        let (_, own) = self.of(name)?;
        let (wall, pins) = (self.wall, Arc::new(PinnedPeers::new()));
        let clock = tls::clock_from(move || wall.unix());
        let tls = tls::server_config(own, pins, clock, silent()).map_err(SideError::new)?;
        let mut server: ServerConfig = self.transport.server_config(tls).map_err(SideError::new)?;
        server.transport_config(self.streams(Side::Accepts));
        let socket = self.socket(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let runtime = Arc::new(TokioRuntime);
        Endpoint::new(self.endpoint()?, Some(server), socket, runtime).map_err(SideError::new)
    }

    fn endpoint(&self) -> Result<quinn::EndpointConfig, SideError> {
        if self.defaults {
            return Ok(quinn::EndpointConfig::default());
        }
        let keys = PortKeys::drawn().map_err(SideError::new)?;
        Ok(self.transport.endpoint_config(&keys.reset, keys.connection_ids))
    }

    fn socket(&self, at: SocketAddr) -> Result<UdpSocket, SideError> {
        if self.defaults {
            return UdpSocket::bind(at).map_err(SideError::new);
        }
        let bound = bind(at, self.transport.settings().socket_buffer);
        bound.map(|bound| bound.socket).map_err(SideError::new)
    }

    fn dialler(&self) -> Result<Endpoint, SideError> {
        let socket = self.socket(SocketAddr::from(([0, 0, 0, 0], 0)))?;
        let runtime = Arc::new(TokioRuntime);
        Endpoint::new(self.endpoint()?, None, socket, runtime).map_err(SideError::new)
    }

    fn client(&self, name: &str) -> Result<ClientConfig, SideError> {
        let (cell, own) = self.of(name)?;
        let no_parent = || SideError::text(format!("`{name}` has no parent"));
        let parent: &Segment = cell.parent.as_ref().ok_or_else(no_parent)?;
        let wall = self.wall;
        let clock = tls::clock_from(move || wall.unix());
        let tls = tls::client_config(own, parent, clock, silent()).map_err(SideError::new)?;
        let mut client = self.transport.client_config(tls).map_err(SideError::new)?;
        client.transport_config(self.streams(Side::Dials));
        Ok(client)
    }

    fn streams(&self, side: Side) -> Arc<quinn::TransportConfig> {
        if self.defaults {
            return Arc::default();
        }
        let mut config = self.transport.transport_config(side, Reach::Machine);
        if let Some(config) = Arc::get_mut(&mut config) {
            config.max_concurrent_bidi_streams(STREAMS.into());
        }
        config
    }

    async fn dial(
        &self,
        endpoint: &Endpoint,
        name: &str,
        parent: SocketAddr,
    ) -> Result<Connection, SideError> {
        let client = self.client(name)?;
        let connecting = endpoint.connect_with(client, parent, SERVER_NAME);
        connecting.map_err(SideError::new)?.await.map_err(SideError::new)
    }
}

/// A refused certificate ends the connection, which is told.
fn silent() -> OnRefusal {
    Arc::new(|_| {})
}

/// Connections of a process, in the order in which they came about.
type Connections = tokio::sync::watch::Sender<Vec<Connection>>;

/// Runs as `spec` says until nobody asks any more.
///
/// # Errors
/// [`SideError`].
pub async fn run(spec: SideSpec, inbox: Inbox) -> Result<(), SideError> {
    if matches!(spec.role, Role::JobCode) {
        return local::code(&spec, inbox).await;
    }
    let papers = Papers::read(&spec)?;
    let (connections, counter) = (Connections::default(), Counter::default());
    let directory = spec.state.parent().unwrap_or(&spec.state).to_owned();
    let peer = spec.peer;
    let store = bulk::Store::new(peer == Peer::RawDigest);
    let (endpoint, later) = match &spec.role {
        Role::Answers { name } => {
            let (held, counter, store) = (connections.clone(), counter.clone(), store.clone());
            let came = move |connection: Connection| {
                answer::serve(connection.clone(), peer, counter.clone(), store.clone());
                held.send_modify(|all| all.push(connection));
            };
            (accepting(papers.listen(name)?, came), Vec::new())
        }
        Role::Relays { name, parent } => {
            let endpoint = papers.listen(name)?;
            let up = papers.dial(&endpoint, name, *parent).await?;
            (accepting(endpoint, move |down| splice::pass_on(down, up.clone())), Vec::new())
        }
        Role::HandsOut { name, parent } => {
            let endpoint = papers.listen(name)?;
            let up = papers.dial(&endpoint, name, *parent).await?;
            let downs = connections.clone();
            splice::hand_out(up, downs.subscribe());
            let came = move |down: Connection| downs.send_modify(|all| all.push(down));
            (accepting(endpoint, came), Vec::new())
        }
        Role::Turns { name } => {
            let held = connections.clone();
            let came = move |connection: Connection| {
                let first = held.borrow().first().cloned();
                if let Some(first) = first {
                    splice::pass_on(connection.clone(), first);
                }
                held.send_modify(|all| all.push(connection));
            };
            (accepting(papers.listen(name)?, came), Vec::new())
        }
        Role::Dials { names, parent } => {
            let endpoint = papers.dialler()?;
            for name in names {
                let connection = papers.dial(&endpoint, name, *parent).await?;
                answer::serve(connection.clone(), peer, counter.clone(), store.clone());
                connections.send_modify(|all| all.push(connection));
            }
            (endpoint, Vec::new())
        }
        Role::Later { names, parent } => {
            let parent = parent.ok_or_else(|| SideError::text("nobody said where to dial"))?;
            (papers.dialler()?, names.iter().map(|name| (name.clone(), parent)).collect())
        }
        Role::JobCell { name, parent } => {
            let parent = parent.ok_or_else(|| SideError::text("nobody said where to dial"))?;
            let endpoint = papers.dialler()?;
            let up = papers.dial(&endpoint, name, parent).await?;
            local::pass_on(&directory, up, peer)?;
            (endpoint, Vec::new())
        }
        Role::JobCode | Role::Cells { .. } => {
            return Err(SideError::text("plain QUIC has no cells"));
        }
    };
    say(&Tell::Ready { address: endpoint.local_addr().ok() });
    let process = Process { papers, endpoint, connections, counter, peer, later, store, directory };
    process.obey(inbox).await
}

/// Accepts for as long as the endpoint lives.
fn accepting(endpoint: Endpoint, came: impl Fn(Connection) + Send + 'static) -> Endpoint {
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(done) = handshakes.join_next(), if !handshakes.is_empty() => {
                    if let Ok(Ok(connection)) = done {
                        came(connection);
                    }
                }
                incoming = accepting.accept() => match incoming {
                    Some(incoming) => drop(handshakes.spawn(async move { incoming.await })),
                    None => return,
                },
            }
        }
    });
    endpoint
}

struct Process {
    papers: Papers,
    endpoint: Endpoint,
    connections: Connections,
    counter: Counter,
    peer: Peer,
    later: Vec<(String, SocketAddr)>,
    store: bulk::Store,
    directory: PathBuf,
}

impl Process {
    async fn obey(mut self, mut inbox: Inbox) -> Result<(), SideError> {
        let mut sending = None;
        while let Some(ask) = inbox.recv().await {
            match ask {
                Ask::Drive { to, fan, size, callers, warm_ms, window_ms } => {
                    let warm = Duration::from_millis(warm_ms);
                    let pace = Pace { callers, warm, window: Duration::from_millis(window_ms) };
                    let driven = self.drive(fan.then_some(to.len()), payload(size)?, pace).await?;
                    say(&Tell::Driven(driven));
                }
                Ask::Once { size, .. } => {
                    calls::StreamCall(self.first().await?).call(payload(size)?).await?;
                    say(&Tell::Driven(Driven::default()));
                }
                Ask::Send { size, window_ms, .. } => {
                    let send = match sending.take() {
                        Some(send) => send,
                        None => self.first().await?.open_uni().await.map_err(SideError::new)?,
                    };
                    let send = sending.insert(send);
                    let window = Duration::from_millis(window_ms);
                    let sent = frames::send_for(send, &payload(size)?, window).await?;
                    say(&Tell::Sent { sent, refused: 0 });
                }
                Ask::Settle { sent } => say(&self.counter.settle(sent).await),
                Ask::Wait { .. } | Ask::Holding { .. } | Ask::Release => {
                    return Err(SideError::text("plain QUIC holds no reply back"));
                }
                Ask::Connect => say(&Tell::Driven(self.connect().await?)),
                Ask::Object(ask) => self.object(ask).await?,
            }
        }
        self.endpoint.close(0u32.into(), b"done");
        Ok(())
    }

    async fn object(&self, ask: ObjectAsk) -> Result<(), SideError> {
        match ask {
            ObjectAsk::Hold { size, file, .. } => {
                self.store.hold(size, file, &self.directory)?;
                say(&Tell::Held { reference: None });
            }
            // What is pushed is taken by whoever is connected.
            ObjectAsk::Receive => say(&Tell::Held { reference: None }),
            ObjectAsk::Pull { size, keep, window_ms, .. } => {
                let connection = self.first().await?;
                let window = Duration::from_millis(window_ms);
                let driven = object::again_and_again(window, async || {
                    bulk::pull(&connection, size, keep, &self.store, &self.directory).await
                });
                say(&Tell::Driven(driven.await?));
            }
            ObjectAsk::Spread { to, window_ms } => {
                // Who stands behind a relay is reached over the one link to it.
                let links: BTreeSet<&str> =
                    to.iter().map(|name| name.split('.').next().unwrap_or(name)).collect();
                let links = self.held(links.len()).await?;
                let connections: Vec<_> = links.iter().cycle().take(to.len()).cloned().collect();
                let window = Duration::from_millis(window_ms);
                let driven = object::again_and_again(window, async || {
                    bulk::spread(&connections, &self.store).await
                });
                say(&Tell::Driven(driven.await?));
            }
            ObjectAsk::Account => {
                let sent = |connection: &Connection| connection.stats().udp_tx.bytes;
                let wire = self.connections.borrow().iter().map(sent).sum();
                say(&Tell::Account { wire, written: self.store.written() });
            }
        }
        Ok(())
    }

    /// The connections, as soon as there are `count`.
    async fn held(&self, count: usize) -> Result<Vec<Connection>, SideError> {
        let mut held = self.connections.subscribe();
        let all = held.wait_for(|all| all.len() >= count).await;
        all.map(|all| all.clone()).map_err(SideError::new)
    }

    async fn first(&self) -> Result<Connection, SideError> {
        let none = || SideError::text("there is no connection");
        self.held(1).await?.into_iter().next().ok_or_else(none)
    }

    async fn drive(
        &self,
        fan: Option<usize>,
        payload: Bytes,
        pace: Pace,
    ) -> Result<Driven, SideError> {
        let begun = || say(&Tell::Begun);
        if let Some(receivers) = fan {
            let mut links = Vec::new();
            for connection in self.held(receivers).await? {
                links.push(calls::FrameCall::open(&connection, frames::ACKNOWLEDGE).await?);
            }
            return Ok(closed_loop(calls::FanCall(links), payload, pace, begun).await);
        }
        let connection = self.first().await?;
        Ok(match self.peer {
            Peer::RawRrf => {
                let call = calls::FrameCall::open(&connection, 0).await?;
                closed_loop(call, payload, pace, begun).await
            }
            Peer::RawRr | Peer::Raw | Peer::RawDigest | Peer::RawDefaults | Peer::Cellbus => {
                closed_loop(calls::StreamCall(connection), payload, pace, begun).await
            }
        })
    }

    async fn connect(&mut self) -> Result<Driven, SideError> {
        let mut times = Times::new();
        let begun = Instant::now();
        for (name, parent) in std::mem::take(&mut self.later) {
            let from = Instant::now();
            let connection = self.papers.dial(&self.endpoint, &name, parent).await?;
            times.add(from.elapsed());
            self.connections.send_modify(|all| all.push(connection));
        }
        Ok(times.driven(begun.elapsed()))
    }
}
