//! What `top` draws.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{Model, Sample};
use crate::{
    ask::word,
    output::printable,
    table::{bytes, or_dash, round_trip, time},
};
use cellbus_cells::control::LinkRow;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::Line,
    widgets::{Block, Borders, Cell, Paragraph, Row, Table},
};

/// Lines of the figures, with their frame.
const FIGURES: u16 = 7;
/// Lines of the refusals that are kept free, with their frame.
const REFUSALS: u16 = 7;

/// Draws everything into the frame.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let rows = Layout::vertical([
        Constraint::Length(FIGURES),
        Constraint::Min(4),
        Constraint::Length(REFUSALS),
    ]);
    let [figures, middle, bottom] = rows.areas(frame.area());
    draw_figures(frame, figures, model);
    draw_links(frame, middle, model);
    let halves = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]);
    let [refusals, cells] = halves.areas(bottom);
    draw_refusals(frame, refusals, model);
    draw_cells(frame, cells, model);
}

impl Model {
    /// By how much a figure has grown in a second; nothing after the first look.
    fn rate(&self, figure: impl Fn(&Sample) -> u64) -> Option<f64> {
        let before = self.before.as_ref()?;
        let span = self.now.at.saturating_duration_since(before.at).as_secs_f64();
        // A cell that was started again counts from zero.
        let grown = figure(&self.now).checked_sub(figure(before))?;
        (span > 0.0).then(|| grown as f64 / span)
    }
}

fn per_second(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}/s"))
}

fn bytes_per_second(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", bytes(rate as u64)))
}

fn refused(sample: &Sample) -> u64 {
    let counters = &sample.stats.counters;
    counters.refused.values().chain(counters.dead.values()).sum()
}

fn draw_figures(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let stats = &model.now.stats;
    let micros = |us: u64| round_trip(Some(us));
    let waiting = stats.outbox_bytes;
    let delay = &stats.event_loop;
    let lines = vec![
        Line::from(format!(
            "accepted {}  delivered {}  forwarded {}  refused {}",
            per_second(model.rate(|at| at.stats.counters.accepted)),
            per_second(model.rate(|at| at.stats.counters.delivered)),
            per_second(model.rate(|at| at.stats.counters.forwarded)),
            per_second(model.rate(refused)),
        )),
        Line::from(format!(
            "read {}  written {}  outstanding {}  handling {}",
            bytes_per_second(model.rate(|at| at.stats.counters.bytes_in)),
            bytes_per_second(model.rate(|at| at.stats.counters.bytes_out)),
            stats.outstanding,
            stats.handling,
        )),
        Line::from(format!(
            "waiting: control {}  interactive {}  bulk {}",
            bytes(waiting.control),
            bytes(waiting.interactive),
            bytes(waiting.bulk),
        )),
        Line::from(format!(
            "p99: request {}  handler {}  queue {}",
            micros(stats.measured.request_us.p99),
            micros(stats.measured.handler_us.p99),
            micros(stats.measured.queue_us.p99),
        )),
        Line::from(format!(
            "event loop late by {} now, {} at most of late{}",
            micros(delay.last_us),
            micros(delay.recent_max_us),
            if delay.is_red { "  RED" } else { "" },
        )),
    ];
    let title = format!("{}  {}  up {}", stats.cell, word(&stats.state), time(stats.uptime_ms));
    let block = Block::default().borders(Borders::ALL).title(title).title_bottom("q ends");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_links(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows = model.now.links.iter().map(|link| {
        let of = |figure: fn(&LinkRow) -> u64| {
            model.rate(|sample| {
                let same = sample.links.iter().find(|other| other.link == link.link);
                same.map_or(0, figure)
            })
        };
        let waiting = link.outbox_bytes;
        Row::new([
            link.name.to_string(),
            link.kind.to_string(),
            round_trip(Some(link.rtt_us)),
            per_second(of(|link| link.sent_messages)),
            bytes_per_second(of(|link| link.sent_bytes)),
            per_second(of(|link| link.received_messages)),
            bytes_per_second(of(|link| link.received_bytes)),
            bytes(waiting.control + waiting.interactive + waiting.bulk),
            link.lost_packets.to_string(),
        ])
    });
    let headings =
        ["LINK TO", "KIND", "RTT", "OUT", "OUT BYTES", "IN", "IN BYTES", "WAITING", "LOST"];
    let widths = [
        Constraint::Min(12),
        Constraint::Length(7),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(13),
        Constraint::Length(9),
        Constraint::Length(13),
        Constraint::Length(10),
        Constraint::Length(6),
    ];
    let table = Table::new(rows, widths).header(heading(headings)).block(framed("links"));
    frame.render_widget(table, area);
}

fn draw_refusals(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let counters = &model.now.stats.counters;
    let of = |code: &str, sample: &Sample| {
        let counters = &sample.stats.counters;
        counters.refused.get(code).copied().unwrap_or(0)
            + counters.dead.get(code).copied().unwrap_or(0)
    };
    let codes: BTreeSet<&String> = counters.refused.keys().chain(counters.dead.keys()).collect();
    let mut codes: Vec<&str> = codes.into_iter().map(String::as_str).collect();
    codes.sort_by_key(|code| Reverse(of(code, &model.now)));
    let rows = codes.into_iter().map(|code| {
        let rate = model.rate(|sample| of(code, sample));
        Row::new([printable(code), of(code, &model.now).to_string(), per_second(rate)])
    });
    let widths = [Constraint::Min(16), Constraint::Length(10), Constraint::Length(9)];
    let table = Table::new(rows, widths)
        .header(heading(["CODE", "COUNT", "RATE"]))
        .block(framed("refusals"));
    frame.render_widget(table, area);
}

fn draw_cells(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows = model.now.cells.iter().map(|cell| {
        Row::new([
            cell.name.to_string(),
            cell.kind.to_string(),
            word(&cell.state),
            or_dash(cell.via.as_ref()),
        ])
    });
    let widths = [
        Constraint::Min(12),
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Length(12),
    ];
    let table = Table::new(rows, widths)
        .header(heading(["CELL", "KIND", "STATE", "VIA"]))
        .block(framed("cells"));
    frame.render_widget(table, area);
}

fn heading<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    Row::new(names.map(Cell::from)).style(Style::default().add_modifier(Modifier::BOLD))
}

