//! The first words on a connection: out of turn, untrue, or never finished.

use std::time::Duration;

use bytes::Bytes;
use cellbus_attacks::{Closed, RawPeer, attack, wire};
use cellbus_proto::{
    codec::{
        Frame, Octets,
        body::{self, Beat, Drain, Hello, WireIncarnation},
    },
    envelope::Lane,
    status::Status,
    well_known::{BYE, CHALLENGE, PING, REGISTER},
};

#[test]
fn atk_016_a_second_hello_ends_the_connection_and_names_nobody() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let before = target.look().await;
        let (mut x, _) = RawPeer::greeted(target, "server", "x").await;
        let other = Hello { name: "site-2".parse().expect("a name"), ..x.hello() };
        x.send_frame(&Frame::Hello(other.clone())).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        target.until_gone("server", "x").await;
        target.assert_refused(&before, &[("server", Status::NoToken, 1)]).await;

        let mut x = RawPeer::registered(target, "server", "x").await;
        x.send_frame(&Frame::Hello(other)).await;
        assert_eq!(x.closed().await, Closed::protocol(Status::BadFrame));
        target.until_gone("server", "x").await;
        let refused = [("server", Status::NoToken, 1), ("server", Status::BadFrame, 1)];
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn atk_017_a_stream_of_an_application_before_the_registration_ends_the_connection() {
    attack(async |target, guard| {
        guard.expect("NO_HELLO");
        let before = target.look().await;
        let mut x = RawPeer::connect(target, "server", "x").await;
        let request = x.request("server", "task/fetch");
        x.send(request).await;
        // Nothing is read of it before the control stream is there.
        x.write(&[wire::HELLO]).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());

        let (mut x, _) = RawPeer::greeted(target, "server", "x").await;
        let request = x.request("server", "task/fetch");
        x.send(request).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::NoHello, 2)]).await;
    });
}

#[test]
fn s_23_nothing_but_hello_comes_first() {
    attack(async |target, guard| {
        guard.expect("NO_HELLO");
        let before = target.look().await;
        let first = [CHALLENGE, REGISTER, BYE, PING];
        for topic in first {
            let mut x = RawPeer::connect(target, "server", "x").await;
            x.send_exempt(topic, Bytes::new()).await;
            assert_eq!(x.closed().await, Closed::unauthenticated(), "{topic:?}");
        }
        for frame in [
            Frame::Beat(Beat { number: 1 }),
            Frame::Lane(Lane::Interactive),
            Frame::Drain(Drain { retry_after_ms: 1 }),
        ] {
            let mut x = RawPeer::connect(target, "server", "x").await;
            x.send_frame(&frame).await;
            assert_eq!(x.closed().await, Closed::unauthenticated(), "{frame:?}");
        }
        target.assert_refused(&before, &[("server", Status::NoHello, 7)]).await;
        assert_eq!(target.holds("server", "x").await, (false, false));
    });
}

#[test]
fn a_message_between_hello_and_registration_ends_the_connection() {
    attack(async |target, guard| {
        guard.expect("NO_TOKEN");
        let token = target.cell("site-2").own().token();
        let before = target.look().await;
        for with_token in [None, token] {
            let (mut x, _) = RawPeer::greeted(target, "server", "x").await;
            let mut ping = x.request("server", "task/fetch");
            ping.header.target = PING.into();
            ping.header.lane = Lane::Control;
            ping.header.token = with_token;
            x.send(ping).await;
            assert_eq!(x.closed().await, Closed::unauthenticated());
        }
        target.assert_refused(&before, &[("server", Status::NoToken, 2)]).await;
    });
}

#[test]
fn atk_030_hello_can_say_no_other_name_than_the_certificate() {
    attack(async |target, guard| {
        guard.expect("CERT_NAME");
        let before = target.look().await;
        let names = ["site-2", "server", "z", "x.job-1", "relay.x", "x2"];
        for name in names {
            let mut x = RawPeer::connect(target, "server", "x").await;
            let hello = Hello { name: name.parse().expect("a name"), ..x.hello() };
            x.send_frame(&Frame::Hello(hello)).await;
            assert_eq!(x.closed().await, Closed::unauthenticated(), "{name}");
        }
        let count = u64::try_from(names.len()).expect("few");
        target.assert_refused(&before, &[("server", Status::CertName, count)]).await;
        assert_eq!(target.holds("server", "x").await, (false, false));
    });
}

