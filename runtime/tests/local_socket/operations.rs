//! What job code can do beside single requests, over a connection that carries nothing else.

use std::time::Duration;

use cellbus_channels::{
    Bytes, Failure, Reply, RequestError, Status, Straggler,
    filter::{Filter, FilterMessage, Point},
    from_fn,
};
use cellbus_runtime::local_socket::Options;

use crate::cell_and_job::{FakeCell, delivery, name, serve, target};

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
async fn a_queue_sends_each_item_by_itself_and_replies_are_one() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let queue = bus.queue(name("site-2"), target("task/ping")).open();
    let mut pushed = Vec::new();
    for number in 0..100 {
        pushed.push(queue.enqueue(number.to_string()).await.unwrap());
    }
    for (number, pushed) in pushed.into_iter().enumerate() {
        assert_eq!(pushed.await.unwrap(), number.to_string());
    }
    queue.close().await;
    assert_eq!(cell.requested(), 100);
    let mut replies = bus.request(name("site-2"), target("task/ping")).payload("x").replies();
    assert_eq!(replies.next().await.unwrap().unwrap().payload, "x");
    assert!(replies.next().await.is_none());
}

#[tokio::test]
async fn what_the_connection_does_not_carry_is_refused_and_not_left_out() {
    let cell = cell();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let request = || bus.request(name("site-2"), target("task/ping"));
    let refused = request().headers("a: b").send().await.unwrap_err();
    assert_eq!(refused.status(), Status::Version);
    assert_eq!(request().receipt().publish().await.unwrap_err().status(), Status::Version);
    assert_eq!(request().probe(false).await.outcome.unwrap_err().status(), Status::Version);
    let mut replies = request().headers("a: b").replies();
    assert_eq!(replies.next().await.unwrap().unwrap_err().status(), Status::Version);
    assert!(replies.next().await.is_none());
    let many = bus.multicast(["site-2", "site-3"].map(name), target("task/ping"));
    let many = many.publish_with_receipts().await.all().await;
    assert!(many.len() == 2);
    assert!(many.iter().all(|(_, outcome)| {
        outcome.as_ref().is_err_and(|error| error.status() == Status::Version)
    }));
    assert_eq!((cell.requested(), cell.published().len()), (0, 0));
    assert!(bus.broadcast(target("task/ping")).send().await.all().await.is_empty());
    assert!(bus.events().next().await.is_none());
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