fn framed(title: &'static str) -> Block<'static> {
    Block::default().borders(Borders::ALL).title(title)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use cellbus_cells::control::{
        CellRow, CellState, CounterRows, Direction, LaneBytes, LinkCounts, LinkState, LoopReport,
        StatsReply, StatsReport,
    };
    use cellbus_proto::identity::CellKind;
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn sample(at: Instant, accepted: u64, refused: u64) -> Sample {
        let counters = CounterRows {
            accepted,
            refused: [("TOPIC_DENIED".to_owned(), refused)].into(),
            bytes_in: accepted * 1024,
            ..CounterRows::default()
        };
        let stats = StatsReply {
            cell: "server".parse().unwrap(),
            state: CellState::Ready,
            uptime_ms: 90_000,
            outstanding: 3,
            handling: 4,
            links: LinkCounts { up: 0, down: 1 },
            outbox_bytes: LaneBytes { control: 0, interactive: 2048, bulk: 0 },
            counters,
            dead_letters: Vec::new(),
            measured: StatsReport::default(),
            event_loop: LoopReport {
                recent_max_us: 6_000_000,
                is_red: true,
                ..LoopReport::default()
            },
        };
        let link = LinkRow {
            name: "relay-a".parse().unwrap(),
            kind: CellKind::Relay,
            org: "study".to_owned(),
            direction: Direction::Down,
            link: 1,
            rtt_us: 1234,
            sent_bytes: 0,
            sent_messages: accepted / 2,
            received_bytes: 0,
            received_messages: 0,
            outbox_bytes: LaneBytes { control: 0, interactive: 2048, bulk: 0 },
            lost_packets: 17,
            mtu: 1452,
            black_holes: 0,
            since_ms: 5,
            cert_expires_unix: 0,
        };
        let cell = CellRow {
            name: "relay-a.site-1".parse().unwrap(),
            kind: CellKind::Client,
            state: LinkState::Active,
            since_ms: 5,
            rtt_us: None,
            via: Some("relay-a".parse().unwrap()),
        };
        Sample { at, stats, links: vec![link], cells: vec![cell] }
    }

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn rates_queues_refusals_and_cells_are_on_the_screen() {
        let start = Instant::now();
        let before = Some(sample(start, 1000, 5));
        let now = sample(start + Duration::from_secs(2), 3000, 45);
        let screen = drawn(&Model { now, before }, 110, 24);
        for text in [
            "server  ready  up 2 minutes",
            "accepted 1000/s",
            "refused 20/s",
            "read 1000.00 KiB/s",
            "outstanding 3  handling 4",
            "interactive 2.00 KiB",
            "RED",
            "relay-a",
            "1.234 ms",
            "500/s",
            "TOPIC_DENIED",
            "45",
            "relay-a.site-1",
            "q ends",
        ] {
            assert!(screen.contains(text), "no {text:?} on\n{screen}");
        }
    }

    #[test]
    fn after_the_first_look_there_are_no_rates_and_a_small_screen_is_no_panic() {
        let model = Model { now: sample(Instant::now(), 10, 0), before: None };
        assert!(drawn(&model, 110, 24).contains("accepted -"));
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            drawn(&model, width, height);
        }
    }

    #[test]
    fn a_cell_that_was_started_again_has_no_rate_at_first() {
        let start = Instant::now();
        let before = Some(sample(start, 1000, 5));
        let model = Model { now: sample(start + Duration::from_secs(1), 3, 0), before };
        assert!(drawn(&model, 110, 24).contains("accepted -"));
    }
}
