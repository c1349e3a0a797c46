//! What a process that no cell has launched reads to meet its job cell.

use bytes::BytesMut;
use zeroize::{Zeroize, Zeroizing};

use super::{
    Bootstrap, Secret,
    fields::{BadField, Reader, Writer},
};
use crate::name::{Fqcn, Segment};

/// Where to connect, the proof to connect with, and for how long it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Absolute path of the socket.
    pub path: String,
    /// The secret, good for one connection.
    pub secret: Secret,
    /// The cell that listens.
    pub cell: Fqcn,
    /// The job it belongs to.
    pub job: Option<Segment>,
    /// When the secret is worth nothing any longer: milliseconds since 1970, by the clock of this machine.
    pub expires_unix_ms: u64,
}

/// Why bytes are not a rendezvous that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RendezvousError {
    /// More bytes than one has.
    #[error("rendezvous is longer than {max} bytes", max = Rendezvous::MAX_LEN)]
    TooLong,
    /// A version that this crate does not know.
    #[error("rendezvous has version {0}, known is {known}", known = Rendezvous::VERSION)]
    Version(u64),
    /// A field that is not what it must be.
    #[error("rendezvous field `{0}`")]
    Field(&'static str),
    /// Too old.
    #[error("rendezvous has expired")]
    Expired,
}

impl Rendezvous {
    /// The version that is written.
    pub const VERSION: u8 = 1;
    /// Bytes in the longest one.
    pub const MAX_LEN: usize = 1024;

    /// The bytes of the file. They hold the secret.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Never grows, so that no part of the secret is left in a buffer that was too small.
        let mut out = BytesMut::with_capacity(Self::MAX_LEN + self.path.len());
        Writer::new(&mut out, 6)
            .uint(Self::VERSION)
            .text(&self.path)
            .bin(self.secret.expose())
            .text(self.cell.as_str())
            .optional_text(self.job.as_ref().map(Segment::as_str))
            .uint(self.expires_unix_ms);
        let bytes = Zeroizing::new(out.to_vec());
        out[..].zeroize();
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote, at `unix_ms` milliseconds since 1970.
    ///
    /// # Errors
    /// [`RendezvousError`] for the first thing that is wrong.
    pub fn decode(bytes: &[u8], unix_ms: u64) -> Result<Self, RendezvousError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(RendezvousError::TooLong);
        }
        let field = |BadField(name)| RendezvousError::Field(name);
        let mut fields = Reader::new(bytes, 6).map_err(field)?;
        let version: u64 = fields.uint("version").map_err(field)?;
        if version != u64::from(Self::VERSION) {
            return Err(RendezvousError::Version(version));
        }
        let path = fields.text("path").map_err(field)?;
        if !path.starts_with('/') || path.len() > Bootstrap::PATH_MAX || path.contains('\0') {
            return Err(RendezvousError::Field("path"));
        }
        let secret = fields.bin("secret").map_err(field)?;
        let mut secret: [u8; Secret::LEN] =
            secret.try_into().map_err(|_| RendezvousError::Field("secret"))?;
        let secret = Secret::take(&mut secret);
        let cell = fields.text("cell").map_err(field)?;
        let cell = cell.parse().map_err(|_| RendezvousError::Field("cell"))?;
        let job = fields.optional(|fields| fields.text("job")).map_err(field)?;
        let job = job.map(str::parse).transpose().map_err(|_| RendezvousError::Field("job"))?;
        let expires_unix_ms = fields.uint("expires_unix_ms").map_err(field)?;
        fields.finish().map_err(field)?;
        if unix_ms >= expires_unix_ms {
            return Err(RendezvousError::Expired);
        }
        Ok(Self { path: path.to_owned(), secret, cell, job, expires_unix_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendezvous() -> Rendezvous {
        Rendezvous {
            path: "/run/cells/job-7/attach.sock".to_owned(),
            secret: Secret::take(&mut [9; 32]),
            cell: "site-1.job-7".parse().unwrap(),
            job: Some("job-7".parse().unwrap()),
            expires_unix_ms: 1_000,
        }
    }

    #[test]
    fn c_11_a_rendezvous_survives_its_bytes_and_nothing_else_is_one() {
        let bytes = rendezvous().encode();
        assert_eq!(Rendezvous::decode(&bytes, 999), Ok(rendezvous()));
        for cut in 0..bytes.len() {
            assert!(Rendezvous::decode(&bytes[..cut], 999).is_err(), "cut at {cut}");
        }
        let trailing = [&bytes[..], &[0xc0]].concat();
        assert!(Rendezvous::decode(&trailing, 999).is_err());
        let later = [&[bytes[0], 2], &bytes[2..]].concat();
        assert_eq!(Rendezvous::decode(&later, 999), Err(RendezvousError::Version(2)));
        assert_eq!(Rendezvous::decode(&[0; 1025], 0), Err(RendezvousError::TooLong));
    }

    #[test]
    fn c_11_an_expired_rendezvous_is_refused() {
        let bytes = rendezvous().encode();
        assert_eq!(Rendezvous::decode(&bytes, 1_000), Err(RendezvousError::Expired));
    }
}
