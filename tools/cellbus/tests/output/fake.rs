//! Cells that answer on control sockets with fixed replies, without a network.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, thread};

use cellbus_cells::control::{
    Accepted, CellRow, CellState, ControlError, ControlSocket, Controlled, Direction, ExplainAsk,
    ExplainReply, LinkState, MetricsReply, NearRow, Payload, PeerRow, PingAsk, PingReply, PingRow,
    PolicyHop, PolicyReply, ProblemRow, ReloadOutcome, ReloadReply, Reply, Request, RequestAsk,
    RequestReply, RuleRow, StatusReport, Talk, Verdict,
};
use cellbus_channels::{BoxFuture, CellKind, Fqcn, Status};
use cellbus_proto::renewal::RenewedBy;
use serde_json::json;

#[path = "fake/join.rs"]
mod join;
#[path = "fake/observed.rs"]
mod observed;
#[path = "fake/talks.rs"]
mod talks;
#[path = "fake/trust.rs"]
mod trust;

struct Fake {
    status: StatusReport,
}

/// Serves a cell in `<state>/<name>` until the process ends.
pub fn serve(state: &Path, name: &str, kind: CellKind) {
    let dir = state.join(name);
    fs::create_dir_all(&dir).expect("a temporary directory takes directories");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let socket = ControlSocket::bind(&dir).expect("nobody else is there");
    let cell = Arc::new(Fake { status: status(name, kind) });
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let served = runtime.expect("a runtime").block_on(socket.serve(cell));
        panic!("the socket ended: {served:?}");
    });
}

impl Controlled for Fake {
    fn converse(&self, request: Request, talk: Talk) -> BoxFuture<Result<Reply, ControlError>> {
        Box::pin(talks::run(self.status.cell.clone(), request, talk))
    }

    fn handle(&self, request: Request) -> BoxFuture<Result<Reply, ControlError>> {
        let cell = self.status.cell.clone();
        let answer = match request {
            Request::Status => Ok(Reply::Status(self.status.clone())),
            Request::Cells => {
                Ok(Reply::Cells(vec![row("relay", None), row("relay.site-1", Some("relay"))]))
            }
            Request::Peers => Ok(Reply::Peers(vec![peer()])),
            Request::Ping(ask) => Ok(Reply::Ping(pings(&ask))),
            Request::Explain(ask) => Ok(Reply::Explain(explain(&ask, cell))),
            Request::Policy(ask) => Ok(Reply::Policy(Box::new(policy(ask, cell)))),
            Request::Reload(ask) => Ok(Reply::Reload(reload(ask.dry_run, cell))),
            Request::Request(ask) => request_to(ask),
            Request::Links => Ok(Reply::Links(vec![observed::link()])),
            Request::Routes => Ok(Reply::Routes(observed::routes())),
            Request::Stats => Ok(Reply::Stats(Box::new(observed::stats(cell)))),
            Request::DeadLetters(ask) => Ok(Reply::DeadLetters(observed::dead_letters(cell, &ask))),
            Request::Metrics => {
                let text = cellbus_cells::metrics::render(vec![observed::stats(cell.clone())]);
                Ok(Reply::Metrics(MetricsReply { cell, text }))
            }
            Request::Trace(ask) => Ok(Reply::Trace(observed::trace(cell, ask))),
            Request::Send(ask) => observed::send(ask),
            Request::Transfer(ask) => Ok(observed::transfers(cell, ask)),
            Request::Lists => Ok(Reply::Lists(Box::new(trust::lists(cell)))),
            Request::TakeLists(ask) => trust::take(cell, &ask),
            Request::Ban(ask) => trust::ban(cell, &ask),
            Request::Join(ask) => join::answer(&ask),
            Request::JobLs => Ok(Reply::Jobs(vec![observed::job()])),
            Request::JobShow(_) | Request::JobCancel(_) => {
                Ok(Reply::Job(Box::new(observed::job())))
            }
            Request::JobAttach(ask) => Ok(Reply::Meeting(observed::meeting(cell, ask))),
            Request::Replies(_)
            | Request::Tap(_)
            | Request::Serve(_)
            | Request::JobRun(_)
            | Request::JobLogs(_) => Err(ControlError::status(Status::Forbidden, "it goes on")),
            Request::Inspect => Ok(Reply::Inspect(json!({ "seed": 7 }))),
            Request::Drain | Request::Stop => {
                Ok(Reply::Accepted(Accepted { cell, state: CellState::Draining }))
            }
        };
        Box::pin(async move { answer })
    }
}

fn name(text: &str) -> Fqcn {
    text.parse().expect("a name")
}

fn status(cell: &str, kind: CellKind) -> StatusReport {
    StatusReport {
        cell: name(cell),
        kind,
        project: "study".parse().expect("a name"),
        incarnation: u64::MAX.to_string(),
        state: CellState::Ready,
        uptime_ms: 90_000,
        parent: None,
        uplink_state: None,
        children: 1,
        cert_expires_unix: 1_800_000_000,
        cert_renewal_unix: Some(1_790_000_000),
        cert_renewed_by: Some(RenewedBy::Server),
        counters: BTreeMap::from([("admitted".to_owned(), 12)]),
    }
}

