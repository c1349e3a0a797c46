//! Frames that every implementation writes and reads alike.

use std::{num::NonZeroU32, time::Duration};

use bytes::Bytes;
use serde_json::json;

use super::{super::*, TO_CELL, Vector, good, secret};
use crate::{envelope::TraceContext, exchange::RetryPolicy, status::Status};

mod to_job;

pub(super) use self::to_job::{to_job, to_job_of_version_2};

fn attached(size: u64) -> Body {
    Body { content_type: Some("text/plain".into()), attached: Some(size), payload: Bytes::new() }
}

pub(super) fn to_cell() -> Vec<(Vector, ToCell)> {
    let task = || ("task".to_owned(), "fetch".to_owned());
    let payload = || Bytes::from_static(b"\x00\x01hello");
    let trace = hex::encode((0..25).collect::<Vec<u8>>());
    let cases = [
        (
            "hello",
            ToCell::Hello(Hello { version_min: 1, version_max: 1, secret: secret() }),
            json!([1, 1, { "hex": hex::encode(secret().expose()) }]),
        ),
        (
            "request",
            ToCell::Request {
                id: 1,
                to: "server.job-7".into(),
                channel: task().0,
                topic: task().1,
                budget_ms: Some(30_000),
                body: Body {
                    content_type: Some("application/json".into()),
                    ..Body::inline(payload())
                },
                options: None,
            },
            json!([1, "server.job-7", "task", "fetch", 30000, "application/json", null, null]),
        ),
        (
            "request-with-defaults",
            ToCell::Request {
                id: u64::MAX,
                to: "server".into(),
                channel: task().0,
                topic: task().1,
                budget_ms: None,
                body: Body::default(),
                options: None,
            },
            json!([u64::MAX, "server", "task", "fetch", null, null, null, null]),
        ),
        (
            "publish",
            ToCell::Publish {
                id: 2,
                to: "site-1.job-7".into(),
                channel: "metrics".into(),
                topic: "round".into(),
                body: Body::inline(payload()),
                options: None,
            },
            json!([2, "site-1.job-7", "metrics", "round", null, null, null]),
        ),
        (
            "handle-exact",
            ToCell::Handle {
                id: 3,
                channel: Some(task().0),
                topic: Some(task().1),
                concurrency: NonZeroU32::new(4),
            },
            json!([3, "task", "fetch", 4]),
        ),
        (
            "handle-channel",
            ToCell::Handle { id: 4, channel: Some(task().0), topic: None, concurrency: None },
            json!([4, "task", null, null]),
        ),
        (
            "handle-everything",
            ToCell::Handle { id: 5, channel: None, topic: None, concurrency: None },
            json!([5, null, null, null]),
        ),
        (
            "deliver-reply",
            ToCell::DeliverReply { id: 1, body: Body::inline(payload()) },
            json!([1, null, null]),
        ),
        (
            "deliver-fail",
            ToCell::DeliverFail {
                id: 2,
                status: Status::HandlerFailed,
                detail: Bytes::from_static(b"no such round"),
            },
            json!([2, 115]),
        ),
        ("cancel", ToCell::Cancel { id: 300 }, json!([300])),
        ("ping", ToCell::Ping { token: 70_000 }, json!([70000])),
        ("pong", ToCell::Pong { token: 1 << 40 }, json!([1u64 << 40])),
        ("bye", ToCell::Bye { status: None }, json!([null])),
        ("bye-with-status", ToCell::Bye { status: Some(Status::BadFrame) }, json!([96])),
        (
            "request-attached",
            ToCell::Request {
                id: 6,
                to: "server.job-7".into(),
                channel: task().0,
                topic: "submit".into(),
                budget_ms: None,
                body: attached(512 << 20),
                options: None,
            },
            json!([6, "server.job-7", "task", "submit", null, "text/plain", 512 << 20, null]),
        ),
        (
            "request-with-options",
            ToCell::Request {
                id: 7,
                to: "server.job-7".into(),
                channel: task().0,
                topic: task().1,
                budget_ms: None,
                body: Body::default(),
                options: Some(Box::new(MessageOptions {
                    flags: MessageFlags::IDEMPOTENT.with(MessageFlags::MANY),
                    retry: Some(RetryPolicy {
                        first: Duration::from_millis(250),
                        max: Duration::from_millis(2000),
                    }),
                    trace: Some(TraceContext(std::array::from_fn(|index| index as u8))),
                    headers: Bytes::from_static(b"round=3"),
                })),
            },
            json!([
                7,
                "server.job-7",
                "task",
                "fetch",
                null,
                null,
                null,
                [34, [250, 2000], { "hex": trace }, { "hex": hex::encode(b"round=3") }]
            ]),
        ),
        (
            "publish-with-receipt",
            ToCell::Publish {
                id: 8,
                to: "server.job-7".into(),
                channel: "metrics".into(),
                topic: "round".into(),
                body: Body::inline(payload()),
                options: Some(Box::new(MessageOptions {
                    flags: MessageFlags::RECEIPT.with(MessageFlags::BULK),
                    ..MessageOptions::default()
                })),
            },
            json!([8, "server.job-7", "metrics", "round", null, null, [24, null, null, { "hex": "" }]]),
        ),
        (
            "deliver-reply-attached",
            ToCell::DeliverReply { id: 3, body: attached(1 << 33) },
            json!([3, "text/plain", 1u64 << 33]),
        ),
        (
            "deliver-part",
            ToCell::DeliverPart { id: 4, body: Body::inline(payload()) },
            json!([4, null, null]),
        ),
        (
            "multicast",
            ToCell::Multicast {
                id: 9,
                to: Some(vec!["site-1.job-7".into(), "site-2.job-7".into()]),
                channel: "task".into(),
                topic: "train".into(),
                publish: false,
                budget_ms: Some(60_000),
                body: attached(300_000),
                options: None,
            },
            json!([
                9,
                ["site-1.job-7", "site-2.job-7"],
                "task",
                "train",
                false,
                60000,
                "text/plain",
                300000,
                null
            ]),
        ),
        (
            "broadcast",
            ToCell::Multicast {
                id: 10,
                to: None,
                channel: "task".into(),
                topic: "stop".into(),
                publish: true,
                budget_ms: None,
                body: Body::default(),
                options: None,
            },
            json!([10, null, "task", "stop", true, null, null, null, null]),
        ),
        ("events", ToCell::Events { id: 11 }, json!([11])),
        (
            "serve",
            ToCell::Serve(Serve {
                id: 12,
                to: Some(vec!["site-1.job-7".into()]),
                channel: "model".into(),
                topic: "weights".into(),
                lifetime_s: Some(3600),
                content_type: Some("text/plain".into()),
                headers: Bytes::from_static(b"round=3"),
                size: 1 << 40,
            }),
            json!([
                12,
                ["site-1.job-7"],
                "model",
                "weights",
                3600,
                "text/plain",
                1u64 << 40,
                { "hex": hex::encode(b"round=3") }
            ]),
        ),
        (
            "serve-to-the-job",
            ToCell::Serve(Serve {
                id: 13,
                to: None,
                channel: "model".into(),
                topic: "weights".into(),
                lifetime_s: None,
                content_type: None,
                headers: Bytes::new(),
                size: 1,
            }),
            json!([13, null, "model", "weights", null, null, 1, { "hex": "" }]),
        ),
        (
            "fetch",
            ToCell::Fetch {
                id: 14,
                size_max: Some(1 << 34),
                patience_s: Some(60),
                reference: payload(),
            },
            json!([14, 1u64 << 34, 60]),
        ),
    ];
    cases
        .into_iter()
        .map(|(name, frame, header)| (good(TO_CELL, name, &frame, header), frame))
        .collect()
}
