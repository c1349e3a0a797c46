//! Several replies to one request.

use std::time::Duration;

use cellbus_channels::{Class, Delivery, Failure, Reply, RequestError, Status, from_fn};
use cellbus_harness::net::Net;

use super::{Watch, bus, name, over_both, target};

/// Has `cell` answer with the numbers from 1 to that in the payload, `bytes` long each, and then with `end`.
async fn counts(
    net: &Net,
    cell: &str,
    watch: &Watch,
    (wait, bytes): (Duration, usize),
    end: Result<(), Failure>,
) {
    let watch = watch.clone();
    let handler = from_fn(move |delivery: Delivery| {
        watch.begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut running = super::Running(Some(std::sync::Arc::clone(&watch.dropped)));
        let end = end.clone();
        async move {
            let last: usize =
                std::str::from_utf8(&delivery.payload).expect("text").parse().expect("a number");
            let replies = delivery.replies();
            for number in 1..last {
                tokio::time::sleep(wait).await;
                let reply = Reply::from(format!("{number:0bytes$}").into_bytes());
                if replies.send(reply).await.is_err() {
                    break;
                }
            }
            running.finish();
            end.map(|()| Reply::from(format!("{last:0bytes$}").into_bytes()))
        }
    });
    bus(net, cell).handle(target("task/count"), handler).await.expect("nobody else handles it");
}

#[test]
fn replies_come_in_order_and_the_last_is_the_end() {
    over_both(async |net| {
        let watch = Watch::default();
        counts(&net, "site-3", &watch, (Duration::from_millis(1), 1), Ok(())).await;
        let request = bus(&net, "site-1").request(name("site-3"), target("task/count"));
        let mut replies = request.payload("100").replies();
        for number in 1..=100 {
            let reply = replies.next().await.unwrap().unwrap();
            assert_eq!(reply.payload, number.to_string());
        }
        assert!(replies.next().await.is_none() && replies.next().await.is_none());
        assert_eq!((watch.begun(), watch.dropped()), (1, 0));
        net.finish().await;
    });
}

#[test]
fn an_error_ends_the_replies_after_those_that_came_before() {
    over_both(async |net| {
        let end = Err(Failure::failed("no more"));
        counts(&net, "server", &Watch::default(), (Duration::ZERO, 1), end).await;
        let site = bus(&net, "site-1");
        let mut replies = site.request(name("server"), target("task/count")).payload("3").replies();
        assert!(replies.next().await.unwrap().is_ok() && replies.next().await.unwrap().is_ok());
        let failed = replies.next().await.unwrap().unwrap_err();
        assert_eq!((failed.status(), failed.class()), (Status::HandlerFailed, Class::Failed));
        assert!(replies.next().await.is_none());
        let mut nobody = site.request(name("server"), target("task/ping")).replies();
        assert_eq!(nobody.next().await.unwrap().unwrap_err().status(), Status::NoHandler);
        assert!(nobody.next().await.is_none());
        net.finish().await;
    });
}

#[test]
fn replies_that_are_not_taken_end_and_stop_the_handler() {
    over_both(async |net| {
        let watch = Watch::default();
        counts(&net, "server", &watch, (Duration::from_millis(10), 1000), Ok(())).await;
        let request = bus(&net, "site-1").request(name("server"), target("task/count"));
        let mut replies = request.payload("1000").replies();
        net.advance(Duration::from_secs(5)).await;
        assert_eq!((watch.begun(), watch.dropped()), (1, 1), "the handler was stopped");
        let mut taken = 0;
        let error = loop {
            match replies.next().await.unwrap() {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(taken, cellbus_channels::replies::REPLIES_MAX);
        assert!(matches!(&error, RequestError::SlowConsumer { from } if *from == name("server")));
        assert_eq!((error.status(), error.class()), (Status::SlowConsumer, Class::Unknown));
        assert!(replies.next().await.is_none());
        net.finish().await;
    });
}

#[test]
fn dropping_the_replies_stops_the_handler_and_one_reply_is_the_first() {
    over_both(async |net| {
        let watch = Watch::default();
        counts(&net, "site-3", &watch, (Duration::from_millis(100), 1), Ok(())).await;
        let request = || {
            let request = bus(&net, "site-1").request(name("site-3"), target("task/count"));
            request.payload("1000")
        };
        let mut replies = request().replies();
        assert_eq!(replies.next().await.unwrap().unwrap().payload, "1");
        drop(replies);
        net.advance(Duration::from_secs(1)).await;
        assert_eq!((watch.begun(), watch.dropped()), (1, 1));
        assert_eq!(request().send().await.unwrap().payload, "1");
        net.advance(Duration::from_secs(1)).await;
        assert_eq!((watch.begun(), watch.dropped()), (2, 2));
        net.assert_no_leaks().await;
        net.finish().await;
    });
}
