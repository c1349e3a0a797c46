//! Which figures there are, and where each comes from.

use std::collections::BTreeMap;

use cellbus_runtime::stats::HistogramReport;

use crate::control::{CellState, LaneBytes, StatsReply};

/// Values of the labels, and the figure.
type Rows<T> = fn(&StatsReply) -> Vec<(Vec<String>, T)>;

/// One figure with all its labels.
pub(super) struct Family {
    /// Its name, without what its kind adds.
    pub(super) name: &'static str,
    /// Its labels besides `cell`.
    pub(super) labels: &'static [&'static str],
    /// One sentence.
    pub(super) help: &'static str,
    /// Where it comes from.
    pub(super) values: Values,
}

/// Where a figure comes from.
#[derive(Clone, Copy)]
pub(super) enum Values {
    /// It never falls while the cell runs.
    Counter(Rows<u64>),
    /// It goes up and down.
    Gauge(Rows<f64>),
    /// Values by size; each is divided by the number.
    Histogram(fn(&StatsReply) -> &HistogramReport, f64),
}

/// Microseconds in a second.
const MICROS: f64 = 1e6;

/// Every figure.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "cellbus_messages_accepted",
        labels: &["lane", "class"],
        help: "Messages that the filter let in.",
        values: Values::Counter(|of| {
            let row = |row: &cellbus_runtime::stats::MessageCount| {
                (vec![row.lane.clone(), row.class.clone()], row.count)
            };
            of.measured.messages.iter().map(row).collect()
        }),
    },
    Family {
        name: "cellbus_messages_refused",
        labels: &["code"],
        help: "Messages that the filter did not let in, by code.",
        values: Values::Counter(|of| by_code(&of.counters.refused)),
    },
    Family {
        name: "cellbus_messages_delivered",
        labels: &[],
        help: "Messages handed to the cell itself.",
        values: Values::Counter(|of| only(of.counters.delivered)),
    },
    Family {
        name: "cellbus_messages_forwarded",
        labels: &[],
        help: "Messages written to a link.",
        values: Values::Counter(|of| only(of.counters.forwarded)),
    },
    Family {
        name: "cellbus_messages_dead",
        labels: &["code"],
        help: "Messages that were let in and ended on the way, by code.",
        values: Values::Counter(|of| by_code(&of.counters.dead)),
    },
    Family {
        name: "cellbus_dead_letters",
        labels: &["code", "class"],
        help: "Messages whose end nobody could be told, by code.",
        values: Values::Counter(|of| {
            let rows = of.dead_letters.iter();
            rows.map(|row| (vec![row.code.clone(), row.class.clone()], row.count)).collect()
        }),
    },
    Family {
        name: "cellbus_late_replies",
        labels: &[],
        help: "Replies that came after their request had ended.",
        values: Values::Counter(|of| only(of.counters.late_replies)),
    },
    Family {
        name: "cellbus_certificates_issued",
        labels: &[],
        help: "Certificates that this cell has issued to cells that had one.",
        values: Values::Counter(|of| only(of.counters.certificates_issued)),
    },
    Family {
        name: "cellbus_read_bytes",
        labels: &[],
        help: "Bytes read from links.",
        values: Values::Counter(|of| only(of.counters.bytes_in)),
    },
    Family {
        name: "cellbus_written_bytes",
        labels: &[],
        help: "Bytes written to links.",
        values: Values::Counter(|of| only(of.counters.bytes_out)),
    },
    Family {
        name: "cellbus_ready",
        labels: &[],
        help: "1 while the cell is registered and messages flow, else 0.",
        values: Values::Gauge(|of| only(f64::from(u8::from(of.state == CellState::Ready)))),
    },
    Family {
        name: "cellbus_uptime_seconds",
        labels: &[],
        help: "Time since the cell was started.",
        values: Values::Gauge(|of| only(of.uptime_ms as f64 / 1e3)),
    },
    Family {
        name: "cellbus_links",
        labels: &["direction"],
        help: "Living links: `up` to the parent, `down` to children.",
        values: Values::Gauge(|of| {
            let row = |name: &str, count: u64| (vec![name.to_owned()], count as f64);
            vec![row("up", of.links.up), row("down", of.links.down)]
        }),
    },
    Family {
        name: "cellbus_outbox_bytes",
        labels: &["lane"],
        help: "Bytes that wait to be written to links.",
        values: Values::Gauge(|of| {
            let LaneBytes { control, interactive, bulk } = of.outbox_bytes;
            let row = |name: &str, bytes: u64| (vec![name.to_owned()], bytes as f64);
            vec![row("control", control), row("interactive", interactive), row("bulk", bulk)]
        }),
    },
    Family {
        name: "cellbus_outbox_messages",
        labels: &[],
        help: "Messages that wait to be written to links.",
        values: Values::Gauge(|of| only(of.counters.queued as f64)),
    },
    Family {
        name: "cellbus_requests_outstanding",
        labels: &[],
        help: "Requests of the cell itself that have not ended.",
        values: Values::Gauge(|of| only(of.outstanding as f64)),
    },
    Family {
        name: "cellbus_messages_handling",
        labels: &[],
        help: "Messages that handlers work on, or that wait for them.",
        values: Values::Gauge(|of| only(of.handling as f64)),
    },
    Family {
        name: "cellbus_event_loop_delay_recent_seconds",
        labels: &[],
        help: "The greatest delay of the event loop in the last half minute.",
        values: Values::Gauge(|of| only(of.event_loop.recent_max_us as f64 / MICROS)),
    },
    Family {
        name: "cellbus_event_loop_red",
        labels: &[],
        help: "1 while that is above 5 s, else 0.",
        values: Values::Gauge(|of| only(f64::from(u8::from(of.event_loop.is_red)))),
    },
    Family {
        name: "cellbus_request_seconds",
        labels: &[],
        help: "Time from a request of the cell itself to its end, whatever that was.",
        values: Values::Histogram(|of| &of.measured.request_us, MICROS),
    },
    Family {
        name: "cellbus_handler_seconds",
        labels: &[],
        help: "Time from the start of a handler to its end.",
        values: Values::Histogram(|of| &of.measured.handler_us, MICROS),
    },
    Family {
        name: "cellbus_queue_seconds",
        labels: &[],
        help: "Time from the arrival of a message to the moment it was written to its next link; of one \
               message in 64.",
        values: Values::Histogram(|of| &of.measured.queue_us, MICROS),
    },
    Family {
        name: "cellbus_payload_bytes",
        labels: &[],
        help: "Sizes of the payloads of messages that were let in.",
        values: Values::Histogram(|of| &of.measured.payload_bytes, 1.0),
    },
    Family {
        name: "cellbus_event_loop_delay_seconds",
        labels: &[],
        help: "How late the event loop of the cell's thread was, a hundred times a second.",
        values: Values::Histogram(|of| &of.event_loop.delay_us, MICROS),
    },
];

fn only<T>(value: T) -> Vec<(Vec<String>, T)> {
    vec![(Vec::new(), value)]
}

fn by_code(counts: &BTreeMap<String, u64>) -> Vec<(Vec<String>, u64)> {
    counts.iter().map(|(code, count)| (vec![code.clone()], *count)).collect()
}

/// Sum, number, and how many values there are between one bound and the next, the last without a bound.
pub(super) fn buckets(report: &HistogramReport, unit: f64) -> (f64, u64, Vec<(f64, u64)>) {
    let mut before = 0;
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    for (bound, at_most) in &report.at_most {
        buckets.push((*bound as f64 / unit, at_most.saturating_sub(before)));
        before = *at_most;
    }
    buckets.push((f64::INFINITY, report.count.saturating_sub(before)));
    (report.sum as f64 / unit, report.count, buckets)
}
