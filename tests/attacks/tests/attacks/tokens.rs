//! Session tokens: stolen, expired, made up, and those of cells that have left.

use std::time::Duration;

use bytes::Bytes;
use cellbus_attacks::{Closed, Outcome, RawPeer, attack, attack_with, wire::Mp};
use cellbus_proto::{envelope::Lane, status::Status, token::Token, well_known::QUIT};

/// Bytes as a token.
fn token(bytes: Vec<u8>) -> Option<Token> {
    Token::from_bytes(bytes.into())
}

/// Leaves for good, until it registers again.
async fn quit(x: &mut RawPeer) {
    let mut leave = x.request("server", "task/fetch");
    leave.header.target = QUIT.into();
    leave.header.lane = Lane::Control;
    leave.payload = Bytes::new();
    assert!(matches!(x.ask(leave).await, Outcome::Replied(_)));
}

#[test]
fn atk_040_and_046_a_cell_that_was_removed_stays_removed_however_often_it_beats() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        quit(&mut x).await;
        let before = target.look().await;
        for _ in 0..3 {
            x.beat_and_wait().await;
            target.pass(Duration::from_secs(1)).await;
        }
        assert!(!target.holds("server", "x").await.1, "a beat made a record");
        let fetch = x.request("server", "task/fetch");
        assert_eq!(x.ask(fetch).await, Outcome::returned(Status::TokenRevoked, "server"));
        target.assert_refused(&before, &[("server", Status::TokenRevoked, 1)]).await;
        let old = x.token.clone();
        x.register_again().await.expect("a new registration brings it back");
        target.until_holds("server", "x", (true, true)).await;
        let fetch = x.request("server", "task/fetch");
        assert!(matches!(x.ask(fetch).await, Outcome::Replied(_)));
        let mut fetch = x.request("server", "task/fetch");
        fetch.header.token = old;
        assert_eq!(x.ask(fetch).await, Outcome::returned(Status::TokenRevoked, "server"));
    });
}

#[test]
fn atk_041_a_stolen_token_is_useless_on_another_connection() {
    attack(async |target, guard| {
        guard.expect("TOKEN_WRONG_CONN");
        guard.expect("ORIGIN_MISMATCH");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut stolen = 0;
        for victim in ["site-2", "server", "relay", "site-1"] {
            let mut fetch = x.request("server", "task/fetch");
            fetch.header.token = target.cell(victim).own().token();
            let outcome = x.ask(fetch).await;
            assert_eq!(outcome, Outcome::returned(Status::TokenWrongConn, "server"), "{victim}");
            stolen += 1;
        }
        // With the name of the victim as well, there is not even an answer.
        let mut fetch = x.request("server", "task/fetch");
        fetch.header.token = target.cell("site-2").own().token();
        fetch.header.origin = x.address_of("site-2");
        x.send(fetch).await;
        x.settle(Lane::Interactive).await;
        let refused =
            [("server", Status::TokenWrongConn, stolen), ("server", Status::OriginMismatch, 1)];
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn p_22_a_token_is_bound_to_the_certificate_that_it_was_issued_for() {
    attack(async |target, guard| {
        guard.expect("TOKEN_WRONG_CONN");
        let first = RawPeer::registered(target, "server", "x").await;
        let old = first.token.clone();
        drop(first);
        target.until_gone("server", "x").await;
        let papers = target.forger().forge("cell://attacks/client/x?org=attacks", |_| {});
        let mut x = RawPeer::connect_with(target, "server", "x", &papers).await;
        x.register().await.expect("the papers are good");
        let before = target.look().await;
        let mut fetch = x.request("server", "task/fetch");
        fetch.header.token = old;
        assert_eq!(x.ask(fetch).await, Outcome::returned(Status::TokenWrongConn, "server"));
        target.assert_refused(&before, &[("server", Status::TokenWrongConn, 1)]).await;
    });
}

#[test]
fn atk_042_a_token_ends_also_for_who_keeps_the_connection_open() {
    attack_with("token_ttl_s = 10", async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let fetch = x.request("server", "task/fetch");
        assert!(matches!(x.ask(fetch).await, Outcome::Replied(_)));
        for _ in 0..42 {
            x.beat_and_wait().await;
            target.pass(Duration::from_secs(1)).await;
        }
        let before = target.look().await;
        let fetch = x.request("server", "task/fetch");
        assert_eq!(x.ask(fetch).await, Outcome::returned(Status::TokenExpired, "server"));
        target.assert_refused(&before, &[("server", Status::TokenExpired, 1)]).await;
        // Asking again brings a new one.
        x.register_again().await.expect("the papers are good");
        let fetch = x.request("server", "task/fetch");
        assert!(matches!(x.ask(fetch).await, Outcome::Replied(_)));
    });
}

#[test]
fn atk_044_what_the_server_did_not_sign_is_no_token() {
    attack(async |target, guard| {
        guard.expect("BAD_TOKEN");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let genuine = x.token.clone().expect("it is registered").as_bytes().to_vec();
        let before = target.look().await;
        let body = genuine.len() - 64;
        let flipped = |at: usize| {
            let mut bytes = genuine.clone();
            bytes[at] ^= 1;
            bytes
        };
        let forged = [
            b"server".repeat(11),
            vec![0; 65],
            vec![0; 2048],
            [&genuine[..body], &[0; 64][..]].concat(),
            [&genuine[..body], &[0xff; 64][..]].concat(),
            [&[0xc0][..], &genuine[..]].concat(),
            [&genuine[..body], &[0xc0], &genuine[body..]].concat(),
            flipped(body - 1),
            flipped(body),
            flipped(genuine.len() - 1),
        ];
        for forged in &forged {
            let mut fetch = x.request("server", "task/fetch");
            fetch.header.token = token(forged.clone());
            assert!(fetch.header.token.is_some(), "it has the length of a token");
            assert_eq!(x.ask(fetch).await, Outcome::returned(Status::BadToken, "server"));
        }
        let count = u64::try_from(forged.len()).expect("few");
        target.assert_refused(&before, &[("server", Status::BadToken, count)]).await;
    });
}

#[test]
fn atk_044_what_is_too_short_or_too_long_for_a_token_is_no_header() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let before = target.look().await;
        for (bytes, status) in [
            (b"NA".to_vec(), Status::BadToken),
            (b"server".to_vec(), Status::BadToken),
            (Vec::new(), Status::BadToken),
            (vec![0; 64], Status::BadToken),
            (vec![0; 2049], Status::TooLarge),
        ] {
            let mut x = RawPeer::registered(target, "server", "x").await;
            let mut loose = x.loose("server", "task", "fetch");
            loose.token = Mp::A(vec![Mp::U(0), Mp::B(bytes)]);
            x.send_loose(&loose).await;
            assert_eq!(x.closed().await, Closed::protocol(status));
            target.until_gone("server", "x").await;
        }
        let refused = [("server", Status::BadToken, 4), ("server", Status::TooLarge, 1)];
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn without_a_token_nothing_passes_in_any_direction() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        x.token = None;
        let before = target.look().await;
        for to in ["server", "site-2", "relay.site-1"] {
            for topic in ["task/fetch", "share/read", "cell/ping", "cell/register_child"] {
                let request = x.request(to, topic);
                let outcome = x.ask(request).await;
                assert_eq!(outcome, Outcome::returned(Status::NoToken, "server"), "{to} {topic}");
            }
        }
        target.assert_refused(&before, &[("server", Status::NoToken, 12)]).await;
    });
}
