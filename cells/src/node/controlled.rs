//! What a running cell answers on its control socket.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use cellbus_channels::{BoxFuture, Bus, Probe, RequestError};
use cellbus_proto::{
    admission::Permit,
    directory::Directory,
    identity::CellKind,
    name::{ChannelTopic, Fqcn},
    route::Hop,
    status::Status,
    topology::Topology,
    well_known,
};
use cellbus_runtime::{
    cell::{CellState as Running, InspectReport},
    certificate::leaf_hash,
    clock,
    host::RunningCell,
    stats::LoopDelay,
};
use tokio::sync::Notify;

use super::{LiveRules, Node, NodeCell, observed::bad, rules::explained};
use crate::{
    door::{Desk, hex},
    job::JobHost,
};

use crate::control::{
    Accepted, CellRow, CellState, ControlError, Controlled, Direction, ExplainAsk, ExplainReply,
    JoinAsk, LinkState, LocalCode, Payload, PeerRow, PingAsk, PingReply, PingRow, PolicyReply,
    Reply, Request, RequestAsk, RequestReply, StatusReport, Talk, Verdict,
};

/// A cell of this process, for its control socket.
#[derive(Clone)]
pub(super) struct ControlledCell {
    pub(super) running: RunningCell,
    pub(super) bus: Bus,
    pub(super) topology: Arc<Topology>,
    /// What the topology says; the roster may say otherwise.
    configured: Arc<Directory>,
    pub(super) event_loop: Arc<LoopDelay>,
    pub(super) jobs: Arc<OnceLock<JobHost>>,
    door: Option<Desk>,
    rules: Arc<LiveRules>,
    leave: Arc<Notify>,
    started: std::time::Instant,
}

impl ControlledCell {
    pub(super) fn new(cell: &NodeCell, node: &Node) -> Self {
        Self {
            running: cell.running.clone(),
            bus: cell.running.bus(),
            topology: Arc::clone(&node.topology),
            configured: Arc::clone(&node.directory),
            jobs: Arc::clone(&cell.host),
            door: cell.door.clone(),
            rules: Arc::clone(&node.rules),
            event_loop: LoopDelay::of_this_thread(),
            leave: Arc::clone(&cell.leave),
            started: clock::now(),
        }
    }

    /// The cells of the project: those of the signed roster, or of the topology where there is none.
    pub(super) fn directory(&self) -> Arc<Directory> {
        let lists = self.running.own().lists.view();
        Arc::clone(lists.directory().unwrap_or(&self.configured))
    }

    pub(super) fn name(&self) -> Fqcn {
        self.running.own().name.clone()
    }

    pub(super) fn uptime_ms(&self) -> u64 {
        millis(clock::now().saturating_duration_since(self.started))
    }

    pub(super) fn state(&self) -> CellState {
        match self.running.state() {
            Running::Starting => CellState::Starting,
            Running::Connecting => CellState::Connecting,
            Running::Ready => CellState::Ready,
            Running::Draining | Running::Stopped => CellState::Draining,
        }
    }

    pub(super) async fn report(&self) -> Result<InspectReport, ControlError> {
        self.running.inspect().await.ok_or_else(|| {
            ControlError::status(Status::ShuttingDown, format!("{} is stopping", self.name()))
        })
    }

    async fn status(&self) -> Result<Reply, ControlError> {
        let report = self.report().await?;
        let own = self.running.own();
        let uplink = report.links.iter().any(|link| link.is_parent);
        let (shown, renews) = (own.certificate(), !self.topology.dev);
        let dates = shown.dates();
        let figures = [
            ("accepted", report.counters.accepted),
            ("delivered", report.counters.delivered),
            ("forwarded", report.counters.forwarded),
            ("refused", report.counters.refused.values().sum()),
            ("dead", report.counters.dead.values().sum()),
            ("late_replies", report.counters.late_replies),
            ("certificates_issued", report.counters.certificates_issued),
            ("bytes_in", report.counters.bytes_in),
            ("bytes_out", report.counters.bytes_out),
        ];
        Ok(Reply::Status(StatusReport {
            cell: own.name.clone(),
            kind: own.kind(),
            project: own.identity.project.clone(),
            incarnation: report.incarnation,
            state: self.state(),
            uptime_ms: self.uptime_ms(),
            parent: own.parent.clone(),
            uplink_state: own
                .parent
                .as_ref()
                .map(|_| if uplink { LinkState::Active } else { LinkState::Connecting }),
            children: u32::try_from(report.links.iter().filter(|link| !link.is_parent).count())
                .unwrap_or(u32::MAX),
            cert_expires_unix: dates.not_after,
            cert_renewal_unix: renews.then(|| dates.life().due(&shown.hash())),
            cert_renewed_by: own.renewed_by().filter(|_| renews),
            counters: figures.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
        }))
    }

