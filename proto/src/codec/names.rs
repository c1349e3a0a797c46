//! Who a message is from, who and what it is for, and its token, as they stand in a header.

use std::sync::Arc;

use super::{
    CodecError,
    read::{is_introduction, take_nil, uint},
};
use crate::{
    envelope::{Address, Common, Flags, Lane},
    name::ChannelTopic,
    token::Token,
};

/// Where in the tables of the stream they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct References {
    pub(super) origin: u64,
    pub(super) destination: u64,
    pub(super) target: u64,
    pub(super) token: Option<u64>,
}

/// What they are.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) origin: Arc<Address>,
    pub(super) destination: Arc<Address>,
    pub(super) target: ChannelTopic,
    pub(super) token: Option<Token>,
}

impl References {
    /// Conversations of one stream that are known at once; a stream with more costs more, and means the
    /// same.
    pub(super) const SLOTS: usize = 256;

    /// Takes them off the front of `r`; `None`, and nothing taken, where one is introduced there.
    pub(super) fn read(r: &mut &[u8]) -> Result<Option<Self>, CodecError> {
        let rest = &mut &**r;
        let Some(origin) = reference(rest)? else { return Ok(None) };
        let Some(destination) = reference(rest)? else { return Ok(None) };
        let Some(target) = reference(rest)? else { return Ok(None) };
        let token = if take_nil(rest)? {
            None
        } else {
            let Some(token) = reference(rest)? else { return Ok(None) };
            Some(token)
        };
        *r = rest;
        Ok(Some(Self { origin, destination, target, token }))
    }

    /// Where what messages with these have in common is kept.
    pub(super) fn slot(self) -> u64 {
        let token = self.token.map_or(0, |token| token + 1);
        self.origin ^ self.destination << 3 ^ self.target << 5 ^ token << 1
    }
}

impl Values {
    pub(super) fn common(self, lane: Lane, flags: Flags) -> Result<Common, CodecError> {
        let Self { origin, destination, target, token } = self;
        if origin.incarnation.is_none() {
            return Err(CodecError::header("origin without an incarnation"));
        }
        Ok(Common { origin, destination, target, token, lane, flags })
    }
}

#[inline]
fn reference(r: &mut &[u8]) -> Result<Option<u64>, CodecError> {
    if is_introduction(r)? { Ok(None) } else { uint(r).map(Some) }
}
