//! What a cell says to its job code.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{
    Limits,
    codec::{DecodeError, Frame, PayloadRule},
    fields::{BadField, Reader, Writer},
    to_cell::{content_type, read_number, read_optional_status, status},
};
use crate::{
    identity::CellKind,
    name::{ChannelTopic, Fqcn, Segment},
    status::Status,
};

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
        /// Media type of the payload.
        content_type: Option<Arc<str>>,
        /// The answer.
        payload: Bytes,
    },
    /// Ends a REQUEST or PUBLISH: there is no answer, or it was not taken.
    Return {
        /// Of the REQUEST or PUBLISH.
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

/// The answer to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both sides speak from here on.
    pub version: u16,
    /// The cell that job code speaks for.
    pub cell: Fqcn,
    /// The job it belongs to.
    pub job: Option<Segment>,
    /// What this connection may have outstanding.
    pub limits: Limits,
}

/// A message for a handler of job code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Counts up from one; nothing to do with the ids of job code.
    pub id: u64,
    /// Who sent it, as verified by the cell.
    pub origin: Origin,
    /// What it was addressed to.
    pub target: ChannelTopic,
    /// Milliseconds left to answer; zero where nobody waits.
    pub budget_ms: u32,
    /// Whether somebody waits for the answer.
    pub expects_reply: bool,
    /// Media type of the payload.
    pub content_type: Option<Arc<str>>,
    /// The message.
    pub payload: Bytes,
}

/// Who sent a message, as verified by the cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The cell.
    pub name: Fqcn,
    /// What its certificate says it is.
    pub kind: CellKind,
    /// The organisation in its certificate.
    pub org: Segment,
    /// The job it belongs to, for a job cell.
    pub job: Option<Segment>,
}

/// What became of a HANDLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The handler is registered for as long as the connection lasts.
    Registered = 0,
    /// Something is registered for exactly this already.
    Taken = 1,
    /// The channel belongs to the system.
    Reserved = 2,
    /// The cell is stopping.
    Closed = 3,
    /// The connection has as many handlers as it may.
    TooMany = 4,
    /// Channel or topic are not names, or there is a topic and no channel.
    BadSelector = 5,
}

impl Outcome {
    /// Every outcome, in order of its number.
    pub const ALL: [Self; 6] = [
        Self::Registered,
        Self::Taken,
        Self::Reserved,
        Self::Closed,
        Self::TooMany,
        Self::BadSelector,
    ];
}

const WELCOME: u8 = 0x81;
const REJECT: u8 = 0x82;
const REPLY: u8 = 0x83;
const RETURN: u8 = 0x84;
const ACCEPTED: u8 = 0x85;
const HANDLED: u8 = 0x86;
const DELIVER: u8 = 0x87;
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
            Self::Cancel { .. } => "CANCEL",
            Self::Ping { .. } => "PING",
            Self::Pong { .. } => "PONG",
            Self::Bye { .. } => "BYE",
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Reply { payload, .. }
            | Self::Return { detail: payload, .. }
            | Self::Deliver(Delivery { payload, .. }) => payload.clone(),
            Self::Welcome(_)
            | Self::Reject { .. }
            | Self::Accepted { .. }
            | Self::Handled { .. }
            | Self::Cancel { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Bye { .. } => Bytes::new(),
        }
    }

    fn write_header(&self, out: &mut BytesMut) {
        match self {
            Self::Welcome(welcome) => write_welcome(welcome, out),
            Self::Reject { status } => Writer::new(out, 1).uint(*status as u8),
            Self::Reply { id, content_type, payload: _ } => {
                Writer::new(out, 2).uint(*id).optional_text(content_type.as_deref())
            }
            Self::Return { id, status, by, detail: _ } => {
                Writer::new(out, 3).uint(*id).uint(*status as u8).text(by.as_str())
            }
            Self::Handled { id, outcome } => Writer::new(out, 2).uint(*id).uint(*outcome as u8),
            Self::Deliver(delivery) => write_delivery(delivery, out),
            Self::Accepted { id: value }
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
            REPLY | DELIVER => Some(PayloadRule::Message),
            RETURN => Some(PayloadRule::Detail),
            WELCOME | REJECT | ACCEPTED | HANDLED | CANCEL | PING | PONG | BYE => {
                Some(PayloadRule::Nothing)
            }
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

fn write_welcome<'a>(welcome: &Welcome, out: &'a mut BytesMut) -> Writer<'a> {
    let Welcome { version, cell, job, limits } = welcome;
    Writer::new(out, 4)
        .uint(*version)
        .text(cell.as_str())
        .optional_text(job.as_ref().map(Segment::as_str))
        .array(7)
        .uint(limits.payload_max)
        .uint(limits.requests_max)
        .uint(limits.bytes_max)
        .uint(limits.deliveries_max)
        .uint(limits.deliveries_bytes_max)
        .uint(limits.handlers_max)
        .uint(limits.budget_ms)
}

