//! Messages that say to be several: none of them gets what it would not get alone, and none is forgotten.

use bytes::{BufMut, Bytes, BytesMut};
use cellbus_attacks::{Outcome, RawPeer, attack};
use cellbus_proto::{
    batch,
    envelope::{Envelope, Flags, Kind, Lane},
    status::Status,
};

const REQUESTS: Flags = Flags::BATCH.with(Flags::MORE);

/// Requests of `peer` that travel as one message.
fn requests(peer: &mut RawPeer, target: &str, count: u64) -> Envelope {
    let mut whole = peer.request("server", target);
    whole.header.flags = REQUESTS;
    let items = (0..count).map(|number| Bytes::from(format!("payload {number}")));
    whole.payload = batch::encode(items).expect("few and short");
    for _ in 1..count {
        peer.next_sequence();
    }
    whole
}

#[test]
fn g_03_requests_that_come_together_are_answered_each_on_its_own() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let whole = requests(&mut x, "task/fetch", 3);
        let first = x.send(whole).await;
        for number in 0..3 {
            let outcome = x.outcome(first + number).await;
            assert_eq!(outcome, Outcome::Replied(format!("payload {number}").into()));
        }
        assert_eq!(target.calls().len(), 3);
    });
}

#[test]
fn atk_058_what_is_forbidden_alone_is_forbidden_together() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let whole = requests(&mut x, "ops/deploy", 3);
        let first = x.send(whole).await;
        for number in 0..3 {
            let outcome = x.outcome(first + number).await;
            assert_eq!(outcome, Outcome::returned(Status::TopicDenied, "server"));
        }
        target.assert_refused(&before, &[("server", Status::TopicDenied, 3)]).await;
        assert_eq!(target.calls(), [], "nothing was handled");
    });
}

#[test]
fn what_says_to_be_several_and_is_not_is_returned_and_runs_nothing() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut cut_off = BytesMut::new();
        cut_off.put_u32(2);
        cut_off.put_u32(3);
        cut_off.put_slice(b"abc");
        let many = Bytes::from_static(b"\xff\xff\xff\xff");
        for payload in [Bytes::new(), cut_off.freeze(), many, Bytes::from_static(b"\0\0\0\0?")] {
            let mut whole = requests(&mut x, "task/fetch", 1);
            whole.payload = payload;
            let outcome = x.ask(whole).await;
            assert_eq!(outcome, Outcome::returned(Status::BadFrame, "server"));
        }
        assert_eq!(target.calls(), [], "nothing was handled");
    });
}

#[test]
fn with_retry_or_sealed_it_is_no_bundle() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut whole = requests(&mut x, "task/fetch", 2);
        whole.header.flags = REQUESTS.with(Flags::RETRY);
        let Outcome::Replied(outcomes) = x.ask(whole.clone()).await else { panic!("a batch") };
        let outcomes = batch::decode_outcomes(outcomes).expect("one answer for all");
        assert_eq!((outcomes.len(), target.calls().len()), (2, 2));
        let Outcome::Replied(_again) = x.ask(whole).await else { panic!("the same answer") };
        assert_eq!(target.calls().len(), 2, "a copy runs nothing");
    });
}

#[test]
fn atk_060_replies_that_nobody_waits_for_are_counted_each() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut whole = requests(&mut x, "task/fetch", 5);
        whole.header.flags = Flags::BATCH;
        whole.header.kind = Kind::Reply { to: 1 << 40 };
        x.send(whole).await;
        let mut none = x.request("server", "task/fetch");
        none.header.flags = Flags::BATCH;
        none.header.kind = Kind::Reply { to: 1 << 40 };
        x.send(none).await;
        let mut last = requests(&mut x, "task/fetch", 2);
        last.header.flags = Flags::BATCH;
        last.header.kind = Kind::Reply { to: u64::MAX };
        x.send(last).await;
        x.settle(Lane::Interactive).await;
        let refused = [("server", Status::ReplyUnsolicited, 7), ("server", Status::BadFrame, 1)];
        target.assert_refused(&before, &refused).await;
        assert_eq!(x.unasked_messages(), [], "an answer is never answered");
        assert!(target.look().await.unchanged_since(&before));
    });
}
