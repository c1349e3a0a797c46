//! A cell and the messages that it decides on: for whatever measures how long that takes, or counts how much.

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use cellbus_proto::{
    admission::{Arrival, Gate, Peer},
    codec::{Decoder, Encoder, Frame, FrameLimits, Octets},
    directory::Directory,
    envelope::{Address, Common, Envelope, Flags, Header, Incarnation, Kind, Lane},
    identity::CellKind,
    link::Phase,
    name::Fqcn,
    route::{Hop, LinkId, Routes},
    token::{Claims, ServerKey, Token, TokenSigner, TokenVerifier},
    topology,
};

/// Seconds since 1970 at which everything is decided.
pub const UNIX: u64 = 1_800_000_000;
const SERVER: Incarnation = Incarnation { counter: 1, nonce: 7 };
const PAYLOAD: usize = 64;
/// For its rule: sites may fetch tasks anywhere.
const TOPOLOGY: &str = r#"
[project]
name = "study"
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:8002"
[[cell]]
name = "site-0"
kind = "client"
parent = "server"
[[allow]]
from = "site-*"
to = "*"
channel = "task"
topics = ["fetch"]
"#;

/// One site, as the server knows it.
pub struct Site {
    pub peer: Peer,
    pub envelope: Envelope,
    decoder: Decoder,
    pub encoder: Encoder,
    /// The message once its stream knows names, target and token.
    warm: Bytes,
}

/// The server, and its sites.
pub struct Scene {
    pub gate: Gate,
    pub routes: Arc<Routes>,
    pub sites: Vec<Site>,
    pub now: Instant,
}

fn name(text: &str) -> Fqcn {
    text.parse().expect("a name")
}

fn site(number: u32) -> Fqcn {
    name(&format!("site-{number}"))
}

fn token(signer: &TokenSigner, number: u32) -> Token {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    signer.sign(&Claims {
        version: Claims::VERSION,
        issuer: name("server"),
        project: "study".parse().expect("a name"),
        subject: site(number),
        kind: CellKind::Client,
        org: "org".parse().expect("a name"),
        via: name("server"),
        server_counter: SERVER.counter,
        server_nonce: SERVER.nonce,
        issued: UNIX,
        expires: UNIX + 900,
        id: Octets(id),
        leaf: Octets(leaf(number)),
        job: None,
    })
}

fn leaf(number: u32) -> [u8; 32] {
    let mut leaf = [9; 32];
    leaf[..4].copy_from_slice(&number.to_be_bytes());
    leaf
}

impl Scene {
    /// With so many links, each to a site that sends.
    pub fn new(links: u32) -> Self {
        let signer = TokenSigner::new(&[1; 32]);
        let policy = topology::parse(TOPOLOGY).expect("a topology").topology.policy(1);
        let mut tokens = TokenVerifier::new("study".parse().expect("a name"));
        let key = signer.public_key();
        tokens.set_server(ServerKey { server: name("server"), incarnation: SERVER, key });
        // The last destination is one that nothing comes from, so that there are two sites at least.
        let kinds = (0..=links).map(|number| (site(number), CellKind::Client));
        let directory: Directory = kinds.chain([(name("server"), CellKind::Server)]).collect();
        let mut gate = Gate::new(Arc::new(policy), Arc::new(directory), tokens);
        let mut routes = Routes::new(name("server"), true);
        for number in 0..=links {
            routes.insert_child(site(number), LinkId(number.into()));
        }
        let routes = Arc::new(routes);
        gate.set_routes(Arc::clone(&routes));
        let sites = (0..links).map(|number| Site::new(&signer, number)).collect();
        Self { gate, routes, sites, now: Instant::now() }
    }
}

impl Site {
    fn new(signer: &TokenSigner, number: u32) -> Self {
        let header = Header {
            kind: Kind::Request,
            sequence: 1000,
            common: Arc::new(Common {
                origin: Address::exact(site(number), Incarnation { counter: 1, nonce: 1 }),
                destination: Address::any(site(number + 1)),
                target: "task/fetch".parse().expect("a target"),
                token: Some(token(signer, number)),
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 30_000,
            hops_left: 16,
            extras: None,
        };
        let envelope = Envelope { header, payload: Bytes::from(vec![7; PAYLOAD]) };
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(FrameLimits::default()));
        let mut bytes = || {
            let mut out = BytesMut::new();
            let rest = encoder.encode_message(&envelope, 30_000, &mut out);
            assert!(rest.is_none(), "a small payload is copied");
            out.freeze()
        };
        let (first, warm) = (bytes(), bytes());
        assert!(warm.len() < first.len(), "later messages refer to what the first introduced");
        decoder.feed(first, |_| true).expect("it decodes");
        let peer = Peer {
            link: LinkId(number.into()),
            name: site(number),
            kind: CellKind::Client,
            org: "org".parse().expect("a name"),
            leaf: leaf(number),
            is_parent: false,
            phase: Phase::Active,
        };
        Self { peer, envelope, decoder, encoder, warm }
    }

    /// Reads its message.
    pub fn decode(&mut self) -> Envelope {
        let mut found = None;
        let fed = self.decoder.feed(self.warm.clone(), |frame| {
            found = Some(frame);
            true
        });
        match (fed, found) {
            (Ok(()), Some(Frame::Message(envelope))) => envelope,
            other => panic!("no message: {other:?}"),
        }
    }
}

/// Everything that is decided about one message.
pub fn decide(
    gate: &mut Gate,
    routes: &Routes,
    now: Instant,
    site: &Site,
    envelope: Envelope,
) -> Hop {
    let admitted = gate.admit(now, UNIX, envelope, Arrival::Link(&site.peer));
    let admitted = admitted.expect("a rule allows it");
    let hop = routes.next_hop(&admitted.header().destination.name, admitted.arrived());
    hop.expect("its destination is linked")
}
