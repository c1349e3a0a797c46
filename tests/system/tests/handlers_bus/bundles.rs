//! Publishes that follow one another travel in one message, and nobody can tell: each is handled on its own,
//! in order, and counted.

use std::time::Duration;

use cellbus_channels::{
    ChannelTopic, Failure, Fqcn, HandlerOptions, Reply, Selector, Status,
    filter::{Filter, FilterMessage, Point},
};
use cellbus_harness::{guard::LogGuard, net::Net};

use super::{Diary, both, both_watched, bus, request, serve, text};

const SENT: usize = 500;

struct NoNines;

impl Filter for NoNines {
    fn name(&self) -> &str {
        "no_nines"
    }

    fn filter(&self, message: &mut FilterMessage) -> Result<(), String> {
        if message.payload.ends_with(b"9") { Err("a nine".to_owned()) } else { Ok(()) }
    }
}

/// Publishes numbers one right behind the other.
async fn publish_all(net: &Net, target: &str) {
    let bus = bus(net, "site-1");
    let to: Fqcn = "server".parse().expect("a cell");
    let target: ChannelTopic = target.parse().expect("a target");
    let one = bus.request(to.clone(), target.clone());
    one.payload("first").publish().await.expect("it is taken");
    for number in 0..SENT {
        let message = bus.request(to.clone(), target.clone());
        message.payload(number.to_string()).publish().await.expect("it is taken");
    }
}

/// Registers a handler that notes what it gets.
async fn notes(net: &Net) -> Diary {
    let diary = Diary::default();
    let noted = diary.clone();
    serve(net, "server", "notes/count", HandlerOptions::default(), move |delivery| {
        noted.note(text(&delivery.payload));
        async { Ok(Reply::default()) }
    })
    .await;
    diary
}

fn expected() -> Vec<String> {
    std::iter::once("first".to_owned()).chain((0..SENT).map(|number| number.to_string())).collect()
}

async fn until_all(net: &Net, diary: &Diary) {
    let mut waited = 0;
    while diary.read().len() <= SENT && waited < 100 {
        net.advance(Duration::from_millis(100)).await;
        waited += 1;
    }
}

#[test]
fn g_10_publishes_in_one_message_are_handled_one_by_one_in_order() {
    both(|net| async move {
        let diary = notes(&net).await;
        let before = net.inspect().await;
        publish_all(&net, "notes/count").await;
        until_all(&net, &diary).await;
        assert_eq!(diary.read(), expected());
        let after = net.inspect().await;
        let of = |name: &str| after[name].counters.accepted - before[name].counters.accepted;
        for cell in ["relay.site-1", "relay", "server"] {
            assert!(of(cell) > SENT as u64, "{cell} has counted {} messages", of(cell));
        }
        // A message of its own has a prefix and a header of more than 20 bytes.
        let bytes =
            after["relay.site-1"].counters.bytes_out - before["relay.site-1"].counters.bytes_out;
        assert!(bytes < 20 * SENT as u64, "{bytes} bytes have left for {SENT} publishes");
        net.finish().await;
    });
}

#[test]
fn g_11_one_that_takes_its_time_holds_those_behind_it() {
    both(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve(&net, "server", "notes/slow", HandlerOptions::default(), move |delivery| {
            let (diary, text) = (noted.clone(), text(&delivery.payload));
            async move {
                if text.ends_with('7') {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                diary.note(text);
                Ok(Reply::default())
            }
        })
        .await;
        publish_all(&net, "notes/slow").await;
        until_all(&net, &diary).await;
        assert_eq!(diary.read(), expected());
        net.finish().await;
    });
}

#[test]
fn each_of_them_passes_the_filters() {
    both(|net| async move {
        let diary = notes(&net).await;
        bus(&net, "server").filter([Point::RequestIn], Selector::All, NoNines);
        publish_all(&net, "notes/count").await;
        net.advance(Duration::from_secs(2)).await;
        assert_eq!(diary.read().len(), SENT + 1 - SENT / 10);
        let refused = net.cell("server").running.own().counters.refused(Status::FilterError);
        assert_eq!(refused, SENT as u64 / 10);
        net.finish().await;
    });
}

#[test]
fn those_that_nobody_handles_or_a_rule_forbids_are_each_counted() {
    both(|net| async move {
        publish_all(&net, "notes/count").await;
        net.advance(Duration::from_secs(2)).await;
        let own = std::sync::Arc::clone(net.cell("server").running.own());
        assert_eq!(own.counters.refused(Status::NoHandler), SENT as u64 + 1);
        let letters = own.dead_letters.report(usize::MAX, Some(Status::NoHandler));
        assert_eq!(letters.counts.iter().map(|one| one.count).sum::<u64>(), SENT as u64 + 1);
        assert!(letters.letters.iter().all(|letter| letter.payload_len <= 5));
        net.finish().await;
    });
}

#[test]
fn one_that_panics_costs_no_other() {
    let log = LogGuard::start();
    log.expect("a handler panicked");
    log.expect_panic("on purpose");
    both_watched(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve(&net, "server", "notes/count", HandlerOptions::default(), move |delivery| {
            let text = text(&delivery.payload);
            assert_ne!(text, "250", "on purpose");
            noted.note(text.clone());
            async move {
                if text == "100" { Err(Failure::failed("no")) } else { Ok(Reply::default()) }
            }
        })
        .await;
        publish_all(&net, "notes/count").await;
        net.advance(Duration::from_secs(2)).await;
        let wanted: Vec<_> = expected().into_iter().filter(|text| text != "250").collect();
        assert_eq!(diary.read(), wanted);
        request(&net, "site-2", "server", "notes/count", "x").send().await.unwrap();
        net.finish().await;
    });
}

#[test]
fn g_40_a_handler_that_has_panicked_too_often_is_given_nothing_more_of_the_bundle() {
    let log = LogGuard::start();
    log.expect("a handler panicked");
    log.expect("panicked too often");
    log.expect_panic("on purpose");
    both_watched(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve(&net, "server", "notes/count", HandlerOptions::default(), move |delivery| {
            let text = text(&delivery.payload);
            noted.note(text.clone());
            assert_eq!(text, "first", "on purpose");
            async { Ok(Reply::default()) }
        })
        .await;
        publish_all(&net, "notes/count").await;
        net.advance(Duration::from_secs(2)).await;
        assert_eq!(diary.read(), ["first", "0", "1", "2", "3", "4"]);
        let refused = net.cell("server").running.own().counters.refused(Status::NoHandler);
        assert_eq!(refused, SENT as u64 - 5);
        net.finish().await;
    });
}
