//! Issuing certificates: a project's own development authority, and the certificates of job cells.
//!
//! Every certificate made here carries both dates, exactly one URI name, its key usage and the
//! extended key usage of its direction. Keys are P-256.

use std::{fmt, net::IpAddr, time::Duration};

use cellbus_proto::{
    identity::{CellKind, Identity},
    name::Segment,
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    date_time_ymd,
};
use rustls_pki_types::{
    CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

pub use self::{
    credentials::{Credentials, CredentialsError, FileProblem},
    dev::{DevCredentialsError, cell_dir, ensure_dev_credentials},
    issuer::{
        ISSUER_CERTIFICATE, ISSUER_KEY, ISSUER_TERMS, IssuerError, IssuingAuthority, Reissue,
        ReissueError, issuer_terms, reissue,
    },
    own_certificate::{OwnCertificate, OwnCertificateError, Presented},
    project::{Certified, have_same_key, self_sign, verify_by_root},
};
use crate::certificate::{CertDates, CertificateError, LeafHash, leaf_hash, read_certificate};

mod credentials;
mod dev;
mod issuer;
mod own_certificate;
mod project;
pub mod renewed;
#[cfg(test)]
mod tests;

/// How long a development authority lasts.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a leaf of a development authority lasts.
pub const DEV_LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long the certificate of a job cell lasts.
pub const JOB_LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How far a certificate reaches into the past, for holders whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(300);
/// The last second of the year 9999, past which X.509 has no dates.
const LAST_SECOND: u64 = 253_402_300_799;

/// A development authority: the root certificate of a project and the key to issue with.
pub struct Authority {
    project: Segment,
    dates: CertDates,
    root: CertificateDer<'static>,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A new certificate, with the key that was made for it.
pub struct Issued {
    certificate: Certificate,
    key: KeyPair,
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The identity is of another project.
    #[error("the authority of project {ours} issues nothing for project {asked}")]
    Project {
        /// The project of the authority.
        ours: Segment,
        /// The project of the identity.
        asked: Segment,
    },
    /// Job cells get certificates from their parents, provisioned cells from authorities.
    #[error("no way to issue a certificate for a {kind} here")]
    Kind {
        /// The kind asked for.
        kind: CellKind,
    },
    /// Host names for a cell that nobody dials, or a text that is no host name.
    #[error("host {host:?} cannot stand in the certificate of a {kind}")]
    Host {
        /// The text.
        host: String,
        /// The kind of the cell.
        kind: CellKind,
    },
    /// The dates are empty, or lie outside those of the authority.
    #[error(
        "no second lies both between {not_before} and {not_after} and in the authority's own dates"
    )]
    Dates {
        /// First second asked for.
        not_before: u64,
        /// Last second asked for.
        not_after: u64,
    },
    /// The root certificate of an authority cannot be read.
    #[error("root certificate")]
    Root(#[source] CertificateError),
    /// The authority may have no issuing authority below it.
    #[error("the authority may have no other authority below it; only a new one can")]
    NoIssuers,
    /// The certificate may sign no others.
    #[error("not the certificate of an authority")]
    NoAuthority,
    /// The key is another certificate's.
    #[error("private key does not belong to the root certificate")]
    Mismatch,
    /// A certificate or key could not be made or read.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

impl CertDates {
    /// From shortly before `now_unix`, for clocks that are behind, until `life` after it.
    #[must_use]
    pub fn lasting(now_unix: u64, life: Duration) -> Self {
        Self {
            not_before: now_unix.saturating_sub(BACKDATED.as_secs()),
            not_after: now_unix.saturating_add(life.as_secs()).min(LAST_SECOND),
        }
    }
}

impl Authority {
    /// Makes a new authority for `project`, with a new key.
    ///
    /// # Errors
    /// [`AuthorityError::Make`] when no key can be made.
    pub fn create(project: Segment, now_unix: u64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let dates = CertDates::lasting(now_unix, AUTHORITY_LIFE);
        let mut params = params(&format!("cellbus authority of {project}"), dates)?;
        // Signs leaves and revocation lists; nothing that it signs may sign in turn.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key)?;
        let (root, root_pem) = (root.der().clone(), root.pem());
        Ok(Self { project, dates, root, root_pem, issuer: Issuer::new(params, key) })
    }

    /// Takes up an authority again from its root certificate and its key, both in PEM form.
    ///
    /// # Errors
    /// [`AuthorityError`] when either cannot be read, or the certificate is no authority's or not that of the key.
    pub fn restore(
        project: Segment,
        root_pem: &str,
        key_pem: &str,
    ) -> Result<Self, AuthorityError> {
        let root = CertificateDer::from_pem_slice(root_pem.as_bytes())
            .map_err(|_| AuthorityError::Root(CertificateError::Malformed))?;
        let contents = read_certificate(&root).map_err(AuthorityError::Root)?;
        if !contents.facts.is_authority {
            return Err(AuthorityError::NoAuthority);
        }
        let key = KeyPair::from_pem(key_pem)?;
        let (_, parsed) = X509Certificate::from_der(&root)
            .map_err(|_| AuthorityError::Root(CertificateError::Malformed))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&root, key)?;
        Ok(Self { project, dates: contents.dates, root, root_pem: root_pem.to_owned(), issuer })
    }

    /// The project it issues for.
    #[must_use]
    pub fn project(&self) -> &Segment {
        &self.project
    }

    /// The root certificate, for everybody in the project to trust.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The root certificate in PEM form, for a file.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// When the root certificate counts.
    #[must_use]
    pub fn dates(&self) -> CertDates {
        self.dates
    }

    /// The private key in PKCS#8 PEM form, for a secret file.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Issues a certificate for `identity`, with a key made for it. It never outlives the authority.
    ///
    /// # Arguments
    /// `hosts`: addresses or DNS names under which a server or relay is dialled, empty for all others. Cells do not
    /// rely on them; they are there for other tools.
    ///
    /// # Errors
    /// [`AuthorityError`] when the identity is of another project or a job's, for a host that is none, or when
    /// `dates` lie outside the authority's own.
    pub fn issue(
        &self,
        identity: &Identity,
        hosts: &[String],
        dates: CertDates,
    ) -> Result<Issued, AuthorityError> {
        let params = self.leaf(identity, hosts, dates)?;
        self.sign(&params)
    }

    /// What a certificate for `identity` states.
    fn leaf(
        &self,
        identity: &Identity,
        hosts: &[String],
        dates: CertDates,
    ) -> Result<CertificateParams, AuthorityError> {
        if identity.project != self.project {
            return Err(AuthorityError::Project {
                ours: self.project.clone(),
                asked: identity.project.clone(),
            });
        }
        if identity.kind == CellKind::Job {
            return Err(AuthorityError::Kind { kind: identity.kind });
        }
        let within = CertDates {
            not_before: dates.not_before.max(self.dates.not_before),
            not_after: dates.not_after.min(self.dates.not_after),
        };
        if within.not_before > within.not_after {
            let CertDates { not_before, not_after } = dates;
            return Err(AuthorityError::Dates { not_before, not_after });
        }
        let mut params = leaf_params(identity, within)?;
        for host in hosts {
            params.subject_alt_names.push(host_name(host, identity.kind)?);
        }
        Ok(params)
    }

    /// Signs whatever it is given, with a new key.
    pub(crate) fn sign(&self, params: &CertificateParams) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate, key })
    }
}

