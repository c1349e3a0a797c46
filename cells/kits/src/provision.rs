//! From a project to a directory of kits, which appears whole or not at all.
//!
//! What was issued and is still good is kept: a second run makes only what is new, changed or about to end. Private
//! keys exist in the kits and nowhere else.

mod plan;
mod writer;

use std::path::{Path, PathBuf};

use cellbus_proto::{identity::CellKind, name::Segment, topology::project::Project};
use cellbus_runtime::{
    authority::AuthorityError,
    lists::SignListError,
    secret_file::{SecretFileError, Staging},
};
use serde::{Deserialize, Serialize};

use self::{
    plan::{kept, leave_only, plan, restrict, taken_back},
    writer::Writer,
};
use crate::{
    authorities::{Ask, Authorities},
    ca,
    layout::{RECORDS, TRUST, kits_dir},
    lists,
    manifest::FileEntry,
    passphrase::{Passphrase, PassphraseError},
    records::{Records, RecordsError, Revoked, latest},
    seal::SealError,
};

/// What is to be provisioned.
#[derive(Debug)]
pub struct Order<'a> {
    /// The project.
    pub project: &'a Project,
    /// The directory of the project.
    pub out: &'a Path,
    /// Makes a kit for this participant and nobody else.
    pub only: Option<&'a Segment>,
    /// The key of that participant, where it has made one itself: its kit then holds none.
    pub key: Option<&'a OwnKey>,
    /// Now, in seconds since 1970.
    pub now_unix: u64,
    /// Work of trying a passphrase, as a power of two; [`crate::seal::WORK_FACTOR`] but in tests.
    pub work_factor: u8,
}

/// A key that a participant has made itself and keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnKey {
    /// A certificate that it has signed with it, DER. Of it only the key counts.
    pub certificate: Vec<u8>,
    /// The file of the key at the participant.
    pub file: FileEntry,
    /// A second key, for the issuing authority that a server has where the project asks for one.
    pub issuing: Option<IssuingKey>,
}

/// The key of an issuing authority that a server has made itself and keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuingKey {
    /// A certificate that it has signed with it, DER. Of it only the key counts.
    pub certificate: Vec<u8>,
    /// The file of the key at the server.
    pub file: FileEntry,
}

/// Which passphrase is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One for the key of a new authority.
    New,
    /// That of the authority's key.
    Existing,
}

/// What became of one participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A kit was made.
    New,
    /// A kit was made, since the certificate of the old one is about to end.
    Renewed,
    /// A kit was made, since the participant has changed; the old certificate is taken back.
    Replaced,
    /// The kit stays, and an update for it was made.
    Updated,
    /// The kit stays as it is.
    Kept,
    /// The participant is no longer in the project file; its certificate is taken back.
    Removed,
}

/// One participant in a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The name.
    pub name: Segment,
    /// Server, relay, client or admin.
    pub kind: CellKind,
    /// What became of it.
    pub action: Action,
    /// Why.
    pub detail: String,
    /// The kit or update that was written, or the kit that stays, below the directory of the project.
    pub path: Option<String>,
    /// Serial number of its manifest.
    pub serial: u64,
    /// Last second of its certificate.
    pub not_after: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The project.
    pub project: Segment,
    /// The directory that was written, below that of the project; none where there was nothing to do.
    pub written: Option<String>,
    /// Whether the authority was made.
    pub new_authority: bool,
    /// SHA-256 of the authority's certificate, in hexadecimal digits, for people to compare.
    pub root_sha256: String,
    /// One row for each participant, in the order of the file.
    pub participants: Vec<Row>,
    /// Certificates that were taken back in this run.
    pub revoked: Vec<Revoked>,
}

