//! What a cell answers over its control socket.

use std::collections::BTreeMap;

use cellbus_proto::{
    identity::CellKind,
    name::{Fqcn, Segment},
    renewal::RenewedBy,
};
use serde::{Deserialize, Serialize};

use super::JobMeeting;
use crate::job::JobReport;

use super::{
    DeadLettersReply, Ended, HopRow, JoinReply, LinkRow, ListsReply, MetricsReply, Payload,
    PolicyReply, ReloadReply, RouteRow, SendReply, StatsReply, TraceReply, TransferCancelled,
    TransferEnds, TransferRows,
};

/// One answer; the variant is that of the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Status`](super::Request::Status).
    Status(StatusReport),
    /// To [`Request::Cells`](super::Request::Cells), sorted by name.
    Cells(Vec<CellRow>),
    /// To [`Request::Peers`](super::Request::Peers), sorted by name.
    Peers(Vec<PeerRow>),
    /// To [`Request::Ping`](super::Request::Ping).
    Ping(PingReply),
    /// To [`Request::Explain`](super::Request::Explain).
    Explain(ExplainReply),
    /// To [`Request::Policy`](super::Request::Policy).
    Policy(Box<PolicyReply>),
    /// To [`Request::Reload`](super::Request::Reload).
    Reload(ReloadReply),
    /// To [`Request::Request`](super::Request::Request).
    Request(RequestReply),
    /// To [`Request::Links`](super::Request::Links), sorted by name.
    Links(Vec<LinkRow>),
    /// To [`Request::Routes`](super::Request::Routes).
    Routes(Vec<RouteRow>),
    /// To [`Request::Stats`](super::Request::Stats).
    Stats(Box<StatsReply>),
    /// To [`Request::DeadLetters`](super::Request::DeadLetters).
    DeadLetters(DeadLettersReply),
    /// To [`Request::Metrics`](super::Request::Metrics).
    Metrics(MetricsReply),
    /// To [`Request::Trace`](super::Request::Trace).
    Trace(TraceReply),
    /// To [`Request::Send`](super::Request::Send).
    Send(SendReply),
    /// To a request that goes on, where the cell ends it.
    Ended(Ended),
    /// To a transfer that was begun.
    TransferEnds(TransferEnds),
    /// To a list of transfers.
    Transfers(TransferRows),
    /// To a transfer that was to be given up.
    TransferCancelled(TransferCancelled),
    /// To [`Request::Inspect`](super::Request::Inspect).
    Inspect(serde_json::Value),
    /// To [`Request::JobLs`](super::Request::JobLs), the latest first.
    Jobs(Vec<JobReport>),
    /// To [`Request::JobShow`](super::Request::JobShow) and [`Request::JobCancel`](super::Request::JobCancel), and the
    /// end of those that tell what becomes of a job.
    Job(Box<JobReport>),
    /// To [`Request::JobAttach`](super::Request::JobAttach).
    Meeting(JobMeeting),
    /// To [`Request::Drain`](super::Request::Drain) and [`Request::Stop`](super::Request::Stop): it has begun.
    Accepted(Accepted),
    /// To [`Request::Lists`](super::Request::Lists), [`Request::TakeLists`](super::Request::TakeLists) and
    /// [`Request::Ban`](super::Request::Ban).
    Lists(Box<ListsReply>),
    /// To [`Request::Join`](super::Request::Join).
    Join(Box<JoinReply>),
}

/// Who and how a cell is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Its name.
    pub cell: Fqcn,
    /// Its kind.
    pub kind: CellKind,
    /// The project it belongs to.
    pub project: Segment,
    /// Which life of the cell this is, as text: it may not fit into a JSON number.
    pub incarnation: String,
    /// How far it is.
    pub state: CellState,
    /// Milliseconds since it was started.
    pub uptime_ms: u64,
    /// The cell above it; none for the server.
    pub parent: Option<Fqcn>,
    /// The link to the cell above; none for the server.
    pub uplink_state: Option<LinkState>,
    /// Direct children that are connected.
    pub children: u32,
    /// When its own certificate ends, in seconds since 1970.
    #[serde(default)]
    pub cert_expires_unix: u64,
    /// When it asks for another one, in seconds since 1970; none where development certificates are minted at start.
    #[serde(default)]
    pub cert_renewal_unix: Option<u64>,
    /// Whom it asks then: `server`, or `people` where the server issues none and somebody has to hand one over; none while
    /// nobody has said.
    #[serde(default)]
    pub cert_renewed_by: Option<RenewedBy>,
    /// Counters by name, since it was started.
    pub counters: BTreeMap<String, u64>,
}

