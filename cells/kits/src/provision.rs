//! From a project to a directory of kits, which appears whole or not at all.
//!
//! What was issued and is still good is kept: a second run makes only what is new, changed or about to end. Private
//! keys exist in the kits and nowhere else.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cellbus_proto::{
    identity::{CellKind, Identity},
    name::{Fqcn, Segment},
    renewal::RenewedBy,
    topology::project::{Participant, Project, Role},
};
use cellbus_runtime::{
    authority::{
        Authority, AuthorityError, ISSUER_CERTIFICATE, ISSUER_KEY, ISSUER_TERMS, issuer_terms,
    },
    certificate::{CertDates, certificates_in_pem, leaf_hash, profile::CertProfile},
    lists::SignListError,
    secret_file::{SecretFileError, Staging},
};
use serde::{Deserialize, Serialize};

use crate::{
    authorities::{Ask, Authorities},
    ca,
    layout::{
        CERTIFICATE, KEY, LIMITS, LOCAL, MANIFEST, POLICY, PROGRAMS, RECORDS, ROOT, ROSTER,
        SIGNATURE, STARTUP, TOPOLOGY, TRUST, UPDATES, kits_dir,
    },
    lists::{self, ListFile},
    local::{NEW_LIMITS, NEW_POLICY, NEW_PROGRAMS},
    manifest::{self, FileEntry, Manifest, Roster},
    passphrase::{Passphrase, PassphraseError},
    records::{Issued, IssuerRecord, Records, RecordsError, Revoked, latest},
    seal::SealError,
    text::hex,
};

const DAY: u64 = 24 * 3600;

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

/// What is to be done for one participant.
struct Step<'a> {
    who: Participant<'a>,
    action: Action,
    detail: String,
    old: Option<Issued>,
    topology: &'a [u8],
    roster: Vec<u8>,
    /// Where its next certificate comes from.
    renewed_by: RenewedBy,
    /// Whether it gets a certificate of the next authority for the key that it has.
    goes_over: bool,
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

fn plan<'a>(order: &Order<'a>, records: &Records) -> Vec<Step<'a>> {
    let project = order.project;
    let topology = project.topology_text.as_bytes();
    let issues = server_issues(order, records);
    let step = |who: Participant<'a>| {
        let roster = Roster::of(&project.topology, who.name.as_str()).to_json();
        let old = records.participants.get(who.name).cloned();
        let renews = issues && who.kind != CellKind::Admin;
        let renewed_by = if renews { RenewedBy::Server } else { RenewedBy::People };
        let (action, detail) = match &old {
            None => (Action::New, String::new()),
            Some(old) => match judge(order, who, old, topology, &roster) {
                (Action::Kept, _) if old.renewed_by.is_some_and(|by| by != renewed_by) => {
                    (Action::Updated, "who renews certificates has changed".to_owned())
                }
                judged => judged,
            },
        };
        Step { who, action, detail, old, topology, roster, renewed_by, goes_over: false }
    };
    project.participants().map(step).collect()
}

/// What a participant that has a kit needs.
fn judge(
    order: &Order<'_>,
    who: Participant<'_>,
    old: &Issued,
    topology: &[u8],
    roster: &[u8],
) -> (Action, String) {
    let role = role_of(&who);
    let changed = [
        ("kind", old.kind.to_string(), who.kind.to_string()),
        ("org", old.org.to_string(), who.org.to_string()),
        ("role", word(old.role.as_ref()), word(role.as_ref())),
        ("hosts", old.hosts.join(", "), who.hosts.join(", ")),
    ];
    if let Some((what, was, is)) = changed.into_iter().find(|(_, was, is)| was != is) {
        return (Action::Replaced, format!("{what} was `{was}`, is `{is}`"));
    }
    if who.kind == CellKind::Server
        && let Some(change) = judge_issuer(order, old)
    {
        return change;
    }
    // Where cells renew their certificates themselves, only one that was away for long needs a kit.
    let is_asked_for = order.only == Some(who.name);
    let renews_itself = project_has_issuer(order) && who.kind != CellKind::Admin && !is_asked_for;
    if !renews_itself && is_old(order.now_unix, old.not_before, old.not_after) {
        let days = old.not_after.saturating_sub(order.now_unix) / DAY;
        return (Action::Renewed, format!("the old certificate ends in {days} days"));
    }
    let differs = |path: &str, content: &[u8]| {
        let entry = FileEntry::of(path, content);
        !old.files.contains(&entry)
    };
    if differs(TOPOLOGY, topology) {
        return (Action::Updated, "the topology has changed".to_owned());
    }
    if differs(ROSTER, roster) {
        return (Action::Updated, "the children have changed".to_owned());
    }
    (Action::Kept, String::new())
}

