//! What is signed: a purpose, then fields, each with its length in front, hashed.
//!
//! No two purposes share a label and no field can borrow bytes from its neighbour, so that a
//! signature made for one purpose is noise for every other.

use sha2::{Digest, Sha256};

/// Why something is signed. Every signature in the system has one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// A child proves itself to its direct parent.
    Register,
    /// The parent proves itself to the child.
    RegisterAck,
    /// A cell proves itself to the server through its parent.
    RegisterEndToEnd,
    /// The server announces the key that signs session tokens.
    TokenKey,
    /// The server issues a session token.
    Token,
    /// A cell asks another to act, on a topic of the system.
    ControlMessage,
    /// A cell vouches for what it has sealed to another.
    SealedMessage,
    /// What a sealed message is bound to. Nothing is signed for it: it is associated data.
    SealedHeader,
    /// The project's authority vouches for the files of a kit.
    KitManifest,
    /// Who wants to join a project has the key that is to be certified.
    JoinRequest,
    /// What the secret of an invitation gives access to at a join door. Nothing is signed for it: it is derived.
    JoinAccess,
    /// Who comes to a join door has the key of its request.
    JoinKnock,
    /// The holder of a transfer vouches for a reference to it.
    TransferReference,
    /// The receiver of a transfer vouches for what has become of it there.
    TransferReceipt,
    /// The project's authority takes certificates and identities back.
    Revocations,
    /// The server says whom it does not let in.
    Bans,
    /// The project's authority says which cells there are.
    Roster,
    /// An authority of the project says which authorities count.
    Roots,
    /// What the pieces of a sealed transfer are bound to. Nothing is signed for it: it is associated data.
    SealedTransfer,
    /// A neighbour goes on with another certificate, on the same connection.
    RenewLink,
    /// A registered cell goes on with another certificate.
    RenewCertificate,
    /// A registered cell has the key that is to be certified next.
    IssueCertificate,
}

/// Collects the fields of one signature.
#[derive(Clone, Debug)]
pub struct Transcript {
    purpose: Purpose,
    hash: Sha256,
}

/// What a signing key signs: the label of the purpose, a zero byte, and the hash over all fields.
pub type Signable = Vec<u8>;

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 22] = [
        Self::Register,
        Self::RegisterAck,
        Self::RegisterEndToEnd,
        Self::TokenKey,
        Self::Token,
        Self::ControlMessage,
        Self::SealedMessage,
        Self::SealedHeader,
        Self::KitManifest,
        Self::JoinRequest,
        Self::JoinAccess,
        Self::JoinKnock,
        Self::TransferReference,
        Self::TransferReceipt,
        Self::Revocations,
        Self::Bans,
        Self::Roster,
        Self::Roots,
        Self::SealedTransfer,
        Self::RenewLink,
        Self::RenewCertificate,
        Self::IssueCertificate,
    ];

    /// The label on the wire.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Register => "cellbus/v1/register",
            Self::RegisterAck => "cellbus/v1/register-ack",
            Self::RegisterEndToEnd => "cellbus/v1/register-e2e",
            Self::TokenKey => "cellbus/v1/token-key",
            Self::Token => "cellbus/v1/token",
            Self::ControlMessage => "cellbus/v1/control",
            Self::SealedMessage => "cellbus/v1/sealed",
            Self::SealedHeader => "cellbus/v1/sealed-header",
            Self::KitManifest => "cellbus/v1/kit-manifest",
            Self::JoinRequest => "cellbus/v1/join-request",
            Self::JoinAccess => "cellbus/v1/join-access",
            Self::JoinKnock => "cellbus/v1/join-knock",
            Self::TransferReference => "cellbus/v1/transfer",
            Self::TransferReceipt => "cellbus/v1/receipt",
            Self::Revocations => "cellbus/v1/revocations",
            Self::Bans => "cellbus/v1/bans",
            Self::Roster => "cellbus/v1/roster",
            Self::Roots => "cellbus/v1/roots",
            Self::SealedTransfer => "cellbus/v1/sealed-transfer",
            Self::RenewLink => "cellbus/v1/renew-link",
            Self::RenewCertificate => "cellbus/v1/renew-certificate",
            Self::IssueCertificate => "cellbus/v1/issue-certificate",
        }
    }
}

