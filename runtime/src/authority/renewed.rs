//! Certificates that a cell has renewed itself, on disk: each with its key in a directory that appears whole.
//!
//! ```text
//! <state of the cell>/renewed/0000000001/cell.crt   the certificate and what leads to the root, PEM
//!                                       /cell.key   its key, PKCS#8 PEM, mode 0600
//!                                       /given      hash of the certificate that it takes the place of
//! ```
//!
//! What was handed over, in a kit or by other means, stays as it is. A pair counts as long as the certificate that was
//! handed over is the one that it was renewed from: another kit begins anew.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use cellbus_proto::identity::Identity;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    Credentials, Issued, OwnCertificate,
    credentials::{CHAIN, KEY, ROOT, read_certificates, read_own},
};
use crate::{
    certificate::{LeafHash, leaf_hash},
    secret_file::{SecretFileError, Staging, create_private_dir, read_secret_file},
    tls::Roots,
};

/// Directory below a cell's state in which they lie.
pub const RENEWED: &str = "renewed";
/// File that says what a pair takes the place of.
const GIVEN: &str = "given";
/// Pairs that are looked at; there are never more than two unless somebody put them there.
const PAIRS_MAX: usize = 100;

/// Another certificate of a cell, with its key, in the form that files have.
#[derive(Debug)]
pub struct NewPair {
    certificate: OwnCertificate,
    chain_pem: String,
    key_pem: Zeroizing<String>,
}

impl NewPair {
    /// Of a certificate that belongs to this key, as the caller has checked.
    #[must_use]
    pub fn new(certificate: OwnCertificate, key: &Issued) -> Self {
        let chain_pem = certificate.chain().iter().map(|der| pem(der)).collect();
        Self { chain_pem, key_pem: key.key_pem(), certificate }
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &OwnCertificate {
        &self.certificate
    }
}

/// A certificate in PEM form.
fn pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(LINE) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Writes a pair, durable on return. What was written before stays until [`prune`].
///
/// # Arguments
/// `state`: the state directory of the cell. `given`: where the credentials lie that were handed over.
///
/// # Errors
/// [`SecretFileError`]; nothing has changed then.
pub fn keep(state: &Path, given: &Path, pair: &NewPair) -> Result<(), SecretFileError> {
    let dir = state.join(RENEWED);
    create_private_dir(&dir)?;
    let last = numbers(&dir).into_iter().max().unwrap_or(0);
    let staging = Staging::begin(&dir.join(name_of(last.saturating_add(1))))?;
    staging.write(Path::new(CHAIN), pair.chain_pem.as_bytes())?;
    staging.write(Path::new(KEY), pair.key_pem.as_bytes())?;
    let of = given_hash(given).unwrap_or_default();
    staging.write(Path::new(GIVEN), hex(&of).as_bytes())?;
    staging.publish()
}

/// The newest pair that counts at `now_unix` for the holder `wanted`, with the roots that were handed over; `None` where
/// there is none. What is broken, has ended or is another's is passed over.
///
/// # Arguments
/// As for [`keep`].
#[must_use]
pub fn latest(state: &Path, given: &Path, wanted: &Identity, now_unix: u64) -> Option<Credentials> {
    let dir = state.join(RENEWED);
    let mut numbers = numbers(&dir);
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let of = hex(&given_hash(given)?);
    numbers.into_iter().take(PAIRS_MAX).find_map(|number| {
        let pair = dir.join(name_of(number));
        let is_of = read_secret_file(&pair.join(GIVEN), of.len()).ok()?;
        if **is_of != *of.as_bytes() {
            return None;
        }
        let roots = Roots::new(read_certificates(&given.join(ROOT)).ok()?).ok()?;
        let own = read_own(&pair.join(CHAIN), &pair.join(KEY)).ok()?;
        if own.identity() != wanted {
            return None;
        }
        Credentials::new(own, Arc::new(roots), now_unix).ok()
    })
}

/// Removes all pairs but the newest, whose certificate is in use. A failure leaves some, which harms nobody.
pub fn prune(state: &Path) {
    let dir = state.join(RENEWED);
    let mut numbers = numbers(&dir);
    numbers.sort_unstable();
    numbers.pop();
    for number in numbers {
        // What is left is looked at after the newest, and removed the next time.
        let _ = fs::remove_dir_all(dir.join(name_of(number)));
    }
}

fn numbers(dir: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok().filter(|number| name_of(*number) == name)).collect()
}

fn name_of(number: u64) -> String {
    format!("{number:010}")
}

/// The hash of the certificate that was handed over, whether or not it still counts.
fn given_hash(given: &Path) -> Option<LeafHash> {
    let chain: Vec<CertificateDer<'static>> = read_certificates(&given.join(CHAIN)).ok()?;
    chain.first().map(|leaf| leaf_hash(leaf))
}

