//! The directory in which a cell keeps what proves who it is.
//!
//! | file | content |
//! |---|---|
//! | `root.crt` | certificates of the project's authority, PEM |
//! | `cell.crt` | the cell's certificate, then what leads to the root, PEM |
//! | `cell.key` | the private key, PKCS#8 PEM, mode 0600 |

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use cellbus_proto::identity::Identity;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{Issued, OwnCertificate, OwnCertificateError, Presented};
use crate::{
    certificate::OutOfDate,
    secret_file::{
        SecretFileError, create_private_dir, read_secret_file, read_trusted_file, write_secret_file,
    },
    tls::{ChainError, Direction, Roots, verify_chain},
};

pub(super) const ROOT: &str = "root.crt";
pub(super) const CHAIN: &str = "cell.crt";
pub(super) const KEY: &str = "cell.key";
/// Bytes in the largest of these files.
const MAX_LEN: usize = 64 * 1024;

/// A cell's certificate and key, and the root that its peers must lead to. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    presented: Presented,
    roots: Arc<Roots>,
}

/// Why a directory holds no credentials for this cell. Says which file, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file is absent, open to others, or unreadable.
    #[error("credentials")]
    File(#[from] SecretFileError),
    /// A file does not contain what its name says.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: FileProblem,
    },
    /// The root certificates do not vouch for the cell's certificate.
    #[error(
        "{chain} is not vouched for by {root}; ask whoever provisions the project for a pair that belongs together"
    )]
    Chain {
        /// The file of the cell's certificate.
        chain: PathBuf,
        /// The file of the root certificates.
        root: PathBuf,
        /// Why not.
        #[source]
        problem: ChainError,
    },
    /// The cell's certificate has ended, or not yet begun.
    #[error("{chain} does not count today; have the certificate renewed, or set the clock")]
    OutOfDate {
        /// The file of the cell's certificate.
        chain: PathBuf,
        /// In which direction.
        #[source]
        problem: OutOfDate,
    },
    /// The certificate is another cell's.
    #[error("{chain} is the certificate of {found}, this cell is {wanted}")]
    Holder {
        /// The file of the certificate.
        chain: PathBuf,
        /// Whom it names, as `project/kind/name`.
        found: String,
        /// Whom it should name.
        wanted: String,
    },
}