fn project_has_issuer(order: &Order<'_>) -> bool {
    order.project.issuer_days.is_some()
}

/// Whether the server has an issuing authority once this run is done.
fn server_issues(order: &Order<'_>, records: &Records) -> bool {
    let server = records.participants.values().find(|one| one.kind == CellKind::Server);
    // A server that keeps its key to itself is sent none with another one.
    let lacks = |server: &Issued| server.own_key && server.issuer.is_none();
    project_has_issuer(order) && !server.is_some_and(lacks)
}

/// Whether two thirds of a life are over.
fn is_old(now_unix: u64, not_before: u64, not_after: u64) -> bool {
    now_unix > not_before + not_after.saturating_sub(not_before) / 3 * 2
}

/// Whether the server needs another kit for the sake of its issuing authority.
fn judge_issuer(order: &Order<'_>, old: &Issued) -> Option<(Action, String)> {
    let wanted = project_has_issuer(order);
    match &old.issuer {
        // A server that keeps its key to itself is sent none with another one.
        None if wanted && !old.own_key => {
            Some((Action::Renewed, "it has no issuing authority yet".to_owned()))
        }
        Some(issuer) if wanted && is_old(order.now_unix, issuer.not_before, issuer.not_after) => {
            let days = issuer.not_after.saturating_sub(order.now_unix) / DAY;
            Some((Action::Renewed, format!("its issuing authority ends in {days} days")))
        }
        Some(_) if !wanted => {
            Some((Action::Replaced, "it is to have no issuing authority any more".to_owned()))
        }
        None | Some(_) => None,
    }
}

/// Leaves only what a step from one authority to the next needs: what has changed in the project comes before it or
/// after it.
fn leave_only(
    steps: &mut [Step<'_>],
    removed: &[Segment],
    change: ca::Step,
    records: &Records,
) -> Result<(), ProvisionError> {
    let is_pending =
        |step: &&Step<'_>| matches!(step.action, Action::New | Action::Replaced | Action::Updated);
    let names = steps.iter().filter(is_pending).map(|step| step.who.name).chain(removed);
    let pending: Vec<String> = names.map(Segment::to_string).collect();
    if !pending.is_empty() {
        return Err(ProvisionError::Pending(pending.join(", ")));
    }
    for step in steps {
        let left = step.old.as_ref().filter(|old| !records.is_current(old));
        (step.action, step.detail, step.goes_over) = match left {
            // An issuing authority has to be one of the next, too, and comes with a key of its own.
            Some(old)
                if change == ca::Step::Taint
                    && (old.certificate.is_empty() || old.issuer.is_some()) =>
            {
                (Action::Renewed, "by the next authority".to_owned(), false)
            }
            Some(_) if change == ca::Step::Taint => {
                (Action::Updated, "a certificate of the next authority".to_owned(), true)
            }
            Some(_) | None => (Action::Kept, String::new(), false),
        };
    }
    Ok(())
}

/// Leaves only what concerns one participant: its kit, and updates for those who stay.
fn restrict(steps: &mut Vec<Step<'_>>, only: &Segment) -> Result<(), ProvisionError> {
    let Some(step) = steps.iter().find(|step| step.who.name == only) else {
        return Err(ProvisionError::Nobody(only.clone()));
    };
    if !step.makes_a_kit() {
        return Err(ProvisionError::AlreadyThere(only.clone()));
    }
    steps.retain_mut(|step| {
        if step.who.name != only && step.makes_a_kit() {
            // Others are provisioned when that is asked for.
            step.action = Action::Kept;
            return step.old.is_some();
        }
        true
    });
    Ok(())
}

impl Step<'_> {
    fn makes_a_kit(&self) -> bool {
        matches!(self.action, Action::New | Action::Renewed | Action::Replaced)
    }
}