#[test]
fn p_03_a_cell_is_let_in_only_where_the_topology_puts_it() {
    attack(async |target, guard| {
        guard.expect("NOT_DIRECT");
        guard.expect("CERT_NAME");
        let before = target.look().await;
        // A cell of the server's at the relay, with the name that it would have there.
        let mut x = RawPeer::connect(target, "relay", "x").await;
        x.me = "relay.x".parse().expect("a name");
        x.say_hello().await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        // And with its own.
        let mut x = RawPeer::connect(target, "relay", "x").await;
        x.say_hello().await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        // Meaning another parent than the one that was dialled.
        let mut x = RawPeer::connect(target, "server", "x").await;
        x.parent = "relay".parse().expect("a name");
        x.say_hello().await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        let refused = [
            ("relay", Status::NotDirect, 1),
            ("relay", Status::CertName, 1),
            ("server", Status::NotDirect, 1),
        ];
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn atk_161_hello_of_another_version_is_refused() {
    attack(async |target, guard| {
        guard.expect("VERSION");
        let before = target.look().await;
        for (version_min, version_max) in [(0, 0), (2, 9), (2, 1), (u16::MAX, u16::MAX)] {
            let mut x = RawPeer::connect(target, "server", "x").await;
            let hello = Hello { version_min, version_max, ..x.hello() };
            x.send_frame(&Frame::Hello(hello)).await;
            assert_eq!(x.closed().await, Closed::unauthenticated());
        }
        target.assert_refused(&before, &[("server", Status::Version, 4)]).await;
    });
}

#[test]
fn only_who_asks_is_told_the_time_and_both_are_served() {
    attack(async |target, _guard| {
        let mut x = RawPeer::connect(target, "server", "x").await;
        let (features, silent) = (vec!["other".to_owned()], x.hello());
        x.send_frame(&Frame::Hello(Hello { features, ..silent })).await;
        assert_eq!(x.hello_ok().await.unix_ms, None, "an unknown feature is ignored");

        let mut x = RawPeer::connect(target, "server", "x").await;
        let (features, silent) = (vec![body::FEATURE_CLOCK.to_owned()], x.hello());
        x.send_frame(&Frame::Hello(Hello { features, ..silent })).await;
        let said = x.hello_ok().await.unix_ms.expect("it was asked for");
        let again = {
            let mut x = RawPeer::connect(target, "server", "x").await;
            let (features, silent) = (vec![body::FEATURE_CLOCK.to_owned()], x.hello());
            x.send_frame(&Frame::Hello(Hello { features, ..silent })).await;
            x.hello_ok().await.unix_ms.expect("it was asked for")
        };
        assert!(again >= said && again - said < 3_600_000, "{said} {again}");
    });
}

#[test]
fn a_hello_that_is_malformed_or_too_large_ends_the_connection() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let before = target.look().await;
        let mut x = RawPeer::connect(target, "server", "x").await;
        let mut bodies = vec![
            body::encode(&Hello { incarnation: WireIncarnation(0, 1), ..x.hello() }).to_vec(),
            body::encode(&x.hello())[1..].to_vec(),
            [&body::encode(&x.hello())[..], &[0xc0]].concat(),
            body::encode(&Octets([7; 32])).to_vec(),
            vec![0xc1],
        ];
        let crowd = vec!["feature".to_owned(); 17];
        let honest = x.hello();
        let many = ((1u16, 1u16), crowd, (&honest.name, &honest.parent));
        bodies.push(body::encode(&many).to_vec());
        for header in &bodies {
            x = RawPeer::connect(target, "server", "x").await;
            x.write(&wire::frame(wire::HELLO, header, b"")).await;
            assert_eq!(x.closed().await, Closed::unauthenticated(), "{header:x?}");
        }
        let large = Hello { features: vec!["f".repeat(600); 16], ..x.hello() };
        x = RawPeer::connect(target, "server", "x").await;
        x.send_frame(&Frame::Hello(large)).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        let bad = u64::try_from(bodies.len()).expect("few");
        let refused = [("server", Status::BadFrame, bad), ("server", Status::TooLarge, 1)];
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn atk_088_who_is_slow_to_say_hello_is_closed_after_five_seconds() {
    attack(async |target, guard| {
        guard.expect("NO_HELLO");
        let before = target.look().await;
        let silent = RawPeer::connect(target, "server", "x").await;
        let mut slow = RawPeer::connect(target, "server", "x").await;
        let hello = body::encode(&slow.hello());
        for byte in &wire::frame(wire::HELLO, &hello, b"")[..4] {
            slow.write(&[*byte]).await;
            target.pass(Duration::from_secs(1)).await;
        }
        assert!(slow.lives() && silent.lives(), "it has not been five seconds");
        target.pass(Duration::from_millis(1500)).await;
        assert_eq!(slow.closed().await, Closed::unauthenticated());
        assert_eq!(silent.closed().await, Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::NoHello, 2)]).await;
    });
}

#[test]
fn atk_088_who_never_registers_is_closed_after_half_a_minute() {
    attack(async |target, guard| {
        guard.expect("NO_TOKEN");
        let before = target.look().await;
        let (mut x, _) = RawPeer::greeted(target, "server", "x").await;
        for _ in 0..20 {
            x.beat_and_wait().await;
            target.pass(Duration::from_secs(1)).await;
        }
        assert!(x.lives(), "beats keep it open until then");
        // Real time passes too, so its end is not awaited to the second.
        for _ in 0..12 {
            x.beat().await;
            target.pass(Duration::from_secs(1)).await;
        }
        assert_eq!(x.closed().await, Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::NoToken, 1)]).await;
    });
}

