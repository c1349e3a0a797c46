//! What a launcher hands to job code through an inherited file descriptor.

use bytes::BytesMut;
use zeroize::{Zeroize, Zeroizing};

use super::{
    Secret,
    fields::{BadField, Reader, Writer},
};

/// Where to connect, and the proof to connect with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Absolute path of the socket.
    pub path: String,
    /// The launch secret.
    pub secret: Secret,
}

/// Why bytes are not a bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// No bytes: it has been read before.
    #[error("bootstrap is empty; it can be read only once")]
    Empty,
    /// More bytes than a bootstrap has.
    #[error("bootstrap is longer than {max} bytes", max = Bootstrap::MAX_LEN)]
    TooLong,
    /// A version that this crate does not know.
    #[error("bootstrap has version {0}, known is {known}", known = Bootstrap::VERSION)]
    Version(u64),
    /// A field that is not what it must be.
    #[error("bootstrap field `{0}`")]
    Field(&'static str),
}

impl Bootstrap {
    /// The version that is written.
    pub const VERSION: u8 = 1;
    /// Name of the environment variable that holds the number of the file descriptor.
    pub const ENV: &'static str = "CELLBUS_BOOTSTRAP_FD";
    /// Bytes in the longest path of a socket.
    pub const PATH_MAX: usize = 100;
    /// Bytes in the longest bootstrap.
    pub const MAX_LEN: usize = 256;

    /// The bytes to hand over. They hold the secret.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Never grows, so that no part of the secret is left in a buffer that was too small.
        let mut out = BytesMut::with_capacity(Self::MAX_LEN + self.path.len());
        Writer::new(&mut out, 3).uint(Self::VERSION).text(&self.path).bin(self.secret.expose());
        let bytes = Zeroizing::new(out.to_vec());
        out[..].zeroize();
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`BootstrapError`] for the first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, BootstrapError> {
        if bytes.is_empty() {
            return Err(BootstrapError::Empty);
        }
        if bytes.len() > Self::MAX_LEN {
            return Err(BootstrapError::TooLong);
        }
        let field = |BadField(name)| BootstrapError::Field(name);
        let mut fields = Reader::new(bytes, 3).map_err(field)?;
        let version: u64 = fields.uint("version").map_err(field)?;
        if version != u64::from(Self::VERSION) {
            return Err(BootstrapError::Version(version));
        }
        let path = fields.text("path").map_err(field)?;
        if !path.starts_with('/') || path.len() > Self::PATH_MAX || path.contains('\0') {
            return Err(BootstrapError::Field("path"));
        }
        let secret = fields.bin("secret").map_err(field)?;
        let mut secret: [u8; Secret::LEN] =
            secret.try_into().map_err(|_| BootstrapError::Field("secret"))?;
        fields.finish().map_err(field)?;
        Ok(Self { path: path.to_owned(), secret: Secret::take(&mut secret) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_02_a_bootstrap_survives_its_bytes_and_nothing_else_is_one() {
        let path = "/run/cells/job-1/job.sock".to_owned();
        let bootstrap = Bootstrap { path, secret: Secret::take(&mut [9; 32]) };
        let bytes = bootstrap.encode();
        assert_eq!(Bootstrap::decode(&bytes), Ok(bootstrap));

        assert_eq!(Bootstrap::decode(&[]), Err(BootstrapError::Empty));
        assert_eq!(Bootstrap::decode(&[0; 257]), Err(BootstrapError::TooLong));
        for cut in 1..bytes.len() {
            assert!(Bootstrap::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let trailing = [&bytes[..], &[0xc0]].concat();
        assert!(Bootstrap::decode(&trailing).is_err());
        let later = [&[bytes[0], 2], &bytes[2..]].concat();
        assert_eq!(Bootstrap::decode(&later), Err(BootstrapError::Version(2)));
    }

    #[test]
    fn c_01_a_path_that_is_relative_abstract_or_too_long_is_refused() {
        for path in ["job.sock", "", "\0cells", "/run/\0x", &format!("/{}", "x".repeat(100))] {
            let secret = Secret::take(&mut [9; 32]);
            let bytes = Bootstrap { path: path.to_owned(), secret }.encode();
            assert_eq!(Bootstrap::decode(&bytes), Err(BootstrapError::Field("path")), "{path:?}");
        }
    }
}
