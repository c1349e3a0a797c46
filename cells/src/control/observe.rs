//! What people see of a running cell: its links, its routes, its figures, and the way of one message.

use std::collections::BTreeMap;

use cellbus_channels::{HopRecord, Selector};
use cellbus_proto::{
    identity::CellKind,
    name::{Channel, Fqcn, Topic},
    status::Status,
};
use cellbus_runtime::stats::{LoopReport, StatsReport};
use serde::{Deserialize, Serialize};

use super::{CellState, Direction, Payload, Verdict};

/// The most dead letters in one answer.
pub const MAX_DEAD_LETTERS: u32 = 1000;

/// One link, with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// The neighbour.
    pub name: Fqcn,
    /// Its kind.
    pub kind: CellKind,
    /// Its organisation, as its certificate says.
    pub org: String,
    /// Which way it lies.
    pub direction: Direction,
    /// Number of the link in its process; never given twice.
    pub link: u64,
    /// Last measured round trip in microseconds.
    pub rtt_us: u64,
    /// Bytes of datagrams sent.
    pub sent_bytes: u64,
    /// Messages sent.
    pub sent_messages: u64,
    /// Bytes of datagrams received.
    pub received_bytes: u64,
    /// Messages received.
    pub received_messages: u64,
    /// Bytes that wait to be sent, by lane.
    pub outbox_bytes: LaneBytes,
    /// Packets that the transport has declared lost.
    pub lost_packets: u64,
    /// Bytes in the largest datagram that fits.
    pub mtu: u16,
    /// How often datagrams of that size no longer arrived, and became the smallest for a minute.
    pub black_holes: u64,
    /// Milliseconds since it was registered.
    pub since_ms: u64,
    /// When the neighbour's certificate ends, in seconds since 1970.
    pub cert_expires_unix: u64,
}

/// Bytes by lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneBytes {
    /// The system's own messages.
    pub control: u64,
    /// Small messages that somebody waits for.
    pub interactive: u64,
    /// All else.
    pub bulk: u64,
}

/// Where messages for some destinations go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// A name; with `.*` what lies below it; `*` for everything else.
    pub destination: String,
    /// The neighbour that they are sent to; none for this cell itself.
    pub next_hop: Option<Fqcn>,
    /// Number of the link.
    pub link: Option<u64>,
    /// Last measured round trip to the next hop in microseconds.
    pub rtt_us: Option<u64>,
    /// Cells registered behind it, as far as this cell knows.
    pub registered: u64,
}

/// What a cell has counted and measured since it was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatsReply {
    /// The cell.
    pub cell: Fqcn,
    /// How far it is.
    pub state: CellState,
    /// Milliseconds since it was started.
    pub uptime_ms: u64,
    /// Requests of its own that have not ended.
    pub outstanding: u64,
    /// Messages that its handlers work on, or that wait for them.
    pub handling: u64,
    /// Its living links.
    pub links: LinkCounts,
    /// Bytes that wait on them, by lane.
    pub outbox_bytes: LaneBytes,
    /// What it has counted.
    pub counters: CounterRows,
    /// Dead letters by code and class.
    pub dead_letters: Vec<DeadCount>,
    /// Times and sizes.
    pub measured: StatsReport,
    /// How late the event loop of its thread is.
    pub event_loop: LoopReport,
}

/// Living links of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounts {
    /// To its parent: one or none.
    pub up: u64,
    /// To its children.
    pub down: u64,
}

/// Counters of a cell: every accepted message ends in exactly one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRows {
    /// Messages that the filter let in.
    pub accepted: u64,
    /// Of these, handed to the cell itself.
    pub delivered: u64,
    /// Of these, challenges, registers and byes.
    pub exempt: u64,
    /// Of these, written to a link.
    pub forwarded: u64,
    /// Of these, waiting to be written.
    pub queued: u64,
    /// Of these, ended on the way, by code.
    pub dead: BTreeMap<String, u64>,
    /// Messages that were not let in, by code.
    pub refused: BTreeMap<String, u64>,
    /// Replies that came after their request had ended.
    pub late_replies: u64,
    /// Certificates that this cell has issued to cells that had one.
    #[serde(default)]
    pub certificates_issued: u64,
    /// Bytes read from links.
    pub bytes_in: u64,
    /// Bytes written to links.
    pub bytes_out: u64,
}

