//! Who may say what to whom: the rules that a deployment states, and which of them decides.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::{
    identity::{CellKind, UnknownKind},
    name::{Channel, ChannelTopic, NameError, Segment, Topic},
};

/// What a rule does with the messages that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Lets them pass, unless a deny rule matches too.
    Allow,
    /// Refuses them, whatever else matches.
    Deny,
}

/// Which cells one side of a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// Every cell, written `*`.
    Any,
    /// The cell with this base name.
    Name(Segment),
    /// Every cell whose base name starts like this, written `site-*`.
    Prefix(String),
    /// Every cell of this kind, written `kind:client`.
    Kind(CellKind),
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A `*` that is not the last character.
    #[error("`*` may only stand at the end")]
    InnerWildcard,
    /// `kind:` and then something that is no kind.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// Neither a wildcard, nor a kind, nor a base name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// One rule: who, to whom, on which channel and topics.
///
/// Names are compared as bytes, channel and topics exactly; no wildcard ever stands for a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Allow or deny.
    pub effect: Effect,
    /// Who asks.
    pub from: Pattern,
    /// Who is asked.
    pub to: Pattern,
    /// The channel.
    pub channel: Channel,
    /// The topics on that channel; a rule without topics matches nothing.
    pub topics: Vec<Topic>,
}

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

/// The rules of a deployment, indexed by what they are about.
///
/// The cost of a decision does not depend on how many rules there are for other topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Grows with every change, so that a refusal can say which state of the rules decided.
    pub revision: u64,
    rules: Vec<Rule>,
    by_target: BTreeMap<ChannelTopic, Candidates>,
}

/// Indices of the rules about one channel and topic, in the order of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Candidates {
    deny: Vec<usize>,
    allow: Vec<usize>,
}

impl Pattern {
    /// Whether this pattern is about the cell with base name `base` and the verified kind `kind`.
    #[must_use]
    pub fn matches(&self, base: &str, kind: CellKind) -> bool {
        self.matches_known(base, Some(kind))
    }

    /// As [`Pattern::matches`], for a cell whose kind may be unknown. An unknown kind equals none.
    #[must_use]
    pub fn matches_known(&self, base: &str, kind: Option<CellKind>) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => name.as_str() == base,
            Self::Prefix(prefix) => base.starts_with(prefix.as_str()),
            Self::Kind(wanted) => kind == Some(*wanted),
        }
    }
}

impl Rule {
    /// Whether this rule is about `target`.
    fn is_about(&self, target: &ChannelTopic) -> bool {
        self.channel == *target.channel() && self.topics.contains(target.topic())
    }

    fn matches(&self, from: (&str, CellKind), to: (&str, Option<CellKind>)) -> bool {
        self.from.matches(from.0, from.1) && self.to.matches_known(to.0, to.1)
    }
}

impl Policy {
    /// The policy that consists of `rules`.
    #[must_use]
    pub fn new(revision: u64, rules: Vec<Rule>) -> Self {
        let mut by_target: BTreeMap<ChannelTopic, Candidates> = BTreeMap::new();
        for (index, rule) in rules.iter().enumerate() {
            for topic in &rule.topics {
                let target = ChannelTopic::new(rule.channel.clone(), topic.clone());
                let candidates = by_target.entry(target).or_default();
                match rule.effect {
                    Effect::Deny => candidates.deny.push(index),
                    Effect::Allow => candidates.allow.push(index),
                }
            }
        }
        Self { revision, rules, by_target }
    }

