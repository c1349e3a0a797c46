//! Why no rule lets a message pass: the rules that nearly would.

use std::fmt;

use super::{
    Policy,
    rule::{Channels, Direction, Effect, Question, Rule, Topics},
};
use crate::topology::wording::nearest;

/// The one thing that keeps a rule from matching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The rule is about other senders.
    From,
    /// The rule is about other receivers.
    To,
    /// The rule is about another channel; this one may have been meant.
    Channel {
        /// The channel of the rule, where the two differ in few letters.
        meant: Option<String>,
    },
    /// The rule is about other topics; this one may have been meant.
    Topic {
        /// The topic of the rule that differs in few letters.
        meant: Option<String>,
    },
    /// The rule is about messages that go another way.
    Direction {
        /// The way that the message goes.
        goes: Direction,
    },
}

/// An allow rule that would match but for one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// Index into [`Policy::rules`].
    pub rule: usize,
    /// What fails.
    pub miss: Miss,
}

impl Policy {
    /// The allow rules that fail by exactly one condition, at most `most`, those first that differ by a
    /// slip of the pen. Walks all rules: for people who ask, not for messages.
    #[must_use]
    pub fn near(&self, question: &Question<'_>, most: usize) -> Vec<Near> {
        let rules = self.rules().iter().enumerate();
        let allows = rules.filter(|(_, rule)| rule.effect == Effect::Allow);
        let mut near: Vec<Near> = allows
            .filter_map(|(index, rule)| {
                Some(Near { rule: index, miss: only_miss(rule, question)? })
            })
            .collect();
        near.sort_by_key(|near| (near.miss.meant().is_none(), near.rule));
        near.truncate(most);
        near
    }
}

/// What fails, where it is one condition and no more.
fn only_miss(rule: &Rule, question: &Question<'_>) -> Option<Miss> {
    let (channel, topic) = (question.target.channel(), question.target.topic());
    let misses = [
        (!rule.from.matches(question.from)).then_some(Miss::From),
        (!rule.to.matches(question.to)).then_some(Miss::To),
        (!rule.channel.matches(channel)).then(|| Miss::Channel {
            meant: match &rule.channel {
                Channels::Any => None,
                Channels::One(one) => nearest(channel.as_str(), [one.as_str()]).map(str::to_owned),
            },
        }),
        (!rule.topics.matches(topic)).then(|| Miss::Topic {
            meant: match &rule.topics {
                Topics::Any => None,
                Topics::These(topics) => {
                    let topics = topics.iter().map(crate::name::Topic::as_str);
                    nearest(topic.as_str(), topics).map(str::to_owned)
                }
            },
        }),
        rule.direction
            .is_some_and(|direction| direction != question.direction)
            .then_some(Miss::Direction { goes: question.direction }),
    ];
    let mut misses = misses.into_iter().flatten();
    let only = misses.next()?;
    misses.next().is_none().then_some(only)
}

impl Miss {
    /// The condition that fails, as the key of the rule is called.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::Channel { .. } => "channel",
            Self::Topic { .. } => "topics",
            Self::Direction { .. } => "direction",
        }
    }

    /// What may have been meant.
    #[must_use]
    pub fn meant(&self) -> Option<&str> {
        match self {
            Self::Channel { meant } | Self::Topic { meant } => meant.as_deref(),
            Self::From | Self::To | Self::Direction { .. } => None,
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From => f.write_str("its `from` is not about the sender"),
            Self::To => f.write_str("its `to` is not about the receiver"),
            Self::Channel { .. } => f.write_str("it is about another channel"),
            Self::Topic { .. } => f.write_str("it is about other topics"),
            Self::Direction { goes } => write!(f, "the message goes {goes}"),
        }?;
        match self.meant() {
            Some(meant) => write!(f, "; did you mean `{meant}`?"),
            None => Ok(()),
        }
    }
}
