//! What job code says to its cell.

use std::{num::NonZeroU32, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    Secret, VERSION_MAX, VERSION_MIN,
    body::{Body, MessageOptions, write_names, write_options},
    codec::{Attachment, DecodeError, Frame, PayloadRule},
    fields::{BadField, Reader, Writer},
};
use crate::status::Status;

mod headers;

use self::headers::{
    read_answer, read_deliver_fail, read_fetch, read_handle, read_hello, read_multicast,
    read_publish, read_request, read_serve, write_serve,
};

/// A frame from job code. Names are still text: whether they are names is
/// [`CellSide`](super::CellSide)'s to say, so that a misspelt name costs one message and not the
/// connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToCell {
    /// The first frame, and only the first.
    Hello(Hello),
    /// A message that wants a reply. Ends with REPLY or RETURN; where it takes several, with END.
    Request {
        /// Higher than every id before it.
        id: u64,
        /// Name of the destination cell.
        to: String,
        /// First level of the address there.
        channel: String,
        /// Second level of the address there.
        topic: String,
        /// Milliseconds until job code gives up; `None` takes the connection's default.
        budget_ms: Option<u32>,
        /// The message.
        body: Body,
        /// What else job code asks for.
        options: Option<Box<MessageOptions>>,
    },
    /// A message that wants no reply. Ends with ACCEPTED or RETURN.
    Publish {
        /// Higher than every id before it.
        id: u64,
        /// Name of the destination cell.
        to: String,
        /// First level of the address there.
        channel: String,
        /// Second level of the address there.
        topic: String,
        /// The message.
        body: Body,
        /// What else job code asks for.
        options: Option<Box<MessageOptions>>,
    },
    /// Asks for the messages of a channel and topic. Ends with HANDLED.
    Handle {
        /// Higher than every id before it.
        id: u64,
        /// The channel; `None` for every one.
        channel: Option<String>,
        /// The topic; `None` for every one of the channel.
        topic: Option<String>,
        /// Messages of one cell and channel that are delivered at once; `None` for one.
        concurrency: Option<NonZeroU32>,
    },
    /// Ends a DELIVER: the handler's answer.
    DeliverReply {
        /// Of the DELIVER.
        id: u64,
        /// The answer.
        body: Body,
    },
    /// Ends a DELIVER: there is no answer.
    DeliverFail {
        /// Of the DELIVER.
        id: u64,
        /// Why.
        status: Status,
        /// A text for the requester.
        detail: Bytes,
    },
    /// An answer to a DELIVER that more follow.
    DeliverPart {
        /// Of the DELIVER.
        id: u64,
        /// The answer.
        body: Body,
    },
    /// One message to many cells. Ends with END, ACCEPTED or RETURN.
    Multicast {
        /// Higher than every id before it.
        id: u64,
        /// Names of the cells; `None` for all that are registered below this one.
        to: Option<Vec<String>>,
        /// First level of the address there.
        channel: String,
        /// Second level of the address there.
        topic: String,
        /// Whether it wants no replies.
        publish: bool,
        /// Milliseconds until job code gives up; `None` takes the connection's default.
        budget_ms: Option<u32>,
        /// The message.
        body: Body,
        /// What else job code asks for.
        options: Option<Box<MessageOptions>>,
    },
    /// Asks for what happens around the cell. Ends with END.
    Events {
        /// Higher than every id before it.
        id: u64,
    },
    /// Serves a file that is passed along. Ends with END or RETURN.
    Serve(Serve),
    /// Asks for what a reference stands for. Ends with FETCHED or RETURN.
    Fetch {
        /// Higher than every id before it.
        id: u64,
        /// Bytes at most; `None` for what the connection takes.
        size_max: Option<u64>,
        /// Seconds without progress at most; `None` for the default.
        patience_s: Option<u32>,
        /// The reference.
        reference: Bytes,
    },
    /// Asks to end what was asked now. The end still comes.
    Cancel {
        /// Of what is to end.
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

/// A file that is served to other cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// Higher than every id before it.
    pub id: u64,
    /// Names of the receivers; `None` for the cells of this job.
    pub to: Option<Vec<String>>,
    /// First level of the address whose rules hold for it.
    pub channel: String,
    /// Second level of the address whose rules hold for it.
    pub topic: String,
    /// Seconds for which the reference may be used; `None` for a day.
    pub lifetime_s: Option<u32>,
    /// Media type of the bytes.
    pub content_type: Option<Arc<str>>,
    /// Headers of the application.
    pub headers: Bytes,
    /// Bytes in the file.
    pub size: u64,
}

