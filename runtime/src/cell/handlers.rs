//! Messages for the handlers of this cell, from their arrival to their one end.
//!
//! ```text
//!  admitted ─▶ known? ─▶ batch? ─▶ filters ─▶ room? ─▶ its turn? ─▶ handler ─▶ filters ─▶ answer
//!             (dedupe)  (split)   (RequestIn) (load)   (order)                (ReplyOut)
//! ```
//! A handler is polled once where it is: if it is ready then, nothing of the message is kept anywhere.
//! Only what is not ready costs a task, and only what waits its turn a place in a queue.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use cellbus_channels::Line;
use cellbus_proto::{
    breaker::Breaker,
    dedupe::{Dedupe, DedupeLimits},
    envelope::Header,
    load::{Amount, Load},
    name::{Channel, ChannelTopic, Fqcn},
    order::Order,
};

mod accept;
mod answer;
mod batch;
mod bundle;
mod cancel;
mod run;
mod stream;
mod table;

pub(super) use self::table::Registration;
use self::{
    answer::Answer,
    batch::Batch,
    run::{Running, Work},
    stream::Held,
};
pub use self::{
    run::{HandlerDone, Resume},
    stream::HandlerReply,
    table::HandlerTable,
};

/// What the handlers of a cell may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerLimits {
    /// Messages that are being handled or wait for their turn.
    pub running: usize,
    /// Bytes that they are counted as: payloads, and 256 for each.
    pub bytes: usize,
}

impl Default for HandlerLimits {
    fn default() -> Self {
        Self { running: 4096, bytes: 64 << 20 }
    }
}

/// What is in order: all that one start of a cell sends on one channel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LaneKey {
    counter: u64,
    nonce: u64,
    origin: Fqcn,
    channel: Channel,
}

impl LaneKey {
    fn of(request: &Header) -> Self {
        let start = request.origin.incarnation;
        Self {
            counter: start.map_or(0, |start| start.counter),
            nonce: start.map_or(0, |start| start.nonce),
            origin: request.origin.name.clone(),
            channel: request.target.channel().clone(),
        }
    }
}

/// The handlers of a cell, and what they hold.
#[derive(Debug)]
pub(super) struct Handlers {
    table: HandlerTable,
    order: Order<LaneKey>,
    load: Load<Fqcn>,
    dedupe: Dedupe<Answer>,
    breaker: Breaker,
    waiting: BTreeMap<u64, Work>,
    running: BTreeMap<u64, Running>,
    /// What waits or runs, by the nonce of its origin's start and its sequence number there.
    by_request: BTreeSet<(u64, u64, u64)>,
    /// Bytes that wait, by the number of the registration.
    queued: BTreeMap<usize, usize>,
    batches: BTreeMap<u64, Batch>,
    held: VecDeque<Held>,
    looks_again: bool,
    swept: Option<Instant>,
    last: u64,
    lines: Vec<Line>,
}

impl Handlers {
    /// Lines that are kept for the next messages.
    const LINES_MAX: usize = 16;

    pub(super) fn new(table: HandlerTable, limits: HandlerLimits) -> Self {
        let limit = Amount { messages: limits.running, bytes: limits.bytes };
        Self {
            table,
            order: Order::default(),
            load: Load::new(limit),
            dedupe: Dedupe::new(DedupeLimits::default()),
            breaker: Breaker::default(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            by_request: BTreeSet::new(),
            queued: BTreeMap::new(),
            batches: BTreeMap::new(),
            held: VecDeque::new(),
            looks_again: false,
            swept: None,
            last: 0,
            lines: Vec::new(),
        }
    }

    /// Messages that are being handled or wait for their turn.
    pub(super) fn running(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// Whether there is a handler for messages to `target`.
    pub(super) fn answers(&self, target: &ChannelTopic) -> bool {
        self.find(target).is_some()
    }

    /// The handler that messages to `target` are given to.
    fn find(&self, target: &ChannelTopic) -> Option<std::sync::Arc<Registration>> {
        self.table.find(target).filter(|found| !self.breaker.is_failed(found.number))
    }

    /// A handler for `target` has panicked; `true` when it is given nothing from now on.
    fn note_panic(&mut self, now: Instant, target: &ChannelTopic) -> bool {
        let found = self.table.find(target);
        found.is_some_and(|registration| self.breaker.note(now, registration.number))
    }

    /// Handlers that have failed get another chance.
    pub(super) fn forgive(&mut self) {
        self.breaker.forgive();
    }

    pub(super) fn selectors(&self) -> Vec<String> {
        self.table.selectors()
    }

    /// Whether what waits may be looked through now: not with every message that finds no room.
    fn may_sweep(&mut self, now: Instant) -> bool {
        const EVERY: Duration = Duration::from_millis(100);
        let may = self.swept.is_none_or(|at| now.saturating_duration_since(at) >= EVERY);
        if may {
            self.swept = Some(now);
        }
        may
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn line(&mut self) -> Line {
        self.lines.pop().unwrap_or_default()
    }

    fn keep_line(&mut self, line: Option<Line>) {
        if self.lines.len() < Self::LINES_MAX {
            self.lines.extend(line);
        }
    }
}

fn request_key(request: &Header) -> (u64, u64) {
    (request.origin.incarnation.map_or(0, |start| start.nonce), request.sequence)
}
