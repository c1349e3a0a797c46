//! Answers that come later, more than once, or before the work is done.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cellbus_channels::{Class, HandlerOptions, Reply, ReplyToken, Status};
use cellbus_harness::{
    guard::LogGuard,
    net::{Net, Settings},
    seeds::run_paused,
    sim::{LinkSettings, SimNet},
};

use super::{Diary, both, both_watched, request, serve};

type Tokens = Arc<Mutex<Vec<ReplyToken>>>;

async fn defers(net: &cellbus_harness::net::Net) -> Tokens {
    let tokens = Tokens::default();
    let kept = Arc::clone(&tokens);
    serve(net, "server", "task/slow", HandlerOptions::concurrent(9), move |delivery| {
        kept.lock().expect("no panic in between").push(delivery.defer());
        async { Ok(Reply::later()) }
    })
    .await;
    tokens
}

#[test]
fn a_deferred_reply_is_given_from_anywhere() {
    both(|net| async move {
        let tokens = defers(&net).await;
        let waiting = actix_rt::spawn(request(&net, "site-1", "server", "task/slow", "x").send());
        net.advance(Duration::from_secs(3)).await;
        assert_eq!(net.inspect().await["server"].handling, 1, "it counts as running");
        let token = tokens.lock().unwrap().pop().unwrap();
        token.reply(b"later".to_vec()).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().payload, "later");
        net.finish().await;
    });
}

#[test]
fn a_token_that_is_dropped_answers_by_itself_and_one_that_is_kept_ends_with_the_budget() {
    both(|net| async move {
        let tokens = defers(&net).await;
        let waiting = actix_rt::spawn(request(&net, "site-1", "server", "task/slow", "x").send());
        net.advance(Duration::from_secs(1)).await;
        tokens.lock().unwrap().clear();
        let gone = waiting.await.unwrap().unwrap_err();
        assert_eq!((gone.status(), gone.class()), (Status::HandlerGone, Class::Unknown));
        let kept = request(&net, "site-1", "server", "task/slow", "x");
        let kept = kept.budget(Duration::from_secs(1)).send().await.unwrap_err();
        assert_eq!(kept.status(), Status::Deadline);
        net.advance(Duration::from_secs(1)).await;
        let token = tokens.lock().unwrap().pop().unwrap();
        assert!(token.is_gone() && token.reply(Vec::new()).is_err());
        net.finish().await;
    });
}

#[test]
fn a_handler_may_give_several_replies() {
    both(|net| async move {
        serve(&net, "server", "task/count", HandlerOptions::default(), |delivery| async move {
            let replies = delivery.replies();
            for number in 0..200u32 {
                let part = vec![number as u8; 10_000];
                replies.send(part).await.map_err(|_| Status::HandlerGone)?;
            }
            Ok(Reply::from(b"end".to_vec()))
        })
        .await;
        let mut replies = request(&net, "site-1", "server", "task/count", "").replies();
        let mut got = Vec::new();
        while let Some(reply) = replies.next().await {
            got.push(reply.unwrap().payload);
        }
        assert_eq!(got.len(), 201);
        assert!(got[..200].iter().enumerate().all(|(n, part)| part[..] == vec![n as u8; 10_000]));
        assert_eq!(got[200], "end");
        net.finish().await;
    });
}

#[test]
fn an_error_ends_the_replies_and_so_does_a_panic() {
    let log = LogGuard::start();
    log.expect("a handler panicked");
    log.expect_panic("asked to panic");
    both_watched(|net| async move {
        serve(&net, "server", "task/count", HandlerOptions::default(), |delivery| async move {
            delivery.replies().send(b"one".to_vec()).await.map_err(|_| Status::HandlerGone)?;
            assert!(delivery.payload != "panic", "asked to panic");
            Err(cellbus_channels::Failure::failed("enough"))
        })
        .await;
        for (how, status) in [("error", Status::HandlerFailed), ("panic", Status::HandlerPanic)] {
            let mut replies = request(&net, "site-1", "server", "task/count", how).replies();
            assert_eq!(replies.next().await.unwrap().unwrap().payload, "one");
            assert_eq!(replies.next().await.unwrap().unwrap_err().status(), status);
            assert!(replies.next().await.is_none());
        }
        net.finish().await;
    });
}

