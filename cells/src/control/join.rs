//! The join door of a server, over the control socket: who is invited, who has come, and what they are answered.

use cellbus_proto::name::Segment;
use serde::{Deserialize, Serialize};

use super::Payload;

/// Something to be done at the join door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinAsk {
    /// What.
    pub verb: JoinVerb,
    /// Who asks: by the kernel's word, never by that of the asking side.
    #[serde(skip)]
    pub by: Option<String>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum JoinVerb {
    /// Nothing: says where the door is, and who is invited.
    Ls,
    /// Lets somebody leave a request, in the place of any earlier invitation of the same name.
    Invite {
        /// Base name.
        name: Segment,
        /// SHA-256 of the access that the secret gives, in hexadecimal digits.
        access_sha256: String,
        /// Last second, since 1970.
        expires_unix: u64,
    },
    /// Gives the request that waits.
    Fetch {
        /// Base name.
        name: Segment,
    },
    /// Hands out a reply from now on.
    Answer {
        /// Base name.
        name: Segment,
        /// SHA-256 of the request that it is to, in hexadecimal digits.
        request_sha256: String,
        /// The reply, sealed.
        reply: Payload,
        /// The rule of a policy that approved it, for the log; none where a person did.
        #[serde(default)]
        rule: Option<String>,
    },
    /// Lets nobody in by this invitation.
    Reject {
        /// Base name.
        name: Segment,
    },
}

/// A join door, and who is invited there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// Base name of the cell that has it.
    pub cell: Segment,
    /// Its project.
    pub project: Segment,
    /// Fingerprints of the project's authorities, in hexadecimal digits.
    pub roots: Vec<String>,
    /// Where others reach it: host and port.
    pub address: String,
    /// Who is invited, by name.
    pub rows: Vec<JoinRow>,
    /// The request that was to be fetched.
    pub request: Option<Payload>,
}

/// One invitation at a door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRow {
    /// Base name.
    pub name: Segment,
    /// `invited`, `waiting`, `answered` or `rejected`.
    pub stage: String,
    /// Last second, since 1970.
    pub expires_unix: u64,
    /// Since when its request waits, in seconds since 1970.
    pub since_unix: Option<u64>,
    /// Fingerprint of the certificate that the new key has signed, to be compared with what `cellbus join` shows.
    pub key_sha256: Option<String>,
    /// SHA-256 of the request.
    pub request_sha256: Option<String>,
}
