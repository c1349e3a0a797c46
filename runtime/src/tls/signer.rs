//! Signatures by the key of a leaf certificate, over transcripts.

use std::{fmt, sync::Arc};

use rustls::sign::SigningKey;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use webpki::{
    EndEntityCert,
    aws_lc_rs::{ECDSA_P256_SHA256, ED25519},
};

use super::LEAF_SCHEMES;
use crate::authority::OwnCertificate;

/// Signs with this cell's leaf key. What is signed must be a transcript with a purpose of its own: the same key
/// signs TLS handshakes.
#[derive(Clone)]
pub struct LeafSigner {
    key: Arc<dyn SigningKey>,
}

/// The key could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign with the key of the certificate")]
pub struct SignError(#[from] rustls::Error);

impl LeafSigner {
    /// Signs with the key of `own`.
    #[must_use]
    pub fn new(own: &OwnCertificate) -> Self {
        Self { key: Arc::clone(&own.certified().key) }
    }

    /// Signs `message`: ECDSA with SHA-256 (DER form) for a P-256 key, Ed25519 for such a key.
    ///
    /// # Errors
    /// [`SignError`] when the library refuses; it has no reason to.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signer = self
            .key
            .choose_scheme(LEAF_SCHEMES)
            .expect("a certificate of ours has a key of one of these schemes");
        signer.sign(message).map_err(SignError)
    }
}

impl fmt::Debug for LeafSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafSigner")
    }
}

/// Whether the holder of the key of `cert_der` made `signature` over `message`.
///
/// Says nothing about the certificate itself, which may be anybody's, expired or self-signed: check it by
/// [`super::verify_chain`] or by its pin. Any bytes give an answer.
#[must_use]
pub fn verify_leaf_signature(cert_der: &[u8], message: &[u8], signature: &[u8]) -> bool {
    // The two that cells sign with, and no other: an algorithm that nobody uses is only a way in.
    let schemes: [&dyn SignatureVerificationAlgorithm; 2] = [ECDSA_P256_SHA256, ED25519];
    let der = CertificateDer::from(cert_der);
    let Ok(cert) = EndEntityCert::try_from(&der) else { return false };
    schemes.into_iter().any(|scheme| cert.verify_signature(scheme, message, signature).is_ok())
}
