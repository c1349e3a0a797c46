//! Receipts, headers, lanes and limits of single messages, and the way that a probe finds.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cellbus_channels::{
    Bytes, Class, Delivery, Failure, Lane, Reply, Status, TraceContext, from_fn,
};

use super::{Watch, bus, name, over_both, target};

#[test]
fn a_receipt_says_that_the_destination_has_accepted_the_message() {
    over_both(async |net| {
        let watch = Watch::default();
        watch.on(&net, "server", "notes/ping", Duration::from_secs(3)).await;
        let site = bus(&net, "site-1");
        let publish = |at: &str| site.request(name("server"), target(at)).payload("n").receipt();
        let begun = tokio::time::Instant::now();
        publish("notes/ping").publish().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "the handler is not waited for");
        assert_eq!(watch.seen(), ["n"]);
        let nobody = publish("notes/count").publish().await.unwrap_err();
        assert_eq!((nobody.status(), nobody.class()), (Status::NoHandler, Class::Refused));
        let denied = publish("ops/x").publish().await.unwrap_err();
        assert_eq!((denied.status(), denied.class()), (Status::TopicDenied, Class::Refused));
        net.advance(Duration::from_secs(5)).await;
        assert_eq!((watch.seen().len(), watch.dropped()), (1, 0));
        net.finish().await;
    });
}

#[test]
fn a_receipt_that_does_not_come_leaves_open_whether_the_message_arrived() {
    over_both(async |net| {
        net.cut("server", "relay");
        let missing = bus(&net, "site-1")
            .request(name("server"), target("notes/ping"))
            .budget(Duration::from_secs(1))
            .receipt()
            .publish()
            .await
            .unwrap_err();
        assert_eq!((missing.status(), missing.class()), (Status::Deadline, Class::Unknown));
        net.heal("server", "relay");
        net.advance(Duration::from_secs(20)).await;
        net.finish().await;
    });
}

#[test]
fn headers_and_lane_arrive_and_what_is_too_large_does_not_leave() {
    over_both(async |net| {
        let seen: Arc<Mutex<Vec<Delivery>>> = Arc::default();
        let keep = Arc::clone(&seen);
        let handler = from_fn(move |delivery: Delivery| {
            keep.lock().unwrap().push(delivery);
            async { Ok::<_, Failure>(Reply::default()) }
        });
        bus(&net, "site-3").handle(target("task/ping"), handler).await.unwrap();
        let site = bus(&net, "site-1");
        let request = || site.request(name("site-3"), target("task/ping"));
        let sent = request()
            .payload("p")
            .content_type("text/plain")
            .headers("a: b")
            .trace(TraceContext([7; 25]))
            .lane(Lane::Bulk);
        sent.send().await.unwrap();
        {
            let seen = seen.lock().unwrap();
            assert_eq!(seen.len(), 1);
            assert_eq!(seen[0].headers, Bytes::from_static(b"a: b"));
            assert_eq!(seen[0].content_type.as_deref(), Some("text/plain"));
        }
        let large = request().headers(vec![0; 4097]).send().await.unwrap_err();
        assert_eq!((large.status(), large.class()), (Status::TooLarge, Class::Refused));
        let late = request().budget(Duration::from_micros(999)).send().await.unwrap_err();
        assert_eq!((late.status(), late.class()), (Status::ExpiredInQueue, Class::Refused));
        assert_eq!(seen.lock().unwrap().len(), 1);
        net.finish().await;
    });
}

#[test]
fn a_probe_names_every_cell_on_the_way_and_is_not_delivered_unless_asked() {
    over_both(async |net| {
        let watch = Watch::default();
        watch.on(&net, "site-3", "task/ping", Duration::ZERO).await;
        let site = bus(&net, "site-1");
        let probe = |to: &str, at: &str| site.request(name(to), target(at)).payload("x");
        let cells = |path: &[cellbus_channels::HopRecord]| {
            path.iter().map(|hop| hop.cell.to_string()).collect::<Vec<_>>()
        };
        let found = probe("site-3", "task/ping").probe(false).await;
        assert!(found.outcome.is_ok(), "{found:?}");
        assert_eq!(cells(&found.path), ["relay.site-1", "relay", "server", "site-3"]);
        assert_eq!(watch.begun(), 0);
        let delivered = probe("site-3", "task/ping").probe(true).await;
        assert_eq!(delivered.outcome.unwrap().payload, "x");
        assert_eq!(watch.begun(), 1);
        let lost = probe("relay.site-9", "task/ping").probe(false).await;
        assert_eq!(lost.outcome.unwrap_err().status(), Status::NoRoute);
        assert_eq!(cells(&lost.path).last().map(String::as_str), Some("relay"));
        let denied = probe("site-3", "ops/x").probe(false).await;
        assert_eq!(denied.outcome.unwrap_err().status(), Status::TopicDenied);
        assert!(denied.path.last().unwrap().rule.contains("TOPIC_DENIED"), "{:?}", denied.path);
        net.finish().await;
    });
}