fn kept(step: &Step<'_>) -> Row {
    let old = step.old.as_ref();
    Row {
        name: step.who.name.clone(),
        kind: step.who.kind,
        action: step.action,
        detail: step.detail.clone(),
        path: old.map(|old| format!("{}/{}", kits_dir(old.kits), step.who.name)),
        serial: old.map_or(0, |old| old.serial),
        not_after: old.map_or(0, |old| old.not_after),
    }
}

fn take_back(name: Segment, old: &Issued, now_unix: u64, reason: &str) -> Revoked {
    Revoked {
        name,
        certificate_sha256: old.certificate_sha256.clone(),
        not_after: old.not_after,
        revoked_unix: now_unix,
        reason: reason.to_owned(),
    }
}

/// The certificates that count no more once this run is done.
fn taken_back(
    order: &Order<'_>,
    steps: &[Step<'_>],
    removed: &[Segment],
    records: &Records,
) -> Vec<Revoked> {
    let now_unix = order.now_unix;
    // What an issuing authority that nobody wants any more has issued ends with it.
    let dropped = steps.iter().filter(|_| !project_has_issuer(order)).filter_map(|step| {
        let issuer = step.old.as_ref()?.issuer.as_ref()?;
        (step.action == Action::Replaced).then(|| Revoked {
            name: step.who.name.clone(),
            certificate_sha256: issuer.certificate_sha256.clone(),
            not_after: issuer.not_after,
            revoked_unix: now_unix,
            reason: "the issuing authority is not wanted any more".to_owned(),
        })
    });
    let replaced = steps.iter().filter(|step| step.action == Action::Replaced);
    let replaced = replaced.filter_map(|step| {
        let old = step.old.as_ref()?;
        Some(take_back(step.who.name.clone(), old, now_unix, &step.detail))
    });
    let removed = removed.iter().filter_map(|name| {
        let old = records.participants.get(name)?;
        let mut gone = take_back(name.clone(), old, now_unix, "removed from the project");
        if project_has_issuer(order) {
            // It may have renewed its certificate a moment ago.
            let life = u64::from(order.project.leaf_days) * DAY;
            gone.not_after = gone.not_after.max(now_unix + life);
        }
        Some(gone)
    });
    replaced.chain(removed).chain(dropped).collect()
}

fn role_of(who: &Participant<'_>) -> Option<Segment> {
    let role = who.role.map(Role::as_str)?;
    Some(role.parse().expect("a role is a name"))
}

fn word(role: Option<&Segment>) -> String {
    role.map_or_else(|| "none".to_owned(), Segment::to_string)
}

/// Writes kits and updates into the directory that is being made.
struct Writer<'a> {
    order: &'a Order<'a>,
    authority: &'a Authority,
    roots_pem: &'a str,
    staging: &'a Staging,
    inside: PathBuf,
    kits: &'a str,
    number: u32,
    lists: &'a [ListFile],
    has_updates: bool,
}