fn row(cell: &str, via: Option<&str>) -> CellRow {
    CellRow {
        name: name(cell),
        kind: CellKind::Relay,
        state: LinkState::Active,
        since_ms: 5,
        rtt_us: via.is_none().then_some(1234),
        via: via.map(name),
    }
}

fn peer() -> PeerRow {
    PeerRow {
        name: name("relay"),
        kind: CellKind::Relay,
        org: "study".to_owned(),
        direction: Direction::Down,
        state: LinkState::Active,
        rtt_us: Some(1234),
        sent_bytes: 2048,
        sent_messages: 3,
        received_bytes: 0,
        received_messages: 0,
        since_ms: 5,
        cert_expires_unix: Some(2_000_000_000),
    }
}

fn pings(ask: &PingAsk) -> PingReply {
    let gone = ask.to == name("gone");
    let row = |seq| PingRow {
        seq,
        rtt_us: (!gone).then_some(900),
        status: gone.then(|| Status::NoRoute.code().to_owned()),
        by: gone.then(|| name("server")),
        hops: observed::hops(gone.then_some(Status::NoRoute)),
    };
    PingReply { to: ask.to.clone(), rows: (1..=ask.count).map(row).collect() }
}

fn explain(ask: &ExplainAsk, at: Fqcn) -> ExplainReply {
    if ask.to == name("site-2") {
        let code = Some(Status::TopicDenied.code().to_owned());
        let rule = Some("no rule allows it".to_owned());
        return ExplainReply { verdict: Verdict::Refuse, code, rule, next_hop: None, at };
    }
    let rule = Some("allow site-* -> server task/fetch".to_owned());
    let next_hop = Some(ask.to.clone());
    ExplainReply { verdict: Verdict::Admit, code: None, rule, next_hop, at }
}

fn policy(ask: ExplainAsk, at: Fqcn) -> PolicyReply {
    let passes = ask.to != name("site-2");
    let verdict = if passes { Verdict::Admit } else { Verdict::Refuse };
    let text = "allow site-* -> server task/fetch".to_owned();
    let rule = RuleRow { number: 1, line: Some(17), text };
    let near = NearRow {
        rule: rule.clone(),
        fails: "to".to_owned(),
        why: "its `to` is not about the receiver".to_owned(),
        did_you_mean: None,
    };
    // Of the cells on the way only the one that is asked is known to it.
    let hops = ["server", "relay", "elsewhere"].map(|cell| PolicyHop {
        cell: name(cell),
        verdict: (at == name(cell)).then_some(verdict),
        revision: (at == name(cell)).then_some(3),
        rule: (passes && at == name(cell)).then(|| rule.clone()),
    });
    PolicyReply {
        from: ask.from,
        to: ask.to,
        target: format!("{}/{}", ask.channel, ask.topic),
        direction: "up".to_owned(),
        verdict,
        code: (!passes).then(|| Status::TopicDenied.code().to_owned()),
        why: "as it is".to_owned(),
        rule: passes.then_some(rule),
        seal: false,
        revision: Some(3),
        hops: hops.into(),
        near: if passes { Vec::new() } else { vec![near] },
    }
}

fn reload(dry_run: bool, cell: Fqcn) -> ReloadReply {
    let applied = if dry_run { ReloadOutcome::WouldApply } else { ReloadOutcome::Applied };
    let refuses = cell == name("refuses");
    let problem = ProblemRow {
        code: "CBT041".to_owned(),
        severity: "error".to_owned(),
        message: "\x1b[31mno such cell".to_owned(),
        line: Some(4),
        column: Some(8),
        help: Some("did you mean `site-1`?".to_owned()),
    };
    ReloadReply {
        file: "/study.toml".to_owned(),
        outcome: if refuses { ReloadOutcome::Refused } else { applied },
        from: 3,
        to: if dry_run || refuses { 3 } else { 4 },
        changes: vec!["rule added: allow site-* -> server task/fetch".to_owned()],
        needs_restart: vec!["relay: hosts".to_owned()],
        problems: if refuses { vec![problem] } else { Vec::new() },
        cells: vec![cell],
    }
}

fn request_to(ask: RequestAsk) -> Result<Reply, ControlError> {
    let RequestAsk { to, payload, content_type, .. } = ask;
    let status = match to.as_str() {
        "denied" => Status::TopicDenied,
        "slow" => Status::Deadline,
        "failed" => Status::HandlerFailed,
        "stranger" => Status::Unauthenticated,
        "binary" => {
            let payload = Payload::from_bytes(b"\xff\x00");
            return Ok(Reply::Request(RequestReply {
                payload,
                content_type,
                from: to,
                elapsed_us: 7,
            }));
        }
        _ => {
            return Ok(Reply::Request(RequestReply {
                payload,
                content_type,
                from: to,
                elapsed_us: 7,
            }));
        }
    };
    Err(ControlError::status(status, format!("{to}: \x1b[31m{status}")).by("relay").hint("ask"))
}
