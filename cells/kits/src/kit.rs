//! A kit on disk: everything about it is examined before anything of it is used.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use cellbus_proto::{
    identity::CellKind,
    renewal::RenewedBy,
    topology::{CellSpec, Topology},
    transcript::sha256,
};
use cellbus_runtime::{
    authority::{Credentials, ISSUER_CERTIFICATE, IssuingAuthority, OwnCertificate, renewed},
    certificate::{certificates_in_pem, leaf_hash, profile::CertProfile},
    secret_file::{
        Entry, EntryKind, SecretFileError, check_private, list_private_tree, read_secret_file,
        read_trusted_file,
    },
};

use crate::{
    check::{Check, Finding, Outcome},
    layout::{
        CERTIFICATE, ENTRIES_MAX, FILE_MAX_BYTES, JOIN, LIMITS, LOCAL, MANIFEST, POLICY, PROGRAMS,
        ROOT, ROSTER, SIGNATURE, STARTUP, TOPOLOGY,
    },
    local::{self, JoinDoor, Merged, OwnFiles, Placed},
    manifest::{FORMAT, Manifest, Roster, is_signed_by},
    text::hex,
};

/// Where the cell of this base name keeps its state, as far as is known.
pub type StateOf<'a> = &'a dyn Fn(&Topology, &str) -> Option<PathBuf>;

/// Days before its end from which a certificate is warned about.
pub const WARN_DAYS: u64 = 30;
const DAY: u64 = 24 * 3600;

/// A kit that is as it was signed.
#[derive(Debug)]
pub struct Kit {
    /// Its directory.
    pub dir: PathBuf,
    /// What was signed.
    pub manifest: Manifest,
    /// The topology, with what the site decides.
    pub topology: Topology,
    /// The text of that topology.
    pub text: String,
    /// Where whoever is invited may ask to join, where the site has a door.
    pub door: Option<JoinDoor>,
    /// What is odd about the topology.
    pub warnings: Vec<Placed>,
    /// Certificate, key and authority.
    pub credentials: Credentials,
}

/// Everything that was found about a kit.
#[derive(Debug)]
pub struct Examination {
    /// One for each check, in their order.
    pub findings: Vec<Finding>,
    /// The kit, where nothing failed.
    pub kit: Option<Kit>,
}

/// A kit that is not used.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(Finding::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refused(pub Vec<Finding>);

impl Kit {
    /// Takes the kit in `dir` for use, at `now_unix`.
    ///
    /// # Errors
    /// [`Refused`] with everything that failed.
    pub fn open(dir: &Path, root: Option<&str>, now_unix: u64) -> Result<Self, Refused> {
        Self::open_with(dir, root, &|_, _| None, now_unix)
    }

    /// As [`Self::open`], for a cell that may have renewed its certificate: that of the kit may have ended then.
    ///
    /// # Arguments
    /// `state`: the state directory of the cell, where it is known.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        dir: &Path,
        root: Option<&str>,
        state: StateOf<'_>,
        now_unix: u64,
    ) -> Result<Self, Refused> {
        let Examination { findings, kit } = examine_with(dir, root, state, now_unix);
        let failed = |finding: &Finding| finding.outcome == Outcome::Fail;
        kit.ok_or_else(|| Refused(findings.into_iter().filter(failed).collect()))
    }

    /// Where its credentials lie.
    #[must_use]
    pub fn startup(&self) -> PathBuf {
        self.dir.join(STARTUP)
    }

    /// What the topology says about its cell; `None` for a person.
    #[must_use]
    pub fn cell(&self) -> Option<&CellSpec> {
        self.topology.cell(self.manifest.name.as_str())
    }
}

/// Examines the kit in `dir` at `now_unix`. Changes nothing and runs nothing.
///
/// # Arguments
/// `root`: the fingerprint that the authority must have, 64 hexadecimal digits, where it is known from elsewhere.
#[must_use]
pub fn examine(dir: &Path, root: Option<&str>, now_unix: u64) -> Examination {
    examine_with(dir, root, &|_, _| None, now_unix)
}

