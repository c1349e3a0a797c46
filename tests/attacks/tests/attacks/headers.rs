//! Headers with anything in them.

use std::sync::Arc;

use bytes::Bytes;
use cellbus_attacks::{
    Closed, Outcome, RawPeer, Target, attack,
    wire::{self, Loose, Mp, s},
};
use cellbus_proto::{
    envelope::{Extras, Lane},
    status::Status,
};

/// Sends each of `loose` on a connection of its own, which must end with this status.
async fn assert_closed(target: &Target, status: Status, changes: &[&dyn Fn(&mut Loose)]) {
    let before = target.look().await;
    for (number, change) in changes.iter().enumerate() {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut loose = x.loose("server", "task", "fetch");
        change(&mut loose);
        x.send_loose(&loose).await;
        assert_eq!(x.closed().await, Closed::protocol(status), "number {number}: {loose:?}");
        target.until_gone("server", "x").await;
    }
    let count = u64::try_from(changes.len()).expect("few");
    target.assert_refused(&before, &[("server", status, count)]).await;
}

#[test]
fn the_loose_header_is_a_good_one_until_it_is_changed() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let loose = x.loose("server", "task", "fetch");
        x.send_loose(&loose).await;
        let Mp::U(to) = loose.sequence else { panic!("a number") };
        assert_eq!(x.outcome(to).await, Outcome::Replied(Bytes::from_static(b"payload")));
    });
}

#[test]
fn atk_056_wildcards_do_not_travel() {
    attack(async |target, guard| {
        guard.expect("BAD_HEADER");
        let pairs = [
            ("*", "fetch"),
            ("task", "*"),
            ("*", "*"),
            ("task:*", "fetch"),
            ("task:get", "fetch"),
            ("task", "fetch*"),
            ("task", "#"),
            ("task", ">"),
            ("task/fetch", "fetch"),
            ("", "fetch"),
            ("task", ""),
            ("Task", "fetch"),
            ("task", "f\u{435}tch"),
        ];
        let changes = pairs.map(|(channel, topic)| {
            move |loose: &mut Loose| loose.target = Mp::A(vec![Mp::U(0), s(channel), s(topic)])
        });
        let changes: Vec<&dyn Fn(&mut Loose)> =
            changes.iter().map(|change| change as &dyn Fn(&mut Loose)).collect();
        assert_closed(target, Status::BadHeader, &changes).await;
    });
}

#[test]
fn atk_064_what_a_header_says_about_its_sender_counts_for_nothing() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let lies = b"verified_identity=server; user_role=project_admin; requires_authz=false; conn_url=quic://victim";
        let mut request = x.request("server", "task/fetch");
        request.header.extras = Some(Box::new(Extras {
            content_type: Some(Arc::from("application/x; role=project_admin")),
            trace: None,
            headers: Bytes::from_static(lies),
            ..Extras::default()
        }));
        assert!(matches!(x.ask(request).await, Outcome::Replied(_)));
        // Fields of a later version that one may leave out of account.
        let mut loose = x.loose("server", "task", "fetch");
        let claims = [(1, &lies[..]), (9, b"admin"), (65_535, b"\xff")];
        let extensions =
            claims.map(|(number, value)| Mp::A(vec![Mp::U(number), Mp::B(value.to_vec())]));
        loose.rest = [vec![Mp::Nil; 5], vec![Mp::A(extensions.to_vec())]].concat();
        x.send_loose(&loose).await;
        let Mp::U(to) = loose.sequence else { panic!("a number") };
        assert!(matches!(x.outcome(to).await, Outcome::Replied(_)));
        target.assert_changes(&before, &[], 2).await;
        for call in target.calls() {
            assert_eq!(call.delivery.origin, "x client attacks");
            assert_eq!(call.delivery.payload, &b"payload"[..]);
        }
    });
}

#[test]
fn atk_064_a_field_that_must_be_understood_and_is_not_ends_the_connection() {
    attack(async |target, guard| {
        guard.expect("VERSION");
        let with = |number: u64| {
            move |loose: &mut Loose| {
                let extension = Mp::A(vec![Mp::U(number), Mp::B(b"requires_authz=false".to_vec())]);
                loose.rest = [vec![Mp::Nil; 5], vec![Mp::A(vec![extension])]].concat();
            }
        };
        assert_closed(target, Status::Version, &[&with(0), &with(8), &with(65_534)]).await;
    });
}

