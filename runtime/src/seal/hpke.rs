//! HPKE (RFC 9180) with the keys of certificates: base mode, one message per context.

use std::fmt;

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    encoding::{AsBigEndian, Curve25519SeedBin, EcPrivateKeyBin},
    signature::Ed25519KeyPair,
};
use cellbus_proto::sealing::{INFO, Sealed, Suite};
use ed25519_dalek::{SigningKey, VerifyingKey};
use rustls::crypto::{
    aws_lc_rs::hpke::{DH_KEM_P256_HKDF_SHA256_AES_256, DH_KEM_X25519_HKDF_SHA256_AES_256},
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

/// The private key of a certificate, as far as it opens sealed messages.
pub(crate) struct OpeningKey {
    suite: Suite,
    key: HpkePrivateKey,
}

/// The public key of a certificate, as far as messages can be sealed to it.
pub(super) struct SealingKey {
    suite: Suite,
    key: HpkePublicKey,
}

/// The library refused. It does not say why, and nobody may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message cannot be sealed or opened with this key")]
pub(super) struct HpkeError;

fn library(suite: Suite) -> &'static dyn Hpke {
    match suite {
        Suite::P256 => DH_KEM_P256_HKDF_SHA256_AES_256,
        Suite::X25519 => DH_KEM_X25519_HKDF_SHA256_AES_256,
    }
}

impl OpeningKey {
    /// The key, if it is one that cells use.
    pub(crate) fn from_der(key: &PrivateKeyDer<'_>) -> Option<Self> {
        let der = key.secret_der();
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let seed: Curve25519SeedBin<'_> = pair.seed().ok()?.as_be_bytes().ok()?;
            let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.as_ref().try_into().ok()?);
            // One pair of keys for both is sound: https://eprint.iacr.org/2021/509
            let scalar = SigningKey::from_bytes(&seed).to_scalar_bytes();
            return Some(Self { suite: Suite::X25519, key: scalar.to_vec().into() });
        }
        let key = PrivateKey::from_private_key_der(&ECDH_P256, der).ok()?;
        let scalar: EcPrivateKeyBin<'_> = key.as_be_bytes().ok()?;
        Some(Self { suite: Suite::P256, key: scalar.as_ref().to_vec().into() })
    }

    pub(super) fn open(&self, sealed: &Sealed, associated: &[u8]) -> Result<Vec<u8>, HpkeError> {
        if sealed.suite != self.suite {
            return Err(HpkeError);
        }
        let encapsulated = EncapsulatedSecret(sealed.encapsulated.to_vec());
        library(self.suite)
            .open(&encapsulated, INFO, associated, &sealed.ciphertext, &self.key)
            .map_err(|_| HpkeError)
    }
}

impl SealingKey {
    /// The key that is this point, not compressed.
    pub(super) fn from_p256(point: &[u8]) -> Self {
        Self { suite: Suite::P256, key: HpkePublicKey(point.to_vec()) }
    }

    /// The key that verifies signatures, if it is one.
    pub(super) fn from_ed25519(key: &[u8]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
        let point = key.to_montgomery().to_bytes().to_vec();
        Some(Self { suite: Suite::X25519, key: HpkePublicKey(point) })
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    /// The encapsulated key and the ciphertext.
    pub(super) fn seal(
        &self,
        associated: &[u8],
        plain: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), HpkeError> {
        let sealed = library(self.suite).seal(INFO, associated, plain, &self.key);
        sealed.map(|(encapsulated, text)| (encapsulated.0, text)).map_err(|_| HpkeError)
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpeningKey(***)")
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.suite, f)
    }
}
