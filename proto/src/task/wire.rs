//! The forms of the task exchange on the wire: a header, and a body that nobody here looks into.
//!
//! ```text
//!  0                4                    4 + n
//!  ┌────────────────┬────────────────────┬──────────┐
//!  │ n, u32 big end.│ msgpack array, n B │ body     │
//!  └────────────────┴────────────────────┴──────────┘
//! ```

use std::{collections::BTreeMap, fmt};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, SeqAccess},
};

use super::Worker;

/// Form of the exchange.
pub const VERSION: u16 = 1;
/// Bytes in the longest header.
pub const HEADER_MAX: usize = 64 << 10;
/// Metrics that one result may bring.
pub const METRICS_MAX: usize = 256;
/// Content type of every message of the exchange.
pub const CONTENT_TYPE: &str = "application/vnd.cellbus.task";

/// What is no message of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadMessage {
    /// It ends before its header does.
    #[error("the message ends within its header")]
    Short,
    /// Its header is longer than [`HEADER_MAX`].
    #[error("a header of more than {HEADER_MAX} bytes")]
    Long,
    /// Its header is not of the form that is expected here, or of another version.
    #[error("the header is not that of a {0}")]
    Form(&'static str),
}

/// Asks for something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Who asks.
    pub worker: Worker,
    /// Milliseconds that the answer may wait for something to do.
    pub wait_ms: u32,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Nothing yet: ask again.
    Nothing,
    /// A task; its data are the body.
    Task(Task),
    /// Nothing any more: the work is over.
    Over,
}

/// A task, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its number.
    pub id: u64,
    /// Which time it is given to this site, from 1.
    pub attempt: u32,
    /// What to do, in the words of the application; `train` for example.
    pub name: String,
    /// The round it belongs to, from 0.
    pub round: Option<u32>,
    /// Rounds in all.
    pub rounds: Option<u32>,
    /// Media type of the body.
    pub content_type: Option<String>,
}

/// Brings a result, which is the body.
#[derive(Clone, Debug, PartialEq)]
pub struct Submit {
    /// Who brings it.
    pub worker: Worker,
    /// Of which task.
    pub task: u64,
    /// Of which attempt at it.
    pub attempt: u32,
    /// How much it counts beside the results of others.
    pub weight: Option<f64>,
    /// Figures about it.
    pub metrics: BTreeMap<String, f64>,
    /// Media type of the body.
    pub content_type: Option<String>,
}

/// What became of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Accepted,
    /// It was accepted before, and counts once.
    Before,
    /// The task is over without it.
    Late,
    /// Another attempt of this site has taken over, or none of it was ever given this task.
    Stale,
    /// It was looked at and does not count, for the reason given.
    Rejected(String),
}

/// Says how far the work on a task is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Who says so.
    pub worker: Worker,
    /// Which task.
    pub task: u64,
    /// Which attempt at it.
    pub attempt: u32,
    /// Share that is done, 0 to 1.
    pub done: f64,
    /// For people.
    pub text: Option<String>,
}

/// The bytes of a message.
///
/// # Panics
/// Never: headers are plain data.
#[must_use]
pub fn encode(header: &impl Serialize, body: &[u8]) -> Bytes {
    let header = rmp_serde::to_vec(header).expect("headers are plain data");
    let len = u32::try_from(header.len()).expect("a header is short");
    let mut out = BytesMut::with_capacity(4 + header.len() + body.len());
    out.put_u32(len);
    out.put_slice(&header);
    out.put_slice(body);
    out.freeze()
}

/// The header and the body of a message. The body shares the memory of `message`.
///
/// # Errors
/// [`BadMessage`]; nothing has been kept that its length announced.
pub fn decode<T: Header>(message: &Bytes) -> Result<(T, Bytes), BadMessage> {
    let (len, rest) = message.split_first_chunk::<4>().ok_or(BadMessage::Short)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| BadMessage::Long)?;
    if len > HEADER_MAX {
        return Err(BadMessage::Long);
    }
    let mut header = rest.get(..len).ok_or(BadMessage::Short)?;
    let mut deserializer = rmp_serde::Deserializer::new(&mut header);
    deserializer.set_max_depth(4);
    let value = T::deserialize(&mut deserializer).map_err(|_| BadMessage::Form(T::NAME))?;
    if !header.is_empty() || !value.is_sound() {
        return Err(BadMessage::Form(T::NAME));
    }
    Ok((value, message.slice(4 + len..)))
}

/// A header of the exchange.
pub trait Header: Serialize + DeserializeOwned {
    /// What it is called in errors.
    const NAME: &'static str;

