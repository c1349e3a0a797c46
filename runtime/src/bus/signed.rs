//! What the transport signs for whoever transfers something, and verifies.

use std::sync::Arc;

use bytes::Bytes;
use cellbus_channels::{Outgoing, RequestError};
use cellbus_proto::{
    name::Fqcn,
    status::Status,
    transcript::{Purpose, Signable},
    well_known,
};

use super::CellTransport;
use crate::{own::Own, seal::Leaf};

/// The purposes for which users of a bus may have something signed.
const PURPOSES: [Purpose; 2] = [Purpose::TransferReference, Purpose::TransferReceipt];

fn may_be_signed(signable: &[u8]) -> bool {
    PURPOSES.iter().any(|purpose| {
        let rest = signable.strip_prefix(purpose.label().as_bytes());
        rest.is_some_and(|rest| rest.len() == 33 && rest[0] == 0)
    })
}

/// Signs with the key of the cell's certificate.
pub(super) async fn sign(own: Arc<Own>, signable: Signable) -> Result<Bytes, Status> {
    if !may_be_signed(&signable) {
        return Err(Status::TopicDenied);
    }
    own.signer().sign(&signable).map(Bytes::from).map_err(|_| Status::BadSignature)
}

impl CellTransport {
    /// Verifies under the certificate that `signer` is registered with.
    pub(super) async fn verify_signed(
        self,
        signer: Fqcn,
        signable: Signable,
        signature: Bytes,
    ) -> Result<(), RequestError> {
        let bad = || RequestError::Returned {
            by: self.own.name.clone(),
            status: Status::BadSignature,
            detail: Bytes::new(),
        };
        if !may_be_signed(&signable) {
            return Err(bad());
        }
        let is_good = |leaf: &Leaf| leaf.has_signed(&signable, &signature);
        if signer == self.own.name {
            let leaf = self.own.protection.leaf(&self.own.certificate().hash());
            return leaf.filter(|leaf| is_good(leaf)).map(drop).ok_or_else(bad);
        }
        let cell = self.current().ok_or(RequestError::Closed)?;
        let question = Outgoing::new(well_known::CERTIFICATE.into());
        let mut known = self.own.protection.place(&signer).lock_owned().await;
        let was_known = known.is_some();
        if is_good(&*self.leaf(&cell, &signer, &question, &mut known).await?) {
            return Ok(());
        }
        // The signer may have been given another certificate since.
        let again = was_known && {
            *known = None;
            is_good(&*self.leaf(&cell, &signer, &question, &mut known).await?)
        };
        again.then_some(()).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use cellbus_proto::transcript::Transcript;

    use super::*;

    #[test]
    fn nothing_but_what_says_that_something_is_transferred_is_signed() {
        for purpose in Purpose::ALL {
            let signable = Transcript::new(purpose).field(b"x").finish();
            assert_eq!(may_be_signed(&signable), PURPOSES.contains(&purpose), "{purpose:?}");
            assert!(!may_be_signed(&[&signable[..], b"x"].concat()));
            assert!(!may_be_signed(&signable[..signable.len() - 1]));
        }
        assert!(!may_be_signed(b""));
    }
}
