//! Names: what a cell is called, and where inside a cell a message is addressed.
//!
//! A name is checked once, when it is parsed, and compared as bytes ever after. Text that is not a
//! name is refused; nothing trims it, folds its case or otherwise makes it one.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::well_known::{self, SystemTopic};

/// One level of a cell's name: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(Arc<str>);

/// A fully qualified cell name: segments from below the root to the cell, joined by dots.
///
/// The root's own name stands in front of everything and is left out, except where a cell of the
/// root's process is meant: `server`, `server.job-1`, `site-1`, `relay-a.site-2.job-1`.
/// So the name is the route.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fqcn(Arc<str>);

/// The first level of an address inside a cell: `[a-z0-9_.-]{1,64}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel(Arc<str>);

/// The second level of an address inside a cell: `[a-z0-9_.-]{1,64}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// A channel and a topic: what a handler is registered for, written `channel/topic`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelTopic(Arc<Target>);

#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Target {
    channel: Channel,
    topic: Topic,
    /// Which topic of the system this is: found once, asked for with every message.
    system: Option<SystemTopic>,
}

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text, or one level of it, is empty.
    #[error("name has an empty part")]
    Empty,
    /// The whole is longer than a name may be, in bytes.
    #[error("name is {len} bytes long, the limit is {max}")]
    TooLong {
        /// Bytes in the text.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// More levels than a tree may have.
    #[error("name has {count} segments, the limit is {max}", max = Fqcn::MAX_SEGMENTS)]
    TooDeep {
        /// Segments in the text.
        count: usize,
    },
    /// A character outside the alphabet of this kind of name.
    #[error("name contains {bad:?} at byte {at}; allowed are {allowed}")]
    BadCharacter {
        /// The character.
        bad: char,
        /// Where it starts.
        at: usize,
        /// The alphabet, for people.
        allowed: &'static str,
    },
    /// A segment that starts with `-` or `_`.
    #[error("segment starts with {bad:?}; it must start with a letter or a digit")]
    BadStart {
        /// The character.
        bad: char,
    },
    /// The same segment at two levels of one path.
    #[error("segment `{segment}` stands twice on the path")]
    Repeated {
        /// The segment.
        segment: String,
    },
}

const SEGMENT_ALPHABET: &str = "a-z 0-9 _ -";
const ADDRESS_ALPHABET: &str = "a-z 0-9 _ . -";

impl Segment {
    /// Bytes in the longest segment.
    pub const MAX_LEN: usize = 63;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Fqcn {
    /// Bytes in the longest name.
    pub const MAX_LEN: usize = 255;
    /// Levels in the deepest name.
    pub const MAX_SEGMENTS: usize = 8;

    /// Where this value lives: clones share it, so that as long as one is held, an equal place means
    /// the same value.
    #[must_use]
    pub fn allocation(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// The name one level up, or `None` for a name of one segment.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('.').map(|(parent, _)| Self(parent.into()))
    }

    /// The last segment.
    #[must_use]
    pub fn base(&self) -> &str {
        self.0.rsplit_once('.').map_or(&*self.0, |(_, base)| base)
    }

    /// The segments, first to last.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Levels in this name.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.segments().count()
    }

    /// The first `levels` segments of this name, or all of it where it has fewer.
    #[must_use]
    pub fn prefix(&self, levels: usize) -> &str {
        let end = self.0.match_indices('.').nth(levels.saturating_sub(1)).map(|(at, _)| at);
        &self.0[..end.unwrap_or(self.0.len())]
    }

    /// Whether `other` lies strictly below this name, by whole segments.
    #[must_use]
    pub fn is_ancestor_of(&self, other: &Self) -> bool {
        other.0.strip_prefix(&*self.0).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Whether `other` is this name or lies below it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self == other || self.is_ancestor_of(other)
    }

