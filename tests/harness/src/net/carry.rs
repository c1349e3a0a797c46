//! What carries the links of a test network: memory, or QUIC over the simulated network.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::Fqcn;
use cellbus_proto::{identity::Identity, transcript::sha256};
use cellbus_runtime::{
    authority::{Credentials, OwnCertificate},
    carrier::{Accept, Dial, DialError, DialTarget, QuicAccept, QuicDial, Task},
    certificate::LeafHash,
    conn::{
        Connection, PeerFacts,
        memory::{self, Wire},
    },
    own::Own,
    quic::Checks,
    quic_settings::{QuicSettings, QuicTransport},
    tls::{self, PinnedPeers},
};
use tokio::sync::Notify;

use super::{PinsByParent, host, tree::Tree};
use crate::sim::SimNet;

/// The wires between memory-linked neighbours, by (child, parent).
#[derive(Clone, Default)]
pub struct Wires(Arc<Mutex<Board>>);

#[derive(Default)]
struct Board {
    /// The cells that listen.
    listening: BTreeMap<Fqcn, Listening>,
    wires: BTreeMap<(Fqcn, Fqcn), Vec<Wire>>,
    /// Cuts, by (from, to).
    cuts: BTreeMap<(Fqcn, Fqcn), bool>,
    made: u64,
}

struct Listening {
    chain: Vec<Bytes>,
    waiting: VecDeque<Connection>,
    arrived: Arc<Notify>,
}

pub(super) enum Carriage {
    Memory { wires: Wires, pins: PinsByParent },
    Quic(Quic),
}

/// QUIC over the simulated network: every cell is a host.
pub(super) struct Quic {
    sim: SimNet,
    hosts: BTreeMap<Fqcn, SocketAddr>,
    endpoints: BTreeMap<SocketAddr, quinn::Endpoint>,
    pins: PinsByParent,
    transport: QuicTransport,
    copies: usize,
}

impl Wires {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wires {
    fn stop_listening(&self, name: &Fqcn) {
        if let Some(listening) = self.lock().listening.remove(name) {
            listening.arrived.notify_one();
        }
    }
}

impl Quic {
    pub(super) fn new(sim: SimNet) -> Self {
        Self {
            sim,
            hosts: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            pins: BTreeMap::new(),
            transport: QuicTransport::new(QuicSettings::default()).expect("the defaults fit"),
            copies: 0,
        }
    }

    fn host_of(&mut self, name: &Fqcn) -> SocketAddr {
        let next = self.hosts.len() + 1;
        *self.hosts.entry(name.clone()).or_insert_with(|| host(next))
    }
}

impl Carriage {
    pub(super) fn memory() -> Self {
        Self::Memory { wires: Wires::default(), pins: BTreeMap::new() }
    }

    pub(super) fn host(&self, name: &Fqcn) -> Option<SocketAddr> {
        match self {
            Self::Memory { .. } => None,
            Self::Quic(quic) => quic.hosts.get(name).copied(),
        }
    }

    pub(super) fn pins(&mut self, parent: &Fqcn) -> Arc<PinnedPeers> {
        let pins = match self {
            Self::Memory { pins, .. } | Self::Quic(Quic { pins, .. }) => pins,
        };
        Arc::clone(pins.entry(parent.clone()).or_insert_with(|| Arc::new(PinnedPeers::new())))
    }

    pub(super) fn accept(
        &mut self,
        own: &Arc<Own>,
        identity: &Identity,
        is_copy: bool,
    ) -> Arc<dyn Accept> {
        let pins = self.pins(&own.name);
        match self {
            Self::Memory { wires, .. } => {
                let arrived = Arc::new(Notify::new());
                if !is_copy {
                    let listening = Listening {
                        chain: chain_of(&own.certificate()),
                        waiting: VecDeque::new(),
                        arrived: Arc::clone(&arrived),
                    };
                    wires.lock().listening.insert(own.name.clone(), listening);
                }
                let (wires, name) = (wires.clone(), own.name.clone());
                Arc::new(MemoryAccept { wires, name, arrived, is_copy })
            }
            Self::Quic(quic) => {
                let address = if is_copy {
                    quic.copies += 1;
                    host(30_000 + quic.copies)
                } else {
                    quic.host_of(&own.name)
                };
                let wall = own.wall;
                let clock = tls::clock_from(move || wall.unix());
                let counters = Arc::clone(&own.counters);
                let refused = Checks { wall, counters }.on_refusal();
                let tls = if identity.kind.accepts_cells() {
                    tls::server_config(&credentials(own), pins, clock, refused)
                } else {
                    tls::job_server_config(own.certificate(), pins, clock, refused)
                };
                let server = quic.transport.server_config(tls.expect("a configuration"));
                let key = sha256(own.name.as_str().as_bytes());
                let reset: [u8; 64] = [key, key].concat().try_into().expect("64 bytes");
                let config = quic.transport.endpoint_config(&reset, u64::from(key[0]) + 1);
                let server = Some(server.expect("settings that fit"));
                let endpoint = quic.sim.endpoint(address, config, server).expect("a free host");
                quic.endpoints.insert(address, endpoint.clone());
                Arc::new(QuicAccept::new(endpoint))
            }
        }
    }

