//! What is to be done for each participant: nothing, an update of its kit, or another kit.

use cellbus_proto::{
    identity::CellKind,
    name::Segment,
    renewal::RenewedBy,
    topology::project::{Participant, Role},
};

use super::{Action, Order, ProvisionError, Row};
use crate::{
    ca,
    layout::{ROSTER, TOPOLOGY, kits_dir},
    manifest::{FileEntry, Roster},
    records::{Issued, Records, Revoked},
};

const DAY: u64 = 24 * 3600;

/// What is to be done for one participant.
pub(super) struct Step<'a> {
    pub(super) who: Participant<'a>,
    pub(super) action: Action,
    pub(super) detail: String,
    pub(super) old: Option<Issued>,
    pub(super) topology: &'a [u8],
    pub(super) roster: Vec<u8>,
    /// Where its next certificate comes from.
    pub(super) renewed_by: RenewedBy,
    /// Whether it gets a certificate of the next authority for the key that it has.
    pub(super) goes_over: bool,
}

pub(super) fn plan<'a>(order: &Order<'a>, records: &Records) -> Vec<Step<'a>> {
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
                (Action::Kept, _) if lacks_issuer(order, who.kind, old) => {
                    (Action::Kept, NO_ISSUER.to_owned())
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
        && let Some(change) = judge_issuer(order, who.name, old)
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
    let all = &mut records.participants.iter();
    let lacks = all.find(|(_, one)| one.kind == CellKind::Server).is_some_and(|(name, server)| {
        // A server that keeps its key to itself is sent none with another one.
        server.own_key && server.issuer.is_none() && !brings_a_key_to_issue_with(order, name)
    });
    project_has_issuer(order) && !lacks
}

/// What whoever provisions is told of a server that has made its key itself, and none to issue with.
const NO_ISSUER: &str =
    "it keeps its key to itself and has no issuing authority: `cellbus invite` and `join` it again";

fn lacks_issuer(order: &Order<'_>, kind: CellKind, old: &Issued) -> bool {
    kind == CellKind::Server && project_has_issuer(order) && old.own_key && old.issuer.is_none()
}

/// Whether `name` has made the key of an issuing authority itself, and wants it certified in this run.
fn brings_a_key_to_issue_with(order: &Order<'_>, name: &Segment) -> bool {
    order.only == Some(name) && order.key.is_some_and(|own| own.issuing.is_some())
}

/// Whether two thirds of a life are over.
fn is_old(now_unix: u64, not_before: u64, not_after: u64) -> bool {
    now_unix > not_before + not_after.saturating_sub(not_before) / 3 * 2
}

/// Whether the server needs another kit for the sake of its issuing authority.
fn judge_issuer(order: &Order<'_>, name: &Segment, old: &Issued) -> Option<(Action, String)> {
    let wanted = project_has_issuer(order);
    match &old.issuer {
        None if wanted && (!old.own_key || brings_a_key_to_issue_with(order, name)) => {
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
pub(super) fn leave_only(
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
pub(super) fn restrict(steps: &mut Vec<Step<'_>>, only: &Segment) -> Result<(), ProvisionError> {
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

pub(super) fn kept(step: &Step<'_>) -> Row {
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
pub(super) fn taken_back(
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

pub(super) fn role_of(who: &Participant<'_>) -> Option<Segment> {
    let role = who.role.map(Role::as_str)?;
    Some(role.parse().expect("a role is a name"))
}

fn word(role: Option<&Segment>) -> String {
    role.map_or_else(|| "none".to_owned(), Segment::to_string)
}