/// As [`examine`], for a cell that may have renewed its certificate.
///
/// # Arguments
/// As for [`Kit::open_with`].
#[must_use]
pub fn examine_with(
    dir: &Path,
    root: Option<&str>,
    state: StateOf<'_>,
    now_unix: u64,
) -> Examination {
    let mut findings = Vec::new();
    let kit = examine_all(dir, root, state, now_unix, &mut findings);
    let good = findings.iter().all(|finding| finding.outcome != Outcome::Fail);
    for check in Check::ALL.iter().take_while(|check| **check <= Check::Local) {
        if !findings.iter().any(|finding| finding.code == check.code()) {
            findings.push(Finding::skipped(*check, "something before it failed"));
        }
    }
    let place =
        |finding: &Finding| Check::ALL.iter().position(|check| check.code() == finding.code);
    findings.sort_by_key(place);
    Examination { findings, kit: kit.filter(|_| good) }
}

fn examine_all(
    dir: &Path,
    root: Option<&str>,
    state: StateOf<'_>,
    now_unix: u64,
    findings: &mut Vec<Finding>,
) -> Option<Kit> {
    let startup = dir.join(STARTUP);
    let entries = directories(dir, findings)?;
    modes(&entries, findings)?;
    let manifest = signed(&startup, root, findings)?;
    files(&startup, &entries, &manifest, findings)?;
    let given = given(&startup, findings);
    if let Some(given) = &given {
        names(given, &manifest, findings);
        profile(given, findings);
    }
    let issuer = issuer(&startup, &manifest, findings);
    let (merged, door) = configuration(dir, &manifest, findings)?;
    issuer?;
    let state = state(&merged.topology, manifest.name.as_str());
    let renewed =
        state.and_then(|state| renewed::latest(&state, &startup, &manifest.identity(), now_unix));
    let by = manifest.renewed_by;
    let credentials = given.and_then(|given| count(given, renewed, by, now_unix, findings));
    Some(Kit {
        dir: dir.to_owned(),
        manifest,
        topology: merged.topology,
        text: merged.text,
        door,
        warnings: merged.warnings,
        credentials: credentials?,
    })
}

/// What lies in `startup/` and in `local/`.
struct Entries {
    startup: Vec<Entry>,
    local: Vec<Entry>,
}

fn directories(dir: &Path, findings: &mut Vec<Finding>) -> Option<Entries> {
    let list = |name: &str| -> Result<Vec<Entry>, SecretFileError> {
        let path = dir.join(name);
        check_private(&path)?;
        list_private_tree(&path, ENTRIES_MAX)
    };
    let listed = check_private(dir).and_then(|()| Ok((list(STARTUP)?, list(LOCAL)?)));
    match listed {
        Ok((startup, local)) if startup.len() <= ENTRIES_MAX && local.len() <= ENTRIES_MAX => {
            findings.push(Finding::ok(Check::Directory, dir.display().to_string()));
            Some(Entries { startup, local })
        }
        Ok(_) => {
            let found = format!("more than {ENTRIES_MAX} files in one directory of the kit");
            findings.push(Finding::fail(Check::Directory, found));
            None
        }
        Err(error) => {
            let finding = Finding::fail(Check::Directory, chain(&error));
            let is_missing = matches!(error, SecretFileError::Missing { .. });
            let fix = "Name the directory of a kit: one with `startup/` and `local/` in it.";
            findings.push(if is_missing { finding.with_fix(fix) } else { finding });
            None
        }
    }
}

fn modes(entries: &Entries, findings: &mut Vec<Finding>) -> Option<()> {
    let mut bad = Vec::new();
    for (top, entry) in entries
        .startup
        .iter()
        .map(|entry| (STARTUP, entry))
        .chain(entries.local.iter().map(|entry| (LOCAL, entry)))
    {
        let name = format!("{top}/{}", shown(&entry.inside));
        let wanted = if entry.kind == EntryKind::Directory { 0o700 } else { 0o600 };
        // What the site writes by hand may be read by others, and changed by nobody else.
        let wrong_mode = match top {
            STARTUP => entry.mode != wanted,
            _ => entry.mode & 0o022 != 0,
        };
        if entry.kind == EntryKind::Other {
            bad.push(format!("{name} is a link or no plain file"));
        } else if !entry.is_ours {
            bad.push(format!("{name} belongs to another user"));
        } else if entry.kind == EntryKind::File && entry.links != 1 {
            bad.push(format!("{name} has {} names", entry.links));
        } else if wrong_mode {
            bad.push(format!("{name} has mode {:04o}, it must be {wanted:04o}", entry.mode));
        }
    }
    report(Check::Modes, bad, || "0700 and 0600, ours, no links".to_owned(), findings)
}

