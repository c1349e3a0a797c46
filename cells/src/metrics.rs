//! The figures of cells for Prometheus: which there are, and their text.
//!
//! Labels are bounded: the cells of this process, codes, lanes, classes and directions. No label is the
//! name of another cell, so that no neighbour can make their number grow.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::control::StatsReply;

mod families;
mod http;

use self::families::{FAMILIES, Family, Values};
pub use self::http::{Figures, MetricsListener};

/// Media type of what [`render`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures of these cells as OpenMetrics text.
#[must_use]
pub fn render(cells: Vec<StatsReply>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Cells(cells)));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes any text");
    text
}

/// The list of all figures, as a table in Markdown.
#[must_use]
pub fn names() -> String {
    let mut text = String::from("| name | kind | labels | meaning |\n|---|---|---|---|\n");
    for Family { name, labels, help, values } in FAMILIES {
        let (suffix, kind) = match values {
            Values::Counter(_) => ("_total", "counter"),
            Values::Gauge(_) => ("", "gauge"),
            Values::Histogram(..) => ("", "histogram"),
        };
        let labels: Vec<String> =
            ["cell"].iter().chain(*labels).map(|label| format!("`{label}`")).collect();
        let labels = labels.join(", ");
        text.push_str(&format!("| `{name}{suffix}` | {kind} | {labels} | {help} |\n"));
    }
    text
}

#[derive(Debug)]
struct Cells(Vec<StatsReply>);

impl Collector for Cells {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in FAMILIES {
            let help = family.help.trim_end_matches('.');
            let kind = match family.values {
                Values::Counter(_) => MetricType::Counter,
                Values::Gauge(_) => MetricType::Gauge,
                Values::Histogram(..) => MetricType::Histogram,
            };
            let mut of_family = encoder.encode_descriptor(family.name, help, None, kind)?;
            for cell in &self.0 {
                let labels = |values: Vec<String>| -> Vec<(&'static str, String)> {
                    let own = [("cell", cell.cell.to_string())];
                    own.into_iter().chain(family.labels.iter().copied().zip(values)).collect()
                };
                match family.values {
                    Values::Counter(rows) => {
                        for (values, value) in rows(cell) {
                            let labels = labels(values);
                            let row = of_family.encode_family(&labels)?;
                            ConstCounter::new(value).encode(row)?;
                        }
                    }
                    Values::Gauge(rows) => {
                        for (values, value) in rows(cell) {
                            let labels = labels(values);
                            let row = of_family.encode_family(&labels)?;
                            ConstGauge::new(value).encode(row)?;
                        }
                    }
                    Values::Histogram(histogram, unit) => {
                        let labels = labels(Vec::new());
                        let mut row = of_family.encode_family(&labels)?;
                        let (sum, count, buckets) = families::buckets(histogram(cell), unit);
                        row.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use cellbus_runtime::stats::{Histogram, LoopReport, MessageCount, StatsReport};

    use super::*;
    use crate::control::{CellState, CounterRows, DeadCount, LaneBytes, LinkCounts};

    fn figures(cell: &str) -> StatsReply {
        let histogram = Histogram::default();
        [3, 300, 3_000_000].into_iter().for_each(|value| histogram.record(value));
        let report = histogram.report();
        let lanes = ["control", "interactive", "bulk"];
        let messages = lanes.map(|lane| MessageCount {
            lane: lane.to_owned(),
            class: "application".to_owned(),
            count: 5,
        });
        let measured = StatsReport {
            request_us: report.clone(),
            payload_bytes: report.clone(),
            messages: messages.to_vec(),
            ..StatsReport::default()
        };
        let refused = [("TOPIC_DENIED".to_owned(), 7)].into();
        let dead = DeadCount { code: "NO_ROUTE".into(), class: "system".into(), count: 2 };
        StatsReply {
            cell: cell.parse().unwrap(),
            state: CellState::Ready,
            uptime_ms: 1500,
            outstanding: 1,
            handling: 2,
            links: LinkCounts { up: 0, down: 2 },
            outbox_bytes: LaneBytes { control: 0, interactive: 9, bulk: 0 },
            counters: CounterRows { refused, ..CounterRows::default() },
            dead_letters: vec![dead],
            measured,
            event_loop: LoopReport::default(),
        }
    }

    #[test]
    fn every_figure_of_every_cell_is_in_the_text_in_base_units() {
        let text = render(vec![figures("server"), figures("relay-a.site-1")]);
        for line in [
            "# TYPE cellbus_messages_accepted counter",
            r#"cellbus_messages_refused_total{cell="server",code="TOPIC_DENIED"} 7"#,
            r#"cellbus_dead_letters_total{cell="server",code="NO_ROUTE",class="system"} 2"#,
            r#"cellbus_messages_accepted_total{cell="relay-a.site-1",lane="bulk",class="application"} 5"#,
            r#"cellbus_ready{cell="server"} 1.0"#,
            r#"cellbus_uptime_seconds{cell="server"} 1.5"#,
            r#"cellbus_outbox_bytes{cell="server",lane="interactive"} 9.0"#,
            r#"cellbus_request_seconds_sum{cell="server"} 3.000303"#,
            r#"cellbus_request_seconds_count{cell="server"} 3"#,
            r#"cellbus_request_seconds_bucket{le="+Inf",cell="server"} 3"#,
            r#"cellbus_payload_bytes_bucket{le="1023.0",cell="server"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let types: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        assert_eq!(types.len(), types.iter().collect::<BTreeSet<_>>().len(), "each once");
        assert_eq!(types.len(), FAMILIES.len());
    }

    #[test]
    fn g_24_labels_are_of_closed_sets() {
        let labels: BTreeSet<&str> =
            FAMILIES.iter().flat_map(|family| family.labels).copied().collect();
        assert_eq!(labels, ["class", "code", "direction", "lane"].into());
    }

    #[test]
    fn the_reference_lists_every_figure() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
        let reference = fs::read_to_string(path).unwrap();
        assert!(reference.contains(&names()), "docs/METRICS.md should list:\n{}", names());
    }
}