    /// Every cell of the topology, and every registered job cell: what is known of each from here.
    async fn cells(&self) -> Result<Reply, ControlError> {
        let report = self.report().await?;
        let own = self.running.own();
        let mut rows: Vec<CellRow> = Vec::new();
        let known = |name: &Fqcn, kind: CellKind| {
            let link = report.links.iter().find(|link| link.peer == name.as_str());
            let record = report.registered.iter().find(|peer| peer.name == name.as_str());
            let is_self = *name == own.name;
            let state = match (is_self, link, record) {
                (true, ..) if self.running.state() == Running::Ready => LinkState::Active,
                (true, ..) => LinkState::Connecting,
                (false, Some(_), _) | (false, None, Some(_)) => LinkState::Active,
                (false, None, None) => LinkState::Closed,
            };
            CellRow {
                name: name.clone(),
                kind,
                state,
                since_ms: if is_self {
                    self.uptime_ms()
                } else {
                    link.map(|link| link.since_ms)
                        .or(record.map(|record| record.since_ms))
                        .unwrap_or(0)
                },
                rtt_us: link.map(|link| link.rtt_us),
                via: record
                    .filter(|record| !record.direct)
                    .and_then(|record| record.via.parse().ok()),
            }
        };
        rows.extend(self.topology.cells().iter().map(|spec| known(&spec.fqcn, spec.kind)));
        if let Some(roster) = self.running.own().lists.view().roster {
            let directory = roster.directory();
            rows.retain(|row| directory.kind_of(&row.name).is_some());
            let more = directory.iter().filter(|(name, _)| self.configured.kind_of(name).is_none());
            rows.extend(more.map(|(name, kind)| known(name, kind)));
        }
        for peer in report.registered.iter().filter(|peer| peer.kind == CellKind::Job.as_str()) {
            if let Ok(name) = peer.name.parse::<Fqcn>() {
                rows.push(known(&name, CellKind::Job));
            }
        }
        Ok(Reply::Cells(rows))
    }

    async fn peers(&self) -> Result<Reply, ControlError> {
        let report = self.report().await?;
        let rows = report.links.iter().filter_map(|link| {
            Some(PeerRow {
                name: link.peer.parse().ok()?,
                kind: link.kind.parse().ok()?,
                org: link.org.clone(),
                direction: if link.is_parent { Direction::Up } else { Direction::Down },
                state: LinkState::Active,
                rtt_us: Some(link.rtt_us),
                sent_bytes: link.sent_bytes,
                sent_messages: link.sent_messages,
                received_bytes: link.received_bytes,
                received_messages: link.received_messages,
                since_ms: link.since_ms,
                cert_expires_unix: Some(link.cert_expires_unix),
            })
        });
        Ok(Reply::Peers(rows.collect()))
    }

    async fn ping(&self, ask: PingAsk) -> Result<Reply, ControlError> {
        let target = ChannelTopic::from(well_known::PING);
        let to = self.full_name(ask.to);
        let mut rows = Vec::new();
        for seq in 1..=ask.count {
            let begun = clock::now();
            let budget = Duration::from_millis(ask.budget_ms);
            let request = self.bus.request(to.clone(), target.clone()).budget(budget);
            let request = request.payload(seq.to_be_bytes().to_vec());
            let Probe { path, outcome } = request.probe(false).await;
            let rtt_us = micros(clock::now().saturating_duration_since(begun));
            let error = outcome.as_ref().err();
            rows.push(PingRow {
                seq,
                rtt_us: error.is_none().then_some(rtt_us),
                status: error.map(|error| error.status().code().to_owned()),
                by: error.and_then(RequestError::by).cloned(),
                hops: self.hops(path, error),
            });
        }
        Ok(Reply::Ping(PingReply { to, rows }))
    }