fn read_welcome(header: &[u8]) -> Result<Welcome, BadField> {
    let mut fields = Reader::new(header, 4)?;
    let version = fields.uint("version")?;
    let cell = name(&mut fields, "cell")?;
    let job = optional_segment(&mut fields, "job")?;
    fields.array(7, "limits")?;
    let limits = Limits {
        payload_max: fields.uint("payload_max")?,
        requests_max: fields.uint("requests_max")?,
        bytes_max: fields.uint("bytes_max")?,
        deliveries_max: fields.uint("deliveries_max")?,
        deliveries_bytes_max: fields.uint("deliveries_bytes_max")?,
        handlers_max: fields.uint("handlers_max")?,
        budget_ms: fields.uint("budget_ms")?,
    };
    fields.finish()?;
    limits.check().map_err(|_| BadField("limits"))?;
    Ok(Welcome { version, cell, job, limits })
}

fn write_delivery<'a>(delivery: &Delivery, out: &'a mut BytesMut) -> Writer<'a> {
    let Delivery { id, origin, target, budget_ms, expects_reply, content_type, payload: _ } =
        delivery;
    Writer::new(out, 7)
        .uint(*id)
        .array(4)
        .text(origin.name.as_str())
        .text(origin.kind.as_str())
        .text(origin.org.as_str())
        .optional_text(origin.job.as_ref().map(Segment::as_str))
        .text(target.channel().as_str())
        .text(target.topic().as_str())
        .uint(*budget_ms)
        .bool(*expects_reply)
        .optional_text(content_type.as_deref())
}

fn read_delivery(header: &[u8], payload: Bytes) -> Result<Delivery, BadField> {
    let mut fields = Reader::new(header, 7)?;
    let id = fields.uint("id")?;
    fields.array(4, "origin")?;
    let origin = Origin {
        name: name(&mut fields, "origin name")?,
        kind: fields.text("origin kind")?.parse().map_err(|_| BadField("origin kind"))?,
        org: fields.text("origin org")?.parse().map_err(|_| BadField("origin org"))?,
        job: optional_segment(&mut fields, "origin job")?,
    };
    let channel = fields.text("channel")?;
    let target = ChannelTopic::parse(channel, fields.text("topic")?);
    let target = target.map_err(|_| BadField("channel or topic"))?;
    let budget_ms = fields.uint("budget_ms")?;
    let expects_reply = fields.bool("expects_reply")?;
    let content_type = content_type(&mut fields)?;
    fields.finish()?;
    Ok(Delivery { id, origin, target, budget_ms, expects_reply, content_type, payload })
}

fn read_reject(header: &[u8]) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 1)?;
    let status = status(&mut fields)?;
    fields.finish()?;
    Ok(ToJob::Reject { status })
}

fn read_reply(header: &[u8], payload: Bytes) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 2)?;
    let id = fields.uint("id")?;
    let content_type = content_type(&mut fields)?;
    fields.finish()?;
    Ok(ToJob::Reply { id, content_type, payload })
}

fn read_return(header: &[u8], detail: Bytes) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 3)?;
    let id = fields.uint("id")?;
    let status = status(&mut fields)?;
    let by = name(&mut fields, "by")?;
    fields.finish()?;
    Ok(ToJob::Return { id, status, by, detail })
}

fn read_handled(header: &[u8]) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 2)?;
    let id = fields.uint("id")?;
    let number: u8 = fields.uint("outcome")?;
    let outcome = Outcome::ALL.into_iter().find(|outcome| *outcome as u8 == number);
    fields.finish()?;
    Ok(ToJob::Handled { id, outcome: outcome.ok_or(BadField("outcome"))? })
}

fn name(fields: &mut Reader<'_>, field: &'static str) -> Result<Fqcn, BadField> {
    fields.text(field)?.parse().map_err(|_| BadField(field))
}

fn optional_segment(
    fields: &mut Reader<'_>,
    field: &'static str,
) -> Result<Option<Segment>, BadField> {
    fields.optional(|fields| fields.text(field)?.parse().map_err(|_| BadField(field)))
}
