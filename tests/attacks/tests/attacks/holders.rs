//! Names that somebody holds, and peers that come and go.

use std::time::Duration;

use bytes::Bytes;
use cellbus_attacks::{Closed, RawPeer, attack, attack_with};
use cellbus_proto::{
    codec::body::{Blob, Register},
    envelope::Lane,
    status::Status,
    well_known::BYE,
};

/// A copy of the process that holds the name, started after it.
async fn copy(target: &cellbus_attacks::Target, counter: u64) -> RawPeer {
    let mut copy = RawPeer::connect(target, "server", "x").await;
    copy.incarnation.counter = counter;
    copy
}

#[test]
fn f_27_beats_alone_do_not_hold_a_name_and_an_answer_does() {
    attack(async |target, guard| {
        guard.expect("DUPLICATE_NAME");
        let mut holder = RawPeer::registered(target, "server", "x").await;
        let mut later = copy(target, 7).await;
        let (refused, ()) = tokio::join!(later.register(), holder.answer_ping());
        assert_eq!(refused.map(drop), Err(Status::DuplicateName));
        holder.settle(Lane::Control).await;
        // Whatever reads its streams, the process behind it answers no more.
        let begun = tokio::time::Instant::now();
        let mut later = copy(target, 7).await;
        let taken = async {
            let taken = later.register().await;
            taken.expect("a holder that does not answer is replaced");
        };
        let beating = async {
            let mut beats = tokio::time::interval(Duration::from_millis(500));
            loop {
                beats.tick().await;
                holder.beat().await;
            }
        };
        tokio::select! {
            () = taken => {}
            () = beating => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert!(matches!(holder.closed().await, Closed::Application(2, _)));
        later.settle(Lane::Control).await;
        assert_eq!(target.holds("server", "x").await, (true, true));
    });
}

#[test]
fn while_a_holder_is_asked_a_second_candidate_is_sent_away() {
    attack(async |target, _| {
        let _silent = RawPeer::registered(target, "server", "x").await;
        let (mut first, mut second) = (copy(target, 7).await, copy(target, 8).await);
        let before = target.look().await;
        let (first, second) = tokio::join!(first.register(), async {
            // The holder is asked within this, and has two seconds to answer: nobody says when.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let begun = tokio::time::Instant::now();
            let sent_away = second.register().await.map(drop);
            (sent_away, begun.elapsed())
        });
        assert_eq!(second.0, Err(Status::NoRoute));
        assert!(second.1 < Duration::from_secs(1), "it does not wait: {:?}", second.1);
        first.expect("the holder does not answer");
        assert!(target.look().await.unchanged_since(&before));
    });
}

#[test]
fn behind_a_relay_a_holder_that_answers_keeps_its_name_at_the_server_too() {
    attack(async |target, guard| {
        guard.expect("DUPLICATE_NAME");
        let mut holder = RawPeer::registered(target, "relay", "y").await;
        let mut copy = RawPeer::connect(target, "relay", "y").await;
        copy.incarnation.counter = 9;
        let before = target.look().await;
        let (refused, ()) = tokio::join!(copy.register(), holder.answer_ping());
        assert_eq!(refused.map(drop), Err(Status::DuplicateName));
        target.assert_refused(&before, &[("relay", Status::DuplicateName, 1)]).await;
        holder.settle(Lane::Control).await;
        assert!(target.holds("server", "relay.y").await.1, "the server forgot the holder");
    });
}

#[test]
fn s1_14_the_sixth_return_within_a_minute_waits_and_nobody_else_does() {
    attack_with("returns_per_minute_max = 5", async |target, guard| {
        guard.expect("leaves and comes back too often");
        let before = target.look().await;
        for _ in 0..6 {
            let mut x = RawPeer::registered(target, "server", "x").await;
            let bye = x.send_exempt(BYE, Bytes::new()).await;
            x.answer(bye).await.expect("a bye is answered");
        }
        for attempt in 0..3 {
            let mut x = RawPeer::connect(target, "server", "x").await;
            assert_eq!(x.register().await.map(drop), Err(Status::RateLimit), "{attempt}");
            assert_eq!(x.closed().await, Closed::Application(1, "too many returns".to_owned()));
            assert_eq!(target.holds("server", "x").await, (false, false));
        }
        let mut z = RawPeer::registered(target, "server", "z").await;
        z.settle(Lane::Control).await;
        target.ping("site-2", "server").await;
        target.assert_refused(&before, &[("server", Status::RateLimit, 3)]).await;
    });
}

#[test]
fn s1_14_who_is_turned_out_again_and_again_has_left_again_and_again() {
    attack_with("returns_per_minute_max = 5", async |target, guard| {
        guard.expect("leaves and comes back too often");
        guard.expect("link closed");
        for _ in 0..6 {
            let mut x = RawPeer::registered(target, "server", "x").await;
            x.write(&[0xc1; 64]).await;
            assert!(matches!(x.closed().await, Closed::Application(4, _)));
            target.until_gone("server", "x").await;
        }
        let mut x = RawPeer::connect(target, "server", "x").await;
        assert_eq!(x.register().await.map(drop), Err(Status::RateLimit));
    });
}

#[test]
fn a_proof_that_is_refused_is_answered_before_the_connection_ends() {
    attack(async |target, guard| {
        guard.expect("BAD_SIGNATURE");
        let before = target.look().await;
        for round in 0..40 {
            let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
            let bad = Register { signature: Blob(vec![7; 64]), ..x.proof(&ok.challenge) };
            let answer = x.send_proof(&bad).await.map(drop);
            assert_eq!(answer, Err(Status::Unauthenticated), "round {round}");
            // Nothing is heard any more, though the connection is there for a moment.
            let good = x.proof(&ok.challenge);
            x.assert_proof_refused(&good).await;
        }
        target.assert_refused(&before, &[("server", Status::BadSignature, 40)]).await;
        assert_eq!(target.holds("server", "x").await, (false, false));
    });
}