/// Which versions job code speaks, and its proof of being the one that was launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version.
    pub version_min: u16,
    /// Highest version.
    pub version_max: u16,
    /// The launch secret.
    pub secret: Secret,
}

impl Hello {
    /// The HELLO of a peer that speaks what this crate speaks.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self { version_min: VERSION_MIN, version_max: VERSION_MAX, secret }
    }

    /// The highest version that both sides speak.
    #[must_use]
    pub fn common_version(&self) -> Option<u16> {
        let version = self.version_max.min(VERSION_MAX);
        (version >= self.version_min.max(VERSION_MIN)).then_some(version)
    }

    /// Whether this crate speaks `version`.
    #[must_use]
    pub fn speaks(version: u16) -> bool {
        (VERSION_MIN..=VERSION_MAX).contains(&version)
    }
}

const HELLO: u8 = 0x01;
const REQUEST: u8 = 0x02;
const PUBLISH: u8 = 0x03;
const HANDLE: u8 = 0x04;
const DELIVER_REPLY: u8 = 0x05;
const DELIVER_FAIL: u8 = 0x06;
const DELIVER_PART: u8 = 0x07;
const MULTICAST: u8 = 0x08;
const EVENTS: u8 = 0x09;
const SERVE: u8 = 0x0a;
const FETCH: u8 = 0x0b;
const CANCEL: u8 = 0x10;
const PING: u8 = 0x11;
const PONG: u8 = 0x12;
const BYE: u8 = 0x1f;

