//! What the cells of this test say about links, figures and the way of a message.

use std::collections::BTreeMap;

use cellbus_cells::control::{
    CellState, ControlError, CounterRows, DeadCount, DeadLettersAsk, DeadLettersReply, DeadRow,
    Direction, HopRow, JobAttachAsk, JobMeeting, LaneBytes, LinkCounts, LinkRow, LoopReport, Reply,
    RouteRow, SendAsk, SendReply, StatsReply, StatsReport, TraceAsk, TraceReply, TransferAsk,
    TransferCancelled, TransferRow, TransferRows, TransferState, Verdict,
};
use cellbus_cells::job::{JobReport, PartReport};
use cellbus_channels::{CellKind, Fqcn, Status};
use cellbus_proto::job::{JobState, Outcome, PartProgress, RunId};

use super::name;

pub fn link() -> LinkRow {
    LinkRow {
        name: name("relay"),
        kind: CellKind::Relay,
        org: "study".to_owned(),
        direction: Direction::Down,
        link: 3,
        rtt_us: 1234,
        sent_bytes: 2048,
        sent_messages: 3,
        received_bytes: 0,
        received_messages: 0,
        outbox_bytes: LaneBytes { control: 1, interactive: 2, bulk: 3 },
        lost_packets: 4,
        mtu: 1452,
        black_holes: 1,
        since_ms: 5,
        cert_expires_unix: 4_000_000_000,
    }
}

pub fn transfers(cell: Fqcn, ask: TransferAsk) -> Reply {
    let row = |state, file: Option<&str>| TransferRow {
        id: "0".repeat(32),
        state,
        other: Some(cell.clone()),
        target: "transfer/file".to_owned(),
        file: file.map(str::to_owned),
        bytes: 7,
        size: Some(9),
        age_ms: 5,
    };
    match ask {
        TransferAsk::Cancel { id } => Reply::TransferCancelled(TransferCancelled { id }),
        TransferAsk::List(_)
        | TransferAsk::Put(_)
        | TransferAsk::Get(_)
        | TransferAsk::Receive(_)
        | TransferAsk::Resume(_) => Reply::Transfers(TransferRows {
            rows: vec![
                row(TransferState::Serves, None),
                row(TransferState::Interrupted, Some("/w.bin")),
            ],
        }),
    }
}

pub fn routes() -> Vec<RouteRow> {
    let row = |destination: &str, next: Option<&str>| RouteRow {
        destination: destination.to_owned(),
        next_hop: next.map(name),
        link: next.map(|_| 3),
        rtt_us: next.map(|_| 1234),
        registered: 0,
    };
    vec![row("server", None), row("relay", Some("relay")), row("relay.*", Some("relay"))]
}

pub fn stats(cell: Fqcn) -> StatsReply {
    StatsReply {
        cell,
        state: CellState::Ready,
        uptime_ms: 90_000,
        outstanding: 1,
        handling: 2,
        links: LinkCounts { up: 0, down: 1 },
        outbox_bytes: LaneBytes::default(),
        counters: CounterRows {
            accepted: 12,
            refused: BTreeMap::from([("TOPIC_DENIED".to_owned(), 7)]),
            ..CounterRows::default()
        },
        dead_letters: vec![dead()],
        measured: StatsReport::default(),
        event_loop: LoopReport::default(),
    }
}

fn dead() -> DeadCount {
    DeadCount { code: "NO_ROUTE".to_owned(), class: "application".to_owned(), count: 2 }
}

pub fn dead_letters(cell: Fqcn, ask: &DeadLettersAsk) -> DeadLettersReply {
    let letter = DeadRow {
        unix: 1_700_000_000,
        code: ask.code.clone().unwrap_or_else(|| "NO_ROUTE".to_owned()),
        kind: "publish".to_owned(),
        origin: "relay.site-1\u{1b}[2J".to_owned(),
        sequence: 9,
        destination: "server".to_owned(),
        target: "task/fetch".to_owned(),
        link: Some(3),
        payload_len: 100,
        budget_ms: 5,
    };
    DeadLettersReply { cell, counts: vec![dead()], letters: vec![letter] }
}

pub fn hops(refused: Option<Status>) -> Vec<HopRow> {
    let row = |cell: &str, code: Option<Status>| HopRow {
        cell: name(cell),
        verdict: if code.is_some() { Verdict::Refuse } else { Verdict::Admit },
        code: code.map(|status| status.code().to_owned()),
        rule: code.is_none().then(|| "rule 1 of revision 1".to_owned()),
        queue_us: 15,
        wire_us: 400,
    };
    vec![row("relay", None), row("server", refused)]
}

pub fn trace(from: Fqcn, ask: TraceAsk) -> TraceReply {
    let refused = (ask.to == name("denied")).then_some(Status::TopicDenied);
    TraceReply {
        from,
        to: ask.to,
        target: format!("{}/{}", ask.channel, ask.topic),
        hops: hops(refused),
        delivered: ask.deliver && refused.is_none(),
        code: refused.map(|status| status.code().to_owned()),
        by: refused.map(|_| name("server")),
        elapsed_us: 900,
    }
}

pub fn send(ask: SendAsk) -> Result<Reply, ControlError> {
    if ask.to == name("denied") {
        return Err(ControlError::status(Status::TopicDenied, "no").by("server"));
    }
    Ok(Reply::Send(SendReply { to: ask.to, accepted: ask.receipt, elapsed_us: 7 }))
}

pub fn job() -> JobReport {
    let part = |cell: &str| PartReport {
        cell: name(cell),
        state: JobState::Ended,
        outcome: Some(Outcome::Completed),
        detail: None,
        is_grouped: Some(true),
        progress: (cell != "server").then(|| PartProgress {
            task: Some("train".to_owned()),
            round: Some(4),
            rounds: Some(5),
            done_permille: Some(1000),
            text: Some("loss 0.25".to_owned()),
        }),
    };
    JobReport {
        run: Some(RunId::from_random([7; 16])),
        job: "digits".parse().expect("a name"),
        attempt: 2,
        state: JobState::Ended,
        outcome: Some(Outcome::Completed),
        detail: None,
        is_late: false,
        server_program: "aggregate".parse().expect("a name"),
        site_program: "train".parse().expect("a name"),
        parts: vec![part("server"), part("site-1")],
        started_unix: 1_700_000_000,
        ended_unix: Some(1_700_000_009),
    }
}

pub fn meeting(cell: Fqcn, ask: JobAttachAsk) -> JobMeeting {
    JobMeeting {
        cell,
        file: "/run/digits/attach".into(),
        work_dir: "/run/digits/work".into(),
        lifetime_s: ask.lifetime_s,
    }
}
