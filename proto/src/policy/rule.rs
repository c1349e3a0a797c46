//! One rule: who, to whom, on which channel and topics, which way, and whether sealed.

use std::{fmt, str::FromStr};

use super::pattern::{End, Pattern};
use crate::name::{Channel, ChannelTopic, Fqcn, NameError, Topic};

/// What a rule does with the messages that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Lets them pass, unless a deny rule matches too.
    Allow,
    /// Refuses them, whatever else matches.
    Deny,
}

/// Where the receiver of a request stands in the tree, seen from its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Above: the receiver is an ancestor of the sender. The server is above every other cell.
    Up,
    /// Below: the receiver is a descendant of the sender.
    Down,
    /// Neither.
    Across,
}

/// Which channels a rule is about. A `*` exists in rules only, never on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channels {
    /// Every channel of applications, written `*`.
    Any,
    /// This one.
    One(Channel),
}

/// Which topics a rule is about. A `*` exists in rules only, never on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topics {
    /// Every topic, written `*`.
    Any,
    /// These; a rule without topics matches nothing.
    These(Vec<Topic>),
}

/// One rule. Names are compared as bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Allow or deny.
    pub effect: Effect,
    /// Who asks.
    pub from: Pattern,
    /// Who is asked.
    pub to: Pattern,
    /// The channel.
    pub channel: Channels,
    /// The topics on that channel.
    pub topics: Topics,
    /// Which way; `None` is any.
    pub direction: Option<Direction>,
    /// Whether every message on this channel and these topics must be sealed, by whatever rule it
    /// passes.
    pub seal: bool,
}

/// What rules decide on: who would ask whom for what.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub from: End<'a>,
    /// Who is asked.
    pub to: End<'a>,
    /// Where the one who is asked stands.
    pub direction: Direction,
    /// The channel and topic.
    pub target: &'a ChannelTopic,
}

impl Direction {
    /// Where `to` stands, seen from `from`, in a tree below `root`. A cell is across from itself.
    ///
    /// A root that is not known is above nothing but what its name is the beginning of.
    #[must_use]
    pub fn of(from: &Fqcn, to: &Fqcn, root: Option<&Fqcn>) -> Self {
        let is_above = |a: &Fqcn, b: &Fqcn| a != b && (root == Some(a) || a.is_ancestor_of(b));
        if is_above(to, from) {
            Self::Up
        } else if is_above(from, to) {
            Self::Down
        } else {
            Self::Across
        }
    }

    /// The word for it in files and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Across => "across",
        }
    }
}

impl Channels {
    /// Whether this is about `channel`.
    #[must_use]
    pub fn matches(&self, channel: &Channel) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => one == channel,
        }
    }
}

impl Topics {
    /// Whether this is about `topic`.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            Self::Any => true,
            Self::These(topics) => topics.contains(topic),
        }
    }
}

impl Rule {
    /// A rule in every direction that does not demand sealing.
    #[must_use]
    pub fn new(
        effect: Effect,
        from: Pattern,
        to: Pattern,
        channel: Channel,
        topics: Vec<Topic>,
    ) -> Self {
        let (channel, topics) = (Channels::One(channel), Topics::These(topics));
        Self { effect, from, to, channel, topics, direction: None, seal: false }
    }

    /// Whether this rule is about `target`.
    #[must_use]
    pub fn is_about(&self, target: &ChannelTopic) -> bool {
        self.channel.matches(target.channel()) && self.topics.matches(target.topic())
    }

    /// Whether this rule is about these two cells, this way.
    #[must_use]
    pub fn is_between(&self, question: &Question<'_>) -> bool {
        self.direction.is_none_or(|direction| direction == question.direction)
            && self.from.matches(question.from)
            && self.to.matches(question.to)
    }
}

impl FromStr for Channels {
    type Err = NameError;

    /// Parses `*` or a channel.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "*" { Ok(Self::Any) } else { text.parse().map(Self::One) }
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

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::One(channel) => write!(f, "{channel}"),
        }
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topics = match self {
            Self::Any => return f.write_str("*"),
            Self::These(topics) => topics,
        };
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

impl fmt::Display for Rule {
    /// `allow site-* -> server task/{fetch,submit} up sealed`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effect, from, to, channel, topics, direction, seal } = self;
        write!(f, "{effect} {from} -> {to} {channel}/{topics}")?;
        if let Some(direction) = direction {
            write!(f, " {direction}")?;
        }
        f.write_str(if *seal { " sealed" } else { "" })
    }
}