impl Transcript {
    /// Starts a transcript for `purpose`.
    #[must_use]
    pub fn new(purpose: Purpose) -> Self {
        Self { purpose, hash: Sha256::new() }.field(purpose.label().as_bytes())
    }

    /// Adds a field: its length as eight bytes, big endian, then the bytes.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.hash.update((bytes.len() as u64).to_be_bytes());
        self.hash.update(bytes);
        self
    }

    /// What is to be signed or verified.
    #[must_use]
    pub fn finish(self) -> Signable {
        let mut signable = self.purpose.label().as_bytes().to_vec();
        signable.push(0);
        signable.extend_from_slice(&self.hash.finalize());
        signable
    }
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What both ends of a link know about their registration, before either signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterFacts<'a> {
    /// The project.
    pub project: &'a str,
    /// Full name of the child.
    pub child: &'a str,
    /// Kind of the child.
    pub child_kind: &'a str,
    /// Full name of the parent.
    pub parent: &'a str,
    /// Kind of the parent.
    pub parent_kind: &'a str,
    /// Drawn by the child for this connection.
    pub child_nonce: &'a [u8; 32],
    /// Drawn by the parent for this challenge.
    pub parent_nonce: &'a [u8; 32],
    /// Which challenge is answered.
    pub challenge: u64,
    /// SHA-256 of the child's leaf certificate, from the connection.
    pub child_leaf: &'a [u8; 32],
    /// SHA-256 of the parent's leaf certificate, from the connection.
    pub parent_leaf: &'a [u8; 32],
    /// Exporter of this TLS session (RFC 9266).
    pub exporter: &'a [u8; 32],
}

impl RegisterFacts<'_> {
    /// What is signed, by the child for [`Purpose::Register`] and by the parent for
    /// [`Purpose::RegisterAck`].
    #[must_use]
    pub fn signable(&self, purpose: Purpose) -> Signable {
        Transcript::new(purpose)
            .field(self.project.as_bytes())
            .field(self.child.as_bytes())
            .field(self.child_kind.as_bytes())
            .field(self.parent.as_bytes())
            .field(self.parent_kind.as_bytes())
            .field(self.child_nonce)
            .field(self.parent_nonce)
            .field(&self.challenge.to_be_bytes())
            .field(self.child_leaf)
            .field(self.parent_leaf)
            .field(self.exporter)
            .finish()
    }
}

/// What a cell behind a parent signs for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndToEndFacts<'a> {
    /// The project.
    pub project: &'a str,
    /// Full name of the cell.
    pub child: &'a str,
    /// Full name of its direct parent.
    pub parent: &'a str,
    /// Full name of the server.
    pub server: &'a str,
    /// Drawn by the server for this registration.
    pub server_nonce: &'a [u8; 32],
    /// SHA-256 of the cell's leaf certificate.
    pub child_leaf: &'a [u8; 32],
}

impl EndToEndFacts<'_> {
    /// What the cell signs.
    #[must_use]
    pub fn signable(&self) -> Signable {
        Transcript::new(Purpose::RegisterEndToEnd)
            .field(self.project.as_bytes())
            .field(self.child.as_bytes())
            .field(self.parent.as_bytes())
            .field(self.server.as_bytes())
            .field(self.server_nonce)
            .field(self.child_leaf)
            .finish()
    }
}

