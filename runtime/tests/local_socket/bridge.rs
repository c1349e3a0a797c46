//! What job code and cell can do for each other.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::{
    Delivery, Failure, HandleError, Outgoing, PublishError, Reply, RequestError, Selector, Status,
    from_fn,
};
use cellbus_proto::local::Limits;
use cellbus_runtime::local_socket::{Ended, Options};
use futures_util::{FutureExt, future::join_all};
use tokio::sync::Notify;

use crate::cell_and_job::{Alive, CELL, FakeCell, delivery, name, serve, settle, target};

#[tokio::test]
async fn a_request_carries_everything_there_and_back() {
    let cell = FakeCell::answering(|to, outgoing| {
        let Outgoing { target, payload, content_type, budget, .. } = outgoing;
        let budget = budget.expect("job code's budget is passed on");
        assert!(budget > Duration::from_secs(6) && budget <= Duration::from_secs(7), "{budget:?}");
        let text = format!("{to} {target} {} {content_type:?}", payload.len());
        let content_type = Some("text/plain".into());
        Box::pin(async move { Ok(Reply { payload: text.into(), content_type }) })
    });
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    assert_eq!(bus.name(), name(CELL));
    let request = bus.request(name("server.job-7"), target("task/fetch"));
    let request = request.payload(vec![1; 1 << 20]).content_type("application/octet-stream");
    let reply = request.budget(Duration::from_secs(7)).send().await.unwrap();
    let expected = "server.job-7 task/fetch 1048576 Some(\"application/octet-stream\")";
    assert_eq!(reply.payload, expected);
    assert_eq!(reply.content_type.as_deref(), Some("text/plain"));
}

#[tokio::test]
async fn g_07_a_return_keeps_its_status_its_cell_and_its_detail() {
    let cell = FakeCell::answering(|to, outgoing| {
        let returned = |status, detail: &'static str| RequestError::Returned {
            by: name("relay-a"),
            status,
            detail: Bytes::from_static(detail.as_bytes()),
        };
        let error = match outgoing.target.topic().as_str() {
            "denied" => returned(Status::TopicDenied, ""),
            "failed" => returned(Status::HandlerFailed, "no such round"),
            "late" => RequestError::TimedOut { to, budget: Duration::ZERO },
            _ => RequestError::Closed,
        };
        Box::pin(async move { Err(error) })
    });
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let ask = |topic: &str| bus.request(name("server"), target(&format!("task/{topic}"))).send();

    let denied = ask("denied").await.unwrap_err();
    assert_eq!((denied.status(), denied.by()), (Status::TopicDenied, Some(&name("relay-a"))));
    let failed = ask("failed").await.unwrap_err();
    assert_eq!(failed.to_string(), "returned by relay-a: HANDLER_FAILED (no such round)");
    let late = ask("late").await.unwrap_err();
    assert!(matches!(late, RequestError::TimedOut { .. }), "{late}");
    let closed = ask("closed").await.unwrap_err();
    assert_eq!((closed.status(), closed.by()), (Status::AbortedRunning, Some(&name(CELL))));
}

#[tokio::test]
async fn what_the_cell_would_refuse_is_refused_before_it_is_sent() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let request = || bus.request(name("server"), target("task/fetch"));
    let large = request().payload(vec![0; (1 << 20) + 1]).send().await.unwrap_err();
    assert_eq!(large.status(), Status::TooLarge);
    let content_type = request().content_type(&"x".repeat(129)).send().await.unwrap_err();
    assert_eq!(content_type.status(), Status::BadHeader);
    let large = request().payload(vec![0; (1 << 20) + 1]).publish().await.unwrap_err();
    assert!(matches!(large, PublishError::Refused { status: Status::TooLarge, .. }));
    assert_eq!(cell.requested(), 0);
    assert!(request().send().await.is_ok(), "the connection is not disturbed");
}

#[tokio::test]
async fn messages_reach_the_bus_in_the_order_in_which_they_were_sent() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let sent = (0..1000u32).map(|number| {
        let publish = bus.request(name("server"), target("metrics/round"));
        publish.payload(number.to_be_bytes().to_vec()).publish()
    });
    for outcome in join_all(sent).await {
        outcome.unwrap();
    }
    let arrived: Vec<Bytes> = cell.published().into_iter().map(|m| m.payload).collect();
    let expected: Vec<Bytes> =
        (0..1000u32).map(|number| number.to_be_bytes().to_vec().into()).collect();
    assert_eq!(arrived, expected);
}

#[tokio::test]
async fn more_requests_than_may_be_outstanding_wait_their_turn() {
    let (release, most) = (Arc::new(Notify::new()), Arc::new(Mutex::new((0, 0))));
    let (gate, seen) = (Arc::clone(&release), Arc::clone(&most));
    let cell = FakeCell::answering(move |_, outgoing| {
        let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
        {
            let (now, most) = &mut *seen.lock().unwrap();
            *now += 1;
            *most = (*now).max(*most);
        }
        Box::pin(async move {
            gate.notified().await;
            gate.notify_one();
            seen.lock().unwrap().0 -= 1;
            Ok(outgoing.payload.into())
        })
    });
    let limits = Limits { requests_max: 3, bytes_max: 1 << 20, ..Limits::default() };
    let served = serve(&cell, Options::default().limits(limits).unwrap());
    let bus = served.connect().await;
    let requests = (0..50u8).map(|number| {
        bus.request(name("server"), target("task/fetch")).payload(vec![number; 10_000]).send()
    });
    let mut all = Box::pin(join_all(requests));
    assert!((&mut all).now_or_never().is_none());
    settle().await;
    release.notify_one();
    for (number, reply) in (0..50u8).zip(all.await) {
        assert_eq!(reply.unwrap().payload, vec![number; 10_000]);
    }
    assert_eq!(*most.lock().unwrap(), (0, 3));
}

