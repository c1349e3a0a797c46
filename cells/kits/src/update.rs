//! Bringing a kit up to date: a newer topology and roster for a key that stays.

use std::{collections::BTreeMap, path::Path};

use cellbus_proto::{
    codec::body,
    name::Segment,
    trust::{Bundle, ListKind, RootsList, read},
};
use cellbus_runtime::{
    authority::verify_by_root,
    certificate::{certificates_in_pem, have_same_key, leaf_hash},
    lists::file_name,
    secret_file::{SecretFileError, read_bounded_file, read_secret_file, write_secret_file},
};

use crate::{
    kit::{Kit, Refused, chain},
    layout::{CERTIFICATE, FILE_MAX_BYTES, MANIFEST, ROOT, ROSTER, SIGNATURE, STARTUP, TOPOLOGY},
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
    let lists = lists.each_ref().map(String::as_str);
    let mut new = BTreeMap::new();
    for name in [TOPOLOGY, ROSTER, MANIFEST, SIGNATURE].into_iter().chain(lists) {
        new.insert(name, read_bounded_file(&update.join(name), FILE_MAX_BYTES)?);
    }
    for name in [ROOT, CERTIFICATE] {
        match read_bounded_file(&update.join(name), FILE_MAX_BYTES) {
            Ok(content) => drop(new.insert(name, content)),
            Err(SecretFileError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let refused = |what: &str| UpdateError::Refused(what.to_owned());
    let manifest: Manifest = serde_json::from_slice(&new[MANIFEST])
        .map_err(|error| UpdateError::Refused(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(refused("it has a format of another version"));
    }
    let held_roots = certificates_in_pem(&read_secret_file(&startup.join(ROOT), FILE_MAX_BYTES)?);
    let roots_file = file_name(ListKind::Roots);
    let next = successors(&new[roots_file.as_str()], &held_roots, &manifest.project);
    let is_it = |root: &&Vec<u8>| hex(&leaf_hash(root)) == manifest.root_sha256;
    let root = held_roots.iter().chain(&next).find(is_it);
    if !root.is_some_and(|root| is_signed_by(root, &new[MANIFEST], &new[SIGNATURE])) {
        return Err(refused(
            "it is not signed by the authority of this kit, or by the next one that this one names",
        ));
    }
    // A kit whose update was interrupted is refused, and is still known by what it was.
    let held = read_secret_file(&startup.join(MANIFEST), FILE_MAX_BYTES)?;
    let held: Manifest = serde_json::from_slice(&held)
        .map_err(|error| UpdateError::Refused(format!("the kit has no manifest: {error}")))?;
    let is_ours = match new.get(CERTIFICATE) {
        None => held.certificate_sha256 == manifest.certificate_sha256,
        Some(pem) => {
            let leaf = |pem: &[u8]| certificates_in_pem(pem).into_iter().next().unwrap_or_default();
            let own = read_secret_file(&startup.join(CERTIFICATE), FILE_MAX_BYTES)?;
            let (own, next) = (leaf(&own), leaf(pem));
            hex(&leaf_hash(&next)) == manifest.certificate_sha256 && have_same_key(&own, &next)
        }
    };
    let same =
        held.project == manifest.project && held.identity() == manifest.identity() && is_ours;
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
    // The signature goes last: until then the kit is refused.
    let is_last = |name: &str| [MANIFEST, SIGNATURE].iter().position(|last| *last == name);
    let mut names: Vec<&str> = new.keys().copied().collect();
    names.sort_by_key(|name| is_last(name));
    for name in names {
        write_secret_file(&startup.join(name), &new[name])?;
    }
    Kit::open(dir, None, now_unix).map_err(UpdateError::Kit)?;
    Ok(Updated { from: held.serial, to: manifest.serial })
}

/// The authorities that a list of roots names, where one of those that the kit has vouches for it.
fn successors(list: &[u8], held: &[Vec<u8>], project: &Segment) -> Vec<Vec<u8>> {
    let Ok(bundle) = body::decode_exact::<Bundle>(list) else { return Vec::new() };
    let Some(signed) = bundle.roots.filter(|signed| signed.chain.is_empty()) else {
        return Vec::new();
    };
    let Ok(list) = read::<RootsList>(&signed, project) else { return Vec::new() };
    let signable = signed.signable(ListKind::Roots);
    if !held.iter().any(|root| verify_by_root(root, &signable, &signed.signature.0)) {
        return Vec::new();
    }
    list.roots.into_iter().map(|root| root.der.0).collect()
}

impl From<UpdateError> for String {
    fn from(error: UpdateError) -> Self {
        chain(&error)
    }
}