    pub(super) fn dial(
        &mut self,
        own: &Arc<Own>,
        identity: &Identity,
        parent: &Fqcn,
        parent_leaf: LeafHash,
        is_copy: bool,
    ) -> Arc<dyn Dial> {
        match self {
            Self::Memory { wires, .. } => Arc::new(MemoryDial {
                wires: wires.clone(),
                child: own.name.clone(),
                parent: parent.clone(),
                certificate: own.certificate().clone(),
            }),
            Self::Quic(quic) => {
                let address =
                    if is_copy { host(30_000 + quic.copies) } else { quic.host_of(&own.name) };
                let endpoint =
                    quic.endpoints.get(&address).expect("accepts before it dials").clone();
                let wall = own.wall;
                let clock = tls::clock_from(move || wall.unix());
                let counters = Arc::clone(&own.counters);
                let refused = Checks { wall, counters }.on_refusal();
                let tls = if identity.kind == cellbus_proto::identity::CellKind::Job {
                    tls::job_client_config(&own.certificate(), parent_leaf, clock, refused)
                } else {
                    let base = parent.base().parse().expect("a segment");
                    tls::client_config(&credentials(own), &base, clock, refused)
                };
                let config = quic.transport.client_config(tls.expect("a configuration"));
                let target = DialTarget::Host(quic.host_of(parent).to_string());
                Arc::new(QuicDial::new(endpoint, config.expect("settings that fit"), target))
            }
        }
    }

    /// Cuts, or with `false` heals, what goes from `from` to `to`, and with `both` back as well. Healing
    /// always concerns both directions.
    pub(super) fn cut(&self, tree: &Tree, from: &Fqcn, to: &Fqcn, cut: bool, both: bool) {
        match self {
            Self::Memory { wires, .. } => {
                let mut board = wires.lock();
                board.cuts.insert((from.clone(), to.clone()), cut);
                if both || !cut {
                    board.cuts.insert((to.clone(), from.clone()), cut);
                }
                let (child, parent) = ends(tree, from, to);
                board.apply(child, parent);
            }
            Self::Quic(quic) => {
                let (from, to) = (quic.hosts[from], quic.hosts[to]);
                match (cut, both) {
                    (true, true) => quic.sim.cut(from, to),
                    (true, false) => quic.sim.cut_one_way(from, to),
                    (false, _) => quic.sim.heal(from, to),
                }
            }
        }
    }

    pub(super) fn sever(&self, tree: &Tree, a: &Fqcn, b: &Fqcn) {
        let Self::Memory { wires, .. } = self else { panic!("only memory links can be severed") };
        let (child, parent) = ends(tree, a, b);
        for wire in wires.lock().wires.get(&(child.clone(), parent.clone())).into_iter().flatten() {
            wire.sever();
        }
    }

    /// From now on `name` says nothing to anybody, and hears nothing.
    pub(super) fn silence(&self, tree: &Tree, name: &Fqcn) {
        match self {
            Self::Memory { wires, .. } => {
                let board = wires.lock();
                for ((child, parent), all) in &board.wires {
                    if child == name || parent == name {
                        all.iter().for_each(|wire| wire.cut(true, true));
                    }
                }
                let _ = tree;
            }
            Self::Quic(quic) => {
                if let Some(host) = quic.hosts.get(name) {
                    quic.sim.kill(*host);
                }
            }
        }
    }

