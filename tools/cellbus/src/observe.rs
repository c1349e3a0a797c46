//! The commands that show what a running cell does: links, routes, figures, dead letters, and the way of
//! one message.

use std::fmt::Display;

use cellbus_cells::control::{
    DeadLettersAsk, DeadLettersReply, Direction, HistogramReport, HopRow, LinkRow, MetricsReply,
    Payload, Request, RouteRow, StatsReply, TraceAsk, TraceReply, is_ruling, next_step,
};
use cellbus_proto::status::Status;

use crate::{
    args::{self, Target},
    ask::{millis, no, read_payload, word},
    output::{Outcome, Success},
    table::{Table, ago, ahead, bytes, or_dash, round_trip, time},
    target::{ask, full_name},
};

/// `links`.
pub async fn links(target: Target) -> Outcome {
    let rows: Vec<LinkRow> = ask(&target, Request::Links).await?;
    let mut table = Table::new([
        "PEER",
        "KIND",
        "ORG",
        "WAY",
        "RTT",
        "SENT",
        "RECEIVED",
        "WAITING C/I/B",
        "LOST",
        "MTU",
        "SINCE",
        "CERT ENDS",
    ]);
    for row in &rows {
        let waiting = row.outbox_bytes;
        table.row([
            row.name.as_str(),
            row.kind.as_str(),
            &row.org,
            way(row.direction),
            &round_trip(Some(row.rtt_us)),
            &format!("{} in {}", bytes(row.sent_bytes), row.sent_messages),
            &format!("{} in {}", bytes(row.received_bytes), row.received_messages),
            &format!("{}/{}/{}", waiting.control, waiting.interactive, waiting.bulk),
            &row.lost_packets.to_string(),
            &row.mtu.to_string(),
            &time(row.since_ms),
            &ahead(row.cert_expires_unix),
        ]);
    }
    Ok(Success::new(&rows, table.render()))
}

/// The word for a direction.
pub fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

/// `routes`.
pub async fn routes(target: Target) -> Outcome {
    let rows: Vec<RouteRow> = ask(&target, Request::Routes).await?;
    let mut table = Table::new(["DESTINATION", "NEXT HOP", "LINK", "RTT", "REGISTERED"]);
    for row in &rows {
        let next = row.next_hop.as_ref().map_or("here", |next| next.as_str());
        table.row([
            &row.destination,
            next,
            &or_dash(row.link),
            &round_trip(row.rtt_us),
            &row.registered.to_string(),
        ]);
    }
    Ok(Success::new(&rows, table.render()))
}

/// `stats`.
pub async fn stats(target: Target) -> Outcome {
    let stats: Box<StatsReply> = ask(&target, Request::Stats).await?;
    let mut text = figures(&stats).render();
    text.push('\n');
    text.push_str(&histograms(&stats).render());
    let codes = codes(&stats);
    if let Some(codes) = codes {
        text.push('\n');
        text.push_str(&codes.render());
    }
    Ok(Success::new(&stats, text))
}

fn figures(stats: &StatsReply) -> Table {
    let counters = &stats.counters;
    let waiting = stats.outbox_bytes;
    let mut table = Table::new(["CELL", stats.cell.as_str()]);
    table.row(["state", &word(&stats.state)]);
    table.row(["up for", &time(stats.uptime_ms)]);
    for (name, count) in [
        ("accepted", counters.accepted),
        ("delivered", counters.delivered),
        ("forwarded", counters.forwarded),
        ("queued", counters.queued),
        ("late replies", counters.late_replies),
        ("requests outstanding", stats.outstanding),
        ("messages handling", stats.handling),
    ] {
        table.row([name, &count.to_string()]);
    }
    table.row(["read", &bytes(counters.bytes_in)]);
    table.row(["written", &bytes(counters.bytes_out)]);
    let waiting = format!("{}/{}/{}", waiting.control, waiting.interactive, waiting.bulk);
    table.row(["bytes waiting C/I/B", &waiting]);
    if let Some(handler) = &stats.event_loop.kept_by {
        table.row(["event loop kept by", handler]);
    }
    table
}

fn histograms(stats: &StatsReply) -> Table {
    let mut table = Table::new(["MEASURED", "COUNT", "P50", "P90", "P99", "P99.9", "MAX"]);
    let micros = |us: u64| round_trip(Some(us));
    let mut row = |name: &str, report: &HistogramReport, show: &dyn Fn(u64) -> String| {
        let HistogramReport { count, p50, p90, p99, p999, max, .. } = report;
        let figures = [p50, p90, p99, p999, max].map(|figure| show(*figure));
        let [p50, p90, p99, p999, max] = &figures;
        table.row([name, &count.to_string(), p50, p90, p99, p999, max]);
    };
    let measured = &stats.measured;
    row("request time", &measured.request_us, &micros);
    row("handler time", &measured.handler_us, &micros);
    row("queue time", &measured.queue_us, &micros);
    row("payload size", &measured.payload_bytes, &bytes);
    row("event loop delay", &stats.event_loop.delay_us, &micros);
    table
}

