//! The issuing authority that a server may have. It certifies again whom somebody has certified before, with another
//! key and for a while, and nobody else.
//!
//! | file | content |
//! |---|---|
//! | `issuer.crt` | the certificate of the issuing authority, by the project's authority, PEM |
//! | `issuer.key` | its key, PKCS#8 PEM, mode 0600 |
//! | `issuer.json` | how long what it issues counts |

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cellbus_proto::{
    identity::{CellKind, Identity},
    name::{Fqcn, Segment},
    renewal::{Grants, Life, NotYet},
    status::Status,
    transcript::IssueCertificateFacts,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{Authority, AuthorityError, have_same_key};
use crate::{
    certificate::{CertDates, leaf_hash, profile::CertProfile},
    secret_file::{SecretFileError, read_secret_file, read_trusted_file},
    tls::verify_leaf_signature,
};

/// File of the certificate of an issuing authority.
pub const ISSUER_CERTIFICATE: &str = "issuer.crt";
/// File of its key.
pub const ISSUER_KEY: &str = "issuer.key";
/// File of its terms.
pub const ISSUER_TERMS: &str = "issuer.json";

/// The format of terms that this version reads and writes.
const FORMAT: &str = "cellbus-issuer/1";
/// Bytes in the largest of the files.
const FILE_MAX: usize = 64 * 1024;
/// Bytes in the largest request: a certificate with one name.
const REQUEST_MAX: usize = 4096;

/// Who asks to be certified again, as has been proved of it, and what it sends.
#[derive(Clone, Copy, Debug)]
pub struct Reissue<'a> {
    /// Full name of the cell.
    pub cell: &'a Fqcn,
    /// Full name of the server.
    pub server: &'a Fqcn,
    /// What the certificate that it is known by says of it. Nothing else is certified.
    pub identity: &'a Identity,
    /// That certificate, DER.
    pub held: &'a [u8],
    /// When that counts.
    pub dates: CertDates,
    /// A certificate that the cell has signed itself, DER. Of it nothing but the key counts.
    pub request: &'a [u8],
    /// Signature of the new key.
    pub proof: &'a [u8],
}

/// Why nothing is issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReissueError {
    /// People and jobs are not certified again.
    #[error("a {kind} is not certified here")]
    Kind {
        /// The kind.
        kind: CellKind,
    },
    /// What was sent is no certificate, or its key is of no kind that cells have.
    #[error("the request holds no key that can be certified")]
    Request,
    /// Whoever asks has not shown that it has the new key.
    #[error("the new key has not signed the request")]
    Proof,
    /// The new key is that of the certificate that is held.
    #[error("the key is the one that is certified already")]
    SameKey,
    /// What would be issued ends no later than what is held.
    #[error("the issuing authority ends too soon to issue anything that lasts longer")]
    EndsSooner,
    /// It is too early, or has been asked for too often.
    #[error(transparent)]
    NotYet(#[from] NotYet),
    /// The certificate cannot be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl From<&ReissueError> for Status {
    fn from(error: &ReissueError) -> Self {
        match error {
            ReissueError::Kind { .. } | ReissueError::SameKey => Self::Forbidden,
            ReissueError::Request => Self::BadFrame,
            ReissueError::Proof => Self::BadSignature,
            ReissueError::EndsSooner | ReissueError::Authority(_) => Self::CertExpired,
            ReissueError::NotYet(not) => (*not).into(),
        }
    }
}

/// Why the files of an issuing authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// A file is absent, open to others, or unreadable.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The terms are none.
    #[error("{path} holds no terms of an issuing authority")]
    Terms {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key are no authority's, or do not belong together.
    #[error("issuing authority")]
    Authority(#[from] AuthorityError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    format: String,
    leaf_seconds: u64,
}

/// The content of [`ISSUER_TERMS`].
///
/// # Arguments
/// `leaf_life`: how long what is issued counts.
#[must_use]
pub fn issuer_terms(leaf_life: Duration) -> Vec<u8> {
    let terms = Terms { format: FORMAT.to_owned(), leaf_seconds: leaf_life.as_secs() };
    let mut json = serde_json::to_vec_pretty(&terms).expect("its keys are strings");
    json.push(b'\n');
    json
}

/// Certifies a cell again: the same subject, with another key.
///
/// # Arguments
/// `authority`: the issuing authority. `hosts`: host names of a server or relay, as the project says. `life`: how long the
/// certificate counts, unless the authority ends before.
///
/// # Errors
/// [`ReissueError`].
pub fn reissue(
    authority: &Authority,
    asked: &Reissue<'_>,
    hosts: &[String],
    life: Duration,
    now_unix: u64,
) -> Result<Vec<CertificateDer<'static>>, ReissueError> {
    let dates = examine(authority, asked, life, now_unix)?;
    let made = authority.certify(asked.request, asked.identity, hosts, dates)?;
    Ok(vec![made.der, authority.root().clone()])
}

