//! Which cells a measure takes, and in which processes they run.

use std::{fmt::Write, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    measure::{Load, Measure, Route},
    message::{Peer, Role},
};

/// What is echoed.
pub const ECHO: &str = "bench/echo";
/// What is acknowledged without an answer.
pub const TAKE: &str = "bench/take";
/// Where objects move.
pub const OBJECT: &str = "bench/object";
/// What is answered when it is allowed.
pub const HOLD: &str = "bench/hold";
/// What is counted.
pub const COUNT: &str = "bench/count";

/// Starts that one row of `start` measures. Each is one of another cell, for a cell that comes back at
/// once, again and again, is told to wait.
pub const STARTS: u32 = 10;
/// Connections that one row of `connect` measures.
pub const CONNECTIONS: u32 = 50;

/// The part that a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The server: what is asked, or, for a fan and for messages from site to site, what passes on.
    Server,
    /// What stands between.
    Relay,
    /// What answers at the other site, or receives a fan.
    Sink,
    /// Cells that are connected and say nothing.
    Crowd,
    /// The cell to which job code speaks.
    JobCell,
    /// What asks.
    Caller,
}

/// What a measure takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Text of the topology.
    pub topology: String,
    /// The processes, in the order in which they are started; the last one is the caller, if it is to be
    /// started at all.
    pub parts: Vec<Part>,
    /// Full names of whom the caller asks.
    pub to: Vec<String>,
    /// Base names of those that ask, one after the other: the first one is next.
    pub callers: Vec<String>,
    crowd: Vec<String>,
    sinks: Vec<String>,
    relays: Vec<String>,
}

impl Scene {
    /// What `measure` takes.
    #[must_use]
    pub fn of(measure: Measure) -> Self {
        let numbered = |what: &str, count: u32| -> Vec<String> {
            (1..=count).map(|number| format!("{what}-{number}")).collect()
        };
        let mut parts = vec![Part::Server];
        let (mut crowd, mut sinks) = (Vec::new(), Vec::new());
        let mut to = vec!["server".to_owned()];
        let mut callers = vec!["caller".to_owned()];
        let relays = match (measure.route, measure.load) {
            (_, Load::Spread { relays: 2.., .. }) => numbered("relay", 2),
            (_, Load::Spread { relays: 1, .. }) | (Route::Relay, _) => vec!["relay".to_owned()],
            (Route::Direct | Route::Forward | Route::Job, _) => Vec::new(),
        };
        match measure.route {
            Route::Direct | Route::Relay | Route::Job => {}
            Route::Forward => {
                sinks = numbered("sink", 1);
                to.clone_from(&sinks);
            }
        }
        match measure.load {
            Load::Requests { cells, .. } => crowd = numbered("crowd", cells - 1),
            Load::Fan { receivers, .. } => {
                sinks = numbered("sink", receivers);
                to.clone_from(&sinks);
            }
            Load::Spread { receivers, .. } => {
                sinks = numbered("sink", receivers);
                let full = |(at, name): (usize, &String)| match above(&relays, at) {
                    Some(relay) => format!("{relay}.{name}"),
                    None => name.clone(),
                };
                to = sinks.iter().enumerate().map(full).collect();
            }
            Load::Idle { cells } => crowd = numbered("crowd", cells),
            Load::Connect => crowd = numbered("crowd", CONNECTIONS),
            Load::Start => callers = numbered("caller", STARTS),
            Load::Outstanding { .. } | Load::Publishes { .. } | Load::Bulk { .. } => {}
        }
        if !relays.is_empty() {
            parts.push(Part::Relay);
        }
        if !sinks.is_empty() {
            parts.push(Part::Sink);
        }
        if !crowd.is_empty() {
            parts.push(Part::Crowd);
        }
        if measure.route == Route::Job {
            parts.push(Part::JobCell);
        }
        match measure.load {
            Load::Requests { .. }
            | Load::Outstanding { .. }
            | Load::Publishes { .. }
            | Load::Bulk { .. }
            | Load::Start => parts.push(Part::Caller),
            Load::Fan { .. } | Load::Spread { .. } | Load::Connect | Load::Idle { .. } => {}
        }
        let topology = topology(measure, &relays, &callers, &[&sinks, &crowd]);
        Self { topology, parts, to, callers, crowd, sinks, relays }
    }

    /// Full names of those that ask.
    #[must_use]
    pub fn callers_full(&self) -> Vec<String> {
        let full = |name: &String| match self.relays.first() {
            Some(relay) => format!("{relay}.{name}"),
            None => name.clone(),
        };
        self.callers.iter().map(full).collect()
    }

