//! Whom a listener lets in.

use std::{fmt, sync::Arc};

use cellbus_proto::{identity::CellKind, name::Segment};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::verify_tls13_signature,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{Direction, OnRefusal, PeerRefused, PinnedPeers, Roots, provider, verify_chain};
use crate::certificate::{identity_of, leaf_hash};

/// Lets in pinned job cells.
pub(super) struct AcceptJobs {
    project: Segment,
    pins: Arc<PinnedPeers>,
    on_refusal: OnRefusal,
}

/// Lets in pinned job cells, and whoever the project's root certified to dial.
pub(super) struct AcceptProject {
    roots: Arc<Roots>,
    jobs: AcceptJobs,
}

impl AcceptJobs {
    pub(super) fn new(project: Segment, pins: Arc<PinnedPeers>, on_refusal: OnRefusal) -> Self {
        Self { project, pins, on_refusal }
    }

    /// A job's certificate signs itself, so its hash is all that is known of it: nothing of what it says counts
    /// before the hash is found. Whether the peer has the key, the handshake's signature shows.
    fn check(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), PeerRefused> {
        let hash = leaf_hash(leaf);
        if !self.pins.contains(&hash) {
            return Err(PeerRefused::NotPinned { hash });
        }
        let (identity, dates) = identity_of(leaf)?;
        dates.check(now.as_secs())?;
        if identity.kind != CellKind::Job {
            return Err(PeerRefused::PinnedKind { kind: identity.kind });
        }
        check_project(&self.project, identity.project)
    }

    fn conclude(&self, outcome: Result<(), PeerRefused>) -> Result<ClientCertVerified, Error> {
        match outcome {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(refused) => {
                (self.on_refusal)(&refused);
                Err(PeerRefused::on_the_wire())
            }
        }
    }
}

impl AcceptProject {
    pub(super) fn new(roots: Arc<Roots>, jobs: AcceptJobs) -> Self {
        Self { roots, jobs }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerRefused> {
        if self.jobs.pins.contains(&leaf_hash(leaf)) {
            return self.jobs.check(leaf, now);
        }
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        let peer = verify_chain(&self.roots, &chain, Direction::Dials, now.as_secs())?;
        check_project(&self.jobs.project, peer.identity.project)
    }
}

pub(super) fn check_project(expected: &Segment, presented: Segment) -> Result<(), PeerRefused> {
    if *expected == presented {
        return Ok(());
    }
    Err(PeerRefused::Project { expected: expected.clone(), presented })
}

impl ClientCertVerifier for AcceptJobs {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.conclude(self.check(end_entity, now))
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

impl ClientCertVerifier for AcceptProject {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.jobs.conclude(self.check(end_entity, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.jobs.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.jobs.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.jobs.supported_verify_schemes()
    }
}

/// Cannot be reached: no configuration here enables TLS 1.2.
pub(super) fn tls12() -> Error {
    PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()
}

impl fmt::Debug for AcceptJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptJobs").field("project", &self.project).finish_non_exhaustive()
    }
}

impl fmt::Debug for AcceptProject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptProject").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}
