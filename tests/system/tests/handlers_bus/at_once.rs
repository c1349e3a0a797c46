//! Handlers that are done where they are called, and publishers: what travels in one message is still each its own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cellbus_channels::{
    ChannelTopic, Delivery, Failure, Handler, HandlerOptions, Publisher, Reply, ReplyToken,
    Selector, Status,
    filter::{Filter, FilterMessage, Point},
    from_sync_fn,
};
use cellbus_harness::{guard::LogGuard, net::Net};

use super::{Diary, both, both_watched, bus, request, text};

const SENT: usize = 300;

struct Marks;

impl Filter for Marks {
    fn name(&self) -> &str {
        "marks"
    }

    fn filter(&self, message: &mut FilterMessage) -> Result<(), String> {
        message.payload = [&message.payload[..], b"!"].concat().into();
        Ok(())
    }
}

async fn serve_at_once(net: &Net, handler: impl Handler) {
    let target: ChannelTopic = "notes/count".parse().expect("a target");
    let options = HandlerOptions::default();
    bus(net, "server").handle_with(target, options, handler).await.expect("it is free");
}

fn publisher(net: &Net) -> Publisher {
    let target = "notes/count".parse().expect("a target");
    bus(net, "site-1").request("server".parse().expect("a cell"), target).publisher()
}

async fn publish(publisher: &mut Publisher, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let (text, shares) = (number.to_string(), number % 3 == 0);
        let taken = match shares {
            true => publisher.publish(text).await,
            false => publisher.publish_slice(text.as_bytes()).await,
        };
        taken.expect("it is taken");
    }
}

fn noting(diary: &Diary) -> impl Handler + use<> {
    let diary = diary.clone();
    from_sync_fn(move |delivery| {
        diary.note(text(&delivery.payload));
        Ok(Reply::default())
    })
}

async fn until(net: &Net, diary: &Diary, count: usize) {
    for _ in 0..100 {
        if diary.read().len() >= count {
            return;
        }
        net.advance(Duration::from_millis(100)).await;
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn g_10_what_a_publisher_sends_is_handled_once_and_in_order() {
    both(|net| async move {
        let diary = Diary::default();
        serve_at_once(&net, noting(&diary)).await;
        let mut publisher = publisher(&net);
        publish(&mut publisher, 0..SENT).await;
        until(&net, &diary, SENT).await;
        assert_eq!(diary.read(), numbers(0..SENT));
        let bytes = net.inspect().await["relay.site-1"].counters.bytes_out;
        // Registered, and with a message's header each, it would have been more.
        assert!(bytes < 20_000, "{bytes} bytes have left");
        net.finish().await;
    });
}

#[test]
fn a_publisher_outlives_the_loss_of_its_way_and_passes_filters_that_come_later() {
    both(|mut net| async move {
        let diary = Diary::default();
        serve_at_once(&net, noting(&diary)).await;
        let mut publisher = publisher(&net);
        publish(&mut publisher, 0..10).await;
        until(&net, &diary, 10).await;
        net.crash("relay").await;
        net.restart("relay");
        net.advance(Duration::from_secs(20)).await;
        net.wait_ready(Duration::from_secs(60)).await;
        publish(&mut publisher, 10..20).await;
        until(&net, &diary, 20).await;
        assert_eq!(diary.read(), numbers(0..20));
        bus(&net, "site-1").filter([Point::RequestOut], Selector::All, Marks);
        publish(&mut publisher, 20..21).await;
        until(&net, &diary, 21).await;
        assert_eq!(diary.read().last().map(String::as_str), Some("20!"));
        net.finish().await;
    });
}

#[test]
fn what_is_too_long_for_a_message_is_refused_and_the_publisher_goes_on() {
    both(|net| async move {
        let diary = Diary::default();
        serve_at_once(&net, noting(&diary)).await;
        let mut publisher = publisher(&net);
        publish(&mut publisher, 0..2).await;
        let refused = publisher.publish(vec![b'x'; (1 << 20) + 1]).await.expect_err("too long");
        assert_eq!(refused.status(), Status::TooLarge);
        publish(&mut publisher, 2..4).await;
        until(&net, &diary, 4).await;
        assert_eq!(diary.read(), numbers(0..4));
        net.finish().await;
    });
}

#[test]
fn requests_are_answered_refused_and_put_off_each_on_its_own() {
    both(|net| async move {
        let later: Arc<Mutex<Vec<(String, ReplyToken)>>> = Arc::default();
        let tokens = Arc::clone(&later);
        serve_at_once(
            &net,
            from_sync_fn(move |delivery| {
                let text = text(&delivery.payload);
                if text.ends_with('1') {
                    return Err(Failure::failed(text));
                }
                if text.ends_with('2') {
                    tokens.lock().unwrap().push((text, delivery.defer()));
                    return Ok(Reply::later());
                }
                Ok(delivery.payload.clone().into())
            }),
        )
        .await;
        let asked = (0..100).map(|number| {
            request(&net, "site-1", "server", "notes/count", &number.to_string()).send()
        });
        let asked = tokio::spawn(futures_util::future::join_all(asked));
        while !asked.is_finished() {
            net.advance(Duration::from_millis(10)).await;
            for (text, token) in std::mem::take(&mut *later.lock().unwrap()) {
                token.reply(format!("{text} later").into_bytes()).expect("somebody waits");
            }
        }
        for (number, outcome) in asked.await.unwrap().into_iter().enumerate() {
            match number % 10 {
                1 => assert_eq!(outcome.unwrap_err().status(), Status::HandlerFailed),
                2 => assert_eq!(outcome.unwrap().payload, format!("{number} later")),
                _ => assert_eq!(outcome.unwrap().payload, number.to_string()),
            }
        }
        net.finish().await;
    });
}

#[test]
fn who_keeps_a_delivery_gets_hold_of_no_other_message() {
    both(|net| async move {
        let kept: Arc<Mutex<Option<Delivery>>> = Arc::default();
        let keeps = Arc::clone(&kept);
        serve_at_once(
            &net,
            from_sync_fn(move |delivery| {
                let mut kept = keeps.lock().unwrap();
                if let Some(before) = &*kept {
                    assert!(before.defer().is_gone(), "that message has been answered");
                }
                *kept = Some(delivery.clone());
                Ok(delivery.payload.clone().into())
            }),
        )
        .await;
        let asked = (0..50).map(|number| {
            request(&net, "site-1", "server", "notes/count", &number.to_string()).send()
        });
        let answers = futures_util::future::join_all(asked).await;
        for (number, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap().payload, number.to_string());
        }
        let last = kept.lock().unwrap().take().unwrap();
        tokio::time::timeout(Duration::from_secs(5), last.cancelled()).await.expect("it is over");
        net.finish().await;
    });
}

#[test]
fn g_40_one_that_panics_ends_its_own_message_only() {
    let log = LogGuard::start();
    log.expect("a handler panicked");
    log.expect_panic("on purpose");
    both_watched(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve_at_once(
            &net,
            from_sync_fn(move |delivery| {
                let text = text(&delivery.payload);
                assert_ne!(text, "50", "on purpose");
                noted.note(text);
                Ok(Reply::default())
            }),
        )
        .await;
        let mut publisher = publisher(&net);
        publish(&mut publisher, 0..100).await;
        until(&net, &diary, 99).await;
        let wanted: Vec<_> = numbers(0..100).into_iter().filter(|text| text != "50").collect();
        assert_eq!(diary.read(), wanted);
        net.finish().await;
    });
}
