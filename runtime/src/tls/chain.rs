//! Whether a chain of certificates leads to the project's root, whom its leaf then names, and whether a list
//! says that it counts no more.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use cellbus_proto::{
    identity::{CellKind, Identity},
    name::Segment,
    status::Status,
    trust::{Subject, View},
};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

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
    /// For each anchor, the projects that it may vouch for, where it says so.
    projects: Vec<Option<Vec<String>>>,
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
    /// The hash of the root that vouches for it.
    pub root: LeafHash,
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
    /// A person whom an issuing authority has certified, which may certify cells only.
    #[error("certificate of a person that the project's authority has not issued itself")]
    Person,
    /// The root may vouch for other projects only.
    #[error("the authority that issued it may not vouch for project {project}")]
    NameConstraint {
        /// The project that the leaf names.
        project: Segment,
    },
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
        let mut projects = Vec::with_capacity(ders.len());
        for der in &ders {
            if !read_certificate(der)?.facts.is_authority {
                return Err(ChainError::Untrusted { reason: webpki::Error::EndEntityUsedAsCa });
            }
            let anchor =
                anchor_from_trusted_cert(der).map_err(|reason| ChainError::Untrusted { reason })?;
            let mut anchor = anchor.to_owned();
            let permitted = permitted_projects(der)?;
            if permitted.is_some() {
                // The library refuses every URI name where such names are constrained; `verify_chain` compares them.
                anchor.name_constraints = None;
            }
            anchors.push(anchor);
            projects.push(permitted);
        }
        Ok(Self { ders, anchors, projects })
    }

    /// The hash of the root that ended a path, if it may vouch for `project`.
    fn permit(&self, anchor: &TrustAnchor<'_>, project: &Segment) -> Option<LeafHash> {
        let is_it = |held: &TrustAnchor<'_>| {
            held.subject == anchor.subject
                && held.subject_public_key_info == anchor.subject_public_key_info
        };
        let all = self.anchors.iter().zip(&self.projects).zip(&self.ders);
        let mut places = all.filter(|((held, _), _)| is_it(held));
        let permitted = places.find(|((_, projects), _)| {
            let named = |host: &String| host == project.as_str();
            projects.as_ref().is_none_or(|projects| projects.iter().any(named))
        });
        permitted.map(|(_, der)| leaf_hash(der))
    }
}

/// The hosts of URI names that a root may vouch for, where that is all that it constrains.
fn permitted_projects(der: &[u8]) -> Result<Option<Vec<String>>, CertificateError> {
    let malformed = |_| CertificateError::Malformed;
    let (_, cert) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
    let Some(constraints) = cert.name_constraints().map_err(malformed)? else { return Ok(None) };
    let constraints = constraints.value;
    if constraints.excluded_subtrees.is_some() {
        return Ok(None);
    }
    let host = |name: &GeneralName<'_>| {
        if let GeneralName::URI(host) = name { Some((*host).to_owned()) } else { None }
    };
    let permitted = constraints.permitted_subtrees.iter().flatten();
    Ok(permitted.map(|subtree| host(&subtree.base)).collect())
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
    let trusted = roots.trusted();
    let path = entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &trusted.anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(refused)?;
    // The verification above is content with a leaf that states no usage at all; an identity is not.
    let (identity, dates) = identity_of(leaf)?;
    let Some(root) = trusted.permit(path.anchor(), &identity.project) else {
        return Err(ChainError::NameConstraint { project: identity.project });
    };
    if identity.kind == CellKind::Job {
        return Err(ChainError::Job);
    }
    // People have rights that no cell has: no key on a machine that is online makes them.
    if identity.kind == CellKind::Admin && path.intermediate_certificates().next().is_some() {
        return Err(ChainError::Person);
    }
    if direction == Direction::IsDialled && !identity.kind.accepts_cells() {
        return Err(ChainError::KeyUsage { direction });
    }
    Ok(VerifiedPeer { identity, dates, hash: leaf_hash(leaf), root })
}

/// The hash of the root that vouches for a chain now; `None` where none does, as for a job's certificate.
pub(crate) fn root_of(
    roots: &Roots,
    chain: &[impl AsRef<[u8]>],
    now_unix: u64,
) -> Option<LeafHash> {
    let ders: Vec<CertificateDer<'_>> =
        chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    verify_path(roots, &ders, Direction::Dials, now_unix).ok().map(|peer| peer.root)
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
