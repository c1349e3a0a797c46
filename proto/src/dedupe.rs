//! Which requests have been seen: what comes twice with one id is executed once, and answered alike.
//!
//! Kept per start of an origin: one bit for each of the last 65,536 ids, and for every id whose deadline
//! has not passed whether it runs, or what it was answered. A sender repeats an id only while its
//! deadline has not passed, so what is below the window and not kept has never been executed for it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use crate::{
    envelope::{Address, Incarnation},
    name::Fqcn,
};

mod window;

use self::window::Window;

/// One message that may come more than once: its origin's start, and its sequence number there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    /// The origin, verified.
    pub origin: Fqcn,
    /// The start of its process that it says it is.
    pub incarnation: Incarnation,
    /// Sequence number.
    pub sequence: u64,
}

/// What is known of a message that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<A> {
    /// Nothing: it is to be executed, and [`Dedupe::finish`] told how it ended.
    New,
    /// It is being executed; the answer is for this copy too.
    Running,
    /// It has been executed; this was the answer.
    Done(A),
    /// It has been executed, and the answer is no longer kept.
    Forgotten,
    /// It is older than what is remembered; it has not been executed.
    Stale,
    /// There is no room to remember it; it has not been executed.
    Full,
}

/// Figures of a [`Dedupe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupeLimits {
    /// Starts of cells that are remembered.
    pub origins: usize,
    /// Of these, starts of one cell.
    pub starts: usize,
    /// Ids whose deadline has not passed, of all origins.
    pub live: usize,
    /// Bytes of one answer that is kept.
    pub answer_bytes: usize,
    /// Bytes of all answers to one start of a cell.
    pub origin_bytes: usize,
    /// Bytes of all answers.
    pub total_bytes: usize,
}

impl Default for DedupeLimits {
    fn default() -> Self {
        Self {
            origins: 4096,
            starts: 4,
            live: 1 << 18,
            answer_bytes: 64 << 10,
            origin_bytes: 1 << 20,
            total_bytes: 64 << 20,
        }
    }
}

/// What a cell remembers of messages that may come more than once. `A` is an answer.
#[derive(Debug)]
pub struct Dedupe<A> {
    limits: DedupeLimits,
    origins: BTreeMap<(Fqcn, Incarnation), Origin<A>>,
    /// By last use, the longest ago first.
    uses: BTreeSet<(u64, Fqcn, Incarnation)>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// Answers that are kept, the oldest first; some of them may have gone.
    answers: VecDeque<RequestId>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Origin<A> {
    window: Window,
    live: BTreeMap<u64, Live<A>>,
    /// Ids of answers that are kept, the oldest first; some of them may have gone.
    answers: VecDeque<u64>,
    bytes: usize,
    used: u64,
}

#[derive(Debug)]
struct Live<A> {
    deadline: Instant,
    state: State<A>,
}

#[derive(Debug)]
enum State<A> {
    Running,
    Done(A, usize),
    Forgotten,
}

impl RequestId {
    /// The id of message `sequence` from `origin`, which always says which start it is.
    #[must_use]
    pub fn new(origin: &Address, sequence: u64) -> Option<Self> {
        Some(Self { origin: origin.name.clone(), incarnation: origin.incarnation?, sequence })
    }

    fn start(&self) -> (Fqcn, Incarnation) {
        (self.origin.clone(), self.incarnation)
    }
}

impl<A: Clone> Dedupe<A> {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(limits: DedupeLimits) -> Self {
        Self {
            limits,
            origins: BTreeMap::new(),
            uses: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            answers: VecDeque::new(),
            bytes: 0,
            clock: 0,
        }
    }

    /// Takes a copy of a message, and says what is to be done with it. One that is `idempotent` may be
    /// executed again where its answer is not known any more.
    pub fn begin(
        &mut self,
        now: Instant,
        id: &RequestId,
        deadline: Instant,
        idempotent: bool,
    ) -> Seen<A> {
        self.expire(now);
        if !self.make_room(id) {
            return Seen::Full;
        }
        let is_full = self.deadlines.len() >= self.limits.live;
        self.touch(id);
        let origin = self.origins.get_mut(&id.start()).expect("room was made for it");
        match origin.live.get(&id.sequence).map(|live| &live.state) {
            Some(State::Running) => return Seen::Running,
            Some(State::Done(answer, _)) => return Seen::Done(answer.clone()),
            Some(State::Forgotten) if !idempotent => return Seen::Forgotten,
            Some(State::Forgotten) => {
                let live = origin.live.remove(&id.sequence);
                self.deadlines.remove(&(live.expect("just seen").deadline, id.clone()));
            }
            None if origin.window.is_below(id.sequence) && !idempotent => return Seen::Stale,
            None if origin.window.contains(id.sequence) && !idempotent => return Seen::Forgotten,
            None if is_full => return Seen::Full,
            None => {}
        }
        origin.window.insert(id.sequence);
        origin.live.insert(id.sequence, Live { deadline, state: State::Running });
        self.deadlines.insert((deadline, id.clone()));
        Seen::New
    }

