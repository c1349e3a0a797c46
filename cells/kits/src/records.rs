//! What provisioning remembers of what it issued: no key, only what is needed to issue the next.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use cellbus_proto::{identity::CellKind, name::Segment, renewal::RenewedBy, trust::RootState};
use cellbus_runtime::secret_file::{SecretFileError, read_secret_file};
use serde::{Deserialize, Serialize};

use crate::{
    layout::{RECORDS, RECORDS_MAX_BYTES, kits_number},
    manifest::FileEntry,
};

/// The format that this version writes and reads.
pub const FORMAT: &str = "cellbus-records/1";

/// Everything that was issued for a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// [`FORMAT`].
    pub format: String,
    /// The project.
    pub project: Segment,
    /// SHA-256 of the certificate of the authority that issues, in hexadecimal digits.
    pub root_sha256: String,
    /// The authorities that count, the oldest first.
    #[serde(default)]
    pub authorities: Vec<AuthorityRecord>,
    /// The list of roots that was signed last, as it lies in files, in base64.
    #[serde(default)]
    pub roots_list: String,
    /// The largest serial number that was given out.
    pub serial: u64,
    /// Version of the signed lists that were made last.
    pub lists: u64,
    /// Who has a kit, by name.
    pub participants: BTreeMap<Segment, Issued>,
    /// Certificates that count no more although their time is not over.
    pub revoked: Vec<Revoked>,
}

/// The last kit of one participant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Server, relay, client or admin.
    pub kind: CellKind,
    /// The organisation.
    pub org: Segment,
    /// The role of a person.
    pub role: Option<Segment>,
    /// Hosts in the certificate.
    pub hosts: Vec<String>,
    /// Number of the directory in which the kit was written.
    pub kits: u32,
    /// Serial number of the manifest that the kit has, updates included.
    pub serial: u64,
    /// First second of the certificate.
    pub not_before: u64,
    /// Last second of the certificate.
    pub not_after: u64,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub certificate_sha256: String,
    /// SHA-256 of the certificate of the authority that issued it, in hexadecimal digits.
    #[serde(default)]
    pub root_sha256: String,
    /// The certificate, PEM: what another authority certifies the same key by.
    #[serde(default)]
    pub certificate: String,
    /// Everything in `startup/`, as the manifest has it.
    pub files: Vec<FileEntry>,
    /// The issuing authority in the kit of a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<IssuerRecord>,
    /// Where its next certificate comes from, as its manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed_by: Option<RenewedBy>,
    /// Whether it has made its key itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_key: bool,
}

/// An issuing authority that was handed over to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerRecord {
    /// First second of its certificate.
    pub not_before: u64,
    /// Last second of its certificate.
    pub not_after: u64,
    /// SHA-256 of its certificate, in hexadecimal digits: what is taken back if the server's disk is lost.
    pub certificate_sha256: String,
}

/// One authority of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityRecord {
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub sha256: String,
    /// Where it stands in its life.
    pub state: RootState,
    /// The directory of its certificate and key, below that of the project.
    pub dir: String,
    /// Last second of its certificate.
    pub not_after: u64,
}

/// A certificate that counts no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Whose it was.
    pub name: Segment,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub certificate_sha256: String,
    /// Last second of the certificate; afterwards it need not be remembered.
    pub not_after: u64,
    /// When it was taken back.
    pub revoked_unix: u64,
    /// Why.
    pub reason: String,
}

/// Why the records of a project cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// The file cannot be read.
    #[error("records of the project")]
    File(#[from] SecretFileError),
    /// The directory cannot be listed.
    #[error("cannot list {path}")]
    List {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The file does not contain what was written to it.
    #[error("{path} is damaged; restore the directory from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The records that count, and the number of their directory; `None` where nothing was issued.
///
/// # Errors
/// [`RecordsError`].
pub fn latest(out: &Path) -> Result<Option<(u32, Records)>, RecordsError> {
    let list = |source| RecordsError::List { path: out.to_owned(), source };
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(list(error)),
    };
    let mut last = None;
    for entry in entries {
        let name = entry.map_err(list)?.file_name();
        last = last.max(name.to_str().and_then(kits_number));
    }
    let Some(number) = last else { return Ok(None) };
    let path = out.join(crate::layout::kits_dir(number)).join(RECORDS);
    let bytes = read_secret_file(&path, RECORDS_MAX_BYTES)?;
    let records: Option<Records> = serde_json::from_slice(&bytes).ok();
    match records.filter(|records| records.format == FORMAT) {
        Some(records) => Ok(Some((number, records))),
        None => Err(RecordsError::Damaged { path }),
    }
}

impl Records {
    /// Of a project for which nothing was issued.
    #[must_use]
    pub fn new(project: Segment, root_sha256: String) -> Self {
        Self {
            format: FORMAT.to_owned(),
            project,
            root_sha256,
            authorities: Vec::new(),
            roots_list: String::new(),
            serial: 0,
            lists: 0,
            participants: BTreeMap::new(),
            revoked: Vec::new(),
        }
    }

    /// The authority in this state; at most one has it.
    #[must_use]
    pub fn authority(&self, state: RootState) -> Option<&AuthorityRecord> {
        self.authorities.iter().find(|one| one.state == state)
    }

    /// Whether the certificate of this participant is of the authority that issues now.
    #[must_use]
    pub fn is_current(&self, issued: &Issued) -> bool {
        issued.root_sha256 == self.root_sha256
    }

    /// The content of its file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("its keys are strings");
        json.push(b'\n');
        json
    }
}
