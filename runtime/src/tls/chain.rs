//! Whether a chain of certificates leads to the project's root, whom its leaf then names, and whether a list
//! says that it counts no more.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use cellbus_proto::{
    identity::{CellKind, Identity},
    status::Status,
    trust::{Subject, View},
};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::certificate::{
    CertDates, CertificateError, LeafHash, OutOfDate, identity_of, leaf_hash, read_certificate,
};

/// Certificates in the longest chain that is looked at, leaf included.
pub const MAX_CHAIN: usize = 4;

/// The certificates that a project's chains must lead to, and the lists of those that count no more. Both may
/// be replaced while cells run; the next chain is checked by what holds then.
pub struct Roots {
    trusted: RwLock<Arc<Trusted>>,
    lists: RwLock<View>,
}

struct Trusted {
    ders: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Which end of a connection a certificate was presented at, hence what it must allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Its holder dialled.
    Dials,
    /// Its holder was dialled.
    IsDialled,
}

/// The other end, as its certificate proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// Whom the leaf names.
    pub identity: Identity,
    /// When the leaf counts.
    pub dates: CertDates,
    /// The leaf's hash.
    pub hash: LeafHash,
}

/// Why a chain proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// No certificate at all.
    #[error("no certificate")]
    Empty,
    /// More certificates than a chain may have.
    #[error("chain of {count} certificates, the limit is {MAX_CHAIN}")]
    TooLong {
        /// Certificates presented.
        count: usize,
    },
    /// A certificate on the way does not count now.
    #[error(transparent)]
    OutOfDate(#[from] OutOfDate),
    /// The leaf, or what issued it, may not be used in this direction.
    #[error("extended key usage does not allow its holder to be {}", direction_word(.direction))]
    KeyUsage {
        /// The direction.
        direction: Direction,
    },
    /// No unbroken chain of signatures to a root.
    #[error("not issued by the project's authority: {reason}")]
    Untrusted {
        /// What the verification says.
        reason: webpki::Error,
    },
    /// The leaf cannot be read, or names nobody.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A job's certificate, which only a pin can make good.
    #[error("certificate of a job cell, which no authority issues")]
    Job,
    /// The certificate or its holder is on one of the signed lists: this is the code.
    #[error("refused by a list: {0}")]
    Listed(Status),
}

fn direction_word(direction: &Direction) -> &'static str {
    match direction {
        Direction::Dials => "the one who dials",
        Direction::IsDialled => "the one who is dialled",
    }
}

impl Roots {
    /// Trusts these certificates, in DER form.
    ///
    /// # Errors
    /// [`ChainError`] when there is none, or one that cannot be read or is no authority's.
    pub fn new(ders: Vec<CertificateDer<'static>>) -> Result<Self, ChainError> {
        let trusted = RwLock::new(Arc::new(Trusted::new(ders)?));
        Ok(Self { trusted, lists: RwLock::default() })
    }

    /// The same certificates, with lists of its own: what one cell takes over is not another's.
    #[must_use]
    pub fn separate(&self) -> Self {
        let trusted = RwLock::new(self.trusted());
        Self { trusted, lists: RwLock::default() }
    }

    /// Trusts these certificates from now on, and no others.
    ///
    /// # Errors
    /// As [`Self::new`]; nothing changes then.
    pub fn replace(&self, ders: Vec<CertificateDer<'static>>) -> Result<(), ChainError> {
        let trusted = Arc::new(Trusted::new(ders)?);
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = trusted;
        Ok(())
    }

    /// The lists in force.
    #[must_use]
    pub fn lists(&self) -> View {
        self.lists.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the lists that are in force from now on.
    pub(crate) fn set_lists(&self, lists: View) {
        *self.lists.write().unwrap_or_else(PoisonError::into_inner) = lists;
    }

    fn trusted(&self) -> Arc<Trusted> {
        Arc::clone(&self.trusted.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The certificates, as given.
    #[must_use]
    pub fn ders(&self) -> Vec<CertificateDer<'static>> {
        self.trusted().ders.clone()
    }
}

impl Trusted {
    fn new(ders: Vec<CertificateDer<'static>>) -> Result<Self, ChainError> {
        if ders.is_empty() {
            return Err(ChainError::Empty);
        }
        let mut anchors = Vec::with_capacity(ders.len());
        for der in &ders {
            if !read_certificate(der)?.facts.is_authority {
                return Err(ChainError::Untrusted { reason: webpki::Error::EndEntityUsedAsCa });
            }
            let anchor =
                anchor_from_trusted_cert(der).map_err(|reason| ChainError::Untrusted { reason })?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self { ders, anchors })
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("count", &self.trusted().ders.len()).finish()
    }
}

/// Checks a chain, leaf first: signatures up to a root, dates of all below it at `now_unix`, key usage, the name in
/// the leaf, and that no list in force names its holder or one of its certificates.
///
/// That the peer has the leaf's key is not seen here; a handshake or [`super::verify_leaf_signature`] shows it.
///
/// # Errors
/// [`ChainError`] for the first check that fails.
pub fn verify_chain(
    roots: &Roots,
    chain: &[CertificateDer<'_>],
    direction: Direction,
    now_unix: u64,
) -> Result<VerifiedPeer, ChainError> {
    let peer = verify_path(roots, chain, direction, now_unix)?;
    let lists = roots.lists();
    let VerifiedPeer { identity, hash, .. } = &peer;
    let subject = Subject { kind: identity.kind, name: &identity.name, leaf: hash };
    if let Some(status) = lists.refuses(subject, now_unix) {
        return Err(ChainError::Listed(status));
    }
    let above = chain.iter().skip(1);
    if lists.revocations.is_some()
        && above.into_iter().any(|der| lists.revokes_certificate(&leaf_hash(der), now_unix))
    {
        return Err(ChainError::Listed(Status::CertRevoked));
    }
    Ok(peer)
}

/// As [`verify_chain`], whatever the lists say: for what was signed at `now_unix`, in the past.
pub(crate) fn verify_path(
    roots: &Roots,
    chain: &[CertificateDer<'_>],
    direction: Direction,
    now_unix: u64,
) -> Result<VerifiedPeer, ChainError> {
    let (leaf, intermediates) = chain.split_first().ok_or(ChainError::Empty)?;
    if chain.len() > MAX_CHAIN {
        return Err(ChainError::TooLong { count: chain.len() });
    }
    let usage = match direction {
        Direction::Dials => KeyUsage::client_auth(),
        Direction::IsDialled => KeyUsage::server_auth(),
    };
    let refused = |error| explain(error, direction);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now_unix));
    let entity = EndEntityCert::try_from(leaf).map_err(refused)?;
    entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &roots.trusted().anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(refused)?;
    // The verification above is content with a leaf that states no usage at all; an identity is not.
    let (identity, dates) = identity_of(leaf)?;
    if identity.kind == CellKind::Job {
        return Err(ChainError::Job);
    }
    if direction == Direction::IsDialled && !identity.kind.accepts_cells() {
        return Err(ChainError::KeyUsage { direction });
    }
    Ok(VerifiedPeer { identity, dates, hash: leaf_hash(leaf) })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list of errors is open")]
fn explain(error: webpki::Error, direction: Direction) -> ChainError {
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            OutOfDate::Expired { not_after: not_after.as_secs() }.into()
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            OutOfDate::NotYetValid { not_before: not_before.as_secs() }.into()
        }
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            ChainError::KeyUsage { direction }
        }
        webpki::Error::BadDer | webpki::Error::TrailingData(_) => {
            CertificateError::Malformed.into()
        }
        reason => ChainError::Untrusted { reason },
    }
}
