//! Why a peer's certificate was refused, as it is logged and counted here.

use cellbus_proto::{
    identity::{CellKind, IdentityError},
    name::{Fqcn, Segment},
    status::Status,
};
use rustls::CertificateError as TlsCertificateError;

use super::ChainError;
use crate::certificate::{CertificateError, LeafHash, OutOfDate};

/// Why the other end of a handshake was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefused {
    /// The certificate leads nowhere, or names nobody.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The certificate is of another project.
    #[error("certificate is of project {presented}, this is {expected}")]
    Project {
        /// Our project.
        expected: Segment,
        /// Theirs.
        presented: Segment,
    },
    /// The one who was dialled is somebody else.
    #[error("certificate is that of {presented}, {expected} was dialled")]
    Name {
        /// The base name that was dialled.
        expected: Segment,
        /// The name in the certificate.
        presented: Fqcn,
    },
    /// No pin has this hash.
    #[error("certificate {} is not pinned", hex(.hash))]
    NotPinned {
        /// The hash presented.
        hash: LeafHash,
    },
    /// What is pinned is not a job's certificate.
    #[error("pinned certificate is that of a {kind}, not of a job")]
    PinnedKind {
        /// The kind in the certificate.
        kind: CellKind,
    },
}

impl PeerRefused {
    /// The code to log and count it under.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Chain(ChainError::OutOfDate(_)) => Status::CertExpired,
            Self::Chain(ChainError::Listed(status)) => *status,
            Self::Chain(ChainError::KeyUsage { .. } | ChainError::Job)
            | Self::Chain(ChainError::Certificate(CertificateError::Identity(
                IdentityError::KeyUsage { .. } | IdentityError::Kind(_) | IdentityError::Authority,
            )))
            | Self::PinnedKind { .. } => Status::CertKind,
            Self::Chain(ChainError::Certificate(CertificateError::Identity(_)))
            | Self::Chain(ChainError::NameConstraint { .. } | ChainError::Person)
            | Self::Project { .. }
            | Self::Name { .. } => Status::CertName,
            Self::Chain(
                ChainError::Empty
                | ChainError::TooLong { .. }
                | ChainError::Untrusted { .. }
                | ChainError::Certificate(CertificateError::Malformed),
            )
            | Self::NotPinned { .. } => Status::Unauthenticated,
        }
    }

    /// What the peer gets to see of it, whatever it is. The text of a TLS error travels to the peer with the alert,
    /// so the reason stays out of it.
    pub(super) fn on_the_wire() -> rustls::Error {
        rustls::Error::InvalidCertificate(TlsCertificateError::ApplicationVerificationFailure)
    }
}

impl From<CertificateError> for PeerRefused {
    fn from(error: CertificateError) -> Self {
        Self::Chain(error.into())
    }
}

impl From<OutOfDate> for PeerRefused {
    fn from(error: OutOfDate) -> Self {
        Self::Chain(error.into())
    }
}

fn hex(hash: &LeafHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
