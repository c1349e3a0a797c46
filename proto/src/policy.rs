//! Who may say what to whom: the rules that a deployment states, and which of them decides.
//!
//! A message is let through when an allow rule matches and no deny rule does. What no rule is about is
//! refused. The sender's kind and organisation come from its verified token, never from a header.

mod index;
mod near;
mod pattern;
mod rule;
#[cfg(test)]
mod tests;

use std::fmt;

use self::index::{Index, Seals};
pub use self::{
    near::{Miss, Near},
    pattern::{End, Pattern, PatternError},
    rule::{Channels, Direction, Effect, Question, Rule, Topics},
};
use crate::name::{Channel, ChannelTopic};

/// What the rules say about one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The rule with this index allows it, and none denies it.
    Allowed {
        /// Index into [`Policy::rules`].
        rule: usize,
    },
    /// The rule with this index denies it.
    DeniedBy {
        /// Index into [`Policy::rules`].
        rule: usize,
    },
    /// No rule is about it; what nothing allows is refused.
    NoRule,
}

/// Why the rules of one cell refuse a message, for whoever sent it. Names no rule's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// A deny rule.
    Denied {
        /// Revision of the policy.
        revision: u64,
        /// Index into [`Policy::rules`].
        rule: usize,
    },
    /// No rule allows it.
    NoRule {
        /// Revision of the policy.
        revision: u64,
    },
    /// It must be sealed and is not.
    Unsealed {
        /// Revision of the policy.
        revision: u64,
    },
    /// The topic is the system's own, and has rules that no file changes.
    BuiltIn,
    /// A job cell speaks to its own job and its parent, whatever the rules say.
    Job,
    /// The cell that asks is not known, so that no rule is about it.
    Unknown,
}

/// The rules of a deployment, indexed by what they are about.
///
/// The cost of a decision does not depend on how many rules there are for other channels and topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Grows with every change, so that a refusal can say which state of the rules decided.
    pub revision: u64,
    rules: Vec<Rule>,
    lines: Vec<u32>,
    index: Index,
    seals: Seals,
}

impl Policy {
    /// The policy that consists of `rules`.
    #[must_use]
    pub fn new(revision: u64, rules: Vec<Rule>) -> Self {
        let (index, seals) = (Index::of(&rules), Seals::of(&rules));
        Self { revision, rules, lines: Vec::new(), index, seals }
    }

    /// The same rules, where every message on these channels must be sealed too.
    #[must_use]
    pub fn sealing(mut self, channels: impl IntoIterator<Item = Channel>) -> Self {
        channels.into_iter().for_each(|channel| self.seals.add_channel(channel));
        self
    }

    /// The same rules, which stand in these lines of their file, from 1.
    #[must_use]
    pub fn on_lines(self, lines: Vec<u32>) -> Self {
        Self { lines, ..self }
    }

    /// The rules, in the order in which they were stated.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The line of its file in which the rule with this index stands, from 1, where that is known.
    #[must_use]
    pub fn line(&self, rule: usize) -> Option<u32> {
        self.lines.get(rule).copied()
    }

    /// Whether every message of applications to `target` must be sealed: a rule that is about it, or its
    /// channel, says so. No other rule can take that back.
    #[must_use]
    pub fn requires_seal(&self, target: &ChannelTopic) -> bool {
        self.seals.covers(target)
    }

    /// What the rules say.
    ///
    /// The first matching deny rule decides; without one the first matching allow rule; without
    /// that, nothing allows it. Allocates nothing.
    #[must_use]
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        let first = |effect| {
            self.index.first(question.target, effect, |rule| {
                debug_assert!(self.rules[rule].is_about(question.target));
                self.rules[rule].is_between(question)
            })
        };
        if let Some(rule) = first(Effect::Deny) {
            return Decision::DeniedBy { rule };
        }
        first(Effect::Allow).map_or(Decision::NoRule, |rule| Decision::Allowed { rule })
    }
}

impl fmt::Display for Ruling {
    /// `denied by rule 3 of revision 2`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { revision, rule } => {
                write!(f, "denied by rule {} of revision {revision}", rule + 1)
            }
            Self::NoRule { revision } => write!(f, "no rule of revision {revision} allows it"),
            Self::Unsealed { revision } => write!(f, "revision {revision} wants it sealed"),
            Self::BuiltIn => f.write_str("the system has fixed rules for its own topics"),
            Self::Job => f.write_str("a job cell speaks to its own job and its parent alone"),
            Self::Unknown => f.write_str("the cell that asks is not known here"),
        }
    }
}