    /// What was new has been answered. An answer of more bytes than are kept is forgotten at once.
    pub fn finish(&mut self, id: &RequestId, answer: A, size: usize) {
        let Some(origin) = self.origins.get_mut(&id.start()) else { return };
        let Some(live) = origin.live.get_mut(&id.sequence) else { return };
        if size > self.limits.answer_bytes {
            live.state = State::Forgotten;
            return;
        }
        live.state = State::Done(answer, size);
        origin.bytes += size;
        self.bytes += size;
        origin.answers.push_back(id.sequence);
        self.answers.push_back(id.clone());
        while let Some(origin) = self.origins.get_mut(&id.start())
            && origin.bytes > self.limits.origin_bytes
            && let Some(sequence) = origin.answers.pop_front()
        {
            self.forget(&RequestId { sequence, ..id.clone() });
        }
        while self.bytes > self.limits.total_bytes
            && let Some(oldest) = self.answers.pop_front()
        {
            self.forget(&oldest);
        }
        self.tidy();
    }

    /// What was new has ended without an answer that could be given again.
    pub fn finish_unanswered(&mut self, id: &RequestId) {
        let live = self.origins.get_mut(&id.start()).and_then(|o| o.live.get_mut(&id.sequence));
        if let Some(live) = live {
            live.state = State::Forgotten;
        }
    }

    /// What was new has certainly not been executed: a later copy may be.
    pub fn undo(&mut self, id: &RequestId) {
        let Some(origin) = self.origins.get_mut(&id.start()) else { return };
        origin.window.remove(id.sequence);
        if let Some(live) = origin.live.remove(&id.sequence) {
            self.deadlines.remove(&(live.deadline, id.clone()));
        }
    }

    /// Bytes of the answers that are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Starts of cells that are remembered.
    #[must_use]
    pub fn origins(&self) -> usize {
        self.origins.len()
    }

    /// Drops what is kept of ids whose deadline has passed; their bits stay.
    fn expire(&mut self, now: Instant) {
        while let Some((deadline, _)) = self.deadlines.first()
            && *deadline <= now
            && let Some((_, id)) = self.deadlines.pop_first()
        {
            self.forget(&id);
            if let Some(origin) = self.origins.get_mut(&id.start()) {
                origin.live.remove(&id.sequence);
            }
        }
    }

    /// Drops an answer, and keeps that there was one.
    fn forget(&mut self, id: &RequestId) {
        let Some(origin) = self.origins.get_mut(&id.start()) else { return };
        let Some(live) = origin.live.get_mut(&id.sequence) else { return };
        if let State::Done(_, size) = live.state {
            live.state = State::Forgotten;
            origin.bytes -= size;
            self.bytes -= size;
        }
    }

    /// Drops names of answers that have gone, once they are the greater part.
    fn tidy(&mut self) {
        const SLACK: usize = 1024;
        let Self { answers, origins, .. } = self;
        let is_kept = |origin: &Origin<A>, sequence: &u64| {
            matches!(origin.live.get(sequence).map(|l| &l.state), Some(State::Done(..)))
        };
        for origin in origins.values_mut() {
            if origin.answers.len() > 2 * origin.live.len() + SLACK {
                let answers = std::mem::take(&mut origin.answers);
                origin.answers = answers.into_iter().filter(|s| is_kept(origin, s)).collect();
            }
        }
        if answers.len() > 2 * self.deadlines.len() + SLACK {
            answers.retain(|id| origins.get(&id.start()).is_some_and(|o| is_kept(o, &id.sequence)));
        }
    }

    fn touch(&mut self, id: &RequestId) {
        self.clock += 1;
        let start = id.start();
        let origin = self.origins.entry(start.clone()).or_insert_with(|| Origin {
            window: Window::default(),
            live: BTreeMap::new(),
            answers: VecDeque::new(),
            bytes: 0,
            used: 0,
        });
        self.uses.remove(&(origin.used, start.0.clone(), start.1));
        origin.used = self.clock;
        self.uses.insert((origin.used, start.0, start.1));
    }

    /// Whether this start of a cell is remembered, or may be: then the one that was used longest ago
    /// makes room, if nothing of it is alive.
    fn make_room(&mut self, id: &RequestId) -> bool {
        if self.origins.contains_key(&id.start()) {
            return true;
        }
        let least = Incarnation { counter: 0, nonce: 0 };
        let most = Incarnation { counter: u64::MAX, nonce: u64::MAX };
        let starts = (id.origin.clone(), least)..=(id.origin.clone(), most);
        let of_this_cell: Vec<(u64, bool, Incarnation)> = self
            .origins
            .range(starts)
            .map(|((_, start), origin)| (origin.used, origin.live.is_empty(), *start))
            .collect();
        let oldest = if of_this_cell.len() >= self.limits.starts {
            // A cell that claims to be many crowds out nobody but itself.
            let idle = of_this_cell.into_iter().filter(|(_, is_idle, _)| *is_idle).min();
            idle.map(|(used, _, start)| (used, id.origin.clone(), start))
        } else if self.origins.len() >= self.limits.origins {
            let is_idle = |(_, name, start): &&(u64, Fqcn, Incarnation)| {
                self.origins.get(&(name.clone(), *start)).is_none_or(|o| o.live.is_empty())
            };
            self.uses.iter().find(is_idle).cloned()
        } else {
            return true;
        };
        let Some((used, name, start)) = oldest else { return false };
        self.uses.remove(&(used, name.clone(), start));
        self.origins.remove(&(name, start));
        true
    }
}

#[cfg(test)]
mod tests;