#[tokio::test]
async fn a_handler_of_job_code_answers_what_the_cell_delivers() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let handler = |delivery: Delivery| async move {
        let text = format!("{} {}", delivery.origin.name, delivery.origin.org);
        match delivery.target.topic().as_str() {
            "train" => Ok(Reply { payload: text.into(), content_type: Some("text/plain".into()) }),
            "refuse" => Err(Failure::Refused(Status::Draining)),
            "unknown" => Err(Failure::Unknown(Status::AbortedRunning)),
            "large" => Ok(vec![0; (1 << 20) + 1].into()),
            "panic" => panic!("a bug in job code"),
            _ => Err(Failure::failed("x".repeat(5000))),
        }
    };
    for topic in ["train", "refuse", "unknown", "large", "panic", "fail"] {
        bus.handle(target(&format!("task/{topic}")), from_fn(handler)).await.unwrap();
    }
    let deliver = |topic: &str| cell.deliver(delivery(&format!("task/{topic}"), "in"));

    let reply = deliver("train").await.unwrap();
    assert_eq!(reply.payload, "server.job-7 hq");
    assert_eq!(reply.content_type.as_deref(), Some("text/plain"));
    assert_eq!(deliver("refuse").await, Err(Failure::Refused(Status::Draining)));
    assert_eq!(deliver("unknown").await, Err(Failure::Unknown(Status::AbortedRunning)));
    assert_eq!(deliver("panic").await, Err(Failure::Unknown(Status::HandlerPanic)));
    assert_eq!(deliver("fail").await, Err(Failure::Failed("x".repeat(4096).into())));
    let large = deliver("large").await.unwrap_err();
    assert!(matches!(large, Failure::Failed(_)), "{large:?}: the work has been done");
    assert!(deliver("train").await.is_ok(), "a panic costs one delivery");
}

#[tokio::test]
async fn a_publish_is_delivered_and_its_reply_discarded() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let store = Arc::clone(&seen);
    let handler = from_fn(move |delivery: Delivery| {
        store.lock().unwrap().push((delivery.payload, delivery.expects_reply));
        async { Ok(Reply::from(vec![1, 2, 3])) }
    });
    bus.handle(target("task/note"), handler).await.unwrap();
    let mut publish = delivery("task/note", "note");
    publish.expects_reply = false;
    publish.budget = Duration::ZERO;
    assert_eq!(cell.deliver(publish).await, Ok(Reply::default()));
    assert_eq!(*seen.lock().unwrap(), [(Bytes::from("note"), false)]);
}

#[tokio::test]
async fn a_handler_that_is_not_registered_says_why() {
    let cell = FakeCell::echoing();
    let limits = Limits { handlers_max: 2, ..Limits::default() };
    let served = serve(&cell, Options::default().limits(limits).unwrap());
    let bus = served.connect().await;
    let echo = || from_fn(|delivery: Delivery| async { Ok(delivery.payload.into()) });
    bus.handle(target("task/one"), echo()).await.unwrap();
    let again = bus.handle(target("task/one"), echo()).await;
    assert_eq!(again, Err(HandleError::Taken("task/one".into())));

    let cells_own = cell.bus();
    cells_own.handle(target("task/two"), echo()).await.unwrap();
    let taken = bus.handle(target("task/two"), echo()).await;
    assert_eq!(taken, Err(HandleError::Taken("task/two".into())));

    bus.handle(target("task/three"), echo()).await.unwrap();
    let more = bus.handle(Selector::All, echo()).await;
    assert_eq!(more, Err(HandleError::TooMany));
    assert!(!cell.has_handler(&Selector::All));
    assert_eq!(cell.deliver(delivery("task/three", "x")).await.unwrap().payload, "x");
}

#[tokio::test]
async fn a_request_that_job_code_gives_up_is_dropped_at_the_cell() {
    let (cell, alive) = FakeCell::silent();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let mut request = Box::pin(bus.request(name("server"), target("task/fetch")).send());
    assert!((&mut request).now_or_never().is_none());
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    drop(request);
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_delivery_that_the_requester_gives_up_drops_the_handler_of_job_code() {
    let cell = FakeCell::echoing();
    let limits = Limits { deliveries_max: 1, ..Limits::default() };
    let served = serve(&cell, Options::default().limits(limits).unwrap());
    let bus = served.connect().await;
    let alive = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&alive);
    let handler = from_fn(move |delivery: Delivery| {
        let guard = Alive::new(&count);
        async move {
            let _guard = guard;
            if delivery.payload.is_empty() {
                std::future::pending::<()>().await;
            }
            Ok(Reply::default())
        }
    });
    bus.handle(target("task/train"), handler).await.unwrap();
    let mut first = cell.deliver(delivery("task/train", ""));
    assert!((&mut first).now_or_never().is_none());
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 1);

    let mut waiting = cell.deliver(delivery("task/train", ""));
    assert!((&mut waiting).now_or_never().is_none());
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 1, "one at a time");
    drop(waiting);
    drop(first);
    settle().await;
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert!(cell.deliver(delivery("task/train", "x")).await.is_ok(), "the place is free again");
}

#[tokio::test]
async fn a_bus_that_is_dropped_says_goodbye() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let clone = bus.clone();
    drop(bus);
    assert!(clone.request(name("server"), target("task/fetch")).send().await.is_ok());
    drop(clone);
    assert_eq!(served.ended.await.unwrap(), Ended::Finished);
    assert!(!served.path.exists());
}
