//! The authority of a project that is provisioned: made for one project only, and signing more than certificates.

use std::time::Duration;

use cellbus_proto::{identity::Identity, name::Segment, transcript::Signable};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, AuthorityError, Issued, leaf_params, params};
use crate::{
    certificate::{CertDates, CertificateError, LeafHash, leaf_hash, profile::CertProfile},
    tls::verify_leaf_signature,
};

/// Object identifier of the name constraints of RFC 5280, section 4.2.1.10.
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];

/// A certificate for a key that its holder has made itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// The same in PEM form.
    pub pem: String,
}

impl Authority {
    /// Makes the authority of a provisioned project, with a new key.
    ///
    /// It signs certificates and revocation lists, nothing that it signs may sign in turn, and it can vouch for no
    /// names but those of `project`.
    ///
    /// # Errors
    /// [`AuthorityError::Make`] when no key can be made.
    pub fn create_for_project(
        project: Segment,
        now_unix: u64,
        life: Duration,
    ) -> Result<Self, AuthorityError> {
        Self::create_of_depth(project, now_unix, life, 0)
    }

    /// As [`Self::create_for_project`], and issuing authorities may stand below it, one below the other never.
    ///
    /// # Errors
    /// [`AuthorityError::Make`] when no key can be made.
    pub fn create_with_issuers(
        project: Segment,
        now_unix: u64,
        life: Duration,
    ) -> Result<Self, AuthorityError> {
        Self::create_of_depth(project, now_unix, life, 1)
    }

    fn create_of_depth(
        project: Segment,
        now_unix: u64,
        life: Duration,
        depth: u8,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let dates = CertDates::lasting(now_unix, life);
        let mut params = params(&format!("cellbus authority of {project}"), dates)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let mut names =
            CustomExtension::from_oid_content(NAME_CONSTRAINTS, permitted_uri_host(&project));
        names.set_criticality(true);
        params.custom_extensions = vec![names];
        let root = params.self_signed(&key)?;
        let (root, root_pem) = (root.der().clone(), root.pem());
        Ok(Self { project, dates, root, root_pem, issuer: Issuer::new(params, key) })
    }

    /// Whether issuing authorities may stand below it.
    #[must_use]
    pub fn may_have_issuers(&self) -> bool {
        let profile = CertProfile::read(&self.root);
        profile.is_ok_and(|profile| profile.path_length.is_none_or(|depth| depth > 0))
    }

    /// Makes an issuing authority below this one, with a new key: it signs certificates, no lists, and nothing that
    /// it signs may sign in turn. That it vouches for one project only is what this one is bound to.
    ///
    /// # Errors
    /// [`AuthorityError::NoIssuers`], [`AuthorityError::Dates`], [`AuthorityError::Make`].
    pub fn create_issuer(&self, now_unix: u64, life: Duration) -> Result<Issued, AuthorityError> {
        self.sign(&self.issuer_params(now_unix, life)?)
    }

    /// As [`Self::create_issuer`], for the key of a certificate that its holder has signed itself. Of that certificate nothing
    /// but the key counts; that its holder has the key must have been proved.
    ///
    /// # Errors
    /// As [`Self::create_issuer`], and [`AuthorityError::Root`] where the request is no certificate.
    pub fn certify_issuer(
        &self,
        request_der: &[u8],
        now_unix: u64,
        life: Duration,
    ) -> Result<Certified, AuthorityError> {
        self.sign_key_of(request_der, &self.issuer_params(now_unix, life)?)
    }

