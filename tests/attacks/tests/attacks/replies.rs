//! Answers that nobody asked for, from those who were not asked, twice, too late.

use std::time::Duration;

use bytes::Bytes;
use cellbus_attacks::{Outcome, RawPeer, Target, attack};
use cellbus_channels::RequestError;
use cellbus_proto::{
    envelope::{Envelope, Kind, Lane},
    status::Status,
};

/// An answer of `peer` to the server.
fn answer(peer: &mut RawPeer, kind: Kind) -> Envelope {
    let mut answer = peer.request("server", "task/fetch");
    answer.header.kind = kind;
    answer
}

fn failed(to: u64, status: Status, by: &str) -> Kind {
    Kind::Return { to, status, by: by.parse().expect("a name") }
}

/// The server asks `to`; what comes of it.
fn ask(
    target: &Target,
    to: &str,
    topic: &str,
    budget: Duration,
) -> tokio::task::JoinHandle<Result<Bytes, RequestError>> {
    let bus = target.cell("server").bus();
    let request = bus.request(to.parse().expect("a name"), topic.parse().expect("a topic"));
    let request = request.payload(&b"question"[..]).budget(budget);
    tokio::spawn(async move { request.send().await.map(|reply| reply.payload) })
}

#[test]
fn atk_058_an_answer_is_no_way_around_the_gate() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        for kind in [Kind::Reply { to: 1 }, failed(1, Status::NoRoute, "server")] {
            let mut bare = answer(&mut x, kind.clone());
            bare.header.token = None;
            x.send(bare).await;
            let with_token = answer(&mut x, kind);
            x.send(with_token).await;
        }
        x.settle(Lane::Interactive).await;
        let refused = [("server", Status::NoToken, 2), ("server", Status::ReplyUnsolicited, 2)];
        target.assert_refused(&before, &refused).await;
        assert_eq!(x.unasked_messages(), [], "an answer is never answered");
    });
}

#[test]
fn atk_058_a_reply_is_judged_as_the_request_that_it_answers() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut reply = answer(&mut x, Kind::Reply { to: 1 });
        reply.header.target = "share/read".parse().expect("a topic");
        x.send(reply).await;
        x.settle(Lane::Interactive).await;
        target.assert_refused(&before, &[("server", Status::TopicDenied, 1)]).await;
    });
}

#[test]
fn atk_060_and_s_21_an_answer_of_another_ends_nobodys_request() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let pending = ask(target, "site-2", "task/slow", Duration::from_secs(20));
        target.until("the question is there", async || target.calls().len() == 1).await;
        let before = target.look().await;
        // Numbers are sequential, so they can be guessed.
        let mut sent = 0;
        for to in 0..200 {
            for kind in [
                Kind::Reply { to },
                failed(to, Status::NoRoute, "site-2"),
                failed(to, Status::HandlerFailed, "server"),
            ] {
                let forged = answer(&mut x, kind);
                x.send(forged).await;
                sent += 1;
            }
        }
        x.settle(Lane::Interactive).await;
        let after = target.inspect("server").await;
        let unsolicited = target.refused_since(&before, "server", Status::ReplyUnsolicited).await;
        assert_eq!(unsolicited + after.counters.late_replies, sent);
        assert_eq!(after.outstanding, 1, "the question still waits for its own answer");
        assert!(target.look().await.unchanged_since(&before));
        target.release_slow();
        let reply = pending.await.expect("the task ends").expect("site-2 answers");
        assert_eq!(reply, &b"question"[..]);
    });
}

#[test]
fn atk_060_what_a_return_says_about_others_counts_for_nothing() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let pending = ask(target, "x", "task/fetch", Duration::from_secs(20));
        let question = x.request_in().await;
        let before = target.look().await;
        // It was asked and may say no. Whom it names as the one who said so is a text in an error.
        let no = answer(&mut x, failed(question.header.sequence, Status::Disabled, "site-2"));
        x.send(no).await;
        let error = pending.await.expect("the task ends").expect_err("x says no");
        assert_eq!(error.status(), Status::Disabled);
        target.assert_refused(&before, &[]).await;
        target.ping("server", "site-2").await;
    });
}

#[test]
fn atk_061_the_second_reply_is_counted_and_dropped() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let pending = ask(target, "x", "task/fetch", Duration::from_secs(20));
        let question = x.request_in().await;
        let before = target.look().await;
        for text in ["first", "second", "third"] {
            let mut reply = answer(&mut x, Kind::Reply { to: question.header.sequence });
            reply.payload = Bytes::from_static(text.as_bytes());
            x.send(reply).await;
        }
        x.settle(Lane::Interactive).await;
        assert_eq!(pending.await.expect("the task ends").expect("x answers"), &b"first"[..]);
        assert_eq!(target.inspect("server").await.counters.late_replies, 2);
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_21_a_reply_after_the_deadline_is_late_and_nothing_more() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let pending = ask(target, "x", "task/fetch", Duration::from_millis(100));
        let question = x.request_in().await;
        let error = pending.await.expect("the task ends").expect_err("x is slow");
        assert_eq!(error.status(), Status::Deadline);
        let before = target.look().await;
        let late = answer(&mut x, Kind::Reply { to: question.header.sequence });
        x.send(late).await;
        x.settle(Lane::Interactive).await;
        let report = target.inspect("server").await;
        assert_eq!((report.counters.late_replies, report.outstanding), (1, 0));
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn a_reply_to_a_site_is_taken_only_from_the_cell_that_was_asked() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let bus = target.cell("site-2").bus();
        let request =
            bus.request("server".parse().expect("a name"), "task/slow".parse().expect("a topic"));
        let request = request.payload(&b"question"[..]).budget(Duration::from_secs(20));
        let pending = tokio::spawn(async move { request.send().await.map(|reply| reply.payload) });
        target.until("the question is there", async || target.calls().len() == 1).await;
        let before = target.look().await;
        for to in 1..50 {
            let mut forged = x.request("site-2", "share/read");
            forged.header.kind = Kind::Reply { to };
            x.send(forged).await;
        }
        x.settle(Lane::Interactive).await;
        // All of them came to site-2, over the one link that it has; the ping goes behind them.
        target.ping("server", "site-2").await;
        target
            .until("all are counted", async || {
                let report = target.inspect("site-2").await;
                let unsolicited =
                    report.counters.refused.get(Status::ReplyUnsolicited.code()).copied();
                unsolicited.unwrap_or(0) + report.counters.late_replies == 49
            })
            .await;
        assert_eq!(target.inspect("site-2").await.outstanding, 1);
        assert!(target.look().await.unchanged_since(&before));
        target.release_slow();
        let reply = pending.await.expect("the task ends").expect("the server answers");
        assert_eq!(reply, &b"question"[..]);
    });
}

#[test]
fn a_request_dressed_as_a_reply_reaches_no_handler() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        for to in [0, 1, u64::MAX] {
            let reply = answer(&mut x, Kind::Reply { to });
            x.send(reply).await;
        }
        x.settle(Lane::Interactive).await;
        target
            .until("all are counted", async || {
                let late = target.inspect("server").await.counters.late_replies;
                let refused =
                    target.refused_since(&before, "server", Status::ReplyUnsolicited).await;
                late + refused == 3
            })
            .await;
        assert!(target.look().await.unchanged_since(&before));
        let honest = x.request("server", "task/fetch");
        assert!(matches!(x.ask(honest).await, Outcome::Replied(_)));
    });
}
