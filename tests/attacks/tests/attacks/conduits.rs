//! Streams beside the control stream: what is no conduit ends the connection, and what is one costs no more
//! than it may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cellbus_attacks::{
    Closed, Outcome, RawPeer, Target, attack,
    peer::conduits::{PLAIN, stream_of},
    wire,
};
use cellbus_channels::{
    Accepted, BoxFuture, ConduitHandler, ConduitOptions, Delivery, Failure, Outgoing,
};
use cellbus_proto::{
    codec::{Frame, body},
    envelope::{Address, FanTarget, Kind, Lane},
    status::Status,
    well_known::QUIT,
};

/// Accepts everything, and lets go when the other end does.
#[derive(Clone, Default)]
struct Holding(Arc<AtomicUsize>);

impl ConduitHandler for Holding {
    fn accept(&self, delivery: Delivery, _: bool) -> BoxFuture<Result<Accepted, Failure>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            Ok(Accepted::new(delivery.payload, |mut conduit| async move {
                conduit.send.broken().await;
            }))
        })
    }
}

async fn holding(target: &Target, cell: &str) -> Holding {
    let holding = Holding::default();
    target.cell(cell).bus().serve_conduits(holding.clone()).await.expect("nobody else serves");
    holding
}

async fn conduits(target: &Target, cell: &str) -> usize {
    target.inspect(cell).await.conduits
}

#[test]
fn w_30_what_is_no_conduit_closes_the_connection() {
    attack(async |target, guard| {
        guard.expect("BAD_FRAME");
        let served = holding(target, "server").await;
        let before = target.look().await;
        let mut streams: Vec<Vec<u8>> = vec![
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            wire::prefix(10, 1, 0),
            stream_of(&[Frame::Beat(body::Beat { number: 1 })]),
            stream_of(&[Frame::Lane(Lane::Bulk)]),
            stream_of(&[Frame::Conduit(PLAIN), Frame::Conduit(PLAIN)]),
            stream_of(&[Frame::Conduit(PLAIN), Frame::Beat(body::Beat { number: 1 })]),
        ];
        let mut spare = RawPeer::connect(target, "server", "x").await;
        let request = spare.conduit_request("server", "task/fetch");
        let changes: [fn(&mut cellbus_proto::envelope::Header); 6] = [
            |header| header.kind = Kind::Publish,
            |header| header.kind = Kind::Reply { to: 1 },
            |header| header.lane = Lane::Interactive,
            |header| header.lane = Lane::Control,
            |header| header.target = "task/register".parse().expect("a topic"),
            |header| {
                let (sequence, destination) = (header.sequence, Arc::clone(&header.destination));
                let other = Address::any("site-2".parse().expect("a name"));
                header.extras.get_or_insert_default().fan = vec![
                    FanTarget { sequence, destination },
                    FanTarget { sequence: sequence + 1, destination: other },
                ];
            },
        ];
        streams.push(stream_of(&[Frame::Message(request.clone())]));
        for change in changes {
            let mut request = request.clone();
            change(&mut request.header);
            streams.push(stream_of(&[Frame::Conduit(PLAIN), Frame::Message(request)]));
        }
        drop(spare);
        let mut tried = 0;
        for bytes in streams {
            let x = RawPeer::registered(target, "server", "x").await;
            let _stream = x.open_conduit(&bytes).await;
            assert_eq!(x.closed().await, Closed::protocol(Status::BadFrame), "number {tried}");
            target.until_gone("server", "x").await;
            tried += 1;
        }
        target.assert_refused(&before, &[("server", Status::BadFrame, tried)]).await;
        assert_eq!(served.0.load(Ordering::SeqCst), 0);
        assert_eq!(conduits(target, "server").await, 0);
    });
}

#[test]
fn p_26_whoever_has_left_for_good_loses_the_conduits_that_run() {
    attack(async |target, _| {
        holding(target, "server").await;
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut y = RawPeer::registered(target, "server", "z").await;
        let (request, other) =
            (x.conduit_request("server", "task/fetch"), y.conduit_request("server", "task/fetch"));
        let (mut conduit, mut theirs) = (x.conduit(request).await, y.conduit(other).await);
        conduit.answer().await.expect("it is let in");
        theirs.answer().await.expect("it is let in");
        assert_eq!(conduits(target, "server").await, 2);
        let mut leave = x.request("server", "task/fetch");
        (leave.header.target, leave.header.lane) = (QUIT.into(), Lane::Control);
        leave.payload = Bytes::new();
        assert!(matches!(x.ask(leave).await, Outcome::Replied(_)));
        assert_eq!(conduit.reset_code().await, Some(1), "as lost");
        assert_eq!(conduits(target, "server").await, 1, "those of others go on");
    });
}