    /// What this cell would do with a message of its own, or with one of another cell as far as the
    /// policy alone decides.
    async fn explain(&self, ask: ExplainAsk) -> Result<Reply, ControlError> {
        let (from, to) = (self.full_name(ask.from), self.full_name(ask.to));
        let ask = ExplainAsk { from, to, ..ask };
        let target = ChannelTopic::new(ask.channel, ask.topic);
        let at = self.name();
        if ask.from != at {
            return self.explain_foreign(&ask.from, &ask.to, &target);
        }
        let reply = match self.running.explain(ask.to.clone(), target.clone()).await {
            Ok((permit, next)) => ExplainReply {
                verdict: Verdict::Admit,
                code: None,
                rule: Some(self.name_permit(permit)),
                next_hop: self.name_hop(next, &ask.to).await,
                at,
            },
            Err(status) => ExplainReply {
                verdict: Verdict::Refuse,
                code: Some(status.code().to_owned()),
                rule: Some(self.name_refusal(status, &ask.from, &ask.to, &target)),
                next_hop: None,
                at,
            },
        };
        Ok(Reply::Explain(reply))
    }

    fn explain_foreign(
        &self,
        from: &Fqcn,
        to: &Fqcn,
        target: &ChannelTopic,
    ) -> Result<Reply, ControlError> {
        let policy = self.rules.policy();
        let judged =
            cellbus_proto::admission::judge_names(&policy, &self.directory(), from, to, target);
        let (verdict, code, rule) = match judged {
            Ok(permit) => (Verdict::Admit, None, self.name_permit(permit)),
            Err(status) => {
                let why = self.name_refusal(status, from, to, target);
                (Verdict::Refuse, Some(status.code().to_owned()), why)
            }
        };
        let at = self.name();
        Ok(Reply::Explain(ExplainReply { verdict, code, rule: Some(rule), next_hop: None, at }))
    }

    /// Which rules of this process decide about a message, whoever sends it.
    fn explain_rules(&self, ask: ExplainAsk) -> Reply {
        let (from, to) = (self.full_name(ask.from), self.full_name(ask.to));
        let target = ChannelTopic::new(ask.channel, ask.topic);
        let policy = self.rules.policy();
        let is_here = |cell: &Fqcn| self.rules.is_here(cell);
        let message = (&from, &to, &target);
        let revision = Some(policy.revision);
        let said = PolicyReply::of(&policy, &self.directory(), message, revision, is_here);
        Reply::Policy(Box::new(said))
    }

    fn name_permit(&self, permit: Permit) -> String {
        match permit {
            Permit::Exempt(topic) => format!("exempt: {}/{}", topic.channel, topic.topic),
            Permit::System(topic) => {
                format!("built-in rule of {}/{}", topic.channel, topic.topic)
            }
            Permit::Job => "cells of one job, or a job cell and its parent".to_owned(),
            Permit::Rule { rule, .. } => match self.rules.policy().rules().get(rule) {
                Some(text) => format!("rule {}: {text}", rule + 1),
                None => "an answer on its way back".to_owned(),
            },
        }
    }

    /// What the rules say where it is they that refuse, and else what the status means.
    fn name_refusal(
        &self,
        status: Status,
        from: &Fqcn,
        to: &Fqcn,
        target: &ChannelTopic,
    ) -> String {
        let policy = self.rules.policy();
        let message = (from, to, target);
        let said = PolicyReply::of(&policy, &self.directory(), message, None, |_| false);
        let by_rules = said.code.as_deref() == Some(status.code());
        if by_rules { said.why } else { status.meaning().to_owned() }
    }

    async fn name_hop(&self, next: Hop, to: &Fqcn) -> Option<Fqcn> {
        match next {
            Hop::Local => None,
            Hop::Link(id) => {
                let report = self.running.inspect().await?;
                let link = report.links.iter().find(|link| link.link == id.0)?;
                link.peer.parse().ok().or_else(|| Some(to.clone()))
            }
        }
    }

