//! A server, a relay and two sites below it, each a process of its own.

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Answer, Place, Running, SOON, place::own_address, until};

/// The processes, by base name of their cell.
pub struct Federation {
    /// Where it all happens.
    pub place: Place,
    file: PathBuf,
    /// Control groups that cells are started in.
    pub groups: BTreeMap<&'static str, PathBuf>,
    running: BTreeMap<&'static str, Running>,
    /// Words that say how much cells log.
    pub log: &'static [&'static str],
    kept: Vec<Running>,
    occupied: Vec<UdpSocket>,
}

impl Federation {
    /// Base names of its cells.
    pub const CELLS: [&'static str; 4] = ["server", "relay-a", "site-1", "site-2"];

    /// The topology file, with cells that listen on these addresses and more tables at its end.
    pub fn topology(server: &str, relay: &str, more: &str) -> String {
        format!(
            r#"
[project]
name = "study"
dev = true

[[cell]]
name = "server"
kind = "server"
listen = "{server}"

[[cell]]
name = "relay-a"
kind = "relay"
parent = "server"
listen = "{relay}"

[[cell]]
name = "site-1"
kind = "client"
parent = "relay-a"

[[cell]]
name = "site-2"
kind = "client"
parent = "relay-a"

[[allow]]
from = "site-*"
to = "server"
channel = "ops"
topics = ["report"]

{more}
"#
        )
    }

    /// Full name of a cell.
    pub fn full_name(cell: &str) -> String {
        match cell {
            "site-1" | "site-2" => format!("relay-a.{cell}"),
            other => other.to_owned(),
        }
    }

    /// A place and a file, and no cell that runs. Cells listen on addresses that stay the same when they
    /// are started again. `more` are tables for the topology file.
    pub fn prepare(more: &str) -> Self {
        Self::of_text(&Self::topology(&own_address(), &own_address(), more))
    }

    fn of_text(text: &str) -> Self {
        let place = Place::new();
        let file = place.write("study.toml", text);
        let (running, kept, occupied) = (BTreeMap::new(), Vec::new(), Vec::new());
        let groups = BTreeMap::new();
        Self { place, file, running, groups, log: &["-v"], kept, occupied }
    }

    /// All cells, started at once and registered.
    pub fn up() -> Self {
        Self::up_with("")
    }

    /// As [`up`](Self::up), with more tables for the topology file.
    pub fn up_with(more: &str) -> Self {
        Self::prepare(more).started()
    }

    /// As [`up`](Self::up), where the kernel chooses the ports, anew for every start.
    pub fn up_on_any_port() -> Self {
        Self::of_text(&Self::topology("127.0.0.1:0", "127.0.0.1:0", "")).started()
    }

    /// All cells, started at once and registered.
    pub fn started(mut self) -> Self {
        for cell in Self::CELLS {
            self.start(cell);
        }
        for cell in Self::CELLS {
            self.wait_ready(cell);
        }
        self
    }

    /// The topology file.
    pub fn file(&self) -> &str {
        self.file.to_str().expect("temporary paths are text")
    }

    /// Starts the process of `cell`.
    pub fn start(&mut self, cell: &'static str) {
        let state = self.place.state();
        let state = state.to_str().expect("temporary paths are text");
        let arguments = ["up", self.file(), "--only", cell, "--state", state, "-o", "jsonl"];
        let arguments = [&arguments, self.log].concat();
        let running = match self.groups.get(cell) {
            Some(group) => {
                let enter = format!("echo 0 > {}/cgroup.procs", group.display());
                Running::start(self.place.command_after(&enter, &arguments))
            }
            None => self.place.start(&arguments),
        };
        self.running.insert(cell, running);
    }

    /// The process of `cell`.
    pub fn of(&self, cell: &str) -> &Running {
        &self.running[cell]
    }

    /// Takes the process of `cell` out, to wait for its end.
    pub fn take(&mut self, cell: &str) -> Running {
        self.running.remove(cell).expect("it was started")
    }

    /// Waits until `cell` says that it is registered.
    pub fn wait_ready(&self, cell: &str) {
        self.of(cell).wait_event("ready", &Self::full_name(cell));
    }

    /// Kills the process of `cell`.
    pub fn kill(&mut self, cell: &str) {
        let below = self.take(cell).kill();
        assert!(below.0.is_empty(), "a cell without jobs starts nothing: {below:?}");
    }

    /// Keeps a process until the end of the test.
    pub fn keep(&mut self, running: Running) {
        self.kept.push(running);
    }

    /// Where `cell` said that it listens.
    pub fn address(&self, cell: &str) -> String {
        let started = self.of(cell).wait_event("started", &Self::full_name(cell));
        started["address"].as_str().unwrap_or_else(|| panic!("{started}")).to_owned()
    }

    /// Takes an address that a process had which is gone, so that no other can have it.
    pub fn occupy(&mut self, address: &str) {
        self.occupied.push(UdpSocket::bind(address).expect("who had it is gone"));
    }

    /// Asks `at`.
    pub fn ask(&self, at: &str, arguments: &[&str]) -> Answer {
        self.place.ask_cell(&[arguments, &["--at", at]].concat())
    }

    /// The status of `cell`.
    pub fn status(&self, cell: &str) -> Value {
        self.ask(cell, &["status"]).data()
    }

    /// How often `cell` has been started, as it says itself.
    pub fn starts_of(&self, cell: &str) -> u64 {
        let status = self.status(cell);
        let counter = status["incarnation"].as_str().and_then(|text| text.split('-').next());
        counter.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{status}"))
    }

    /// What `at` says of its neighbour `cell`, if it has a link to it.
    pub fn peer(&self, at: &str, cell: &str) -> Option<Value> {
        let rows = self.ask(at, &["peers"]).data();
        let name = Self::full_name(cell);
        let rows = rows.as_array().expect("peers are rows");
        rows.iter().find(|row| row["name"] == name.as_str()).cloned()
    }

    /// Whether a ping of `at` to `to` is answered.
    pub fn pings(&self, at: &str, to: &str) -> bool {
        let to = Self::full_name(to);
        self.ask(at, &["ping", &to, "--count", "1", "--budget", "2s"]).exit == 0
    }

    /// Waits until every cell reaches the server and the server reaches every cell, and says how long it took.
    pub fn wait_whole(&self) -> Duration {
        let begun = Instant::now();
        for cell in Self::CELLS.into_iter().filter(|cell| *cell != "server") {
            until(&format!("{cell} reaches the server"), SOON, || {
                self.pings(cell, "server").then_some(())
            });
            until(&format!("the server reaches {cell}"), SOON, || {
                self.pings("server", cell).then_some(())
            });
        }
        begun.elapsed()
    }
}