/// What the holder of a new certificate signs with its new key, for a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewLinkFacts<'a> {
    /// The project.
    pub project: &'a str,
    /// Full name of the holder.
    pub cell: &'a str,
    /// Full name of the neighbour.
    pub neighbour: &'a str,
    /// SHA-256 of the leaf certificate that this connection goes by until now.
    pub old_leaf: &'a [u8; 32],
    /// SHA-256 of the new one.
    pub new_leaf: &'a [u8; 32],
    /// Exporter of this TLS session (RFC 9266).
    pub exporter: &'a [u8; 32],
}

impl RenewLinkFacts<'_> {
    /// What the holder signs.
    #[must_use]
    pub fn signable(&self) -> Signable {
        Transcript::new(Purpose::RenewLink)
            .field(self.project.as_bytes())
            .field(self.cell.as_bytes())
            .field(self.neighbour.as_bytes())
            .field(self.old_leaf)
            .field(self.new_leaf)
            .field(self.exporter)
            .finish()
    }
}

/// What the holder of a new certificate signs with its new key, for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewCertificateFacts<'a> {
    /// The project.
    pub project: &'a str,
    /// Full name of the holder.
    pub cell: &'a str,
    /// Full name of the server.
    pub server: &'a str,
    /// SHA-256 of the leaf certificate that the cell is registered with.
    pub old_leaf: &'a [u8; 32],
    /// SHA-256 of the new one.
    pub new_leaf: &'a [u8; 32],
}

impl RenewCertificateFacts<'_> {
    /// What the holder signs.
    #[must_use]
    pub fn signable(&self) -> Signable {
        Transcript::new(Purpose::RenewCertificate)
            .field(self.project.as_bytes())
            .field(self.cell.as_bytes())
            .field(self.server.as_bytes())
            .field(self.old_leaf)
            .field(self.new_leaf)
            .finish()
    }
}

/// What a cell signs with a new key, for the server to certify that key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueCertificateFacts<'a> {
    /// The project.
    pub project: &'a str,
    /// Full name of the cell.
    pub cell: &'a str,
    /// Full name of the server.
    pub server: &'a str,
    /// SHA-256 of the leaf certificate that the cell is registered with.
    pub held: &'a [u8; 32],
    /// What holds the new key, as it is sent.
    pub request: &'a [u8],
}

impl IssueCertificateFacts<'_> {
    /// What the cell signs.
    #[must_use]
    pub fn signable(&self) -> Signable {
        Transcript::new(Purpose::IssueCertificate)
            .field(self.project.as_bytes())
            .field(self.cell.as_bytes())
            .field(self.server.as_bytes())
            .field(self.held)
            .field(self.request)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey, Verifier};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p_01_a_signature_for_one_purpose_verifies_for_no_other() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let fields: [&[u8]; 3] = [b"project", b"child", &[1; 32]];
        let signable = |purpose| {
            fields.iter().fold(Transcript::new(purpose), |t, field| t.field(field)).finish()
        };
        for made in Purpose::ALL {
            let signature = key.sign(&signable(made));
            for asked in Purpose::ALL {
                let verifies = key.verifying_key().verify(&signable(asked), &signature).is_ok();
                assert_eq!(verifies, made == asked, "{made:?} presented as {asked:?}");
            }
        }
    }

    #[test]
    fn no_label_is_the_beginning_of_another_with_its_terminator() {
        for a in Purpose::ALL {
            for b in Purpose::ALL {
                let (a0, b0) = (format!("{}\0", a.label()), format!("{}\0", b.label()));
                assert!(a == b || !a0.starts_with(&b0));
            }
        }
    }

    proptest! {
        #[test]
        fn atk_029_moving_bytes_between_fields_changes_what_is_signed(text in "[a-z]{2,20}", cut in 0usize..20, other in 0usize..20) {
            let split = |at: usize| {
                let (a, b) = text.split_at(at.min(text.len()));
                Transcript::new(Purpose::Register).field(a.as_bytes()).field(b.as_bytes()).finish()
            };
            let same = cut.min(text.len()) == other.min(text.len());
            prop_assert_eq!(split(cut) == split(other), same);
        }
    }
}