fn signed(startup: &Path, expected: Option<&str>, findings: &mut Vec<Finding>) -> Option<Manifest> {
    let read = |name: &str| read_secret_file(&startup.join(name), FILE_MAX_BYTES);
    let bytes = match read(MANIFEST) {
        Ok(bytes) => bytes,
        Err(error) => {
            findings.push(Finding::fail(Check::Manifest, chain(&error)));
            return None;
        }
    };
    let manifest: Manifest = match serde_json::from_slice(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            let found = format!("{STARTUP}/{MANIFEST}: {error}");
            findings.push(Finding::fail(Check::Manifest, found));
            return None;
        }
    };
    if manifest.format != FORMAT {
        let format = manifest.format.escape_default();
        let found = format!("{STARTUP}/{MANIFEST} has the format `{format}`, not `{FORMAT}`");
        findings.push(Finding::fail(Check::Manifest, found));
        return None;
    }
    let found = format!(
        "{} {} of {}, serial {}",
        manifest.kind, manifest.name, manifest.project, manifest.serial
    );
    findings.push(Finding::ok(Check::Manifest, found));

    let root = match read(ROOT) {
        Ok(pem) => certificates_in_pem(&pem).into_iter().next().unwrap_or_default(),
        Err(error) => {
            findings.push(Finding::fail(Check::Signature, chain(&error)));
            return None;
        }
    };
    let signature = match read(SIGNATURE) {
        Ok(signature) => signature,
        Err(error) => {
            findings.push(Finding::fail(Check::Signature, chain(&error)));
            return None;
        }
    };
    let fingerprint = hex(&leaf_hash(&root));
    let problem = if fingerprint != manifest.root_sha256 {
        Some(format!("{STARTUP}/{ROOT} is not the authority that the manifest names"))
    } else if expected.is_some_and(|expected| !expected.eq_ignore_ascii_case(&fingerprint)) {
        Some(format!(
            "the authority has the fingerprint {fingerprint}, which is not the expected one"
        ))
    } else if !is_signed_by(&root, &bytes, &signature) {
        Some(format!("{STARTUP}/{SIGNATURE} is no signature of {STARTUP}/{MANIFEST}"))
    } else {
        None
    };
    match problem {
        Some(problem) => {
            findings.push(Finding::fail(Check::Signature, problem));
            None
        }
        None => {
            findings.push(Finding::ok(Check::Signature, format!("authority {fingerprint}")));
            Some(manifest)
        }
    }
}

fn files(
    startup: &Path,
    entries: &Entries,
    manifest: &Manifest,
    findings: &mut Vec<Finding>,
) -> Option<()> {
    let mut bad = Vec::new();
    for file in &manifest.files {
        let name = format!("{STARTUP}/{}", file.path.escape_default());
        let there = entries.startup.iter().find(|entry| entry.inside == Path::new(&file.path));
        let Some(entry) = there.filter(|entry| entry.kind == EntryKind::File) else {
            bad.push(format!("{name} is absent"));
            continue;
        };
        if format!("{:04o}", entry.mode) != file.mode {
            bad.push(format!("{name} has another mode than was signed"));
        }
        match read_secret_file(&startup.join(&file.path), FILE_MAX_BYTES) {
            Ok(bytes) if bytes.len() as u64 != file.size || hex(&sha256(&bytes)) != file.sha256 => {
                bad.push(format!("{name} differs from what was signed"));
            }
            Ok(_) => {}
            Err(error) => bad.push(chain(&error)),
        }
    }
    for entry in &entries.startup {
        let name = entry.inside.to_str().unwrap_or_default();
        let known = name == MANIFEST || name == SIGNATURE || manifest.file(name).is_some();
        if !known {
            bad.push(format!("{STARTUP}/{} is not in the manifest", shown(&entry.inside)));
        }
    }
    let count = manifest.files.len();
    report(Check::Files, bad, || format!("{count} files as they were signed"), findings)
}

/// The credentials of the kit itself, whether or not they count today.
fn given(startup: &Path, findings: &mut Vec<Finding>) -> Option<Credentials> {
    // Whether they count is asked when it is known whether something newer does.
    let leaf = read_secret_file(&startup.join(CERTIFICATE), FILE_MAX_BYTES).ok();
    let leaf = leaf.and_then(|pem| certificates_in_pem(&pem).into_iter().next());
    let dates = leaf.and_then(|leaf| CertProfile::read(&leaf).ok()).map(|leaf| leaf.dates);
    match Credentials::load(startup, dates.map_or(0, |dates| dates.not_after)) {
        Ok(credentials) => {
            findings.push(Finding::ok(
                Check::Credentials,
                "key, certificate and authority belong together",
            ));
            Some(credentials)
        }
        Err(error) => {
            findings.push(Finding::fail(Check::Credentials, chain(&error)));
            None
        }
    }
}

