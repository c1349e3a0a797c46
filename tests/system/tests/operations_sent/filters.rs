//! Whatever leaves a cell passes its filters, and so does whatever comes back.

use std::{collections::BTreeMap, time::Duration};

use cellbus_channels::{
    Bus, Bytes, Fqcn, RequestError, RetryPolicy, Selector, Status,
    filter::{Filter, FilterMessage, Point},
};
use cellbus_harness::net::Net;

use super::{Watch, bus, name, over_both, target};

/// Replaces what was not to leave.
struct Replace(&'static str, &'static str);

impl Filter for Replace {
    fn name(&self) -> &str {
        "replace"
    }

    fn filter(&self, message: &mut FilterMessage) -> Result<(), String> {
        let text = String::from_utf8_lossy(&message.payload).replace(self.0, self.1);
        message.payload = Bytes::from(text);
        Ok(())
    }
}

struct Stop;

impl Filter for Stop {
    fn name(&self) -> &str {
        "stop"
    }

    fn filter(&self, _: &mut FilterMessage) -> Result<(), String> {
        Err("it must not leave".to_owned())
    }
}

/// Every way in which a message can leave, with how it ended.
async fn all_ways(from: &Bus, to: &[Fqcn]) -> BTreeMap<&'static str, Result<Bytes, Status>> {
    let request = || from.request(to[0].clone(), target("task/ping")).payload("secret");
    let many = || from.multicast(to.to_vec(), target("task/ping")).payload("secret");
    let status = |error: RequestError| error.status();
    let first = |outcomes: Vec<(Fqcn, Result<cellbus_channels::Reply, RequestError>)>| {
        let (_, outcome) = outcomes.into_iter().next().expect("an outcome");
        outcome.map(|reply| reply.payload).map_err(status)
    };
    let empty = |()| Bytes::new();
    let reply = |outcome: Result<cellbus_channels::Reply, RequestError>| {
        outcome.map(|reply| reply.payload).map_err(status)
    };
    let scatter = to.iter().map(|to| (to.clone(), "secret")).collect::<Vec<_>>();
    let scatter = from.scatter(scatter, target("task/ping"));
    let queue = from.queue(to[0].clone(), target("task/ping")).open();
    BTreeMap::from([
        ("request", reply(request().send().await)),
        ("retry", reply(request().retry(RetryPolicy::default()).send().await)),
        ("replies", reply(request().replies().next().await.expect("an outcome"))),
        ("probe", reply(request().probe(true).await.outcome)),
        ("publish", request().publish().await.map(empty).map_err(|error| error.status())),
        ("receipt", request().receipt().publish().await.map(empty).map_err(|e| e.status())),
        ("multicast", first(many().send().await.all().await)),
        ("publish to many", many().publish().await.map(empty).map_err(|error| error.status())),
        ("receipts", first(many().publish_with_receipts().await.all().await)),
        ("scatter", first(scatter.send().await.all().await)),
        ("queue", queue.push("secret").await.map_err(status)),
    ])
}

async fn watched(net: &Net) -> (Watch, Vec<Fqcn>) {
    let watch = Watch::default();
    for cell in ["site-3", "relay.site-2"] {
        watch.on(net, cell, "task/ping", Duration::ZERO).await;
    }
    (watch, vec![name("site-3"), name("relay.site-2")])
}

#[test]
fn f_02_what_a_filter_takes_out_leaves_by_no_way() {
    over_both(async |net| {
        let (watch, to) = watched(&net).await;
        let site = bus(&net, "site-1");
        site.filter([Point::RequestOut], target("task/ping"), Replace("secret", "redacted"));
        for (way, outcome) in all_ways(&site, &to).await {
            let payload = outcome.unwrap_or_else(|status| panic!("{way}: {status}"));
            assert!(payload.is_empty() || payload == "redacted", "{way}: {payload:?}");
        }
        net.advance(Duration::from_secs(1)).await;
        let seen = watch.seen();
        assert!(seen.len() >= 13 && seen.iter().all(|text| text == "redacted"), "{seen:?}");
        net.finish().await;
    });
}

#[test]
fn f_03_what_a_filter_stops_leaves_by_no_way() {
    over_both(async |net| {
        let (watch, to) = watched(&net).await;
        let site = bus(&net, "site-1");
        site.filter([Point::RequestOut], Selector::All, Stop);
        for (way, outcome) in all_ways(&site, &to).await {
            assert_eq!(outcome, Err(Status::FilterError), "{way}");
        }
        net.advance(Duration::from_secs(1)).await;
        assert!(watch.seen().is_empty());
        net.finish().await;
    });
}

#[test]
fn f_06_what_comes_back_passes_the_filters_by_every_way() {
    over_both(async |net| {
        let (_watch, to) = watched(&net).await;
        let site = bus(&net, "site-1");
        site.filter([Point::ReplyIn], target("task/ping"), Replace("secret", "redacted"));
        for (way, outcome) in all_ways(&site, &to).await {
            let payload = outcome.unwrap_or_else(|status| panic!("{way}: {status}"));
            assert!(payload.is_empty() || payload == "redacted", "{way}: {payload:?}");
        }
        net.finish().await;
    });
}