fn examine(
    authority: &Authority,
    asked: &Reissue<'_>,
    life: Duration,
    now_unix: u64,
) -> Result<CertDates, ReissueError> {
    let kind = asked.identity.kind;
    if matches!(kind, CellKind::Admin | CellKind::Job) {
        return Err(ReissueError::Kind { kind });
    }
    if asked.request.len() > REQUEST_MAX {
        return Err(ReissueError::Request);
    }
    let profile = CertProfile::read(asked.request).map_err(|_| ReissueError::Request)?;
    if !matches!(profile.key.as_str(), "P-256" | "Ed25519") {
        return Err(ReissueError::Request);
    }
    let signable = IssueCertificateFacts {
        project: authority.project().as_str(),
        cell: asked.cell.as_str(),
        server: asked.server.as_str(),
        held: &leaf_hash(asked.held),
        request: asked.request,
    }
    .signable();
    if !verify_leaf_signature(asked.request, &signable, asked.proof) {
        return Err(ReissueError::Proof);
    }
    if have_same_key(asked.request, asked.held) {
        return Err(ReissueError::SameKey);
    }
    let dates = CertDates::lasting(now_unix, life);
    if dates.not_after.min(authority.dates().not_after) <= asked.dates.not_after {
        return Err(ReissueError::EndsSooner);
    }
    Ok(dates)
}

/// An issuing authority with its terms, and what it has issued of late.
#[derive(Debug)]
pub struct IssuingAuthority {
    authority: Authority,
    leaf_life: Duration,
    hosts: BTreeMap<String, Vec<String>>,
    grants: Mutex<Grants>,
}

impl IssuingAuthority {
    /// An issuing authority.
    ///
    /// # Arguments
    /// `hosts`: host names of servers and relays, by base name.
    #[must_use]
    pub fn new(
        authority: Authority,
        leaf_life: Duration,
        hosts: BTreeMap<String, Vec<String>>,
    ) -> Self {
        Self { authority, leaf_life, hosts, grants: Mutex::default() }
    }

    /// Reads the files of `dir`; `None` where there is no such authority.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub fn load(
        dir: &Path,
        project: &Segment,
        hosts: BTreeMap<String, Vec<String>>,
    ) -> Result<Option<Self>, IssuerError> {
        let (certificate, terms) = (dir.join(ISSUER_CERTIFICATE), dir.join(ISSUER_TERMS));
        if certificate.symlink_metadata().is_err() {
            return Ok(None);
        }
        let certificate = read_trusted_file(&certificate, FILE_MAX)?;
        let key = read_secret_file(&dir.join(ISSUER_KEY), FILE_MAX)?;
        let read: Option<Terms> =
            serde_json::from_slice(&read_trusted_file(&terms, FILE_MAX)?).ok();
        let read = read.filter(|read| read.format == FORMAT && read.leaf_seconds > 0);
        let Some(read) = read else { return Err(IssuerError::Terms { path: terms }) };
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        let authority = Authority::restore(project.clone(), text(&certificate), text(&key))?;
        Ok(Some(Self::new(authority, Duration::from_secs(read.leaf_seconds), hosts)))
    }

    /// When the authority itself counts.
    #[must_use]
    pub fn dates(&self) -> CertDates {
        self.authority.dates()
    }

    /// Certifies a cell again, unless it is too early or that has been done too often.
    ///
    /// # Errors
    /// [`ReissueError`].
    pub fn renew(
        &self,
        asked: &Reissue<'_>,
        now_unix: u64,
    ) -> Result<Vec<CertificateDer<'static>>, ReissueError> {
        examine(&self.authority, asked, self.leaf_life, now_unix)?;
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.take(asked.cell.as_str(), asked.dates.life(), now_unix)?;
        let hosts =
            self.hosts.get(asked.cell.base()).filter(|_| asked.identity.kind.accepts_cells());
        let hosts = hosts.map_or(&[][..], Vec::as_slice);
        reissue(&self.authority, asked, hosts, self.leaf_life, now_unix)
    }
}

