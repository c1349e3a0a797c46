//! Joining a project over the network: what is said at a join door, and every decision that the door makes.
//!
//! A door stands beside a server, on a port of its own, and is no part of the bus: who knocks has no certificate yet. It
//! carries two sealed letters, a request inwards and a reply outwards, and can open neither. What it decides is who
//! may leave a request, and who is given a reply: whoever shows the access that follows from the secret of an
//! invitation, and the key that the first request under it was made with.

use crate::{
    name::Segment,
    transcript::{Purpose, Signable, Transcript, sha256},
};

mod approval;
mod callers;
mod door;
mod frame;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod vectors;

pub use self::{
    approval::{Applicant, ApprovalRule, RuleError, approved_by},
    callers::{ADDRESSES_MAX, CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS, Callers, Crowded},
    door::{COLLECT_S, Claim, Door, DoorError, ENTRIES_MAX, Entry, Knocked, Stage, Step},
    frame::{ANSWER_MAX_BYTES, Answer, Knock, REPLY_MAX_BYTES, REQUEST_MAX_BYTES, Refusal},
};

/// The application protocol of a door, and with it its one version.
pub const ALPN: &[u8] = b"cellbus-join/1";
/// The server name that everybody who knocks asks for.
pub const SERVER_NAME: &str = "join.cellbus.invalid";

/// What a secret gives access to at a door. The door is told it, and cannot open anything with it; it keeps the hash alone.
#[must_use]
pub fn access_of(project: &Segment, name: &Segment, root_sha256: &str, secret: &[u8]) -> [u8; 32] {
    let signable = Transcript::new(Purpose::JoinAccess)
        .field(project.as_str().as_bytes())
        .field(name.as_str().as_bytes())
        .field(root_sha256.as_bytes())
        .field(secret)
        .finish();
    sha256(&signable)
}

/// What the key of a request signs each time it is shown at a door: so it is good for one connection only.
#[must_use]
pub fn knock_signable(
    name: &Segment,
    exporter: &[u8; 32],
    certificate: &[u8],
    request: &[u8],
) -> Signable {
    Transcript::new(Purpose::JoinKnock)
        .field(name.as_str().as_bytes())
        .field(exporter)
        .field(&sha256(certificate))
        .field(&sha256(request))
        .finish()
}
