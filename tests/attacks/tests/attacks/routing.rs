//! Where a message says it comes from, where it wants to go, and what it may ask for there.

use bytes::Bytes;
use cellbus_attacks::{Closed, Outcome, RawPeer, attack, wire::Mp};
use cellbus_channels::{Delivery, Reply, from_fn};
use cellbus_proto::{
    envelope::{Kind, Lane},
    status::Status,
    well_known::{self, BYE, CHALLENGE, JOB_START, JOB_STOP, REGISTER},
};

#[test]
fn atk_054_a_spoofed_origin_is_refused_in_silence() {
    attack(async |target, guard| {
        guard.expect("ORIGIN_MISMATCH");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let origins = [
            "server",
            "site-2",
            "relay",
            "relay.site-1",
            "z",
            "x2",
            "x-job",
            "xx",
            "relay.x",
            "z.x",
            "server.x",
        ];
        for origin in origins {
            for kind in [Kind::Request, Kind::Publish] {
                let mut spoofed = x.request("server", "task/fetch");
                spoofed.header.origin = x.address_of(origin);
                spoofed.header.kind = kind;
                x.send(spoofed).await;
            }
        }
        x.settle(Lane::Interactive).await;
        let count = 2 * u64::try_from(origins.len()).expect("few");
        target.assert_refused(&before, &[("server", Status::OriginMismatch, count)]).await;
        assert_eq!(x.unasked_messages(), [], "an answer would go to the victim");
    });
}

#[test]
fn atk_054_at_a_relay_a_leaf_speaks_for_nobody_above_or_beside_it() {
    attack(async |target, guard| {
        guard.expect("ORIGIN_MISMATCH");
        let mut y = RawPeer::registered(target, "relay", "y").await;
        let before = target.look().await;
        let origins = ["relay", "relay.site-1", "server", "y", "relay.y2"];
        for origin in origins {
            let mut spoofed = y.request("server", "task/fetch");
            spoofed.header.origin = y.address_of(origin);
            y.send(spoofed).await;
        }
        y.settle(Lane::Interactive).await;
        let count = u64::try_from(origins.len()).expect("few");
        target.assert_refused(&before, &[("relay", Status::OriginMismatch, count)]).await;
    });
}

#[test]
fn a_cell_below_oneself_is_not_oneself() {
    attack(async |target, guard| {
        guard.expect("TOKEN_WRONG_CONN");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut below = x.request("server", "task/fetch");
        below.header.origin = x.address_of("x.job-1");
        x.send(below).await;
        x.settle(Lane::Interactive).await;
        target.assert_refused(&before, &[("server", Status::TokenWrongConn, 1)]).await;
    });
}

#[test]
fn atk_057_a_handler_on_an_exempt_topic_is_in_nobodys_way() {
    attack(async |target, _| {
        let bus = target.cell("server").bus();
        for topic in [REGISTER, CHALLENGE] {
            let shadow = from_fn(async |_: Delivery| Ok(Reply::default()));
            // Taken or not: it is never asked.
            let _ = bus.handle(cellbus_proto::name::ChannelTopic::from(topic), shadow).await;
        }
        let shadow = from_fn(async |_: Delivery| Ok(Reply::default()));
        let reserved = bus.handle(cellbus_proto::name::ChannelTopic::from(BYE), shadow).await;
        assert!(reserved.is_err(), "the channel belongs to the system");
        let before = target.look().await;
        let mut x = RawPeer::connect(target, "server", "x").await;
        let ok = x.greet().await;
        let proof = x.proof(&ok.challenge);
        let registered = x.send_proof(&proof).await.expect("the link answers, and no handler");
        assert!(!registered.token.0.is_empty());
        x.token = None;
        let fetch = x.request("server", "task/fetch");
        assert_eq!(x.ask(fetch).await, Outcome::returned(Status::NoToken, "server"));
        target.assert_refused(&before, &[("server", Status::NoToken, 1)]).await;
    });
}

