//! Requests that come more than once.

use std::time::Duration;

use cellbus_channels::{HandlerOptions, RetryPolicy, Status};

use super::{Diary, both, request, serve, works};

fn often() -> RetryPolicy {
    RetryPolicy { first: Duration::from_millis(100), max: Duration::from_millis(200) }
}

#[test]
fn g_12_a_request_that_is_sent_again_while_it_runs_is_executed_once() {
    both(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::concurrent(9)).await;
        let slow = request(&net, "site-1", "server", "task/slow", "a 2000").retry(often());
        assert_eq!(slow.send().await.unwrap().payload, "a 2000");
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(diary.read(), ["+a 2000", "-a 2000"]);
        let report = &net.inspect().await["server"];
        assert!(report.counters.delivered > 5, "copies came: {:?}", report.counters);
        net.finish().await;
    });
}

#[test]
fn g_12_a_reply_that_was_lost_is_given_again() {
    both(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::concurrent(9)).await;
        let asked = request(&net, "site-1", "server", "task/slow", "a 300").retry(often());
        let waiting = actix_rt::spawn(asked.send());
        net.advance(Duration::from_millis(150)).await;
        net.cut_one_way("relay", "site-1");
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(diary.read().len(), 2, "it has been executed");
        net.heal("relay", "site-1");
        assert_eq!(waiting.await.unwrap().unwrap().payload, "a 300");
        assert_eq!(diary.read().len(), 2, "once");
        net.advance(Duration::from_secs(1)).await;
        net.finish().await;
    });
}

#[test]
fn g_12_a_reply_too_large_to_keep_is_not_made_again() {
    both(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        serve(&net, "server", "task/slow", HandlerOptions::concurrent(9), move |_| {
            noted.note("executed");
            async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(vec![0; 100_000].into())
            }
        })
        .await;
        let asked = request(&net, "site-1", "server", "task/slow", "x").retry(often());
        let waiting = actix_rt::spawn(asked.send());
        net.advance(Duration::from_millis(150)).await;
        net.cut_one_way("relay", "site-1");
        net.advance(Duration::from_secs(1)).await;
        net.heal("relay", "site-1");
        // Memory links lose the reply; QUIC sends it again by itself.
        match waiting.await.unwrap() {
            Ok(reply) => assert_eq!(reply.payload.len(), 100_000),
            Err(error) => assert_eq!(error.status(), Status::HandlerGone),
        }
        assert_eq!(diary.read(), ["executed"]);
        net.advance(Duration::from_secs(1)).await;
        net.finish().await;
    });
}

#[test]
fn a_publish_with_a_receipt_is_executed_once_however_often_it_comes() {
    both(|net| async move {
        let diary = works(&net, "server", "notes/slow", HandlerOptions::concurrent(9)).await;
        net.cut_one_way("relay", "site-1");
        let sent = request(&net, "site-1", "server", "notes/slow", "a 0").retry(often()).receipt();
        let waiting = actix_rt::spawn(sent.publish());
        net.advance(Duration::from_secs(1)).await;
        net.heal("relay", "site-1");
        waiting.await.unwrap().unwrap();
        assert_eq!(diary.read(), ["+a 0", "-a 0"]);
        net.finish().await;
    });
}
