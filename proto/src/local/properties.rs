//! What holds for every frame and for every sequence of bytes.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    envelope::TraceContext, exchange::RetryPolicy, identity::CellKind, name::ChannelTopic,
    status::Status,
};

const PAYLOAD_MAX: u32 = 2000;
const ATTACHMENT_MAX: u64 = 1 << 33;

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
}

fn content_type() -> impl Strategy<Value = Option<Arc<str>>> {
    option::of("[ -~]{1,128}".prop_map(Arc::from))
}

fn status() -> impl Strategy<Value = Status> {
    (0..Status::ALL.len()).prop_map(|index| Status::ALL[index])
}

fn fqcn() -> impl Strategy<Value = crate::name::Fqcn> {
    ["server", "site-1", "relay-a.site-2.job-7", "a.b.c.d.e.f.g.h"]
        .map(|text| Just(text.parse().unwrap()))
        .into_iter()
        .fold(Just("server".parse().unwrap()).boxed(), |all, one| {
            all.prop_union(one.boxed()).boxed()
        })
}

/// In the frame or attached, never both.
fn body() -> impl Strategy<Value = Body> {
    let payload = bytes(PAYLOAD_MAX as usize);
    (content_type(), option::of(1..=ATTACHMENT_MAX), payload).prop_map(
        |(content_type, attached, payload)| {
            let payload = if attached.is_some() { Bytes::new() } else { payload };
            Body { content_type, attached, payload }
        },
    )
}

fn options() -> impl Strategy<Value = Option<Box<MessageOptions>>> {
    let retry = (any::<u32>(), any::<u32>()).prop_map(|(first, max)| RetryPolicy {
        first: Duration::from_millis(first.into()),
        max: Duration::from_millis(max.into()),
    });
    let flags = (0..128u8).prop_map(|bits| MessageFlags::from_wire(bits).unwrap());
    let trace = any::<[u8; 25]>().prop_map(TraceContext);
    let all = (flags, option::of(retry), option::of(trace), bytes(HEADERS_MAX));
    option::of(all.prop_map(|(flags, retry, trace, headers)| {
        Box::new(MessageOptions { flags, retry, trace, headers })
    }))
}

fn names() -> impl Strategy<Value = Option<Vec<String>>> {
    option::of(vec("[a-z.]{0,16}", 0..=NAMES_MAX as usize))
}

fn settled() -> impl Strategy<Value = Settled> {
    prop_oneof![Just(Settled::Stored), status().prop_map(Settled::Failed), Just(Settled::Missing)]
}

fn to_cell() -> impl Strategy<Value = ToCell> {
    let text = || prop_oneof!["[a-z]{1,8}", ".{0,40}"];
    let payload = || bytes(PAYLOAD_MAX as usize);
    prop_oneof![
        (any::<u16>(), any::<u16>(), any::<[u8; 32]>()).prop_map(
            |(version_min, version_max, mut secret)| ToCell::Hello(Hello {
                version_min,
                version_max,
                secret: Secret::take(&mut secret)
            })
        ),
        (any::<u64>(), text(), text(), text(), any::<Option<u32>>(), body(), options()).prop_map(
            |(id, to, channel, topic, budget_ms, body, options)| ToCell::Request {
                id,
                to,
                channel,
                topic,
                budget_ms,
                body,
                options
            }
        ),
        (any::<u64>(), text(), text(), text(), body(), options()).prop_map(
            |(id, to, channel, topic, body, options)| ToCell::Publish {
                id,
                to,
                channel,
                topic,
                body,
                options
            }
        ),
        (any::<u64>(), option::of(text()), option::of(text()), any::<u32>()).prop_map(
            |(id, channel, topic, concurrency)| {
                let concurrency = NonZeroU32::new(concurrency);
                ToCell::Handle { id, channel, topic, concurrency }
            }
        ),
        (any::<u64>(), body()).prop_map(|(id, body)| ToCell::DeliverReply { id, body }),
        (any::<u64>(), body()).prop_map(|(id, body)| ToCell::DeliverPart { id, body }),
        (
            any::<u64>(),
            names(),
            text(),
            text(),
            any::<bool>(),
            any::<Option<u32>>(),
            body(),
            options()
        )
            .prop_map(|(id, to, channel, topic, publish, budget_ms, body, options)| {
                ToCell::Multicast { id, to, channel, topic, publish, budget_ms, body, options }
            }),
        any::<u64>().prop_map(|id| ToCell::Events { id }),
        (any::<u64>(), names(), text(), text(), any::<Option<u32>>(), content_type(), 1..u64::MAX)
            .prop_map(|(id, to, channel, topic, lifetime_s, content_type, size)| {
                let headers = Bytes::from_static(b"x");
                ToCell::Serve(Serve {
                    id,
                    to,
                    channel,
                    topic,
                    lifetime_s,
                    content_type,
                    headers,
                    size,
                })
            }),
        (any::<u64>(), any::<Option<u64>>(), any::<Option<u32>>(), payload()).prop_map(
            |(id, size_max, patience_s, reference)| ToCell::Fetch {
                id,
                size_max,
                patience_s,
                reference
            }
        ),
        (any::<u64>(), status(), bytes(DETAIL_MAX))
            .prop_map(|(id, status, detail)| { ToCell::DeliverFail { id, status, detail } }),
        any::<u64>().prop_map(|id| ToCell::Cancel { id }),
        any::<u64>().prop_map(|token| ToCell::Ping { token }),
        any::<u64>().prop_map(|token| ToCell::Pong { token }),
        option::of(status()).prop_map(|status| ToCell::Bye { status }),
    ]
}

