//! What people see of a running cell: links, routes, figures, dead letters, and the way of one message.

use std::{collections::BTreeMap, time::Duration};

use cellbus_channels::{HopRecord, Lane, Probe, PublishError, RequestError};
use cellbus_proto::{
    dead_letters::ChannelClass,
    identity::CellKind,
    name::{ChannelTopic, Fqcn},
    status::{Class, Status},
};
use cellbus_runtime::{
    cell::LinkReport,
    clock,
    counters::CounterReport,
    dead_letters::{DeadLetterCount, DeadLetterReport},
};

use super::controlled::{ControlledCell, micros};
use crate::{
    control::{
        ControlError, CounterRows, DeadCount, DeadLettersAsk, DeadLettersReply, DeadRow, Direction,
        HopRow, LaneBytes, LinkCounts, LinkRow, LocalCode, MetricsReply, Reply, RouteRow, SendAsk,
        SendReply, StatsReply, TraceAsk, TraceReply, Verdict, next_step,
    },
    metrics,
};

impl ControlledCell {
    pub(super) async fn links(&self) -> Result<Reply, ControlError> {
        let report = self.report().await?;
        Ok(Reply::Links(report.links.iter().filter_map(link_row).collect()))
    }

    pub(super) async fn routes(&self) -> Result<Reply, ControlError> {
        let report = self.report().await?;
        let me = self.name();
        let mut rows = vec![RouteRow {
            destination: me.to_string(),
            next_hop: None,
            link: None,
            rtt_us: None,
            registered: 0,
        }];
        let children = report.links.iter().filter(|link| !link.is_parent);
        for link in children {
            let below = format!("{}.", link.peer);
            let behind = report.registered.iter().filter(|peer| peer.name.starts_with(&below));
            rows.extend(route(link.peer.clone(), link, 0));
            rows.extend(route(format!("{below}*"), link, behind.count()));
        }
        let uplink = report.links.iter().find(|link| link.is_parent);
        rows.extend(uplink.and_then(|link| route("*".to_owned(), link, 0)));
        Ok(Reply::Routes(rows))
    }

    pub(super) async fn stats(&self) -> Result<Reply, ControlError> {
        Ok(Reply::Stats(Box::new(self.figures().await?)))
    }

    /// Everything that this cell has counted and measured.
    pub(super) async fn figures(&self) -> Result<StatsReply, ControlError> {
        let report = self.report().await?;
        let own = self.running.own();
        let waiting = |lane: usize| -> u64 {
            report.links.iter().map(|link| link.queued_by_lane[lane] as u64).sum()
        };
        let outbox_bytes = LaneBytes {
            control: waiting(Lane::Control as usize),
            interactive: waiting(Lane::Interactive as usize),
            bulk: waiting(Lane::Bulk as usize),
        };
        let up = report.links.iter().filter(|link| link.is_parent).count() as u64;
        let links = LinkCounts { up, down: report.links.len() as u64 - up };
        Ok(StatsReply {
            cell: own.name.clone(),
            state: self.state(),
            uptime_ms: self.uptime_ms(),
            outstanding: report.outstanding as u64,
            handling: report.handling as u64,
            links,
            outbox_bytes,
            counters: counter_rows(report.counters),
            dead_letters: dead_counts(&own.dead_letters.report(0, None)),
            measured: own.stats.report(),
            event_loop: self.event_loop.report(),
        })
    }

    pub(super) async fn metrics(&self) -> Result<Reply, ControlError> {
        let text = metrics::render(vec![self.figures().await?]);
        Ok(Reply::Metrics(MetricsReply { cell: self.name(), text }))
    }

    pub(super) fn dead_letters(&self, ask: &DeadLettersAsk) -> Reply {
        let status = ask.code.as_deref().and_then(Status::from_code);
        let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
        let report = self.running.own().dead_letters.report(limit, status);
        let counts = dead_counts(&report);
        let letters = report.letters.into_iter().map(|letter| DeadRow {
            unix: letter.unix,
            code: letter.code.to_owned(),
            kind: letter.kind.to_owned(),
            origin: letter.origin,
            sequence: letter.sequence,
            destination: letter.destination,
            target: letter.target,
            link: letter.link,
            payload_len: letter.payload_len as u64,
            budget_ms: letter.budget_ms,
        });
        Reply::DeadLetters(DeadLettersReply {
            cell: self.name(),
            counts,
            letters: letters.collect(),
        })
    }

    /// The full name of the cell that a person calls `name`: a base name is enough, since it is unique.
    pub(super) fn full_name(&self, name: Fqcn) -> Fqcn {
        if self.directory().kind_of(&name).is_some() {
            return name;
        }
        self.topology.cell(name.as_str()).map_or(name, |spec| spec.fqcn.clone())
    }

    pub(super) async fn trace(&self, ask: TraceAsk) -> Result<Reply, ControlError> {
        let target = ChannelTopic::new(ask.channel, ask.topic);
        let to = self.full_name(ask.to);
        let payload = ask.payload.to_bytes().map_err(|error| bad(error.to_string()))?;
        let begun = clock::now();
        let request = self.bus.request(to.clone(), target.clone()).payload(payload);
        let request = request.budget(Duration::from_millis(ask.budget_ms));
        let Probe { path, outcome } = request.probe(ask.deliver).await;
        let elapsed_us = micros(clock::now().saturating_duration_since(begun));
        let error = outcome.as_ref().err();
        let hops = self.hops(path, error);
        // What was certainly not executed was not delivered; what failed in the handler was.
        let delivered = ask.deliver && error.is_none_or(|error| error.class() != Class::Refused);
        Ok(Reply::Trace(TraceReply {
            from: self.name(),
            to,
            target: target.to_string(),
            hops,
            delivered,
            code: error.map(|error| error.status().code().to_owned()),
            by: error.and_then(RequestError::by).cloned(),
            elapsed_us,
        }))
    }