#[test]
fn a_receipt_says_that_the_message_was_taken_on_not_that_it_was_handled() {
    both(|net| async move {
        let diary = Diary::default();
        let noted = diary.clone();
        let gate = std::sync::Arc::new(tokio::sync::Notify::new());
        let opens = std::sync::Arc::clone(&gate);
        serve(&net, "server", "notes/slow", HandlerOptions::default(), move |_| {
            let (diary, gate) = (noted.clone(), std::sync::Arc::clone(&gate));
            async move {
                gate.notified().await;
                diary.note("handled");
                Err(Status::Draining.into())
            }
        })
        .await;
        let begun = tokio::time::Instant::now();
        request(&net, "site-1", "server", "notes/slow", "x").receipt().publish().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert!(diary.read().is_empty());
        let nobody = request(&net, "site-1", "server", "notes/ping", "x").receipt().publish().await;
        assert_eq!(nobody.unwrap_err().status(), Status::NoHandler);
        assert!(diary.read().is_empty(), "it was taken on, and nothing more");
        opens.notify_one();
        net.advance(Duration::from_secs(1)).await;
        assert_eq!(diary.read(), ["handled"]);
        let dead = net.cell("server").running.own().dead_letters.report(9, None);
        assert_eq!(dead.letters[0].code, "DRAINING", "what came of it, nobody can be told");
        net.finish().await;
    });
}

#[test]
fn a_publish_that_nobody_handles_is_a_dead_letter() {
    both(|net| async move {
        request(&net, "site-1", "server", "notes/ping", "four").publish().await.unwrap();
        net.advance(Duration::from_secs(1)).await;
        let dead = net.cell("server").running.own().dead_letters.report(9, Some(Status::NoHandler));
        let letter = &dead.letters[0];
        let told =
            (letter.kind, letter.origin.as_str(), letter.target.as_str(), letter.payload_len);
        assert_eq!(told, ("publish", "relay.site-1", "notes/ping", 4));
        assert!(!format!("{dead:?}").contains("four"), "never the payload");
        net.finish().await;
    });
}

#[test]
fn f_16_replies_wait_for_a_slow_link_and_none_is_lost() {
    let _log = LogGuard::start();
    run_paused(3, |seed| async move {
        let sim = SimNet::new(seed);
        let mut settings = Settings::default();
        settings.endpoint.link.outbox_max = 2 << 20;
        let mut net = Net::prepared(seed, super::TREE, Some(sim.clone()), settings);
        net.start_all().await;
        let slow = LinkSettings { bits_per_second: Some(4_000_000), ..LinkSettings::default() };
        sim.set(net.host("server"), net.host("relay"), slow);
        serve(&net, "server", "task/count", HandlerOptions::default(), |delivery| async move {
            let replies = delivery.replies();
            for number in 0..500u32 {
                replies.send(vec![number as u8; 10_000]).await.map_err(|_| Status::HandlerGone)?;
            }
            Ok(Reply::default())
        })
        .await;
        let begun = tokio::time::Instant::now();
        let asked = request(&net, "site-1", "server", "task/count", "");
        let mut replies = asked.budget(Duration::from_secs(60)).replies();
        let mut got = 0u32;
        while let Some(reply) = replies.next().await {
            let payload = reply.unwrap().payload;
            assert!(got == 500 || payload[..] == vec![got as u8; 10_000], "reply {got}");
            got += 1;
        }
        assert_eq!(got, 501);
        assert!(begun.elapsed() > Duration::from_secs(8), "{:?}", begun.elapsed());
        net.finish().await;
    });
}
