//! Signing lists.

use cellbus_proto::{
    codec::body::Blob,
    trust::{List, Signed},
};
use rustls::{SignatureScheme, sign::SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{fmt, sync::Arc};

use crate::{
    authority::OwnCertificate,
    certificate::read_certificate,
    tls::{SignError, provider, verify_leaf_signature},
};

/// Schemes of keys that sign lists, best first.
const SCHEMES: &[SignatureScheme] =
    &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];

/// Signs lists with the key of a root, or of a certificate that leads to one.
pub struct ListSigner {
    /// Empty for a root.
    chain: Vec<CertificateDer<'static>>,
    /// Whose key it is.
    certificate: CertificateDer<'static>,
    key: Arc<dyn SigningKey>,
}

/// Why a list was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignListError {
    /// No certificate in PEM form.
    #[error("no certificate in PEM form")]
    Certificate,
    /// No key in PEM form, or none that signs lists.
    #[error("no P-256 or Ed25519 key in PEM form")]
    Key,
    /// The key is another certificate's.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// The library refuses to sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl ListSigner {
    /// A signer from PEM texts: the certificate, then what leads to the root, and the key. The certificate of a
    /// root stands for itself.
    ///
    /// # Errors
    /// [`SignListError`].
    pub fn from_pem(chain_pem: &str, key_pem: &str) -> Result<Self, SignListError> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|_| SignListError::Certificate)?;
        let certificate = chain.first().ok_or(SignListError::Certificate)?.clone();
        let der =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| SignListError::Key)?;
        let key = provider().key_provider.load_private_key(der).map_err(|_| SignListError::Key)?;
        let contents = read_certificate(&certificate).map_err(|_| SignListError::Certificate)?;
        let chain = if contents.facts.is_authority { Vec::new() } else { chain };
        let signer = Self { chain, certificate, key };
        const PROBE: &[u8] = b"cellbus: whose key is this";
        let signature = signer.sign_bytes(PROBE)?;
        if !verify_leaf_signature(&signer.certificate, PROBE, &signature) {
            return Err(SignListError::Mismatch);
        }
        Ok(signer)
    }

    /// A signer with the key of a cell: the server, for its ban list.
    pub(crate) fn of_cell(own: &OwnCertificate) -> Option<Self> {
        let chain = own.chain().to_vec();
        let certificate = chain.first()?.clone();
        Some(Self { chain, certificate, key: Arc::clone(&own.certified().key) })
    }

    fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, SignListError> {
        let signer = self.key.choose_scheme(SCHEMES).ok_or(SignListError::Key)?;
        signer.sign(message).map_err(|error| SignListError::Sign(SignError::from(error)))
    }

    /// Signs a list.
    ///
    /// # Errors
    /// [`SignListError`] when the library refuses; it has no reason to.
    pub fn sign<L: List>(&self, list: &L) -> Result<Signed, SignListError> {
        let chain = self.chain.iter().map(|der| Blob(der.to_vec())).collect();
        let mut signed = Signed::unsigned(list, chain);
        signed.signature = Blob(self.sign_bytes(&signed.signable(L::KIND))?);
        Ok(signed)
    }
}

impl fmt::Debug for ListSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListSigner")
            .field("is_root", &self.chain.is_empty())
            .finish_non_exhaustive()
    }
}
