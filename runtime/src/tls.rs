//! TLS as cells use it: version 1.3 with both sides certified, and nothing carried over from one connection to the next.
//!
//! | who listens | whom it lets in |
//! |---|---|
//! | server, relay | whoever the project's root certified to dial, and its own pinned job cells |
//! | site | its own pinned job cells |
//!
//! | who dials | whom it accepts |
//! |---|---|
//! | any cell | the server or relay of the expected name, certified by the project's root |
//! | job cell | the one certificate that its parent told it |
//!
//! No session is stored and no ticket given: a resumed session would skip the checks of the peer's
//! certificate, so a revoked or expired one would go on being let in.

use std::sync::{Arc, LazyLock};

use cellbus_proto::name::Segment;
use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::UnixTime;

use self::{
    accept::{AcceptJobs, AcceptProject},
    dial::{DialPinned, DialProject, Dials},
};
pub use self::{
    chain::{ChainError, Direction, MAX_CHAIN, Roots, VerifiedPeer, verify_chain},
    join::DoorPin,
    pins::PinnedPeers,
    refusal::PeerRefused,
    signer::{LeafSigner, SignError, verify_leaf_signature},
};
pub(crate) use self::{
    chain::{root_of, verify_path},
    join::{door_config, knock_config},
};
use crate::{
    authority::{Credentials, OwnCertificate, Presented},
    certificate::LeafHash,
};

mod accept;
mod chain;
mod dial;
mod join;
mod pins;
mod refusal;
mod signer;
#[cfg(test)]
mod tests;

/// The application protocol, and with it the one version of it, that cells agree on.
pub const ALPN: &[u8] = b"cellbus/1";

/// The server name that every cell dials. It says nothing about the peer, whose certificate does;
/// a listener turns away whoever asks for another before it shows its certificate.
pub const SERVER_NAME: &str = "cell.cellbus.invalid";

/// Signature schemes of leaf keys, best first.
pub(crate) const LEAF_SCHEMES: &[SignatureScheme] =
    &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];

/// Told of every certificate that is refused, by a listener or by one who dials. The peer is told nothing but that it is refused.
///
/// Runs within the handshake: count and log, do not wait.
pub type OnRefusal = Arc<dyn Fn(&PeerRefused) + Send + Sync>;

/// The cryptography in use; the hybrid post-quantum key exchange comes first.
///
/// It is handed to every configuration and never installed for the process, so what runs does not depend on
/// which part of the program came first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// A clock for TLS from a function that tells the seconds since 1970.
pub fn clock_from<F>(now_unix: F) -> Arc<dyn TimeProvider>
where
    F: Fn() -> u64 + Send + Sync + 'static,
{
    Arc::new(Clock(now_unix))
}

struct Clock<F>(F);

impl<F> std::fmt::Debug for Clock<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl<F: Fn() -> u64 + Send + Sync> TimeProvider for Clock<F> {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs((self.0)())))
    }
}

/// The listener of a server or relay.
///
/// # Errors
/// Those of the TLS library; none is expected for credentials that were loaded or issued.
pub fn server_config(
    own: &Credentials,
    pins: Arc<PinnedPeers>,
    clock: Arc<dyn TimeProvider>,
    on_refusal: OnRefusal,
) -> Result<ServerConfig, rustls::Error> {
    let project = own.certificate().identity().project.clone();
    let jobs = AcceptJobs::new(project, pins, on_refusal);
    let verifier = AcceptProject::new(Arc::clone(own.roots()), jobs);
    listener(own.presented(), Arc::new(verifier), clock)
}

/// The loopback listener of a site, for its own job cells and nobody else.
///
/// The certificate of a site is not one to be dialled with; its jobs pin it by hash, see [`job_client_config`].
///
/// # Errors
/// Those of the TLS library; none is expected for credentials that were loaded or issued.
pub fn job_server_config(
    own: impl Into<Presented>,
    pins: Arc<PinnedPeers>,
    clock: Arc<dyn TimeProvider>,
    on_refusal: OnRefusal,
) -> Result<ServerConfig, rustls::Error> {
    let own = own.into();
    let project = own.certificate().identity().project.clone();
    listener(&own, Arc::new(AcceptJobs::new(project, pins, on_refusal)), clock)
}

/// What a cell dials its parent with, a server or relay whose certificate must carry the base name `parent`.
///
/// # Errors
/// Those of the TLS library; none is expected for credentials that were loaded or issued.
pub fn client_config(
    own: &Credentials,
    parent: &Segment,
    clock: Arc<dyn TimeProvider>,
    on_refusal: OnRefusal,
) -> Result<ClientConfig, rustls::Error> {
    let project = own.certificate().identity().project.clone();
    let accepts = DialProject { roots: Arc::clone(own.roots()), project, parent: parent.clone() };
    dialler(own.presented().clone(), Arc::new(Dials::new(accepts, on_refusal)), clock)
}

/// What a job cell dials its parent with: exactly the holder of the certificate with hash `parent`.
///
/// # Errors
/// Those of the TLS library; none is expected for a certificate that was minted for a job.
pub fn job_client_config(
    own: &OwnCertificate,
    parent: LeafHash,
    clock: Arc<dyn TimeProvider>,
    on_refusal: OnRefusal,
) -> Result<ClientConfig, rustls::Error> {
    dialler(own.into(), Arc::new(Dials::new(DialPinned(parent), on_refusal)), clock)
}

fn listener(
    own: &Presented,
    verifier: Arc<dyn ClientCertVerifier>,
    clock: Arc<dyn TimeProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let resolver = OneName(own.clone());
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver));
    listens_as(&mut config, ALPN);
    Ok(config)
}

/// What every listener has in common: one protocol, and nothing that a later connection could be resumed by.
fn listens_as(config: &mut ServerConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
}

/// What every dialler has in common, likewise.
fn dials_as(config: &mut ClientConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
}

fn dialler(
    own: Presented,
    verifier: Arc<dyn ServerCertVerifier>,
    clock: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(ToEverybody(own)));
    dials_as(&mut config, ALPN);
    Ok(config)
}

/// Shows the certificate to those who ask for [`SERVER_NAME`].
#[derive(Debug)]
struct OneName(Presented);

impl ResolvesServerCert for OneName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_ours = hello.server_name() == Some(SERVER_NAME);
        is_ours.then(|| Arc::clone(self.0.certificate().certified()))
    }
}

/// Shows the certificate to whoever was dialled.
#[derive(Debug)]
struct ToEverybody(Presented);

impl ResolvesClientCert for ToEverybody {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.certificate().certified()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
