//! One message to many cells, and different messages to many.

use std::{collections::BTreeMap, time::Duration};

use cellbus_channels::{Class, Fqcn, Gather, RequestError, Status, Straggler};
use tokio::time::Instant;

use super::{Watch, bus, name, over_both, target};

const ALL: [&str; 4] = ["relay.site-1", "relay.site-2", "site-3", "relay"];

async fn by_name(gather: Gather) -> BTreeMap<String, Result<String, RequestError>> {
    let all = gather.all().await;
    let count = all.len();
    let text =
        |reply: cellbus_channels::Reply| String::from_utf8(reply.payload.to_vec()).expect("text");
    let all: BTreeMap<_, _> =
        all.into_iter().map(|(cell, outcome)| (cell.to_string(), outcome.map(text))).collect();
    assert_eq!(all.len(), count, "one outcome for each");
    all
}

fn names(of: &[&str]) -> Vec<Fqcn> {
    of.iter().map(|cell| name(cell)).collect()
}

#[test]
fn every_cell_of_a_multicast_has_one_outcome_good_or_bad() {
    over_both(async |net| {
        for cell in ["relay.site-1", "relay.site-2", "relay", "server"] {
            net.cell(cell).echoes("task/ping").await;
        }
        let to = ["relay.site-1", "relay.site-2", "site-3", "site-9", "relay.site-9", "server"];
        let twice = names(&to).into_iter().chain(names(&["relay.site-1"]));
        let server = bus(&net, "server");
        let gather = server.multicast(twice, target("task/ping")).payload("all").send().await;
        let outcomes = by_name(gather).await;
        let status = |cell: &str| outcomes[cell].as_ref().map_err(RequestError::status).cloned();
        assert_eq!(outcomes.len(), 6);
        assert_eq!(status("relay.site-1"), Ok("all".to_owned()));
        assert_eq!(status("relay.site-2"), Ok("all".to_owned()));
        assert_eq!(status("server"), Ok("all".to_owned()));
        assert_eq!(status("site-3"), Err(Status::NoHandler));
        assert_eq!(status("site-9"), Err(Status::NoRoute));
        assert_eq!(status("relay.site-9"), Err(Status::NoRoute));
        assert_eq!(net.cell("site-1").calls(), ["all"], "once, though named twice");
        let denied = server.multicast(names(&ALL), target("ops/x")).send().await.all().await;
        assert_eq!(denied.len(), ALL.len());
        assert!(
            denied.iter().all(|(_, outcome)| {
                outcome.as_ref().unwrap_err().status() == Status::TopicDenied
            })
        );
        net.finish().await;
    });
}

#[test]
fn a_multicast_crosses_every_link_once() {
    over_both(async |net| {
        const BYTES: usize = 200_000;
        for cell in ["relay.site-1", "relay.site-2"] {
            let watch = Watch::default();
            watch.on(&net, cell, "notes/ping", Duration::ZERO).await;
        }
        let sent = async || net.inspect().await["server"].counters.bytes_out as usize;
        let before = sent().await;
        let site = names(&["relay.site-1", "relay.site-2"]);
        let message = bus(&net, "server").multicast(site, target("notes/ping"));
        let message = message.payload(vec![b'x'; BYTES]);
        let all = message.publish_with_receipts().await.all().await;
        assert!(all.len() == 2 && all.iter().all(|(_, outcome)| outcome.is_ok()), "{all:?}");
        let crossed = sent().await - before;
        assert!((BYTES..BYTES * 3 / 2).contains(&crossed), "{crossed} bytes to the relay");
        net.finish().await;
    });
}

#[test]
fn a_published_multicast_arrives_everywhere_and_its_receipts_say_where_not() {
    over_both(async |net| {
        for cell in ["relay.site-1", "site-3"] {
            net.cell(cell).echoes("notes/ping").await;
        }
        let to = names(&["relay.site-1", "relay.site-2", "site-3"]);
        let message = || bus(&net, "server").multicast(to.clone(), target("notes/ping"));
        message().payload("a").publish().await.unwrap();
        let missing = message().payload("c").receipt().publish().await.unwrap_err();
        assert_eq!((missing.status(), missing.class()), (Status::NoHandler, Class::Refused));
        let receipts = by_name(message().payload("b").publish_with_receipts().await).await;
        assert_eq!(receipts["relay.site-1"].as_deref().ok(), Some(""));
        assert_eq!(receipts["site-3"].as_deref().ok(), Some(""));
        let missing = receipts["relay.site-2"].as_ref().unwrap_err();
        assert_eq!((missing.status(), missing.class()), (Status::NoHandler, Class::Refused));
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(net.cell("site-1").calls(), ["a", "c", "b"]);
        assert_eq!(net.cell("site-3").calls(), ["a", "c", "b"]);
        let denied = bus(&net, "server").multicast(to.clone(), target("ops/x"));
        assert_eq!(denied.publish().await.unwrap_err().status(), Status::TopicDenied);
        net.finish().await;
    });
}

#[test]
fn a_broadcast_is_for_every_cell_that_is_registered_below() {
    over_both(async |net| {
        for cell in ALL {
            net.cell(cell).echoes("task/ping").await;
        }
        let from_server = bus(&net, "server").broadcast(target("task/ping")).payload("s");
        let from_server = by_name(from_server.send().await).await;
        assert_eq!(from_server.len(), 4);
        assert!(from_server.values().all(Result::is_ok), "{from_server:?}");
        let from_relay = by_name(bus(&net, "relay").broadcast(target("task/ping")).send().await);
        let from_relay: Vec<String> = from_relay.await.into_keys().collect();
        assert_eq!(from_relay, ["relay.site-1", "relay.site-2"]);
        assert!(
            bus(&net, "site-3").broadcast(target("task/ping")).send().await.all().await.is_empty()
        );
        net.finish().await;
    });
}

