//! The protocol between job code and its job cell over the local socket, without the socket.
//!
//! `docs/LOCAL_SOCKET.md` is the normative text; golden vectors lie in `tests/vectors/local`.
//! [`ToCell`] is what job code says, [`ToJob`] what the cell says, [`CellSide`] what the cell makes
//! of a peer that it does not trust.

mod bootstrap;
mod cell_side;
mod codec;
mod fields;
mod limits;
mod secret;
mod to_cell;
mod to_job;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod vectors;

pub use self::{
    bootstrap::{Bootstrap, BootstrapError},
    cell_side::{Answer, CellSide, Registration, Step, Violation, greet},
    codec::{
        DecodeError, Decoder, EncodeError, Frame, PREFIX_LEN, PayloadRule, encode, encode_head,
    },
    limits::{BadLimits, Limits},
    secret::Secret,
    to_cell::{Hello, ToCell},
    to_job::{Delivery, Origin, Outcome, ToJob, Welcome},
};

/// The lowest version of the protocol that this crate speaks.
pub const VERSION_MIN: u16 = 1;
/// The highest version of the protocol that this crate speaks.
pub const VERSION_MAX: u16 = 1;

/// Bytes in the longest content type.
pub const CONTENT_TYPE_MAX: usize = 128;
/// Bytes in the longest detail of a RETURN or DELIVER_FAIL.
pub const DETAIL_MAX: usize = 4096;

/// Whether `text` can stand as a content type: at most [`CONTENT_TYPE_MAX`] bytes of printable ASCII.
#[must_use]
pub fn is_content_type(text: &str) -> bool {
    (1..=CONTENT_TYPE_MAX).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}
