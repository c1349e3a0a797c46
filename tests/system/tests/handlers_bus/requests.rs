//! Requests that follow one another travel in one message, and so do their replies, and nobody can tell: each
//! is answered on its own.

use std::time::Duration;

use bytes::Bytes;
use cellbus_channels::{
    Bus, ChannelTopic, Class, Failure, Fqcn, HandlerOptions, Reply, RequestError, Status,
};
use cellbus_harness::guard::LogGuard;
use futures_util::future::join_all;

use super::{Diary, both, both_watched, bus, serve, text, works};

const SENT: usize = 200;

type Outcomes = Vec<Result<String, RequestError>>;

/// Asks for numbers, all at once.
async fn ask_all(bus: Bus, to: &'static str, target: &'static str) -> Outcomes {
    let to: Fqcn = to.parse().expect("a cell");
    let target: ChannelTopic = target.parse().expect("a target");
    let asked = (0..SENT).map(|number| {
        let request = bus.request(to.clone(), target.clone()).budget(Duration::from_secs(30));
        request.payload(number.to_string()).send()
    });
    let outcomes = join_all(asked).await.into_iter();
    outcomes.map(|outcome| outcome.map(|reply| text(&reply.payload))).collect()
}

/// What `of` says of each number.
fn each<T>(of: impl Fn(usize) -> T) -> Vec<T> {
    (0..SENT).map(of).collect()
}

fn codes(outcomes: &Outcomes) -> Vec<Option<Status>> {
    outcomes.iter().map(|outcome| outcome.as_ref().err().map(RequestError::status)).collect()
}

#[test]
fn g_03_requests_in_one_message_are_answered_each_on_its_own() {
    both(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve(&net, "server", "task/count", HandlerOptions::default(), move |delivery| {
            assert!(delivery.expects_reply, "somebody waits for each");
            let number: usize = text(&delivery.payload).parse().expect("a number");
            noted.note(number.to_string());
            async move { Ok(Reply::from(Bytes::from((2 * number).to_string()))) }
        })
        .await;
        ask_all(bus(&net, "site-1"), "server", "task/count").await;
        let before = net.inspect().await;
        let outcomes = ask_all(bus(&net, "site-1"), "server", "task/count").await;
        let replies: Vec<String> = outcomes.into_iter().map(|outcome| outcome.unwrap()).collect();
        assert_eq!(replies, each(|number| (2 * number).to_string()));
        assert_eq!(diary.read()[SENT..], each(|number| number.to_string()));
        let after = net.inspect().await;
        for cell in ["relay.site-1", "relay", "server"] {
            let counted = after[cell].counters.accepted - before[cell].counters.accepted;
            assert!(counted >= 2 * SENT as u64, "{cell} has counted {counted} messages");
        }
        // A message of its own has a prefix and a header of more than 20 bytes.
        for (cell, what) in [("relay.site-1", "requests"), ("server", "replies")] {
            let bytes = after[cell].counters.bytes_out - before[cell].counters.bytes_out;
            assert!(bytes < 20 * SENT as u64, "{bytes} bytes have left for {SENT} {what}");
        }
        net.finish().await;
    });
}

#[test]
fn one_that_fails_panics_or_takes_its_time_is_no_matter_to_the_others() {
    let log = LogGuard::start();
    log.expect("a handler panicked");
    log.expect_panic("on purpose");
    both_watched(|net| async move {
        let options = HandlerOptions::concurrent(8);
        serve(&net, "server", "task/count", options, |delivery| {
            let text = text(&delivery.payload);
            assert_ne!(text, "50", "on purpose");
            async move {
                match text.as_str() {
                    "20" => Err(Failure::failed("no")),
                    "40" => Err(Failure::Refused(Status::Overloaded)),
                    "60" => {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        Ok(Reply::from(delivery.payload))
                    }
                    "80" => std::future::pending().await,
                    _ => Ok(Reply::from(delivery.payload)),
                }
            }
        })
        .await;
        let outcomes = ask_all(bus(&net, "site-1"), "server", "task/count").await;
        let told: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(|error| (error.status(), error.class())))
            .collect();
        let wanted = each(|number| match number {
            20 => Err((Status::HandlerFailed, Class::Failed)),
            40 => Err((Status::Overloaded, Class::Refused)),
            50 => Err((Status::HandlerPanic, Class::Unknown)),
            80 => Err((Status::Deadline, Class::Unknown)),
            _ => Ok(number.to_string()),
        });
        assert_eq!(told, wanted);
        net.finish().await;
    });
}

#[test]
fn g_03_each_of_them_is_told_why_it_is_not_let_in_or_not_handled() {
    both(|mut net| async move {
        let nobody = ask_all(bus(&net, "site-1"), "server", "task/fetch").await;
        assert_eq!(codes(&nobody), each(|_| Some(Status::NoHandler)));
        net.set_policy(Vec::new());
        let denied = ask_all(bus(&net, "site-1"), "server", "task/fetch").await;
        assert_eq!(codes(&denied), each(|_| Some(Status::TopicDenied)));
        net.finish().await;
    });
}

#[test]
fn g_04_each_of_them_ends_when_the_way_to_its_destination_is_lost() {
    both(|mut net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve(&net, "site-3", "task/slow", HandlerOptions::concurrent(1000), move |delivery| {
            noted.note(text(&delivery.payload));
            std::future::pending()
        })
        .await;
        let asked = actix_rt::spawn(ask_all(bus(&net, "site-1"), "site-3", "task/slow"));
        net.advance(Duration::from_millis(500)).await;
        assert_eq!(diary.read().len(), SENT, "all are at work");
        net.crash("site-3").await;
        let outcomes = asked.await.expect("it does not panic");
        assert_eq!(codes(&outcomes), each(|_| Some(Status::PeerLost)));
        net.finish().await;
    });
}

#[test]
fn f_19_one_that_nobody_waits_for_any_more_is_cancelled_and_no_other() {
    both(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::concurrent(1000)).await;
        let bus = bus(&net, "site-1");
        let to: Fqcn = "server".parse().expect("a cell");
        let target: ChannelTopic = "task/slow".parse().expect("a target");
        let asked: Vec<_> = (0..20)
            .map(|number| {
                let request = bus.request(to.clone(), target.clone());
                actix_rt::spawn(request.payload(format!("{number} 500")).send())
            })
            .collect();
        net.advance(Duration::from_millis(100)).await;
        asked[7].abort();
        net.advance(Duration::from_secs(1)).await;
        let ended = |text: &str| diary.read().iter().any(|noted| noted == text);
        for number in 0..20 {
            assert!(ended(&format!("+{number} 500")));
            assert_eq!(ended(&format!("-{number} 500")), number != 7, "{number}");
        }
        net.finish().await;
    });
}