#[test]
fn atk_068_a_message_to_nobody_comes_back_from_the_first_cell_that_knows() {
    attack(async |target, _| {
        let mut y = RawPeer::registered(target, "relay", "y").await;
        let before = target.look().await;
        for (to, status, by) in [
            ("relay.ghost", Status::TopicDenied, "relay"),
            ("relay.site-1.job-7", Status::TopicDenied, "relay"),
            ("ghost", Status::TopicDenied, "relay"),
            ("site-2", Status::TopicDenied, "relay"),
        ] {
            let request = y.request(to, "task/fetch");
            assert_eq!(y.ask(request).await, Outcome::returned(status, by), "{to}");
        }
        // What a rule allows, and no link leads to: the ping is for everybody.
        for (to, by) in [
            ("relay.ghost", "relay"),
            ("relay.site-1.job-7", "relay.site-1"),
            ("ghost", "server"),
            ("z", "server"),
        ] {
            let mut ping = y.request(to, "task/fetch");
            ping.header.target = well_known::PING.into();
            ping.header.lane = Lane::Control;
            assert_eq!(y.ask(ping).await, Outcome::returned(Status::NoRoute, by), "{to}");
        }
        target.assert_refused(&before, &[("relay", Status::TopicDenied, 4)]).await;
    });
}

#[test]
fn atk_069_the_first_hop_sets_the_hops_whatever_the_sender_says() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut z = RawPeer::registered(target, "server", "z").await;
        let before = target.look().await;
        for hops in [0, 1, 16, 255] {
            let mut read = x.request("z", "share/read");
            read.header.hops_left = hops;
            x.send(read).await;
            let arrived = z.request_in().await;
            assert_eq!(arrived.header.hops_left, 15, "{hops} were asked for");
        }
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn atk_070_nothing_is_sent_back_over_the_link_that_it_came_by() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut y = RawPeer::registered(target, "relay", "y").await;
        let before = target.look().await;
        for (peer, own) in [(&mut x, "x.job-1"), (&mut y, "relay.y.job-1")] {
            let mut ping = peer.request(own, "task/fetch");
            ping.header.target = well_known::PING.into();
            ping.header.lane = Lane::Control;
            let by = peer.parent.to_string();
            let outcome = peer.ask(ping).await;
            assert!(
                [Status::Loop, Status::TopicDenied]
                    .map(|s| Outcome::returned(s, &by))
                    .contains(&outcome),
                "{outcome:?}"
            );
            assert_eq!(peer.unasked_messages(), []);
        }
        assert!(target.look().await.unchanged_since(&before));
    });
}

#[test]
fn atk_076_and_077_what_the_system_says_to_itself_is_not_for_leaves_to_say() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut refused = 0;
        for to in ["site-2", "server", "relay.site-1"] {
            let system =
                [JOB_START, JOB_STOP].map(|topic| format!("{}/{}", topic.channel, topic.topic));
            let reserved = [
                "cell/stop",
                "cell/stop_cell",
                "cell/change_root",
                "cell/stress",
                "cell/config",
                "cell/admin",
                "cellnet.channel/stop",
                "cellnet.channel/process_info",
                "cell/register_child",
                "cell/challenge_child",
                "cell/renew_child",
                "cell/detach_child",
            ];
            for topic in system.iter().map(String::as_str).chain(reserved) {
                if to == "server" && topic.ends_with("_child") {
                    // A site may have a job cell below it, and asks the server for it; see the relay's tests.
                    continue;
                }
                let request = x.request(to, topic);
                let outcome = x.ask(request).await;
                assert_eq!(
                    outcome,
                    Outcome::returned(Status::TopicDenied, "server"),
                    "{to} {topic}"
                );
                refused += 1;
            }
        }
        target.assert_refused(&before, &[("server", Status::TopicDenied, refused)]).await;
    });
}

