//! What becomes of everything that is outstanding when one side goes away or stops.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cellbus_channels::{
    Class, Delivery, Failure, HandleError, PublishError, Reply, RequestError, Status, from_fn,
};
use cellbus_proto::local::{Body, Limits, ToCell, ToJob};
use cellbus_runtime::local_socket::{Ended, Options};
use futures_util::FutureExt;
use tokio::time;

use crate::cell_and_job::{
    Alive, CELL, FakeCell, bytes_of, delivery, name, raw_request, serve, settle, target,
};

#[tokio::test]
async fn everything_outstanding_ends_when_the_cell_goes_away() {
    let (cell, alive) = FakeCell::silent();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let running = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&running);
    let handler = from_fn(move |_| {
        let guard = Alive::new(&count);
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    bus.handle(target("task/train"), handler).await.unwrap();
    let mut delivered = cell.deliver(delivery("task/train", ""));
    assert!((&mut delivered).now_or_never().is_none());
    let requests: Vec<_> = (0..10)
        .map(|_| tokio::spawn(bus.request(name("server"), target("task/fetch")).send()))
        .collect();
    settle().await;
    assert_eq!((alive.load(Ordering::SeqCst), running.load(Ordering::SeqCst)), (10, 1));

    served.ended.abort();
    bus.closed().await;
    for request in requests {
        let error = request.await.unwrap().unwrap_err();
        assert!(matches!(error, RequestError::Closed), "{error}");
        assert_eq!(error.class(), Class::Unknown);
    }
    settle().await;
    assert_eq!((alive.load(Ordering::SeqCst), running.load(Ordering::SeqCst)), (0, 0));
    assert_eq!(delivered.await, Err(Failure::Unknown(Status::HandlerGone)));

    let request = || bus.request(name("server"), target("task/fetch"));
    assert!(matches!(request().send().await, Err(RequestError::Closed)));
    assert!(matches!(request().publish().await, Err(PublishError::Closed)));
    let late = from_fn(|_: Delivery| async { Ok(Reply::default()) });
    assert_eq!(bus.handle(target("task/late"), late).await, Err(HandleError::Closed));
}

#[tokio::test]
async fn job_code_that_ends_answers_what_it_was_asked_and_is_asked_nothing_more() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let (go, may_go) = tokio::sync::watch::channel(false);
    let handler = from_fn(move |delivery: Delivery| {
        let mut may_go = may_go.clone();
        async move {
            let _ = may_go.wait_for(|may_go| *may_go).await;
            Ok(Reply::from(delivery.payload))
        }
    });
    bus.handle(target("task/train"), handler).await.unwrap();
    // More than the socket takes at once.
    let large = vec![7; 900_000];
    let asked: Vec<_> =
        (0..4).map(|_| cell.deliver(delivery("task/train", large.clone()))).collect();
    let asked = tokio::spawn(futures_util::future::join_all(asked));
    settle().await;
    let finishing = tokio::spawn(async move { bus.finish(Duration::from_secs(60)).await });
    settle().await;
    let late = cell.deliver(delivery("task/train", "")).await;
    assert_eq!(late, Err(Failure::Refused(Status::ShuttingDown)), "no handler has seen it");
    assert!(!finishing.is_finished() && !asked.is_finished());
    go.send_replace(true);
    for answer in asked.await.unwrap() {
        assert!(answer.unwrap().payload == large);
    }
    assert!(finishing.await.unwrap(), "all was answered");
    assert_eq!(served.ended.await.unwrap(), Ended::Finished);
}

#[tokio::test]
async fn job_code_that_ends_waits_for_no_answer_that_does_not_come() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    bus.handle(target("task/train"), from_fn(|_| std::future::pending())).await.unwrap();
    let mut asked = cell.deliver(delivery("task/train", ""));
    assert!((&mut asked).now_or_never().is_none());
    settle().await;
    assert!(!bus.finish(Duration::from_millis(20)).await);
    assert_eq!(asked.await, Err(Failure::Unknown(Status::HandlerGone)));
    assert_eq!(served.ended.await.unwrap(), Ended::Finished);
    assert!(!bus.finish(Duration::from_secs(60)).await, "there is nothing any more");
}

#[tokio::test]
async fn job_code_is_told_that_its_cell_stops() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    cell.close();
    let status = Some(Status::ShuttingDown);
    assert_eq!(job.receive().await, Some(ToJob::Bye { status }));
    assert_eq!(job.receive().await, None);
    assert_eq!(served.ended.await.unwrap(), Ended::CellClosed);
}

