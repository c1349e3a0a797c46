//! Frames of a cell.

use bytes::Bytes;
use serde_json::json;

use super::{
    super::{super::*, TO_JOB, Vector, good, secret},
    attached,
};
use crate::{envelope::TraceContext, identity::CellKind, name::ChannelTopic, status::Status};

pub(in super::super) fn to_job() -> Vec<(Vector, ToJob)> {
    let by = || "relay-a".parse().unwrap();
    let site = || "site-1.job-7".parse().unwrap();
    let limits = json!([
        1_048_576,
        256,
        16_777_216,
        64,
        16_777_216,
        256,
        30_000,
        4_294_967_296u64,
        8_589_934_592u64
    ]);
    let payload = || Bytes::from_static(b"\xffworld");
    let cases = [
        (
            "welcome",
            ToJob::Welcome(Welcome {
                version: 1,
                cell: "relay-a.site-2.job-7".parse().unwrap(),
                job: Some("job-7".parse().unwrap()),
                attempt: Some(2),
                role: Some("trainer".parse().unwrap()),
                heartbeat_ms: None,
                limits: Limits::default(),
            }),
            json!([1, "relay-a.site-2.job-7", "job-7", 2, "trainer", null, limits]),
        ),
        (
            "welcome-attached",
            ToJob::Welcome(Welcome {
                version: 1,
                cell: "site-1".parse().unwrap(),
                job: None,
                attempt: None,
                role: None,
                heartbeat_ms: Some(5000),
                limits: Limits::default(),
            }),
            json!([1, "site-1", null, null, null, 5000, limits]),
        ),
        ("reject", ToJob::Reject { status: Status::Unauthenticated }, json!([71])),
        (
            "reply",
            ToJob::Reply {
                id: 1,
                body: Body { content_type: Some("text/plain".into()), ..Body::inline(payload()) },
            },
            json!([1, "text/plain", null]),
        ),
        (
            "reply-attached",
            ToJob::Reply { id: 6, body: attached(512 << 20) },
            json!([6, "text/plain", 512 << 20]),
        ),
        (
            "return",
            ToJob::Return { id: 2, status: Status::NoRoute, by: by(), detail: Bytes::new() },
            json!([2, 1, "relay-a"]),
        ),
        (
            "return-with-detail",
            ToJob::Return {
                id: 3,
                status: Status::HandlerFailed,
                by: by(),
                detail: Bytes::from_static(b"no such round"),
            },
            json!([3, 115, "relay-a"]),
        ),
        ("accepted", ToJob::Accepted { id: 4 }, json!([4])),
        ("handled", ToJob::Handled { id: 5, outcome: Outcome::Registered }, json!([5, 0])),
        ("handled-taken", ToJob::Handled { id: 6, outcome: Outcome::Taken }, json!([6, 1])),
        (
            "deliver",
            ToJob::Deliver(Delivery {
                id: 1,
                origin: Origin {
                    name: "server.job-7".parse().unwrap(),
                    kind: CellKind::Job,
                    org: "hq".parse().unwrap(),
                    job: Some("job-7".parse().unwrap()),
                },
                target: ChannelTopic::parse("task", "train").unwrap(),
                budget_ms: 29_990,
                expects_reply: true,
                body: Body::inline(payload()),
                headers: Bytes::from_static(b"round=3"),
                trace: None,
            }),
            json!([
                1,
                ["server.job-7", "job", "hq", "job-7"],
                "task",
                "train",
                29990,
                true,
                null,
                null,
                { "hex": hex::encode(b"round=3") }
            ]),
        ),
        (
            "deliver-publish",
            ToJob::Deliver(Delivery {
                id: 2,
                origin: Origin {
                    name: "server".parse().unwrap(),
                    kind: CellKind::Server,
                    org: "hq".parse().unwrap(),
                    job: None,
                },
                target: ChannelTopic::parse("task", "note").unwrap(),
                budget_ms: 0,
                expects_reply: false,
                body: attached(300_000),
                headers: Bytes::new(),
                trace: None,
            }),
            json!([
                2,
                ["server", "server", "hq", null],
                "task",
                "note",
                0,
                false,
                "text/plain",
                300000,
                { "hex": "" }
            ]),
        ),
        ("cancel", ToJob::Cancel { id: 1 }, json!([1])),
        ("ping", ToJob::Ping { token: 7 }, json!([7])),
        ("pong", ToJob::Pong { token: 7 }, json!([7])),
        ("bye", ToJob::Bye { status: Some(Status::ShuttingDown) }, json!([29])),
        (
            "part",
            ToJob::Part { id: 9, from: site(), body: Body::inline(payload()) },
            json!([9, "site-1.job-7", null, null]),
        ),
        (
            "part-attached",
            ToJob::Part { id: 9, from: site(), body: attached(300_000) },
            json!([9, "site-1.job-7", "text/plain", 300000]),
        ),
        (
            "part-failed",
            ToJob::PartFailed {
                id: 9,
                from: site(),
                status: Status::NoRoute,
                by: by(),
                detail: Bytes::new(),
            },
            json!([9, "site-1.job-7", 1, "relay-a"]),
        ),
        ("end", ToJob::End { id: 9 }, json!([9])),
        (
            "event-cell-up",
            ToJob::Event(Event {
                id: 11,
                kind: EventKind::CellUp,
                cell: Some(site()),
                missed: 0,
                detail: Bytes::new(),
            }),
            json!([11, 2, "site-1.job-7", 0]),
        ),
        (
            "event-lagged",
            ToJob::Event(Event {
                id: 11,
                kind: EventKind::Lagged,
                cell: None,
                missed: 12,
                detail: Bytes::new(),
            }),
            json!([11, 7, null, 12]),
        ),
        ("served", ToJob::Served { id: 12, reference: payload() }, json!([12])),
        (
            "progress-of-a-receiver",
            ToJob::Progress { id: 12, from: Some(site()), bytes: 1 << 20, size: Some(1 << 40) },
            json!([12, "site-1.job-7", 1 << 20, 1u64 << 40]),
        ),
        (
            "progress-of-a-fetch",
            ToJob::Progress { id: 14, from: None, bytes: 1 << 20, size: None },
            json!([14, null, 1 << 20, null]),
        ),
        (
            "settled-stored",
            ToJob::Settled { id: 12, from: site(), end: Settled::Stored },
            json!([12, "site-1.job-7", 0, null]),
        ),
        (
            "settled-failed",
            ToJob::Settled { id: 12, from: site(), end: Settled::Failed(Status::DigestMismatch) },
            json!([12, "site-1.job-7", 1, 145]),
        ),
        (
            "settled-missing",
            ToJob::Settled { id: 12, from: site(), end: Settled::Missing },
            json!([12, "site-1.job-7", 2, null]),
        ),
        (
            "fetched",
            ToJob::Fetched {
                id: 14,
                content_type: Some("text/plain".into()),
                size: 0,
                headers: Bytes::new(),
                digest: std::array::from_fn(|index| index as u8),
            },
            json!([14, "text/plain", 0, { "hex": "" }, { "hex": hex::encode(secret().expose()) }]),
        ),
    ];
    cases
        .into_iter()
        .map(|(name, frame, header)| (good(TO_JOB, name, &frame, header), frame))
        .collect()
}

/// What version 2 has added.
pub(in super::super) fn to_job_of_version_2() -> Vec<(Vector, ToJob)> {
    let cases = [(
        "deliver-traced",
        ToJob::Deliver(Delivery {
            id: 3,
            origin: Origin {
                name: "server".parse().unwrap(),
                kind: CellKind::Server,
                org: "hq".parse().unwrap(),
                job: None,
            },
            target: ChannelTopic::parse("task", "note").unwrap(),
            budget_ms: 1000,
            expects_reply: true,
            body: Body::inline(Bytes::from_static(b"\xffworld")),
            headers: Bytes::new(),
            trace: Some(TraceContext(std::array::from_fn(|index| index as u8))),
        }),
        json!([
            3,
            ["server", "server", "hq", null],
            "task",
            "note",
            1000,
            true,
            null,
            null,
            { "hex": "" },
            { "hex": hex::encode((0..25).collect::<Vec<u8>>()) }
        ]),
    )];
    cases
        .into_iter()
        .map(|(name, frame, header)| (good(TO_JOB, name, &frame, header), frame))
        .collect()
}
