//! The message envelope: a typed header that every hop reads, and a payload that none looks at.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec::body::Blob,
    name::{ChannelTopic, Fqcn},
    status::Status,
    token::Token,
};

/// One start of a process: a counter kept on disk that only grows, and a random number that tells two
/// copies of one disk apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    /// Starts of this cell so far; never zero.
    pub counter: u64,
    /// Drawn at the start.
    pub nonce: u64,
}

/// A cell, and where known the start of its process that is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The cell.
    pub name: Fqcn,
    /// The start of its process; always present for an origin.
    pub incarnation: Option<Incarnation>,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wants no answer.
    Publish,
    /// Wants exactly one answer.
    Request,
    /// Answers the request with sequence number `to` of the destination.
    Reply {
        /// Sequence number of the request.
        to: u64,
    },
    /// Says that the request with sequence number `to` of the destination failed.
    Return {
        /// Sequence number of the request.
        to: u64,
        /// Why.
        status: Status,
        /// The cell that says so. The sender's claim: only a hop on the path can have made it.
        by: Fqcn,
    },
}

/// Priority class; each has a stream of its own on every link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The system's own messages. Applications cannot choose it.
    Control = 0,
    /// Small messages that somebody waits for.
    #[default]
    Interactive = 1,
    /// All else.
    Bulk = 2,
}

/// Properties that a sender may ask for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

/// W3C trace context in binary form: version, trace id (16), span id (8).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext(pub [u8; 25]);

/// The seldom-used part of a header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Media type of the payload; at most [`Extras::CONTENT_TYPE_MAX`] bytes.
    pub content_type: Option<Arc<str>>,
    /// Trace context.
    pub trace: Option<TraceContext>,
    /// Opaque to every cell; at most [`Extras::HEADERS_MAX`] bytes.
    pub headers: Bytes,
    /// All cells that the message is for, where these are more than one: the first is the header's own
    /// destination and sequence number. At most [`Extras::FAN_MAX`].
    pub fan: Vec<FanTarget>,
    /// What each cell on the way did; grows only on messages with [`Flags::PROBE`].
    pub path: Vec<HopRecord>,
    /// Proof of the origin, on messages that must carry one.
    pub proof: Option<OriginProof>,
}

/// One of the cells that a message to many is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanTarget {
    /// Its sequence number: every cell's copy has one of its own, and is answered by that number.
    pub sequence: u64,
    /// The cell.
    pub destination: Arc<Address>,
}

/// What one cell on the way did with a message that asks for it ([`Flags::PROBE`]). The word of that
/// cell and of those behind it, for people to read: nothing is decided on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopRecord {
    /// The cell.
    pub cell: Fqcn,
    /// Why it let the message in, as text; at most [`HopRecord::RULE_MAX`] bytes.
    pub rule: String,
    /// From arrival to the moment it was written to the next link or handed to the cell, in
    /// microseconds.
    pub queue_us: u32,
    /// Half the round trip of the link that it left by, in microseconds; zero where it ended.
    pub wire_us: u32,
}

/// Proof that the origin itself sent a message, whatever cells it has passed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginProof {
    /// When it was signed, in milliseconds since 1970, by the origin's clock.
    pub unix_ms: u64,
    /// Signature of the origin's certificate key over the transcript of the message.
    pub signature: Blob,
}

/// What the messages of one conversation have in common.
///
/// They share it: it is put together once, and whoever has decided on it, or has written it down, knows
/// the next message by where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Common {
    /// Who sent it; a claim until admitted.
    pub origin: Arc<Address>,
    /// Who it is for.
    pub destination: Arc<Address>,
    /// Where inside the destination.
    pub target: ChannelTopic,
    /// Proof that the origin is registered; absent only on exempt messages.
    pub token: Option<Token>,
    /// Priority class.
    pub lane: Lane,
    /// What the sender asks for.
    pub flags: Flags,
}

/// What every hop reads. Its common part is read, and changed, as if it were the header's own: a change
/// leaves the messages that shared it as they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// Counts the messages of the origin's incarnation; with it, the id of the message.
    pub sequence: u64,
    /// What it shares with other messages.
    pub common: Arc<Common>,
    /// Time left, in milliseconds. A budget, not an instant: hosts share no clock.
    pub budget_ms: u32,
    /// Forwarding steps left; set by the first hop.
    pub hops_left: u8,
    /// The seldom-used part.
    pub extras: Option<Box<Extras>>,
}

impl Deref for Header {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl DerefMut for Header {
    fn deref_mut(&mut self) -> &mut Common {
        Arc::make_mut(&mut self.common)
    }
}

/// A message as it travels, before anybody has vouched for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What hops read.
    pub header: Header,
    /// What they do not.
    pub payload: Bytes,
}

impl Lane {
    /// Every lane, first the most urgent.
    pub const ALL: [Self; 3] = [Self::Control, Self::Interactive, Self::Bulk];

    /// The lane with this number on the wire.
    #[must_use]
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| *lane as u8 == number)
    }
}

impl Flags {
    /// The message may be dropped under load.
    pub const OPTIONAL: Self = Self(1);
    /// Executing it twice does no harm.
    pub const IDEMPOTENT: Self = Self(2);
    /// The payload is encrypted to the destination.
    pub const SEALED: Self = Self(4);
    /// The destination cell confirms acceptance.
    pub const RECEIPT: Self = Self(8);
    /// May come more than once with the same id: the destination executes it once and answers every
    /// copy alike.
    pub const RETRY: Self = Self(16);
    /// A reply that more replies to the same request follow. On a request with [`Flags::BATCH`]: each
    /// item is a request of its own, with an answer of its own.
    pub const MORE: Self = Self(32);
    /// The payload is a batch of small messages, each handled on its own.
    pub const BATCH: Self = Self(64);
    /// Every cell on the way notes what it did; not delivered unless [`Flags::RECEIPT`] is set too.
    pub const PROBE: Self = Self(128);

