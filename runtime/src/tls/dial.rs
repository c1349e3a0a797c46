//! Whom a cell that dials accepts as its parent, and what every dialler has in common.

use std::{fmt, sync::Arc};

use cellbus_proto::name::Segment;
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{
    Direction, OnRefusal, PeerRefused, Roots, VerifiedPeer,
    accept::{check_project, tls12},
    provider, verify_chain,
};
use crate::certificate::{LeafHash, leaf_hash};

/// Whom a dialler accepts.
pub(super) trait Accepts: fmt::Debug + Send + Sync {
    /// Whether whoever shows `leaf`, with `others` beside it, is who was meant.
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerRefused>;
}

/// A dialler's side of the handshake. The peer is told nothing but that it is refused.
pub(super) struct Dials<A> {
    accepts: A,
    on_refusal: OnRefusal,
}

/// Accepts the server or relay of one base name, certified by the project's root.
///
/// The host name that was dialled counts for nothing: hosts move, and whoever could redirect the name could not
/// produce the certificate.
pub(super) struct DialProject {
    pub(super) roots: Arc<Roots>,
    pub(super) project: Segment,
    pub(super) parent: Segment,
}

/// Accepts the holder of one certificate.
///
/// Nothing else of the certificate counts, not even its key usage or dates: the parent that started this process told
/// it the hash, and a site, which nobody else may dial, has a certificate that is not for being dialled with.
#[derive(Debug)]
pub(super) struct DialPinned(pub(super) LeafHash);

/// Whether a peer is the cell of this name and project.
pub(super) fn check_cell(
    project: &Segment,
    cell: &Segment,
    peer: VerifiedPeer,
) -> Result<(), PeerRefused> {
    check_project(project, peer.identity.project)?;
    if cell.as_str() == peer.identity.name.as_str() {
        return Ok(());
    }
    Err(PeerRefused::Name { expected: cell.clone(), presented: peer.identity.name })
}

impl Accepts for DialProject {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerRefused> {
        let chain: Vec<_> = std::iter::once(leaf).chain(others).cloned().collect();
        let peer = verify_chain(&self.roots, &chain, Direction::IsDialled, now.as_secs())?;
        check_cell(&self.project, &self.parent, peer)
    }
}

impl Accepts for DialPinned {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<(), PeerRefused> {
        let hash = leaf_hash(leaf);
        if hash == self.0 { Ok(()) } else { Err(PeerRefused::NotPinned { hash }) }
    }
}

impl<A> Dials<A> {
    pub(super) fn new(accepts: A, on_refusal: OnRefusal) -> Self {
        Self { accepts, on_refusal }
    }
}

impl<A: Accepts> ServerCertVerifier for Dials<A> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.accepts.check(end_entity, intermediates, now) {
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

impl<A: fmt::Debug> fmt::Debug for Dials<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dials").field("accepts", &self.accepts).finish_non_exhaustive()
    }
}

impl fmt::Debug for DialProject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialProject").field("parent", &self.parent).finish_non_exhaustive()
    }
}
