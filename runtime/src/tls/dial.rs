//! Whom a cell that dials accepts as its parent.

use std::{fmt, sync::Arc};

use cellbus_proto::name::Segment;
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Direction, OnRefusal, PeerRefused, Roots, accept::tls12, provider, verify_chain};
use crate::certificate::{LeafHash, leaf_hash};

/// Accepts the server or relay of one base name, certified by the project's root.
///
/// The host name that was dialled counts for nothing: hosts move, and whoever could redirect the name could not
/// produce the certificate.
pub(super) struct DialProject {
    roots: Arc<Roots>,
    project: Segment,
    parent: Segment,
    on_refusal: OnRefusal,
}

/// Accepts the holder of one certificate.
///
/// Nothing else of the certificate counts, not even its key usage or dates: the parent that started this process told
/// it the hash, and a site, which nobody else may dial, has a certificate that is not for being dialled with.
pub(super) struct DialPinned {
    parent: LeafHash,
    on_refusal: OnRefusal,
}

impl DialProject {
    pub(super) fn new(
        roots: Arc<Roots>,
        project: Segment,
        parent: Segment,
        on_refusal: OnRefusal,
    ) -> Self {
        Self { roots, project, parent, on_refusal }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerRefused> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        let peer = verify_chain(&self.roots, &chain, Direction::IsDialled, now.as_secs())?;
        let (expected, presented) = (&self.project, peer.identity.project);
        if *expected != presented {
            return Err(PeerRefused::Project { expected: expected.clone(), presented });
        }
        if self.parent.as_str() != peer.identity.name.as_str() {
            let expected = self.parent.clone();
            return Err(PeerRefused::Name { expected, presented: peer.identity.name });
        }
        Ok(())
    }
}

impl DialPinned {
    pub(super) fn new(parent: LeafHash, on_refusal: OnRefusal) -> Self {
        Self { parent, on_refusal }
    }
}

fn refuse(on_refusal: &OnRefusal, refused: &PeerRefused) -> Error {
    on_refusal(refused);
    PeerRefused::on_the_wire()
}

impl ServerCertVerifier for DialProject {
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
            Err(refused) => Err(refuse(&self.on_refusal, &refused)),
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

impl ServerCertVerifier for DialPinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let hash = leaf_hash(end_entity);
        if hash == self.parent {
            return Ok(ServerCertVerified::assertion());
        }
        Err(refuse(&self.on_refusal, &PeerRefused::NotPinned { hash }))
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

impl fmt::Debug for DialProject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialProject").field("parent", &self.parent).finish_non_exhaustive()
    }
}

impl fmt::Debug for DialPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialPinned").finish_non_exhaustive()
    }
}
