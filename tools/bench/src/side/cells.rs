//! Cells as the measured process: started as `up` starts them, and used through the bus that
//! applications use.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cellbus_cells::node::{Node, NodeCell};
use cellbus_channels::{
    Bus, ChannelTopic, Fqcn, HandlerOptions, PublishError, Reply, from_fn, from_sync_fn,
};
use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::{Inbox, SideError, job, objects::Objects, say};
use crate::{
    count::Counter,
    drive::{Call, Pace, Times, closed_loop, payload},
    hold::Hold,
    message::{Ask, Driven, Role, SideSpec, Tell},
    scene::{COUNT, ECHO, HOLD, TAKE},
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
    let objects = Objects::new(directory.clone());
    let hold = Hold::default();
    let (cells, later) = (Vec::new(), Vec::new());
    let mut process = Process { node, cells, counter, hold, later, objects, directory };
    match spec.role {
        Role::Cells { names } => process.start(names).await?,
        Role::JobCell { name, .. } => {
            process.start(vec![name]).await?;
            job::wait_for_code(&process.directory, process.bus()?)?;
        }
        Role::Later { names, .. } => process.later = names,
        Role::Answers { .. }
        | Role::Relays { .. }
        | Role::HandsOut { .. }
        | Role::Turns { .. }
        | Role::Dials { .. }
        | Role::JobCode => {
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
    hold: Hold,
    later: Vec<String>,
    objects: Objects,
    directory: PathBuf,
}

/// A request of an application and its reply.
#[derive(Clone, Debug)]
pub(super) struct CellCall {
    bus: Bus,
    to: Fqcn,
    target: ChannelTopic,
}

impl CellCall {
    /// Requests over `bus` to the first of `to`, which echoes them.
    pub(super) fn echo(bus: Bus, to: &[String]) -> Result<Self, SideError> {
        let to = to.first().ok_or_else(|| SideError::text("nobody is asked"))?;
        Ok(Self { bus, to: name(to)?, target: target(ECHO)? })
    }
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
        let echo = from_sync_fn(|delivery| Ok(Reply::from(delivery.payload.clone())));
        let take = from_sync_fn(|_| Ok(Reply::default()));
        let count = from_sync_fn(move |_| {
            counter.add(1);
            Ok(Reply::default())
        });
        bus.handle(target(ECHO)?, echo).await.map_err(SideError::new)?;
        bus.handle(target(TAKE)?, take).await.map_err(SideError::new)?;
        let hold = self.hold.clone();
        let held = from_fn(move |_| {
            let hold = hold.clone();
            async move {
                hold.wait().await;
                Ok(Reply::default())
            }
        });
        let at_once = HandlerOptions::concurrent(u32::MAX);
        bus.handle_with(target(HOLD)?, at_once, held).await.map_err(SideError::new)?;
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
                Ask::Wait { to, size, count } => {
                    let (to, target) = (name(&to)?, target(HOLD)?);
                    let call = CellCall { bus: self.bus()?, to, target };
                    say(&Tell::Driven(wait(&call, payload(size)?, count).await));
                }
                Ask::Holding { count } => {
                    let held = tokio::time::timeout(READY, self.hold.until(count)).await;
                    held.map_err(|_| SideError::text(format!("fewer than {count} came")))?;
                    say(&Tell::Begun);
                }
                Ask::Release => {
                    self.hold.release();
                    say(&Tell::Begun);
                }
                Ask::Once { to, size } => {
                    let call = CellCall::echo(self.bus()?, &[to])?;
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
        let begun = || say(&Tell::Begun);
        if fan {
            let to: Result<Vec<Fqcn>, SideError> = to.iter().map(|to| name(to)).collect();
            let call = FanCall { bus, to: to?, target: target(TAKE)? };
            return Ok(closed_loop(call, payload, pace, begun).await);
        }
        Ok(closed_loop(CellCall::echo(bus, to)?, payload, pace, begun).await)
    }

    /// One publisher, which goes on as soon as its cell has taken a message.
    async fn send(&self, to: Fqcn, payload: Bytes, window: Duration) -> Result<Tell, SideError> {
        /// Messages between two looks at the clock.
        const STRIDE: u64 = 16;
        let (bus, target) = (self.bus()?, target(COUNT)?);
        let (mut sent, mut refused) = (0, 0);
        let mut publisher = bus.request(to, target).publisher();
        let from = Instant::now();
        while from.elapsed() < window {
            for _ in 0..STRIDE {
                match publisher.publish_slice(&payload).await {
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

/// As many calls at the same time as there are to be, each until its end.
async fn wait(call: &CellCall, payload: Bytes, count: u32) -> Driven {
    let begun = Instant::now();
    let mut waiting = JoinSet::new();
    for _ in 0..count {
        let (call, payload) = (call.clone(), payload.clone());
        waiting.spawn(async move { call.call(payload).await });
    }
    let (mut done, mut failed, mut why) = (0, 0, None);
    while let Some(ended) = waiting.join_next().await {
        match ended.map_err(|error| error.to_string()).flatten() {
            Ok(_) => done += 1,
            Err(error) => {
                failed += 1;
                why.get_or_insert(error);
            }
        }
    }
    let window_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Driven { done, failed, why, window_ns, ..Driven::default() }
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