    /// Whether its values are in range.
    fn is_sound(&self) -> bool {
        true
    }
}

impl Header for Fetch {
    const NAME: &'static str = "fetch";
}

impl Header for Given {
    const NAME: &'static str = "task";
}

impl Header for Verdict {
    const NAME: &'static str = "verdict";
}

impl Header for Submit {
    const NAME: &'static str = "result";

    fn is_sound(&self) -> bool {
        self.metrics.len() <= METRICS_MAX
    }
}

impl Header for Progress {
    const NAME: &'static str = "progress";

    fn is_sound(&self) -> bool {
        (0.0..=1.0).contains(&self.done)
    }
}

/// Arrays whose second field says how they go on.
struct Fields<A>(A);

impl<'de, A: SeqAccess<'de>> Fields<A> {
    fn begin(mut seq: A) -> Result<Self, A::Error> {
        let version: u16 = seq.next_element()?.ok_or_else(|| too_few(0))?;
        if version == VERSION { Ok(Self(seq)) } else { Err(de::Error::custom("another version")) }
    }

    fn next<T: Deserialize<'de>>(&mut self) -> Result<T, A::Error> {
        self.0.next_element()?.ok_or_else(|| too_few(1))
    }

    fn end<T>(mut self, value: T) -> Result<T, A::Error> {
        match self.0.next_element::<de::IgnoredAny>()? {
            None => Ok(value),
            Some(_) => Err(de::Error::custom("too many fields")),
        }
    }
}

fn too_few<E: de::Error>(count: usize) -> E {
    E::invalid_length(count, &"more fields")
}

/// Reads a header from an array with `$fields` as [`Fields`].
macro_rules! read_array {
    ($header:ty, |$fields:ident| $read:expr) => {
        impl<'de> Deserialize<'de> for $header {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl<'de> de::Visitor<'de> for Visitor {
                    type Value = $header;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(<$header as Header>::NAME)
                    }

                    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<$header, A::Error> {
                        let mut $fields = Fields::begin(seq)?;
                        let value = $read;
                        $fields.end(value)
                    }
                }

                deserializer.deserialize_seq(Visitor)
            }
        }
    };
}

read_array!(Fetch, |fields| Fetch { worker: fields.next()?, wait_ms: fields.next()? });

read_array!(Given, |fields| match fields.next::<u8>()? {
    0 => Given::Nothing,
    1 => Given::Task(Task {
        id: fields.next()?,
        attempt: fields.next()?,
        name: fields.next()?,
        round: fields.next()?,
        rounds: fields.next()?,
        content_type: fields.next()?,
    }),
    2 => Given::Over,
    _ => return Err(de::Error::custom("no such kind")),
});

read_array!(Submit, |fields| Submit {
    worker: fields.next()?,
    task: fields.next()?,
    attempt: fields.next()?,
    weight: fields.next()?,
    metrics: fields.next()?,
    content_type: fields.next()?,
});

read_array!(Verdict, |fields| match fields.next::<u8>()? {
    0 => Verdict::Accepted,
    1 => Verdict::Before,
    2 => Verdict::Late,
    3 => Verdict::Stale,
    4 => Verdict::Rejected(fields.next()?),
    _ => return Err(de::Error::custom("no such verdict")),
});

read_array!(Progress, |fields| Progress {
    worker: fields.next()?,
    task: fields.next()?,
    attempt: fields.next()?,
    done: fields.next()?,
    text: fields.next()?,
});

impl Serialize for Fetch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (VERSION, self.worker, self.wait_ms).serialize(serializer)
    }
}

impl Serialize for Given {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => (VERSION, 0).serialize(serializer),
            Self::Task(task) => {
                let Task { id, attempt, name, round, rounds, content_type } = task;
                (VERSION, 1, id, attempt, name, round, rounds, content_type).serialize(serializer)
            }
            Self::Over => (VERSION, 2).serialize(serializer),
        }
    }
}

impl Serialize for Submit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { worker, task, attempt, weight, metrics, content_type } = self;
        (VERSION, worker, task, attempt, weight, metrics, content_type).serialize(serializer)
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let code = match self {
            Self::Accepted => 0,
            Self::Before => 1,
            Self::Late => 2,
            Self::Stale => 3,
            Self::Rejected(why) => return (VERSION, 4, why).serialize(serializer),
        };
        (VERSION, code).serialize(serializer)
    }
}

impl Serialize for Progress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { worker, task, attempt, done, text } = self;
        (VERSION, worker, task, attempt, done, text).serialize(serializer)
    }
}
