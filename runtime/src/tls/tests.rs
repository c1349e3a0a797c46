//! Real handshakes over loopback QUIC, good ones and every bad one.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use cellbus_proto::{identity::Identity, status::Status};
use quinn::{Connection, ConnectionError, Endpoint};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
};
use rustls_pki_types::ServerName;

use super::*;
use crate::{
    authority::{Authority, DEV_LEAF_LIFE, Issued, leaf_params, mint_job},
    certificate::{CertDates, leaf_hash},
    quic_settings::{QuicSettings, QuicTransport, bind},
};

mod certificates;
mod jobs;
mod session;
mod signatures;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;

fn id(uri: &str) -> Identity {
    Identity::from_uri(uri).unwrap()
}

fn server() -> Identity {
    id("cell://study/server/server?org=hq")
}

fn site() -> Identity {
    id("cell://study/client/site-1?org=st-mary")
}

fn job() -> Identity {
    id("cell://study/job/site-1.job-7?org=st-mary")
}

fn quarter() -> CertDates {
    CertDates::lasting(NOW, DEV_LEAF_LIFE)
}

fn at(now: u64) -> Arc<dyn TimeProvider> {
    clock_from(move || now)
}

/// A project, its server's listener, and what that listener saw.
struct World {
    authority: Authority,
    roots: Arc<Roots>,
    pins: Arc<PinnedPeers>,
    refusals: Arc<Mutex<Vec<PeerRefused>>>,
}

impl World {
    fn new() -> Self {
        let authority = Authority::create("study".parse().unwrap(), NOW).unwrap();
        let roots = Arc::new(Roots::new(vec![authority.root().clone()]).unwrap());
        Self { authority, roots, pins: Arc::default(), refusals: Arc::default() }
    }

    fn issue(&self, identity: &Identity) -> Issued {
        self.authority.issue(identity, &[], quarter()).unwrap()
    }

    fn credentials(&self, identity: &Identity) -> Credentials {
        self.credentials_of(&self.issue(identity))
    }

    fn credentials_of(&self, issued: &Issued) -> Credentials {
        let own = OwnCertificate::try_from(issued).unwrap();
        Credentials::new(own, Arc::clone(&self.roots), NOW).unwrap()
    }

    fn on_refusal(&self) -> OnRefusal {
        let refusals = Arc::clone(&self.refusals);
        Arc::new(move |refused| refusals.lock().unwrap().push(refused.clone()))
    }

    fn listener(&self, now: u64) -> ServerConfig {
        self.listener_of(&server(), now)
    }

    fn listener_of(&self, identity: &Identity, now: u64) -> ServerConfig {
        let own = self.credentials(identity);
        server_config(&own, Arc::clone(&self.pins), at(now), self.on_refusal()).unwrap()
    }

    fn dialler(&self, identity: &Identity, now: u64) -> ClientConfig {
        let own = self.credentials(identity);
        client_config(&own, &"server".parse().unwrap(), at(now), self.on_refusal()).unwrap()
    }

    fn refused(&self) -> Vec<PeerRefused> {
        std::mem::take(&mut self.refusals.lock().unwrap())
    }
}

/// What a peer without scruples dials with: it trusts whom it finds and shows what it has.
fn rogue(chain: Vec<rustls_pki_types::CertificateDer<'static>>, issued: &Issued) -> ClientConfig {
    let key = provider().key_provider.load_private_key(issued.key().clone_key()).unwrap();
    let certified = rustls::sign::SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let mut config = rogue_without_certificate();
    config.client_auth_cert_resolver = Arc::new(certified);
    config
}

