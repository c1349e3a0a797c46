//! What was found, as one file for somebody else to look at. It is put together from kinds of values that hold no
//! secret, so that nothing has to be blackened afterwards.

use std::path::Path;

use cellbus_proto::{
    identity::CellKind,
    name::{Fqcn, Segment},
};
use cellbus_runtime::{
    certificate::{certificates_in_pem, profile::CertProfile},
    secret_file::{SecretFileError, list_private_tree, read_bounded_file, write_secret_file},
};
use serde::{Deserialize, Serialize};

use crate::{
    check::Finding,
    layout::{CERTIFICATE, ENTRIES_MAX, FILE_MAX_BYTES, LOCAL, MANIFEST, ROOT, STARTUP},
    manifest::Manifest,
    text::hex,
};

/// The format that this version writes and reads.
const FORMAT: &str = "cellbus-doctor/1";
/// Bytes in the largest bundle.
pub const BUNDLE_MAX_BYTES: usize = 4 << 20;

/// Everything that somebody elsewhere needs to help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The format.
    pub format: String,
    /// Version of the program.
    pub version: String,
    /// When it was put together, in seconds since 1970.
    pub unix: u64,
    /// What was found.
    pub findings: Vec<Finding>,
    /// The manifest, where there is one.
    pub manifest: Option<Manifest>,
    /// Files of the kit: names, modes and sizes.
    pub files: Vec<FileSeen>,
    /// Certificates of the kit.
    pub certificates: Vec<CertificateSeen>,
}

/// One file of a kit, from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSeen {
    /// Path, from the kit down.
    pub path: String,
    /// Permission bits.
    pub mode: String,
    /// Bytes.
    pub size: u64,
    /// Whether it belongs to the user that looked.
    pub is_ours: bool,
}

/// One certificate, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateSeen {
    /// File name.
    pub file: String,
    /// Fingerprint.
    pub sha256: String,
    /// URI names.
    pub uris: Vec<String>,
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file is no bundle.
    #[error("not a bundle of this version: {0}")]
    Format(String),
}

/// Writes what was found about the kit in `kit`, if it is one, to the file `to`.
///
/// # Errors
/// [`BundleError::File`].
pub fn write_bundle(
    to: &Path,
    kit: Option<&Path>,
    findings: &[Finding],
    now_unix: u64,
) -> Result<(), BundleError> {
    let bundle = Bundle {
        format: FORMAT.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        unix: now_unix,
        findings: findings.to_vec(),
        manifest: kit.and_then(manifest),
        files: kit.map(files).unwrap_or_default(),
        certificates: kit.map(certificates).unwrap_or_default(),
    };
    let json = serde_json::to_vec_pretty(&bundle).expect("its keys are strings");
    Ok(write_secret_file(to, &json)?)
}

/// Reads a bundle that somebody sent.
///
/// # Errors
/// [`BundleError`].
pub fn read_bundle(from: &Path) -> Result<Bundle, BundleError> {
    let bytes = read_bounded_file(from, BUNDLE_MAX_BYTES)?;
    let bundle: Bundle =
        serde_json::from_slice(&bytes).map_err(|error| BundleError::Format(error.to_string()))?;
    if bundle.format == FORMAT { Ok(bundle) } else { Err(BundleError::Format(bundle.format)) }
}

fn manifest(kit: &Path) -> Option<Manifest> {
    let bytes = read_bounded_file(&kit.join(STARTUP).join(MANIFEST), FILE_MAX_BYTES).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn files(kit: &Path) -> Vec<FileSeen> {
    let mut found = Vec::new();
    for part in [STARTUP, LOCAL] {
        for entry in list_private_tree(&kit.join(part), ENTRIES_MAX).unwrap_or_default() {
            found.push(FileSeen {
                path: format!("{part}/{}", entry.inside.display()),
                mode: format!("{:04o}", entry.mode),
                size: entry.size,
                is_ours: entry.is_ours,
            });
        }
    }
    found
}

fn certificates(kit: &Path) -> Vec<CertificateSeen> {
    let mut found = Vec::new();
    for file in [CERTIFICATE, ROOT] {
        let Ok(pem) = read_bounded_file(&kit.join(STARTUP).join(file), FILE_MAX_BYTES) else {
            continue;
        };
        for profile in
            certificates_in_pem(&pem).iter().filter_map(|der| CertProfile::read(der).ok())
        {
            found.push(CertificateSeen {
                file: file.to_owned(),
                sha256: hex(&profile.hash),
                uris: profile.uris,
                not_before: profile.dates.not_before,
                not_after: profile.dates.not_after,
            });
        }
    }
    found
}

impl Bundle {
    /// Whose kit it is about, where it is about one.
    #[must_use]
    pub fn about(&self) -> Option<(CellKind, &Fqcn, &Segment)> {
        let manifest = self.manifest.as_ref()?;
        Some((manifest.kind, &manifest.cell, &manifest.project))
    }
}
