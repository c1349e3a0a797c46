//! What Slurm's commands print: read strictly, and refused as a whole where it is not as it always is.

use std::collections::BTreeMap;

use crate::{
    SlurmError,
    state::{SlurmState, Status},
};

/// The columns of [`rows`], as `squeue --Format` takes them. None of them holds text that a user can choose.
pub(crate) const COLUMNS: &str = "JobID:|,UserID:|,State:|,exit_code:|";
/// The columns of [`accounted`], as `sacct --format` takes them. The last one can hold anything.
pub(crate) const ACCOUNT_COLUMNS: &str = "JobIDRaw,UID,State,ExitCode,JobName";

/// What a table of jobs says about one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub uid: u32,
    pub state: SlurmState,
    pub status: Status,
}

/// What is known about one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub row: Row,
    pub comment: String,
}

fn answer(command: &'static str, problem: impl Into<String>) -> SlurmError {
    let problem: String = problem.into();
    SlurmError::Answer { command, problem: crate::command::printable(&problem) }
}

/// The number of a job that `sbatch --parsable` has taken: `17`, or `17;cluster`.
pub(crate) fn submitted(out: &str) -> Result<u32, SlurmError> {
    let bad = || answer("sbatch", format!("no number of a job: {out:?}"));
    let line = out.strip_suffix('\n').unwrap_or(out);
    let number = line.split_once(';').map_or(line, |(number, _cluster)| number);
    number_of(number).filter(|id| *id > 0 && !line.contains('\n')).ok_or_else(bad)
}

/// The jobs that `squeue --noheader --Format` with [`COLUMNS`] lists.
pub(crate) fn rows(out: &str) -> Result<BTreeMap<u32, Row>, SlurmError> {
    let mut rows = BTreeMap::new();
    for line in out.lines().filter(|line| !line.trim().is_empty()) {
        let bad = || answer("squeue", format!("a row {line:?}"));
        let [id, uid, state, status, ""] = line.split('|').collect::<Vec<_>>()[..] else {
            return Err(bad());
        };
        let id = number_of(id).ok_or_else(bad)?;
        let uid = number_of(uid).ok_or_else(bad)?;
        // As wait(2) gives it.
        let status = number_of(status).ok_or_else(bad)?;
        let (code, signal) = ((status >> 8) & 0xff, status & 0x7f);
        let status = Status { code: code.cast_signed(), signal: signal.cast_signed() };
        // A state that is not known spoils the row of its job, not the table.
        let Ok(state) = state.parse() else {
            tracing::debug!(id, state, "a state that is not known");
            continue;
        };
        if rows.insert(id, Row { uid, state, status }).is_some() {
            return Err(answer("squeue", format!("job {id} is listed twice")));
        }
    }
    Ok(rows)
}

/// What `scontrol show job` says about job `id`, in its form with many lines.
pub(crate) fn facts(out: &str, id: u32) -> Result<Facts, SlurmError> {
    let (mut job, mut user, mut state, mut status, mut comment) = (None, None, None, None, None);
    for line in out.lines() {
        let line = line.trim();
        for (place, key) in [
            (&mut job, "JobId="),
            (&mut user, "UserId="),
            (&mut state, "JobState="),
            (&mut comment, "Comment="),
        ] {
            if let Some(value) = line.strip_prefix(key) {
                once(place, key, value)?;
            }
        }
        if line.starts_with("Requeue=") {
            let value = line.split(' ').find_map(|word| word.strip_prefix("ExitCode="));
            once(&mut status, "ExitCode=", value.unwrap_or_default())?;
        }
    }
    let missing = |key: &str| answer("scontrol", format!("it has no {key}"));
    let first = |value: &str| value.split(' ').next().unwrap_or_default().to_owned();
    let job = first(job.ok_or_else(|| missing("JobId"))?);
    if number_of(&job) != Some(id) {
        return Err(answer("scontrol", format!("it is about job {job}, not {id}")));
    }
    // `name(uid)`
    let user = first(user.ok_or_else(|| missing("UserId"))?);
    let uid = user.strip_suffix(')').and_then(|user| user.rsplit_once('('));
    let uid = uid.and_then(|(_, uid)| number_of(uid)).ok_or_else(|| missing("UserId"))?;
    let state = first(state.ok_or_else(|| missing("JobState"))?).parse()?;
    let status = status.and_then(status_of).ok_or_else(|| missing("ExitCode"))?;
    let comment = comment.unwrap_or_default().trim().to_owned();
    Ok(Facts { row: Row { uid, state, status }, comment })
}

/// What `sacct --parsable2 --noheader --allocations` with [`ACCOUNT_COLUMNS`] says about job `id`; `None` when it knows
/// nothing about it.
pub(crate) fn accounted(out: &str, id: u32, name: &str) -> Result<Option<Row>, SlurmError> {
    let mut found = None;
    for line in out.lines() {
        let bad = || answer("sacct", format!("a row {line:?}"));
        let [job, uid, state, status, called] = line.splitn(5, '|').collect::<Vec<_>>()[..] else {
            return Err(bad());
        };
        // Numbers are given again, after very many jobs.
        if number_of(job) != Some(id) || called != name {
            continue;
        }
        // `CANCELLED by 1000`
        let state = state.split(' ').next().unwrap_or_default().parse()?;
        let uid = number_of(uid).ok_or_else(bad)?;
        let status = status_of(status).ok_or_else(bad)?;
        if found.replace(Row { uid, state, status }).is_some() {
            return Err(answer("sacct", format!("job {id} is listed twice")));
        }
    }
    Ok(found)
}

fn once<'a>(
    place: &mut Option<&'a str>,
    key: &'static str,
    value: &'a str,
) -> Result<(), SlurmError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(answer("scontrol", format!("{key} stands there twice"))),
    }
}

/// `code:signal`
fn status_of(text: &str) -> Option<Status> {
    let (code, signal) = text.split_once(':')?;
    let (code, signal) = (number_of(code)?, number_of(signal)?);
    Some(Status { code: i32::try_from(code).ok()?, signal: i32::try_from(signal).ok()? })
}

/// A number in its plain form: digits and nothing else.
pub(crate) fn number_of(text: &str) -> Option<u32> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