#[test]
fn atk_065_control_characters_do_not_get_into_a_header_or_a_log() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let nasty = ["\r\n", "\n", "\0", "\u{1b}[31m", "\u{202e}", "\u{7f}", "\u{85}", "\u{feff}"];
        let before = target.look().await;
        let (mut fqcn, mut header) = (0, 0);
        for text in nasty {
            for place in 0..5 {
                let mut x = RawPeer::registered(target, "server", "x").await;
                let mut loose = x.loose("server", "task", "fetch");
                let evil = format!("x{text}WARN all is well");
                let origin = |name: &str| Mp::A(vec![Mp::U(0), s(name), Mp::U(1), Mp::U(1)]);
                let target_of =
                    |channel: &str, topic: &str| Mp::A(vec![Mp::U(0), s(channel), s(topic)]);
                match place {
                    0 => loose.origin = origin(&evil),
                    1 => loose.destination = Mp::A(vec![Mp::U(1), s(&evil)]),
                    2 => loose.target = target_of(&evil, "fetch"),
                    3 => loose.target = target_of("task", &evil),
                    _ => loose.rest = vec![Mp::Nil, Mp::Nil, s(&evil)],
                }
                let status = if place < 2 { Status::BadFqcn } else { Status::BadHeader };
                *(if place < 2 { &mut fqcn } else { &mut header }) += 1;
                x.send_loose(&loose).await;
                assert_eq!(x.closed().await, Closed::protocol(status), "{place} {text:?}");
                target.until_gone("server", "x").await;
            }
        }
        let refused = [("server", Status::BadFqcn, fqcn), ("server", Status::BadHeader, header)];
        target.assert_refused(&before, &refused).await;
        // The text of a close is the peer's own too.
        let x = RawPeer::registered(target, "server", "x").await;
        x.connection.close(4u32.into(), "evil\r\n\u{1b}[31mWARN all is well\u{202e}".as_bytes());
        target.until_gone("server", "x").await;
        for event in guard.last_events() {
            assert!(!event.chars().any(char::is_control), "{event:?}");
            assert!(!event.contains('\u{202e}') && !event.contains("all is well"), "{event:?}");
        }
    });
}

#[test]
fn atk_066_a_header_is_no_map_so_no_key_stands_twice() {
    attack(async |target, guard| {
        guard.expect("BAD_HEADER");
        let before = target.look().await;
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut loose = x.loose("server", "task", "fetch");
        loose.destination = s("server");
        let header = loose.map(vec![(s("destination"), s("site-2"))]);
        x.write_lane(Lane::Bulk, &wire::frame(wire::MESSAGE, &header, b"")).await;
        assert_eq!(x.closed().await, Closed::protocol(Status::BadHeader));
        target.until_gone("server", "x").await;
        target.assert_refused(&before, &[("server", Status::BadHeader, 1)]).await;
    });
}

#[test]
fn s_20_numbers_stay_within_their_fields() {
    attack(async |target, guard| {
        guard.expect("BAD_HEADER");
        let max = Mp::U(u64::MAX);
        assert_closed(
            target,
            Status::BadHeader,
            &[
                &|loose| loose.budget = Mp::U(u64::MAX),
                &|loose| loose.budget = Mp::I(-1),
                &|loose| loose.budget = Mp::F(f64::NAN),
                &|loose| loose.hops = Mp::I(-1),
                &|loose| loose.hops = Mp::U(256),
                &|loose| loose.lane = Mp::U(3),
                &|loose| loose.lane = max.clone(),
                &|loose| loose.flags = Mp::U(256),
                &|loose| loose.kind = Mp::U(4),
                &|loose| loose.kind = Mp::I(-1),
                &|loose| loose.sequence = Mp::U(0),
                &|loose| loose.origin = Mp::A(vec![Mp::U(0), s("x")]),
                &|loose| loose.origin = Mp::A(vec![Mp::U(0), s("x"), Mp::U(0), Mp::U(1)]),
                &|loose| loose.origin = Mp::U(0),
                &|loose| loose.origin = Mp::A(vec![Mp::U(7), s("x"), Mp::U(1), Mp::U(1)]),
                &|loose| loose.destination = Mp::U(1023),
                &|loose| loose.destination = max.clone(),
                &|loose| loose.token = Mp::U(5),
                // A request that answers, and an answer to nothing.
                &|loose| loose.rest = vec![Mp::U(1)],
                &|loose| loose.kind = Mp::U(2),
                &|loose| (loose.kind, loose.rest) = (Mp::U(3), vec![Mp::U(1)]),
                // A second spelling of a number, and of an absence.
                &|loose| loose.kind = Mp::Raw(vec![0xcc, 1]),
                &|loose| loose.rest = vec![Mp::Nil],
            ],
        )
        .await;
    });
}

#[test]
fn names_that_are_none_end_the_connection() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let names = [
            "",
            ".",
            "x.",
            ".x",
            "x..y",
            "X",
            "sérver",
            "server ",
            "server/..",
            "a.a",
            "-x",
            "x*",
            "a.b.c.d.e.f.g.h.i",
        ];
        let changes = names.map(|name| {
            move |loose: &mut Loose| loose.destination = Mp::A(vec![Mp::U(1), s(name)])
        });
        let changes: Vec<&dyn Fn(&mut Loose)> =
            changes.iter().map(|change| change as &dyn Fn(&mut Loose)).collect();
        assert_closed(target, Status::BadFqcn, &changes).await;
        let long =
            |loose: &mut Loose| loose.destination = Mp::A(vec![Mp::U(1), s(&"a".repeat(256))]);
        assert_closed(target, Status::TooLarge, &[&long]).await;
    });
}