impl Writer<'_> {
    fn carry_out(&mut self, step: &Step<'_>, records: &mut Records) -> Result<Row, ProvisionError> {
        let name = step.who.name;
        match step.action {
            Action::Kept | Action::Removed => return Ok(kept(step)),
            Action::Updated => {}
            Action::New | Action::Renewed | Action::Replaced => {
                records.serial += 1;
                let issued = self.kit(step, records.serial)?;
                let row = Row {
                    path: Some(format!("{}/{name}", self.kits)),
                    serial: issued.serial,
                    not_after: issued.not_after,
                    ..kept(step)
                };
                records.participants.insert(name.clone(), issued);
                return Ok(row);
            }
        }
        let Some(old) = &step.old else { return Ok(kept(step)) };
        records.serial += 1;
        let issued = self.update(step, old, records.serial)?;
        let row = Row {
            path: Some(format!("{}/{UPDATES}/{name}", self.kits)),
            serial: issued.serial,
            ..kept(step)
        };
        records.participants.insert(name.clone(), issued);
        Ok(row)
    }

    fn kit(&self, step: &Step<'_>, serial: u64) -> Result<Issued, ProvisionError> {
        let Participant { name, kind, org, hosts, .. } = step.who;
        let role = role_of(&step.who);
        let identity = self.identity(step);
        let dates = CertDates::lasting(self.order.now_unix, self.leaf_life());
        let (leaf, chain, key) = match self.order.key {
            Some(own) => {
                let made = self.authority.certify(&own.certificate, &identity, hosts, dates)?;
                (made.der, made.pem, None)
            }
            None => {
                let issued = self.authority.issue(&identity, hosts, dates)?;
                (issued.chain().swap_remove(0), issued.chain_pem(), Some(issued.key_pem()))
            }
        };
        let hash = hex(&leaf_hash(&leaf));
        let dates = CertProfile::read(&leaf).map_or(dates, |profile| profile.dates);

        let dir = self.inside.join(name.as_str());
        let startup = dir.join(STARTUP);
        self.staging.create_dir(&dir)?;
        self.staging.create_dir(&startup)?;
        let mut files = Vec::new();
        let mut write = |file: &str, content: &[u8]| {
            files.push(FileEntry::of(file, content));
            self.staging.write(&startup.join(file), content)
        };
        write(CERTIFICATE, chain.as_bytes())?;
        write(ROOT, self.roots_pem.as_bytes())?;
        write(ROSTER, &step.roster)?;
        write(TOPOLOGY, step.topology)?;
        for list in self.lists {
            write(&list.name, &list.content)?;
        }
        if let Some(key) = key {
            write(KEY, key.as_bytes())?;
        }
        let mut issuer = None;
        if let Some(days) = self.order.project.issuer_days.filter(|_| self.has_issuer(kind)) {
            let days = Duration::from_secs(u64::from(days) * DAY);
            let made = self.authority.create_issuer(self.order.now_unix, days)?;
            write(ISSUER_CERTIFICATE, made.chain_pem().as_bytes())?;
            write(ISSUER_KEY, made.key_pem().as_bytes())?;
            write(ISSUER_TERMS, &issuer_terms(self.leaf_life()))?;
            let der = made.chain().swap_remove(0);
            let counts = CertProfile::read(&der).map_or(dates, |profile| profile.dates);
            issuer = Some(IssuerRecord {
                not_before: counts.not_before,
                not_after: counts.not_after,
                certificate_sha256: hex(&made.hash()),
            });
        }
        files.extend(self.order.key.map(|own| own.file.clone()));
        files.sort();
        self.sign(&startup, step, serial, &hash, files.clone())?;
        let local = dir.join(LOCAL);
        self.staging.create_dir(&local)?;
        self.staging.write(&local.join(POLICY), NEW_POLICY.as_bytes())?;
        self.staging.write(&local.join(LIMITS), NEW_LIMITS.as_bytes())?;
        self.staging.write(&local.join(PROGRAMS), NEW_PROGRAMS.as_bytes())?;
        Ok(Issued {
            kind,
            org: org.clone(),
            role,
            hosts: hosts.to_vec(),
            kits: self.number,
            serial,
            not_before: dates.not_before,
            not_after: dates.not_after,
            certificate_sha256: hash,
            root_sha256: hex(&self.authority.root_hash()),
            certificate: chain,
            files,
            issuer,
            renewed_by: Some(step.renewed_by),
            own_key: self.order.key.is_some(),
        })
    }

    /// Whether whoever is of this kind is handed an issuing authority; never one whose kit travels without a key.
    fn has_issuer(&self, kind: CellKind) -> bool {
        kind == CellKind::Server && self.order.key.is_none()
    }

    /// Everything of a kit that can change while its key stays.
    fn update(
        &mut self,
        step: &Step<'_>,
        old: &Issued,
        serial: u64,
    ) -> Result<Issued, ProvisionError> {
        let updates = self.inside.join(UPDATES);
        if !self.has_updates {
            self.staging.create_dir(&updates)?;
            self.has_updates = true;
        }
        let dir = updates.join(step.who.name.as_str());
        self.staging.create_dir(&dir)?;
        let mut files = old.files.clone();
        let lists = self.lists.iter().map(|list| (list.name.as_str(), list.content.as_slice()));
        let next = self.next_certificate(step, old)?;
        let own = [
            (ROOT, self.roots_pem.as_bytes()),
            (ROSTER, step.roster.as_slice()),
            (TOPOLOGY, step.topology),
        ];
        let certificate = next.as_ref().map(|next| (CERTIFICATE, next.certificate.as_bytes()));
        for (file, content) in own.into_iter().chain(lists).chain(certificate) {
            self.staging.write(&dir.join(file), content)?;
            files.retain(|entry| entry.path != file);
            files.push(FileEntry::of(file, content));
        }
        files.sort();
        let renewed_by = Some(step.renewed_by);
        let issued = Issued { serial, files, renewed_by, ..next.unwrap_or_else(|| old.clone()) };
        self.sign(&dir, step, serial, &issued.certificate_sha256, issued.files.clone())?;
        Ok(issued)
    }

    /// A certificate of the authority that issues now, for the key that a participant has, where its own is of a
    /// former one that issues no more.
    fn next_certificate(
        &self,
        step: &Step<'_>,
        old: &Issued,
    ) -> Result<Option<Issued>, ProvisionError> {
        if !step.goes_over {
            return Ok(None);
        }
        let key = certificates_in_pem(old.certificate.as_bytes()).into_iter().next();
        let key = key.unwrap_or_default();
        let dates = CertDates::lasting(self.order.now_unix, self.leaf_life());
        let identity = self.identity(step);
        let made = self.authority.certify(&key, &identity, step.who.hosts, dates)?;
        let dates = CertProfile::read(&made.der).map_or(dates, |profile| profile.dates);
        Ok(Some(Issued {
            not_before: dates.not_before,
            not_after: dates.not_after,
            certificate_sha256: hex(&leaf_hash(&made.der)),
            root_sha256: hex(&self.authority.root_hash()),
            certificate: made.pem,
            ..old.clone()
        }))
    }

    fn leaf_life(&self) -> Duration {
        Duration::from_secs(u64::from(self.order.project.leaf_days) * DAY)
    }

    fn identity(&self, step: &Step<'_>) -> Identity {
        let Participant { name, kind, org, .. } = step.who;
        Identity {
            project: self.order.project.topology.project.clone(),
            kind,
            name: name.clone().into(),
            org: org.clone(),
            role: role_of(&step.who),
        }
    }

    fn sign(
        &self,
        dir: &Path,
        step: &Step<'_>,
        serial: u64,
        certificate_sha256: &str,
        files: Vec<FileEntry>,
    ) -> Result<(), ProvisionError> {
        let topology = &self.order.project.topology;
        let Participant { name, kind, org, .. } = step.who;
        let cell = topology.cell(name.as_str());
        let manifest = Manifest {
            format: manifest::FORMAT.to_owned(),
            project: topology.project.clone(),
            name: name.clone(),
            cell: cell.map_or_else(|| Fqcn::from(name.clone()), |cell| cell.fqcn.clone()),
            kind,
            org: org.clone(),
            role: role_of(&step.who),
            parent: cell.and_then(|cell| cell.parent.clone()),
            serial,
            issued_unix: self.order.now_unix,
            root_sha256: hex(&self.authority.root_hash()),
            certificate_sha256: certificate_sha256.to_owned(),
            renewed_by: Some(step.renewed_by),
            files,
        };
        self.staging.write(&dir.join(MANIFEST), &manifest.to_json())?;
        self.staging.write(&dir.join(SIGNATURE), &manifest.sign(self.authority)?)?;
        Ok(())
    }
}
