//! Who may leave a request at a join door, and who is given which reply.
//!
//! ```text
//! Invited ──first key──▶ Waiting ──reply──▶ Answered ──24 h past its end──▶ gone
//!    └────────┴── withdrawn ──▶ Rejected        (Invited, Waiting, Rejected: gone at their end)
//! ```
//!
//! Nothing changes by asking: whoever keeps the door writes an entry down first, and puts it in force then. So
//! what was promised to somebody outlives a crash.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::{codec::Octets, name::Segment, transcript::sha256};

/// Invitations that one door knows at most.
pub const ENTRIES_MAX: usize = 256;
/// Seconds past the end of an invitation for which its reply can still be collected.
pub const COLLECT_S: u64 = 24 * 3600;

/// One invitation, as the door knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// SHA-256 of the access that the secret gives.
    pub access_sha256: Octets<32>,
    /// Its last second, since 1970.
    pub expires_unix: u64,
    /// How far it is.
    pub stage: Stage,
}

/// How far an invitation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Nobody has come with it.
    Invited,
    /// Somebody has, and waits.
    Waiting(Claim),
    /// There is a reply, for whoever it was, with this SHA-256.
    Answered(Claim, Octets<32>),
    /// It was withdrawn.
    Rejected,
}

/// Whose invitation it is from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// SHA-256 of the certificate that the new key has signed.
    pub certificate_sha256: Octets<32>,
    /// SHA-256 of the request.
    pub request_sha256: Octets<32>,
    /// Since when, in seconds since 1970.
    pub since_unix: u64,
}

/// A knock whose signature is good.
#[derive(Clone, Debug)]
pub struct Knocked<'a> {
    /// Who is invited.
    pub name: &'a Segment,
    /// What was shown.
    pub access: &'a [u8; 32],
    /// SHA-256 of the certificate.
    pub certificate_sha256: [u8; 32],
    /// SHA-256 of the request.
    pub request_sha256: [u8; 32],
}

/// What is to be done about a knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Keep the request, then [`put`](Door::put) this entry, then say that it waits.
    Keep(Entry),
    /// Say that it waits.
    Wait,
    /// Hand out the reply with this SHA-256.
    Give([u8; 32]),
}

/// Why a door does not do what its keeper asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DoorError {
    /// There is no room for another invitation.
    #[error("{ENTRIES_MAX} invitations are open already; withdraw some")]
    Full,
    /// Its time is over.
    #[error("the invitation has expired")]
    Expired,
    /// There is no invitation of this name.
    #[error("nobody of this name is invited at this door")]
    Unknown,
    /// Nobody has made a request with it.
    #[error("nobody has come with the invitation yet")]
    NoRequest,
    /// The reply is to another request than the one that waits.
    #[error("another request waits than the one that was approved")]
    OtherRequest,
    /// It was withdrawn.
    #[error("the invitation was withdrawn")]
    Rejected,
}

/// The invitations of one door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Door {
    entries: BTreeMap<Segment, Entry>,
}

impl Entry {
    /// Whether it is of no use to anybody any more.
    #[must_use]
    pub fn is_over(&self, now_unix: u64) -> bool {
        let more = if matches!(self.stage, Stage::Answered(..)) { COLLECT_S } else { 0 };
        now_unix > self.expires_unix.saturating_add(more)
    }

    /// Whose it is, where somebody has come with it.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        match &self.stage {
            Stage::Waiting(claim) | Stage::Answered(claim, _) => Some(claim),
            Stage::Invited | Stage::Rejected => None,
        }
    }
}

impl Door {
    /// The invitations, by name.
    pub fn entries(&self) -> impl Iterator<Item = (&Segment, &Entry)> {
        self.entries.iter()
    }

    /// One of them.
    #[must_use]
    pub fn entry(&self, name: &Segment) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Puts in force what has been written down.
    pub fn put(&mut self, name: Segment, entry: Entry) {
        self.entries.insert(name, entry);
    }

