//! The worked example of the document: `site-1` registers at `server`, asks, and leaves.

use std::sync::Arc;

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};

use super::{Stream, counting, files, name};
use crate::{
    codec::{
        Frame, Octets,
        body::{self, Blob, WireIncarnation},
    },
    envelope::{Address, Common, Envelope, Flags, Header, Incarnation, Kind, Lane},
    identity::CellKind,
    token::{Claims, Token, TokenSigner},
    transcript::{EndToEndFacts, Purpose, RegisterFacts, Transcript, sha256},
    well_known::{self, SystemTopic},
};

pub(super) const PROJECT: &str = "study";
/// Secret keys of the two certificates, and of the tokens: 32 times this byte.
pub(super) const SERVER_SEED: u8 = 2;
pub(super) const SITE_SEED: u8 = 3;
pub(super) const TOKEN_SEED: u8 = 4;
pub(super) const SITE: Incarnation = Incarnation { counter: 3, nonce: 0x0102_0304_0506_0708 };
pub(super) const SERVER: Incarnation = Incarnation { counter: 5, nonce: 0x1112_1314_1516_1718 };
pub(super) const CHALLENGE: u64 = 1;
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn sign(seed: u8, signable: &[u8]) -> Blob {
    Blob(key(seed).sign(signable).to_bytes().to_vec())
}

/// What is random in life: nonces of the child and of the parent, and the exporter.
pub(super) fn child_nonce() -> [u8; 32] {
    counting(0x20)
}

pub(super) fn parent_nonce() -> [u8; 32] {
    counting(0x40)
}

pub(super) fn exporter() -> [u8; 32] {
    counting(0x60)
}

pub(super) fn leaf(name: &str) -> [u8; 32] {
    sha256(&files::certificate(name))
}

pub(super) fn register(purpose: Purpose) -> Vec<u8> {
    RegisterFacts {
        project: PROJECT,
        child: "site-1",
        child_kind: "client",
        parent: "server",
        parent_kind: "server",
        child_nonce: &child_nonce(),
        parent_nonce: &parent_nonce(),
        challenge: CHALLENGE,
        child_leaf: &leaf("site-1"),
        parent_leaf: &leaf("server"),
        exporter: &exporter(),
    }
    .signable(purpose)
}

pub(super) fn end_to_end() -> Vec<u8> {
    EndToEndFacts {
        project: PROJECT,
        child: "site-1",
        parent: "server",
        server: "server",
        server_nonce: &parent_nonce(),
        child_leaf: &leaf("site-1"),
    }
    .signable()
}

pub(super) fn token_key() -> Vec<u8> {
    Transcript::new(Purpose::TokenKey)
        .field(PROJECT.as_bytes())
        .field(b"server")
        .field(&SERVER.counter.to_be_bytes())
        .field(&SERVER.nonce.to_be_bytes())
        .field(&key(TOKEN_SEED).verifying_key().to_bytes())
        .field(&leaf("server"))
        .finish()
}

pub(super) fn claims() -> Claims {
    Claims {
        version: Claims::VERSION,
        issuer: name("server"),
        project: PROJECT.parse().unwrap(),
        subject: name("site-1"),
        kind: CellKind::Client,
        org: "st-mary".parse().unwrap(),
        via: name("server"),
        server_counter: SERVER.counter,
        server_nonce: SERVER.nonce,
        issued: NOW,
        expires: NOW + 900,
        id: Octets(counting(0x80)),
        leaf: Octets(leaf("site-1")),
        job: None,
    }
}

fn token_of_server() -> Token {
    let claims = Claims {
        subject: name("server"),
        kind: CellKind::Server,
        org: "hq".parse().unwrap(),
        id: Octets(counting(0x90)),
        leaf: Octets(leaf("server")),
        ..claims()
    };
    TokenSigner::new(&[TOKEN_SEED; 32]).sign(&claims)
}

