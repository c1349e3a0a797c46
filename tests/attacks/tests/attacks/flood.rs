//! Much of everything: messages, streams, resets. The others must not notice.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cellbus_attacks::{
    Closed, Outcome, RawPeer, attack, peer::Dialling, socket::resident_bytes, wire,
};
use cellbus_harness::alone;
use cellbus_proto::{
    codec::{Encoder, Frame},
    envelope::{Kind, Lane},
    status::Status,
    well_known::PING,
};

#[test]
fn atk_089_streams_that_stall_leave_the_control_stream_alive() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        // As much of two messages as the windows take, never finished, and two streams that say nothing.
        for lane in [Lane::Interactive, Lane::Bulk] {
            let loose = x.loose("server", "task", "fetch");
            let frame = loose.frame(&vec![0; 1 << 20]);
            x.write_lane(lane, &frame[..frame.len() - 1]).await;
        }
        let _stalled = [x.open_uni().await, x.open_uni().await];
        let fifth = tokio::time::timeout(Duration::from_millis(100), x.connection.open_uni()).await;
        assert!(fifth.is_err(), "there are four");
        for _ in 0..3 {
            x.beat_and_wait().await;
            target.pass(Duration::from_secs(1)).await;
        }
        x.settle(Lane::Control).await;
        target.ping("site-2", "server").await;
        target.assert_refused(&before, &[]).await;
        assert!(x.lives());
    });
}

#[test]
fn a_lane_has_one_stream() {
    attack(async |target, guard| {
        guard.expect("BAD_FRAME");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        x.settle(Lane::Interactive).await;
        let mut again = x.open_uni().await;
        again.write_all(&wire::frame(wire::LANE, &[0x91, 0x01], b"")).await.expect("it is open");
        assert_eq!(x.closed().await, Closed::protocol(Status::BadFrame));
        target.until_gone("server", "x").await;
        target.assert_refused(&before, &[("server", Status::BadFrame, 1)]).await;
    });
}

#[test]
fn a_lane_stream_begins_with_its_lane_and_holds_messages() {
    attack(async |target, guard| {
        guard.expect("BAD_FRAME");
        let before = target.look().await;
        let mut x = RawPeer::connect(target, "server", "x").await;
        let hello = wire::frame(wire::HELLO, &cellbus_proto::codec::body::encode(&x.hello()), b"");
        let message = x.loose("server", "task", "fetch").frame(b"payload");
        drop(x);
        let lane = |number: u8| wire::frame(wire::LANE, &[0x91, number], b"");
        let beat = wire::frame(wire::BEAT, &[0x91, 0x09], b"");
        let starts = [
            message,
            lane(0),
            [lane(1), lane(1)].concat(),
            [lane(2), beat].concat(),
            hello,
            lane(3),
        ];
        for (number, bytes) in starts.iter().enumerate() {
            let x = RawPeer::registered(target, "server", "x").await;
            let mut stream = x.open_uni().await;
            stream.write_all(bytes).await.expect("it is open");
            assert_eq!(x.closed().await, Closed::protocol(Status::BadFrame), "number {number}");
            target.until_gone("server", "x").await;
        }
        let count = u64::try_from(starts.len()).expect("few");
        target.assert_refused(&before, &[("server", Status::BadFrame, count)]).await;
    });
}

#[test]
fn s_09_streams_that_are_opened_and_reset_cost_nothing_that_stays() {
    attack(async |target, _| {
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        for round in 0..5000 {
            let mut stream = x.open_uni().await;
            if round % 3 == 0 {
                stream.write_all(&[wire::LANE, 0]).await.expect("it is open");
            }
            stream.reset(7u32.into()).expect("it has not ended");
        }
        x.beat_and_wait().await;
        x.settle(Lane::Control).await;
        let fetch = x.request("server", "task/fetch");
        assert!(matches!(x.ask(fetch).await, Outcome::Replied(_)));
        target.assert_changes(&before, &[], 1).await;
    });
}

