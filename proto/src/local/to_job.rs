//! What a cell says to its job code.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{
    body::Body,
    codec::{Attachment, DecodeError, Frame, PayloadRule},
    fields::{BadField, Writer},
    to_cell::{read_number, read_optional_status},
};
use crate::{name::Fqcn, status::Status};

mod headers;
mod words;

use self::headers::{
    read_delivery, read_event, read_fetched, read_handled, read_part, read_part_failed,
    read_progress, read_reject, read_reply, read_return, read_settled, read_welcome,
    write_delivery, write_welcome,
};
pub use self::words::{Delivery, Event, EventKind, Origin, Outcome, Settled, Welcome};

/// A frame from the cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToJob {
    /// The launch secret is the right one.
    Welcome(Welcome),
    /// The connection is refused. The last frame.
    Reject {
        /// Why; the same for everything that is wrong with who connected.
        status: Status,
    },
    /// Ends a REQUEST: its answer.
    Reply {
        /// Of the REQUEST.
        id: u64,
        /// The answer.
        body: Body,
    },
    /// Ends what was asked: there is no answer, or it was not taken.
    Return {
        /// Of what was asked.
        id: u64,
        /// Why.
        status: Status,
        /// The cell that gave the status.
        by: Fqcn,
        /// What the handler said, else empty.
        detail: Bytes,
    },
    /// Ends a PUBLISH: the cell has taken it.
    Accepted {
        /// Of the PUBLISH.
        id: u64,
    },
    /// Ends a HANDLE.
    Handled {
        /// Of the HANDLE.
        id: u64,
        /// Whether the handler is registered.
        outcome: Outcome,
    },
    /// A message for a handler of job code. Must be ended by DELIVER_REPLY or DELIVER_FAIL.
    Deliver(Delivery),
    /// One of several replies, or the reply of one of many cells.
    Part {
        /// Of the REQUEST or MULTICAST.
        id: u64,
        /// The cell that answers.
        from: Fqcn,
        /// The answer.
        body: Body,
    },
    /// One of many cells does not answer.
    PartFailed {
        /// Of the MULTICAST.
        id: u64,
        /// The cell.
        from: Fqcn,
        /// Why.
        status: Status,
        /// The cell that gave the status.
        by: Fqcn,
        /// What the handler said, else empty.
        detail: Bytes,
    },
    /// Ends a REQUEST for several replies, a MULTICAST, EVENTS or a SERVE.
    End {
        /// Of what was asked.
        id: u64,
    },
    /// Something happened around the cell.
    Event(Event),
    /// The file of a SERVE can be fetched.
    Served {
        /// Of the SERVE.
        id: u64,
        /// By this reference.
        reference: Bytes,
    },
    /// How far a SERVE or FETCH is.
    Progress {
        /// Of the SERVE or FETCH.
        id: u64,
        /// The receiver; `None` where it is this one.
        from: Option<Fqcn>,
        /// Bytes that are there.
        bytes: u64,
        /// Bytes in all, where that is known.
        size: Option<u64>,
    },
    /// What has become of a SERVE at one receiver.
    Settled {
        /// Of the SERVE.
        id: u64,
        /// The receiver.
        from: Fqcn,
        /// What has become of it.
        end: Settled,
    },
    /// Ends a FETCH: the bytes are in the descriptor.
    Fetched {
        /// Of the FETCH.
        id: u64,
        /// Media type of the bytes.
        content_type: Option<Arc<str>>,
        /// Bytes in the descriptor.
        size: u64,
        /// Headers of the application.
        headers: Bytes,
        /// BLAKE3 digest of the bytes.
        digest: [u8; 32],
    },
    /// Asks to end a DELIVER now, since nobody waits any longer. The answer must still come.
    Cancel {
        /// Of the DELIVER.
        id: u64,
    },
    /// Asks for a PONG.
    Ping {
        /// Comes back in the PONG.
        token: u64,
    },
    /// Answers a PING.
    Pong {
        /// Of the PING.
        token: u64,
    },
    /// The last frame.
    Bye {
        /// Why; `None` where nothing is wrong.
        status: Option<Status>,
    },
}

