//! Filters at the destination, on every way in and out.

use std::time::Duration;

use cellbus_channels::{
    Class, Failure, HandlerOptions, Reply, RequestError, RetryPolicy, Selector, Status,
    filter::{CONTENT_TYPE_F32, Filter, FilterMessage, Point, finite_check, redact, size_limit},
};
use cellbus_harness::guard::LogGuard;

use super::{Diary, both, both_watched, bus, request, serve, text, works};

/// Puts an `F` before all that passes, and stops what has the canary in it.
struct Mark;

impl Filter for Mark {
    fn name(&self) -> &str {
        "mark"
    }

    fn filter(&self, message: &mut FilterMessage) -> Result<(), String> {
        if text(&message.payload).contains("canary") {
            return Err("a canary".to_owned());
        }
        assert!(!text(&message.payload).contains("break down"), "asked to panic");
        message.payload = [b"F", &message.payload[..]].concat().into();
        Ok(())
    }
}

fn returned(error: RequestError) -> (Status, String) {
    let RequestError::Returned { status, detail, .. } = error else { panic!("{error}") };
    (status, text(&detail))
}

#[test]
fn f_03_what_a_filter_stops_on_its_way_in_is_not_executed_and_says_why() {
    let log = LogGuard::start();
    log.expect_panic("asked to panic");
    both_watched(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::default()).await;
        bus(&net, "server").filter([Point::RequestIn], Selector::All, size_limit(12));
        bus(&net, "server").filter([Point::RequestIn], Selector::All, Mark);
        let ask = async |text| request(&net, "site-1", "server", "task/slow", text).send().await;
        let stopped = ask("a canary").await.unwrap_err();
        assert_eq!(stopped.class(), Class::Refused);
        assert_eq!(returned(stopped), (Status::FilterError, "filter mark: a canary".to_owned()));
        let large = returned(ask("thirteen byte").await.unwrap_err());
        assert_eq!(
            large,
            (Status::FilterError, "filter size_limit: 13 bytes, the limit is 12".to_owned())
        );
        let broken = returned(ask("break down").await.unwrap_err());
        assert_eq!(broken, (Status::FilterError, "filter mark: it panicked".to_owned()));
        assert!(diary.read().is_empty());
        assert_eq!(ask("x").await.unwrap().payload, "Fx");
        let publish = request(&net, "site-1", "server", "task/slow", "a canary").receipt();
        assert_eq!(publish.publish().await.unwrap_err().status(), Status::FilterError);
        assert_eq!(diary.read().len(), 2);
        net.finish().await;
    });
}

#[test]
fn f_02_every_way_out_passes_the_filters_once() {
    both(|net| async move {
        let tokens = Diary::default();
        let noted = tokens.clone();
        serve(&net, "server", "task/count", HandlerOptions::concurrent(9), move |delivery| {
            let diary = noted.clone();
            async move {
                match text(&delivery.payload).as_str() {
                    "fail" => Err(Failure::failed("detail")),
                    "fail canary" => Err(Failure::failed("a canary")),
                    "canary" => Ok(b"a canary".to_vec().into()),
                    "defer" => {
                        let token = delivery.defer();
                        actix_rt::spawn(async move {
                            tokio::task::yield_now().await;
                            token.reply(b"deferred".to_vec()).unwrap();
                        });
                        Ok(Reply::later())
                    }
                    "stream" => {
                        let replies = delivery.replies();
                        replies.send(b"one".to_vec()).await.unwrap();
                        Ok(b"two".to_vec().into())
                    }
                    "stream canary" => {
                        let replies = delivery.replies();
                        replies.send(b"one".to_vec()).await.unwrap();
                        let gone = replies.send(b"a canary".to_vec()).await.is_err()
                            || replies.send(b"three".to_vec()).await.is_err();
                        diary.note(format!("gone: {gone}"));
                        std::future::pending().await
                    }
                    "slow" => {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        diary.note("slow");
                        Ok(b"slow".to_vec().into())
                    }
                    other => Ok(other.as_bytes().to_vec().into()),
                }
            }
        })
        .await;
        bus(&net, "server").filter([Point::ReplyOut], Selector::All, Mark);
        let ask = |text| request(&net, "site-1", "server", "task/count", text);
        let reply = async |text| super::text(&ask(text).send().await.unwrap().payload);
        assert_eq!(reply("plain").await, "Fplain");
        assert_eq!(reply("defer").await, "Fdeferred");
        let failed = returned(ask("fail").send().await.unwrap_err());
        assert_eq!(failed, (Status::HandlerFailed, "Fdetail".to_owned()));
        for canary in ["canary", "fail canary"] {
            let stopped = ask(canary).send().await.unwrap_err();
            assert_eq!(stopped.class(), Class::Failed, "it has been executed");
            assert_eq!(returned(stopped).1, "filter mark: a canary");
        }
        let mut stream = ask("stream").replies();
        for part in ["Fone", "Ftwo"] {
            assert_eq!(stream.next().await.unwrap().unwrap().payload, part);
        }
        let mut stream = ask("stream canary").replies();
        assert_eq!(stream.next().await.unwrap().unwrap().payload, "Fone");
        let stopped = returned(stream.next().await.unwrap().unwrap_err());
        assert_eq!(stopped, (Status::HandlerFailed, "filter mark: a canary".to_owned()));
        // A copy gets what was kept, as it left the first time.
        let policy =
            RetryPolicy { first: Duration::from_millis(100), max: Duration::from_millis(100) };
        net.cut_one_way("relay", "site-1");
        let waiting = actix_rt::spawn(ask("slow").retry(policy).send());
        net.advance(Duration::from_millis(1500)).await;
        net.heal("relay", "site-1");
        assert_eq!(waiting.await.unwrap().unwrap().payload, "Fslow");
        assert_eq!(tokens.read().iter().filter(|one| *one == "slow").count(), 1);
        let to = "server".parse().unwrap();
        let queue = bus(&net, "site-1").queue(to, "task/count".parse().unwrap()).open();
        let (item, canary) = (queue.push("item"), queue.push("canary"));
        let (item, canary) = (item.await, canary.await);
        assert_eq!(item.unwrap(), "Fitem");
        assert_eq!(returned(canary.unwrap_err()).1, "filter mark: a canary");
        queue.close().await;
        net.advance(Duration::from_secs(2)).await;
        net.finish().await;
    });
}

#[test]
fn the_filters_that_come_with_the_bus_work_on_the_way() {
    both(|net| async move {
        serve(&net, "server", "task/count", HandlerOptions::default(), |delivery| async move {
            let mut reply = Reply::from(delivery.payload);
            reply.content_type = delivery.content_type;
            Ok(reply)
        })
        .await;
        bus(&net, "server").filter([Point::RequestIn], Selector::All, finite_check());
        let redacts = redact(["patient"]).pass_other_types();
        bus(&net, "server").filter([Point::ReplyOut], Selector::All, redacts);
        let ask = |payload: Vec<u8>, kind| {
            request(&net, "site-1", "server", "task/count", "").payload(payload).content_type(kind)
        };
        let nan = ask(f32::NAN.to_le_bytes().to_vec(), CONTENT_TYPE_F32).send().await.unwrap_err();
        assert_eq!(returned(nan).1, "filter finite_check: element 0 is not finite");
        let json = ask(br#"{"patient": "P-1", "dose": 3}"#.to_vec(), "application/json");
        assert_eq!(json.send().await.unwrap().payload, r#"{"patient": null, "dose": 3}"#);
        net.finish().await;
    });
}
