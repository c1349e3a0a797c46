//! What a certificate contains, as far as anybody here asks: identity, dates, hash.
//!
//! Reading concludes nothing. Who may rely on a certificate is for [`crate::tls`] to say.

use cellbus_proto::{
    identity::{CertFacts, Identity, IdentityError},
    transcript::sha256,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

pub mod profile;
#[cfg(test)]
mod tests;

/// SHA-256 of a certificate's DER form; names the certificate wherever one is pinned or bound to.
pub type LeafHash = [u8; 32];

/// The hash by which a certificate is pinned or bound to.
#[must_use]
pub fn leaf_hash(der: &[u8]) -> LeafHash {
    sha256(der)
}

/// When a certificate counts, in seconds since 1970; both ends are inside.
///
/// A date before 1970 reads as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertDates {
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

/// Why a certificate does not count at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfDate {
    /// Too early.
    #[error("certificate is not valid before {not_before} (seconds since 1970)")]
    NotYetValid {
        /// First second.
        not_before: u64,
    },
    /// Too late.
    #[error("certificate has expired at {not_after} (seconds since 1970)")]
    Expired {
        /// Last second.
        not_after: u64,
    },
}

impl CertDates {
    /// Whether a certificate with these dates counts at `now_unix`.
    ///
    /// # Errors
    /// [`OutOfDate`] when it does not yet, or no longer.
    pub fn check(self, now_unix: u64) -> Result<(), OutOfDate> {
        let Self { not_before, not_after } = self;
        if now_unix < not_before {
            return Err(OutOfDate::NotYetValid { not_before });
        }
        if now_unix > not_after {
            return Err(OutOfDate::Expired { not_after });
        }
        Ok(())
    }
}

/// What was read from a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertContents {
    /// Names and usages.
    pub facts: CertFacts,
    /// When it counts.
    pub dates: CertDates,
}

/// Why a certificate could not be read, or names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not one whole X.509 certificate, or one with a part that cannot be read.
    #[error("not a well-formed certificate")]
    Malformed,
    /// Well-formed, and no identity in it.
    #[error("certificate names no cell")]
    Identity(#[from] IdentityError),
}

/// Reads a certificate from its DER form. Total: any bytes give a value or an error.
///
/// # Errors
/// [`CertificateError::Malformed`] when the bytes are not exactly one certificate, when an extension
/// is repeated, or when any extension or name in it cannot be read: what is not understood is not
/// skipped, since it could be the part that says no.
pub fn read_certificate(der: &[u8]) -> Result<CertContents, CertificateError> {
    let malformed = |_| CertificateError::Malformed;
    let (rest, cert) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
    let unread =
        |ext: &x509_parser::extensions::X509Extension<'_>| ext.parsed_extension().error().is_some();
    if !rest.is_empty() || cert.iter_extensions().any(unread) {
        return Err(CertificateError::Malformed);
    }
    cert.extensions_map().map_err(malformed)?;

    let mut facts = CertFacts::default();
    if let Some(names) = cert.subject_alternative_name().map_err(malformed)? {
        for name in &names.value.general_names {
            if let GeneralName::URI(uri) = name {
                facts.uris.push((*uri).to_owned());
            }
            if matches!(name, GeneralName::Invalid(..)) {
                return Err(CertificateError::Malformed);
            }
        }
    }
    if let Some(usage) = cert.extended_key_usage().map_err(malformed)? {
        // `any` is no direction: a certificate says which way it is for.
        facts.client_auth = usage.value.client_auth;
        facts.server_auth = usage.value.server_auth;
    }
    let signs = cert.key_usage().map_err(malformed)?.is_some_and(|u| u.value.key_cert_sign());
    let is_ca = cert.basic_constraints().map_err(malformed)?.is_some_and(|basic| basic.value.ca);
    facts.is_authority = is_ca || signs;

    let seconds = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp()).unwrap_or(0);
    let validity = cert.validity();
    let dates = CertDates {
        not_before: seconds(validity.not_before),
        not_after: seconds(validity.not_after),
    };
    Ok(CertContents { facts, dates })
}

/// Reads whom a certificate names, and when it counts.
///
/// # Errors
/// [`CertificateError`] when it cannot be read or gives its holder no identity.
pub fn identity_of(der: &[u8]) -> Result<(Identity, CertDates), CertificateError> {
    let CertContents { facts, dates } = read_certificate(der)?;
    Ok((Identity::from_facts(&facts)?, dates))
}

/// Whether two certificates are of one key.
#[must_use]
pub fn have_same_key(one: &[u8], other: &[u8]) -> bool {
    let (Ok((_, one)), Ok((_, other))) =
        (X509Certificate::from_der(one), X509Certificate::from_der(other))
    else {
        return false;
    };
    one.public_key().raw == other.public_key().raw
}

/// Every certificate in a text in PEM form, as DER; none where it is no such text.
#[must_use]
pub fn certificates_in_pem(text: &[u8]) -> Vec<Vec<u8>> {
    let found = CertificateDer::pem_slice_iter(text).map_while(Result::ok);
    found.map(|der| der.to_vec()).collect()
}
