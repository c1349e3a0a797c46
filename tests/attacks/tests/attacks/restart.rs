//! A filter that ends: nothing passes without one, and the next one knows nobody.

use cellbus_attacks::{Closed, RawPeer, Target, attack};
use cellbus_harness::guard::LogGuard;
use cellbus_proto::status::Status;

/// What honest cells, cut off, may log until they have registered again.
fn announce(guard: &LogGuard) {
    guard.expect("an actor ended; the cell starts again");
    guard.tolerate("PEER_UNKNOWN");
    guard.tolerate("BAD_TOKEN");
}

/// Waits until every honest cell has registered again.
async fn recovered(target: &Target) {
    target
        .until("every site is in the server's table again", async || {
            let server = target.inspect("server").await;
            let relay = target.inspect("relay").await;
            let peers = ["relay", "site-2", "relay.site-1", "relay.site-4"];
            peers.iter().all(|name| server.registered.iter().any(|peer| peer.name == *name))
                && relay.links.len() == 3
                && server.links.len() >= 2
        })
        .await;
    // Tokens of before the restart are no tokens any more; new ones come with the next beats.
    target
        .until("every site is heard again", async || {
            for (from, to) in [
                ("site-1", "server"),
                ("site-4", "server"),
                ("site-2", "server"),
                ("server", "site-1"),
            ] {
                let bus = target.cell(from).bus();
                let ping =
                    bus.request(target.full_name(to), cellbus_proto::well_known::PING.into());
                let reply = ping.budget(std::time::Duration::from_millis(500)).send().await;
                if reply.is_err() {
                    return false;
                }
            }
            true
        })
        .await;
}

#[test]
fn atk_018_a_server_whose_filter_ended_knows_nobody_until_they_register_again() {
    attack(async |target, guard| {
        announce(guard);
        let mut x = RawPeer::registered(target, "server", "x").await;
        let calls = target.calls().len();
        target.cell("server").crash_filter();
        for _ in 0..100 {
            let fetch = x.request("server", "task/fetch");
            x.send(fetch).await;
        }
        assert_eq!(x.closed().await, Closed::Application(1, "the cell has ended".to_owned()));
        // A link that was not registered has no filter behind it either.
        recovered(target).await;
        assert_eq!(target.calls().len(), calls, "something passed without a filter");
        assert_eq!(target.holds("server", "x").await, (false, false));
        let old = x.token.clone();
        drop(x);
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut fetch = x.request("server", "task/fetch");
        fetch.header.token = old;
        let outcome = x.ask(fetch).await;
        let refused = [Status::BadToken, Status::TokenRevoked]
            .map(|status| cellbus_attacks::Outcome::returned(status, "server"));
        assert!(refused.contains(&outcome), "a token of before the restart: {outcome:?}");
        assert!(target.look().await.unchanged_since(&before));
    });
}

#[test]
fn atk_018_a_relay_whose_filter_ended_carries_nothing() {
    attack(async |target, guard| {
        announce(guard);
        let mut y = RawPeer::registered(target, "relay", "y").await;
        let calls = target.calls().len();
        target.cell("relay").crash_filter();
        for _ in 0..100 {
            let fetch = y.request("server", "task/fetch");
            y.send(fetch).await;
        }
        assert_eq!(y.closed().await, Closed::Application(1, "the cell has ended".to_owned()));
        recovered(target).await;
        assert_eq!(target.calls().len(), calls, "something passed without a filter");
        assert_eq!(target.holds("relay", "relay.y").await, (false, false));
        assert!(
            !target.holds("server", "relay.y").await.1,
            "the server remembers a leaf that is gone"
        );
    });
}

#[test]
fn atk_018_a_link_that_waits_for_its_registration_does_not_outlive_the_filter() {
    attack(async |target, guard| {
        announce(guard);
        guard.tolerate("link closed");
        let (mut x, ok) = RawPeer::greeted(target, "server", "x").await;
        let proof = x.proof(&ok.challenge);
        target.cell("server").crash_filter();
        x.send_exempt(
            cellbus_proto::well_known::REGISTER,
            cellbus_proto::codec::body::encode(&proof),
        )
        .await;
        recovered(target).await;
        assert_eq!(target.holds("server", "x").await, (false, false));
        let accepted = x.unasked().into_iter().any(
            |frame| matches!(frame, cellbus_proto::codec::Frame::Answer(answer) if answer.status == 0),
        );
        assert!(!accepted, "registered past the filter");
        // It is not left hanging for ever either.
        for _ in 0..31 {
            x.beat().await;
            target.pass(std::time::Duration::from_secs(1)).await;
            if !x.lives() {
                break;
            }
        }
        assert!(!x.lives(), "nobody answers for this connection");
    });
}