/// What counts today: what the cell has renewed, or else what the kit has.
fn count(
    given: Credentials,
    renewed: Option<Credentials>,
    by: Option<RenewedBy>,
    now_unix: u64,
    findings: &mut Vec<Finding>,
) -> Option<Credentials> {
    let credentials = renewed.unwrap_or(given);
    let certificate = credentials.certificate();
    match certificate.dates().check(now_unix) {
        Ok(()) => {
            findings.push(dates(&certificate, by, now_unix));
            Some(credentials)
        }
        Err(problem) => {
            let found = format!("{STARTUP}/{CERTIFICATE} does not count today: {problem}");
            findings.push(Finding::fail(Check::Dates, found));
            None
        }
    }
}

/// The issuing authority, where the kit is that of a server that has one.
fn issuer(startup: &Path, manifest: &Manifest, findings: &mut Vec<Finding>) -> Option<()> {
    if manifest.kind != CellKind::Server && manifest.file(ISSUER_CERTIFICATE).is_some() {
        let found = format!("{STARTUP}/{ISSUER_CERTIFICATE} belongs to a server only");
        findings.push(Finding::fail(Check::Credentials, found));
        return None;
    }
    match IssuingAuthority::load(startup, &manifest.project, BTreeMap::new()) {
        Ok(_) => Some(()),
        Err(error) => {
            findings.push(Finding::fail(Check::Credentials, chain(&error)));
            None
        }
    }
}

/// When the certificate ends, and what comes next.
///
/// # Arguments
/// `by`: where the next one comes from, as far as is known.
pub(crate) fn dates(certificate: &OwnCertificate, by: Option<RenewedBy>, now_unix: u64) -> Finding {
    let dates = certificate.dates();
    let in_days = |unix: u64| unix.saturating_sub(now_unix) / DAY;
    let days = in_days(dates.not_after);
    let life = (dates.not_after.saturating_sub(dates.not_before)) / DAY;
    let renewal = in_days(dates.life().due(&certificate.hash()));
    let next = match by {
        Some(RenewedBy::Server) => {
            format!("a running cell asks for the next one in {renewal} days")
        }
        Some(RenewedBy::People) => {
            format!("nothing renews it by itself: another kit is due in {renewal} days")
        }
        None => format!(
            "a running cell asks for the next one in {renewal} days, and gets one if the server issues certificates"
        ),
    };
    let found = format!("the certificate ends in {days} days; {next}");
    // One that was made for a short time is not warned about all its life.
    if days < WARN_DAYS.min(life / 3 + 1) {
        Finding::warn(Check::Dates, found)
    } else {
        Finding::ok(Check::Dates, found)
    }
}

fn names(credentials: &Credentials, manifest: &Manifest, findings: &mut Vec<Finding>) {
    let certificate = credentials.certificate();
    let (named, signed) = (certificate.identity(), manifest.identity());
    let finding = if *named != signed {
        Finding::fail(Check::Names, format!("the certificate names {named}, the manifest {signed}"))
    } else if hex(&certificate.hash()) != manifest.certificate_sha256 {
        Finding::fail(Check::Names, "the certificate is not the one that the manifest names")
    } else {
        Finding::ok(Check::Names, named.to_string())
    };
    findings.push(finding);
}

pub(crate) fn profile(credentials: &Credentials, findings: &mut Vec<Finding>) {
    let certificate = credentials.certificate();
    let leaf = certificate.chain().first();
    let profile = leaf.and_then(|leaf| CertProfile::read(leaf).ok());
    let Some(profile) = profile else {
        findings.push(Finding::fail(Check::Profile, "the certificate cannot be read"));
        return;
    };
    let bad = profile.deviations(credentials.certificate().identity().kind);
    let _ = report(Check::Profile, bad, || "as cells need it".to_owned(), findings);
}

/// What `local/join.toml` says; nothing where it is not there or empty.
fn door_of(text: &str, kind: CellKind) -> Result<Option<JoinDoor>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if kind != CellKind::Server {
        return Err(format!("{LOCAL}/{JOIN}: a {kind} has no join door, a server may"));
    }
    let all = |problems: Vec<Placed>| {
        problems.iter().map(Placed::to_string).collect::<Vec<_>>().join("; ")
    };
    local::join_door(text).map(Some).map_err(all)
}