#[test]
fn s_09_who_resets_the_control_stream_is_dropped_with_the_next_beat_that_is_missing() {
    attack(async |target, guard| {
        guard.tolerate("link closed");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        x.reset_control();
        target.pass(Duration::from_secs(5)).await;
        assert!(matches!(x.closed().await, Closed::Application(3 | 4, _)));
        target.until_gone("server", "x").await;
        assert!(target.look().await.unchanged_since(&before));
    });
}

#[test]
fn atk_090_and_093_a_flood_is_bounded_in_memory_and_in_the_log() {
    if alone::run("flood::atk_090_and_093_a_flood_is_bounded_in_memory_and_in_the_log").is_some() {
        return;
    }
    attack(async |target, guard| {
        const MESSAGES: u64 = 100_000;
        guard.expect("ORIGIN_MISMATCH");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let (mut bytes, mut encoder) = (BytesMut::new(), Encoder::new());
        let mut publish = x.request("server", "task/fetch");
        publish.header.kind = Kind::Publish;
        publish.header.origin = x.address_of("site-2");
        publish.header.lane = Lane::Bulk;
        publish.payload = Bytes::new();
        for sequence in 1..=MESSAGES {
            publish.header.sequence = sequence;
            let _ = encoder.encode(&Frame::Message(publish.clone()), &mut bytes);
        }
        let resident = resident_bytes();
        let start = std::time::Instant::now();
        let mut most = resident;
        for part in bytes.chunks(256 << 10) {
            x.write_lane(Lane::Bulk, part).await;
            most = most.max(resident_bytes());
            // In between the others are served as ever.
            target.ping("site-2", "server").await;
        }
        target
            .until("everything has been refused", async || {
                target.refused_since(&before, "server", Status::OriginMismatch).await == MESSAGES
            })
            .await;
        most = most.max(resident_bytes());
        assert!(most - resident < 32 << 20, "{} bytes more", most - resident);
        let lines = guard.count("ORIGIN_MISMATCH");
        let seconds = usize::try_from(start.elapsed().as_secs()).expect("few");
        assert!(lines <= seconds + 2, "{lines} lines in {seconds} s");
        target.assert_refused(&before, &[("server", Status::OriginMismatch, MESSAGES)]).await;
        x.settle(Lane::Control).await;
    });
}

#[test]
fn s_09_a_peer_that_never_reads_fills_its_own_outbox_and_no_other() {
    if alone::run("flood::s_09_a_peer_that_never_reads_fills_its_own_outbox_and_no_other").is_some()
    {
        return;
    }
    attack(async |target, _| {
        let papers = target.papers("x");
        let mut dialling = Dialling::honest(&papers);
        dialling.transport.stream_receive_window((64u32 << 10).into());
        let (connection, endpoint) =
            dialling.connect(target.address("server")).await.expect("the papers are good");
        let (me, parent) = (target.full_name("x"), target.full_name("server"));
        let mut x = RawPeer::over(connection, endpoint, &papers, me, parent).await;
        x.register().await.expect("the papers are good");
        target.until_holds("server", "x", (true, true)).await;
        x.stop_reading();
        let before = target.look().await;
        let resident = resident_bytes();
        // Answers of 40 MiB altogether.
        for _ in 0..640 {
            let mut ping = x.request("server", "task/fetch");
            ping.header.target = PING.into();
            ping.payload = vec![0; 64 << 10].into();
            x.send(ping).await;
        }
        x.settle(Lane::Control).await;
        target
            .until("the rest was refused", async || {
                target.inspect("server").await.counters.dead.contains_key(Status::Overloaded.code())
            })
            .await;
        let report = target.inspect("server").await;
        let link = report.links.iter().find(|link| link.peer == "x").expect("it lives");
        assert!(link.queued_bytes <= (8 << 20) + (1 << 20), "{} bytes wait", link.queued_bytes);
        let more = resident_bytes().saturating_sub(resident);
        assert!(more < 64 << 20, "{more} bytes more");
        x.beat_and_wait().await;
        target.ping("site-2", "server").await;
        target.assert_refused(&before, &[]).await;
    });
}