    /// What the process with `part` is when `peer` carries the messages and the server, or what stands
    /// between, listens at `parent`.
    #[must_use]
    pub fn role(
        &self,
        measure: Measure,
        part: Part,
        peer: Peer,
        parent: Option<SocketAddr>,
    ) -> Role {
        let names = match part {
            Part::Server => vec!["server".to_owned()],
            Part::Relay => self.relays.clone(),
            Part::Sink => self.sinks.clone(),
            Part::Crowd => self.crowd.clone(),
            Part::JobCell | Part::Caller => self.callers.first().cloned().into_iter().collect(),
        };
        if part == Part::Crowd && measure.load == Load::Connect {
            return Role::Later { names, parent };
        }
        let first = names.first().cloned().unwrap_or_default();
        match (measure.route, part) {
            (Route::Job, Part::JobCell) => return Role::JobCell { name: first, parent },
            (Route::Job, Part::Caller) => return Role::JobCode,
            _ => {}
        }
        match (peer, part, parent) {
            (Peer::Cellbus, _, _) => Role::Cells { names },
            (_, Part::Relay, Some(parent)) if matches!(measure.load, Load::Spread { .. }) => {
                Role::HandsOut { name: first, parent }
            }
            (_, Part::Relay, Some(parent)) => Role::Relays { name: first, parent },
            (_, Part::Sink | Part::Crowd | Part::JobCell | Part::Caller, Some(parent)) => {
                Role::Dials { names, parent }
            }
            _ if measure.route == Route::Forward => Role::Turns { name: first },
            _ => Role::Answers { name: first },
        }
    }
}

/// The relay above the receiver with this number.
fn above(relays: &[String], number: usize) -> Option<&String> {
    relays.get(number.checked_rem(relays.len())?)
}

fn topology(
    measure: Measure,
    relays: &[String],
    callers: &[String],
    others: &[&[String]],
) -> String {
    let mut text = "[project]\nname = \"bench\"\ndev = true\n".to_owned();
    let mut cell = |name: &str, kind: &str, parent: Option<&str>| {
        let parent = parent.map(|parent| format!("parent = \"{parent}\"\n")).unwrap_or_default();
        let listen = if kind == "client" { "" } else { "listen = \"127.0.0.1:0\"\n" };
        let cell = format!("[[cell]]\nname = \"{name}\"\nkind = \"{kind}\"\n{parent}{listen}");
        text.push_str(&cell);
    };
    cell("server", "server", None);
    for relay in relays {
        cell(relay, "relay", Some("server"));
    }
    let first = relays.first().map_or("server", String::as_str);
    for name in callers {
        cell(name, "client", Some(first));
    }
    let is_spread = matches!(measure.load, Load::Spread { .. });
    for (number, name) in others.iter().copied().flatten().enumerate() {
        let relay = above(relays, number).filter(|_| is_spread);
        cell(name, "client", Some(relay.map_or("server", String::as_str)));
    }
    text.push_str(
        "[[allow]]\nfrom = \"*\"\nto = \"*\"\nchannel = \"bench\"\n\
         topics = [\"echo\", \"take\", \"count\", \"hold\", \"object\"]\n",
    );
    if let Load::Requests { callers, .. } | Load::Outstanding { requests: callers } = measure.load {
        // Every caller's request may be at its handler at the same time.
        let handlers = callers.saturating_mul(2).clamp(256, 65_536);
        let _ = write!(text, "[limits]\nhandlers_max = {handlers}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(name: &str) -> (Measure, Scene) {
        let measure = name.parse().expect("a measure");
        (measure, Scene::of(measure))
    }

    #[test]
    fn every_scene_is_a_topology() {
        for name in [
            "rr_64_c1",
            "relay_rr_64_c32",
            "fwd_rr_64_c1",
            "ff_64",
            "fwd_ff_64",
            "fan_3_64",
            "bulk_1MB_drop",
            "relay_bulk_1MB",
            "fwd_bulk_1MB",
            "fan_3_1MB",
            "fan_3_1MB_relay",
            "fan_3_1MB_relay2",
            "job_rr_64_c1",
            "outstanding_10000",
            "connect",
            "start",
            "idle_5",
            "rr_64_c10000_k1000",
        ] {
            let (_, scene) = scene(name);
            let read = cellbus_cells::config::read(name, &scene.topology);
            assert!(read.expect(name).warnings.is_none(), "{name}");
        }
    }

    #[test]
    fn whoever_is_asked_is_not_the_process_that_asks() {
        let (measure, scene) = scene("fwd_rr_64_c1");
        assert_eq!(scene.parts, [Part::Server, Part::Sink, Part::Caller]);
        assert_eq!(scene.to, ["sink-1"]);
        let server = scene.role(measure, Part::Server, Peer::RawRr, None);
        assert!(matches!(server, Role::Turns { .. }), "{server:?}");
    }

    #[test]
    fn job_code_is_a_process_of_its_own_and_its_cell_is_another() {
        let (measure, scene) = scene("job_rr_64_c1");
        assert_eq!(scene.parts, [Part::Server, Part::JobCell, Part::Caller]);
        let code = scene.role(measure, Part::Caller, Peer::Cellbus, None);
        assert!(matches!(code, Role::JobCode), "{code:?}");
    }

    #[test]
    fn receivers_are_shared_out_among_the_relays() {
        let (_, scene) = scene("fan_3_1MB_relay2");
        assert_eq!(scene.to, ["relay-1.sink-1", "relay-2.sink-2", "relay-1.sink-3"]);
        assert_eq!(scene.parts, [Part::Server, Part::Relay, Part::Sink]);
    }

    #[test]
    fn the_calling_cell_is_one_of_those_that_are_connected() {
        let (_, scene) = scene("rr_64_c32_k10");
        assert_eq!(scene.parts, [Part::Server, Part::Crowd, Part::Caller]);
        assert_eq!(scene.crowd.len(), 9);
    }
}
