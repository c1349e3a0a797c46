//! Conduits: decided on as requests are, and then bytes both ways through every cell between.
//!
//! Every scenario is run over links in memory and over QUIC on a simulated network.

#[path = "conduits/cells.rs"]
mod cells;

use std::{collections::VecDeque, time::Duration};

use cellbus_channels::{Broken, Bytes, Status};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};
use cellbus_runtime::cell::CellState;

use self::cells::{Opened, Serving, open, open_with, read_all, serve, whole};

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
const MIB: usize = 1 << 20;

/// Runs `test` on both sorts of links.
fn scenario<F: Future<Output = ()>>(test: impl Fn(Net) -> F) {
    scenario_with(|_| {}, test);
}

fn scenario_with<F: Future<Output = ()>>(announce: fn(&LogGuard), test: impl Fn(Net) -> F) {
    for is_quic in [false, true] {
        let log = LogGuard::start();
        announce(&log);
        run_paused(1, async |seed| match is_quic {
            false => test(Net::up(seed, TREE).await).await,
            true => test(Net::over_quic(SimNet::new(seed), TREE).await).await,
        });
    }
}

#[test]
fn bytes_cross_every_cell_between_both_ways_and_in_order() {
    scenario(|net| async move {
        let heard = serve(&net, "site-3", Serving::Echo).await;
        let Opened { reply, mut conduit } = open(&net, "site-1", "site-3").await.unwrap();
        assert_eq!(&reply.payload[..], b"as asked");
        let sent = whole(3 * MIB);
        let mut chunks = VecDeque::from([sent.clone()]);
        let writing = async {
            conduit.send.write(&mut chunks).await.unwrap();
            conduit.send.finish();
        };
        let (read, ()) = tokio::join!(read_all(&mut conduit.recv), writing);
        let (read, end) = read;
        assert_eq!(end, Ok(()));
        assert!(read == sent, "{} bytes of {}", read.len(), sent.len());
        assert_eq!(heard.lock().unwrap().requests, ["relay.site-1 client org task/fetch"]);
        drop(conduit);
        net.finish().await;
    });
}

#[test]
fn bytes_that_follow_the_answer_at_once_are_not_lost() {
    scenario(|net| async move {
        serve(&net, "server", Serving::Give(whole(10))).await;
        for from in ["relay", "site-1"] {
            let Opened { mut conduit, .. } = open(&net, from, "server").await.unwrap();
            let (read, end) = read_all(&mut conduit.recv).await;
            assert_eq!((read, end), (whole(10), Ok(())), "{from}");
        }
        net.finish().await;
    });
}

#[test]
fn an_answer_is_heard_though_the_holder_lets_go_right_behind_it() {
    scenario(|net| async move {
        serve(&net, "server", Serving::LetGoAtOnce).await;
        for from in ["relay", "site-1"] {
            let Opened { reply, mut conduit } = open(&net, from, "server").await.unwrap();
            assert_eq!(&reply.payload[..], b"as asked", "{from}");
            let (read, end) = read_all(&mut conduit.recv).await;
            assert!(read.is_empty() && end.is_err(), "{from}: {end:?}");
        }
        net.advance(Duration::from_secs(2)).await;
        for cell in ["server", "relay", "site-1"] {
            assert!(net.cell(cell).running.own().conduits.is_empty(), "{cell}");
        }
        net.finish().await;
    });
}

#[test]
fn a_cell_opens_a_conduit_to_itself() {
    scenario(|net| async move {
        serve(&net, "server", Serving::Give(whole(2 * MIB))).await;
        let Opened { mut conduit, .. } = open(&net, "server", "server").await.unwrap();
        let (read, end) = read_all(&mut conduit.recv).await;
        assert!(read == whole(2 * MIB) && end == Ok(()));
        drop(conduit);
        net.finish().await;
    });
}

#[test]
fn what_is_refused_is_returned_on_its_stream_with_the_cell_that_said_so() {
    let announce = |log: &LogGuard| log.expect_panic("asked to panic");
    scenario_with(announce, |net| async move {
        let heard = serve(&net, "server", Serving::Echo).await;
        serve(&net, "site-2", Serving::Refuse(Status::TransferUnknown)).await;
        serve(&net, "relay", Serving::Panic).await;
        let cases = [
            ("server", "ops/deploy", Status::TopicDenied, "relay.site-1"),
            ("server", "task/register", Status::BadTarget, "relay.site-1"),
            ("server", "cellnet.channel/ping", Status::BadTarget, "relay.site-1"),
            ("site-3", "task/fetch", Status::NoHandler, "site-3"),
            ("relay.site-9", "task/fetch", Status::NoRoute, "relay"),
            ("relay.site-2", "task/fetch", Status::TransferUnknown, "relay.site-2"),
            ("relay", "task/fetch", Status::HandlerPanic, "relay"),
        ];
        for (to, target, status, by) in cases {
            let refused = open_with(&net, "site-1", to, target, |_| {}).await.unwrap_err();
            assert_eq!(refused.status(), status, "{to} {target}: {refused}");
            assert_eq!(refused.by().map(|by| by.as_str()), Some(by), "{to} {target}");
        }
        assert!(heard.lock().unwrap().requests.is_empty(), "nothing has come to a handler");
        net.finish().await;
    });
}