/// How many dead letters there have been of one sort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadCount {
    /// Why.
    pub code: String,
    /// Whose channel: `system` or `application`.
    pub class: String,
    /// How many.
    pub count: u64,
}

/// Which dead letters to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLettersAsk {
    /// How many, from 1 to [`MAX_DEAD_LETTERS`].
    pub limit: u32,
    /// Only those with this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Messages whose end nobody could be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLettersReply {
    /// The cell where they ended.
    pub cell: Fqcn,
    /// All that there have been.
    pub counts: Vec<DeadCount>,
    /// The latest, latest first.
    pub letters: Vec<DeadRow>,
}

/// One message whose end nobody could be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRow {
    /// When, in seconds since 1970.
    pub unix: u64,
    /// Why.
    pub code: String,
    /// What it was: publish, request, reply or return.
    pub kind: String,
    /// Who sent it; a claim, where it was not let in.
    pub origin: String,
    /// Its sequence number there.
    pub sequence: u64,
    /// Who it was for.
    pub destination: String,
    /// Where inside that cell.
    pub target: String,
    /// The link that it came by; none for a message of this cell itself.
    pub link: Option<u64>,
    /// Bytes of its payload.
    pub payload_len: u64,
    /// Milliseconds that were left of its budget.
    pub budget_ms: u32,
}

/// A message whose way is to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceAsk {
    /// The cell it is for.
    pub to: Fqcn,
    /// First level of the address.
    pub channel: Channel,
    /// Second level of the address.
    pub topic: Topic,
    /// What it carries.
    pub payload: Payload,
    /// Whether its handler gets it.
    pub deliver: bool,
    /// Milliseconds until it is given up, from 1 to [`MAX_BUDGET_MS`](super::MAX_BUDGET_MS).
    pub budget_ms: u64,
}

/// The way of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReply {
    /// The cell that sent it.
    pub from: Fqcn,
    /// The cell it was for.
    pub to: Fqcn,
    /// Channel and topic.
    pub target: String,
    /// Every cell that it reached, in order.
    pub hops: Vec<HopRow>,
    /// Whether a handler got it.
    pub delivered: bool,
    /// Code of its end, where that was no reply.
    pub code: Option<String>,
    /// The cell that gave the code.
    pub by: Option<Fqcn>,
    /// Microseconds from sending it to its end.
    pub elapsed_us: u64,
}

/// What one cell did with a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopRow {
    /// The cell.
    pub cell: Fqcn,
    /// Whether it passed the message on, or took it.
    pub verdict: Verdict,
    /// Code of its refusal.
    pub code: Option<String>,
    /// The rule by which it let the message in, for people.
    pub rule: Option<String>,
    /// Microseconds that it had the message.
    pub queue_us: u64,
    /// Microseconds to the next cell: half the round trip of the link.
    pub wire_us: u64,
}

/// A message to send without waiting for a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendAsk {
    /// The cell it is for.
    pub to: Fqcn,
    /// First level of the address.
    pub channel: Channel,
    /// Second level of the address.
    pub topic: Topic,
    /// What it carries.
    pub payload: Payload,
    /// Media type of the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Headers of the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    /// Whether to wait until the destination cell has accepted it.
    pub receipt: bool,
    /// Milliseconds until it is given up, from 1 to [`MAX_BUDGET_MS`](super::MAX_BUDGET_MS).
    pub budget_ms: u64,
}

/// A message was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReply {
    /// The cell it is for.
    pub to: Fqcn,
    /// Whether that cell has accepted it; otherwise this one has.
    pub accepted: bool,
    /// Microseconds until then.
    pub elapsed_us: u64,
}

/// The figures of a cell in the text format of Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsReply {
    /// The cell.
    pub cell: Fqcn,
    /// OpenMetrics text.
    pub text: String,
}

/// A text that selects no messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not `channel/topic`, `channel/*` or `*/*`")]
pub struct SelectorError(String);

