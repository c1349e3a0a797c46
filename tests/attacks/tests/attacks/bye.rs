//! Byes of others, by others, through others.

use std::time::Duration;

use bytes::Bytes;
use cellbus_attacks::{
    Closed, Outcome, RawPeer, attack,
    wire::{Mp, s},
};
use cellbus_proto::{
    codec::Frame,
    envelope::{Envelope, Kind, Lane},
    status::Status,
    well_known::{BYE, CHALLENGE, REGISTER},
};

use crate::parents::{believed, rogue};

/// A bye as an honest neighbour says it, to be changed.
fn bye(peer: &mut RawPeer) -> Envelope {
    let mut bye = peer.request(peer.parent.clone().as_str(), "task/fetch");
    bye.header.target = BYE.into();
    bye.header.lane = Lane::Control;
    bye.header.token = None;
    bye.payload = Bytes::new();
    bye
}

#[test]
fn atk_001_a_bye_for_another_cell_is_refused_without_an_answer() {
    attack(async |target, guard| {
        guard.expect("ORIGIN_MISMATCH");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut forged = bye(&mut x);
        forged.header.origin = x.address_of("site-2");
        x.send(forged).await;
        x.settle(Lane::Control).await;
        target.assert_refused(&before, &[("server", Status::OriginMismatch, 1)]).await;
        assert_eq!(x.unasked_messages(), [], "an answer would go to the victim");
        assert_eq!(target.holds("server", "x").await, (true, true));
    });
}

#[test]
fn atk_002_a_bye_without_origin_and_destination_is_no_header() {
    attack(async |target, guard| {
        guard.expect("BAD_HEADER");
        for addresses in [Mp::Nil, s(""), Mp::A(vec![])] {
            let mut x = RawPeer::registered(target, "server", "x").await;
            let before = target.look().await;
            let mut loose = x.loose("server", BYE.channel, BYE.topic);
            (loose.origin, loose.destination) = (addresses.clone(), addresses);
            x.send_loose(&loose).await;
            assert_eq!(x.closed().await, Closed::protocol(Status::BadHeader));
            target.until_gone("server", "x").await;
            target.assert_refused(&before, &[("server", Status::BadHeader, 1)]).await;
        }
    });
}

#[test]
fn atk_004_a_bye_is_never_forwarded() {
    attack(async |target, guard| {
        guard.expect("NOT_DIRECT");
        let mut y = RawPeer::registered(target, "relay", "y").await;
        let before = target.look().await;
        for victim in ["server", "relay.site-1", "site-2"] {
            let mut forwarded = bye(&mut y);
            forwarded.header.destination =
                y.request(victim, "task/fetch").header.destination.clone();
            forwarded.header.token = y.token.clone();
            let outcome = y.ask(forwarded).await;
            assert_eq!(outcome, Outcome::returned(Status::NotDirect, "relay"), "{victim}");
        }
        target.assert_refused(&before, &[("relay", Status::NotDirect, 3)]).await;
        assert_eq!(target.holds("server", "relay").await, (true, true));
        assert_eq!(target.holds("relay", "relay.y").await, (true, true));
    });
}

#[test]
fn atk_005_a_bye_counts_by_the_receivers_own_name_and_the_connection_alone() {
    attack(async |target, guard| {
        guard.expect("ORIGIN_MISMATCH");
        guard.expect("NOT_DIRECT");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut pair = bye(&mut x);
        pair.header.origin = x.address_of("site-2");
        pair.header.destination = x.request("site-2", "task/fetch").header.destination.clone();
        x.send(pair).await;
        let mut to_itself = bye(&mut x);
        to_itself.header.destination = x.request("x", "task/fetch").header.destination.clone();
        let outcome = x.ask(to_itself).await;
        assert_eq!(outcome, Outcome::returned(Status::NotDirect, "server"));
        let refused = [("server", Status::OriginMismatch, 1), ("server", Status::NotDirect, 1)];
        target.assert_refused(&before, &refused).await;
        assert_eq!(target.holds("server", "x").await, (true, true));
    });
}

#[test]
fn atk_006_the_end_of_an_old_connection_leaves_the_new_one_registered() {
    attack(async |target, _| {
        let mut old = RawPeer::registered(target, "server", "x").await;
        let first = target.inspect("server").await;
        let mut new = RawPeer::connect(target, "server", "x").await;
        new.incarnation = old.incarnation;
        let ok = new.greet().await;
        let proof = new.proof(&ok.challenge);
        // The bye of the old connection and the registration of the new one are on their way together.
        let late = bye(&mut old);
        new.send_proof(&proof).await.expect("the same process comes back");
        old.send(late).await;
        assert_eq!(
            old.closed().await,
            Closed::Application(2, "another connection took this name".to_owned())
        );
        let link = |report: &cellbus_runtime::cell::InspectReport| {
            report.links.iter().filter(|l| l.peer == "x").map(|l| l.link).collect::<Vec<_>>()
        };
        target
            .until("the old link is gone", async || {
                let links = link(&target.inspect("server").await);
                links.len() == 1 && links != link(&first)
            })
            .await;
        new.settle(Lane::Control).await;
        assert_eq!(target.holds("server", "x").await, (true, true));
        let fetched = new.request("server", "task/fetch");
        assert!(matches!(new.ask(fetched).await, Outcome::Replied(_)));
    });
}

