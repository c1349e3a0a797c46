//! Requests that are sent again with the same id.

use std::time::Duration;

use cellbus_channels::{Class, RequestBuilder, RetryPolicy, Status};
use cellbus_harness::net::Net;
use tokio::time::Instant;

use super::{Watch, bus, name, over_both, target};

fn retried(net: &Net, to: &str, at: &str, budget: Duration) -> RequestBuilder {
    let request = bus(net, "site-1").request(name(to), target(at)).payload("x");
    request.budget(budget).retry(RetryPolicy::default())
}

#[test]
fn g_12_a_request_outlasts_the_loss_of_a_link_and_is_executed_once() {
    over_both(async |net| {
        let watch = Watch::default();
        watch.on(&net, "server", "task/slow", Duration::from_secs(2)).await;
        let asked = retried(&net, "server", "task/slow", Duration::from_secs(30));
        let asked = actix_rt::spawn(asked.send());
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(watch.begun(), 1);
        net.cut("relay", "server");
        net.advance(Duration::from_secs(6)).await;
        net.heal("relay", "server");
        let reply = asked.await.unwrap();
        assert_eq!(reply.unwrap().payload, "x");
        assert_eq!(watch.begun(), 1, "the second copy was answered from memory");
        net.finish().await;
    });
}

#[test]
fn a_request_is_sent_again_as_soon_as_its_own_link_is_back() {
    over_both(async |net| {
        net.cell("server").echoes("task/ping").await;
        net.cut("relay.site-1", "relay");
        net.advance(Duration::from_secs(6)).await;
        let begun = Instant::now();
        let plain = net.cell("site-1").request("server", "task/ping", "p").await.unwrap_err();
        assert_eq!((plain.status(), begun.elapsed()), (Status::NoRoute, Duration::ZERO));
        let asked =
            actix_rt::spawn(retried(&net, "server", "task/ping", Duration::from_secs(40)).send());
        net.advance(Duration::from_secs(3)).await;
        assert!(!asked.is_finished());
        net.heal("relay.site-1", "relay");
        assert_eq!(asked.await.unwrap().unwrap().payload, "x");
        assert_eq!(net.cell("server").calls(), ["x"]);
        net.finish().await;
    });
}

#[test]
fn a_refusal_ends_a_request_that_is_sent_again_at_once() {
    over_both(async |net| {
        for (to, at, status) in [
            ("server", "task/ping", Status::NoHandler),
            ("relay.site-9", "task/ping", Status::NoRoute),
            ("server", "ops/x", Status::TopicDenied),
        ] {
            let begun = Instant::now();
            let refused = retried(&net, to, at, Duration::from_secs(20)).send().await.unwrap_err();
            assert_eq!((refused.status(), refused.class()), (status, Class::Refused), "{to} {at}");
            assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
        }
        net.finish().await;
    });
}

#[test]
fn g_05_a_new_start_is_not_given_what_the_former_may_have_executed() {
    over_both(async |mut net| {
        let (former, next) = (Watch::default(), Watch::default());
        former.on(&net, "site-3", "task/slow", Duration::from_secs(20)).await;
        let asked =
            actix_rt::spawn(retried(&net, "site-3", "task/slow", Duration::from_secs(30)).send());
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(former.begun(), 1);
        net.crash("site-3").await;
        net.restart("site-3");
        next.on(&net, "site-3", "task/slow", Duration::ZERO).await;
        let ended = asked.await.unwrap().unwrap_err();
        assert_eq!((ended.status(), ended.class()), (Status::PeerRestarted, Class::Unknown));
        assert_eq!(next.begun(), 0);
        net.finish().await;
    });
}

#[test]
fn g_05_a_new_start_is_given_what_may_be_executed_twice() {
    over_both(async |mut net| {
        let (former, next) = (Watch::default(), Watch::default());
        former.on(&net, "site-3", "task/slow", Duration::from_secs(20)).await;
        let request = retried(&net, "site-3", "task/slow", Duration::from_secs(30));
        let asked = actix_rt::spawn(request.idempotent().send());
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(former.begun(), 1);
        net.crash("site-3").await;
        net.restart("site-3");
        next.on(&net, "site-3", "task/slow", Duration::ZERO).await;
        assert_eq!(asked.await.unwrap().unwrap().payload, "x");
        assert_eq!(next.begun(), 1);
        net.finish().await;
    });
}

#[test]
fn a_request_whose_copies_never_left_was_certainly_not_executed() {
    over_both(async |net| {
        net.cut("relay.site-1", "relay");
        net.advance(Duration::from_secs(6)).await;
        let begun = Instant::now();
        let budget = Duration::from_secs(2);
        let ended = retried(&net, "server", "task/ping", budget).send().await.unwrap_err();
        assert_eq!((ended.status(), ended.class()), (Status::NoRoute, Class::Refused));
        assert!(begun.elapsed() <= budget + Duration::from_millis(250));
        net.heal("relay.site-1", "relay");
        net.advance(Duration::from_secs(20)).await;
        net.finish().await;
    });
}