/// Which messages a text means: `channel/topic`, `channel/*`, or `*/*` for all but the system's.
///
/// # Errors
/// [`SelectorError`].
pub fn selector(text: &str) -> Result<Selector, SelectorError> {
    let bad = || SelectorError(text.to_owned());
    match text.split_once('/') {
        Some(("*", "*")) => Ok(Selector::All),
        Some((channel, "*")) => channel.parse().map(Selector::Channel).map_err(|_| bad()),
        Some(_) => text.parse().map(Selector::Exact).map_err(|_| bad()),
        None => Err(bad()),
    }
}

/// The words that cells on the way put before the code of a refusal.
const REFUSALS: [&str; 2] = ["refused: ", "not passed on: "];

impl HopRow {
    /// What the cells on the way have noted, one row for each. A cell that let a message in and could not
    /// pass it on has noted both.
    #[must_use]
    pub fn of_path(path: Vec<HopRecord>) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        for HopRecord { cell, rule, queue_us, wire_us } in path {
            let refusal = REFUSALS.iter().find_map(|words| rule.strip_prefix(words));
            // Behind the code may stand why.
            let (code, why) = refusal.map_or((None, None), |text| match text.split_once(": ") {
                Some((code, why)) => (Some(code), Some(why.to_owned())),
                None => (Some(text), None),
            });
            let code = code.filter(|code| Status::from_code(code).is_some()).map(str::to_owned);
            match rows.last_mut() {
                Some(last) if last.cell == cell && code.is_some() => {
                    (last.verdict, last.code) = (Verdict::Refuse, code);
                }
                _ => rows.push(Self {
                    cell,
                    verdict: if code.is_some() { Verdict::Refuse } else { Verdict::Admit },
                    rule: if code.is_some() { why } else { Some(rule) },
                    code,
                    queue_us: queue_us.into(),
                    wire_us: wire_us.into(),
                }),
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cell: &str, rule: &str) -> HopRecord {
        HopRecord { cell: cell.parse().unwrap(), rule: rule.to_owned(), queue_us: 5, wire_us: 7 }
    }

    #[test]
    fn a_cell_that_lets_in_and_cannot_pass_on_is_one_row_with_both() {
        let rows = HopRow::of_path(vec![
            record("site-1", "rule 2 of revision 1: allow"),
            record("server", "rule 2 of revision 1: allow"),
            record("server", "not passed on: NO_ROUTE"),
        ]);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].verdict, rows[0].queue_us, rows[0].wire_us), (Verdict::Admit, 5, 7));
        assert_eq!(rows[1].code.as_deref(), Some("NO_ROUTE"));
        assert_eq!(rows[1].verdict, Verdict::Refuse);
        assert!(rows[1].rule.as_ref().is_some_and(|rule| rule.starts_with("rule 2")));
        let rows = HopRow::of_path(vec![record("relay", "refused: TOPIC_DENIED")]);
        assert_eq!((rows[0].code.as_deref(), &rows[0].rule), (Some("TOPIC_DENIED"), &None));
        let why = "refused: TOPIC_DENIED: no rule of revision 1 allows it";
        let rows = HopRow::of_path(vec![record("relay", why)]);
        assert_eq!(rows[0].code.as_deref(), Some("TOPIC_DENIED"));
        assert_eq!(rows[0].rule.as_deref(), Some("no rule of revision 1 allows it"));
    }

    #[test]
    fn what_another_cell_writes_is_no_code_unless_there_is_such_a_code() {
        let rows = HopRow::of_path(vec![record("relay", "refused: \u{1b}[2J")]);
        assert_eq!((rows[0].verdict, &rows[0].code), (Verdict::Admit, &None));
    }

    #[test]
    fn a_selector_is_exact_a_channel_or_everything() {
        assert_eq!(selector("*/*"), Ok(Selector::All));
        assert_eq!(selector("task/*").unwrap().to_string(), "task/*");
        assert_eq!(selector("task/fetch").unwrap().to_string(), "task/fetch");
        for bad in ["", "*", "task", "*/fetch", "Task/*", "task/fe*", "task/"] {
            assert!(selector(bad).is_err(), "{bad}");
        }
    }
}
