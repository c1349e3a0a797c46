//! Which cells one side of a rule is about.

use std::{fmt, str::FromStr};

use crate::{
    identity::{CellKind, UnknownKind},
    name::{NameError, Segment},
};

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
    /// Every cell that this organisation runs, written `org:acme`.
    Org(Segment),
}

/// One end of a message, as rules see it. What is not known equals nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<'a> {
    /// Base name.
    pub base: &'a str,
    /// Kind: of the sender by its certificate, of the receiver by the topology.
    pub kind: Option<CellKind>,
    /// Organisation, known as the kind is.
    pub org: Option<&'a Segment>,
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
    /// Neither a wildcard, nor a kind, nor an organisation, nor a base name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Pattern {
    /// Whether this pattern is about the cell at this end.
    #[must_use]
    pub fn matches(&self, end: End<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => name.as_str() == end.base,
            Self::Prefix(prefix) => end.base.starts_with(prefix.as_str()),
            Self::Kind(wanted) => end.kind == Some(*wanted),
            Self::Org(wanted) => end.org == Some(wanted),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    /// Parses `*`, `site-*`, `kind:client`, `org:acme` or a base name.
    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(kind) = text.strip_prefix("kind:") {
            return Ok(Self::Kind(kind.parse()?));
        }
        if let Some(org) = text.strip_prefix("org:") {
            return Ok(Self::Org(org.parse()?));
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

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => f.write_str(name.as_str()),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Kind(kind) => write!(f, "kind:{kind}"),
            Self::Org(org) => write!(f, "org:{}", org.as_str()),
        }
    }
}
