//! TLS at a join door: whoever comes has no certificate yet, and knows the door by its name and by the fingerprint of
//! the project's authority.

use std::{fmt, sync::Arc};

use cellbus_proto::{joining, name::Segment};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::verify_tls13_signature,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    Direction, MAX_CHAIN, OnRefusal, PeerRefused, Roots, accept::tls12, provider, verify_chain,
};
use crate::{
    authority::{Credentials, Presented},
    certificate::{LeafHash, leaf_hash},
};

/// Certificates that a door shows at most: its chain, and the authorities of two generations.
const SHOWN_MAX: usize = MAX_CHAIN + 3;

/// Which door is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorPin {
    /// The project.
    pub project: Segment,
    /// Base name of the cell that has the door.
    pub cell: Segment,
    /// SHA-256 of the certificate of the project's authority.
    pub root: LeafHash,
}

/// A door of the holder of `own`, which asks nobody for a certificate.
pub(crate) fn door_config(
    own: &Credentials,
    clock: Arc<dyn TimeProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let shown = WithRoots { own: own.presented().clone(), roots: Arc::clone(own.roots()) };
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![joining::ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Ok(config)
}

/// What whoever joins knocks with.
pub(crate) fn knock_config(
    pin: DoorPin,
    clock: Arc<dyn TimeProvider>,
    on_refusal: OnRefusal,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(DialDoor { pin, on_refusal }))
        .with_no_client_auth();
    config.alpn_protocols = vec![joining::ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.cert_compressors = Vec::new();
    config.cert_decompressors = Vec::new();
    Ok(config)
}

/// Shows the certificate of the cell and those of the project's authorities: whoever comes has the fingerprint of one.
#[derive(Debug)]
struct WithRoots {
    own: Presented,
    roots: Arc<Roots>,
}

impl ResolvesServerCert for WithRoots {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.server_name() != Some(joining::SERVER_NAME) {
            return None;
        }
        let certificate = self.own.certificate();
        let certified = certificate.certified();
        let shown = certified.cert.iter().cloned().chain(self.roots.ders()).collect();
        Some(Arc::new(CertifiedKey::new(shown, Arc::clone(&certified.key))))
    }
}

/// Accepts the cell of one name, certified by the authority of one fingerprint.
struct DialDoor {
    pin: DoorPin,
    on_refusal: OnRefusal,
}

impl DialDoor {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerRefused> {
        let not_pinned = || PeerRefused::NotPinned { hash: leaf_hash(leaf) };
        if others.len() > SHOWN_MAX {
            return Err(not_pinned());
        }
        let is_root = |der: &&CertificateDer<'_>| leaf_hash(der) == self.pin.root;
        let root = others.iter().find(is_root).ok_or_else(not_pinned)?;
        let roots = Roots::new(vec![root.clone().into_owned()])?;
        // Another generation's authority leads nowhere, and would only make the chain too long.
        let between = others.iter().filter(|der| !is_root(der)).take(MAX_CHAIN - 1);
        let chain: Vec<_> = std::iter::once(leaf).chain(between).cloned().collect();
        let peer = verify_chain(&roots, &chain, Direction::IsDialled, now.as_secs())?;
        let (expected, presented) = (&self.pin.project, peer.identity.project);
        if *expected != presented {
            return Err(PeerRefused::Project { expected: expected.clone(), presented });
        }
        if self.pin.cell.as_str() != peer.identity.name.as_str() {
            let expected = self.pin.cell.clone();
            return Err(PeerRefused::Name { expected, presented: peer.identity.name });
        }
        Ok(())
    }
}

impl ServerCertVerifier for DialDoor {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.check(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(refused) => {
                (self.on_refusal)(&refused);
                Err(PeerRefused::on_the_wire())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for DialDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialDoor").field("pin", &self.pin).finish_non_exhaustive()
    }
}
