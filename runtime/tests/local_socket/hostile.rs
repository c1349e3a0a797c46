//! What hostile or broken job code can do to its cell: nothing that lasts.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use cellbus_channels::{Failure, Status};
use cellbus_proto::{
    local::{Body, Limits, ToCell, ToJob},
    well_known,
};
use cellbus_runtime::local_socket::{Ended, Options};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{self, timeout};

use crate::cell_and_job::{
    FakeCell, RawJob, bytes_of, delivery, raw_request, serve, settle, target,
};

/// Writes until nobody takes any more, and says how much was taken.
async fn write_until_stuck(job: &mut RawJob, bytes: &[u8]) -> usize {
    let (mut written, mut idle) = (0, 0);
    while written < bytes.len() && idle < 5_000 {
        match job.stream.try_write(&bytes[written..]) {
            Ok(count) => (written, idle) = (written + count, 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => idle += 1,
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
    written
}

#[tokio::test]
async fn f_38_a_flood_from_job_code_that_does_not_read_is_stopped() {
    const FRAMES: u64 = 100_000;
    let (cell, alive) = FakeCell::silent();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    let flood: Vec<u8> =
        (1..=FRAMES).flat_map(|id| bytes_of(&raw_request(id, b"0123456789")).to_vec()).collect();

    let written = write_until_stuck(&mut job, &flood).await;
    assert!(written < flood.len() / 2, "{written} of {} bytes were taken", flood.len());
    let max = Limits::default().requests_max as usize;
    assert_eq!((cell.requested(), alive.load(Ordering::SeqCst)), (max, max));

    let (read, mut write) = job.stream.into_split();
    let rest = flood[written..].to_vec();
    let writer = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut write, &rest).await.unwrap();
        write
    });
    let mut inbox = cellbus_channels::local::inbox::Inbox::<ToJob>::new(read);
    for id in max as u64 + 1..=FRAMES {
        let answer = inbox.next().await.unwrap().map(|received| received.frame);
        let Some(ToJob::Return { id: answered, status: Status::Overloaded, .. }) = answer else {
            panic!("{answer:?} for {id}");
        };
        assert_eq!(answered, id, "every request is answered, in order");
    }
    assert_eq!((cell.requested(), alive.load(Ordering::SeqCst)), (max, max));
    drop((writer.await.unwrap(), inbox));
    assert_eq!(served.ended.await.unwrap(), Ended::Gone);
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn job_code_that_never_reads_costs_a_bounded_number_of_bytes() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    job.handle(1, &target("task/train")).await;
    time::pause();
    let payload = Bytes::from(vec![0; 100 * 1024]);
    let mut deliveries: FuturesUnordered<_> = (0..1000)
        .map(|_| {
            let delivered = cell.deliver(delivery("task/train", payload.clone()));
            timeout(Duration::from_secs(30), delivered)
        })
        .collect();
    let (mut overloaded, mut expired, mut given_up) = (0, 0, 0);
    while let Some(outcome) = deliveries.next().await {
        match outcome {
            Ok(Err(Failure::Refused(Status::Overloaded))) => overloaded += 1,
            Ok(Err(Failure::Refused(Status::ExpiredInQueue))) => expired += 1,
            Err(_elapsed) => given_up += 1,
            Ok(other) => panic!("{other:?}"),
        }
    }
    let fits = Limits::default().deliveries_bytes_max as usize / (payload.len() + 1024);
    assert_eq!((overloaded, expired + given_up), (1000 - fits, fits));
    assert!(given_up <= 64, "{given_up} were queued at once");
    time::resume();

    // What was taken back is not sent; what was begun is cancelled, and its place comes back.
    let (mut begun, mut cancelled) = (0, 0);
    job.send(&ToCell::Ping { token: 1 }).await;
    loop {
        let frame = job.receive().await.expect("the connection lives");
        if frame == (ToJob::Pong { token: 1 }) {
            break;
        }
        if let ToJob::Deliver(delivery) = frame {
            begun += 1;
            let (id, status) = (delivery.id, Status::Draining);
            job.send(&ToCell::DeliverFail { id, status, detail: Bytes::new() }).await;
        } else {
            assert!(matches!(frame, ToJob::Cancel { .. }), "{frame:?}");
            cancelled += 1;
        }
    }
    assert_eq!(begun, cancelled);
    assert!((1..=10).contains(&begun), "{begun} deliveries were begun");
    let again = tokio::spawn(cell.deliver(delivery("task/train", "x")));
    let Some(ToJob::Deliver(delivery)) = job.receive().await else { panic!("no delivery") };
    assert_eq!(delivery.body.payload, "x");
    let reply = ToCell::DeliverReply { id: delivery.id, body: Body::inline("y") };
    job.send(&reply).await;
    assert_eq!(again.await.unwrap().unwrap().payload, "y");
}