    /// The hops of a message, to the one that refused it.
    pub(super) fn hops(&self, path: Vec<HopRecord>, error: Option<&RequestError>) -> Vec<HopRow> {
        let mut hops = HopRow::of_path(path);
        let Some(RequestError::Returned { by, status, .. }) = error else { return hops };
        let code = Some(status.code().to_owned());
        match hops.iter_mut().rev().find(|hop| hop.cell == *by) {
            Some(hop) if hop.code.is_none() => (hop.verdict, hop.code) = (Verdict::Refuse, code),
            Some(_) => {}
            // It was not let out, so that no filter has seen it.
            None => hops.push(HopRow {
                cell: by.clone(),
                verdict: Verdict::Refuse,
                code,
                rule: None,
                queue_us: 0,
                wire_us: 0,
            }),
        }
        hops
    }

    pub(super) async fn send(&self, ask: SendAsk) -> Result<Reply, ControlError> {
        let payload = ask.payload.to_bytes().map_err(|error| bad(error.to_string()))?;
        let to = self.full_name(ask.to);
        let target = ChannelTopic::new(ask.channel, ask.topic);
        let mut message = self.bus.request(to.clone(), target.clone()).payload(payload);
        message = message.budget(Duration::from_millis(ask.budget_ms));
        if let Some(content_type) = &ask.content_type {
            message = message.content_type(content_type);
        }
        if let Some(headers) = ask.headers {
            message = message.headers(headers);
        }
        if ask.receipt {
            message = message.receipt();
        }
        let begun = clock::now();
        let sent = message.publish().await;
        sent.map_err(|error| not_sent(&error, (&self.name(), &to, &target)))?;
        let elapsed_us = micros(clock::now().saturating_duration_since(begun));
        Ok(Reply::Send(SendReply { to, accepted: ask.receipt, elapsed_us }))
    }
}

pub(super) fn bad(text: String) -> ControlError {
    ControlError::local(LocalCode::ControlBadRequest, text)
}

fn not_sent(
    error: &PublishError,
    (from, to, target): (&Fqcn, &Fqcn, &ChannelTopic),
) -> ControlError {
    let by = if let PublishError::Refused { by, .. }
    | PublishError::NoReceipt(RequestError::Returned { by, .. }) = error
    {
        Some(by)
    } else {
        None
    };
    let status = error.status();
    let hint = next_step(status, by, (from, to, target), false);
    let class = Some(error.class().into());
    let by = by.map(ToString::to_string);
    ControlError { by, class, ..ControlError::status(status, error.to_string()).hint(hint) }
}

fn direction(link: &LinkReport) -> Direction {
    if link.is_parent { Direction::Up } else { Direction::Down }
}

fn link_row(link: &LinkReport) -> Option<LinkRow> {
    let [control, interactive, bulk] = link.queued_by_lane.map(|bytes| bytes as u64);
    Some(LinkRow {
        name: link.peer.parse().ok()?,
        kind: link.kind.parse::<CellKind>().ok()?,
        org: link.org.clone(),
        direction: direction(link),
        link: link.link,
        rtt_us: link.rtt_us,
        sent_bytes: link.sent_bytes,
        sent_messages: link.sent_messages,
        received_bytes: link.received_bytes,
        received_messages: link.received_messages,
        outbox_bytes: LaneBytes { control, interactive, bulk },
        lost_packets: link.lost_packets,
        mtu: link.mtu,
        black_holes: link.black_holes,
        since_ms: link.since_ms,
        cert_expires_unix: link.cert_expires_unix,
    })
}

fn route(destination: String, link: &LinkReport, registered: usize) -> Option<RouteRow> {
    Some(RouteRow {
        destination,
        next_hop: Some(link.peer.parse().ok()?),
        link: Some(link.link),
        rtt_us: Some(link.rtt_us),
        registered: registered as u64,
    })
}

fn counter_rows(report: CounterReport) -> CounterRows {
    let named = |rows: BTreeMap<&'static str, u64>| {
        rows.into_iter().map(|(code, count)| (code.to_owned(), count)).collect()
    };
    CounterRows {
        accepted: report.accepted,
        delivered: report.delivered,
        exempt: report.exempt,
        forwarded: report.forwarded,
        queued: u64::try_from(report.queued).unwrap_or(0),
        dead: named(report.dead),
        refused: named(report.refused),
        late_replies: report.late_replies,
        certificates_issued: report.certificates_issued,
        bytes_in: report.bytes_in,
        bytes_out: report.bytes_out,
    }
}

fn dead_counts(report: &DeadLetterReport) -> Vec<DeadCount> {
    let class = |class| match class {
        ChannelClass::System => "system",
        ChannelClass::Application => "application",
    };
    let count = |count: &DeadLetterCount| DeadCount {
        code: count.code.to_owned(),
        class: class(count.class).to_owned(),
        count: count.count,
    };
    report.counts.iter().map(count).collect()
}