    fn issuer_params(
        &self,
        now_unix: u64,
        life: Duration,
    ) -> Result<CertificateParams, AuthorityError> {
        if !self.may_have_issuers() {
            return Err(AuthorityError::NoIssuers);
        }
        let mut dates = CertDates::lasting(now_unix, life);
        dates.not_before = dates.not_before.max(self.dates.not_before);
        dates.not_after = dates.not_after.min(self.dates.not_after);
        let mut params = params(&format!("cellbus issuer of {}", self.project), dates)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn sign_key_of(
        &self,
        request_der: &[u8],
        params: &CertificateParams,
    ) -> Result<Certified, AuthorityError> {
        let (_, request) = X509Certificate::from_der(request_der)
            .map_err(|_| AuthorityError::Root(CertificateError::Malformed))?;
        let key = SubjectPublicKeyInfo::from_der(request.public_key().raw)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Certified { der: certificate.der().clone(), pem: certificate.pem() })
    }

    /// Signs a transcript: ECDSA with SHA-256, DER form. The purpose of the transcript keeps it from being
    /// taken for anything else that this key signs.
    ///
    /// # Errors
    /// [`AuthorityError::Make`] when the library refuses; it has no reason to.
    pub fn vouch(&self, signable: &Signable) -> Result<Vec<u8>, AuthorityError> {
        Ok(self.issuer.key().sign(signable)?)
    }

    /// Certifies, for `identity`, the key of a certificate that its holder has signed itself. Of that certificate
    /// nothing but the key counts; that its holder has the key must have been proved.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn certify(
        &self,
        request_der: &[u8],
        identity: &Identity,
        hosts: &[String],
        dates: CertDates,
    ) -> Result<Certified, AuthorityError> {
        self.sign_key_of(request_der, &self.leaf(identity, hosts, dates)?)
    }

    /// The hash by which people compare root certificates.
    #[must_use]
    pub fn root_hash(&self) -> LeafHash {
        leaf_hash(&self.root)
    }
}

/// Makes a key for `identity` and a certificate that it signs itself: what is shown to an authority to have the
/// key certified. Nobody trusts it.
///
/// # Errors
/// [`AuthorityError::Make`] when no key can be made.
pub fn self_sign(identity: &Identity, now_unix: u64) -> Result<Issued, AuthorityError> {
    const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
    let key = KeyPair::generate()?;
    let params = leaf_params(identity, CertDates::lasting(now_unix, LIFE))?;
    let certificate = params.self_signed(&key)?;
    Ok(Issued { certificate, key })
}

impl Issued {
    /// Signs a transcript with the new key.
    ///
    /// # Errors
    /// [`AuthorityError::Make`] when the library refuses; it has no reason to.
    pub fn prove(&self, signable: &Signable) -> Result<Vec<u8>, AuthorityError> {
        Ok(self.key.sign(signable)?)
    }
}

/// Whether the holder of the key of this root certificate made `signature` over `signable`.
///
/// Says nothing about whether the root is one to be trusted.
#[must_use]
pub fn verify_by_root(root_der: &[u8], signable: &Signable, signature: &[u8]) -> bool {
    verify_leaf_signature(root_der, signable, signature)
}

/// Whether two certificates, DER, hold the same key; `false` for what is no certificate.
#[must_use]
pub fn have_same_key(one: &[u8], other: &[u8]) -> bool {
    let key = |der: &[u8]| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(certificate.public_key().raw.to_vec())
    };
    key(one).is_some_and(|one| key(other) == Some(one))
}

/// The DER form of: permitted are URI names of exactly this host, which in ours is the project.
fn permitted_uri_host(project: &Segment) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    const PERMITTED: u8 = 0xa0;
    const URI: u8 = 0x86;
    let wrap = |tag: u8, content: &[u8]| {
        // A project has at most 63 bytes, so every length here has one byte.
        let len = u8::try_from(content.len()).expect("three short headers and a name");
        [&[tag, len], content].concat()
    };
    let subtree = wrap(SEQUENCE, &wrap(URI, project.as_str().as_bytes()));
    wrap(SEQUENCE, &wrap(PERMITTED, &subtree))
}

#[cfg(test)]
mod tests {
    use cellbus_proto::transcript::{Purpose, Transcript};

