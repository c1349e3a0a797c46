//! Who may sign which list.
//!
//! | list | signed by |
//! |---|---|
//! | roots | the key of an authority that counts and is not tainted |
//! | revocations, roster | the key of a root of the project; or that of a person's certificate with the role `signer`, which leads to a root |
//! | bans | the key of the server's certificate, which leads to a root |

use cellbus_proto::{
    codec::body,
    identity::CellKind,
    name::{Fqcn, Segment},
    transcript::sha256,
    trust::{ListKind, RootState, RootsList, SIGNER_ROLE, Signed},
};
use rustls_pki_types::CertificateDer;

use crate::tls::{
    Direction, Roots, VerifiedPeer, verify_chain, verify_leaf_signature, verify_path,
};

/// When a list is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// It comes from elsewhere: who signed it must be good now.
    Comes,
    /// It was taken over before, or came with the credentials: who signed it must have been good then.
    Kept,
    /// As [`Self::Kept`], and the cell has written it itself.
    Own,
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
            Self::Kept | Self::Own => At { unix: issued, listed_counts: false },
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
        // A tainted authority may be in other hands: what it issued counts for now, and its word does not.
        let lists = roots.lists();
        let is_tainted = |root: &[u8]| {
            let state = lists.roots.as_ref().and_then(|list| list.state_of(&sha256(root)));
            state == Some(RootState::Tainted)
        };
        let counts = |root: &[u8]| !at.listed_counts || !is_tainted(root);
        return kind != ListKind::Bans && roots.ders().iter().any(|root| counts(root) && by(root));
    };
    let chain: Vec<CertificateDer<'_>> =
        signed.chain.iter().map(|der| CertificateDer::from(&der.0[..])).collect();
    let direction = match kind {
        ListKind::Bans => Direction::IsDialled,
        ListKind::Roots | ListKind::Revocations | ListKind::Roster => Direction::Dials,
    };
    let verify = if at.listed_counts { verify_chain } else { verify_path };
    if kind == ListKind::Roots {
        return false;
    }
    let Ok(VerifiedPeer { identity, .. }) = verify(roots, &chain, direction, at.unix) else {
        return false;
    };
    let may = match kind {
        ListKind::Bans => {
            identity.kind == CellKind::Server && identity.name.as_str() == server.base()
        }
        ListKind::Roots => false,
        ListKind::Revocations | ListKind::Roster => {
            let role = identity.role.as_ref().map(Segment::as_str);
            identity.kind == CellKind::Admin && role == Some(SIGNER_ROLE)
        }
    };
    may && identity.project == *project && by(&leaf.0)
}

/// Whether a list of roots was signed by one of those that it names. Says that nothing has changed in it since it was
/// taken over, and nothing of whether it is to be taken over.
pub(super) fn is_vouched_for_by_itself(signed: &Signed) -> bool {
    let Ok(list) = body::decode_exact::<RootsList>(&signed.content.0) else { return false };
    let signable = signed.signable(ListKind::Roots);
    let by = |der: &[u8]| verify_leaf_signature(der, &signable, &signed.signature.0);
    signed.chain.is_empty() && list.roots.iter().any(|root| by(&root.der.0))
}
