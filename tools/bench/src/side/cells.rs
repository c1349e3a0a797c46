//! Cells as the measured process: started as `up` starts them, and used through the bus that
//! applications use.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cellbus_cells::node::{Node, NodeCell};
use cellbus_channels::{Bus, ChannelTopic, Delivery, Fqcn, PublishError, Reply, from_fn};
use futures_util::future::join_all;

use super::{Inbox, SideError, objects::Objects, say};
use crate::{
    count::Counter,
    drive::{Call, Pace, Times, closed_loop, payload},
    message::{Ask, Driven, Role, SideSpec, Tell},
    scene::{COUNT, ECHO, TAKE},
};

/// Time for a cell to register.
const READY: Duration = Duration::from_secs(60);
/// Time for what is still running when nobody asks any more.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs as `spec` says until nobody asks any more.
///
/// # Errors
/// [`SideError`].
pub async fn run(spec: SideSpec, inbox: Inbox) -> Result<(), SideError> {
    let topology = cellbus_cells::config::read("bench.toml", &spec.topology);
    let topology = topology.map_err(SideError::new)?.topology;
    let directory = spec.state.parent().unwrap_or(&spec.state).to_owned();
    let node = Node::prepare(topology, spec.state).map_err(SideError::new)?;
    let counter = Counter::default();
    let objects = Objects::new(directory);
    let mut process = Process { node, cells: Vec::new(), counter, later: Vec::new(), objects };
    match spec.role {
        Role::Cells { names } => process.start(names).await?,
        Role::Later { names, .. } => process.later = names,
        Role::Answers { .. } | Role::Relays { .. } | Role::Turns { .. } | Role::Dials { .. } => {
            return Err(SideError::text("cells are told their names and nothing else"));
        }
    }
    say(&Tell::Ready { address: process.cells.first().and_then(|cell| cell.running().address()) });
    process.obey(inbox).await
}

struct Process {
    node: Node,
    cells: Vec<NodeCell>,
    counter: Counter,
    later: Vec<String>,
    objects: Objects,
}

#[derive(Clone, Debug)]
struct CellCall {
    bus: Bus,
    to: Fqcn,
    target: ChannelTopic,
}

#[derive(Clone, Debug)]
struct FanCall {
    bus: Bus,
    to: Vec<Fqcn>,
    target: ChannelTopic,
}

impl Call for CellCall {
    async fn call(&self, payload: Bytes) -> Result<Bytes, String> {
        let request = self.bus.request(self.to.clone(), self.target.clone()).payload(payload);
        request.send().await.map(|reply| reply.payload).map_err(|error| error.to_string())
    }
}

impl Call for FanCall {
    async fn call(&self, payload: Bytes) -> Result<Bytes, String> {
        let message = self.bus.multicast(self.to.clone(), self.target.clone()).payload(payload);
        let mut outcomes = message.send().await;
        while let Some((_, outcome)) = outcomes.next().await {
            outcome.map_err(|error| error.to_string())?;
        }
        Ok(Bytes::new())
    }

    fn answer_len(&self, _: usize) -> usize {
        0
    }
}

impl Process {
    /// Starts cells and waits until all of them are ready.
    async fn start(&mut self, names: Vec<String>) -> Result<(), SideError> {
        for name in names {
            let cell = self.node.start(&name).map_err(SideError::new)?;
            self.answer(&cell).await?;
            self.cells.push(cell);
        }
        for cell in &self.cells {
            await_ready(cell).await?;
        }
        Ok(())
    }

    /// Every cell answers, whether or not it is asked.
    async fn answer(&self, cell: &NodeCell) -> Result<(), SideError> {
        let bus = cell.running().bus();
        let counter = self.counter.clone();
        let echo = from_fn(|delivery: Delivery| async move { Ok(Reply::from(delivery.payload)) });
        let take = from_fn(|_| async move { Ok(Reply::default()) });
        let count = from_fn(move |_| {
            counter.add(1);
            std::future::ready(Ok(Reply::default()))
        });
        bus.handle(target(ECHO)?, echo).await.map_err(SideError::new)?;
        bus.handle(target(TAKE)?, take).await.map_err(SideError::new)?;
        bus.handle(target(COUNT)?, count).await.map_err(SideError::new)
    }

