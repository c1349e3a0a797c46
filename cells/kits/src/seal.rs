//! Sealing bytes with age: under a passphrase, or to the public key of a recipient.

use std::io::{Read, Write};

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::passphrase::Passphrase;

/// Work of trying one passphrase, as a power of two; about a second and 256 MiB.
pub const WORK_FACTOR: u8 = 18;
/// Most work that opening something takes upon itself.
const WORK_FACTOR_MAX: u8 = 20;

/// What something is sealed with.
#[derive(Debug)]
pub enum SealWith {
    /// A passphrase; `work_factor` is [`WORK_FACTOR`] but in tests.
    Passphrase {
        /// The passphrase.
        passphrase: Passphrase,
        /// Work, as a power of two.
        work_factor: u8,
    },
    /// The public keys of recipients, as `age1..`.
    Recipients(Vec<String>),
}

/// What something is opened with.
#[derive(Debug)]
pub enum OpenWith {
    /// A passphrase.
    Passphrase(Passphrase),
    /// The text of an identity file, with a line `AGE-SECRET-KEY-1..`.
    Identity(Zeroizing<String>),
}

/// Why something is not sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A text is not the public key of a recipient.
    #[error("{0:?} is not a public key of age (`age1..`)")]
    Recipient(String),
    /// A file has no identity in it.
    #[error("no secret key of age in the identity file")]
    NoIdentity,
    /// Nobody to seal to.
    #[error("no recipient")]
    NoRecipient,
    /// It was not sealed with age, or is cut or changed.
    #[error("not a sealed kit, or it is damaged")]
    Damaged,
    /// Another passphrase or key is needed.
    #[error("the passphrase or key is not the right one")]
    WrongKey,
    /// The content is larger than is looked at.
    #[error("the content has more than {0} bytes")]
    TooLarge(usize),
    /// The library or a writer failed.
    #[error("cannot seal")]
    Failed(#[source] std::io::Error),
}

/// Seals `content`.
///
/// # Errors
/// [`SealError`].
pub fn seal(content: &[u8], with: &SealWith) -> Result<Vec<u8>, SealError> {
    match with {
        SealWith::Passphrase { passphrase, work_factor } => {
            let mut recipient = age::scrypt::Recipient::new(secret(passphrase));
            recipient.set_work_factor(*work_factor);
            seal_to(content, &[&recipient])
        }
        SealWith::Recipients(keys) => {
            let parse = |key: &String| {
                key.parse::<age::x25519::Recipient>().map_err(|_| SealError::Recipient(key.clone()))
            };
            let keys: Vec<age::x25519::Recipient> =
                keys.iter().map(parse).collect::<Result<_, _>>()?;
            let keys: Vec<&dyn age::Recipient> =
                keys.iter().map(|key| key as &dyn age::Recipient).collect();
            seal_to(content, &keys)
        }
    }
}

fn seal_to(content: &[u8], recipients: &[&dyn age::Recipient]) -> Result<Vec<u8>, SealError> {
    let encryptor = age::Encryptor::with_recipients(recipients.iter().copied())
        .map_err(|_| SealError::NoRecipient)?;
    let mut sealed = Vec::with_capacity(content.len() + 1024);
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(SealError::Failed)?;
    writer.write_all(content).map_err(SealError::Failed)?;
    writer.finish().map_err(SealError::Failed)?;
    Ok(sealed)
}

/// Opens what was sealed, all of it or nothing.
///
/// # Units
/// `max` in bytes of content.
///
/// # Errors
/// [`SealError`]; nothing of the content is given then.
pub fn unseal(sealed: &[u8], with: &OpenWith, max: usize) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let identity: Box<dyn age::Identity> = match with {
        OpenWith::Passphrase(passphrase) => {
            let mut identity = age::scrypt::Identity::new(secret(passphrase));
            identity.set_max_work_factor(WORK_FACTOR_MAX);
            Box::new(identity)
        }
        OpenWith::Identity(text) => {
            let mut lines = text.lines().map(str::trim);
            let key = lines.find(|line| line.starts_with("AGE-SECRET-KEY-1"));
            let key = key.and_then(|key| key.parse::<age::x25519::Identity>().ok());
            Box::new(key.ok_or(SealError::NoIdentity)?)
        }
    };
    let decryptor = age::Decryptor::new(sealed).map_err(|_| SealError::Damaged)?;
    let opened = decryptor.decrypt(std::iter::once(&*identity));
    let reader = opened.map_err(|error| match error {
        age::DecryptError::NoMatchingKeys
        | age::DecryptError::DecryptionFailed
        | age::DecryptError::KeyDecryptionFailed
        | age::DecryptError::ExcessiveWork { .. } => SealError::WrongKey,
        age::DecryptError::InvalidHeader
        | age::DecryptError::InvalidMac
        | age::DecryptError::Io(_)
        | age::DecryptError::UnknownFormat => SealError::Damaged,
    })?;
    // One allocation: a vector that grows leaves copies of the content behind.
    let mut content = Zeroizing::new(Vec::with_capacity(sealed.len().min(max + 1)));
    reader.take(max as u64 + 1).read_to_end(&mut content).map_err(|_| SealError::Damaged)?;
    if content.len() > max {
        return Err(SealError::TooLarge(max));
    }
    Ok(content)
}

fn secret(passphrase: &Passphrase) -> SecretString {
    SecretString::from(passphrase.expose().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned())).unwrap()
    }

    fn sealed() -> Vec<u8> {
        let with = SealWith::Passphrase { passphrase: passphrase("right"), work_factor: 2 };
        seal(&vec![7; 200_000], &with).unwrap()
    }

    fn open(sealed: &[u8], text: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        unseal(sealed, &OpenWith::Passphrase(passphrase(text)), 1 << 20)
    }

    #[test]
    fn v_16_the_right_passphrase_opens_and_another_one_gives_nothing() {
        let sealed = sealed();
        assert_eq!(open(&sealed, "right").unwrap().len(), 200_000);
        assert!(matches!(open(&sealed, "wrong"), Err(SealError::WrongKey)));
    }

    #[test]
    fn v_16_what_is_cut_or_changed_anywhere_gives_nothing() {
        let sealed = sealed();
        for at in [0, 10, 100, 150, 65_000, 140_000, sealed.len() - 1] {
            assert!(open(&sealed[..at], "right").is_err(), "cut at {at}");
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&changed, "right").is_err(), "changed at {at}");
        }
        let longer = [sealed.as_slice(), b"x"].concat();
        assert!(open(&longer, "right").is_err());
    }

    #[test]
    fn v_16_what_is_larger_than_expected_gives_nothing() {
        let refused = unseal(&sealed(), &OpenWith::Passphrase(passphrase("right")), 199_999);
        assert!(matches!(refused, Err(SealError::TooLarge(199_999))));
    }

    #[test]
    fn v_16_a_recipient_opens_with_its_own_key_only() {
        use age::secrecy::ExposeSecret;
        let (key, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
        let sealed =
            seal(b"content", &SealWith::Recipients(vec![key.to_public().to_string()])).unwrap();
        let with = |key: &age::x25519::Identity| {
            let file = format!("# a comment\n{}\n", key.to_string().expose_secret());
            OpenWith::Identity(Zeroizing::new(file))
        };
        assert_eq!(**unseal(&sealed, &with(&key), 100).unwrap(), *b"content");
        assert!(matches!(unseal(&sealed, &with(&other), 100), Err(SealError::WrongKey)));
        assert!(matches!(
            seal(b"", &SealWith::Recipients(vec!["age1nobody".to_owned()])),
            Err(SealError::Recipient(_))
        ));
    }
}