fn hex(hash: &LeafHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the pairs of a cell with this state lie, for people.
#[must_use]
pub fn place(state: &Path) -> PathBuf {
    state.join(RENEWED)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use super::*;
    use crate::{authority::Authority, certificate::CertDates};

    const NOW: u64 = 1_800_000_000;
    const LIFE: Duration = Duration::from_secs(1000);

    struct Site {
        authority: Authority,
        identity: Identity,
        dir: tempfile::TempDir,
    }

    impl Site {
        fn new() -> Self {
            let authority = Authority::create("study".parse().unwrap(), NOW).unwrap();
            let identity = Identity::from_uri("cell://study/client/site-1?org=hq").unwrap();
            let site = Self { authority, identity, dir: tempfile::tempdir().unwrap() };
            site.hand_over();
            site
        }

        /// Another kit.
        fn hand_over(&self) {
            let dates = CertDates::lasting(NOW, LIFE);
            let issued = self.authority.issue(&self.identity, &[], dates).unwrap();
            Credentials::save(&self.given(), self.authority.root_pem(), &issued).unwrap();
        }

        fn given(&self) -> PathBuf {
            self.dir.path().join("given")
        }

        fn pair(&self, now: u64) -> NewPair {
            let issued =
                self.authority.issue(&self.identity, &[], CertDates::lasting(now, LIFE)).unwrap();
            NewPair::new(OwnCertificate::try_from(&issued).unwrap(), &issued)
        }

        fn keep(&self, pair: &NewPair) {
            keep(self.dir.path(), &self.given(), pair).unwrap();
        }

        fn latest(&self, now: u64) -> Option<LeafHash> {
            let found = latest(self.dir.path(), &self.given(), &self.identity, now)?;
            Some(found.certificate().hash())
        }
    }

    #[test]
    fn the_newest_pair_is_used_and_older_ones_go() {
        let site = Site::new();
        assert_eq!(site.latest(NOW), None);
        let (first, second) = (site.pair(NOW + 10), site.pair(NOW + 20));
        site.keep(&first);
        assert_eq!(site.latest(NOW + 20), Some(first.certificate().hash()));
        site.keep(&second);
        assert_eq!(site.latest(NOW + 20), Some(second.certificate().hash()));
        prune(site.dir.path());
        assert_eq!(numbers(&place(site.dir.path())), [2]);
        assert_eq!(site.latest(NOW + 20), Some(second.certificate().hash()));
        // Also once that which was handed over has ended.
        assert_eq!(site.latest(NOW + 1010), Some(second.certificate().hash()));
        assert_eq!(site.latest(NOW + 2000), None, "it has ended, too");
        let key = place(site.dir.path()).join(name_of(2)).join(KEY);
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600, "v_08");
    }

    #[test]
    fn g_52_a_pair_that_was_half_written_leaves_the_one_before() {
        let site = Site::new();
        let (first, second) = (site.pair(NOW + 10), site.pair(NOW + 20));
        site.keep(&first);
        site.keep(&second);
        let newest = place(site.dir.path()).join(name_of(2));
        // What a process that is killed leaves has no number yet; whatever else is missing is passed over.
        for file in [GIVEN, CHAIN, KEY] {
            let content = fs::read(newest.join(file)).unwrap();
            fs::write(newest.join(file), &content[..content.len() / 2]).unwrap();
            assert_eq!(site.latest(NOW + 20), Some(first.certificate().hash()), "{file}");
            fs::remove_file(newest.join(file)).unwrap();
            assert_eq!(site.latest(NOW + 20), Some(first.certificate().hash()), "{file}");
            crate::secret_file::write_secret_file(&newest.join(file), &content).unwrap();
        }
        assert_eq!(site.latest(NOW + 20), Some(second.certificate().hash()));
        // The key of the other one.
        fs::copy(place(site.dir.path()).join(name_of(1)).join(KEY), newest.join(KEY)).unwrap();
        assert_eq!(site.latest(NOW + 20), Some(first.certificate().hash()));
    }

    #[test]
    fn g_52_a_kill_after_any_file_of_a_pair_leaves_the_old_one_and_the_next_attempt_sweeps() {
        let site = Site::new();
        let mut last = site.pair(NOW + 10);
        site.keep(&last);
        for written in 0..=3 {
            let next = site.pair(NOW + 20 + written);
            let number = numbers(&place(site.dir.path())).into_iter().max().unwrap() + 1;
            // What is there until the directory gets its name, in one step.
            let half = place(site.dir.path()).join(format!(".cellbus-new-{}", name_of(number)));
            create_private_dir(&half).unwrap();
            let files = [(CHAIN, next.chain_pem.as_bytes()), (KEY, next.key_pem.as_bytes())];
            let files = files.into_iter().chain([(GIVEN, &b"hash"[..])]);
            for (name, content) in files.take(usize::try_from(written).unwrap()) {
                crate::secret_file::write_secret_file(&half.join(name), content).unwrap();
            }
            assert_eq!(site.latest(NOW + 30), Some(last.certificate().hash()), "{written}");
            site.keep(&next);
            assert_eq!(site.latest(NOW + 30), Some(next.certificate().hash()), "{written}");
            assert!(!half.exists());
            last = next;
        }
    }

    #[test]
    fn another_kit_and_another_organisation_begin_anew() {
        let mut site = Site::new();
        site.keep(&site.pair(NOW + 10));
        assert!(site.latest(NOW + 20).is_some());
        let identity = site.identity.clone();
        site.identity = Identity::from_uri("cell://study/client/site-1?org=else").unwrap();
        assert_eq!(site.latest(NOW + 20), None);
        site.identity = identity;
        site.hand_over();
        assert_eq!(site.latest(NOW + 20), None, "it was renewed from another certificate");
    }
}
