//! The signed list of what a kit holds, and for whom.

use base64::{Engine, engine::general_purpose::STANDARD};
use cellbus_proto::{
    identity::{CellKind, Identity},
    name::{Fqcn, Segment},
    renewal::RenewedBy,
    topology::Topology,
    transcript::{Purpose, Signable, Transcript, sha256},
};
use cellbus_runtime::authority::{Authority, AuthorityError, verify_by_root};
use serde::{Deserialize, Serialize};

use crate::text::hex;

/// The format of manifests that this version writes and reads.
pub const FORMAT: &str = "cellbus-kit/1";
/// The mode that every file of a kit has.
pub const FILE_MODE: &str = "0600";

/// What a kit holds, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The project.
    pub project: Segment,
    /// Base name of the cell, or the name of the person.
    pub name: Segment,
    /// Full name of the cell; for a person, the name.
    pub cell: Fqcn,
    /// Server, relay, client or admin.
    pub kind: CellKind,
    /// The organisation.
    pub org: Segment,
    /// The role of a person.
    pub role: Option<Segment>,
    /// The cell that it dials, by base name.
    pub parent: Option<Segment>,
    /// Counts the kits and updates of a project; a larger one replaces a smaller one.
    pub serial: u64,
    /// When it was signed, in seconds since 1970.
    pub issued_unix: u64,
    /// SHA-256 of the authority's certificate, in hexadecimal digits.
    pub root_sha256: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub certificate_sha256: String,
    /// Where the next certificate comes from; none in manifests of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed_by: Option<RenewedBy>,
    /// Every file of `startup/` but the manifest and its signature, by path.
    pub files: Vec<FileEntry>,
}

/// One file of a kit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path below `startup/`.
    pub path: String,
    /// Permission bits, as `chmod` takes them.
    pub mode: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// Who may attach to one cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// Children, by base name: each is let in with any certificate of the project that carries its URI name.
    pub children: Vec<Child>,
}

/// One who may attach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Child {
    /// Full name.
    pub cell: Fqcn,
    /// The URI name of its certificate.
    pub uri: String,
}

impl FileEntry {
    /// The entry of a file with this content.
    #[must_use]
    pub fn of(path: &str, content: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            mode: FILE_MODE.to_owned(),
            size: content.len() as u64,
            sha256: hex(&sha256(content)),
        }
    }
}

impl Roster {
    /// The roster that `topology` gives a cell.
    #[must_use]
    pub fn of(topology: &Topology, name: &str) -> Self {
        let children = topology.children_of(name).map(|cell| {
            let identity = Identity {
                project: topology.project.clone(),
                kind: cell.kind,
                name: cell.name.clone().into(),
                org: cell.org.clone(),
                role: None,
            };
            Child { cell: cell.fqcn.clone(), uri: identity.to_uri() }
        });
        Self { children: children.collect() }
    }

    /// The content of its file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Manifest {
    /// The content of its file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// The identity that the certificate must name.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            project: self.project.clone(),
            kind: self.kind,
            name: self.name.clone().into(),
            org: self.org.clone(),
            role: self.role.clone(),
        }
    }

    /// The entry of this file.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Signs it; yields the content of the signature's file.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn sign(&self, authority: &Authority) -> Result<Vec<u8>, AuthorityError> {
        let signature = authority.vouch(&signable(&self.to_json()))?;
        Ok(format!("{}\n", STANDARD.encode(signature)).into_bytes())
    }
}

/// Whether `signature`, the content of its file, was made over the manifest by the holder of the root's key.
#[must_use]
pub fn is_signed_by(root_der: &[u8], manifest: &[u8], signature: &[u8]) -> bool {
    let text = std::str::from_utf8(signature).unwrap_or_default();
    let Ok(signature) = STANDARD.decode(text.trim_end()) else { return false };
    verify_by_root(root_der, &signable(manifest), &signature)
}

fn signable(manifest: &[u8]) -> Signable {
    Transcript::new(Purpose::KitManifest).field(FORMAT.as_bytes()).field(manifest).finish()
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(value).expect("its keys are strings");
    json.push(b'\n');
    json
}
