//! Requests between cells of one tree, while something is changed below them.

use std::{cell::Cell, rc::Rc, time::Duration};

use cellbus_harness::net::Net;

/// The tree.
pub const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";
/// Who asks whom. Those who are asked serve `task/ping`.
pub const PAIRS: [(&str, &str); 6] = [
    ("site-1", "server"),
    ("server", "relay.site-1"),
    ("site-2", "relay.site-1"),
    ("site-3", "relay.site-1"),
    ("site-1", "relay"),
    ("relay", "site-3"),
];

/// Tasks that run until they are told to stop, each counting something.
pub struct Tasks {
    pub stop: Rc<Cell<bool>>,
    pub running: Vec<tokio::task::JoinHandle<u32>>,
}

impl Tasks {
    /// Requests between every pair, one after the other. Each has to be answered.
    pub fn load(net: &Net, every: Duration) -> Self {
        let stop = Rc::new(Cell::new(false));
        let one = |(from, to): (&'static str, &'static str)| {
            let (cell, stop) = (net.cell(from).clone(), Rc::clone(&stop));
            tokio::task::spawn_local(async move {
                let mut answered = 0;
                let mut turns = tokio::time::interval(every);
                while !stop.get() {
                    turns.tick().await;
                    let reply = cell.request(to, "task/ping", "hi").await;
                    assert_eq!(reply.expect("no request fails"), "hi", "{from} -> {to}");
                    answered += 1;
                }
                answered
            })
        };
        Self { running: PAIRS.map(one).into(), stop }
    }

    /// What each has counted; panics where one of them did.
    pub async fn stop(self) -> Vec<u32> {
        self.stop.set(true);
        let mut counts = Vec::new();
        for one in self.running {
            counts.push(one.await.expect("it does not fail"));
        }
        counts
    }
}