#[test]
fn s_09_there_is_one_control_stream_and_it_does_not_end() {
    attack(async |target, guard| {
        guard.expect("BAD_FRAME");
        let before = target.look().await;
        let x = RawPeer::registered(target, "server", "x").await;
        let (mut second, _recv) = x.connection.open_bi().await.expect("a stream is granted");
        let beat = wire::frame(wire::BEAT, &[0x91, 1], b"");
        second.write_all(&beat).await.expect("it is open");
        assert_eq!(x.closed().await, Closed::protocol(Status::BadFrame));
        target.until_gone("server", "x").await;

        let mut x = RawPeer::registered(target, "server", "x").await;
        x.finish_control();
        assert_eq!(x.closed().await, Closed::protocol(Status::BadFrame));
        target.until_gone("server", "x").await;
        target.assert_refused(&before, &[("server", Status::BadFrame, 2)]).await;
    });
}

#[test]
fn beats_that_do_not_grow_end_the_connection() {
    attack(async |target, guard| {
        guard.expect("BAD_FRAME");
        let before = target.look().await;
        let numbers = [0, 1, u64::MAX];
        for number in numbers {
            let mut x = RawPeer::registered(target, "server", "x").await;
            x.beat_and_wait().await;
            x.send_frame(&Frame::Beat(Beat { number })).await;
            x.send_frame(&Frame::Beat(Beat { number })).await;
            assert_eq!(x.closed().await, Closed::protocol(Status::BadFrame));
            target.until_gone("server", "x").await;
        }
        target.assert_refused(&before, &[("server", Status::BadFrame, 3)]).await;
    });
}

#[test]
fn g_31_who_falls_silent_is_dropped_and_forgotten() {
    attack(async |target, _| {
        let x = RawPeer::registered(target, "server", "x").await;
        target.pass(Duration::from_secs(5)).await;
        assert_eq!(x.closed().await, Closed::Application(3, "no beat in time".to_owned()));
        target.until_gone("server", "x").await;
    });
}