#[test]
fn atk_006_behind_a_relay_the_server_keeps_the_record_of_who_came_back() {
    attack(async |target, _| {
        let old = RawPeer::registered(target, "relay", "y").await;
        let mut new = RawPeer::connect(target, "relay", "y").await;
        new.incarnation = old.incarnation;
        new.register().await.expect("the same process comes back");
        assert!(matches!(old.closed().await, Closed::Application(2, _)));
        target
            .until("the old link is gone", async || {
                let report = target.inspect("relay").await;
                report.links.iter().filter(|link| link.peer == "relay.y").count() == 1
            })
            .await;
        new.settle(Lane::Control).await;
        target.ping("relay", "server").await;
        assert_eq!(target.holds("relay", "relay.y").await, (true, true));
        assert!(target.holds("server", "relay.y").await.1, "the server forgot a living cell");
    });
}

#[test]
fn atk_008_a_bye_as_an_answer_is_unsolicited() {
    attack(async |target, guard| {
        guard.expect("REPLY_UNSOLICITED");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let by = "server".parse().expect("a name");
        let failed = Kind::Return { to: 1, status: Status::NoRoute, by };
        for (kind, token) in [
            (Kind::Reply { to: 1 }, None),
            (Kind::Reply { to: 1 }, x.token.clone()),
            (Kind::Publish, None),
            (failed, x.token.clone()),
        ] {
            let mut answer = bye(&mut x);
            (answer.header.kind, answer.header.token) = (kind, token);
            x.send(answer).await;
        }
        x.settle(Lane::Control).await;
        target.assert_refused(&before, &[("server", Status::ReplyUnsolicited, 4)]).await;
        assert_eq!(target.holds("server", "x").await, (true, true));
    });
}

#[test]
fn atk_009_a_bye_has_no_body() {
    attack(async |target, guard| {
        guard.expect("TOO_LARGE");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut one_byte = bye(&mut x);
        one_byte.payload = Bytes::from_static(b"!");
        x.send(one_byte).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        target.until_gone("server", "x").await;
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut huge = bye(&mut x);
        huge.payload = vec![0; 4 << 20].into();
        let mut bytes = bytes::BytesMut::new();
        let _ = cellbus_proto::codec::Encoder::new().encode(&Frame::Message(huge), &mut bytes);
        x.write(&bytes).await;
        assert_eq!(x.closed().await, Closed::protocol(Status::TooLarge));
        target.until_gone("server", "x").await;
        target.assert_refused(&before, &[("server", Status::TooLarge, 2)]).await;
    });
}

#[test]
fn atk_012_a_name_that_nearly_is_an_exempt_one_is_not_exempt() {
    attack(async |target, guard| {
        guard.expect("BAD_HEADER");
        let mut closed = 0;
        let before = target.look().await;
        for (channel, topic) in [
            (BYE.channel, "Bye"),
            (BYE.channel, "bye "),
            (BYE.channel, " bye"),
            (BYE.channel, "bye\0"),
            (BYE.channel, "bye/"),
            (BYE.channel, "ｂｙｅ"),
            (BYE.channel, "b\u{443}e"),
            ("Cellnet.channel", BYE.topic),
            ("cellnet/channel", BYE.topic),
            ("task\n", "register"),
            ("task", "registe\u{0301}r"),
        ] {
            let mut x = RawPeer::registered(target, "server", "x").await;
            x.token = None;
            let loose = x.loose("server", channel, topic);
            x.send_loose(&loose).await;
            let end = x.closed().await;
            assert_eq!(end, Closed::protocol(Status::BadHeader), "{channel:?} {topic:?}");
            target.until_gone("server", "x").await;
            closed += 1;
        }
        let mut x = RawPeer::registered(target, "server", "x").await;
        x.token = None;
        let near = [
            "cellnet.channel./bye",
            "cellnet-channel/bye",
            "cellnet.channel/bye.",
            "task/registered",
        ];
        for near in near {
            let message = x.request("server", near);
            assert_eq!(
                x.ask(message).await,
                Outcome::returned(Status::NoToken, "server"),
                "{near}"
            );
        }
        let refused = [
            ("server", Status::BadHeader, closed),
            ("server", Status::NoToken, u64::try_from(near.len()).expect("few")),
        ];
        target.assert_refused(&before, &refused).await;
        assert_eq!(target.holds("server", "x").await, (true, true));
    });
}

#[test]
fn atk_013_an_exempt_topic_on_another_channel_needs_a_token() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        x.token = None;
        let before = target.look().await;
        for pair in [
            format!("hci_channel/{}", REGISTER.topic),
            format!("{}/{}", BYE.channel, CHALLENGE.topic),
            format!("{}/{}", BYE.channel, REGISTER.topic),
            format!("{}/{}", REGISTER.channel, BYE.topic),
        ] {
            let message = x.request("server", &pair);
            assert_eq!(
                x.ask(message).await,
                Outcome::returned(Status::NoToken, "server"),
                "{pair}"
            );
        }
        target.assert_refused(&before, &[("server", Status::NoToken, 4)]).await;
        assert_eq!(target.holds("server", "x").await, (true, true));
    });
}

#[test]
fn a_parent_whose_stream_ends_after_a_bye_is_no_trouble() {
    attack(async |target, _guard| {
        let mut upwards = RawPeer::registered(target, "server", "relay-x").await;
        let (parent, child) = rogue(target, &target.papers("relay-x")).await;
        let mut caught = believed(target, &mut upwards, &parent, &child).await;
        let leaving = child.running().clone();
        let left = actix_rt::spawn(async move { leaving.drain(Duration::from_secs(5)).await });
        caught.expect_message(|message| message.header.target.system() == Some(BYE)).await;
        caught.end_control();
        assert_eq!(caught.closed().await, Closed::Application(0, "bye".to_owned()));
        assert!(left.await.expect("it does not panic"));
    });
}