#[test]
fn whoever_gives_up_is_heard_at_the_other_end() {
    scenario(|net| async move {
        let heard = serve(&net, "site-3", Serving::Hold).await;
        let Opened { conduit, .. } = open(&net, "site-1", "site-3").await.unwrap();
        net.advance(Duration::from_secs(1)).await;
        drop(conduit);
        net.advance(Duration::from_secs(2)).await;
        assert_eq!(heard.lock().unwrap().ends, [Broken::Cancelled, Broken::Cancelled]);

        serve(&net, "site-2", Serving::LetGo).await;
        let Opened { mut conduit, .. } = open(&net, "site-1", "relay.site-2").await.unwrap();
        conduit.send.write_one(&b"now"[..]).await.unwrap();
        let (read, end) = read_all(&mut conduit.recv).await;
        assert_eq!((read.len(), end), (0, Err(Broken::Cancelled)));
        assert_eq!(conduit.send.broken().await, Broken::Cancelled);
        drop(conduit);
        net.finish().await;
    });
}

#[test]
fn f_33_a_conduit_that_stands_still_is_broken_off_everywhere_after_a_minute() {
    scenario(|net| async move {
        let heard = serve(&net, "server", Serving::Flood(whole(64 * MIB))).await;
        let Opened { mut conduit, .. } = open(&net, "site-1", "server").await.unwrap();
        let refused = |cell: &str| net.cell(cell).running.own().counters.refused(Status::Deadline);
        net.advance(Duration::from_secs(55)).await;
        assert!(heard.lock().unwrap().ends.is_empty(), "it may yet be read");
        net.advance(Duration::from_secs(20)).await;
        assert_eq!(heard.lock().unwrap().ends, [Broken::Lost]);
        let reports = net.inspect().await;
        assert_eq!((reports["server"].conduits, reports["relay"].conduits), (0, 0));
        assert!(refused("server") + refused("relay") >= 1, "nobody counted it");
        let (read, end) = read_all(&mut conduit.recv).await;
        assert!(read.len() < 64 * MIB);
        assert_eq!(end, Err(Broken::Lost));
        drop(conduit);
        net.finish().await;
    });
}

#[test]
fn a_conduit_on_which_a_byte_moves_now_and_then_is_left_alone() {
    scenario(|net| async move {
        serve(&net, "server", Serving::Echo).await;
        let Opened { mut conduit, .. } = open(&net, "site-1", "server").await.unwrap();
        for _ in 0..4 {
            net.advance(Duration::from_secs(45)).await;
            conduit.send.write_one(&b"."[..]).await.unwrap();
            let mut chunks = Vec::new();
            assert_eq!(conduit.recv.chunks(&mut chunks).await, Ok(true));
            assert_eq!(chunks.concat(), b".");
        }
        drop(conduit);
        net.advance(Duration::from_secs(1)).await;
        net.finish().await;
    });
}

#[test]
fn one_direction_may_end_before_the_other() {
    scenario(|net| async move {
        serve(&net, "server", Serving::Echo).await;
        let Opened { mut conduit, .. } = open(&net, "site-1", "server").await.unwrap();
        conduit.recv.stop();
        drop(conduit.recv);
        net.advance(Duration::from_secs(1)).await;
        // The echo finds nobody listening, and lets go.
        let sent = conduit.send.write_one(whole(100)).await;
        let end = conduit.send.broken().await;
        assert_eq!(
            (sent.is_ok() || sent == Err(Broken::Cancelled), end),
            (true, Broken::Cancelled)
        );
        drop(conduit.send);
        net.finish().await;
    });
}

#[test]
fn a_reader_that_does_not_read_holds_the_writer_and_nobody_else() {
    scenario(|net| async move {
        net.cell("server").echoes("task/ping").await;
        serve(&net, "server", Serving::Hold).await;
        let Opened { mut conduit, .. } = open(&net, "site-1", "server").await.unwrap();
        let mut chunks: VecDeque<Bytes> = (0..64).map(|_| whole(MIB)).collect();
        let writing = tokio::time::timeout(Duration::from_secs(5), conduit.send.write(&mut chunks));
        assert!(writing.await.is_err(), "all was taken though nothing is read");
        let taken = 64 * MIB - chunks.iter().map(Bytes::len).sum::<usize>();
        // What is sent and not acknowledged, what is unread, and what the relay holds in between.
        assert!(taken <= 20 * MIB, "{taken} bytes were taken");
        let reply = net.cell("site-1").request("server", "task/ping", "alive").await;
        assert_eq!(reply.as_deref().ok(), Some("alive"));
        drop(conduit);
        net.finish().await;
    });
}