    /// Forgets what is over, and names it.
    pub fn sweep(&mut self, now_unix: u64) -> Vec<Segment> {
        let over = self.entries.iter().filter(|(_, entry)| entry.is_over(now_unix));
        let names: Vec<Segment> = over.map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.entries.remove(name);
        }
        names
    }

    /// A new invitation, in the place of any other of this name.
    ///
    /// # Errors
    /// [`DoorError::Full`] and [`DoorError::Expired`].
    pub fn invited(
        &self,
        name: &Segment,
        access_sha256: [u8; 32],
        expires_unix: u64,
        now_unix: u64,
    ) -> Result<Entry, DoorError> {
        if now_unix > expires_unix {
            return Err(DoorError::Expired);
        }
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(name) {
            return Err(DoorError::Full);
        }
        let access_sha256 = Octets(access_sha256);
        Ok(Entry { access_sha256, expires_unix, stage: Stage::Invited })
    }

    /// The invitation withdrawn; whoever comes with it is told.
    ///
    /// # Errors
    /// [`DoorError::Unknown`].
    pub fn rejected(&self, name: &Segment) -> Result<Entry, DoorError> {
        let entry = self.entries.get(name).ok_or(DoorError::Unknown)?;
        Ok(Entry { stage: Stage::Rejected, ..entry.clone() })
    }

    /// The invitation with a reply to the request that waits. The same reply may be given again.
    ///
    /// # Errors
    /// [`DoorError`] when it is not that request that waits.
    pub fn answered(
        &self,
        name: &Segment,
        request_sha256: [u8; 32],
        reply_sha256: [u8; 32],
    ) -> Result<Entry, DoorError> {
        let entry = self.entries.get(name).ok_or(DoorError::Unknown)?;
        let claim = match &entry.stage {
            Stage::Invited => return Err(DoorError::NoRequest),
            Stage::Rejected => return Err(DoorError::Rejected),
            Stage::Waiting(claim) | Stage::Answered(claim, _) => claim.clone(),
        };
        if claim.request_sha256 != Octets(request_sha256) {
            return Err(DoorError::OtherRequest);
        }
        let stage = Stage::Answered(claim, Octets(reply_sha256));
        Ok(Entry { stage, ..entry.clone() })
    }

    /// Whether whoever shows `access` is invited as `name`. Costs a hash: asked before any signature is looked at.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::Rejected`] and [`Refusal::Expired`]. Without the right access, it is always the first.
    pub fn recognise(
        &self,
        name: &Segment,
        access: &[u8; 32],
        now_unix: u64,
    ) -> Result<&Entry, Refusal> {
        let entry = self.entries.get(name).ok_or(Refusal::Unknown)?;
        // Hashes are compared, so the time that it takes says nothing about the access.
        if entry.access_sha256 != Octets(sha256(access)) {
            return Err(Refusal::Unknown);
        }
        if entry.stage == Stage::Rejected {
            return Err(Refusal::Rejected);
        }
        if entry.is_over(now_unix) { Err(Refusal::Expired) } else { Ok(entry) }
    }

    /// What becomes of a knock whose signature has been verified.
    ///
    /// # Errors
    /// [`Refusal`]: as [`Self::recognise`], and where another key or another request was there first.
    pub fn knock(&self, knocked: &Knocked<'_>, now_unix: u64) -> Result<Step, Refusal> {
        let entry = self.recognise(knocked.name, knocked.access, now_unix)?;
        let (claim, step) = match &entry.stage {
            Stage::Rejected => return Err(Refusal::Rejected),
            Stage::Invited => {
                let claim = Claim {
                    certificate_sha256: Octets(knocked.certificate_sha256),
                    request_sha256: Octets(knocked.request_sha256),
                    since_unix: now_unix,
                };
                let stage = Stage::Waiting(claim);
                return Ok(Step::Keep(Entry { stage, ..entry.clone() }));
            }
            Stage::Waiting(claim) => (claim, Step::Wait),
            Stage::Answered(claim, reply) => (claim, Step::Give(reply.0)),
        };
        if claim.certificate_sha256 != Octets(knocked.certificate_sha256) {
            return Err(Refusal::Taken);
        }
        if claim.request_sha256 != Octets(knocked.request_sha256) {
            return Err(Refusal::Changed);
        }
        Ok(step)
    }
}
