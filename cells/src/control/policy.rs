//! What rules say about a message that is only thought of: which rule decides, where, and why not.

use cellbus_proto::{
    admission::{Account, Permit, account},
    directory::Directory,
    name::{ChannelTopic, Fqcn},
    policy::{Near, Policy},
};
use serde::{Deserialize, Serialize};

use super::Verdict;

/// What the rules say about a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReply {
    /// Who would send it.
    pub from: Fqcn,
    /// Who it would be for.
    pub to: Fqcn,
    /// `channel/topic`.
    pub target: String,
    /// `up`, `down` or `across`: where the receiver stands, seen from the sender.
    pub direction: String,
    /// Whether it would pass.
    pub verdict: Verdict,
    /// Code of the refusal.
    pub code: Option<String>,
    /// Why it passes or does not, for people.
    pub why: String,
    /// The rule that decided, where one did.
    pub rule: Option<RuleRow>,
    /// Whether it must be sealed.
    pub seal: bool,
    /// Revision of the rules, where they are those of a running cell.
    pub revision: Option<u64>,
    /// The cells that it would pass, in order, and what each says.
    pub hops: Vec<PolicyHop>,
    /// Allow rules that fail by one condition.
    pub near: Vec<NearRow>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its number, from 1, in the order of the file.
    pub number: u64,
    /// The line of the file in which it stands.
    pub line: Option<u32>,
    /// The rule.
    pub text: String,
}

/// What one cell on the way says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyHop {
    /// The cell.
    pub cell: Fqcn,
    /// What it says; none where it runs in another process, whose rules are not known here.
    pub verdict: Option<Verdict>,
    /// Revision of its rules.
    pub revision: Option<u64>,
    /// The rule that decides there.
    pub rule: Option<RuleRow>,
}

/// A rule that would match but for one condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearRow {
    /// The rule.
    pub rule: RuleRow,
    /// The key of it that does not match.
    pub fails: String,
    /// Why, for people.
    pub why: String,
    /// What may have been meant.
    pub did_you_mean: Option<String>,
}

impl PolicyReply {
    /// What `policy` says about a message, at each cell on its way of which `is_here` says that it decides by
    /// these rules. `revision` is given where the rules are those of running cells.
    #[must_use]
    pub fn of(
        policy: &Policy,
        directory: &Directory,
        (from, to, target): (&Fqcn, &Fqcn, &ChannelTopic),
        revision: Option<u64>,
        is_here: impl Fn(&Fqcn) -> bool,
    ) -> Self {
        let account = account(policy, directory, from, to, target);
        let verdict = if account.outcome.is_ok() { Verdict::Admit } else { Verdict::Refuse };
        let decided = account.permitting_rule().or(account.denying_rule());
        let rule = decided.and_then(|rule| RuleRow::of(policy, rule));
        let hop = |cell: Fqcn| {
            let here = is_here(&cell);
            PolicyHop {
                cell,
                verdict: here.then_some(verdict),
                revision: revision.filter(|_| here),
                rule: rule.clone().filter(|_| here),
            }
        };
        Self {
            from: from.clone(),
            to: to.clone(),
            target: target.to_string(),
            direction: account.direction.as_str().to_owned(),
            verdict,
            code: account.outcome.err().map(|status| status.code().to_owned()),
            why: why(&account, rule.as_ref()),
            seal: account.seal,
            revision,
            hops: directory.way(from, to).into_iter().map(hop).collect(),
            near: account.near.iter().filter_map(|near| NearRow::of(policy, near)).collect(),
            rule,
        }
    }
}

fn why(account: &Account, rule: Option<&RuleRow>) -> String {
    match (account.outcome, account.ruling, rule) {
        (_, _, Some(rule)) => rule.to_string(),
        (Ok(Permit::Job), ..) => "one cell, cells of one job, or a job and its parent".to_owned(),
        (Ok(Permit::Exempt(_) | Permit::System(_) | Permit::Rule { .. }), ..) => {
            "a fixed rule of the system".to_owned()
        }
        (Err(_), Some(ruling), None) => ruling.to_string(),
        (Err(status), None, None) => status.meaning().to_owned(),
    }
}

impl RuleRow {
    /// The rule with this index.
    #[must_use]
    pub fn of(policy: &Policy, rule: usize) -> Option<Self> {
        Some(Self {
            number: u64::try_from(rule).ok()? + 1,
            line: policy.line(rule),
            text: policy.rules().get(rule)?.to_string(),
        })
    }
}

impl std::fmt::Display for RuleRow {
    /// `rule 3 in line 41: allow site-* -> server task/fetch`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rule {}", self.number)?;
        if let Some(line) = self.line {
            write!(f, " in line {line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl NearRow {
    fn of(policy: &Policy, near: &Near) -> Option<Self> {
        Some(Self {
            rule: RuleRow::of(policy, near.rule)?,
            fails: near.miss.key().to_owned(),
            why: near.miss.to_string(),
            did_you_mean: near.miss.meant().map(str::to_owned),
        })
    }
}
