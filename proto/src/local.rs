//! The protocol between job code and its job cell over the local socket, without the socket.
//!
//! `docs/LOCAL_SOCKET.md` is the normative text; golden vectors lie in `tests/vectors/local`.
//! [`ToCell`] is what job code says, [`ToJob`] what the cell says, [`CellSide`] what the cell makes
//! of a peer that it does not trust.

mod body;
mod bootstrap;
mod cell_side;
mod codec;
mod fields;
mod limits;
mod rendezvous;
mod secret;
mod to_cell;
mod to_job;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod vectors;

pub use self::{
    body::{Body, MessageFlags, MessageOptions},
    bootstrap::{Bootstrap, BootstrapError},
    cell_side::{Answer, CellSide, Registration, ServeStep, Step, Violation, greet},
    codec::{
        Attachment, DecodeError, Decoder, EncodeError, Frame, PREFIX_LEN, PayloadRule, encode,
        encode_head,
    },
    limits::{BadLimits, Limits},
    rendezvous::{Rendezvous, RendezvousError},
    secret::Secret,
    to_cell::{Hello, Serve, ToCell},
    to_job::{Delivery, Event, EventKind, Origin, Outcome, Settled, ToJob, Welcome},
};

/// The lowest version of the protocol that this crate speaks.
pub const VERSION_MIN: u16 = 1;
/// The highest version of the protocol that this crate speaks.
pub const VERSION_MAX: u16 = 2;
/// The version from which on job code is told the trace of what it is delivered.
pub const VERSION_TRACES: u16 = 2;

/// Bytes in the longest content type.
pub const CONTENT_TYPE_MAX: usize = 128;
/// Bytes in the longest detail of a RETURN or DELIVER_FAIL.
pub const DETAIL_MAX: usize = 4096;
/// Bytes in the longest headers of the application.
pub const HEADERS_MAX: usize = 4096;
/// Cells that one message can be for.
pub const NAMES_MAX: u32 = 512;
/// Bytes that their names have together, at most.
pub const NAMES_BYTES_MAX: usize = 8192;
/// Media type of a message whose payload is the reference to a transfer that is the message itself: between
/// cells, and to a receiver that is no job.
pub const ATTACHED_CONTENT_TYPE: &str = "application/vnd.cellbus.attached";
/// The same of a sealed message, whose transfer is sealed, too: the payload is the key of the transfer, 32 bytes, and
/// then the reference.
pub const SEALED_ATTACHED_CONTENT_TYPE: &str = "application/vnd.cellbus.attached-sealed";

/// Whether `text` can stand as a content type: at most [`CONTENT_TYPE_MAX`] bytes of printable ASCII.
#[must_use]
pub fn is_content_type(text: &str) -> bool {
    (1..=CONTENT_TYPE_MAX).contains(&text.len()) && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}