    /// The rules, in the order in which they were stated.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What the rules say about a message to `target`.
    ///
    /// The first matching deny rule decides; without one the first matching allow rule; without
    /// that, nothing allows it. `from_kind` is what the sender's certificate says; `to_kind` is
    /// `None` where the receiver is not known here, and then no kind pattern matches it.
    /// Allocates nothing.
    #[must_use]
    pub fn decide(
        &self,
        from_base: &str,
        from_kind: CellKind,
        to_base: &str,
        to_kind: Option<CellKind>,
        target: &ChannelTopic,
    ) -> Decision {
        let Some(candidates) = self.by_target.get(target) else {
            return Decision::NoRule;
        };
        let first = |indices: &[usize]| {
            indices.iter().copied().find(|&index| {
                debug_assert!(self.rules[index].is_about(target));
                self.rules[index].matches((from_base, from_kind), (to_base, to_kind))
            })
        };
        if let Some(rule) = first(&candidates.deny) {
            return Decision::DeniedBy { rule };
        }
        first(&candidates.allow).map_or(Decision::NoRule, |rule| Decision::Allowed { rule })
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    /// Parses `*`, `site-*`, `kind:client` or a base name.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(kind) = text.strip_prefix("kind:") {
            return Ok(Self::Kind(kind.parse()?));
        }
        let prefix = text.strip_suffix('*').unwrap_or(text);
        if prefix.contains('*') {
            return Err(PatternError::InnerWildcard);
        }
        // What a name starts with is a name itself.
        let name: Segment = prefix.parse()?;
        Ok(if prefix.len() < text.len() {
            Self::Prefix(prefix.to_owned())
        } else {
            Self::Name(name)
        })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Kind(kind) => write!(f, "kind:{kind}"),
        }
    }
}

