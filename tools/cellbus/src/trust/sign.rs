//! Signing lists where the key is: on no cell's machine.

use std::{path::Path, time::SystemTime};

use cellbus_cells::list_files::{ListFileError, SigningFiles, certificate, read_list, write_list};
use cellbus_proto::{
    causes::with_sources,
    codec::Octets,
    name::Segment,
    trust::{List, ListKind, RevocationList, RevokedLeaf, RevokedName, RosterList, SIGNER_ROLE},
};
use serde_json::json;

use super::args::{CertVerb, Revoke, RosterVerb, SignRoster, Signing};
use crate::{
    codes::CliCode,
    files,
    output::{Failure, Outcome, Success},
};

fn failed(text: impl Into<String>) -> Box<Failure> {
    Failure::new(CliCode::Config, text)
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `cert`.
pub fn cert(verb: &CertVerb) -> Outcome {
    let CertVerb::Revoke(revoke) = verb;
    let Revoke { signing, .. } = revoke;
    let last: Option<RevocationList> = last(&signing.list)?;
    let last = match (last, &revoke.project) {
        (Some(last), Some(project)) if last.project != *project => {
            let text = format!("{} is of project {}", signing.list.display(), last.project);
            return Err(failed(text));
        }
        (Some(last), _) => last,
        (None, Some(project)) => RevocationList::empty(project.clone()),
        (None, None) => {
            let text = format!("{} is not there yet", signing.list.display());
            return Err(failed(text).hint("for the first list, name the project with --project"));
        }
    };
    let mut next = last.next(now());
    next.version = version(signing, last.version)?;
    apply(&mut next, revoke)?;
    write(signing, &next)?;
    let names: Vec<&str> = next.names.iter().map(|entry| entry.name.as_str()).collect();
    let leaves: Vec<String> = next.leaves.iter().map(|entry| hex(&entry.leaf.0)).collect();
    let data = json!({ "file": signing.list.display().to_string(), "list": ListKind::Revocations,
        "version": next.version, "names": names, "leaves": leaves });
    Ok(Success::new(&data, said(signing, next.version)))
}

fn said(signing: &Signing, version: u64) -> String {
    let file = signing.list.display();
    format!("{file}: version {version}; `cellbus trust push {file}` puts it in force")
}

fn apply(next: &mut RevocationList, revoke: &Revoke) -> Result<(), Box<Failure>> {
    let nothing = revoke.names.is_empty()
        && revoke.certificates.is_empty()
        && revoke.leaves.is_empty()
        && revoke.restored.is_empty();
    if nothing {
        let failure = Failure::new(CliCode::Usage, "nothing is to be revoked or restored");
        return Err(failure.hint("name a cell, or a certificate with --certificate or --leaf"));
    }
    let (reason, until) = (revoke.reason.into(), revoke.until);
    for name in &revoke.names {
        next.revoke_name(RevokedName { name: name.clone(), reason, until });
    }
    for leaf in &revoke.leaves {
        next.revoke_leaf(RevokedLeaf { leaf: Octets(*leaf), reason, until });
    }
    for file in &revoke.certificates {
        let (leaf, ends) = certificate(file).map_err(of_file)?;
        let until = until.or(Some(ends));
        next.revoke_leaf(RevokedLeaf { leaf: Octets(leaf), reason, until });
    }
    for name in &revoke.restored {
        if !next.restore_name(name) {
            return Err(failed(format!("`{name}` is not on the list")));
        }
    }
    Ok(())
}

/// `roster`.
pub fn roster(verb: &RosterVerb) -> Outcome {
    let RosterVerb::Sign(SignRoster { file, signing }) = verb;
    let topology = files::load(file)?.topology;
    let last: Option<RosterList> = last(&signing.list)?;
    if let Some(last) = last.as_ref().filter(|last| last.project != topology.project) {
        let text = format!("{} is of project {}", signing.list.display(), last.project);
        return Err(failed(text));
    }
    let version = version(signing, last.map_or(0, |last| last.version))?;
    let next = RosterList::of(&topology, version, now());
    write(signing, &next)?;
    let cells: Vec<&Segment> = next.cells.iter().map(|cell| &cell.name).collect();
    let data = json!({ "file": signing.list.display().to_string(), "list": ListKind::Roster,
        "version": version, "names": cells });
    Ok(Success::new(&data, said(signing, version)))
}

fn version(signing: &Signing, last: u64) -> Result<u64, Box<Failure>> {
    let next = signing.version.unwrap_or(last.saturating_add(1));
    if next > last {
        return Ok(next);
    }
    let text = format!("version {next} is not after {last}, which {} has", signing.list.display());
    Err(failed(text).hint("leave --version out, or give a higher one"))
}

fn last<L: List>(file: &Path) -> Result<Option<L>, Box<Failure>> {
    read_list(file).map_err(of_file)
}

fn write<L: List>(signing: &Signing, list: &L) -> Result<(), Box<Failure>> {
    let Signing { list: path, cert, key, .. } = signing;
    write_list(SigningFiles { list: path, cert, key }, list).map_err(of_file)
}

/// A failure with a file of lists, a certificate or a key.
pub fn of_file(error: ListFileError) -> Box<Failure> {
    let failure = failed(with_sources(&error));
    if matches!(error, ListFileError::Signer { .. }) {
        return failure.hint(format!(
            "who may sign is a root of the project, or a person of kind admin with the role `{SIGNER_ROLE}`"
        ));
    }
    if matches!(error, ListFileError::NoLists { .. } | ListFileError::NoList { .. }) {
        return failure.hint("`cellbus cert revoke` and `cellbus roster sign` write such files");
    }
    failure
}
