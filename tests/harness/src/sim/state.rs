//! Who is bound where, what is under way to them, and the trace.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    net::SocketAddr,
    task::Waker,
};

use quinn::udp::EcnCodepoint;
use tokio::time::Instant;

use super::{
    LinkSettings, Traffic,
    path::{Fate, Path},
};

#[derive(Debug)]
pub(super) struct State {
    pub(super) default: LinkSettings,
    seed: u64,
    start: Instant,
    hosts: BTreeMap<SocketAddr, Host>,
    paths: BTreeMap<(SocketAddr, SocketAddr), Path>,
    /// Numbers sockets and packets, so that equal times have an order.
    next: u64,
    trace: DefaultHasher,
}

/// The socket that is bound to an address now.
#[derive(Debug)]
pub(super) struct Host {
    generation: u64,
    /// By arrival, then in the order of sending.
    under_way: BTreeMap<(Instant, u64), Packet>,
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: Vec<u8>,
}

/// What a socket finds when it looks for packets.
pub(super) enum Inbox {
    /// This has arrived.
    Arrived(Packet),
    /// Nothing yet; the next arrives then.
    Next(Instant),
    /// Nothing at all.
    Empty,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            default: LinkSettings::default(),
            seed,
            start: Instant::now(),
            hosts: BTreeMap::new(),
            paths: BTreeMap::new(),
            next: 0,
            trace: DefaultHasher::new(),
        }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// A new socket of `address`: its generation, and what it replaces.
    pub(super) fn bind(&mut self, address: SocketAddr) -> (u64, Option<Host>) {
        let generation = self.number();
        let host = Host { generation, under_way: BTreeMap::new(), waker: None };
        (generation, self.hosts.insert(address, host))
    }

    pub(super) fn unbind(&mut self, address: SocketAddr) -> Option<Host> {
        self.hosts.remove(&address)
    }

    /// The host, unless another socket has its address by now, or none.
    pub(super) fn host(&mut self, address: SocketAddr, generation: u64) -> Option<&mut Host> {
        self.hosts.get_mut(&address).filter(|host| host.generation == generation)
    }

    pub(super) fn path(&mut self, from: SocketAddr, to: SocketAddr) -> &mut Path {
        let seed = self.seed;
        self.paths.entry((from, to)).or_insert_with(|| Path::new(hash(&(seed, from, to)), to))
    }

    pub(super) fn cut(&mut self, from: SocketAddr, to: SocketAddr) {
        let path = self.path(from, to);
        path.cut = true;
        let Some(host) = self.hosts.get_mut(&to) else { return };
        let before = host.under_way.len();
        host.under_way.retain(|_, packet| packet.from != from);
        let lost = before - host.under_way.len();
        self.path(from, to).traffic.dropped += u64::try_from(lost).unwrap_or(u64::MAX);
    }

    pub(super) fn heal_all(&mut self) {
        for path in self.paths.values_mut() {
            path.cut = false;
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for path in self.paths.values() {
            sum += path.traffic;
        }
        sum
    }

    #[cfg(test)]
    pub(super) fn hosts(&self) -> usize {
        self.hosts.len()
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.finish()
    }

    /// Sends a packet; gives whom to wake, if there is somebody who has to look at the clock again.
    pub(super) fn send(&mut self, to: SocketAddr, mut packet: Packet) -> Option<Waker> {
        let now = Instant::now();
        let len = packet.payload.len();
        (now - self.start, packet.from, to, len).hash(&mut self.trace);
        let default = self.default.clone();
        let fate = self.path(packet.from, to).send(now, len, &default);
        let Fate::Arrives { at, again, change } = fate else { return None };
        if let Some((place, bits)) = change {
            packet.payload[place] ^= bits;
        }
        let numbers = [self.number(), self.number()];
        let host = self.hosts.get_mut(&to)?;
        let first = host.under_way.keys().next().copied();
        if let Some(again) = again {
            host.under_way.insert((again, numbers[1]), packet.clone());
        }
        host.under_way.insert((at, numbers[0]), packet);
        // Only a packet that arrives before all others changes when there is something to do.
        if host.under_way.keys().next().copied() == first { None } else { host.waker.take() }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Host {
    /// Takes the next packet that has arrived.
    pub(super) fn receive(&mut self) -> Inbox {
        let Some(first) = self.under_way.first_entry() else { return Inbox::Empty };
        let (at, _) = *first.key();
        if at > Instant::now() {
            return Inbox::Next(at);
        }
        Inbox::Arrived(first.remove())
    }

    /// Has `waker` told of packets that are sent from now on; gives the one that was before.
    pub(super) fn watch(&mut self, waker: &Waker) -> Option<Waker> {
        self.waker.replace(waker.clone())
    }
}

/// One number from several, the same in every process.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
