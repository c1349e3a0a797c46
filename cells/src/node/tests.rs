//! Cells on threads of their own, of which one is kept from its work.

use std::{path::PathBuf, sync::mpsc, thread, time::Duration};

use cellbus_channels::{Reply, from_fn};
use cellbus_runtime::stats::LoopDelay;
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

fn node(root: PathBuf) -> Node {
    Node::prepare(config::read("blocked.toml", TOPOLOGY).unwrap().topology, root).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a handler that blocks is what is tested")]
fn block() {
    thread::sleep(BLOCKED);
}

/// The server, on this thread, with a handler that blocks it; until it is told to end. Gives the longest delay
/// of its event loop, in microseconds.
async fn serve(root: PathBuf, is_up: mpsc::Sender<()>, end: oneshot::Receiver<()>) -> u64 {
    let mut node = node(root);
    let cell = node.start("server").unwrap();
    cell.ready().await;
    let handler = from_fn(|delivery| {
        block();
        async move { Ok(Reply::from(delivery.payload)) }
    });
    let target: cellbus_channels::ChannelTopic = "ops/report".parse().unwrap();
    cell.running().bus().handle(target, handler).await.unwrap();
    let delay = LoopDelay::of_this_thread();
    is_up.send(()).unwrap();
    end.await.unwrap();
    let longest = delay.report().recent_max_us;
    assert!(cell.running().drain(PATIENCE).await);
    node.finish().await;
    longest
}

#[test]
fn f_20_a_handler_that_blocks_is_measured_and_costs_no_neighbour_its_link() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let (is_up, up) = mpsc::channel();
    let (end, ended) = oneshot::channel();
    let of_server = root.clone();
    let server =
        thread::spawn(move || actix_rt::System::new().block_on(serve(of_server, is_up, ended)));
    up.recv_timeout(PATIENCE).expect("the server starts");
    actix_rt::System::new().block_on(async move {
        let mut node = node(root);
        let cell = node.start("site-1").unwrap();
        tokio::time::timeout(PATIENCE, cell.ready()).await.expect("it registers");
        let server = || "server".parse().unwrap();
        let bus = cell.running().bus();
        let asked = bus.request(server(), "ops/report".parse().unwrap()).payload("late");
        assert_eq!(asked.send().await.unwrap().payload, "late");
        let pong = bus.request(server(), "cell/ping".parse().unwrap()).send().await;
        pong.expect("the server goes on");
        assert_eq!(cell.running().own().epoch(), 1, "the link was not lost");
        assert!(cell.running().drain(PATIENCE).await);
        node.finish().await;
    });
    end.send(()).unwrap();
    let longest = Duration::from_micros(server.join().expect("it does not panic"));
    assert!(longest >= BLOCKED - Duration::from_millis(100), "the delay was seen: {longest:?}");
}