    /// The flags with these bits; every bit has a meaning.
    #[must_use]
    pub fn from_wire(bits: u8) -> Self {
        Self(bits)
    }

    /// The bits on the wire.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags but for all of `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Both sets of flags.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({:#010b})", self.0)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for OriginProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OriginProof({} ms)", self.unix_ms)
    }
}

impl HopRecord {
    /// Bytes in the longest rule text.
    pub const RULE_MAX: usize = 256;
}

impl Extras {
    /// Cells that one message may be for.
    pub const FAN_MAX: usize = 512;
    /// Bytes that the names of these cells may take together; a message to more is sent as several.
    pub const FAN_BYTES_MAX: usize = 8 << 10;
    /// Cells that can have noted what they did.
    pub const PATH_MAX: usize = 18;
    /// Bytes in the longest content type.
    pub const CONTENT_TYPE_MAX: usize = 128;
    /// Bytes of application headers.
    pub const HEADERS_MAX: usize = 4096;

    /// The extras, or `None` where nothing is set.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl Address {
    /// The address of a cell, whichever start of its process answers.
    #[must_use]
    pub fn any(name: Fqcn) -> Arc<Self> {
        Arc::new(Self { name, incarnation: None })
    }

    /// The address of one start of a cell.
    #[must_use]
    pub fn exact(name: Fqcn, incarnation: Incarnation) -> Arc<Self> {
        Arc::new(Self { name, incarnation: Some(incarnation) })
    }
}

impl Kind {
    /// Whether this is an answer.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Reply { .. } | Self::Return { .. })
    }

    /// The word for it in logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Request => "request",
            Self::Reply { .. } => "reply",
            Self::Return { .. } => "return",
        }
    }
}

impl Common {
    /// What the answers to such requests have in common, from `me` with its token.
    #[must_use]
    pub fn answer(&self, me: &Arc<Address>, token: Option<Token>) -> Self {
        Self {
            origin: Arc::clone(me),
            destination: Arc::clone(&self.origin),
            target: self.target.clone(),
            token,
            lane: self.lane,
            flags: Flags::default(),
        }
    }
}

impl Header {
    /// Whether somebody waits for an answer: to a request, or to a publish that asks for a receipt.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        match self.kind {
            Kind::Request => true,
            Kind::Publish => self.flags.contains(Flags::RECEIPT),
            Kind::Reply { .. } | Kind::Return { .. } => false,
        }
    }

    /// The cells that the message is for besides its own destination.
    #[must_use]
    pub fn fan(&self) -> &[FanTarget] {
        self.extras.as_ref().map_or(&[], |extras| &extras.fan)
    }

    /// Notes what `cell` did with this message, where the message asks for that.
    pub fn note(&mut self, cell: &Fqcn, rule: impl FnOnce() -> String) {
        if !self.flags.contains(Flags::PROBE) {
            return;
        }
        let path = &mut self.extras.get_or_insert_default().path;
        if path.len() < Extras::PATH_MAX {
            let mut rule = rule();
            rule.truncate(rule.floor_char_boundary(HopRecord::RULE_MAX));
            path.push(HopRecord { cell: cell.clone(), rule, queue_us: 0, wire_us: 0 });
        }
    }

    /// Time left.
    #[must_use]
    pub fn budget(&self) -> Duration {
        Duration::from_millis(self.budget_ms.into())
    }

    /// Media type of the payload, where the sender gave one.
    #[must_use]
    pub fn content_type(&self) -> Option<&Arc<str>> {
        self.extras.as_ref()?.content_type.as_ref()
    }

    /// What the cells on the way to here have noted goes back with the answer.
    fn noted(&self) -> Extras {
        let path = self.extras.as_ref().map_or_else(Vec::new, |extras| extras.path.clone());
        Extras { path, ..Extras::default() }
    }

    /// The header of an answer to this request; `sequence` counts the messages of whoever answers, and
    /// `common` gives [`Common::answer`] of this request's.
    ///
    /// `None` when nobody waits for one: replies and returns are never answered, publishes only where
    /// they ask for a receipt.
    #[must_use]
    pub fn answer(
        &self,
        kind: Kind,
        sequence: u64,
        common: impl FnOnce() -> Arc<Common>,
    ) -> Option<Self> {
        debug_assert!(kind.is_answer());
        self.wants_answer().then(|| Self {
            kind,
            sequence,
            common: common(),
            budget_ms: self.budget_ms,
            hops_left: 0,
            extras: self.extras.as_ref().and_then(|_| self.noted().boxed()),
        })
    }
}

/// Bytes that an envelope is counted as in every queue: its payload and a fixed sum for the rest.
#[must_use]
pub fn cost(envelope: &Envelope) -> usize {
    let extras = envelope.header.extras.as_ref().map_or(0, |extras| {
        extras.headers.len() + 256 + 64 * (extras.fan.len() + 4 * extras.path.len())
    });
    cost_of_plain(envelope.payload.len()) + extras
}

/// The same of one that has no extras and a payload of so many bytes.
#[must_use]
pub fn cost_of_plain(payload_len: usize) -> usize {
    const HEADER_COST: usize = 256;
    payload_len.saturating_add(HEADER_COST)
}