fn to_job() -> impl Strategy<Value = ToJob> {
    let payload = || bytes(PAYLOAD_MAX as usize);
    let job = || any::<bool>().prop_map(|job| job.then(|| "job-7".parse().unwrap()));
    prop_oneof![
        (any::<u16>(), fqcn(), job(), 1..=1u32 << 20, 1..=1u32 << 16).prop_map(
            |(version, cell, job, payload_max, requests_max)| ToJob::Welcome(Welcome {
                version,
                cell,
                job,
                attempt: (payload_max % 2 == 0).then_some(payload_max),
                role: None,
                heartbeat_ms: (requests_max % 2 == 0).then_some(requests_max),
                limits: Limits { payload_max, requests_max, ..Limits::default() }
            })
        ),
        status().prop_map(|status| ToJob::Reject { status }),
        (any::<u64>(), body()).prop_map(|(id, body)| ToJob::Reply { id, body }),
        (any::<u64>(), status(), fqcn(), bytes(DETAIL_MAX))
            .prop_map(|(id, status, by, detail)| ToJob::Return { id, status, by, detail }),
        any::<u64>().prop_map(|id| ToJob::Accepted { id }),
        (any::<u64>(), 0..Outcome::ALL.len())
            .prop_map(|(id, index)| ToJob::Handled { id, outcome: Outcome::ALL[index] }),
        (any::<u64>(), fqcn(), 0..5usize, job(), any::<u32>(), any::<bool>(), body()).prop_map(
            |(id, name, kind, job, budget_ms, expects_reply, body)| ToJob::Deliver(Delivery {
                id,
                origin: Origin {
                    name,
                    kind: CellKind::ALL[kind],
                    org: "st-mary".parse().unwrap(),
                    job
                },
                target: ChannelTopic::parse("task", "fetch").unwrap(),
                budget_ms,
                expects_reply,
                body,
                headers: Bytes::from_static(b"round=3"),
                trace: (id % 2 == 0).then_some(TraceContext([7; 25]))
            })
        ),
        (any::<u64>(), fqcn(), body()).prop_map(|(id, from, body)| ToJob::Part { id, from, body }),
        (any::<u64>(), fqcn(), status(), fqcn(), bytes(DETAIL_MAX)).prop_map(
            |(id, from, status, by, detail)| ToJob::PartFailed { id, from, status, by, detail }
        ),
        any::<u64>().prop_map(|id| ToJob::End { id }),
        (any::<u64>(), 0..EventKind::ALL.len(), fqcn(), any::<u64>(), bytes(DETAIL_MAX)).prop_map(
            |(id, index, cell, missed, detail)| {
                let kind = EventKind::ALL[index];
                let cell = (kind != EventKind::Lagged).then_some(cell);
                ToJob::Event(Event { id, kind, cell, missed, detail })
            }
        ),
        (any::<u64>(), payload()).prop_map(|(id, reference)| ToJob::Served { id, reference }),
        (any::<u64>(), option::of(fqcn()), any::<u64>(), any::<Option<u64>>())
            .prop_map(|(id, from, bytes, size)| ToJob::Progress { id, from, bytes, size }),
        (any::<u64>(), fqcn(), settled()).prop_map(|(id, from, end)| ToJob::Settled {
            id,
            from,
            end
        }),
        (any::<u64>(), content_type(), any::<u64>(), bytes(HEADERS_MAX), any::<[u8; 32]>())
            .prop_map(|(id, content_type, size, headers, digest)| ToJob::Fetched {
                id,
                content_type,
                size,
                headers,
                digest
            }),
        any::<u64>().prop_map(|id| ToJob::Cancel { id }),
        any::<u64>().prop_map(|token| ToJob::Ping { token }),
        any::<u64>().prop_map(|token| ToJob::Pong { token }),
        option::of(status()).prop_map(|status| ToJob::Bye { status }),
    ]
}