impl fmt::Display for Rule {
    /// `allow site-* -> server task/{fetch,submit}`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effect, from, to, channel, topics } = self;
        write!(f, "{effect} {from} -> {to} {channel}/")?;
        if let [topic] = topics.as_slice() {
            return write!(f, "{topic}");
        }
        f.write_str("{")?;
        for (index, topic) in topics.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{topic}")?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(effect: Effect, from: &str, to: &str, channel: &str, topics: &[&str]) -> Rule {
        Rule {
            effect,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            channel: channel.parse().unwrap(),
            topics: topics.iter().map(|topic| topic.parse().unwrap()).collect(),
        }
    }

    fn target(text: &str) -> ChannelTopic {
        text.parse().unwrap()
    }

    #[test]
    fn what_no_rule_is_about_is_not_allowed() {
        let policy =
            Policy::new(1, vec![rule(Effect::Allow, "site-*", "server", "task", &["fetch"])]);
        let ask = |from: &str, to: &str, what: &str| {
            policy.decide(from, CellKind::Client, to, None, &target(what))
        };
        assert_eq!(ask("site-1", "server", "task/fetch"), Decision::Allowed { rule: 0 });
        assert_eq!(ask("site-1", "server", "task/submit"), Decision::NoRule);
        assert_eq!(ask("site-1", "server", "tasks/fetch"), Decision::NoRule);
        assert_eq!(ask("site-1", "site-2", "task/fetch"), Decision::NoRule);
        assert_eq!(ask("site", "server", "task/fetch"), Decision::NoRule);
        assert_eq!(ask("a-site-1", "server", "task/fetch"), Decision::NoRule);
        let nothing = Policy::default();
        let said = nothing.decide("a", CellKind::Server, "b", None, &target("task/fetch"));
        assert_eq!(said, Decision::NoRule);
    }

    #[test]
    fn a_deny_rule_wins_wherever_it_stands() {
        let allow = rule(Effect::Allow, "*", "*", "task", &["fetch", "submit"]);
        let deny = rule(Effect::Deny, "site-2", "*", "task", &["submit"]);
        for (rules, denied) in
            [(vec![allow.clone(), deny.clone()], 1), (vec![deny.clone(), allow.clone()], 0)]
        {
            let policy = Policy::new(3, rules);
            let ask = |from: &str, what: &str| {
                policy.decide(from, CellKind::Client, "server", None, &target(what))
            };
            assert_eq!(ask("site-2", "task/submit"), Decision::DeniedBy { rule: denied });
            assert_eq!(ask("site-2", "task/fetch"), Decision::Allowed { rule: 1 - denied });
            assert_eq!(ask("site-1", "task/submit"), Decision::Allowed { rule: 1 - denied });
        }
    }

    #[test]
    fn an_unknown_kind_equals_no_kind() {
        let to_sites = rule(Effect::Allow, "kind:server", "kind:client", "task", &["fetch"]);
        let policy = Policy::new(1, vec![to_sites]);
        let ask = |kind, to_kind| policy.decide("a", kind, "b", to_kind, &target("task/fetch"));
        let allowed = Decision::Allowed { rule: 0 };
        assert_eq!(ask(CellKind::Server, Some(CellKind::Client)), allowed);
        assert_eq!(ask(CellKind::Server, None), Decision::NoRule);
        assert_eq!(ask(CellKind::Server, Some(CellKind::Relay)), Decision::NoRule);
        assert_eq!(ask(CellKind::Client, Some(CellKind::Client)), Decision::NoRule);
    }

    #[test]
    fn a_name_is_not_a_kind_and_a_kind_is_not_a_name() {
        let by_name: Pattern = "server".parse().unwrap();
        assert!(by_name.matches("server", CellKind::Client));
        assert!(!by_name.matches("root", CellKind::Server));
        let by_kind: Pattern = "kind:server".parse().unwrap();
        assert!(by_kind.matches("root", CellKind::Server));
        assert!(!by_kind.matches("server", CellKind::Client));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "**",
            "*a",
            "a*b",
            "a**",
            "A*",
            "site 1",
            "kind:",
            "kind:*",
            "kind:Client",
            "kind:robot",
            "a.b",
            "a.*",
            "-*",
            "ｓite",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?} passed");
        }
    }

    #[test]
    fn a_rule_reads_as_a_sentence() {
        let two = rule(Effect::Allow, "site-*", "kind:server", "task", &["fetch", "submit"]);
        assert_eq!(two.to_string(), "allow site-* -> kind:server task/{fetch,submit}");
        let one = rule(Effect::Deny, "*", "site-1", "ops", &["deploy"]);
        assert_eq!(one.to_string(), "deny * -> site-1 ops/deploy");
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        let texts = ["*", "a", "b", "a*", "kind:client", "kind:server"];
        proptest::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let effect = prop_oneof![Just(Effect::Allow), Just(Effect::Deny)];
        let topics = proptest::collection::vec(proptest::sample::select(&["t", "u"]), 0..3);
        let channel = proptest::sample::select(&["c", "d"]);
        (effect, any_pattern(), any_pattern(), channel, topics).prop_map(
            |(effect, from, to, channel, topics)| Rule {
                effect,
                from,
                to,
                channel: channel.parse().unwrap(),
                topics: topics.iter().map(|topic| topic.parse().unwrap()).collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn the_index_decides_as_a_walk_over_all_rules_would(
            rules in proptest::collection::vec(any_rule(), 0..8),
            from in proptest::sample::select(&["a", "ab", "b", "c"]),
            to in proptest::sample::select(&["a", "ab", "b", "c"]),
            from_kind in proptest::sample::select(&CellKind::ALL),
            to_kind in proptest::option::of(proptest::sample::select(&CellKind::ALL)),
            what in proptest::sample::select(&["c/t", "c/u", "d/t", "e/t"]),
        ) {
            let target = target(what);
            let walk = |effect| rules.iter().position(|rule| {
                rule.effect == effect
                    && rule.is_about(&target)
                    && rule.from.matches(from, from_kind)
                    && rule.to.matches_known(to, to_kind)
            });
            let expected = match (walk(Effect::Deny), walk(Effect::Allow)) {
                (Some(rule), _) => Decision::DeniedBy { rule },
                (None, Some(rule)) => Decision::Allowed { rule },
                (None, None) => Decision::NoRule,
            };
            let policy = Policy::new(1, rules.clone());
            prop_assert_eq!(policy.decide(from, from_kind, to, to_kind, &target), expected);
        }

        #[test]
        fn a_pattern_survives_its_text(pattern in any_pattern()) {
            prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
        }
    }
}