/// What went wrong, by code; none where nothing did.
fn codes(stats: &StatsReply) -> Option<Table> {
    let mut table = Table::new(["WHERE", "CODE", "COUNT"]);
    let counters = &stats.counters;
    let refused = counters.refused.iter().map(|(code, count)| ("not let in", code, *count));
    let dead = counters.dead.iter().map(|(code, count)| ("on the way", code, *count));
    let letters = stats.dead_letters.iter().map(|row| ("dead letter", &row.code, row.count));
    let mut any = false;
    for (place, code, count) in refused.chain(dead).chain(letters) {
        any = true;
        table.row([place, code, &count.to_string()]);
    }
    any.then_some(table)
}

/// `dead-letters`.
pub async fn dead_letters(args: args::DeadLetters) -> Outcome {
    let target = args.cell.target();
    let code = args.code.map(|status| status.code().to_owned());
    let request = Request::DeadLetters(DeadLettersAsk { limit: args.limit, code });
    let reply: DeadLettersReply = ask(&target, request).await?;
    let mut counts = Table::new(["CODE", "CLASS", "COUNT"]);
    for row in &reply.counts {
        counts.row([&row.code, &row.class, &row.count.to_string()]);
    }
    let mut letters =
        Table::new(["AT", "CODE", "KIND", "ORIGIN", "NUMBER", "DESTINATION", "TARGET", "SIZE"]);
    for row in &reply.letters {
        letters.row([
            &ago(row.unix),
            &row.code,
            &row.kind,
            &row.origin,
            &row.sequence.to_string(),
            &row.destination,
            &row.target,
            &bytes(row.payload_len),
        ]);
    }
    let text = format!("{}\n{}", counts.render(), letters.render());
    Ok(Success::new(&reply, text))
}

/// `metrics`.
pub async fn metrics(target: Target) -> Outcome {
    let reply: MetricsReply = ask(&target, Request::Metrics).await?;
    let text = reply.text.clone();
    Ok(Success::new(&reply, text))
}

/// `trace`. The answer is no when the message did not arrive.
pub async fn trace(args: args::Trace) -> Outcome {
    let args::Trace { from, to, address, deliver, payload, budget, target } = args;
    let from = full_name(&target, from)?;
    let target = Target { at: Some(from), ..target };
    let request = Request::Trace(TraceAsk {
        to: full_name(&target, to)?,
        channel: address.channel().clone(),
        topic: address.topic().clone(),
        payload: Payload::from_bytes(&read_payload(&payload)?),
        deliver,
        budget_ms: millis(budget),
    });
    let reply: TraceReply = ask(&target, request).await?;
    let human = way_of(&reply);
    match &reply.code {
        None => Ok(Success::new(&reply, human)),
        Some(code) => {
            let by = reply.by.as_ref().map(ToString::to_string);
            let text = format!("{} -> {} {} ends there", reply.from, reply.to, reply.target);
            let failure = no(code.clone(), text, by, human).data(&reply);
            let status = Status::from_code(code);
            let hint = status.map(|status| {
                let message = (&reply.from, &reply.to, &reply.target as &dyn Display);
                next_step(status, reply.by.as_ref(), message, true)
            });
            Err(match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            })
        }
    }
}

fn way_of(reply: &TraceReply) -> String {
    let mut text = hops(&reply.hops).render();
    let end = match (&reply.code, reply.delivered) {
        (Some(code), _) => code.clone(),
        (None, true) => "answered by its handler".to_owned(),
        (None, false) => "would be delivered".to_owned(),
    };
    text.push_str(&format!("\n{end} after {}\n", round_trip(Some(reply.elapsed_us))));
    text
}

/// The way of one message, one line for each cell.
pub fn hops(hops: &[HopRow]) -> Table {
    let mut table = Table::new(["HOP", "CELL", "VERDICT", "HELD", "WIRE", "WHY"]);
    for (hop, row) in hops.iter().enumerate() {
        let why = match (&row.code, &row.rule) {
            (Some(code), Some(rule)) if is_of_rules(code) => format!("{code}: {rule}"),
            (Some(code), Some(rule)) => format!("{code}, though let in by {rule}"),
            (Some(code), None) => code.clone(),
            (None, rule) => or_dash(rule.as_ref()),
        };
        table.row([
            &(hop + 1).to_string(),
            row.cell.as_str(),
            &word(&row.verdict),
            &round_trip(Some(row.queue_us)),
            &round_trip(Some(row.wire_us).filter(|us| *us > 0)),
            &why,
        ]);
    }
    table
}

/// Whether this code is what rules refuse with, so that a rule beside it is the one that refused.
fn is_of_rules(code: &str) -> bool {
    Status::from_code(code).is_some_and(is_ruling)
}
