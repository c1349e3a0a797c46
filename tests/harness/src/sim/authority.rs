//! Certificates that come from a seed, keys included.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cellbus_proto::{
    identity::{CellKind, Identity},
    name::Segment,
};
use cellbus_runtime::{
    authority::{Authority, Credentials, IssuingAuthority, OwnCertificate},
    certificate::CertDates,
    lists::ListSigner,
    tls::Roots,
};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, date_time_ymd,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::state::hash;

/// How long its certificates last: longer than any simulation.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// What comes before the 32 secret bytes of an Ed25519 key in PKCS#8 form.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A project's authority for simulations. Its keys are Ed25519 keys that come from the seed: the same seed gives the
/// same certificates, to the byte, and signatures of one length.
///
/// The keys are no secrets, so it is no authority for anything else.
pub struct SimAuthority {
    project: Segment,
    seed: u64,
    dates: CertDates,
    now_unix: u64,
    roots: Arc<Roots>,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl SimAuthority {
    /// The authority of `project`, whose certificates are good at `now_unix` and for years after it.
    #[must_use]
    pub fn new(project: &Segment, seed: u64, now_unix: u64) -> Self {
        let dates = CertDates::lasting(now_unix, LIFE);
        let key = key_from(seed, "");
        let mut params = params(&format!("simulated authority of {project}"), dates);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("the parameters are complete");
        let (root_pem, root) = (root.pem(), root.der().clone());
        let roots = Arc::new(Roots::new(vec![root]).expect("it may sign others"));
        let (issuer, project) = (Issuer::new(params, key), project.clone());
        Self { project, seed, dates, now_unix, roots, root_pem, issuer }
    }

    /// Certificates of cells count this long from now on, not for years.
    #[must_use]
    pub fn with_leaf_life(self, life: Duration) -> Self {
        Self { dates: CertDates::lasting(self.now_unix, life), ..self }
    }

    /// An issuing authority of the project, for its server.
    ///
    /// # Arguments
    /// `life`: how long it counts. `leaf_life`: how long what it issues counts.
    ///
    /// # Panics
    /// When the library does not sign.
    #[must_use]
    pub fn issuing(&self, life: Duration, leaf_life: Duration) -> IssuingAuthority {
        let key = key_from(self.seed, "issuer");
        let dates = CertDates::lasting(self.now_unix, life);
        let mut params = params(&format!("simulated issuer of {}", self.project), dates);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let made = params.signed_by(&key, &self.issuer).expect("the parameters are complete");
        let (pem, key) = (made.pem(), key.serialize_pem());
        let authority = Authority::restore(self.project.clone(), &pem, &key);
        let authority = authority.expect("they belong together");
        IssuingAuthority::new(authority, leaf_life, BTreeMap::new())
    }

    /// What the project's cells trust.
    #[must_use]
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// What signs the project's lists.
    #[must_use]
    pub fn list_signer(&self) -> ListSigner {
        let key = key_from(self.seed, "").serialize_pem();
        ListSigner::from_pem(&self.root_pem, &key).expect("they belong together")
    }

    /// The certificate of `identity`, always the same. A job's is signed by itself, as its parent would have it.
    #[must_use]
    pub fn certificate(&self, identity: &Identity) -> OwnCertificate {
        self.another(identity, 0)
    }

    /// Another certificate of `identity`, with another key for each number.
    #[must_use]
    pub fn another(&self, identity: &Identity, number: u32) -> OwnCertificate {
        let uri = identity.to_uri();
        let holder = if number == 0 { uri.clone() } else { format!("{uri}#{number}") };
        let key = key_from(self.seed, &holder);
        let mut params = params(identity.name.base(), self.dates);
        params.subject_alt_names =
            vec![SanType::URI(uri.try_into().expect("names of cells are ASCII"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if identity.kind.accepts_cells() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let certificate = if identity.kind == CellKind::Job {
            params.self_signed(&key)
        } else {
            params.signed_by(&key, &self.issuer)
        };
        let certificate = certificate.expect("the parameters are complete");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        OwnCertificate::new(vec![certificate.der().clone()], &key).expect("they belong together")
    }

    /// The certificate of `identity` with the root that vouches for it.
    ///
    /// # Panics
    /// For a job, which no root vouches for.
    #[must_use]
    pub fn credentials(&self, identity: &Identity) -> Credentials {
        Credentials::new(self.certificate(identity), Arc::clone(&self.roots), self.now_unix)
            .expect("a provisioned cell of the project")
    }
}

impl std::fmt::Debug for SimAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimAuthority").field("seed", &self.seed).finish_non_exhaustive()
    }
}

fn key_from(seed: u64, holder: &str) -> KeyPair {
    let mut pkcs8 = [0; 48];
    let (prefix, secret) = pkcs8.split_at_mut(ED25519_PKCS8.len());
    prefix.copy_from_slice(&ED25519_PKCS8);
    ChaCha8Rng::seed_from_u64(hash(&(seed, holder))).fill_bytes(secret);
    let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519)
        .expect("any 32 bytes are an Ed25519 key")
}

fn params(common_name: &str, dates: CertDates) -> CertificateParams {
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(dates.not_before);
    params.not_after = epoch + Duration::from_secs(dates.not_after);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
