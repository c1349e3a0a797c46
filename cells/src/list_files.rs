//! Files of signed lists: read, signed and written where the key is, which is on no cell's machine.

use std::path::{Path, PathBuf};

use cellbus_proto::{
    codec::body,
    trust::{Bundle, LIST_MAX_BYTES, List, ListKind},
};
use cellbus_runtime::{
    certificate::{leaf_hash, read_certificate},
    lists::{ListSigner, SignListError},
    secret_file::{SecretFileError, read_bounded_file, read_secret_file, write_secret_file},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Bytes in the largest file of lists, which has one of each kind, or of certificates.
const FILE_MAX: usize = ListKind::ALL.len() * LIST_MAX_BYTES + 1024;
/// Bytes in the largest key file.
const KEY_MAX: usize = 64 << 10;

/// Where the list lies, and who signs it.
#[derive(Clone, Copy, Debug)]
pub struct SigningFiles<'a> {
    /// The list: the last one, whose place the next one takes.
    pub list: &'a Path,
    /// Certificate of who signs, PEM.
    pub cert: &'a Path,
    /// Its private key, PEM; for its owner alone.
    pub key: &'a Path,
}

/// Why a file could not be read, signed or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListFileError {
    /// It is no file of signed lists.
    #[error("{path}: no file of signed lists")]
    NoLists {
        /// The file.
        path: PathBuf,
    },
    /// The list that is wanted is not in it.
    #[error("{path}: no well-formed {kind} list in this file")]
    NoList {
        /// The file.
        path: PathBuf,
        /// Which list.
        kind: ListKind,
    },
    /// It is no certificate.
    #[error("{path}: no certificate in PEM form")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and key sign nothing.
    #[error("{path}")]
    Signer {
        /// The file at fault.
        path: PathBuf,
        /// Why.
        #[source]
        source: SignListError,
    },
    /// A file cannot be read, or the list not written.
    #[error(transparent)]
    File(#[from] SecretFileError),
}

fn read(path: &Path) -> Result<Vec<u8>, ListFileError> {
    Ok(read_bounded_file(path, FILE_MAX)?)
}

/// The lists of a file. Who has signed them is for a cell to say.
///
/// # Errors
/// [`ListFileError`].
pub fn read_bundle(path: &Path) -> Result<Bundle, ListFileError> {
    body::decode_exact(&read(path)?).map_err(|_| ListFileError::NoLists { path: path.to_owned() })
}

/// What the list of this kind in a file says; `None` where the file is not there.
///
/// # Errors
/// [`ListFileError`].
pub fn read_list<L: List>(path: &Path) -> Result<Option<L>, ListFileError> {
    let bundle = match read_bundle(path) {
        Err(ListFileError::File(SecretFileError::Missing { .. })) => return Ok(None),
        other => other?,
    };
    let no_list = || ListFileError::NoList { path: path.to_owned(), kind: L::KIND };
    let signed = bundle.get(L::KIND).ok_or_else(no_list)?;
    body::decode_exact(&signed.content.0).map(Some).map_err(|_| no_list())
}

/// Signs a list and writes it, whole or not at all.
///
/// # Errors
/// [`ListFileError`]; the file is as it was then.
pub fn write_list<L: List>(files: SigningFiles<'_>, list: &L) -> Result<(), ListFileError> {
    let SigningFiles { list: path, cert, key } = files;
    let chain = String::from_utf8(read(cert)?)
        .map_err(|_| ListFileError::NoCertificate { path: cert.to_owned() })?;
    let secret = read_secret_file(key, KEY_MAX)?;
    let text = std::str::from_utf8(&secret).unwrap_or_default();
    let at_fault = |source: SignListError| {
        let path = if matches!(source, SignListError::Certificate) { cert } else { key };
        ListFileError::Signer { path: path.to_owned(), source }
    };
    let signer = ListSigner::from_pem(&chain, text).map_err(at_fault)?;
    let signed = signer.sign(list).map_err(at_fault)?;
    write_secret_file(path, &body::encode(&Bundle::of(L::KIND, signed)))?;
    Ok(())
}

/// The SHA-256 of the first certificate of a PEM file, and when it ends, in seconds since 1970.
///
/// # Errors
/// [`ListFileError`].
pub fn certificate(path: &Path) -> Result<([u8; 32], u64), ListFileError> {
    let bad = || ListFileError::NoCertificate { path: path.to_owned() };
    let der = CertificateDer::from_pem_slice(&read(path)?).map_err(|_| bad())?;
    let contents = read_certificate(&der).map_err(|_| bad())?;
    Ok((leaf_hash(&der), contents.dates.not_after))
}
