//! Whether the rules let a request pass: the system's own ones, those of jobs, and the policy's.

use super::Permit;
use crate::{
    directory::Directory,
    identity::CellKind,
    name::{ChannelTopic, Fqcn, Segment},
    policy::{Decision, Direction, End, Near, Policy, Question, Ruling},
    status::Status,
    well_known::{self, SystemTopic},
};

/// One end of a request.
#[derive(Clone, Copy)]
pub(super) struct Party<'a> {
    pub(super) name: &'a Fqcn,
    pub(super) kind: Option<CellKind>,
    pub(super) org: Option<&'a Segment>,
}

/// A request from one cell to another that has not been made.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) asks: Party<'a>,
    pub(super) answers: Party<'a>,
    pub(super) target: &'a ChannelTopic,
    /// Whether the message at hand is its answer.
    pub(super) is_answer: bool,
    /// Whether nobody between its ends can read it, or there is nothing to read.
    pub(super) is_covered: bool,
}

/// What the rules say about a request that is only thought of, and why.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whether it would pass, or the code of its refusal.
    pub outcome: Result<Permit, Status>,
    /// Why not.
    pub ruling: Option<Ruling>,
    /// Where the one who is asked stands, seen from the one who asks.
    pub direction: Direction,
    /// Whether it must be sealed.
    pub seal: bool,
    /// Rules that nearly let it pass; empty where one does.
    pub near: Vec<Near>,
}

impl Account {
    /// The rule that lets it pass, as an index into [`Policy::rules`].
    #[must_use]
    pub fn permitting_rule(&self) -> Option<usize> {
        match self.outcome {
            Ok(Permit::Rule { rule, .. }) => Some(rule),
            Ok(Permit::Exempt(_) | Permit::System(_) | Permit::Job) | Err(_) => None,
        }
    }

    /// The rule that denies it, as an index into [`Policy::rules`].
    #[must_use]
    pub fn denying_rule(&self) -> Option<usize> {
        match self.ruling {
            Some(Ruling::Denied { rule, .. }) => Some(rule),
            Some(
                Ruling::NoRule { .. }
                | Ruling::Unsealed { .. }
                | Ruling::BuiltIn
                | Ruling::Job
                | Ruling::Unknown,
            )
            | None => None,
        }
    }
}

/// A refusal by rules.
pub(super) type Denied = (Status, Ruling);

impl<'a> Party<'a> {
    /// What the topology says about a cell.
    pub(super) fn known(name: &'a Fqcn, directory: &'a Directory) -> Self {
        let (kind, org) = directory.of(name).map_or((None, None), |(kind, org)| (Some(kind), org));
        Self { name, kind, org }
    }

    fn is(self, kind: CellKind) -> bool {
        self.kind == Some(kind)
    }

    fn end(self) -> End<'a> {
        End { base: self.name.base(), kind: self.kind, org: self.org }
    }
}

impl Case<'_> {
    fn question(&self, root: Option<&Fqcn>) -> Question<'_> {
        Question {
            from: self.asks.end(),
            to: self.answers.end(),
            direction: Direction::of(self.asks.name, self.answers.name, root),
            target: self.target,
        }
    }

    /// What the rules say, in a tree below `root`.
    pub(super) fn decide(&self, policy: &Policy, root: Option<&Fqcn>) -> Result<Permit, Denied> {
        let Self { asks, answers, target, is_answer, is_covered } = *self;
        if let Some(system) = well_known::lookup(target) {
            // Who gave up on the way to the server may be any cell.
            let allowed =
                system_rule(system, asks, answers) || (is_answer && !answers.is(CellKind::Job));
            let denied = (Status::TopicDenied, Ruling::BuiltIn);
            return allowed.then_some(Permit::System(system)).ok_or(denied);
        }
        if well_known::is_reserved(target.channel()) {
            return Err((Status::TopicDenied, Ruling::BuiltIn));
        }
        if asks.name == answers.name {
            return Ok(Permit::Job);
        }
        let permit = self.permit(policy, root)?;
        // Asked last: who may not send it at all is told that.
        if !is_covered && policy.requires_seal(target) {
            return Err((Status::NotSealed, Ruling::Unsealed { revision: policy.revision }));
        }
        Ok(permit)
    }

    fn permit(&self, policy: &Policy, root: Option<&Fqcn>) -> Result<Permit, Denied> {
        let Self { asks, answers, .. } = *self;
        if asks.is(CellKind::Job) || answers.is(CellKind::Job) {
            if is_family(asks, answers) {
                return Ok(Permit::Job);
            }
            if asks.is(CellKind::Job) {
                return Err((Status::JobScope, Ruling::Job));
            }
        }
        if asks.kind.is_none() {
            return Err((Status::TopicDenied, Ruling::Unknown));
        }
        let revision = policy.revision;
        match policy.decide(&self.question(root)) {
            Decision::Allowed { rule } => Ok(Permit::Rule { revision, rule }),
            Decision::DeniedBy { rule } => {
                Err((Status::TopicDenied, Ruling::Denied { revision, rule }))
            }
            Decision::NoRule => Err((Status::TopicDenied, Ruling::NoRule { revision })),
        }
    }
}

