//! What job code can do beside single requests, over a connection that carries nothing else.

use std::time::Duration;

use cellbus_channels::{
    Bytes, Delivery, Failure, Flags, Lane, Line, Outgoing, Reply, RequestError, RetryPolicy,
    Status, Straggler, TraceContext,
    call::{Call, Outcome, Step},
    filter::{Filter, FilterMessage, Point},
    from_fn,
};
use cellbus_proto::local::{Body, ToCell, ToJob};
use cellbus_runtime::local_socket::Options;
use futures_util::future::join_all;

use crate::cell_and_job::{FakeCell, delivery, events as around, name, serve, target};

/// Answers with what was asked, and refuses what was sent to a relay.
fn cell() -> std::sync::Arc<FakeCell> {
    FakeCell::answering(|to, outgoing| {
        Box::pin(async move {
            match to.as_str() {
                "relay" => Err(RequestError::Returned {
                    by: to,
                    status: Status::NoHandler,
                    detail: Bytes::new(),
                }),
                "silent" => std::future::pending().await,
                _ => Ok(Reply::from(outgoing.payload)),
            }
        })
    })
}

#[tokio::test]
async fn many_cells_have_one_outcome_each() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let to = ["site-2", "relay", "site-3", "site-2"].map(name);
    let message = || bus.multicast(to.clone(), target("task/ping")).payload("all");
    let mut all = message().send().await.all().await;
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let text: Vec<String> = all
        .into_iter()
        .map(|(cell, outcome)| match outcome {
            Ok(reply) => format!("{cell} {}", String::from_utf8_lossy(&reply.payload)),
            Err(error) => format!("{cell} {}", error.status()),
        })
        .collect();
    assert_eq!(text, ["relay NO_HANDLER", "site-2 all", "site-3 all"]);
    message().publish().await.unwrap();
    assert_eq!(cell.published().len(), 3);
    let scattered =
        bus.scatter([(name("site-2"), "a"), (name("site-2"), "b")], target("task/ping"));
    let mut scattered: Vec<Bytes> = scattered
        .send()
        .await
        .all()
        .await
        .into_iter()
        .map(|(_, outcome)| outcome.unwrap().payload)
        .collect();
    scattered.sort();
    assert_eq!(scattered, ["a", "b"]);
}

#[tokio::test]
async fn a_quorum_gives_up_on_the_rest() {
    let served = serve(&cell(), Options::default());
    let bus = served.connect().await;
    let message = bus.multicast(["site-2", "silent"].map(name), target("task/ping"));
    let outcomes = message.quorum(1).stragglers(Straggler::Drop).send().await.all().await;
    assert!(outcomes.len() == 2 && outcomes[0].1.is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[1].1, Err(RequestError::Cancelled { .. })), "{outcomes:?}");
}

#[tokio::test]
async fn a_queue_travels_in_batches() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let queue = bus.queue(name("site-2"), target("task/ping")).open();
    let pushed = [queue.enqueue("1").await.unwrap(), queue.enqueue("2").await.unwrap()];
    queue.close().await;
    let sent = cell.sent();
    assert!(sent.len() == 1 && sent[0].flags.contains(Flags::BATCH), "{sent:?}");
    // What the fake cell answers is no answer to a batch.
    assert!(join_all(pushed).await.iter().all(Result::is_err));
}

#[tokio::test]
async fn everything_that_a_message_can_ask_for_reaches_the_bus() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let retry = RetryPolicy { first: Duration::from_millis(100), max: Duration::from_secs(1) };
    let trace = TraceContext(std::array::from_fn(|index| index as u8));
    let message = || {
        bus.request(name("site-2"), target("task/ping"))
            .headers("round=3")
            .trace(trace)
            .lane(Lane::Bulk)
            .idempotent()
            .optional()
    };
    message().retry(retry).send().await.unwrap();
    message().receipt().publish().await.unwrap();
    let (sent, published) = (cell.sent().remove(0), cell.published().remove(0));
    for outgoing in [&sent, &published] {
        assert_eq!(outgoing.lane, Lane::Bulk);
        assert!(outgoing.flags.contains(Flags::IDEMPOTENT.with(Flags::OPTIONAL)));
        let rare = outgoing.rare.as_ref().unwrap();
        assert_eq!((&rare.headers[..], rare.trace), (&b"round=3"[..], Some(trace)));
    }
    assert_eq!((sent.retry(), published.retry()), (Some(retry), None));
    assert!(published.flags.contains(Flags::RECEIPT) && !sent.flags.contains(Flags::RECEIPT));

    let many = bus.multicast(["site-2", "relay"].map(name), target("task/ping")).sealed();
    many.headers("x").publish().await.unwrap();
    let published = cell.published();
    let is_sealed = |outgoing: &&Outgoing| outgoing.flags.contains(Flags::SEALED);
    assert_eq!(published.iter().filter(is_sealed).count(), 2);
}

