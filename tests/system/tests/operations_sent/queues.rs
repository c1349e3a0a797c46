//! Small messages that travel in batches.

use std::time::Duration;

use cellbus_channels::{Bytes, Class, Delivery, Failure, Reply, RequestError, Status, from_fn};
use cellbus_harness::net::Net;

use super::{Watch, bus, name, over_both, target};

#[test]
fn every_item_has_its_own_outcome_and_they_start_in_order() {
    over_both(async |net| {
        let watch = Watch::default();
        let seen = watch.clone();
        let handler = from_fn(move |delivery: Delivery| {
            let text = String::from_utf8(delivery.payload.to_vec()).unwrap();
            seen.seen.lock().unwrap().push(text.clone());
            async move {
                if text.ends_with('7') {
                    return Err(Failure::failed(text));
                }
                Ok(Reply::from(delivery.payload))
            }
        });
        bus(&net, "site-3").handle(target("task/count"), handler).await.unwrap();
        let queue = bus(&net, "site-1").queue(name("site-3"), target("task/count")).open();
        let items: Vec<String> = (0..5000).map(|number| format!("{number:05}")).collect();
        let before = net.inspect().await["relay.site-1"].counters.accepted;
        let mut pushed = Vec::new();
        for item in &items {
            pushed.push(queue.enqueue(item.clone()).await.unwrap());
        }
        for (item, pushed) in items.iter().zip(pushed) {
            match pushed.await {
                Ok(reply) => assert!(reply == *item && !item.ends_with('7')),
                Err(RequestError::Returned { status, detail, .. }) => {
                    assert_eq!(
                        (status, detail),
                        (Status::HandlerFailed, Bytes::from(item.clone()))
                    );
                    assert!(item.ends_with('7'));
                }
                Err(other) => panic!("{item}: {other}"),
            }
        }
        assert_eq!(watch.seen(), items);
        let messages = net.inspect().await["relay.site-1"].counters.accepted - before;
        assert!(messages <= 40, "{messages} messages for 5000 items and their outcomes");
        queue.close().await;
        net.finish().await;
    });
}

#[test]
fn a_batch_that_is_refused_ends_every_item_in_it() {
    over_both(async |net| {
        let queue = bus(&net, "site-1").queue(name("server"), target("ops/x")).open();
        let (a, b) = (queue.enqueue("a").await.unwrap(), queue.enqueue("b").await.unwrap());
        for pushed in [a, b] {
            let refused = pushed.await.unwrap_err();
            assert_eq!((refused.status(), refused.class()), (Status::TopicDenied, Class::Refused));
        }
        let nobody = bus(&net, "site-1").queue(name("server"), target("task/ping")).open();
        assert_eq!(nobody.push("a").await.unwrap_err().status(), Status::NoHandler);
        net.finish().await;
    });
}

#[test]
fn a_queue_is_bounded_and_what_does_not_fit_waits() {
    over_both(async |net| {
        let watch = Watch::default();
        watch.on(&net, "server", "task/slow", Duration::from_secs(1)).await;
        let queue = bus(&net, "site-1").queue(name("server"), target("task/slow"));
        let queue = queue.bytes_max(4 * 1256).open();
        let item = || vec![b'x'; 1000];
        let mut pushed = Vec::new();
        for _ in 0..4 {
            pushed.push(queue.enqueue(item()).await.unwrap());
        }
        let soon = Duration::from_millis(500);
        assert!(tokio::time::timeout(soon, queue.enqueue(item())).await.is_err(), "it is full");
        for pushed in pushed {
            assert!(pushed.await.is_ok());
        }
        assert!(queue.push(item()).await.is_ok());
        let large = queue.push(vec![0; 1 << 20]).await.unwrap_err();
        assert_eq!((large.status(), large.class()), (Status::TooLarge, Class::Refused));
        net.finish().await;
    });
}

#[test]
fn flushing_waits_for_all_that_was_pushed_and_a_closed_queue_takes_nothing() {
    over_both(async |net| {
        net.cell("server").echoes("task/ping").await;
        let queue = bus(&net, "site-1").queue(name("server"), target("task/ping"));
        let queue = queue.linger(Duration::from_secs(60)).open();
        let pushed = queue.enqueue("a").await.unwrap();
        net.advance(Duration::from_secs(1)).await;
        assert!(net.cell("server").calls().is_empty(), "it waits for others");
        queue.flush().await;
        assert_eq!(net.cell("server").calls(), ["a"]);
        assert!(pushed.await.is_ok());
        let other = queue.clone();
        queue.close().await;
        assert!(matches!(other.push("b").await, Err(RequestError::Closed)));
        assert_eq!(net.cell("server").calls(), ["a"]);
        net.finish().await;
    });
}

#[test]
fn a_lost_link_ends_the_items_that_were_on_their_way_as_unknown() {
    over_both(async |mut net: Net| {
        let watch = Watch::default();
        watch.on(&net, "site-3", "task/slow", Duration::from_secs(30)).await;
        let queue = bus(&net, "server").queue(name("site-3"), target("task/slow")).open();
        let pushed = queue.enqueue("a").await.unwrap();
        net.advance(Duration::from_secs(1)).await;
        net.crash("site-3").await;
        let lost = pushed.await.unwrap_err();
        assert_eq!((lost.status(), lost.class()), (Status::PeerLost, Class::Unknown));
        let later = queue.push("b").await.unwrap_err();
        assert_eq!((later.status(), later.class()), (Status::NoRoute, Class::Refused));
        net.finish().await;
    });
}
