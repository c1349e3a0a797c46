//! Joining at a door: what of an invitation is shown there, how a request is made again after a crash, and a reply found.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use cellbus_proto::{joining::access_of, name::Segment, transcript::sha256};
use cellbus_runtime::{
    joining::{DoorPin, JoinKey, Knocker},
    secret_file::{SecretFileError, read_secret_file},
};
use serde::{Deserialize, Serialize};

use super::{
    INVITATIONS, Invitation, JoinError, LETTER_MAX_BYTES, MADE_REQUEST, PENDING, REQUEST, Request,
    State, kept, letter,
};
use crate::{
    layout::{FILE_MAX_BYTES, KEY, STARTUP},
    lists::bytes_of,
    text::hex,
};

/// Where a request can be left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoorPlace {
    /// Base name of the cell whose door it is. Its certificate must be of this cell.
    pub cell: Segment,
    /// Host and port.
    pub address: String,
}

/// Somebody who has made a key, and has no kit yet.
#[derive(Debug)]
pub struct Pending {
    /// The directory of the kit to be.
    pub dir: PathBuf,
    /// By which it was begun.
    pub invitation: Invitation,
    /// The request that was made then.
    pub request: Vec<u8>,
    certificate: Vec<u8>,
}

impl Invitation {
    /// What the secret gives access to at a door. As secret as the invitation.
    #[must_use]
    pub fn access(&self) -> [u8; 32] {
        let secret = self.secret.0.as_bytes();
        access_of(&self.project, &self.name, &self.root_sha256, secret)
    }

    /// What a door is told of it: the hash of the access, in hexadecimal digits.
    #[must_use]
    pub fn access_sha256(&self) -> String {
        hex(&sha256(&self.access()))
    }
}

/// What was begun in `dir`; `None` where nothing was, or it is finished.
///
/// # Errors
/// [`JoinError`] for what cannot be read.
pub fn pending(dir: &Path) -> Result<Option<Pending>, JoinError> {
    let invitation = match read_secret_file(&dir.join(PENDING), FILE_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(SecretFileError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let invitation: Invitation =
        serde_json::from_slice(&invitation).map_err(|_| JoinError::Form)?;
    let request = read_secret_file(&dir.join(MADE_REQUEST), LETTER_MAX_BYTES)?.to_vec();
    let made: Request = invitation.take(&letter(&request, REQUEST)?)?;
    let certificate = STANDARD.decode(&made.certificate).map_err(|_| JoinError::Form)?;
    Ok(Some(Pending { dir: dir.to_owned(), invitation, request, certificate }))
}

impl Pending {
    /// Whether it was begun by this invitation, and not by another of the same name.
    #[must_use]
    pub fn is_by(&self, invitation: &Invitation) -> bool {
        self.invitation.access() == invitation.access()
    }

    /// Fingerprint of the certificate that the new key has signed, for people to compare.
    #[must_use]
    pub fn key_sha256(&self) -> String {
        hex(&sha256(&self.certificate))
    }

    /// Who knocks for it at the door of the invitation.
    ///
    /// # Errors
    /// [`JoinError`] when the invitation names no door, or the key cannot be used.
    pub fn knocker(&self) -> Result<Knocker, JoinError> {
        let door = self.invitation.door.as_ref().ok_or(JoinError::NoDoor)?;
        let key = read_secret_file(&self.dir.join(STARTUP).join(KEY), FILE_MAX_BYTES)?;
        Ok(Knocker {
            pin: DoorPin {
                project: self.invitation.project.clone(),
                cell: door.cell.clone(),
                root: bytes_of(&self.invitation.root_sha256).ok_or(JoinError::Line)?,
            },
            address: door.address.clone(),
            name: self.invitation.name.clone(),
            access: self.invitation.access(),
            certificate: self.certificate.clone(),
            request: self.request.clone(),
            key: JoinKey::new(&self.certificate, &key)?,
        })
    }
}

/// Whose request this says it is. Whether that is so, its seal shows.
///
/// # Errors
/// [`JoinError::Form`] for what is no request.
pub fn name_of(request: &[u8]) -> Result<Segment, JoinError> {
    Ok(letter(request, REQUEST)?.name)
}

pub(super) fn reply_place(out: &Path, name: &Segment) -> PathBuf {
    out.join(INVITATIONS).join(format!("{name}.reply"))
}

/// The reply to exactly this request, where it was approved before. So who approves can go on after a crash.
///
/// # Errors
/// [`JoinError`] for what cannot be read.
pub fn kept_reply(
    out: &Path,
    name: &Segment,
    request: &[u8],
) -> Result<Option<Vec<u8>>, JoinError> {
    let kept = match kept(out, name) {
        Err(JoinError::NotInvited(_)) => return Ok(None),
        other => other?,
    };
    if kept.state != State::Used || kept.request_sha256 != Some(hex(&sha256(request))) {
        return Ok(None);
    }
    Ok(Some(read_secret_file(&reply_place(out, name), LETTER_MAX_BYTES)?.to_vec()))
}