fn encoded<F: Frame>(frames: &[F]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for frame in frames {
        encode(frame, &mut out).unwrap();
    }
    out.to_vec()
}

/// Decodes `input`, handed over in pieces of the given sizes, over and over.
fn decoded<F: Frame>(input: &[u8], pieces: &[usize]) -> (Vec<F>, Option<DecodeError>, bool) {
    let mut decoder = Decoder::new();
    decoder.set_payload_max(PAYLOAD_MAX);
    decoder.set_attachment_max(ATTACHMENT_MAX);
    let (mut rest, mut frames) = (input, Vec::new());
    for size in pieces.iter().cycle() {
        let (mut piece, later) = rest.split_at((*size).min(rest.len()));
        rest = later;
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.decode(&mut piece).err(), Some(error.clone()));
                    return (frames, Some(error), true);
                }
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    (frames, None, decoder.is_mid_frame())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_to_the_cell_survive_any_split(
        frames in vec(to_cell(), 1..6),
        pieces in vec(1..3000usize, 1..8),
    ) {
        let (found, error, open) = decoded::<ToCell>(&encoded(&frames), &pieces);
        prop_assert_eq!(found, frames);
        prop_assert_eq!((error, open), (None, false));
    }

    #[test]
    fn frames_to_the_job_survive_any_split(
        frames in vec(to_job(), 1..6),
        pieces in vec(1..3000usize, 1..8),
    ) {
        let (found, error, open) = decoded::<ToJob>(&encoded(&frames), &pieces);
        prop_assert_eq!(found, frames);
        prop_assert_eq!((error, open), (None, false));
    }

    #[test]
    fn a_frame_that_is_cut_is_no_frame(frame in to_cell(), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(std::slice::from_ref(&frame));
        let cut = 1 + cut.index(bytes.len() - 1);
        prop_assume!(cut < bytes.len());
        let (found, error, open) = decoded::<ToCell>(&bytes[..cut], &[usize::MAX]);
        prop_assert_eq!((found.len(), error, open), (0, None, true));
    }

    #[test]
    fn a_header_that_is_cut_or_followed_by_more_is_refused(frame in to_job(), extra in 1..9usize) {
        let mut header = BytesMut::new();
        frame.write_header(&mut header);
        let whole = ToJob::read(frame.kind(), &header, frame.payload());
        prop_assert_eq!(whole.as_ref(), Ok(&frame));
        for cut in 0..header.len() {
            let read = ToJob::read(frame.kind(), &header[..cut], frame.payload());
            prop_assert_eq!(read.map_err(|e| e.status()), Err(Status::BadHeader));
        }
        header.resize(header.len() + extra, 0xc0);
        let read = ToJob::read(frame.kind(), &header, frame.payload());
        prop_assert_eq!(read.map_err(|e| e.status()), Err(Status::BadHeader));
    }

    #[test]
    fn garbage_ends_in_an_error_or_waits_and_never_panics(
        garbage in vec(any::<u8>(), 0..600),
        kind in any::<u8>(),
        pieces in vec(1..100usize, 1..4),
    ) {
        decoded::<ToCell>(&garbage, &pieces);
        decoded::<ToJob>(&garbage, &pieces);
        let _ = ToCell::read(kind & 0x1f, &garbage, Bytes::new());
        let _ = ToJob::read(0x80 | (kind & 0x1f), &garbage, Bytes::new());
        let _ = Bootstrap::decode(&garbage);
        let _ = Rendezvous::decode(&garbage, 0);
    }

    #[test]
    fn a_side_never_holds_more_than_its_limits(mut frames in vec(to_cell(), 0..60)) {
        number(&mut frames);
        let limits = Limits {
            requests_max: 4,
            bytes_max: 3000,
            attachment_max: ATTACHMENT_MAX,
            attached_max: ATTACHMENT_MAX,
            ..Limits::default()
        };
        let mut side = CellSide::<(), ()>::new(limits);
        let mut kept = 0;
        for frame in frames {
            match side.handle_frame(frame) {
                Ok(
                    Step::Request { .. }
                    | Step::Publish { .. }
                    | Step::Multicast { .. }
                    | Step::Handle { .. }
                    | Step::Events { .. }
                    | Step::Serve { .. }
                    | Step::Fetch { .. },
                ) => kept += 1,
                Ok(_) => {}
                Err(_) => break,
            }
            let (count, bytes) = side.outstanding();
            prop_assert_eq!(count, kept);
            prop_assert!(count <= 4 && bytes <= 3000 && side.attached() <= ATTACHMENT_MAX);
        }
    }
}