    async fn obey(mut self, mut inbox: Inbox) -> Result<(), SideError> {
        while let Some(ask) = inbox.recv().await {
            match ask {
                Ask::Drive { to, fan, size, callers, warm_ms, window_ms } => {
                    let warm = Duration::from_millis(warm_ms);
                    let pace = Pace { callers, warm, window: Duration::from_millis(window_ms) };
                    let driven = self.drive(&to, fan, payload(size)?, pace).await?;
                    say(&Tell::Driven(driven));
                }
                Ask::Once { to, size } => {
                    let call = CellCall { bus: self.bus()?, to: name(&to)?, target: target(ECHO)? };
                    call.call(payload(size)?).await?;
                    say(&Tell::Driven(Driven::default()));
                }
                Ask::Send { to, size, window_ms } => {
                    let window = Duration::from_millis(window_ms);
                    say(&self.send(name(&to)?, payload(size)?, window).await?);
                }
                Ask::Settle { sent } => say(&self.counter.settle(sent).await),
                Ask::Connect => say(&Tell::Driven(self.connect().await?)),
                Ask::Object(ask) => self.objects.obey(ask, &self.cells).await?,
            }
        }
        self.drain().await;
        Ok(())
    }

    /// Says bye, so that the next process finds the names free.
    async fn drain(self) {
        let draining = self.cells.iter().map(|cell| cell.running().drain(DRAIN));
        join_all(draining).await;
        self.node.finish().await;
    }

    fn bus(&self) -> Result<Bus, SideError> {
        let first = self.cells.first().map(|cell| cell.running().bus());
        first.ok_or_else(|| SideError::text("there is no cell"))
    }

    async fn drive(
        &self,
        to: &[String],
        fan: bool,
        payload: Bytes,
        pace: Pace,
    ) -> Result<Driven, SideError> {
        let bus = self.bus()?;
        let to: Result<Vec<Fqcn>, SideError> = to.iter().map(|to| name(to)).collect();
        let to = to?;
        let begun = || say(&Tell::Begun);
        if fan {
            let call = FanCall { bus, to, target: target(TAKE)? };
            return Ok(closed_loop(call, payload, pace, begun).await);
        }
        let to = to.into_iter().next().ok_or_else(|| SideError::text("nobody is asked"))?;
        let call = CellCall { bus, to, target: target(ECHO)? };
        Ok(closed_loop(call, payload, pace, begun).await)
    }

    /// One publisher, which goes on as soon as its cell has taken a message.
    async fn send(&self, to: Fqcn, payload: Bytes, window: Duration) -> Result<Tell, SideError> {
        /// Messages between two looks at the clock.
        const STRIDE: u64 = 16;
        let (bus, target) = (self.bus()?, target(COUNT)?);
        let (mut sent, mut refused) = (0, 0);
        let from = Instant::now();
        while from.elapsed() < window {
            for _ in 0..STRIDE {
                let message = bus.request(to.clone(), target.clone()).payload(payload.clone());
                match message.publish().await {
                    Ok(()) => sent += 1,
                    Err(PublishError::Refused { status, .. }) if status.is_transient() => {
                        refused += 1;
                        tokio::task::yield_now().await;
                    }
                    Err(error) => return Err(SideError::new(error)),
                }
            }
        }
        Ok(Tell::Sent { sent, refused })
    }

    async fn connect(&mut self) -> Result<Driven, SideError> {
        let mut times = Times::new();
        let begun = Instant::now();
        for name in std::mem::take(&mut self.later) {
            let from = Instant::now();
            let cell = self.node.start(&name).map_err(SideError::new)?;
            await_ready(&cell).await?;
            times.add(from.elapsed());
            self.cells.push(cell);
        }
        Ok(times.driven(begun.elapsed()))
    }
}

async fn await_ready(cell: &NodeCell) -> Result<(), SideError> {
    let late = |_| SideError::text(format!("{} did not register", cell.name()));
    tokio::time::timeout(READY, cell.ready()).await.map_err(late)
}

fn name(text: &str) -> Result<Fqcn, SideError> {
    text.parse().map_err(SideError::new)
}

fn target(text: &str) -> Result<ChannelTopic, SideError> {
    text.parse().map_err(SideError::new)
}