    use super::*;
    use crate::tls::{ChainError, Direction, Roots, verify_chain};

    const NOW: u64 = 1_800_000_000;
    const LIFE: Duration = Duration::from_secs(1000);

    fn authority() -> Authority {
        Authority::create_for_project("study".parse().unwrap(), NOW, LIFE).unwrap()
    }

    fn chain_of(authority: &Authority, uri: &str) -> Result<(), ChainError> {
        let identity = Identity::from_uri(uri).unwrap();
        let issued = authority
            .sign(&leaf_params(&identity, CertDates::lasting(NOW, LIFE)).unwrap())
            .unwrap();
        let roots = Roots::new(vec![authority.root().clone()]).unwrap();
        verify_chain(&roots, &issued.chain(), Direction::Dials, NOW).map(drop)
    }

    #[test]
    fn v_10_an_authority_vouches_for_its_own_project_only() {
        let authority = authority();
        chain_of(&authority, "cell://study/client/site-1?org=hq").unwrap();
        for uri in ["cell://other/client/site-1?org=hq", "cell://study2/client/site-1?org=hq"] {
            let refused = chain_of(&authority, uri).unwrap_err();
            assert!(matches!(refused, ChainError::NameConstraint { .. }), "{uri}: {refused}");
        }
        // One that was made without it, for development, vouches for whatever it signs.
        let open = Authority::create("study".parse().unwrap(), NOW).unwrap();
        chain_of(&open, "cell://other/client/site-1?org=hq").unwrap();
    }

    #[test]
    fn v_10_a_constrained_authority_beside_another_constrains_its_own_leaves_only() {
        let (ours, other) = (
            authority(),
            Authority::create_for_project("other".parse().unwrap(), NOW, LIFE).unwrap(),
        );
        let roots = Roots::new(vec![other.root().clone(), ours.root().clone()]).unwrap();
        let leaf = |authority: &Authority, uri: &str| {
            let identity = Identity::from_uri(uri).unwrap();
            let params = leaf_params(&identity, CertDates::lasting(NOW, LIFE)).unwrap();
            let issued = authority.sign(&params).unwrap();
            verify_chain(&roots, &issued.chain(), Direction::Dials, NOW)
        };
        leaf(&ours, "cell://study/client/a?org=hq").unwrap();
        leaf(&other, "cell://other/client/a?org=hq").unwrap();
        assert!(leaf(&ours, "cell://other/client/a?org=hq").is_err());
        assert!(leaf(&other, "cell://study/client/a?org=hq").is_err());
    }

    #[test]
    fn v_10_a_leaf_signs_no_other_certificate() {
        let authority = authority();
        let identity = Identity::from_uri("cell://study/relay/relay-a?org=hq").unwrap();
        let dates = CertDates::lasting(NOW, LIFE);
        let issued = authority.issue(&identity, &[], dates).unwrap();
        assert!(
            Authority::restore("study".parse().unwrap(), &issued.chain_pem(), &issued.key_pem())
                .is_err()
        );
    }

    #[test]
    fn v_15_a_signature_of_the_authority_is_good_for_what_was_signed_and_for_its_purpose() {
        let authority = authority();
        let signable = |purpose, text: &[u8]| Transcript::new(purpose).field(text).finish();
        let signed = signable(Purpose::KitManifest, b"manifest");
        let signature = authority.vouch(&signed).unwrap();
        let verify = |signable| verify_by_root(authority.root(), &signable, &signature);
        assert!(verify(signed));
        assert!(!verify(signable(Purpose::KitManifest, b"manifesto")));
        assert!(!verify(signable(Purpose::Token, b"manifest")));
        let other = self::authority();
        let signable = signable(Purpose::KitManifest, b"manifest");
        assert!(!verify_by_root(other.root(), &signable, &signature));
        assert!(!verify_by_root(b"no certificate", &signable, &signature));
    }
}
