//! Bringing a kit up to date: a newer topology and roster for a key that stays.

use std::{collections::BTreeMap, path::Path};

use cellbus_runtime::{
    certificate::{certificates_in_pem, leaf_hash},
    secret_file::{SecretFileError, read_bounded_file, read_secret_file, write_secret_file},
};

use crate::{
    kit::{Kit, Refused, chain},
    layout::{FILE_MAX_BYTES, MANIFEST, ROOT, ROSTER, SIGNATURE, STARTUP, TOPOLOGY},
    lists::file_names,
    manifest::{FORMAT, FileEntry, Manifest, is_signed_by},
    text::hex,
};

/// Why a kit was not brought up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The kit itself is not as it was signed.
    #[error("the kit is not as it was signed")]
    Kit(#[source] Refused),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The update is none, or not for this kit.
    #[error("the update is not taken: {0}")]
    Refused(String),
}

/// What an update changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated {
    /// Serial number of the manifest before.
    pub from: u64,
    /// Serial number of the manifest now.
    pub to: u64,
}

/// Takes the update in `update` for the kit in `dir`.
///
/// The files are replaced one by one, the signature last: until then the kit is refused, and the same update can be
/// taken again.
///
/// # Errors
/// [`UpdateError`]; the kit is as it was unless a file could not be written.
pub fn update(dir: &Path, update: &Path, now_unix: u64) -> Result<Updated, UpdateError> {
    let startup = dir.join(STARTUP);
    let lists = file_names();
    let [revocations, cells] = lists.each_ref().map(String::as_str);
    // The signature goes last: until then the kit is refused.
    let names = [TOPOLOGY, ROSTER, revocations, cells, MANIFEST, SIGNATURE];
    let mut new = BTreeMap::new();
    for name in names {
        new.insert(name, read_bounded_file(&update.join(name), FILE_MAX_BYTES)?);
    }
    let refused = |what: &str| UpdateError::Refused(what.to_owned());
    let manifest: Manifest = serde_json::from_slice(&new[MANIFEST])
        .map_err(|error| UpdateError::Refused(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(refused("it has a format of another version"));
    }
    let root = read_secret_file(&startup.join(ROOT), FILE_MAX_BYTES)?;
    let root = certificates_in_pem(&root).into_iter().next().unwrap_or_default();
    if hex(&leaf_hash(&root)) != manifest.root_sha256
        || !is_signed_by(&root, &new[MANIFEST], &new[SIGNATURE])
    {
        return Err(refused("it is not signed by the authority of this kit"));
    }
    // A kit whose update was interrupted is refused, and is still known by what it was.
    let held = read_secret_file(&startup.join(MANIFEST), FILE_MAX_BYTES)?;
    let held: Manifest = serde_json::from_slice(&held)
        .map_err(|error| UpdateError::Refused(format!("the kit has no manifest: {error}")))?;
    let same = held.project == manifest.project
        && held.identity() == manifest.identity()
        && held.certificate_sha256 == manifest.certificate_sha256;
    if !same {
        return Err(refused("it is for another kit"));
    }
    if manifest.serial < held.serial {
        return Err(refused("it is older than the kit"));
    }
    for file in &manifest.files {
        let is_good = match new.get(file.path.as_str()) {
            Some(content) => FileEntry::of(&file.path, content) == *file,
            None => held.file(&file.path) == Some(file),
        };
        if !is_good {
            return Err(UpdateError::Refused(format!("{} is not as it was signed", file.path)));
        }
    }
    for name in names {
        write_secret_file(&startup.join(name), &new[name])?;
    }
    Kit::open(dir, None, now_unix).map_err(UpdateError::Kit)?;
    Ok(Updated { from: held.serial, to: manifest.serial })
}

impl From<UpdateError> for String {
    fn from(error: UpdateError) -> Self {
        chain(&error)
    }
}
