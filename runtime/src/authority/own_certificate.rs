//! A certificate together with its private key, checked to belong together.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use cellbus_proto::identity::Identity;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Issued;
use crate::{
    certificate::{CertDates, CertificateError, LeafHash, identity_of, leaf_hash},
    seal::OpeningKey,
    tls,
};

/// Who this cell is, and the key to prove it. Cheap to clone.
#[derive(Clone)]
pub struct OwnCertificate {
    identity: Identity,
    dates: CertDates,
    hash: LeafHash,
    certified: Arc<CertifiedKey>,
    opening: Option<Arc<OpeningKey>>,
}

/// What a cell shows to those who speak with it. Another certificate may take its place while the cell runs; the next
/// handshake shows it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Presented(Arc<RwLock<OwnCertificate>>);

impl Presented {
    /// The certificate that is shown now.
    #[must_use]
    pub fn certificate(&self) -> OwnCertificate {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another one from now on.
    pub fn show(&self, next: OwnCertificate) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
    }
}

impl From<OwnCertificate> for Presented {
    fn from(certificate: OwnCertificate) -> Self {
        Self(Arc::new(RwLock::new(certificate)))
    }
}

impl From<&OwnCertificate> for Presented {
    fn from(certificate: &OwnCertificate) -> Self {
        certificate.clone().into()
    }
}

impl From<&Presented> for Presented {
    fn from(presented: &Presented) -> Self {
        presented.clone()
    }
}

/// Why a chain and a key make nobody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnCertificateError {
    /// There is no certificate.
    #[error("no certificate")]
    Empty,
    /// The certificate cannot be read, or names nobody.
    #[error("certificate")]
    Certificate(#[from] CertificateError),
    /// The key is of no kind that cells sign with, or is no key.
    #[error("private key is neither a P-256 nor an Ed25519 key")]
    Key,
    /// The key is another certificate's.
    #[error("private key does not belong to the certificate")]
    Mismatch,
}

impl OwnCertificate {
    /// Joins a chain, leaf first, with its key.
    ///
    /// # Errors
    /// [`OwnCertificateError`] when the leaf names nobody, or the key is not the leaf's or not one that cells sign with.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<Self, OwnCertificateError> {
        let leaf = chain.first().ok_or(OwnCertificateError::Empty)?;
        let (identity, dates) = identity_of(leaf)?;
        let hash = leaf_hash(leaf);
        let opening = OpeningKey::from_der(key).map(Arc::new);
        let key = tls::provider()
            .key_provider
            .load_private_key(key.clone_key())
            .map_err(|_| OwnCertificateError::Key)?;
        if key.choose_scheme(tls::LEAF_SCHEMES).is_none() {
            return Err(OwnCertificateError::Key);
        }
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| OwnCertificateError::Mismatch)?;
        Ok(Self { identity, dates, hash, certified: Arc::new(certified), opening })
    }

    /// Who the certificate names.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the certificate counts.
    #[must_use]
    pub fn dates(&self) -> CertDates {
        self.dates
    }

    /// The hash of the leaf.
    #[must_use]
    pub fn hash(&self) -> LeafHash {
        self.hash
    }

    /// The leaf, then what leads to the root, without the root.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// What opens messages that were sealed to it; none for a key that is not P-256.
    pub(crate) fn opening(&self) -> Option<&OpeningKey> {
        self.opening.as_deref()
    }

    /// The form that the TLS library takes.
    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl TryFrom<&Issued> for OwnCertificate {
    type Error = OwnCertificateError;

    fn try_from(issued: &Issued) -> Result<Self, OwnCertificateError> {
        Self::new(issued.chain(), &issued.key())
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnCertificate")
            .field("identity", &self.identity)
            .field("dates", &self.dates)
            .finish_non_exhaustive()
    }
}
