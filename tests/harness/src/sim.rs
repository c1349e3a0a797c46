//! A network of UDP sockets in memory, seeded, on the paused clock: real QUIC and real TLS, and the same run every time.
//!
//! ```no_run
//! # use cellbus_harness::sim::{LinkSettings, SimNet};
//! # fn example(server_config: quinn::ServerConfig) -> std::io::Result<()> {
//! let (server, site) = (([10, 0, 0, 1], 4433).into(), ([10, 0, 0, 2], 4433).into());
//! let net = SimNet::new(7);
//! net.set_default(LinkSettings { loss: 0.05, ..LinkSettings::default() });
//! let listener = net.endpoint(server, quinn::EndpointConfig::default(), Some(server_config))?;
//! let dialler = net.endpoint(site, quinn::EndpointConfig::default(), None)?;
//! net.cut_one_way(server, site); // the server hears the site, and the site hears nothing
//! net.heal(server, site);
//! net.kill(server); // the process is gone: its socket neither sends nor hears, whatever its tasks do
//! # Ok(()) }
//! ```
//!
//! A host is the address of its one socket. Packets go over a path for each ordered pair of hosts; a path has
//! [`LinkSettings`], a queue, a cut, and random decisions of its own, so that one more packet on a path changes
//! nothing on any other, and one more lost packet changes nothing later on its own.
//!
//! Everything must run on one current-thread runtime with a paused clock, see [`crate::seeds::run_paused`].
//! Timers of that clock have a grain of a millisecond, and so have arrivals.
//!
//! # What repeats
//! The same seed gives the same packets of the same lengths at the same times, on the same paths, in any process
//! built from the same sources: [`SimNet::trace_hash`] is equal. What is *in* the packets does not repeat, since
//! TLS takes its keys and nonces, and QUIC its connection ids, from the system. Hence:
//!
//! - Certificates come from [`SimAuthority`]. A P-256 key signs in 70 to 72 bytes, as chance has it, and every such
//!   signature in a handshake shifts all that follows; an Ed25519 key always signs in 64. The serial number of a
//!   certificate is a number too, a byte shorter now and then, so its keys come from the seed.
//! - The rest of a handshake has one length: key shares (ML-KEM-768 with X25519), connection ids, tokens, nonces.
//!   [`SimNet::endpoint`] seeds what else QUIC draws: skipped packet numbers, padding, unknown parameters.
//! - Corruption stays out of the first half of a packet. A changed header could be answered, depending on random
//!   connection ids; a changed body fails authentication, and the packet is dropped, always.
//! - The certificates' clock must be a fixed one, not the system's.
//! - The code under test must not wait on anything but this network and this clock: no threads, no blocking tasks,
//!   no real sockets, and no `select!` that is not `biased`. What it draws at random must have one length when it
//!   is sent; an identifier encoded as a number has not.
//! - Certificates that the code under test makes for itself have P-256 keys. A run with such handshakes ends the
//!   same, and its trace differs.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quinn::{EndpointConfig, ServerConfig};

use self::state::State;
pub use self::{
    authority::SimAuthority, link::LinkSettings, runtime::SimRuntime, socket::SimSocket,
    traffic::Traffic,
};

mod authority;
mod link;
mod path;
mod runtime;
mod socket;
mod state;
#[cfg(test)]
mod tests;
mod traffic;

/// The network. Cheap to clone; all clones are one network.
#[derive(Clone, Debug)]
pub struct SimNet {
    state: Arc<Mutex<State>>,
}

impl SimNet {
    /// A network without hosts. Call it in the runtime that the hosts will run on: the trace counts from now.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(seed))) }
    }

    /// What everything random here comes from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.state().seed()
    }

    /// Starts a QUIC endpoint on a new socket of `host`, as a new process would: see [`SimNet::socket`].
    ///
    /// # Arguments
    /// `config`: its `rng_seed` is replaced, by one that comes from the seed of the network.
    ///
    /// # Errors
    /// Those of the library; none is expected.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn endpoint(
        &self,
        host: SocketAddr,
        mut config: EndpointConfig,
        server: Option<ServerConfig>,
    ) -> io::Result<quinn::Endpoint> {
        let socket = self.socket(host);
        config.rng_seed(Some(socket.rng_seed()));
        quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(SimRuntime))
    }

    /// Binds `host`. A socket that was bound to it before is silent from now on, and what was under way to it is
    /// lost.
    #[must_use]
    pub fn socket(&self, host: SocketAddr) -> Arc<SimSocket> {
        Arc::new(SimSocket::bind(self.clone(), host))
    }

    /// Takes the socket of `host` away: it neither sends nor receives from now on, and nobody is told.
    pub fn kill(&self, host: SocketAddr) {
        // Held until the lock is open again: what it owns may come back here when it is dropped.
        let _gone = self.state().unbind(host);
    }

    /// Sets what every path is like that has no settings of its own, from the next packet on.
    pub fn set_default(&self, settings: LinkSettings) {
        self.state().default = settings;
    }

    /// Sets what the path `from` one host `to` another is like, from the next packet on.
    pub fn set(&self, from: SocketAddr, to: SocketAddr, settings: LinkSettings) {
        self.state().path(from, to).settings = Some(settings);
    }

    /// Sets what both paths between two hosts are like, from the next packet on.
    pub fn set_both(&self, a: SocketAddr, b: SocketAddr, settings: LinkSettings) {
        self.set(a, b, settings.clone());
        self.set(b, a, settings);
    }

    /// Loses everything between two hosts, and what is under way, without telling either.
    pub fn cut(&self, a: SocketAddr, b: SocketAddr) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Loses everything `from` one host `to` another, and what is under way, without telling either.
    pub fn cut_one_way(&self, from: SocketAddr, to: SocketAddr) {
        self.state().cut(from, to);
    }

    /// Undoes every cut between two hosts.
    pub fn heal(&self, a: SocketAddr, b: SocketAddr) {
        let mut state = self.state();
        state.path(a, b).cut = false;
        state.path(b, a).cut = false;
    }

    /// Undoes every cut.
    pub fn heal_all(&self) {
        self.state().heal_all();
    }

    /// What was sent since the beginning.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.state().traffic()
    }

    /// What was sent `from` one host `to` another since the beginning.
    #[must_use]
    pub fn traffic_on(&self, from: SocketAddr, to: SocketAddr) -> Traffic {
        self.state().path(from, to).traffic
    }

    /// A hash of when, from where, to where and how long every packet was, so far. Equal for equal runs.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.state().trace_hash()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