/// What is wrong with the content of a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// No certificate, or no private key, in PEM form.
    #[error("contains no {wanted} in PEM form")]
    NotPem {
        /// What was looked for.
        wanted: &'static str,
    },
    /// The root certificates cannot be used as such.
    #[error("cannot be used as the project's root")]
    Root(#[source] ChainError),
    /// The certificate names nobody, or the key is not its own.
    #[error(transparent)]
    Own(#[from] OwnCertificateError),
}

impl Credentials {
    /// Joins a certificate with the root that vouches for it, without any file.
    ///
    /// # Errors
    /// [`ChainError`] when the root does not vouch for the certificate at `now_unix`.
    pub fn new(
        certificate: OwnCertificate,
        roots: Arc<Roots>,
        now_unix: u64,
    ) -> Result<Self, ChainError> {
        // Every cell dials or has peers of its own kind that do; this is the usage that all have.
        verify_chain(&roots, certificate.chain(), Direction::Dials, now_unix)?;
        Ok(Self { presented: certificate.into(), roots })
    }

    /// Reads the three files of `dir` and checks that they belong together at `now_unix`.
    ///
    /// # Errors
    /// [`CredentialsError`] for the first file that is absent, unsafe or wrong, and for a certificate that the root
    /// does not vouch for or that has expired.
    pub fn load(dir: &Path, now_unix: u64) -> Result<Self, CredentialsError> {
        let (root, chain, key) = (dir.join(ROOT), dir.join(CHAIN), dir.join(KEY));
        let roots = read_certificates(&root)?;
        let roots = Roots::new(roots).map_err(|error| {
            let problem = FileProblem::Root(error);
            CredentialsError::Content { path: root.clone(), problem }
        })?;
        let certificate = read_own(&chain, &key)?;
        Self::new(certificate, Arc::new(roots), now_unix).map_err(|problem| match problem {
            ChainError::OutOfDate(problem) => CredentialsError::OutOfDate { chain, problem },
            problem @ (ChainError::Empty
            | ChainError::TooLong { .. }
            | ChainError::KeyUsage { .. }
            | ChainError::Untrusted { .. }
            | ChainError::Certificate(_)
            | ChainError::NameConstraint { .. }
            | ChainError::Person
            | ChainError::Job
            | ChainError::Listed(_)) => CredentialsError::Chain { chain, root, problem },
        })
    }

    /// Refuses the credentials of any other than `wanted`'s project, kind and name.
    ///
    /// # Arguments
    /// `dir`: where they were loaded from, for the error.
    ///
    /// # Errors
    /// [`CredentialsError::Holder`].
    pub fn expect_holder(&self, dir: &Path, wanted: &Identity) -> Result<(), CredentialsError> {
        let certificate = self.certificate();
        let found = certificate.identity();
        let same = found.project == wanted.project
            && found.kind == wanted.kind
            && found.name == wanted.name;
        if same {
            return Ok(());
        }
        let words =
            |Identity { project, kind, name, .. }: &Identity| format!("{project}/{kind}/{name}");
        Err(CredentialsError::Holder {
            chain: dir.join(CHAIN),
            found: words(found),
            wanted: words(wanted),
        })
    }

    /// Writes the three files, all of mode 0600, into `dir`, which is created if it is not there.
    ///
    /// The certificate goes last and an old one goes first, so that files of two generations are never taken for a pair.
    ///
    /// # Errors
    /// [`SecretFileError`] for the first file that cannot be written.
    pub fn save(dir: &Path, root_pem: &str, issued: &Issued) -> Result<(), SecretFileError> {
        create_private_dir(dir)?;
        let chain = dir.join(CHAIN);
        match std::fs::remove_file(&chain) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(SecretFileError::Io { action: "replace", path: chain, source });
            }
        }
        write_secret_file(&dir.join(KEY), issued.key_pem().as_bytes())?;
        write_secret_file(&dir.join(ROOT), root_pem.as_bytes())?;
        write_secret_file(&chain, issued.chain_pem().as_bytes())
    }

    /// The cell's own certificate.
    #[must_use]
    pub fn certificate(&self) -> OwnCertificate {
        self.presented.certificate()
    }

    /// What is shown in handshakes, to show another one.
    #[must_use]
    pub fn presented(&self) -> &Presented {
        &self.presented
    }

    /// What the project's certificates must lead to.
    #[must_use]
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// The same, with lists of revocations and bans of its own.
    #[must_use]
    pub fn separate(&self) -> Self {
        let roots = Arc::new(self.roots.separate());
        Self { presented: self.certificate().into(), roots }
    }

    /// Whether `dir` holds a certificate, good or not.
    pub(super) fn are_in(dir: &Path) -> bool {
        dir.join(CHAIN).symlink_metadata().is_ok()
    }
}

/// Reads a certificate, with what leads to the root, and its key.
pub(super) fn read_own(chain: &Path, key: &Path) -> Result<OwnCertificate, CredentialsError> {
    let (own, own_key) = (read_certificates(chain)?, read_key(key)?);
    OwnCertificate::new(own, &own_key).map_err(|error| {
        let path = match error {
            OwnCertificateError::Key | OwnCertificateError::Mismatch => key,
            OwnCertificateError::Empty | OwnCertificateError::Certificate(_) => chain,
        };
        CredentialsError::Content { path: path.to_owned(), problem: error.into() }
    })
}

/// Reads every certificate in a PEM file.
pub(super) fn read_certificates(
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let text = read_trusted_file(path, MAX_LEN)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(CredentialsError::Content {
            path: path.to_owned(),
            problem: FileProblem::NotPem { wanted: "certificate" },
        }),
    }
}

fn read_key(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, CredentialsError> {
    let text = read_secret_file(path, MAX_LEN)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(_) => Err(CredentialsError::Content {
            path: path.to_owned(),
            problem: FileProblem::NotPem { wanted: "private key" },
        }),
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.certificate(), f)
    }
}