    async fn request(&self, ask: RequestAsk) -> Result<Reply, ControlError> {
        let from = self.full_name(ask.to.clone());
        let target = ChannelTopic::new(ask.channel.clone(), ask.topic.clone());
        let request = self.message(ask)?;
        let begun = clock::now();
        let sent = request.send().await;
        let reply = sent.map_err(|error| explained(error, &self.name(), &from, &target))?;
        Ok(Reply::Request(RequestReply {
            payload: Payload::from_bytes(&reply.payload),
            content_type: reply.content_type.map(|text| text.to_string()),
            from,
            elapsed_us: micros(clock::now().saturating_duration_since(begun)),
        }))
    }

    /// What somebody who decides about requests to join asks.
    async fn join(&self, ask: JoinAsk) -> Result<Reply, ControlError> {
        let Some(desk) = self.door.clone() else {
            let text = format!("{} has no join door", self.name());
            let hint = "ask the server; one that is run from a kit opens a door where local/join.toml \
                        in its kit says so, and one of a topology file has none: make kits with \
                        `cellbus provision`";
            return Err(ControlError::local(LocalCode::JoinClosed, text).hint(hint));
        };
        // It writes to the disk.
        let asked = tokio::task::spawn_blocking(move || desk.control(&ask)).await;
        let failed = |_| ControlError::status(Status::ShuttingDown, "the cell is stopping");
        let mut reply = asked.map_err(failed)??;
        // Those that are trusted now: another generation may have come since the start.
        let roots = self.running.own().roots.ders();
        reply.roots = roots.iter().map(|der| hex(&leaf_hash(der))).collect();
        Ok(Reply::Join(Box::new(reply)))
    }

    pub(super) async fn answer(self, request: Request) -> Result<Reply, ControlError> {
        match request {
            Request::Status => self.status().await,
            Request::Cells => self.cells().await,
            Request::Peers => self.peers().await,
            Request::Links => self.links().await,
            Request::Routes => self.routes().await,
            Request::Stats => self.stats().await,
            Request::DeadLetters(ask) => Ok(self.dead_letters(&ask)),
            Request::Metrics => self.metrics().await,
            Request::Trace(ask) => self.trace(ask).await,
            Request::Send(ask) => self.send(ask).await,
            Request::Ping(ask) => self.ping(ask).await,
            Request::Explain(ask) => self.explain(ask).await,
            Request::Policy(ask) => Ok(self.explain_rules(ask)),
            Request::Reload(ask) => {
                let by = ask.by.as_deref().unwrap_or("a control socket");
                self.rules.reload(by, ask.dry_run).await.map(Reply::Reload)
            }
            Request::Lists => Ok(Reply::Lists(Box::new(self.lists()))),
            Request::TakeLists(ask) => self.take_lists(ask).await,
            Request::Ban(ask) => self.change_bans(ask).await,
            Request::Join(ask) => self.join(ask).await,
            Request::Request(ask) => self.request(ask).await,
            Request::Inspect => {
                let report = self.report().await?;
                serde_json::to_value(report).map(Reply::Inspect).map_err(|error| {
                    ControlError::local(LocalCode::ControlBadRequest, error.to_string())
                })
            }
            Request::Transfer(ask) => self.transfer_now(ask).await,
            Request::JobLs => self.jobs_here(),
            Request::JobShow(ask) => self.job(&ask),
            Request::JobCancel(ask) => self.cancel_job(&ask),
            Request::JobAttach(ask) => self.attach_to_job(ask).await,
            Request::Replies(_)
            | Request::Tap(_)
            | Request::Serve(_)
            | Request::JobRun(_)
            | Request::JobLogs(_) => Err(bad("this request goes on".to_owned())),
            Request::Drain => {
                self.leave.notify_one();
                Ok(Reply::Accepted(Accepted { cell: self.name(), state: CellState::Draining }))
            }
            Request::Stop => {
                self.running.stop();
                self.leave.notify_one();
                Ok(Reply::Accepted(Accepted { cell: self.name(), state: CellState::Draining }))
            }
        }
    }
}

impl Controlled for ControlledCell {
    fn handle(&self, request: Request) -> BoxFuture<Result<Reply, ControlError>> {
        Box::pin(self.clone().answer(request))
    }

    fn converse(&self, request: Request, talk: Talk) -> BoxFuture<Result<Reply, ControlError>> {
        Box::pin(self.clone().go_on(request, talk))
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