#[tokio::test]
async fn f_38_half_a_frame_then_silence_ends_the_connection_after_five_seconds() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    let request = bytes_of(&raw_request(1, b"payload"));
    time::pause();
    let started = time::Instant::now();
    job.send_bytes(&request[..request.len() - 1]).await;
    let status = Status::BadFrame;
    assert_eq!(job.receive().await, Some(ToJob::Bye { status: Some(status) }));
    assert_eq!(job.receive().await, None);
    assert!(started.elapsed() >= Duration::from_secs(5));
    assert_eq!(served.ended.await.unwrap(), Ended::Violation(status));
    assert_eq!(cell.requested(), 0);
}

#[tokio::test]
async fn a_violation_ends_the_connection_with_its_code() {
    let stale = [bytes_of(&raw_request(7, b"")), bytes_of(&raw_request(7, b""))].concat();
    let unsolicited = ToCell::DeliverReply { id: 1, body: Body::default() };
    let large = ToCell::DeliverReply { id: 1, body: Body::inline(vec![0; (1 << 20) + 1]) };
    let cases: [(&str, Vec<u8>, Status); 7] = [
        ("header length", vec![2, 0x40, 1, 0, 0, 0, 0], Status::TooLarge),
        ("payload length", bytes_of(&large)[..7].to_vec(), Status::TooLarge),
        ("4 GiB", vec![2, 0, 1, 255, 255, 255, 255], Status::TooLarge),
        ("unknown type", vec![0x7f, 0, 1, 0, 0, 0, 0, 0x90], Status::BadFrame),
        ("bad header", vec![0x10, 0, 1, 0, 0, 0, 0, 0xc1], Status::BadHeader),
        ("stale id", stale, Status::StaleId),
        ("unsolicited", bytes_of(&unsolicited).to_vec(), Status::ReplyUnsolicited),
    ];
    for (case, bytes, status) in cases {
        let (cell, alive) = FakeCell::silent();
        let served = serve(&cell, Options::default());
        let mut job = served.welcomed().await;
        job.send_bytes(&bytes).await;
        assert_eq!(job.receive().await, Some(ToJob::Bye { status: Some(status) }), "{case}");
        assert_eq!(job.receive().await, None, "{case}");
        assert_eq!(served.ended.await.unwrap(), Ended::Violation(status), "{case}");
        assert_eq!(alive.load(Ordering::SeqCst), 0, "{case}");
    }
}

#[tokio::test]
async fn c_05_job_code_cannot_speak_for_its_cell() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    for (id, system) in (1..).zip(well_known::ALL) {
        let channel = system.channel.to_owned();
        let topic = system.topic.to_owned();
        let request = ToCell::Request {
            id,
            to: "server".into(),
            channel,
            topic,
            budget_ms: None,
            body: Body::default(),
            options: None,
        };
        job.send(&request).await;
        let answer = job.receive().await;
        if system == well_known::PING {
            assert!(matches!(answer, Some(ToJob::Reply { .. })), "{answer:?}");
        } else {
            let is_forbidden =
                matches!(answer, Some(ToJob::Return { status: Status::Forbidden, .. }));
            assert!(is_forbidden, "{answer:?} for {system:?}");
        }
    }
    assert_eq!(cell.requested(), 1, "only the ping reached the bus");
    let channel = Some(well_known::QUIT.channel.to_owned());
    job.send(&ToCell::Handle { id: 1000, channel, topic: None, concurrency: None }).await;
    let outcome = cellbus_proto::local::Outcome::Reserved;
    assert_eq!(job.receive().await, Some(ToJob::Handled { id: 1000, outcome }));
}

#[tokio::test]
async fn a_misspelt_name_costs_one_message() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    let mut misspelt = raw_request(1, b"x");
    if let ToCell::Request { to, .. } = &mut misspelt {
        *to = "Server".into();
    }
    job.send(&misspelt).await;
    let answer = job.receive().await;
    assert!(matches!(answer, Some(ToJob::Return { id: 1, status: Status::BadFqcn, .. })));
    assert_eq!(cell.requested(), 0);
    job.send(&raw_request(2, b"x")).await;
    assert!(matches!(job.receive().await, Some(ToJob::Reply { id: 2, .. })));
}

#[tokio::test]
async fn a_cancelled_request_is_answered_once() {
    let (cell, alive) = FakeCell::silent();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    job.send(&raw_request(1, b"")).await;
    for id in [1, 1, 2, u64::MAX] {
        job.send(&ToCell::Cancel { id }).await;
    }
    job.send(&ToCell::Ping { token: 9 }).await;
    let answer = job.receive().await;
    assert!(matches!(answer, Some(ToJob::Return { id: 1, status: Status::Deadline, .. })));
    assert_eq!(job.receive().await, Some(ToJob::Pong { token: 9 }));
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}
