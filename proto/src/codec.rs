//! Bytes to frames and back: exact, bounded before anything is allocated, total on any input.

pub mod body;
mod decode;
mod encode;
mod names;
mod octets;
mod read;
mod slots;
mod table;

pub use self::{
    decode::{Decoder, PREFIX_LEN},
    encode::Encoder,
    octets::Octets,
    table::TableLimits,
};
use crate::{
    envelope::{Envelope, Lane},
    status::Status,
};

/// One frame of a link. Which of them may come when is the business of [`crate::link`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The child introduces itself.
    Hello(body::Hello),
    /// The parent answers with a challenge.
    HelloOk(body::HelloOk),
    /// An envelope.
    Message(Envelope),
    /// The child is alive.
    Beat(body::Beat),
    /// The parent has seen the beat.
    Echo(body::Echo),
    /// The first frame of every stream but the first: which lane it is.
    Lane(Lane),
    /// The sender takes no new requests.
    Drain(body::Drain),
    /// Answers a challenge, register or bye request of this very stream. Never routed.
    Answer(body::Answer),
    /// The first frame of a conduit, in the direction of its request.
    Conduit(body::Conduit),
}

impl Frame {
    /// The word for it in logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::HelloOk(_) => "HELLO_OK",
            Self::Message(_) => "MESSAGE",
            Self::Beat(_) => "BEAT",
            Self::Echo(_) => "ECHO",
            Self::Lane(_) => "LANE",
            Self::Drain(_) => "DRAIN",
            Self::Answer(_) => "ANSWER",
            Self::Conduit(_) => "CONDUIT",
        }
    }
}

/// Numbers of the frame types on the wire.
pub(crate) mod types {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const HELLO_OK: u8 = 2;
    pub(crate) const MESSAGE: u8 = 3;
    pub(crate) const BEAT: u8 = 4;
    pub(crate) const ECHO: u8 = 5;
    pub(crate) const LANE: u8 = 6;
    pub(crate) const DRAIN: u8 = 7;
    pub(crate) const ANSWER: u8 = 8;
    pub(crate) const CONDUIT: u8 = 9;

    pub(crate) const EXTENSION_FAN: u16 = 2;
    pub(crate) const EXTENSION_PATH: u16 = 4;
    pub(crate) const EXTENSION_PROOF: u16 = 6;
}

/// Sizes that a peer may not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Header of one frame, in bytes; at most [`FrameLimits::HEADER_MAX`].
    pub header_max: usize,
    /// Payload of one frame, in bytes.
    pub payload_max: usize,
}

impl FrameLimits {
    /// No configuration may allow a larger header: its length travels in two bytes.
    pub const HEADER_MAX: usize = 16 << 10;
    /// What is read before HELLO is done.
    pub const BEFORE_HELLO: Self = Self { header_max: 8 << 10, payload_max: 0 };
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { header_max: Self::HEADER_MAX, payload_max: 1 << 20 }
    }
}

/// Why bytes are not a frame. The stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {what}")]
pub struct CodecError {
    /// The code.
    pub status: Status,
    /// What was wrong, for the log; holds nothing that the peer wrote.
    pub what: &'static str,
}

impl CodecError {
    pub(crate) const fn new(status: Status, what: &'static str) -> Self {
        Self { status, what }
    }

    pub(crate) const fn header(what: &'static str) -> Self {
        Self::new(Status::BadHeader, what)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