/// Gives every frame the id that a peer which counts would give it.
fn number(frames: &mut [ToCell]) {
    for (frame, next) in frames.iter_mut().zip(1..) {
        match frame {
            ToCell::Request { id, .. }
            | ToCell::Publish { id, .. }
            | ToCell::Multicast { id, .. }
            | ToCell::Handle { id, .. }
            | ToCell::Events { id }
            | ToCell::Serve(Serve { id, .. })
            | ToCell::Fetch { id, .. } => *id = next,
            // Never asked: an error, and the end.
            ToCell::DeliverReply { .. }
            | ToCell::DeliverPart { .. }
            | ToCell::DeliverFail { .. }
            | ToCell::Hello(_) => *frame = ToCell::Ping { token: next },
            ToCell::Cancel { id } => *id = next / 2,
            ToCell::Ping { .. } | ToCell::Pong { .. } | ToCell::Bye { .. } => {}
        }
    }
}

#[test]
fn a_length_is_checked_before_anything_is_kept_for_it() {
    let cases: [(&[u8], DecodeError); 4] = [
        (&[0x02, 0x40, 0x01, 0, 0, 0, 0], DecodeError::HeaderTooLarge(16385)),
        (
            &[0x02, 0, 1, 0xff, 0xff, 0xff, 0xff],
            DecodeError::PayloadTooLarge { len: u32::MAX, max: PAYLOAD_MAX },
        ),
        (&[0x06, 0, 1, 0, 0, 0x10, 0x01], DecodeError::PayloadTooLarge { len: 4097, max: 4096 }),
        (&[0x10, 0, 1, 0, 0, 0, 1], DecodeError::UnexpectedPayload(0x10)),
    ];
    for (bytes, error) in cases {
        assert_eq!(decoded::<ToCell>(bytes, &[1]).1, Some(error));
    }
}

#[test]
fn no_message_payload_is_taken_before_the_limit_is_set() {
    let publish = ToCell::Publish {
        id: 1,
        to: "server".into(),
        channel: "task".into(),
        topic: "log".into(),
        body: Body::inline(&b"x"[..]),
        options: None,
    };
    let bytes = encoded(&[publish]);
    let error = Decoder::<ToCell>::new().decode(&mut &bytes[..]).err();
    assert_eq!(error, Some(DecodeError::PayloadTooLarge { len: 1, max: 0 }));
}

#[test]
fn a_frame_with_a_header_that_no_peer_would_take_is_not_written() {
    let long =
        ToCell::Handle { id: 1, channel: Some("x".repeat(17_000)), topic: None, concurrency: None };
    let mut out = BytesMut::from(&b"before"[..]);
    assert_eq!(encode(&long, &mut out), Err(EncodeError));
    assert_eq!(&out[..], b"before");
}