impl Frame for ToCell {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => HELLO,
            Self::Request { .. } => REQUEST,
            Self::Publish { .. } => PUBLISH,
            Self::Handle { .. } => HANDLE,
            Self::DeliverReply { .. } => DELIVER_REPLY,
            Self::DeliverFail { .. } => DELIVER_FAIL,
            Self::DeliverPart { .. } => DELIVER_PART,
            Self::Multicast { .. } => MULTICAST,
            Self::Events { .. } => EVENTS,
            Self::Serve(_) => SERVE,
            Self::Fetch { .. } => FETCH,
            Self::Cancel { .. } => CANCEL,
            Self::Ping { .. } => PING,
            Self::Pong { .. } => PONG,
            Self::Bye { .. } => BYE,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "HELLO",
            Self::Request { .. } => "REQUEST",
            Self::Publish { .. } => "PUBLISH",
            Self::Handle { .. } => "HANDLE",
            Self::DeliverReply { .. } => "DELIVER_REPLY",
            Self::DeliverFail { .. } => "DELIVER_FAIL",
            Self::DeliverPart { .. } => "DELIVER_PART",
            Self::Multicast { .. } => "MULTICAST",
            Self::Events { .. } => "EVENTS",
            Self::Serve(_) => "SERVE",
            Self::Fetch { .. } => "FETCH",
            Self::Cancel { .. } => "CANCEL",
            Self::Ping { .. } => "PING",
            Self::Pong { .. } => "PONG",
            Self::Bye { .. } => "BYE",
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Request { body, .. }
            | Self::Publish { body, .. }
            | Self::Multicast { body, .. }
            | Self::DeliverReply { body, .. }
            | Self::DeliverPart { body, .. } => body.payload.clone(),
            Self::DeliverFail { detail: payload, .. } | Self::Fetch { reference: payload, .. } => {
                payload.clone()
            }
            Self::Hello(_)
            | Self::Handle { .. }
            | Self::Events { .. }
            | Self::Serve(_)
            | Self::Cancel { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Bye { .. } => Bytes::new(),
        }
    }

    fn attachment(&self) -> Option<Attachment> {
        match self {
            Self::Request { body, .. }
            | Self::Publish { body, .. }
            | Self::Multicast { body, .. }
            | Self::DeliverReply { body, .. }
            | Self::DeliverPart { body, .. } => body.attached.map(Attachment::Sealed),
            Self::Serve(serve) => Some(Attachment::File(serve.size)),
            Self::Hello(_)
            | Self::Handle { .. }
            | Self::DeliverFail { .. }
            | Self::Events { .. }
            | Self::Fetch { .. }
            | Self::Cancel { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Bye { .. } => None,
        }
    }

    fn write_header(&self, out: &mut BytesMut) {
        match self {
            Self::Hello(Hello { version_min, version_max, secret }) => {
                Writer::new(out, 3).uint(*version_min).uint(*version_max).bin(secret.expose())
            }
            Self::Request { id, to, channel, topic, budget_ms, body, options } => {
                let out = Writer::new(out, 8).uint(*id).text(to).text(channel).text(topic);
                write_options(options.as_deref(), body.write(out.optional_uint(*budget_ms)))
            }
            Self::Publish { id, to, channel, topic, body, options } => {
                let out = Writer::new(out, 7).uint(*id).text(to).text(channel).text(topic);
                write_options(options.as_deref(), body.write(out))
            }
            Self::Handle { id, channel, topic, concurrency } => Writer::new(out, 4)
                .uint(*id)
                .optional_text(channel.as_deref())
                .optional_text(topic.as_deref())
                .optional_uint(concurrency.map(NonZeroU32::get)),
            Self::DeliverReply { id, body } | Self::DeliverPart { id, body } => {
                body.write(Writer::new(out, 3).uint(*id))
            }
            Self::Multicast { id, to, channel, topic, publish, budget_ms, body, options } => {
                let out = write_names(to.as_deref(), Writer::new(out, 9).uint(*id));
                let out = out.text(channel).text(topic).bool(*publish).optional_uint(*budget_ms);
                write_options(options.as_deref(), body.write(out))
            }
            Self::Serve(serve) => write_serve(serve, out),
            Self::Fetch { id, size_max, patience_s, reference: _ } => {
                Writer::new(out, 3).uint(*id).optional_uint(*size_max).optional_uint(*patience_s)
            }
            Self::DeliverFail { id, status, detail: _ } => {
                Writer::new(out, 2).uint(*id).uint(*status as u8)
            }
            Self::Events { id: value }
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
            REQUEST | PUBLISH | DELIVER_REPLY | DELIVER_PART | MULTICAST | FETCH => {
                Some(PayloadRule::Message)
            }
            DELIVER_FAIL => Some(PayloadRule::Detail),
            HELLO | HANDLE | EVENTS | SERVE | CANCEL | PING | PONG | BYE => {
                Some(PayloadRule::Nothing)
            }
            _ => None,
        }
    }

    fn read(kind: u8, header: &[u8], payload: Bytes) -> Result<Self, DecodeError> {
        match kind {
            HELLO => read_hello(header),
            REQUEST => read_request(header, payload),
            PUBLISH => read_publish(header, payload),
            HANDLE => read_handle(header),
            DELIVER_REPLY => {
                read_answer(header, payload, |id, body| Self::DeliverReply { id, body })
            }
            DELIVER_FAIL => read_deliver_fail(header, payload),
            DELIVER_PART => read_answer(header, payload, |id, body| Self::DeliverPart { id, body }),
            MULTICAST => read_multicast(header, payload),
            EVENTS => read_number(header).map(|id| Self::Events { id }),
            SERVE => read_serve(header).map(Self::Serve),
            FETCH => read_fetch(header, payload),
            CANCEL => read_number(header).map(|id| Self::Cancel { id }),
            PING => read_number(header).map(|token| Self::Ping { token }),
            PONG => read_number(header).map(|token| Self::Pong { token }),
            BYE => read_optional_status(header).map(|status| Self::Bye { status }),
            _ => return Err(DecodeError::UnknownType(kind)),
        }
        .map_err(|BadField(field)| DecodeError::Header { kind, field })
    }

    fn is_secret(kind: u8) -> bool {
        kind == HELLO
    }
}

pub(super) fn read_number(header: &[u8]) -> Result<u64, BadField> {
    let mut fields = Reader::new(header, 1)?;
    let number = fields.uint("number")?;
    fields.finish()?;
    Ok(number)
}

pub(super) fn read_optional_status(header: &[u8]) -> Result<Option<Status>, BadField> {
    let mut fields = Reader::new(header, 1)?;
    let status = fields.optional(status)?;
    fields.finish()?;
    Ok(status)
}

pub(super) fn status(fields: &mut Reader<'_>) -> Result<Status, BadField> {
    Status::from_wire(fields.uint("status")?).ok_or(BadField("status"))
}
