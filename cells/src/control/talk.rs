//! Requests that go on: the cell tells one thing after the other, and may be answered, until one side ends it.

use cellbus_channels::Lane;
use cellbus_proto::{identity::CellKind, name::Fqcn};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Payload, RequestReply, TransferEvent, Verdict};
use crate::job::{JobReport, LogRow};

/// Things said or told that wait for the other side.
const WAITING_MAX: usize = 64;
/// The rarest sample of a tap: one message in so many.
pub const MAX_SAMPLE: u32 = 1_000_000;
/// The most messages that one person answers at a time.
pub const MAX_SERVED: u32 = 32;

/// What to show of the messages that pass a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapAsk {
    /// Which messages, as [`selector`](super::selector) reads it.
    pub of: String,
    /// One in so many, from 1 to [`MAX_SAMPLE`].
    pub sample: u32,
    /// Payloads too; only where the topology allows that.
    pub payload: bool,
}

/// What to answer on behalf of a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeAsk {
    /// Which messages, as [`selector`](super::selector) reads it.
    pub of: String,
    /// How many at a time, from 1 to [`MAX_SERVED`].
    pub concurrency: u32,
}

/// Something that a cell tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A tap is open, or messages are answered from now on.
    Ready {
        /// The cell.
        cell: Fqcn,
        /// Which messages.
        of: String,
    },
    /// A message has passed, or has not.
    Tapped(TapRow),
    /// A message is to be answered.
    Delivery(DeliveryRow),
    /// A reply that more follow, or the last.
    Reply(RequestReply),
    /// Something happens with a transfer.
    Transfer(TransferEvent),
    /// How far a job is.
    Job(JobReport),
    /// A line that a job has printed.
    JobLog(LogRow),
}

/// One message that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapRow {
    /// The cell where it was looked at.
    pub at: Fqcn,
    /// When, in seconds since 1970.
    pub unix: u64,
    /// Whether it was let in.
    pub verdict: Verdict,
    /// Code of the refusal; of a return, what it says.
    pub code: Option<String>,
    /// The rule that let it in.
    pub rule: Option<String>,
    /// The neighbour that it came from; none for a message of this cell itself.
    pub from: Option<Fqcn>,
    /// What it was: publish, request, reply or return.
    pub kind: String,
    /// Who sent it; a claim, where it was not let in.
    pub origin: Fqcn,
    /// Its sequence number there.
    pub sequence: u64,
    /// Who it is for.
    pub destination: Fqcn,
    /// Where inside that cell.
    pub target: String,
    /// Priority class.
    pub lane: String,
    /// Milliseconds left of its budget.
    pub budget_ms: u32,
    /// Bytes of its payload.
    pub payload_len: u64,
    /// The payload, where that was asked for; at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// Messages that were left out so far, because they were not taken in time.
    pub missed: u64,
}

/// One message that is to be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRow {
    /// Counts the messages of this conversation, from 1.
    pub number: u64,
    /// Who sent it.
    pub origin: Fqcn,
    /// Its kind.
    pub kind: CellKind,
    /// Its organisation.
    pub org: String,
    /// Channel and topic.
    pub target: String,
    /// What it carries.
    pub payload: Payload,
    /// Media type of the payload.
    pub content_type: Option<String>,
    /// Headers of the application, where they are text.
    pub headers: Option<String>,
    /// Milliseconds left to answer.
    pub budget_ms: u64,
    /// Whether somebody waits for the answer.
    pub expects_reply: bool,
}

/// Something that the asking side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Say {
    /// The answer to a [`Event::Delivery`].
    Answer {
        /// Which.
        number: u64,
        /// The payload of the reply.
        payload: Payload,
        /// Its media type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content_type: Option<String>,
    },
    /// No answer to a [`Event::Delivery`]: its handler has failed.
    Failed {
        /// Which.
        number: u64,
        /// Why, for whoever waits.
        text: String,
    },
}

/// How a conversation ended that the cell has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What was told.
    pub events: u64,
    /// Microseconds from the start.
    pub elapsed_us: u64,
}

/// The cell's side of a conversation. Dropped when the other side hangs up.
#[derive(Debug)]
pub struct Talk {
    events: Sender<Event>,
    said: Receiver<Say>,
}

/// The socket's side of a conversation.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) events: Receiver<Event>,
    pub(super) said: Sender<Say>,
}

impl Talk {
    pub(super) fn new() -> (Self, Line) {
        let (event, events) = channel(WAITING_MAX);
        let (say, said) = channel(WAITING_MAX);
        (Self { events: event, said }, Line { events, said: say })
    }

    /// Tells something; waits while too much waits already.
    pub async fn tell(&self, event: Event) {
        // Fails only when the other side has hung up, and this side is about to be dropped.
        let _ = self.events.send(event).await;
    }

    /// Both directions, for a side that tells and hears at once.
    #[must_use]
    pub fn split(self) -> (Sender<Event>, Receiver<Say>) {
        (self.events, self.said)
    }
}

/// The word for a lane.
#[must_use]
pub fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control",
        Lane::Interactive => "interactive",
        Lane::Bulk => "bulk",
    }
}
