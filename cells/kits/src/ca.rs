//! From one authority of a project to the next, in four steps, while its cells run.
//!
//! | step | then |
//! |---|---|
//! | prepare | there is a next authority, and cells that hold the list believe both |
//! | activate | the next one issues; certificates of both count |
//! | taint | everybody who still has a certificate of the former one gets one of the next for the same key |
//! | revoke | the former one counts no more; refused while somebody is left on it |

use std::{collections::BTreeMap, path::Path};

use cellbus_proto::{identity::CellKind, name::Segment, trust::RootState};
use serde::{Deserialize, Serialize};

use crate::{
    authorities::Ask,
    provision::{Order, ProvisionError, Report, carry_out},
    records::{Records, RecordsError, latest},
};

/// A step from one authority to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes the next authority.
    Prepare,
    /// Issues by it.
    Activate,
    /// Replaces what the former one has issued.
    Taint,
    /// Ends the former one.
    Revoke,
}

/// Why a step is not taken. Nothing was written then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// What was issued cannot be read, or the step not be carried out.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// There is no project yet.
    #[error("nothing was provisioned yet")]
    NothingYet,
    /// Another step comes first.
    #[error("{0}")]
    OutOfTurn(&'static str),
    /// Somebody would be left behind.
    #[error("{} of the cells have no certificate of the next authority: {}", .0.len(), told(.0))]
    Left(Vec<Left>),
}

/// Somebody who would be cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// Base name of the cell, or name of the person.
    pub name: Segment,
    /// What keeps it back.
    pub why: String,
}

/// A cell as the running server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenCell {
    /// Base name.
    pub name: Segment,
    /// SHA-256 of the root of its certificate, in hexadecimal digits; none where it is not known.
    pub root_sha256: Option<String>,
}

/// One authority, and who has certificates of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// SHA-256 of its certificate, in hexadecimal digits.
    pub sha256: String,
    /// Where it stands; none where the project knows nothing of it.
    pub state: Option<RootState>,
    /// Last second of its certificate.
    pub not_after: Option<u64>,
    /// How many.
    pub count: usize,
    /// Their names.
    pub names: Vec<String>,
}

fn told(left: &[Left]) -> String {
    const SHOWN: usize = 10;
    let mut text: Vec<String> =
        left.iter().take(SHOWN).map(|one| format!("{} ({})", one.name, one.why)).collect();
    if left.len() > SHOWN {
        text.push(format!("and {} more", left.len() - SHOWN));
    }
    text.join(", ")
}

fn records(out: &Path) -> Result<Records, CaError> {
    let failed = |error: RecordsError| CaError::Provision(error.into());
    latest(out).map_err(failed)?.map(|(_, records)| records).ok_or(CaError::NothingYet)
}

/// The authorities of the project in `out`, and who was issued a certificate by each.
///
/// # Errors
/// [`CaError`].
pub fn generations(out: &Path) -> Result<Vec<Generation>, CaError> {
    let records = records(out)?;
    let of = |sha256: &str| -> Vec<String> {
        let all = records.participants.iter();
        let these = all.filter(|(_, issued)| issued.root_sha256 == sha256);
        these.map(|(name, _)| name.to_string()).collect()
    };
    let row = |one: &crate::records::AuthorityRecord| {
        let names = of(&one.sha256);
        Generation {
            sha256: one.sha256.clone(),
            state: Some(one.state),
            not_after: Some(one.not_after),
            count: names.len(),
            names,
        }
    };
    Ok(records.authorities.iter().map(row).collect())
}

/// Takes a step. Asks for the passphrase of the authority's key; the next key lies under the same one.
///
/// # Arguments
/// `seen`: the cells as the running server sees them. Only [`Step::Revoke`] needs it.
///
/// # Errors
/// [`CaError`]; nothing has changed then.
pub fn change(
    order: &Order<'_>,
    step: Step,
    seen: &[SeenCell],
    ask: &mut Ask<'_>,
) -> Result<Report, CaError> {
    let records = records(order.out)?;
    let has = |state| records.authority(state).is_some();
    let problem = match step {
        Step::Prepare if has(RootState::Prepared) => Some("the next authority is there already"),
        Step::Prepare if has(RootState::Former) || has(RootState::Tainted) => {
            Some("the change before is not over: the former authority still counts")
        }
        Step::Activate if !has(RootState::Prepared) => Some("there is no next authority; prepare"),
        Step::Taint if !has(RootState::Former) => {
            Some("there is no former authority; prepare and activate the next one first")
        }
        Step::Revoke if !has(RootState::Tainted) => {
            Some("no authority is tainted; prepare, activate and taint come first")
        }
        Step::Prepare | Step::Activate | Step::Taint | Step::Revoke => None,
    };
    if let Some(problem) = problem {
        return Err(CaError::OutOfTurn(problem));
    }
    if step == Step::Revoke {
        let left = left(order, &records, seen);
        if !left.is_empty() {
            return Err(CaError::Left(left));
        }
    }
    Ok(carry_out(order, Some(step), ask)?)
}

/// Who would be cut off if the former authority ended now.
///
/// A cell counts as gone over when the server has it registered with a certificate of the next authority; one that is
/// not registered may not even have taken its new one. People register nowhere: of them only what was issued is known.
#[must_use]
pub fn left(order: &Order<'_>, records: &Records, seen: &[SeenCell]) -> Vec<Left> {
    let seen: BTreeMap<&str, Option<&str>> =
        seen.iter().map(|cell| (cell.name.as_str(), cell.root_sha256.as_deref())).collect();
    let mut left = Vec::new();
    for (name, issued) in &records.participants {
        let mut keep = |why: &str| left.push(Left { name: name.clone(), why: why.to_owned() });
        if !records.is_current(issued) {
            keep("no certificate of the next authority was issued");
        } else if issued.kind != CellKind::Admin
            && order.project.topology.cell(name.as_str()).is_some()
        {
            match seen.get(name.as_str()) {
                Some(Some(root)) if *root == records.root_sha256 => {}
                Some(Some(_)) => keep("it shows a certificate of the former one"),
                Some(None) | None => keep("it is not registered, so nobody knows which it has"),
            }
        }
    }
    left
}