#[tokio::test]
async fn several_replies_come_one_after_the_other() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let mut replies = bus.request(name("site-2"), target("task/ping")).payload("x").replies();
    for _ in 0..3 {
        assert_eq!(replies.next().await.unwrap().unwrap().payload, "x");
    }
    assert!(replies.next().await.is_none());
    let mut refused = bus.request(name("relay"), target("task/ping")).replies();
    assert_eq!(refused.next().await.unwrap().unwrap_err().status(), Status::NoHandler);
    assert!(refused.next().await.is_none());
}

#[tokio::test]
async fn a_handler_of_job_code_gives_several_replies() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let handler = from_fn(|delivery: Delivery| async move {
        let replies = delivery.replies();
        for number in 0..10u8 {
            replies.send(vec![number]).await.expect("somebody waits");
        }
        Ok(Reply::from(vec![10]))
    });
    bus.handle(target("task/count"), handler).await.unwrap();
    let handler = cell.handler(&target("task/count"));
    let mut call = Call::new(&*handler, delivery("task/count", ""), Line::default());
    for number in 0..10u8 {
        assert_eq!(call.step().await, Step::Reply(vec![number].into()));
    }
    assert_eq!(call.step().await, Step::End(Outcome::Replied(vec![10].into())));
}

#[tokio::test]
async fn an_answer_may_come_at_any_time_and_in_any_order() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let mut job = served.welcomed().await;
    job.handle(1, &target("task/train")).await;
    let first = tokio::spawn(cell.deliver(delivery("task/train", "1")));
    let Some(ToJob::Deliver(one)) = job.receive().await else { panic!("no delivery") };
    let second = tokio::spawn(cell.deliver(delivery("task/train", "2")));
    let Some(ToJob::Deliver(two)) = job.receive().await else { panic!("no delivery") };
    for (id, text) in [(two.id, "b"), (one.id, "a")] {
        job.send(&ToCell::DeliverReply { id, body: Body::inline(text) }).await;
    }
    assert_eq!(second.await.unwrap().unwrap().payload, "b");
    assert_eq!(first.await.unwrap().unwrap().payload, "a");
}

#[tokio::test]
async fn events_of_the_cell_come_to_job_code() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let (mut events, mut found) = (bus.events(), Vec::new());
    while let Some(event) = events.next().await {
        found.push(event);
    }
    assert_eq!(found, around());
}

#[tokio::test]
async fn the_way_of_a_message_is_not_for_job_code() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let probe = bus.request(name("site-2"), target("task/ping")).probe(true).await;
    assert_eq!(probe.outcome.unwrap_err().status(), Status::Version);
    assert_eq!(cell.requested(), 0);
}

struct Stop;

impl Filter for Stop {
    fn name(&self) -> &str {
        "stop"
    }

    fn filter(&self, _: &mut FilterMessage) -> Result<(), String> {
        Err("no".to_owned())
    }
}

#[tokio::test]
async fn f_03_what_a_filter_of_job_code_stops_never_leaves_it() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    bus.filter([Point::RequestOut], target("task/ping"), Stop);
    let request = || bus.request(name("site-2"), target("task/ping"));
    assert_eq!(request().send().await.unwrap_err().status(), Status::FilterError);
    assert_eq!(request().publish().await.unwrap_err().status(), Status::FilterError);
    let queue = bus.queue(name("site-2"), target("task/ping")).linger(Duration::ZERO).open();
    assert_eq!(queue.push("x").await.unwrap_err().status(), Status::FilterError);
    assert_eq!((cell.requested(), cell.published().len()), (0, 0));
}

#[tokio::test]
async fn f_06_what_comes_to_job_code_and_what_it_answers_pass_its_filters() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    for topic in ["task/in", "task/out"] {
        let echo = from_fn(|delivery| async move { Ok(Reply::from(delivery.payload)) });
        bus.handle(target(topic), echo).await.unwrap();
    }
    assert_eq!(cell.deliver(delivery("task/in", "x")).await.unwrap().payload, "x");
    bus.filter([Point::RequestIn], target("task/in"), Stop);
    bus.filter([Point::ReplyOut], target("task/out"), Stop);
    let refused = cell.deliver(delivery("task/in", "x")).await;
    assert_eq!(refused, Err(Failure::Refused(Status::FilterError)));
    let failed = cell.deliver(delivery("task/out", "x")).await;
    assert!(matches!(failed, Err(Failure::Failed(_))), "{failed:?}");
}