pub(super) fn server_key() -> body::SignedServerKey {
    body::SignedServerKey {
        server: name("server"),
        incarnation: SERVER.into(),
        key: Octets(key(TOKEN_SEED).verifying_key().to_bytes()),
        chain: vec![Blob(files::certificate("server"))],
        signature: sign(SERVER_SEED, &token_key()),
    }
}

pub(super) fn proof() -> body::Register {
    body::Register {
        signature: sign(SITE_SEED, &register(Purpose::Register)),
        end_to_end: sign(SITE_SEED, &end_to_end()),
    }
}

pub(super) fn registered() -> body::Registered {
    let token = TokenSigner::new(&[TOKEN_SEED; 32]).sign(&claims());
    body::Registered {
        signature: sign(SERVER_SEED, &register(Purpose::RegisterAck)),
        token: Blob(token.as_bytes().to_vec()),
        server_key: server_key(),
        epoch: 1,
    }
}

fn hello() -> body::Hello {
    body::Hello {
        version_min: 1,
        version_max: 1,
        features: Vec::new(),
        name: name("site-1"),
        parent: name("server"),
        incarnation: SITE.into(),
        nonce: Octets(child_nonce()),
    }
}

fn hello_ok() -> body::HelloOk {
    body::HelloOk {
        version: 1,
        name: name("server"),
        kind: CellKind::Server,
        incarnation: WireIncarnation(SERVER.counter, SERVER.nonce),
        challenge: body::WireChallenge {
            id: CHALLENGE,
            nonce: Octets(parent_nonce()),
            server: name("server"),
            server_nonce: Octets(parent_nonce()),
        },
        payload_max: 1 << 20,
        beat_ms: 1000,
        silence_ms: 4000,
        unix_ms: None,
    }
}

fn message(
    kind: Kind,
    sequence: u64,
    from_site: bool,
    topic: SystemTopic,
    token: Option<Token>,
    payload: Bytes,
) -> Frame {
    let site = Address::exact(name("site-1"), SITE);
    let (origin, destination) = if from_site {
        (site, Address::any(name("server")))
    } else {
        (Address::exact(name("server"), SERVER), site)
    };
    let hops_left = if token.is_some() { 15 } else { 1 };
    Frame::Message(Envelope {
        header: Header {
            kind,
            sequence,
            common: Arc::new(Common {
                origin,
                destination,
                target: topic.into(),
                token,
                lane: Lane::Control,
                flags: Flags::default(),
            }),
            hops_left,
            budget_ms: 5000,
            extras: None,
        },
        payload,
    })
}

fn answer(to: u64, body: Vec<u8>) -> Frame {
    Frame::Answer(body::Answer { to, status: 0, body: Blob(body) })
}

/// The control stream, as the child writes it and as the parent does.
pub(super) fn streams() -> Vec<Stream> {
    let token = || Token::from_bytes(registered().token.0.into());
    let proof = body::encode(&proof());
    let child = vec![
        Frame::Hello(hello()),
        message(Kind::Request, 1, true, well_known::REGISTER, None, proof),
        Frame::Beat(body::Beat { number: 1 }),
        message(Kind::Request, 2, true, well_known::PING, token(), Bytes::from_static(b"hi")),
        message(Kind::Request, 3, true, well_known::BYE, None, Bytes::new()),
    ];
    let registered = body::encode(&registered()).to_vec();
    let reply = Kind::Reply { to: 2 };
    let of_server = Some(token_of_server());
    let parent = vec![
        Frame::HelloOk(hello_ok()),
        answer(1, registered),
        Frame::Echo(body::Echo { number: 1, epoch: 1, revocations: 0, renewal: None }),
        message(reply, 1, false, well_known::PING, of_server, Bytes::from_static(b"hi")),
        answer(3, Vec::new()),
    ];
    vec![
        Stream::written("example-child", "the control stream of `site-1`, as it writes it", child),
        Stream::written(
            "example-parent",
            "the control stream of `server`, as it writes it",
            parent,
        ),
    ]
}