    /// The name of a child with base name `base`.
    ///
    /// # Errors
    /// [`NameError`] when the path would be too long, too deep, or have a segment twice.
    pub fn child(&self, base: &Segment) -> Result<Self, NameError> {
        format!("{self}.{base}").parse()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Segment> for Fqcn {
    fn from(segment: Segment) -> Self {
        Self(segment.0)
    }
}

impl Channel {
    /// Bytes in the longest channel.
    pub const MAX_LEN: usize = 64;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Topic {
    /// Bytes in the longest topic.
    pub const MAX_LEN: usize = 64;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ChannelTopic {
    /// Joins the two levels.
    #[must_use]
    pub fn new(channel: Channel, topic: Topic) -> Self {
        let system = well_known::find(&channel, &topic);
        Self(Arc::new(Target { channel, topic, system }))
    }

    /// Parses both levels.
    ///
    /// # Errors
    /// [`NameError`] of the first level that is not a name.
    pub fn parse(channel: &str, topic: &str) -> Result<Self, NameError> {
        Ok(Self::new(channel.parse()?, topic.parse()?))
    }

    /// The first level.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.0.channel
    }

    /// The second level.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.0.topic
    }

    /// The topic of the system that this is, if it is one.
    #[must_use]
    pub fn system(&self) -> Option<SystemTopic> {
        self.0.system
    }

    /// Where this value lives: clones share it, so that as long as one is held, an equal place means
    /// the same value.
    #[must_use]
    pub fn allocation(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Whether these are the two levels, compared as bytes.
    #[must_use]
    pub fn is(&self, channel: &str, topic: &str) -> bool {
        self.channel().as_str() == channel && self.topic().as_str() == topic
    }
}

fn check_segment(text: &str) -> Result<(), NameError> {
    if text.len() > Segment::MAX_LEN {
        return Err(NameError::TooLong { len: text.len(), max: Segment::MAX_LEN });
    }
    let bad = text.char_indices().find(|(_, c)| !matches!(c, 'a'..='z' | '0'..='9' | '_' | '-'));
    if let Some((at, bad)) = bad {
        return Err(NameError::BadCharacter { bad, at, allowed: SEGMENT_ALPHABET });
    }
    match text.chars().next() {
        None => Err(NameError::Empty),
        Some(bad @ ('_' | '-')) => Err(NameError::BadStart { bad }),
        Some(_) => Ok(()),
    }
}

fn check_address(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { len: text.len(), max });
    }
    let bad =
        text.char_indices().find(|(_, c)| !matches!(c, 'a'..='z' | '0'..='9' | '_' | '.' | '-'));
    match bad {
        Some((at, bad)) => Err(NameError::BadCharacter { bad, at, allowed: ADDRESS_ALPHABET }),
        None => Ok(()),
    }
}

impl FromStr for Segment {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_segment(text)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for Fqcn {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > Self::MAX_LEN {
            return Err(NameError::TooLong { len: text.len(), max: Self::MAX_LEN });
        }
        let count = text.split('.').count();
        if count > Self::MAX_SEGMENTS {
            return Err(NameError::TooDeep { count });
        }
        for (level, segment) in text.split('.').enumerate() {
            check_segment(segment)?;
            if text.split('.').take(level).any(|earlier| earlier == segment) {
                return Err(NameError::Repeated { segment: segment.to_owned() });
            }
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for Channel {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_address(text, Self::MAX_LEN)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for Topic {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_address(text, Self::MAX_LEN)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for ChannelTopic {
    type Err = NameError;

    /// Parses `channel/topic`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (channel, topic) = text.split_once('/').ok_or(NameError::Empty)?;
        Self::parse(channel, topic)
    }
}

impl fmt::Display for ChannelTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.channel(), self.topic())
    }
}

impl fmt::Debug for ChannelTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What every kind of name does as text, as a map key and as a serde string.
macro_rules! textual {
    ($($name:ident),*) => {$(
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

textual!(Segment, Fqcn, Channel, Topic);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts that look like a name, or like a system name, and are none.
    pub(crate) const HOSTILE: &[&str] = &[
        "",
        " ",
        ".",
        "..",
        "a.",
        ".a",
        "a..b",
        "A",
        "Server",
        "sErver",
        "server ",
        " server",
        "server\0",
        "server\n",
        "server\r\n",
        "site/1",
        "site:1",
        "site*",
        "*",
        "**",
        "site-1.*",
        "-a",
        "_a",
        "a.-b",
        "a.a",
        "a.b.a",
        "x.y.z.x",
        "ｓerver",
        "sеrver",
        "serve\u{200d}r",
        "server\u{202e}",
        "ﬁle",
        "ı",
        "a\u{301}",
        "%61",
        "a b",
        "a\tb",
        "a\\b",
        "~",
        "$(id)",
        "`id`",
        "a'b",
        "a\"b",
        "a;b",
        "../a",
        "a=b",
        "a@b",
        "a.b.c.d.e.f.g.h.i",
        "\u{1b}[31m",
        "a#b",
        "a?b",
    ];

    #[test]
    fn a_hostile_corpus_is_no_name() {
        for text in HOSTILE {
            assert!(text.parse::<Fqcn>().is_err(), "{text:?} passed as a cell name");
        }
        let long = "a".repeat(64);
        assert!(long.parse::<Segment>().is_err());
        assert!(format!("{}.b", "a".repeat(63)).parse::<Fqcn>().is_ok());
        let wide = (0..5).map(|i| format!("{i}{}", "b".repeat(62))).collect::<Vec<_>>().join(".");
        assert!(wide.len() > Fqcn::MAX_LEN && wide.parse::<Fqcn>().is_err());
    }

    #[test]
    fn atk_056_wildcards_and_near_misses_are_no_channel() {
        let near = [
            "*",
            "task:*",
            "task:get",
            "Task",
            "task ",
            "task\0",
            "task/",
            "ｂｙｅ",
            "bye\u{200b}",
            "",
            "täsk",
            "task\n",
            "a*",
            "?",
        ];
        for text in near {
            assert!(text.parse::<Channel>().is_err(), "{text:?} passed as a channel");
            assert!(text.parse::<Topic>().is_err(), "{text:?} passed as a topic");
        }
        assert!("a".repeat(65).parse::<Topic>().is_err());
        assert!("cellnet.channel".parse::<Channel>().is_ok());
    }

    #[test]
    fn a_prefix_is_taken_by_whole_segments() {
        let name: Fqcn = "x2.b".parse().unwrap();
        let x: Fqcn = "x".parse().unwrap();
        assert!(!x.is_ancestor_of(&name) && !x.covers(&name));
        assert_eq!(name.prefix(1), "x2");
        assert_eq!(name.prefix(2), "x2.b");
        assert_eq!(name.prefix(9), "x2.b");
    }

    proptest! {
        #[test]
        fn a_name_survives_its_text(text in "[a-z0-9][a-z0-9_-]{0,20}(\\.[a-z0-9][a-z0-9_-]{0,20}){0,3}") {
            if let Ok(name) = text.parse::<Fqcn>() {
                prop_assert_eq!(name.to_string(), text);
                prop_assert_eq!(name.prefix(name.depth()), name.as_str());
            }
        }

        #[test]
        fn parsing_never_panics_and_never_changes_what_it_lets_through(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<Fqcn>() {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)));
            }
        }

        #[test]
        fn a_child_lies_below_its_parent(base in "[a-z][a-z0-9]{0,8}") {
            let parent: Fqcn = "relay-a".parse().unwrap();
            let child = parent.child(&base.parse().unwrap()).unwrap();
            prop_assert!(parent.is_ancestor_of(&child) && !child.is_ancestor_of(&parent));
            prop_assert_eq!(child.parent(), Some(parent));
        }
    }
}