fn configuration(
    dir: &Path,
    manifest: &Manifest,
    findings: &mut Vec<Finding>,
) -> Option<(Merged, Option<JoinDoor>)> {
    let startup = dir.join(STARTUP);
    let text = read_text(&startup.join(TOPOLOGY), findings)?;
    let plain = match local::merge(&text, OwnFiles::default()) {
        Ok(merged) => merged,
        Err(problems) => {
            let found = problems.iter().map(Placed::to_string).collect::<Vec<_>>().join("; ");
            findings.push(Finding::fail(Check::Topology, found));
            return None;
        }
    };
    let roster: Option<Roster> = read_secret_file(&startup.join(ROSTER), FILE_MAX_BYTES)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let bad = disagreements(manifest, roster.as_ref(), &plain.topology);
    let cells = plain.topology.cells().len();
    report(Check::Topology, bad, || format!("{cells} cells, in agreement"), findings)?;

    let own = |name: &str| match read_trusted_file(&dir.join(LOCAL).join(name), FILE_MAX_BYTES) {
        Ok(bytes) => {
            String::from_utf8(bytes).map_err(|_| format!("{LOCAL}/{name} is not UTF-8 text"))
        }
        Err(SecretFileError::Missing { .. }) => Ok(String::new()),
        Err(error) => Err(chain(&error)),
    };
    let merged = own(POLICY)
        .and_then(|policy| Ok((policy, own(LIMITS)?, own(PROGRAMS)?)))
        .and_then(|(policy, limits, programs)| {
            let own = OwnFiles { policy: &policy, limits: &limits, programs: &programs };
            local::merge(&text, own).map_err(|problems| {
                problems.iter().map(Placed::to_string).collect::<Vec<_>>().join("; ")
            })
        });
    let door = own(JOIN).and_then(|text| door_of(&text, manifest.kind));
    match merged.and_then(|merged| Ok((merged, door?))) {
        Ok((merged, door)) => {
            let rules = merged.topology.rules.len();
            findings
                .push(Finding::ok(Check::Local, format!("{rules} rules with those of the site")));
            Some((merged, door))
        }
        Err(found) => {
            findings.push(Finding::fail(Check::Local, found));
            None
        }
    }
}

/// Where the topology says something else than what was signed for this participant.
fn disagreements(manifest: &Manifest, roster: Option<&Roster>, topology: &Topology) -> Vec<String> {
    let mut bad = Vec::new();
    let name = manifest.name.as_str();
    if topology.project != manifest.project {
        bad.push(format!("the topology is of project {}", topology.project));
    }
    if topology.dev {
        bad.push("the topology asks for development certificates".to_owned());
    }
    match topology.cell(name) {
        Some(cell) => {
            if (cell.kind, &cell.fqcn, &cell.org) != (manifest.kind, &manifest.cell, &manifest.org)
            {
                bad.push(format!("the topology says something else about `{name}`"));
            }
            if cell.parent != manifest.parent {
                bad.push(format!("the topology gives `{name}` another parent"));
            }
        }
        None if manifest.kind == CellKind::Admin => {}
        None => bad.push(format!("the topology has no cell `{name}`")),
    }
    if roster.is_none_or(|roster| *roster != Roster::of(topology, name)) {
        bad.push(format!("the topology gives `{name}` other children than the roster"));
    }
    bad
}

fn read_text(path: &Path, findings: &mut Vec<Finding>) -> Option<String> {
    let bytes = read_secret_file(path, FILE_MAX_BYTES);
    let found = match bytes {
        Ok(bytes) => match std::str::from_utf8(&bytes) {
            Ok(text) => return Some(text.to_owned()),
            Err(_) => format!("{} is not UTF-8 text", path.display()),
        },
        Err(error) => chain(&error),
    };
    findings.push(Finding::fail(Check::Topology, found));
    None
}

fn report(
    check: Check,
    bad: Vec<String>,
    good: impl FnOnce() -> String,
    findings: &mut Vec<Finding>,
) -> Option<()> {
    if bad.is_empty() {
        findings.push(Finding::ok(check, good()));
        return Some(());
    }
    const SHOWN: usize = 5;
    let more = bad.len().saturating_sub(SHOWN);
    let mut found = bad.into_iter().take(SHOWN).collect::<Vec<_>>().join("; ");
    if more > 0 {
        found.push_str(&format!("; and {more} more"));
    }
    findings.push(Finding::fail(check, found));
    None
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_default().to_string()
}

/// An error with everything that it came from.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    cellbus_proto::causes::with_sources(error)
}

#[cfg(test)]
mod tests;