/// How far a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellState {
    /// Reading its configuration and credentials.
    Starting,
    /// Not yet registered at the server.
    Connecting,
    /// Takes and forwards messages.
    Ready,
    /// Finishes what it has.
    Draining,
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No connection yet.
    Connecting,
    /// Connected, and the certificates have been examined.
    Identified,
    /// A challenge is pending.
    Challenged,
    /// Registered; messages flow.
    Active,
    /// Nothing new is sent on it.
    Draining,
    /// Gone.
    Closed,
}

/// A cell that another cell knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellRow {
    /// Its name.
    pub name: Fqcn,
    /// Its kind.
    pub kind: CellKind,
    /// How far its registration is.
    pub state: LinkState,
    /// Milliseconds it has been in this state.
    pub since_ms: u64,
    /// Last measured round trip in microseconds, for a direct neighbour.
    pub rtt_us: Option<u64>,
    /// The direct neighbour behind which it is; none for a direct neighbour.
    pub via: Option<Fqcn>,
}

/// A direct neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its name.
    pub name: Fqcn,
    /// Its kind.
    pub kind: CellKind,
    /// Its organisation, as its certificate says.
    pub org: String,
    /// Which way it lies.
    pub direction: Direction,
    /// How far the link is.
    pub state: LinkState,
    /// Last measured round trip in microseconds.
    pub rtt_us: Option<u64>,
    /// Bytes sent to it over this link.
    pub sent_bytes: u64,
    /// Messages sent to it over this link.
    pub sent_messages: u64,
    /// Bytes received from it over this link.
    pub received_bytes: u64,
    /// Messages received from it over this link.
    pub received_messages: u64,
    /// Milliseconds the link has been in this state.
    pub since_ms: u64,
    /// When its certificate ends, in seconds since 1970.
    pub cert_expires_unix: Option<u64>,
}

/// Which way a neighbour lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The parent.
    Up,
    /// A child.
    Down,
}

/// What became of some pings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingReply {
    /// The cell that was pinged.
    pub to: Fqcn,
    /// One row per ping, in order.
    pub rows: Vec<PingRow>,
}

/// What became of one ping: a round trip, or a status and who gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRow {
    /// From 1.
    pub seq: u32,
    /// Round trip in microseconds, when it was answered.
    pub rtt_us: Option<u64>,
    /// Code of the status, when it was not.
    pub status: Option<String>,
    /// The cell that gave the status.
    pub by: Option<Fqcn>,
    /// What each cell on the way did, in order.
    pub hops: Vec<HopRow>,
}

/// What a cell would do with a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReply {
    /// Whether it would pass.
    pub verdict: Verdict,
    /// Code of the refusal.
    pub code: Option<String>,
    /// The rule that decided, for people.
    pub rule: Option<String>,
    /// Where it would go next; none when it would be delivered here, or refused.
    pub next_hop: Option<Fqcn>,
    /// The cell that was asked.
    pub at: Fqcn,
}

/// Whether a message would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It would be delivered or forwarded.
    Admit,
    /// It would be returned with a code.
    Refuse,
}

/// The reply to a request that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestReply {
    /// What it carries.
    pub payload: Payload,
    /// Media type of the payload.
    pub content_type: Option<String>,
    /// The cell that replied.
    pub from: Fqcn,
    /// Microseconds from sending the request to the reply.
    pub elapsed_us: u64,
}

/// Something has begun that goes on after the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The cell that does it.
    pub cell: Fqcn,
    /// How far it is now.
    pub state: CellState,
}

/// A reply to another request than the one that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reply answers another request")]
pub struct WrongReply;

impl PingReply {
    /// Pings that were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.rows.iter().filter(|row| row.rtt_us.is_some()).count()
    }
}

macro_rules! answers {
    ($($variant:ident($answer:ty)),* $(,)?) => {$(
        impl TryFrom<Reply> for $answer {
            type Error = WrongReply;

            fn try_from(reply: Reply) -> Result<Self, WrongReply> {
                if let Reply::$variant(answer) = reply { Ok(answer) } else { Err(WrongReply) }
            }
        }
    )*};
}

answers!(
    Status(StatusReport),
    Cells(Vec<CellRow>),
    Peers(Vec<PeerRow>),
    Ping(PingReply),
    Explain(ExplainReply),
    Policy(Box<PolicyReply>),
    Reload(ReloadReply),
    Request(RequestReply),
    Links(Vec<LinkRow>),
    Routes(Vec<RouteRow>),
    Stats(Box<StatsReply>),
    Join(Box<JoinReply>),
    DeadLetters(DeadLettersReply),
    Metrics(MetricsReply),
    Trace(TraceReply),
    Send(SendReply),
    Ended(Ended),
    TransferEnds(TransferEnds),
    Transfers(TransferRows),
    TransferCancelled(TransferCancelled),
    Inspect(serde_json::Value),
    Jobs(Vec<JobReport>),
    Job(Box<JobReport>),
    Meeting(JobMeeting),
    Accepted(Accepted),
    Lists(Box<ListsReply>),
);
