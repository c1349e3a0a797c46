//! Certificates: those of the project's cells, and those that nobody should have.

use std::{fs, path::Path, time::SystemTime};

use cellbus_proto::transcript::sha256;
use cellbus_runtime::{authority::Issued, tls::provider};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::{SignatureScheme, sign::SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// A chain, leaf first, and the key of the leaf.
pub struct Papers {
    /// The chain.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Signs certificates with a key of an authority's, or of somebody who is none.
pub struct Forger {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// Seconds since 1970.
#[must_use]
pub fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Papers {
    /// Those of a provisioned cell, from the state of the project at `root`.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn load(root: &Path, name: &str) -> Self {
        let dir = root.join("pki/cells").join(name);
        let read = |file: &str| fs::read(dir.join(file)).expect("the cell is provisioned");
        let chain = CertificateDer::pem_slice_iter(&read("cell.crt"))
            .collect::<Result<Vec<_>, _>>()
            .expect("certificates");
        let key = PrivateKeyDer::from_pem_slice(&read("cell.key")).expect("a key");
        Self { chain, key }
    }

    /// Those of a certificate that was issued in the ordinary way.
    #[must_use]
    pub fn issued(issued: &Issued) -> Self {
        Self { chain: issued.chain(), key: issued.key().clone_key() }
    }

    /// The same key, with other certificates in front of it.
    #[must_use]
    pub fn with_chain(&self, chain: Vec<CertificateDer<'static>>) -> Self {
        Self { chain, key: self.key.clone_key() }
    }

    /// SHA-256 of the leaf.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.chain[0])
    }

    /// The key, for TLS.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    fn signing_key(&self) -> Arc<dyn SigningKey> {
        let loaded = provider().key_provider.load_private_key(self.key.clone_key());
        loaded.expect("keys here are P-256")
    }

    /// Signs anything.
    ///
    /// # Panics
    /// Never for the keys that are made here.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let scheme = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let signer = self.signing_key().choose_scheme(&scheme).expect("keys here are P-256");
        signer.sign(message).expect("signing needs nothing")
    }
}

impl Clone for Papers {
    fn clone(&self) -> Self {
        self.with_chain(self.chain.clone())
    }
}

impl Forger {
    /// Has the key of the authority of the project at `root`.
    ///
    /// # Panics
    /// When there is no authority.
    #[must_use]
    pub fn of_project(root: &Path) -> Self {
        let dir = root.join("pki/authority");
        let read = |file: &str| fs::read_to_string(dir.join(file)).expect("there is an authority");
        let pem = read("root.crt");
        let key = KeyPair::from_pem(&read("root.key")).expect("a key");
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let issuer = Issuer::from_ca_cert_pem(&pem, key).expect("an authority");
        Self { issuer, root }
    }

    /// Is an authority of its own, which nobody trusts.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn of_another_project() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = plain("another authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).expect("a certificate can be made").der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// Signs with the key of a cell, which is no authority.
    ///
    /// # Panics
    /// Never for papers that were provisioned.
    #[must_use]
    pub fn of_cell(papers: &Papers) -> Self {
        let PrivateKeyDer::Pkcs8(key) = papers.key() else { panic!("keys here are PKCS #8") };
        let key = KeyPair::try_from(&key).expect("a key");
        let root = papers.chain[0].clone();
        let issuer = Issuer::from_ca_cert_der(&root, key).expect("a certificate can be read");
        Self { issuer, root }
    }

    /// The certificate that it signs with.
    #[must_use]
    pub fn root(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    /// Signs what `change` has made of an ordinary certificate with this URI.
    ///
    /// # Panics
    /// When the certificate cannot be made at all.
    #[must_use]
    pub fn forge(&self, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Papers {
        let mut params = leaf(uri);
        change(&mut params);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        Papers { chain: vec![certificate.der().clone()], key: pkcs8(&key) }
    }
}

/// A certificate that signs itself.
///
/// # Panics
/// Never.
#[must_use]
pub fn self_signed(uri: &str) -> Papers {
    let key = KeyPair::generate().expect("a key can be made");
    let certificate = leaf(uri).self_signed(&key).expect("a certificate can be made");
    Papers { chain: vec![certificate.der().clone()], key: pkcs8(&key) }
}

/// A name of the URI kind.
///
/// # Panics
/// For a text that is no IA5 string.
#[must_use]
pub fn uri_name(uri: &str) -> SanType {
    SanType::URI(uri.to_owned().try_into().expect("a URI is ASCII"))
}

/// Sets the dates of a certificate, in seconds since 1970.
pub fn set_dates(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
}

fn pkcs8(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

fn plain(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    set_dates(&mut params, now_unix() - 300, now_unix() + 3600);
    params
}

fn leaf(uri: &str) -> CertificateParams {
    let mut params = plain("somebody");
    params.subject_alt_names = vec![uri_name(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}