impl CertDates {
    /// The same, as what is decided about renewals takes it.
    #[must_use]
    pub fn life(self) -> Life {
        Life { not_before: self.not_before, not_after: self.not_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authority::{Issued, OwnCertificate, self_sign},
        tls::{ChainError, Direction, Roots, verify_chain},
    };

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 24 * 3600;
    const LEAF: Duration = Duration::from_secs(90 * DAY);
    /// Two thirds of the first certificate's life are over.
    const LATER: u64 = NOW + 60 * DAY;

    struct Project {
        root: Authority,
        issuer: IssuingAuthority,
        held: Issued,
        identity: Identity,
        cell: Fqcn,
    }

    impl Project {
        fn new() -> Self {
            let name: Segment = "study".parse().unwrap();
            let life = Duration::from_secs(1000 * DAY);
            let root = Authority::create_with_issuers(name.clone(), NOW, life).unwrap();
            let made = root.create_issuer(NOW, 2 * LEAF).unwrap();
            let authority = Authority::restore(name, &made.chain_pem(), &made.key_pem()).unwrap();
            let issuer = IssuingAuthority::new(authority, LEAF, BTreeMap::new());
            let identity = Identity::from_uri("cell://study/client/site-1?org=hq").unwrap();
            let held = root.issue(&identity, &[], CertDates::lasting(NOW, LEAF)).unwrap();
            Self { root, issuer, held, identity, cell: "relay-a.site-1".parse().unwrap() }
        }

        fn ask(
            &self,
            change: impl FnOnce(&mut Reissue<'_>),
            now: u64,
        ) -> Result<OwnCertificate, ReissueError> {
            let made = self_sign(&self.identity, now).unwrap();
            let held = self.held.chain().swap_remove(0);
            let request = made.chain().swap_remove(0);
            let server = "server".parse().unwrap();
            let signable = IssueCertificateFacts {
                project: "study",
                cell: self.cell.as_str(),
                server: "server",
                held: &leaf_hash(&held),
                request: &request,
            }
            .signable();
            let proof = made.prove(&signable).unwrap();
            let mut asked = Reissue {
                cell: &self.cell,
                server: &server,
                identity: &self.identity,
                held: &held,
                dates: CertDates::lasting(NOW, LEAF),
                request: &request,
                proof: &proof,
            };
            change(&mut asked);
            let chain = self.issuer.renew(&asked, now)?;
            Ok(OwnCertificate::new(chain, &made.key()).unwrap())
        }
    }

    #[test]
    fn v_12_v_19_a_renewed_certificate_has_the_profile_the_subject_and_a_later_end() {
        let project = Project::new();
        let renewed = project.ask(|_| {}, LATER).unwrap();
        let roots = Roots::new(vec![project.root.root().clone()]).unwrap();
        let peer = verify_chain(&roots, renewed.chain(), Direction::Dials, LATER).unwrap();
        assert_eq!(peer.identity, project.identity);
        let profile = CertProfile::read(&renewed.chain()[0]).unwrap();
        assert_eq!(profile.deviations(CellKind::Client), Vec::<String>::new());
        assert_eq!(renewed.dates().not_after, LATER + 90 * DAY);
        let issuer = CertProfile::read(&renewed.chain()[1]).unwrap();
        assert_eq!((issuer.is_authority, issuer.path_length), (Some(true), Some(0)));
        assert_eq!(issuer.key_usage, ["keyCertSign"]);
        // What it issues never outlives it, and nothing is issued that would end sooner than what is held.
        let late = project.ask(|_| {}, NOW + 150 * DAY).unwrap();
        assert_eq!(late.dates().not_after, project.issuer.dates().not_after);
        let asked = |asked: &mut Reissue<'_>| asked.dates.not_after = NOW + 181 * DAY;
        let sooner = project.ask(asked, NOW + 170 * DAY);
        assert!(matches!(sooner, Err(ReissueError::EndsSooner)), "{sooner:?}");
    }

    #[test]
    fn v_22_nothing_is_certified_without_proof_of_a_new_key() {
        let project = Project::new();
        let other = self_sign(&project.identity, LATER).unwrap();
        let foreign = other.chain().swap_remove(0);
        let held = project.held.chain().swap_remove(0);
        let (big, relay) = (vec![0; REQUEST_MAX + 1], "relay-a".parse().unwrap());
        type Change<'a> = &'a dyn Fn(&mut Reissue<'_>);
        let cases: [(&str, Change<'_>, Status); 5] = [
            ("a foreign key", &|asked| asked.request = leak(&foreign), Status::BadSignature),
            ("for another cell", &|asked| asked.cell = leak_name(&relay), Status::BadSignature),
            ("no signature", &|asked| asked.proof = b"", Status::BadSignature),
            ("no certificate", &|asked| asked.request = b"key", Status::BadFrame),
            ("a large one", &|asked| asked.request = leak(&big), Status::BadFrame),
        ];
        for (what, change, status) in cases {
            let refused = project.ask(|asked| change(asked), LATER).unwrap_err();
            assert_eq!(Status::from(&refused), status, "{what}");
        }
        let signable = IssueCertificateFacts {
            project: "study",
            cell: project.cell.as_str(),
            server: "server",
            held: &leaf_hash(&held),
            request: &held,
        }
        .signable();
        let proof = project.held.prove(&signable).unwrap();
        let same = project.ask(
            |asked| {
                asked.request = leak(&held);
                asked.proof = leak(&proof);
            },
            LATER,
        );
        assert!(matches!(same, Err(ReissueError::SameKey)), "{same:?}");
        let grants = project.issuer.grants.lock().unwrap();
        assert_eq!(format!("{grants:?}"), format!("{:?}", Grants::default()), "nothing was given");
    }

    #[test]
    fn v_14_people_and_jobs_are_not_certified_again_and_the_chain_of_a_person_is_refused() {
        let project = Project::new();
        for uri in
            ["cell://study/admin/alice?org=hq&role=signer", "cell://study/job/site-1.j1?org=hq"]
        {
            let identity = Identity::from_uri(uri).unwrap();
            let refused = project.ask(|asked| asked.identity = leak_identity(&identity), LATER);
            assert!(matches!(refused, Err(ReissueError::Kind { .. })), "{refused:?}");
        }
        // Whoever has its key could sign one: nobody believes it.
        let alice = Identity::from_uri("cell://study/admin/alice?org=hq&role=signer").unwrap();
        let dates = CertDates::lasting(LATER, LEAF);
        let forged = project.issuer.authority.issue(&alice, &[], dates).unwrap();
        let chain = [forged.chain(), vec![project.issuer.authority.root().clone()]].concat();
        let roots = Roots::new(vec![project.root.root().clone()]).unwrap();
        let refused = verify_chain(&roots, &chain, Direction::Dials, LATER);
        assert_eq!(refused, Err(ChainError::Person));
        let other = Identity::from_uri("cell://other/client/site-1?org=hq").unwrap();
        let params = crate::authority::leaf_params(&other, dates).unwrap();
        let forged = project.issuer.authority.sign(&params).unwrap();
        let chain = [forged.chain(), vec![project.issuer.authority.root().clone()]].concat();
        let refused = verify_chain(&roots, &chain, Direction::Dials, LATER);
        assert!(matches!(refused, Err(ChainError::NameConstraint { .. })), "v_10: {refused:?}");
    }

    #[test]
    fn v_10_an_authority_without_room_for_another_makes_none_and_an_issuing_one_makes_none_either()
    {
        let project = Project::new();
        let name: Segment = "study".parse().unwrap();
        let plain = Authority::create_for_project(name, NOW, LEAF).unwrap();
        assert!(matches!(plain.create_issuer(NOW, LEAF), Err(AuthorityError::NoIssuers)));
        let below = project.issuer.authority.create_issuer(NOW, LEAF);
        assert!(matches!(below, Err(AuthorityError::NoIssuers)));
    }

    #[test]
    fn a_cell_is_given_a_bounded_number_and_none_before_half_of_its_time() {
        let project = Project::new();
        let early = project.ask(|_| {}, NOW + 30 * DAY).unwrap_err();
        assert_eq!(Status::from(&early), Status::RateLimit);
        for _ in 0..Grants::MAX {
            project.ask(|_| {}, LATER).unwrap();
        }
        assert_eq!(Status::from(&project.ask(|_| {}, LATER).unwrap_err()), Status::RateLimit);
    }

    #[test]
    fn its_files_are_read_as_they_were_written_and_bad_ones_are_refused() {
        let project = Project::new();
        let dir = tempfile::tempdir().unwrap();
        let name: Segment = "study".parse().unwrap();
        let load = || IssuingAuthority::load(dir.path(), &name, BTreeMap::new());
        assert!(load().unwrap().is_none());
        let made = project.root.create_issuer(NOW, LEAF).unwrap();
        let write = |file: &str, content: &[u8]| {
            crate::secret_file::write_secret_file(&dir.path().join(file), content).unwrap();
        };
        write(ISSUER_CERTIFICATE, made.chain_pem().as_bytes());
        assert!(matches!(load(), Err(IssuerError::File(_))), "without its key");
        write(ISSUER_KEY, made.key_pem().as_bytes());
        write(ISSUER_TERMS, b"{}");
        assert!(matches!(load(), Err(IssuerError::Terms { .. })));
        write(ISSUER_TERMS, &issuer_terms(LEAF));
        let read = load().unwrap().unwrap();
        assert_eq!((read.leaf_life, read.dates()), (LEAF, CertDates::lasting(NOW, LEAF)));
        write(ISSUER_KEY, project.held.key_pem().as_bytes());
        assert!(matches!(load(), Err(IssuerError::Authority(_))), "another's key");
    }

    fn leak(bytes: &[u8]) -> &'static [u8] {
        Box::leak(bytes.to_vec().into_boxed_slice())
    }

    fn leak_name(name: &Fqcn) -> &'static Fqcn {
        Box::leak(Box::new(name.clone()))
    }

    fn leak_identity(identity: &Identity) -> &'static Identity {
        Box::leak(Box::new(identity.clone()))
    }
}
