//! What message frames have in common: where the payload is, and what the sender asks for.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    HEADERS_MAX, NAMES_BYTES_MAX, NAMES_MAX,
    fields::{BadField, Reader, Writer},
    is_content_type,
};
use crate::{envelope::TraceContext, exchange::RetryPolicy};

/// What a message carries: in the frame, or in a descriptor that is passed beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Media type of the payload.
    pub content_type: Option<Arc<str>>,
    /// Bytes in the descriptor that comes with the frame; `None` where the payload is in the frame.
    pub attached: Option<u64>,
    /// The payload; empty where it is attached.
    pub payload: Bytes,
}

/// What a sender may ask for beside the message itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageOptions {
    /// Yes or no.
    pub flags: MessageFlags,
    /// How a request is sent again while nothing is heard of it, in whole milliseconds.
    pub retry: Option<RetryPolicy>,
    /// The trace that the message belongs to.
    pub trace: Option<TraceContext>,
    /// Headers of the application; at most [`HEADERS_MAX`] bytes.
    pub headers: Bytes,
}

/// What a sender asks for with yes or no.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct MessageFlags(u8);

impl Body {
    /// A payload in the frame, of no media type.
    #[must_use]
    pub fn inline(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    /// Bytes of the payload, wherever it is.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.attached.unwrap_or(self.payload.len() as u64)
    }

    /// Whether there is no payload at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The fields `content_type` and `attached`.
    pub(super) fn write<'a>(&self, out: Writer<'a>) -> Writer<'a> {
        out.optional_text(self.content_type.as_deref()).optional_uint(self.attached)
    }

    pub(super) fn read(fields: &mut Reader<'_>, payload: Bytes) -> Result<Self, BadField> {
        let content_type = content_type(fields)?;
        let attached = fields.optional(|fields| fields.uint("attached"))?;
        if attached == Some(0) {
            return Err(BadField("attached"));
        }
        Ok(Self { content_type, attached, payload })
    }
}

impl MessageFlags {
    /// A publish may be dropped where there is too much to do.
    pub const OPTIONAL: Self = Self(1);
    /// Executing it twice does no harm.
    pub const IDEMPOTENT: Self = Self(2);
    /// The payload is encrypted to the destination, and the reply to the requester.
    pub const SEALED: Self = Self(4);
    /// A publish is accepted when the destination cell has accepted it.
    pub const RECEIPT: Self = Self(8);
    /// The bulk lane.
    pub const BULK: Self = Self(16);
    /// A request takes several replies.
    pub const MANY: Self = Self(32);
    /// The payload is a batch of small messages.
    pub const BATCH: Self = Self(64);

    /// The flags with these bits; `None` where one of them has no meaning.
    #[must_use]
    pub fn from_wire(bits: u8) -> Option<Self> {
        (bits < 128).then_some(Self(bits))
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

    /// Both sets of flags.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for MessageFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageFlags({:#09b})", self.0)
    }
}

pub(super) fn write_options<'a>(options: Option<&MessageOptions>, out: Writer<'a>) -> Writer<'a> {
    let Some(MessageOptions { flags, retry, trace, headers }) = options else { return out.nil() };
    let out = out.array(4).uint(flags.bits());
    let out = match retry {
        Some(RetryPolicy { first, max }) => out.array(2).uint(millis(*first)).uint(millis(*max)),
        None => out.nil(),
    };
    let out = match trace {
        Some(TraceContext(bytes)) => out.bin(bytes),
        None => out.nil(),
    };
    out.bin(headers)
}

pub(super) fn read_options(
    fields: &mut Reader<'_>,
) -> Result<Option<Box<MessageOptions>>, BadField> {
    fields.optional(|fields| {
        fields.array(4, "options")?;
        let flags = MessageFlags::from_wire(fields.uint("flags")?).ok_or(BadField("flags"))?;
        let retry = fields.optional(|fields| {
            fields.array(2, "retry")?;
            let first = Duration::from_millis(fields.uint::<u32>("retry")?.into());
            Ok(RetryPolicy {
                first,
                max: Duration::from_millis(fields.uint::<u32>("retry")?.into()),
            })
        })?;
        let trace = fields.optional(|fields| {
            let bytes = fields.bin("trace")?;
            bytes.try_into().map(TraceContext).map_err(|_| BadField("trace"))
        })?;
        let headers = headers(fields)?;
        Ok(Box::new(MessageOptions { flags, retry, trace, headers }))
    })
}

pub(super) fn headers(fields: &mut Reader<'_>) -> Result<Bytes, BadField> {
    let bytes = fields.bin("headers")?;
    if bytes.len() > HEADERS_MAX {
        return Err(BadField("headers"));
    }
    Ok(Bytes::copy_from_slice(bytes))
}

pub(super) fn content_type(fields: &mut Reader<'_>) -> Result<Option<Arc<str>>, BadField> {
    let text = fields.optional(|fields| fields.text("content_type"))?;
    match text {
        Some(text) if !is_content_type(text) => Err(BadField("content_type")),
        Some(text) => Ok(Some(text.into())),
        None => Ok(None),
    }
}

/// The names of many cells, or nil.
pub(super) fn write_names<'a>(names: Option<&[String]>, out: Writer<'a>) -> Writer<'a> {
    let Some(names) = names else { return out.nil() };
    // More than the limit is refused by its length, when the header is complete.
    let len = u32::try_from(names.len()).unwrap_or(u32::MAX);
    names.iter().fold(out.array(len), |out, name| out.text(name))
}

pub(super) fn read_names(fields: &mut Reader<'_>) -> Result<Option<Vec<String>>, BadField> {
    fields.optional(|fields| {
        let len = fields.array_len("to")?;
        if len > NAMES_MAX {
            return Err(BadField("to"));
        }
        // Not with the capacity that the peer announces: each name has to be there first.
        let (mut names, mut bytes) = (Vec::new(), 0);
        for _ in 0..len {
            let name = fields.text("to")?;
            bytes += name.len();
            if bytes > NAMES_BYTES_MAX {
                return Err(BadField("to"));
            }
            names.push(name.to_owned());
        }
        Ok(names)
    })
}

/// In whole milliseconds, as far as the field holds them.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