#[test]
fn what_no_rule_allows_is_refused_between_any_two_cells() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut refused = 0;
        for (to, topic) in [
            ("server", "share/read"),
            ("server", "task/fetched"),
            ("site-2", "task/fetch"),
            ("relay", "task/fetch"),
            ("relay", "share/read"),
            ("relay.site-1", "share/readx"),
        ] {
            for kind in [Kind::Request, Kind::Publish] {
                let mut message = x.request(to, topic);
                message.header.kind = kind.clone();
                if kind == Kind::Request {
                    let outcome = x.ask(message).await;
                    assert_eq!(
                        outcome,
                        Outcome::returned(Status::TopicDenied, "server"),
                        "{to} {topic}"
                    );
                } else {
                    x.send(message).await;
                }
                refused += 1;
            }
        }
        x.settle(Lane::Interactive).await;
        target.assert_refused(&before, &[("server", Status::TopicDenied, refused)]).await;
    });
}

#[test]
fn s_20_a_budget_of_nothing_runs_nothing() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut late = x.request("server", "task/fetch");
        late.header.budget_ms = 0;
        x.send(late).await;
        x.settle(Lane::Interactive).await;
        target.assert_refused(&before, &[]).await;
        // The answer has no more time than the question had, so there is none.
        let dead = target.inspect("server").await.counters.dead;
        assert_eq!(dead.get(Status::ExpiredInQueue.code()), Some(&1));
        assert_eq!(x.unasked_messages(), []);
    });
}

#[test]
fn s_20_a_message_for_another_start_of_the_cell_runs_nothing() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut meant = x.request("server", "task/fetch");
        meant.header.destination = x.address_of("server");
        assert_eq!(x.ask(meant).await, Outcome::returned(Status::PeerRestarted, "server"));
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_20_and_s_26_the_systems_own_lane_is_not_for_applications() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut z = RawPeer::registered(target, "server", "z").await;
        let before = target.look().await;
        let mut urgent = x.request("z", "share/read");
        urgent.header.lane = Lane::Control;
        x.send(urgent).await;
        let arrived = z.request_in().await;
        assert_eq!(arrived.header.lane, Lane::Interactive, "it would go before every beat");
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_26_every_message_travels_on_the_stream_of_its_lane() {
    attack(async |target, guard| {
        guard.expect("BAD_FRAME");
        let before = target.look().await;
        let mut closed = 0;
        for (stream, said) in [
            (Lane::Bulk, Lane::Interactive),
            (Lane::Bulk, Lane::Control),
            (Lane::Interactive, Lane::Bulk),
            (Lane::Control, Lane::Interactive),
            (Lane::Control, Lane::Bulk),
        ] {
            let mut x = RawPeer::registered(target, "server", "x").await;
            let mut loose = x.loose("server", "task", "fetch");
            loose.lane = Mp::U(said as u64);
            x.write_lane(stream, &loose.frame(b"payload")).await;
            assert_eq!(
                x.closed().await,
                Closed::protocol(Status::BadFrame),
                "{said:?} on {stream:?}"
            );
            target.until_gone("server", "x").await;
            closed += 1;
        }
        target.assert_refused(&before, &[("server", Status::BadFrame, closed)]).await;
    });
}

#[test]
fn s_24_atk_094_counters_are_labelled_from_a_closed_set() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let handlers = target.inspect("server").await.handlers;
        let before = target.look().await;
        for number in 0..1000 {
            let mut message = x.request("server", &format!("channel-{number}/topic-{number}"));
            message.header.kind = Kind::Publish;
            x.send(message).await;
        }
        x.settle(Lane::Interactive).await;
        target.assert_refused(&before, &[("server", Status::TopicDenied, 1000)]).await;
        let report = target.inspect("server").await;
        for code in report.counters.refused.keys().chain(report.counters.dead.keys()) {
            assert!(Status::from_code(code).is_some(), "{code}");
        }
        assert_eq!(report.handlers, handlers);
        assert_eq!((report.outstanding, report.handling), (0, 0));
    });
}

#[test]
fn a_publish_of_a_stranger_is_not_answered_and_runs_nothing() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut publish = x.request("server", "task/fetch");
        publish.header.kind = Kind::Publish;
        publish.header.token = None;
        publish.payload = Bytes::from_static(b"quiet");
        x.send(publish).await;
        x.settle(Lane::Interactive).await;
        target.assert_refused(&before, &[("server", Status::NoToken, 1)]).await;
        assert_eq!(x.unasked_messages(), []);
    });
}
