//! What job code says to its cell.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{
    Secret, VERSION_MAX, VERSION_MIN,
    codec::{DecodeError, Frame, PayloadRule},
    fields::{BadField, Reader, Writer},
    is_content_type,
};
use crate::status::Status;

/// A frame from job code. Names are still text: whether they are names is
/// [`CellSide`](super::CellSide)'s to say, so that a misspelt name costs one message and not the
/// connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToCell {
    /// The first frame, and only the first.
    Hello(Hello),
    /// A message that wants a reply. Ends with REPLY or RETURN.
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
        /// Media type of the payload.
        content_type: Option<Arc<str>>,
        /// The message.
        payload: Bytes,
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
        /// Media type of the payload.
        content_type: Option<Arc<str>>,
        /// The message.
        payload: Bytes,
    },
    /// Asks for the messages of a channel and topic. Ends with HANDLED.
    Handle {
        /// Higher than every id before it.
        id: u64,
        /// The channel; `None` for every one.
        channel: Option<String>,
        /// The topic; `None` for every one of the channel.
        topic: Option<String>,
    },
    /// Ends a DELIVER: the handler's answer.
    DeliverReply {
        /// Of the DELIVER.
        id: u64,
        /// Media type of the payload.
        content_type: Option<Arc<str>>,
        /// The answer.
        payload: Bytes,
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
    /// Asks to end a REQUEST or PUBLISH now. The answer still comes.
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
            Self::Cancel { .. } => "CANCEL",
            Self::Ping { .. } => "PING",
            Self::Pong { .. } => "PONG",
            Self::Bye { .. } => "BYE",
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::Request { payload, .. }
            | Self::Publish { payload, .. }
            | Self::DeliverReply { payload, .. }
            | Self::DeliverFail { detail: payload, .. } => payload.clone(),
            Self::Hello(_)
            | Self::Handle { .. }
            | Self::Cancel { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Bye { .. } => Bytes::new(),
        }
    }

    fn write_header(&self, out: &mut BytesMut) {
        match self {
            Self::Hello(Hello { version_min, version_max, secret }) => {
                Writer::new(out, 3).uint(*version_min).uint(*version_max).bin(secret.expose())
            }
            Self::Request { id, to, channel, topic, budget_ms, content_type, payload: _ } => {
                Writer::new(out, 6)
                    .uint(*id)
                    .text(to)
                    .text(channel)
                    .text(topic)
                    .optional_uint(*budget_ms)
                    .optional_text(content_type.as_deref())
            }
            Self::Publish { id, to, channel, topic, content_type, payload: _ } => {
                Writer::new(out, 5)
                    .uint(*id)
                    .text(to)
                    .text(channel)
                    .text(topic)
                    .optional_text(content_type.as_deref())
            }
            Self::Handle { id, channel, topic } => Writer::new(out, 3)
                .uint(*id)
                .optional_text(channel.as_deref())
                .optional_text(topic.as_deref()),
            Self::DeliverReply { id, content_type, payload: _ } => {
                Writer::new(out, 2).uint(*id).optional_text(content_type.as_deref())
            }
            Self::DeliverFail { id, status, detail: _ } => {
                Writer::new(out, 2).uint(*id).uint(*status as u8)
            }
            Self::Cancel { id: value }
            | Self::Ping { token: value }
            | Self::Pong { token: value } => Writer::new(out, 1).uint(*value),
            Self::Bye { status } => {
                Writer::new(out, 1).optional_uint(status.map(|status| status as u8))
            }
        };
    }

    fn payload_rule(kind: u8) -> Option<PayloadRule> {
        match kind {
            REQUEST | PUBLISH | DELIVER_REPLY => Some(PayloadRule::Message),
            DELIVER_FAIL => Some(PayloadRule::Detail),
            HELLO | HANDLE | CANCEL | PING | PONG | BYE => Some(PayloadRule::Nothing),
            _ => None,
        }
    }

    fn read(kind: u8, header: &[u8], payload: Bytes) -> Result<Self, DecodeError> {
        match kind {
            HELLO => read_hello(header),
            REQUEST => read_request(header, payload),
            PUBLISH => read_publish(header, payload),
            HANDLE => read_handle(header),
            DELIVER_REPLY => read_deliver_reply(header, payload),
            DELIVER_FAIL => read_deliver_fail(header, payload),
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

fn read_hello(header: &[u8]) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 3)?;
    let version_min = fields.uint("version_min")?;
    let version_max = fields.uint("version_max")?;
    let mut bytes: [u8; Secret::LEN] =
        fields.bin("secret")?.try_into().map_err(|_| BadField("secret"))?;
    fields.finish()?;
    Ok(ToCell::Hello(Hello { version_min, version_max, secret: Secret::take(&mut bytes) }))
}

fn read_request(header: &[u8], payload: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 6)?;
    let request = ToCell::Request {
        id: fields.uint("id")?,
        to: fields.text("to")?.to_owned(),
        channel: fields.text("channel")?.to_owned(),
        topic: fields.text("topic")?.to_owned(),
        budget_ms: fields.optional(|fields| fields.uint("budget_ms"))?,
        content_type: content_type(&mut fields)?,
        payload,
    };
    fields.finish()?;
    Ok(request)
}

fn read_publish(header: &[u8], payload: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 5)?;
    let publish = ToCell::Publish {
        id: fields.uint("id")?,
        to: fields.text("to")?.to_owned(),
        channel: fields.text("channel")?.to_owned(),
        topic: fields.text("topic")?.to_owned(),
        content_type: content_type(&mut fields)?,
        payload,
    };
    fields.finish()?;
    Ok(publish)
}

fn read_handle(header: &[u8]) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 3)?;
    let handle = ToCell::Handle {
        id: fields.uint("id")?,
        channel: fields.optional(|fields| fields.text("channel"))?.map(str::to_owned),
        topic: fields.optional(|fields| fields.text("topic"))?.map(str::to_owned),
    };
    fields.finish()?;
    Ok(handle)
}

fn read_deliver_reply(header: &[u8], payload: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 2)?;
    let id = fields.uint("id")?;
    let content_type = content_type(&mut fields)?;
    fields.finish()?;
    Ok(ToCell::DeliverReply { id, content_type, payload })
}

fn read_deliver_fail(header: &[u8], detail: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 2)?;
    let id = fields.uint("id")?;
    let status = status(&mut fields)?;
    fields.finish()?;
    Ok(ToCell::DeliverFail { id, status, detail })
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

pub(super) fn content_type(fields: &mut Reader<'_>) -> Result<Option<Arc<str>>, BadField> {
    let text = fields.optional(|fields| fields.text("content_type"))?;
    match text {
        Some(text) if !is_content_type(text) => Err(BadField("content_type")),
        Some(text) => Ok(Some(text.into())),
        None => Ok(None),
    }
}