#[tokio::test]
async fn job_code_that_dies_leaves_neither_requests_nor_handlers_behind() {
    let (cell, alive) = FakeCell::silent();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    job.handle(1, &target("task/train")).await;
    for id in 2..12 {
        job.send(&raw_request(id, b"")).await;
    }
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 10);
    drop(job);
    assert_eq!(served.ended.await.unwrap(), Ended::Gone);
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    let late = cell.deliver(delivery("task/train", "")).await;
    assert_eq!(late, Err(Failure::Refused(Status::NoHandler)));
}

#[tokio::test]
async fn f_38_job_code_that_closes_in_the_middle_of_a_reply_leaves_its_requester_in_doubt() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    job.handle(1, &target("task/train")).await;
    let mut delivered = cell.deliver(delivery("task/train", "x"));
    assert!((&mut delivered).now_or_never().is_none());
    assert!(matches!(job.receive().await, Some(ToJob::Deliver(_))));
    let reply = ToCell::DeliverReply { id: 1, body: Body::inline(vec![7; 1000]) };
    job.send_bytes(&bytes_of(&reply)[..500]).await;
    settle().await;
    assert!((&mut delivered).now_or_never().is_none());
    drop(job);
    assert_eq!(delivered.await, Err(Failure::Unknown(Status::HandlerGone)));
    assert_eq!(served.ended.await.unwrap(), Ended::Gone);
}

#[tokio::test]
async fn a_delivery_that_job_code_never_saw_is_certainly_not_executed() {
    let cell = FakeCell::echoing();
    let limits = Limits { deliveries_max: 1, ..Limits::default() };
    let served = serve(&cell, Options::default().limits(limits).unwrap());
    let mut job = served.welcomed().await;
    job.handle(1, &target("task/train")).await;
    let mut seen = cell.deliver(delivery("task/train", "1"));
    let mut waiting = cell.deliver(delivery("task/train", "2"));
    assert!((&mut seen).now_or_never().is_none());
    assert!((&mut waiting).now_or_never().is_none());
    settle().await;
    drop(job);
    assert_eq!(seen.await, Err(Failure::Unknown(Status::HandlerGone)));
    assert_eq!(waiting.await, Err(Failure::Refused(Status::NoHandler)));
}

#[tokio::test]
async fn a_delivery_that_stays_in_the_queue_is_certainly_not_executed() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    job.handle(1, &target("task/train")).await;
    // More than the kernel takes while nobody reads; each is written by itself.
    let mut deliveries: Vec<_> =
        (0..4).map(|_| cell.deliver(delivery("task/train", vec![0; 1 << 19]))).collect();
    for delivered in &mut deliveries {
        assert!(delivered.now_or_never().is_none());
    }
    settle().await;
    drop(job);
    let mut outcomes = Vec::new();
    for delivered in deliveries {
        outcomes.push(delivered.await.unwrap_err());
    }
    assert_eq!(outcomes[0], Failure::Unknown(Status::HandlerGone));
    assert_eq!(outcomes[3], Failure::Refused(Status::NoHandler));
}

#[tokio::test]
async fn goodbye_is_heard_even_when_nothing_more_can_be_written() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    for token in 0..100 {
        job.send(&ToCell::Ping { token }).await;
    }
    job.send(&ToCell::Bye { status: None }).await;
    drop(job);
    assert_eq!(served.ended.await.unwrap(), Ended::Finished);
}

#[tokio::test]
async fn a_cell_that_does_not_answer_is_not_waited_for() {
    let (cell, alive) = FakeCell::silent();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    time::pause();
    let started = time::Instant::now();
    let budget = Duration::from_secs(3);
    let request = bus.request(name("server"), target("task/fetch")).budget(budget);
    let error = request.send().await.unwrap_err();
    assert!(matches!(error, RequestError::TimedOut { .. }), "{error}");
    let waited = started.elapsed();
    assert!(waited >= budget && waited < budget + Duration::from_secs(1), "{waited:?}");
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 0, "the cell has been told");
}

#[tokio::test]
async fn a_request_whose_turn_never_comes_was_certainly_not_executed() {
    let (cell, _alive) = FakeCell::silent();
    let limits = Limits { requests_max: 1, ..Limits::default() };
    let served = serve(&cell, Options::default().limits(limits).unwrap());
    let bus = served.connect().await;
    let request = |budget| {
        bus.request(name("server"), target("task/fetch")).budget(Duration::from_secs(budget)).send()
    };
    let mut first = Box::pin(request(60));
    assert!((&mut first).now_or_never().is_none());
    settle().await;
    time::pause();
    let second = request(2).await.unwrap_err();
    assert_eq!((second.status(), second.by()), (Status::ExpiredInQueue, Some(&name(CELL))));
    assert_eq!(second.class(), Class::Refused);
    assert_eq!(cell.requested(), 1);
}