#[test]
fn a_conduit_before_the_registration_closes_the_connection() {
    attack(async |target, guard| {
        guard.expect("NO_HELLO");
        let served = holding(target, "server").await;
        let before = target.look().await;
        let mut x = RawPeer::connect(target, "server", "x").await;
        x.greet().await;
        let request = x.conduit_request("server", "task/fetch");
        let bytes = stream_of(&[Frame::Conduit(PLAIN), Frame::Message(request)]);
        let _stream = x.open_conduit(&bytes).await;
        assert_eq!(x.closed().await, Closed::unauthenticated());
        target.assert_refused(&before, &[("server", Status::NoHello, 1)]).await;
        assert_eq!(served.0.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_forged_origin_gets_no_answer_and_reaches_nobody() {
    attack(async |target, guard| {
        guard.expect("ORIGIN_MISMATCH");
        let served = holding(target, "server").await;
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let mut request = x.conduit_request("server", "task/fetch");
        request.header.origin = x.address_of("site-2");
        let mut forged = x.conduit(request).await;
        assert_eq!(forged.reset_code().await, Some(0), "nothing but a reset");
        target.assert_refused(&before, &[("server", Status::OriginMismatch, 1)]).await;
        assert_eq!(served.0.load(Ordering::SeqCst), 0);
        assert!(x.lives());
    });
}

#[test]
fn who_may_not_ask_is_told_on_the_stream_and_nobody_else_is() {
    attack(async |target, _| {
        let served = holding(target, "server").await;
        let mut x = RawPeer::registered(target, "server", "x").await;
        let request = x.conduit_request("server", "ops/deploy");
        let to = request.header.sequence;
        let answer = x.conduit(request).await.answer().await.expect("it is returned");
        let Kind::Return { to: answered, status, by } = answer.header.kind else {
            panic!("{:?}", answer.header)
        };
        assert_eq!((answered, status, by.as_str()), (to, Status::TopicDenied, "server"));
        x.settle(Lane::Bulk).await;
        assert!(x.unasked_messages().is_empty(), "not on a lane as well");
        assert_eq!(served.0.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn w_33_a_head_that_is_never_completed_holds_nothing_for_long() {
    attack(async |target, _| {
        let served = holding(target, "server").await;
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let request = x.conduit_request("server", "task/fetch");
        let whole = stream_of(&[Frame::Conduit(PLAIN), Frame::Message(request)]);
        let mut halves = Vec::new();
        for cut in (1..whole.len()).step_by(whole.len() / 16).take(16) {
            halves.push(x.open_conduit(&whole[..cut]).await.expect("a stream is granted"));
        }
        // Meanwhile the lanes are as alive as ever.
        x.settle(Lane::Interactive).await;
        for _ in 0..8 {
            x.beat().await;
            target.pass(Duration::from_secs(1)).await;
        }
        for half in &mut halves {
            assert!(half.reset_code().await.is_some(), "given up");
        }
        let count = u64::try_from(halves.len()).expect("few");
        target.assert_refused(&before, &[("server", Status::Deadline, count)]).await;
        assert_eq!(served.0.load(Ordering::SeqCst), 0);
        // And there is room for an honest one.
        drop(halves);
        let request = x.conduit_request("server", "task/fetch");
        assert!(x.conduit(request).await.answer().await.is_some());
    });
}

#[test]
fn g_21_thousands_of_conduits_hold_no_more_than_those_that_are_open() {
    attack(async |target, _| {
        let served = holding(target, "server").await;
        let mut x = RawPeer::registered(target, "server", "x").await;
        let mut opened = 0;
        for round in 0..2000 {
            let request = x.conduit_request("server", "task/fetch");
            let mut conduit = x.conduit(request).await;
            if round % 2 == 0 {
                assert!(conduit.answer().await.is_some());
            }
            opened += 1;
            assert!(conduits(target, "server").await <= 19);
        }
        assert_eq!(opened, 2000);
        // As many as are granted, and not one more.
        let mut open = Vec::new();
        while open.len() < 18 {
            let request = x.conduit_request("server", "task/fetch");
            let mut conduit = x.conduit(request).await;
            assert!(conduit.answer().await.is_some());
            open.push(conduit);
            let wait = Duration::from_millis(200);
            let next = tokio::time::timeout(wait, x.connection.open_bi());
            if open.len() >= 16 && next.await.is_err() {
                break;
            }
        }
        assert!(open.len() <= 18, "{}", open.len());
        x.settle(Lane::Interactive).await;
        drop(open);
        target.until("all have ended", async || conduits(target, "server").await == 0).await;
        assert!(served.0.load(Ordering::SeqCst) <= 2018);
    });
}

#[test]
fn an_answer_to_something_else_closes_the_link_and_is_no_answer() {
    attack(async |target, guard| {
        guard.expect("REPLY_UNSOLICITED");
        guard.tolerate("link closed");
        let mut x = RawPeer::registered(target, "server", "x").await;
        let bus = target.cell("site-2").bus();
        let ask = async {
            let outgoing = Outgoing {
                payload: Bytes::from_static(b"payload"),
                budget: Some(Duration::from_secs(5)),
                ..Outgoing::new("share/read".parse().expect("a topic"))
            };
            let to = "x".parse().expect("a name");
            bus.open_conduit(to, outgoing, ConduitOptions::default()).await
        };
        let lie = async {
            let (mut conduit, request) = x.conduit_in().await;
            let me = x.address_of("x");
            let kind = Kind::Reply { to: request.header.sequence + 1 };
            let sequence = x.next_sequence();
            let common = request.header.common.answer(&me, x.token.clone());
            let header = request.header.answer(kind, sequence, || std::sync::Arc::new(common));
            let header = header.expect("a request");
            let answer = cellbus_proto::envelope::Envelope { header, payload: Bytes::new() };
            let _ = conduit.send.write_all(&stream_of(&[Frame::Message(answer)])).await;
            x.closed().await
        };
        let (asked, closed) = tokio::join!(ask, lie);
        assert_eq!(closed, Closed::unauthenticated());
        let error = asked.expect_err("there was no answer");
        assert_eq!(error.status(), Status::PeerLost);
        assert_eq!(error.by().map(|by| by.as_str()), Some("server"));
        target.until_gone("server", "x").await;
    });
}