/// What the rules say about a request from one cell to another, whatever way it would take.
///
/// # Errors
/// The code that it would be refused with.
pub fn judge_names(
    policy: &Policy,
    directory: &Directory,
    from: &Fqcn,
    to: &Fqcn,
    target: &ChannelTopic,
) -> Result<Permit, Status> {
    account(policy, directory, from, to, target).outcome
}

/// As [`judge_names`], with everything that a person wants to know about it. Both ends are what the
/// topology says they are, and the message is sealed where it must be.
#[must_use]
pub fn account(
    policy: &Policy,
    directory: &Directory,
    from: &Fqcn,
    to: &Fqcn,
    target: &ChannelTopic,
) -> Account {
    const NEAR_MAX: usize = 5;
    let (asks, answers) = (Party::known(from, directory), Party::known(to, directory));
    let case = Case { asks, answers, target, is_answer: false, is_covered: true };
    let question = case.question(directory.root());
    let is_exempt = target.system().is_some_and(|topic| well_known::EXEMPT.contains(&topic));
    let decided = if is_exempt {
        Err((Status::NotDirect, Ruling::BuiltIn))
    } else {
        case.decide(policy, directory.root())
    };
    let ruling = decided.as_ref().err().map(|(_, ruling)| *ruling);
    let near = if matches!(ruling, Some(Ruling::NoRule { .. })) {
        policy.near(&question, NEAR_MAX)
    } else {
        Vec::new()
    };
    let is_ours = target.system().is_none() && !well_known::is_reserved(target.channel());
    Account {
        outcome: decided.map_err(|(status, _)| status),
        ruling,
        direction: question.direction,
        seal: is_ours && from != to && policy.requires_seal(target),
        near,
    }
}

/// The fixed rules for topics of the system.
fn system_rule(system: SystemTopic, asks: Party<'_>, answers: Party<'_>) -> bool {
    let to_server = answers.is(CellKind::Server);
    let by_parent =
        matches!(asks.kind, Some(CellKind::Server | CellKind::Relay | CellKind::Client));
    match system {
        well_known::PING | well_known::CANCEL | well_known::CERTIFICATE => {
            !asks.is(CellKind::Job) || is_family(asks, answers)
        }
        well_known::CHALLENGE_CHILD
        | well_known::REGISTER_CHILD
        | well_known::RENEW_CHILD
        | well_known::DETACH_CHILD
        | well_known::RENEW_CERTIFICATE
        | well_known::ISSUE_CERTIFICATE => to_server && by_parent,
        well_known::QUIT => to_server && !asks.is(CellKind::Job),
        well_known::JOB_START | well_known::JOB_STOP | well_known::JOB_FILE => {
            let runs = answers.is(CellKind::Client) || answers.is(CellKind::Relay);
            asks.is(CellKind::Server) && runs
        }
        // Between neighbours, as the cell that takes it sees to.
        well_known::LISTS | well_known::LISTS_HELD | well_known::RENEW_LINK => {
            by_parent && !answers.is(CellKind::Job)
        }
        well_known::JOB_ENDED | well_known::JOB_TABLE | well_known::JOB_LOG => {
            to_server && (asks.is(CellKind::Client) || asks.is(CellKind::Relay))
        }
        _ => false,
    }
}

/// Whether both cells belong to one job, or one is a job cell and the other its parent.
fn is_family(a: Party<'_>, b: Party<'_>) -> bool {
    let is_parent = |parent: &Fqcn, child: &Fqcn| child.parent().as_ref() == Some(parent);
    match (a.is(CellKind::Job), b.is(CellKind::Job)) {
        (true, true) => a.name.base() == b.name.base(),
        (true, false) => is_parent(b.name, a.name),
        (false, true) => is_parent(a.name, b.name),
        (false, false) => false,
    }
}