/// Why nothing was provisioned. Nothing was written then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// A file or directory is not as it must be, or cannot be written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// What was issued before cannot be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The directory is that of something else.
    #[error("{path} holds something else; name a new directory, or that of the project")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is that of another project.
    #[error("{path} is of project {found}, the file is of {wanted}")]
    OtherProject {
        /// The directory.
        path: PathBuf,
        /// Its project.
        found: Segment,
        /// The project of the file.
        wanted: Segment,
    },
    /// Authority and records do not belong together.
    #[error("{path} is not the authority that issued the kits beside it")]
    OtherAuthority {
        /// The certificate.
        path: PathBuf,
    },
    /// There is no such participant in the file.
    #[error("the project file has no participant `{0}`")]
    Nobody(Segment),
    /// There is nothing to make for it.
    #[error("`{0}` has a kit that is still good")]
    AlreadyThere(Segment),
    /// There is no project yet that something could be added to.
    #[error("nothing was provisioned in {path} yet; leave out `add` the first time")]
    NothingYet {
        /// The directory.
        path: PathBuf,
    },
    /// The project file asks for something else first.
    #[error(
        "the project file has changed for {0}; run `cellbus provision` before the authority is changed"
    )]
    Pending(String),
    /// There is no passphrase.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The key of the authority cannot be sealed or opened.
    #[error("the key of the authority")]
    Seal(#[from] SealError),
    /// The authority was made without room for an issuing authority.
    #[error(
        "`issuer_days` asks for an issuing authority, and the authority of this project was made without room for one"
    )]
    NoIssuers,
    /// The lists cannot be signed.
    #[error("signed lists")]
    Lists(#[from] SignListError),
    /// A certificate cannot be issued.
    #[error("certificate")]
    Authority(#[from] AuthorityError),
}

/// Provisions. Asks for a passphrase only where something has to be signed.
///
/// # Errors
/// [`ProvisionError`]; the directory of the project is then as it was.
pub fn provision(
    order: &Order<'_>,
    passphrase: &mut dyn FnMut(Wanted) -> Result<Passphrase, PassphraseError>,
) -> Result<Report, ProvisionError> {
    carry_out(order, None, passphrase)
}

/// As [`provision`]; or takes a step from one authority to the next, and nothing else.
pub(crate) fn carry_out(
    order: &Order<'_>,
    change: Option<ca::Step>,
    passphrase: &mut Ask<'_>,
) -> Result<Report, ProvisionError> {
    let Order { project, out, only, now_unix, .. } = *order;
    let name = &project.topology.project;
    let before = latest(out)?;
    if before.is_none() {
        refuse_foreign(out)?;
        if only.is_some() {
            return Err(ProvisionError::NothingYet { path: out.to_owned() });
        }
    }
    let is_first = before.is_none();
    let (number, mut records) = match before {
        Some((number, records)) => (number + 1, records),
        None => (1, Records::new(name.clone(), String::new())),
    };
    if records.project != *name {
        let (path, found) = (out.to_owned(), records.project);
        return Err(ProvisionError::OtherProject { path, found, wanted: name.clone() });
    }
    let mut steps = plan(order, &records);
    if let Some(only) = only {
        restrict(&mut steps, only)?;
    }
    let removed: Vec<Segment> = match only {
        Some(_) => Vec::new(),
        None => {
            let is_gone = |held: &&Segment| !steps.iter().any(|step| step.who.name == *held);
            records.participants.keys().filter(is_gone).cloned().collect()
        }
    };
    if let Some(change) = change {
        leave_only(&mut steps, &removed, change, &records)?;
    }
    let idle = change.is_none()
        && steps.iter().all(|step| step.action == Action::Kept)
        && removed.is_empty();
    if idle && !is_first {
        let rows = steps.iter().map(|step| kept(step)).collect();
        return Ok(Report {
            project: name.clone(),
            written: None,
            new_authority: false,
            root_sha256: records.root_sha256,
            participants: rows,
            revoked: Vec::new(),
        });
    }

    let authorities = if is_first {
        Authorities::first(order, &mut records, passphrase)?
    } else {
        Authorities::open(order, &mut records, change, number, passphrase)?
    };

    if project.issuer_days.is_some() && !authorities.issuer.may_have_issuers() {
        return Err(ProvisionError::NoIssuers);
    }
    let kits = kits_dir(number);
    let (staging, kits_inside) = if is_first {
        let staging = Staging::begin(out)?;
        authorities.write(&staging)?;
        staging.create_dir(Path::new(&kits))?;
        (staging, PathBuf::from(&kits))
    } else {
        let staging = Staging::begin(&out.join(&kits))?;
        authorities.write(&staging)?;
        (staging, PathBuf::new())
    };
    let revoked = taken_back(order, &steps, &removed, &records);
    records.revoked.retain(|one| one.not_after >= now_unix);
    records.revoked.extend(revoked.iter().cloned());
    let lists = lists::sign(&mut records, project, &authorities.issuer, now_unix)?;
    let mut writer = Writer {
        order,
        authority: &authorities.issuer,
        roots_pem: &authorities.roots_pem,
        staging: &staging,
        inside: kits_inside,
        kits: &kits,
        number,
        lists: &lists.files,
        has_updates: false,
    };
    let mut rows = Vec::with_capacity(steps.len());
    for step in &steps {
        rows.push(writer.carry_out(step, &mut records)?);
    }
    for gone in removed {
        let Some(old) = records.participants.remove(&gone) else { continue };
        rows.push(Row {
            name: gone,
            kind: old.kind,
            action: Action::Removed,
            detail: "no longer in the project file".to_owned(),
            path: None,
            serial: old.serial,
            not_after: old.not_after,
        });
    }
    for list in &lists.files {
        staging.write(&writer.inside.join(&list.name), &list.content)?;
    }
    staging.write(&writer.inside.join(TRUST), &lists.bundle)?;
    staging.write(&writer.inside.join(RECORDS), &records.to_json())?;
    staging.publish()?;
    Ok(Report {
        project: name.clone(),
        written: Some(kits),
        new_authority: is_first,
        root_sha256: records.root_sha256,
        participants: rows,
        revoked,
    })
}

/// A directory in which something lies that is no project of ours is left alone.
fn refuse_foreign(out: &Path) -> Result<(), ProvisionError> {
    let is_free = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_free { Ok(()) } else { Err(ProvisionError::Foreign { path: out.to_owned() }) }
}
