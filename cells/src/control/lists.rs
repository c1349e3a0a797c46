//! Signed lists, over the control socket: what a cell holds, what it is given, and whom the server lets in.

use cellbus_proto::name::Fqcn;
use serde::{Deserialize, Serialize};

use super::Payload;

/// Lists that a cell is to take over, where they are newer than what it holds and good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListsAsk {
    /// The bytes of a file of signed lists.
    pub lists: Payload,
    /// Who asks: by the kernel's word, never by that of the asking side.
    #[serde(skip)]
    pub by: Option<String>,
}

/// What is to become of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BanVerb {
    /// It is not let in from now on.
    Ban,
    /// It is let in again.
    Unban,
    /// It is turned out once, and has to register again.
    Remove,
}

/// Whom the server is to let in no more, or again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanAsk {
    /// What is to become of it.
    pub verb: BanVerb,
    /// The cell; its base name counts.
    pub cell: Fqcn,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Who asks: by the kernel's word, never by that of the asking side.
    #[serde(skip)]
    pub by: Option<String>,
}

/// The signed lists that a cell holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListsReply {
    /// The cell.
    pub cell: Fqcn,
    /// Each list; version 0 where it holds none.
    pub lists: Vec<ListRow>,
    /// Those that were taken over by this request.
    pub changed: Vec<ListChange>,
    /// Whom the server does not let in.
    pub bans: Vec<BanRow>,
    /// What the authority has revoked.
    pub revoked: Vec<RevokedRow>,
    /// What went wrong although the lists are in force.
    pub warning: Option<String>,
}

/// One list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    /// `revocations`, `bans` or `roster`.
    pub list: String,
    /// Its version; 0 for none.
    pub version: u64,
    /// When it was signed, in seconds since 1970.
    pub issued_unix: u64,
    /// What stands on it.
    pub entries: u64,
}

/// A list that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListChange {
    /// `revocations`, `bans` or `roster`.
    pub list: String,
    /// The version before; 0 for none.
    pub from: u64,
    /// The version now.
    pub to: u64,
}

/// A cell that is not let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanRow {
    /// Base name.
    pub name: String,
    /// Since when, in seconds since 1970.
    pub since_unix: u64,
    /// Why.
    pub reason: String,
}

/// An identity or a certificate that counts no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedRow {
    /// Base name; none for a certificate.
    pub name: Option<String>,
    /// SHA-256 of a certificate, in hex; none for an identity.
    pub leaf: Option<String>,
    /// Why.
    pub reason: String,
    /// Until when, in seconds since 1970; none for as long as it stands there.
    pub until_unix: Option<u64>,
}
