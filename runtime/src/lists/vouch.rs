//! Who may sign which list.
//!
//! | list | signed by |
//! |---|---|
//! | revocations, roster | the key of a root of the project; or that of a person's certificate with the role `signer`, which leads to a root |
//! | bans | the key of the server's certificate, which leads to a root |

use cellbus_proto::{
    identity::CellKind,
    name::{Fqcn, Segment},
    trust::{ListKind, SIGNER_ROLE, Signed},
};
use rustls_pki_types::CertificateDer;

use crate::tls::{
    Direction, Roots, VerifiedPeer, verify_chain, verify_leaf_signature, verify_path,
};

/// When a list is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    /// It comes from elsewhere: who signed it must be good now.
    Comes,
    /// It was taken over before: who signed it must have been good then.
    Kept,
}

/// A moment as seconds since 1970, and whether the lists in force count.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    unix: u64,
    listed_counts: bool,
}

impl Moment {
    pub(super) fn at(self, issued: u64, now_unix: u64) -> At {
        match self {
            Self::Comes => At { unix: now_unix, listed_counts: true },
            Self::Kept => At { unix: issued, listed_counts: false },
        }
    }
}

/// Whether the list was signed by somebody who may sign lists of this kind.
pub(super) fn is_vouched_for(
    roots: &Roots,
    kind: ListKind,
    signed: &Signed,
    (project, server): (&Segment, &Fqcn),
    at: At,
) -> bool {
    let signable = signed.signable(kind);
    let by = |der: &[u8]| verify_leaf_signature(der, &signable, &signed.signature.0);
    let Some(leaf) = signed.chain.first() else {
        return kind != ListKind::Bans && roots.ders().iter().any(|root| by(root));
    };
    let chain: Vec<CertificateDer<'_>> =
        signed.chain.iter().map(|der| CertificateDer::from(&der.0[..])).collect();
    let direction = match kind {
        ListKind::Bans => Direction::IsDialled,
        ListKind::Revocations | ListKind::Roster => Direction::Dials,
    };
    let verify = if at.listed_counts { verify_chain } else { verify_path };
    let Ok(VerifiedPeer { identity, .. }) = verify(roots, &chain, direction, at.unix) else {
        return false;
    };
    let may = match kind {
        ListKind::Bans => {
            identity.kind == CellKind::Server && identity.name.as_str() == server.base()
        }
        ListKind::Revocations | ListKind::Roster => {
            let role = identity.role.as_ref().map(Segment::as_str);
            identity.kind == CellKind::Admin && role == Some(SIGNER_ROLE)
        }
    };
    may && identity.project == *project && by(&leaf.0)
}
