//! The certificate of another cell, verified to be that cell's.

use std::fmt;

use cellbus_proto::{
    identity::{CellKind, Identity},
    name::Fqcn,
    status::Status,
    token::Claims,
};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519},
    prelude::{FromDer, X509Certificate},
};

use super::hpke::SealingKey;
use crate::{
    certificate::{CertDates, LeafHash, identity_of, leaf_hash},
    own::Own,
    tls::{ChainError, Direction, MAX_CHAIN, verify_chain, verify_leaf_signature},
};

/// A leaf certificate that was verified, and what is done with its key.
pub struct Leaf {
    der: Vec<u8>,
    hash: LeafHash,
    identity: Identity,
    dates: CertDates,
    key: Option<SealingKey>,
    root: Option<LeafHash>,
}

impl Leaf {
    /// Takes a leaf whose chain, or pin, the caller has verified.
    pub(crate) fn verified(der: &[u8], identity: Identity, dates: CertDates) -> Self {
        let key = sealing_key(der);
        Self { der: der.to_vec(), hash: leaf_hash(der), identity, dates, key, root: None }
    }

    /// The same, with the hash of the root that vouches for it.
    pub(crate) fn of_root(self, root: Option<LeafHash>) -> Self {
        Self { root, ..self }
    }

    /// The hash of the root that vouches for it, where somebody has looked.
    pub(crate) fn root(&self) -> Option<LeafHash> {
        self.root
    }

    /// Verifies that `chain` is the certificate of the cell that `claims` name: the server's word on the
    /// leaf, and for every cell but a job cell, which no authority certifies, the project's too.
    ///
    /// # Errors
    /// [`Status::CertName`], [`Status::CertKind`], [`Status::CertExpired`], [`Status::BadSignature`].
    pub(crate) fn verify(
        own: &Own,
        chain: &[impl AsRef<[u8]>],
        claims: &Claims,
    ) -> Result<Self, Status> {
        let leaf = chain.first().ok_or(Status::BadSignature)?.as_ref();
        // Cheap, and what a liar fails at: the server has named one leaf for this cell.
        if leaf_hash(leaf) != claims.leaf.0 || chain.len() > MAX_CHAIN {
            return Err(Status::BadSignature);
        }
        let now = own.wall.unix();
        let (identity, dates) = if claims.kind == CellKind::Job {
            let (identity, dates) = identity_of(leaf).map_err(|_| Status::CertKind)?;
            dates.check(now).map_err(|_| Status::CertExpired)?;
            (identity, dates)
        } else {
            let ders: Vec<CertificateDer<'_>> =
                chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
            let peer = verify_chain(&own.roots, &ders, Direction::Dials, now).map_err(|error| {
                let is_date = matches!(error, ChainError::OutOfDate(_));
                if is_date { Status::CertExpired } else { Status::BadSignature }
            })?;
            (peer.identity, peer.dates)
        };
        if identity.kind != claims.kind || identity.project != own.identity.project {
            return Err(Status::CertKind);
        }
        let leaf = Self::verified(leaf, identity, dates);
        if leaf.is_of(&claims.subject) { Ok(leaf) } else { Err(Status::CertName) }
    }

    /// Whether it names the cell `name`.
    pub(crate) fn is_of(&self, name: &Fqcn) -> bool {
        match self.identity.kind {
            CellKind::Job => self.identity.name == *name,
            CellKind::Server | CellKind::Relay | CellKind::Client | CellKind::Admin => {
                self.identity.name.as_str() == name.base()
            }
        }
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> LeafHash {
        self.hash
    }

    /// Its DER form.
    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// What it says of its holder.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn dates(&self) -> CertDates {
        self.dates
    }

    pub(super) fn key(&self) -> Option<&SealingKey> {
        self.key.as_ref()
    }

    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        verify_leaf_signature(&self.der, message, signature)
    }
}

/// The key of a certificate, if it is one that messages can be sealed to.
fn sealing_key(der: &[u8]) -> Option<SealingKey> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let info = cert.public_key();
    let key = &info.subject_public_key.data;
    let algorithm = &info.algorithm;
    if algorithm.algorithm == OID_SIG_ED25519 {
        return SealingKey::from_ed25519(key);
    }
    let curve = algorithm.parameters.as_ref()?.as_oid().ok()?;
    let is_p256 = algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256;
    is_p256.then(|| SealingKey::from_p256(key))
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leaf").field(&self.identity).finish()
    }
}