impl Issued {
    /// The certificate, then what leads to the root, without the root.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    /// The chain in PEM form.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The hash of the certificate.
    #[must_use]
    pub fn hash(&self) -> LeafHash {
        leaf_hash(self.certificate.der())
    }

    /// The private key, PKCS#8.
    #[must_use]
    pub fn key(&self) -> Zeroizing<PrivateKeyDer<'static>> {
        Zeroizing::new(PrivatePkcs8KeyDer::from(self.key.serialize_der()).into())
    }

    /// The private key in PKCS#8 PEM form.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issued")
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("project", &self.project).finish_non_exhaustive()
    }
}

/// Makes the certificate and key of one launch of a job cell.
///
/// Its parent makes them, pins the hash, and hands both to the job's process over a pipe. They sign themselves:
/// what makes others trust them is the pin alone. They are never written to a file.
///
/// # Errors
/// [`AuthorityError::Kind`] for an identity that is not a job's, [`AuthorityError::Make`] when no key can be made.
pub fn mint_job(identity: &Identity, now_unix: u64) -> Result<Issued, AuthorityError> {
    if identity.kind != CellKind::Job {
        return Err(AuthorityError::Kind { kind: identity.kind });
    }
    let dates = CertDates::lasting(now_unix, JOB_LEAF_LIFE);
    let key = KeyPair::generate()?;
    let certificate = leaf_params(identity, dates)?.self_signed(&key)?;
    Ok(Issued { certificate, key })
}

pub(crate) fn leaf_params(
    identity: &Identity,
    dates: CertDates,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(identity.name.base(), dates)?;
    let uri = identity.to_uri().try_into()?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if identity.kind.accepts_cells() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(common_name: &str, dates: CertDates) -> Result<CertificateParams, AuthorityError> {
    let CertDates { not_before, not_after } = dates;
    if not_before > not_after || not_after > LAST_SECOND {
        return Err(AuthorityError::Dates { not_before, not_after });
    }
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn host_name(host: &str, kind: CellKind) -> Result<SanType, AuthorityError> {
    let refused = || AuthorityError::Host { host: host.to_owned(), kind };
    if !kind.accepts_cells() {
        return Err(refused());
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    DnsName::try_from(host).map_err(|_| refused())?;
    Ok(SanType::DnsName(host.to_owned().try_into()?))
}