fn rogue_without_certificate() -> ClientConfig {
    let mut config = ClientConfig::builder_with_details(provider(), at(NOW))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

#[derive(Debug)]
struct TrustAll;

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls_pki_types::CertificateDer<'_>,
        _intermediates: &[rustls_pki_types::CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls_pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(accept::tls12())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &rustls_pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Both ends of one attempt, and the endpoints that carry them.
struct Attempt {
    accepted: Result<Connection, ConnectionError>,
    dialled: Result<Connection, ConnectionError>,
    endpoints: [Endpoint; 2],
}

async fn shake(tls: ServerConfig, dials: ClientConfig) -> Attempt {
    shake_as(tls, dials, SERVER_NAME).await
}

fn endpoint(address: SocketAddr, tls: Option<ServerConfig>) -> Endpoint {
    let transport = QuicTransport::new(QuicSettings::default()).unwrap();
    let socket = bind(address, 1 << 20).unwrap().socket;
    let server = tls.map(|tls| transport.server_config(tls).unwrap());
    let config = transport.endpoint_config(&[1; 64], 1);
    Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime)).unwrap()
}

async fn shake_as(tls: ServerConfig, dials: ClientConfig, name: &str) -> Attempt {
    let transport = QuicTransport::new(QuicSettings::default()).unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let (listener, caller) = (endpoint(loopback, Some(tls)), endpoint(loopback, None));
    let address = listener.local_addr().unwrap();
    let config = transport.client_config(dials).unwrap();
    let connecting = caller.connect_with(config, address, name).unwrap();
    let (accepted, dialled) =
        tokio::join!(async { listener.accept().await.unwrap().await }, connecting);
    // The one who dials is done first; what the other side thought of its certificate comes after.
    let dialled = match (&accepted, dialled) {
        (Err(_), Ok(connection)) => Err(connection.closed().await),
        (_, dialled) => dialled,
    };
    Attempt { accepted, dialled, endpoints: [listener, caller] }
}

/// That neither side has a connection.
#[track_caller]
fn assert_refused(attempt: &Attempt) {
    assert!(attempt.accepted.is_err() && attempt.dialled.is_err());
}

/// That one side refused the other's certificate; gives the reason, which it kept to itself.
async fn refusal_of(world: &World, tls: ServerConfig, dials: ClientConfig) -> PeerRefused {
    let attempt = shake(tls, dials).await;
    for end in [attempt.accepted, attempt.dialled] {
        let text = end.expect_err("connected").to_string();
        assert!(
            text.ends_with("invalid peer certificate: ApplicationVerificationFailure"),
            "{text}"
        );
    }
    let mut refused = world.refused();
    assert_eq!(refused.len(), 1, "{refused:?}");
    refused.remove(0)
}

fn peer(connection: &Connection) -> [u8; 32] {
    let identity = connection.peer_identity().unwrap();
    let chain: Box<Vec<rustls_pki_types::CertificateDer<'static>>> = identity.downcast().unwrap();
    leaf_hash(&chain[0])
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let world = World::new();
    let (own, parent) = (world.credentials(&site()), world.credentials(&server()));
    let tls = server_config(&parent, Arc::clone(&world.pins), at(NOW), world.on_refusal()).unwrap();
    let dials =
        client_config(&own, &"server".parse().unwrap(), at(NOW), world.on_refusal()).unwrap();
    let attempt = shake(tls, dials).await;
    let (accepted, dialled) = (attempt.accepted.unwrap(), attempt.dialled.unwrap());
    assert_eq!(peer(&accepted), own.certificate().hash());
    assert_eq!(peer(&dialled), parent.certificate().hash());
    let data = accepted.handshake_data().unwrap();
    let data: Box<quinn::crypto::rustls::HandshakeData> = data.downcast().unwrap();
    assert_eq!(data.protocol.as_deref(), Some(ALPN));
    // Both see the same connection: what they bind signatures to.
    let export = |connection: &Connection| {
        let mut bytes = [0; 32];
        connection.export_keying_material(&mut bytes, b"EXPORTER-Channel-Binding", b"").unwrap();
        bytes
    };
    assert_eq!(export(&accepted), export(&dialled));
    assert_eq!(world.refused(), []);
}

#[test]
fn the_hybrid_key_exchange_is_offered_first() {
    let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
    assert_eq!(groups[0], NamedGroup::X25519MLKEM768);
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}