#[test]
fn a_scatter_gives_every_cell_its_own_message() {
    over_both(async |net| {
        for cell in ["relay.site-1", "site-3"] {
            net.cell(cell).echoes("task/ping").await;
        }
        let messages =
            [("relay.site-1", "a"), ("site-3", "b"), ("relay.site-2", "c"), ("site-3", "d")];
        let messages = messages.map(|(cell, text)| (name(cell), text));
        let gather = bus(&net, "server").scatter(messages, target("task/ping")).send().await;
        let mut all: Vec<String> = gather
            .all()
            .await
            .into_iter()
            .map(|(cell, outcome)| match outcome {
                Ok(reply) => format!("{cell} {}", String::from_utf8_lossy(&reply.payload)),
                Err(error) => format!("{cell} {}", error.status()),
            })
            .collect();
        all.sort();
        let wanted = ["relay.site-1 a", "relay.site-2 NO_HANDLER", "site-3 b", "site-3 d"];
        assert_eq!(all, wanted);
        assert_eq!(net.cell("site-3").calls(), ["b", "d"]);
        net.finish().await;
    });
}

#[test]
fn a_quorum_ends_the_wait_and_stops_the_stragglers() {
    over_both(async |net| {
        let slow = Watch::default();
        for cell in ["relay.site-1", "relay"] {
            net.cell(cell).echoes("task/ping").await;
        }
        net.cell("site-3").echoes_after("task/ping", Duration::from_secs(1)).await;
        slow.on(&net, "relay.site-2", "task/ping", Duration::from_secs(20)).await;
        for (stragglers, replies, most) in [
            (Straggler::Drop, 2, Duration::from_millis(500)),
            (Straggler::Grace(Duration::from_secs(2)), 3, Duration::from_millis(2500)),
            (Straggler::Wait, 4, Duration::from_secs(21)),
        ] {
            let begun = Instant::now();
            let message = bus(&net, "server").multicast(names(&ALL), target("task/ping"));
            let gather = message.quorum(2).stragglers(stragglers).send().await;
            let outcomes = by_name(gather).await;
            assert_eq!(outcomes.len(), 4);
            let good = outcomes.values().filter(|outcome| outcome.is_ok()).count();
            assert_eq!(good, replies, "{stragglers:?}: {outcomes:?}");
            assert!(begun.elapsed() <= most, "{stragglers:?}: {:?}", begun.elapsed());
            for error in outcomes.values().filter_map(|outcome| outcome.as_ref().err()) {
                assert!(matches!(error, RequestError::Cancelled { .. }), "{error}");
                assert_eq!(error.class(), Class::Unknown);
            }
            net.advance(Duration::from_secs(1)).await;
        }
        assert_eq!((slow.begun(), slow.dropped()), (3, 2), "two of three were stopped");
        net.assert_no_leaks().await;
        net.finish().await;
    });
}

#[test]
fn outcomes_come_as_they_are_there_and_dropping_the_stream_stops_the_rest() {
    over_both(async |net| {
        let slow = Watch::default();
        net.cell("relay.site-1").echoes("task/ping").await;
        slow.on(&net, "relay.site-2", "task/ping", Duration::from_secs(20)).await;
        slow.on(&net, "site-3", "task/ping", Duration::from_secs(20)).await;
        let to = names(&["relay.site-1", "relay.site-2", "site-3"]);
        let mut gather = bus(&net, "server").multicast(to, target("task/ping")).send().await;
        let begun = Instant::now();
        let (first, outcome) = gather.next().await.unwrap();
        assert!(first == name("relay.site-1") && outcome.is_ok());
        assert!(begun.elapsed() < Duration::from_secs(1) && gather.outstanding() == 2);
        net.advance(Duration::from_millis(500)).await;
        drop(gather);
        net.advance(Duration::from_millis(500)).await;
        assert_eq!((slow.begun(), slow.dropped()), (2, 2));
        net.assert_no_leaks().await;
        net.finish().await;
    });
}

#[test]
fn a_cell_that_is_lost_costs_only_its_own_outcome() {
    over_both(async |mut net| {
        for cell in ["relay.site-1", "relay.site-2"] {
            net.cell(cell).echoes_after("task/slow", Duration::from_secs(10)).await;
        }
        net.cell("site-3").echoes_after("task/slow", Duration::from_secs(60)).await;
        let to = names(&["relay.site-1", "relay.site-2", "site-3"]);
        let message = bus(&net, "server").multicast(to, target("task/slow"));
        let gather = message.budget(Duration::from_secs(30)).send().await;
        let all = actix_rt::spawn(by_name(gather));
        net.advance(Duration::from_secs(1)).await;
        net.crash("site-3").await;
        let all = all.await.unwrap();
        assert!(all["relay.site-1"].is_ok() && all["relay.site-2"].is_ok());
        let lost = all["site-3"].as_ref().unwrap_err();
        assert_eq!((lost.status(), lost.class()), (Status::PeerLost, Class::Unknown));
        net.finish().await;
    });
}