#[test]
fn a_lost_link_breaks_what_crosses_it_at_both_ends() {
    for is_quic in [false, true] {
        let log = LogGuard::start();
        log.tolerate("link");
        run_paused(1, async |seed| {
            let mut net = match is_quic {
                false => Net::up(seed, TREE).await,
                true => Net::over_quic(SimNet::new(seed), TREE).await,
            };
            let heard = serve(&net, "site-3", Serving::Hold).await;
            let Opened { mut conduit, .. } = open(&net, "site-1", "site-3").await.unwrap();
            net.crash("relay").await;
            let (_, end) = read_all(&mut conduit.recv).await;
            assert_eq!(end, Err(Broken::Lost));
            assert_eq!(conduit.send.broken().await, Broken::Lost);
            net.advance(Duration::from_secs(30)).await;
            assert_eq!(heard.lock().unwrap().ends, [Broken::Lost, Broken::Lost]);
            drop(conduit);
            net.restart("relay");
            net.wait_ready(Duration::from_secs(60)).await;
            let again = open(&net, "site-1", "site-3").await;
            assert!(again.is_ok(), "{again:?}");
            drop(again);
            net.finish().await;
        });
    }
}

#[test]
fn a_request_whose_answer_does_not_come_ends_with_its_budget() {
    scenario(|net| async move {
        let heard = serve(&net, "site-3", Serving::Never).await;
        let begun = tokio::time::Instant::now();
        let late = open(&net, "site-1", "site-3").await.unwrap_err();
        assert_eq!(late.status(), Status::Deadline, "{late}");
        assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
        assert_eq!(heard.lock().unwrap().requests.len(), 1);
        net.finish().await;
    });
}

#[test]
fn f_33_one_more_than_there_are_places_waits_by_priority_and_within_its_budget() {
    scenario(|net| async move {
        serve(&net, "server", Serving::Hold).await;
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(open(&net, "relay", "server").await.unwrap());
        }
        let full = open(&net, "relay", "server").await.unwrap_err();
        assert_eq!(full.status(), Status::Overloaded);
        let pong = net.cell("relay").request("server", "cell/ping", "p").await;
        assert!(pong.is_ok(), "control goes on: {pong:?}");
        let relay = net.cell("relay").clone();
        let later = |priority: u8| {
            let relay = relay.clone();
            tokio::task::spawn_local(async move {
                let opened = cells::open_at(&relay, "server", "task/fetch", |options| {
                    options.priority = priority;
                });
                let opened = opened.await;
                (tokio::time::Instant::now(), opened)
            })
        };
        let (low, high) = (later(1), later(200));
        net.advance(Duration::from_secs(1)).await;
        held.pop();
        net.advance(Duration::from_secs(1)).await;
        assert!(high.is_finished() && !low.is_finished());
        held.pop();
        let (_, low) = low.await.unwrap();
        assert!(low.is_ok(), "{low:?}");
        drop((held, high.await, low));
        net.finish().await;
    });
}

#[test]
fn a_draining_cell_takes_no_new_conduit_and_lets_those_that_run_end() {
    scenario(|mut net| async move {
        serve(&net, "server", Serving::Echo).await;
        let Opened { mut conduit, .. } = open(&net, "site-1", "server").await.unwrap();
        let (other, relay) = (net.cell("site-2").clone(), net.cell("relay").clone());
        let rest = tokio::task::spawn_local(async move {
            relay.running.wait_for(CellState::Draining).await;
            let refused = cells::open_at(&other, "server", "task/fetch", |_| {}).await;
            let status = refused.unwrap_err().status();
            // Nothing is to happen meanwhile: what runs is not cut off.
            tokio::time::sleep(Duration::from_secs(2)).await;
            conduit.send.write_one(&b"last words"[..]).await.unwrap();
            conduit.send.finish();
            (status, read_all(&mut conduit.recv).await)
        });
        // Fails where it had to be cut off.
        net.drain("relay").await;
        let (status, (read, end)) = rest.await.unwrap();
        assert!(matches!(status, Status::Draining), "{status:?}");
        assert_eq!((&read[..], end), (&b"last words"[..], Ok(())));
        net.restart("relay");
        net.wait_ready(Duration::from_secs(60)).await;
        net.finish().await;
    });
}

#[test]
fn a_cell_that_stops_breaks_its_conduits() {
    scenario(|mut net| async move {
        serve(&net, "site-3", Serving::Hold).await;
        let Opened { mut conduit, .. } = open(&net, "site-1", "site-3").await.unwrap();
        net.crash("site-3").await;
        net.advance(Duration::from_secs(30)).await;
        let (_, end) = read_all(&mut conduit.recv).await;
        assert_eq!(end, Err(Broken::Lost));
        drop(conduit);
        net.restart("site-3");
        net.wait_ready(Duration::from_secs(60)).await;
        net.finish().await;
    });
}
