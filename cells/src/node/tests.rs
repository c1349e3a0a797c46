//! Cells on threads of their own, of which one is kept from its work.

use std::{path::PathBuf, pin::pin, sync::mpsc, thread, time::Duration};

use cellbus_channels::{Class, Handler, Reply, RequestBuilder, apart, from_blocking_fn, from_fn};
use cellbus_runtime::{
    cell::CellState,
    host::RunningCell,
    stats::{LoopDelay, LoopReport},
};
use futures_util::poll;
use tokio::sync::oneshot;

use super::Node;
use crate::config;

const TOPOLOGY: &str = r#"
[project]
name = "blocked"
dev = true

[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:0"

[[cell]]
name = "site-1"
kind = "client"
parent = "server"

[[allow]]
from = "site-1"
to = "server"
channel = "ops"
topics = ["report"]
"#;
const PATIENCE: Duration = Duration::from_secs(30);
/// Less than the four seconds of silence after which a neighbour is given up.
const BLOCKED: Duration = Duration::from_millis(2500);
/// More than that.
const LONG: Duration = Duration::from_millis(5500);

fn node(root: PathBuf) -> Node {
    Node::prepare(config::read("blocked.toml", TOPOLOGY).unwrap().topology, root).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a handler that blocks is what is tested")]
fn block(span: Duration) {
    thread::sleep(span);
}

/// A handler that keeps the thread of its cell.
fn blocks(span: Duration) -> impl Handler {
    from_fn(move |delivery| {
        block(span);
        async move { Ok(Reply::from(delivery.payload)) }
    })
}

/// The server, on this thread, with a handler; until it is told to end. Says what became of its event loop.
async fn serve(
    root: PathBuf,
    handler: impl Handler,
    is_up: mpsc::Sender<()>,
    end: oneshot::Receiver<()>,
) -> LoopReport {
    let mut node = node(root);
    let cell = node.start("server").unwrap();
    cell.ready().await;
    let target: cellbus_channels::ChannelTopic = "ops/report".parse().unwrap();
    cell.running().bus().handle(target, handler).await.unwrap();
    let delay = LoopDelay::of_this_thread();
    is_up.send(()).unwrap();
    end.await.unwrap();
    let report = delay.report();
    assert!(cell.running().drain(PATIENCE).await);
    node.finish().await;
    report
}

/// What becomes of the server's event loop while a site, on a thread of its own, does `work`.
fn beside<F: Future<Output = ()>>(
    handler: impl Handler,
    work: impl FnOnce(RunningCell) -> F,
) -> LoopReport {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let (is_up, up) = mpsc::channel();
    let (end, ended) = oneshot::channel();
    let of_server = root.clone();
    let server = thread::spawn(move || {
        actix_rt::System::new().block_on(serve(of_server, handler, is_up, ended))
    });
    up.recv_timeout(PATIENCE).expect("the server starts");
    actix_rt::System::new().block_on(async move {
        let mut node = node(root);
        let cell = node.start("site-1").unwrap();
        tokio::time::timeout(PATIENCE, cell.ready()).await.expect("it registers");
        work(cell.running().clone()).await;
        assert!(cell.running().drain(PATIENCE).await);
        node.finish().await;
    });
    end.send(()).unwrap();
    server.join().expect("it does not panic")
}

fn report(site: &RunningCell) -> RequestBuilder {
    site.bus().request("server".parse().unwrap(), "ops/report".parse().unwrap()).payload("late")
}

fn ping(site: &RunningCell) -> RequestBuilder {
    site.bus().request("server".parse().unwrap(), "cell/ping".parse().unwrap())
}

#[test]
fn f_20_a_handler_that_blocks_is_measured_and_costs_no_neighbour_its_link() {
    let found = beside(blocks(BLOCKED), |site| async move {
        assert_eq!(report(&site).send().await.unwrap().payload, "late");
        ping(&site).send().await.expect("the server goes on");
        assert_eq!(site.own().epoch(), 1, "the link was not lost");
    });
    let longest = Duration::from_micros(found.recent_max_us);
    assert!(longest >= BLOCKED - Duration::from_millis(100), "the delay was seen: {longest:?}");
    assert_eq!(found.kept_by.as_deref(), Some("ops/report"), "and whose it was");
}

#[test]
fn f_20_a_handler_that_blocks_for_five_seconds_on_its_own_thread_delays_no_heartbeat() {
    let blocking = from_blocking_fn(|delivery| {
        block(LONG);
        Ok(Reply::from(delivery.payload))
    });
    delays_no_heartbeat(blocking);
    // The same of one that is async, and was not expected to block.
    delays_no_heartbeat(apart(blocks(LONG)));
}

fn delays_no_heartbeat(handler: impl Handler) {
    let found = beside(handler, |site| async move {
        let mut asked = pin!(report(&site).send());
        let mut pongs = 0;
        // The server answers while its handler blocks.
        while poll!(&mut asked).is_pending() && pongs < 20 {
            ping(&site).send().await.expect("the server goes on");
            pongs += 1;
        }
        assert!(pongs > 0, "the server did not answer meanwhile");
        assert_eq!(asked.await.unwrap().payload, "late");
        assert_eq!(site.own().epoch(), 1, "the link was not lost");
    });
    assert!(!found.is_red, "the handler kept nobody: {found:?}");
}

#[test]
fn f_20_a_cell_that_its_handler_keeps_for_five_seconds_is_missed_named_and_found_again() {
    let found = beside(blocks(LONG), |site| async move {
        let error = report(&site).send().await.unwrap_err();
        assert_eq!(error.class(), Class::Unknown, "it may have been executed: {error}");
        let back = async {
            while site.own().epoch() < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            site.wait_for(CellState::Ready).await;
        };
        tokio::time::timeout(PATIENCE, back).await.expect("the link comes back");
        ping(&site).send().await.expect("the server goes on");
    });
    assert!(Duration::from_micros(found.recent_max_us) >= LONG - Duration::from_millis(100));
    assert_eq!(found.kept_by.as_deref(), Some("ops/report"));
}