    /// The cell is gone: whoever waits for it waits in vain.
    pub(super) fn forget(&mut self, name: &Fqcn) {
        match self {
            Self::Memory { wires, .. } => {
                wires.stop_listening(name);
            }
            Self::Quic(quic) => {
                if let Some(host) = quic.hosts.get(name) {
                    quic.endpoints.remove(host);
                }
            }
        }
    }
}

fn ends<'a>(tree: &Tree, a: &'a Fqcn, b: &'a Fqcn) -> (&'a Fqcn, &'a Fqcn) {
    if tree.parent_of(a) == Some(b) {
        (a, b)
    } else {
        assert_eq!(tree.parent_of(b), Some(a), "{a} and {b} are no neighbours");
        (b, a)
    }
}

impl Board {
    fn is_cut(&self, from: &Fqcn, to: &Fqcn) -> bool {
        self.cuts.get(&(from.clone(), to.clone())).copied().unwrap_or(false)
    }

    fn apply(&mut self, child: &Fqcn, parent: &Fqcn) {
        let (up, down) = (self.is_cut(child, parent), self.is_cut(parent, child));
        let key = (child.clone(), parent.clone());
        for wire in self.wires.get(&key).into_iter().flatten().filter(|wire| !wire.is_closed()) {
            wire.cut(up, down);
        }
    }
}

struct MemoryAccept {
    wires: Wires,
    name: Fqcn,
    arrived: Arc<Notify>,
    is_copy: bool,
}

impl Accept for MemoryAccept {
    fn accept(&self) -> Task<Option<Task<Result<Connection, DialError>>>> {
        let (wires, name, is_copy) = (self.wires.clone(), self.name.clone(), self.is_copy);
        let arrived = Arc::clone(&self.arrived);
        Box::pin(async move {
            if is_copy {
                return None;
            }
            loop {
                let taken = {
                    let mut board = wires.lock();
                    let listening = board.listening.get_mut(&name)?;
                    if !Arc::ptr_eq(&listening.arrived, &arrived) {
                        // The cell has been started again; this is its past.
                        return None;
                    }
                    listening.waiting.pop_front()
                };
                if let Some(connection) = taken {
                    let handshake: Task<Result<Connection, DialError>> =
                        Box::pin(std::future::ready(Ok(connection)));
                    return Some(handshake);
                }
                arrived.notified().await;
            }
        })
    }

    fn close(&self) {
        if !self.is_copy {
            self.wires.stop_listening(&self.name);
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        None
    }

    fn wait_idle(&self) -> Task<()> {
        Box::pin(std::future::ready(()))
    }
}

struct MemoryDial {
    wires: Wires,
    child: Fqcn,
    parent: Fqcn,
    certificate: OwnCertificate,
}

impl Dial for MemoryDial {
    fn dial(&self) -> Task<Result<Connection, DialError>> {
        let (wires, child, parent) = (self.wires.clone(), self.child.clone(), self.parent.clone());
        let chain = chain_of(&self.certificate);
        Box::pin(async move {
            // What a connection over a real network takes at least.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if wires.lock().is_cut(&child, &parent) || wires.lock().is_cut(&parent, &child) {
                return std::future::pending().await;
            }
            let mut board = wires.lock();
            board.made += 1;
            let exporter = sha256(&board.made.to_be_bytes());
            let Some(listening) = board.listening.get_mut(&parent) else {
                return Err(DialError::Nobody(parent.to_string()));
            };
            let (dialler, acceptor, wire) = memory::connection();
            let towards_child = PeerFacts::new(chain, exporter)?;
            let towards_parent = PeerFacts::new(listening.chain.clone(), exporter)?;
            listening.waiting.push_back(Connection::memory(acceptor, towards_child));
            listening.arrived.notify_one();
            board.wires.entry((child.clone(), parent.clone())).or_default().push(wire);
            Ok(Connection::memory(dialler, towards_parent))
        })
    }

    fn target(&self) -> String {
        self.parent.to_string()
    }
}

/// What a cell shows, with what it trusts and the lists that it holds.
fn credentials(own: &Own) -> Credentials {
    Credentials::new(own.certificate().clone(), Arc::clone(&own.roots), own.wall.unix())
        .expect("a provisioned cell of the project")
}

fn chain_of(certificate: &OwnCertificate) -> Vec<Bytes> {
    certificate.chain().iter().map(|der| Bytes::copy_from_slice(der)).collect()
}