const WELCOME: u8 = 0x81;
const REJECT: u8 = 0x82;
const REPLY: u8 = 0x83;
const RETURN: u8 = 0x84;
const ACCEPTED: u8 = 0x85;
const HANDLED: u8 = 0x86;
const DELIVER: u8 = 0x87;
const PART: u8 = 0x88;
const PART_FAILED: u8 = 0x89;
const END: u8 = 0x8a;
const EVENT: u8 = 0x8b;
const SERVED: u8 = 0x8c;
const PROGRESS: u8 = 0x8d;
const SETTLED: u8 = 0x8e;
const FETCHED: u8 = 0x8f;
const CANCEL: u8 = 0x90;
const PING: u8 = 0x91;
const PONG: u8 = 0x92;
const BYE: u8 = 0x9f;

impl Frame for ToJob {
    fn kind(&self) -> u8 {
        match self {
            Self::Welcome(_) => WELCOME,
            Self::Reject { .. } => REJECT,
            Self::Reply { .. } => REPLY,
            Self::Return { .. } => RETURN,
            Self::Accepted { .. } => ACCEPTED,
            Self::Handled { .. } => HANDLED,
            Self::Deliver(_) => DELIVER,
            Self::Part { .. } => PART,
            Self::PartFailed { .. } => PART_FAILED,
            Self::End { .. } => END,
            Self::Event(_) => EVENT,
            Self::Served { .. } => SERVED,
            Self::Progress { .. } => PROGRESS,
            Self::Settled { .. } => SETTLED,
            Self::Fetched { .. } => FETCHED,
            Self::Cancel { .. } => CANCEL,
            Self::Ping { .. } => PING,
            Self::Pong { .. } => PONG,
            Self::Bye { .. } => BYE,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "WELCOME",
            Self::Reject { .. } => "REJECT",
            Self::Reply { .. } => "REPLY",
            Self::Return { .. } => "RETURN",
            Self::Accepted { .. } => "ACCEPTED",
            Self::Handled { .. } => "HANDLED",
            Self::Deliver(_) => "DELIVER",
            Self::Part { .. } => "PART",
            Self::PartFailed { .. } => "PART_FAILED",
            Self::End { .. } => "END",
            Self::Event(_) => "EVENT",
            Self::Served { .. } => "SERVED",
            Self::Progress { .. } => "PROGRESS",
            Self::Settled { .. } => "SETTLED",
            Self::Fetched { .. } => "FETCHED",
            Self::Cancel { .. } => "CANCEL",
            Self::Ping { .. } => "PING",
            Self::Pong { .. } => "PONG",
            Self::Bye { .. } => "BYE",
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Reply { body, .. }
            | Self::Part { body, .. }
            | Self::Deliver(Delivery { body, .. }) => body.payload.clone(),
            Self::Return { detail: payload, .. }
            | Self::PartFailed { detail: payload, .. }
            | Self::Event(Event { detail: payload, .. })
            | Self::Served { reference: payload, .. } => payload.clone(),
            Self::Welcome(_)
            | Self::Reject { .. }
            | Self::Accepted { .. }
            | Self::Handled { .. }
            | Self::End { .. }
            | Self::Progress { .. }
            | Self::Settled { .. }
            | Self::Fetched { .. }
            | Self::Cancel { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Bye { .. } => Bytes::new(),
        }
    }

    fn attachment(&self) -> Option<Attachment> {
        match self {
            Self::Reply { body, .. }
            | Self::Part { body, .. }
            | Self::Deliver(Delivery { body, .. }) => body.attached.map(Attachment::Sealed),
            Self::Fetched { size, .. } => Some(Attachment::Sealed(*size)),
            Self::Welcome(_)
            | Self::Reject { .. }
            | Self::Return { .. }
            | Self::Accepted { .. }
            | Self::Handled { .. }
            | Self::PartFailed { .. }
            | Self::End { .. }
            | Self::Event(_)
            | Self::Served { .. }
            | Self::Progress { .. }
            | Self::Settled { .. }
            | Self::Cancel { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Bye { .. } => None,
        }
    }

    fn write_header(&self, out: &mut BytesMut) {
        match self {
            Self::Welcome(welcome) => write_welcome(welcome, out),
            Self::Reject { status } => Writer::new(out, 1).uint(*status as u8),
            Self::Reply { id, body } => body.write(Writer::new(out, 3).uint(*id)),
            Self::Return { id, status, by, detail: _ } => {
                Writer::new(out, 3).uint(*id).uint(*status as u8).text(by.as_str())
            }
            Self::Handled { id, outcome } => Writer::new(out, 2).uint(*id).uint(*outcome as u8),
            Self::Deliver(delivery) => write_delivery(delivery, out),
            Self::Part { id, from, body } => {
                body.write(Writer::new(out, 4).uint(*id).text(from.as_str()))
            }
            Self::PartFailed { id, from, status, by, detail: _ } => Writer::new(out, 4)
                .uint(*id)
                .text(from.as_str())
                .uint(*status as u8)
                .text(by.as_str()),
            Self::Event(Event { id, kind, cell, missed, detail: _ }) => Writer::new(out, 4)
                .uint(*id)
                .uint(*kind as u8)
                .optional_text(cell.as_ref().map(Fqcn::as_str))
                .uint(*missed),
            Self::Progress { id, from, bytes, size } => Writer::new(out, 4)
                .uint(*id)
                .optional_text(from.as_ref().map(Fqcn::as_str))
                .uint(*bytes)
                .optional_uint(*size),
            Self::Settled { id, from, end } => {
                let (end, status) = end.to_wire();
                Writer::new(out, 4)
                    .uint(*id)
                    .text(from.as_str())
                    .uint(end)
                    .optional_uint(status.map(|status| status as u8))
            }
            Self::Fetched { id, content_type, size, headers, digest } => Writer::new(out, 5)
                .uint(*id)
                .optional_text(content_type.as_deref())
                .uint(*size)
                .bin(headers)
                .bin(digest),
            Self::Accepted { id: value }
            | Self::End { id: value }
            | Self::Served { id: value, .. }
            | Self::Cancel { id: value }
            | Self::Ping { token: value }
            | Self::Pong { token: value } => Writer::new(out, 1).uint(*value),
            Self::Bye { status } => {
                Writer::new(out, 1).optional_uint(status.map(|status| status as u8))
            }
        };
    }

    fn payload_rule(kind: u8) -> Option<PayloadRule> {
        match kind {
            REPLY | DELIVER | PART | SERVED => Some(PayloadRule::Message),
            RETURN | PART_FAILED | EVENT => Some(PayloadRule::Detail),
            WELCOME | REJECT | ACCEPTED | HANDLED | END | PROGRESS | SETTLED | FETCHED | CANCEL
            | PING | PONG | BYE => Some(PayloadRule::Nothing),
            _ => None,
        }
    }

    fn read(kind: u8, header: &[u8], payload: Bytes) -> Result<Self, DecodeError> {
        match kind {
            WELCOME => read_welcome(header).map(Self::Welcome),
            REJECT => read_reject(header),
            REPLY => read_reply(header, payload),
            RETURN => read_return(header, payload),
            ACCEPTED => read_number(header).map(|id| Self::Accepted { id }),
            HANDLED => read_handled(header),
            DELIVER => read_delivery(header, payload).map(Self::Deliver),
            PART => read_part(header, payload),
            PART_FAILED => read_part_failed(header, payload),
            END => read_number(header).map(|id| Self::End { id }),
            EVENT => read_event(header, payload).map(Self::Event),
            SERVED => read_number(header).map(|id| Self::Served { id, reference: payload }),
            PROGRESS => read_progress(header),
            SETTLED => read_settled(header),
            FETCHED => read_fetched(header),
            CANCEL => read_number(header).map(|id| Self::Cancel { id }),
            PING => read_number(header).map(|token| Self::Ping { token }),
            PONG => read_number(header).map(|token| Self::Pong { token }),
            BYE => read_optional_status(header).map(|status| Self::Bye { status }),
            _ => return Err(DecodeError::UnknownType(kind)),
        }
        .map_err(|BadField(field)| DecodeError::Header { kind, field })
    }

    fn is_secret(_kind: u8) -> bool {
        false
    }
}
