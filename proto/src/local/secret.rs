//! The launch secret: what proves that a connection comes from the job code that was launched.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// 32 random bytes, erased from memory when dropped and never printed.
///
/// Comparing two takes the same time wherever they differ. They live on the heap, so that moving the
/// value leaves no copy behind.
#[derive(Clone)]
pub struct Secret(Box<Zeroizing<[u8; Self::LEN]>>);

impl Secret {
    /// Bytes in a secret.
    pub const LEN: usize = 32;

    /// Takes over `bytes` and erases the place they came from.
    #[must_use]
    pub fn take(bytes: &mut [u8; Self::LEN]) -> Self {
        let secret = Self(Box::new(Zeroizing::new(*bytes)));
        zeroize::Zeroize::zeroize(bytes);
        secret
    }

    /// The bytes, for the one frame or file that carries them.
    #[must_use]
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_07_a_secret_does_not_print_and_leaves_its_source_empty() {
        let mut bytes = [7; 32];
        let secret = Secret::take(&mut bytes);
        assert_eq!(bytes, [0; 32]);
        assert_eq!(secret.expose(), &[7; 32]);
        assert_eq!(format!("{secret:?}"), "***");
        assert_ne!(secret, Secret::take(&mut [8; 32]));
    }
}
