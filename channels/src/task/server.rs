//! The side that hands out tasks and takes results.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cellbus_proto::{
    name::Fqcn,
    status::Status,
    task::{
        Board, Fetched, Missing, Posting, Standing, TaskId,
        wire::{self, Given, Task, Verdict},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{fetch, progress, submit};
use crate::{Bus, Delivery, Failure, HandleError, HandlerOptions, Reply, from_fn};

/// Time before the end of its budget at which a question is answered with nothing.
const MARGIN: Duration = Duration::from_secs(1);
/// Time in which the last answers leave, or are asked for again.
const LINGER: Duration = Duration::from_millis(500);
/// Sites whose workers may wait for a task at once, each of them.
const CONCURRENT: u32 = 4;
/// Bytes in the longest text about the progress of a site that is kept.
const TEXT_MAX: usize = 512;

/// Hands out tasks at one cell. Cheap to clone; every clone is the same board.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    news: watch::Sender<u64>,
    /// Bytes of results that may be accepted before one is taken.
    room: Arc<Semaphore>,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    board: Board,
    posted: BTreeMap<TaskId, Posted>,
    /// Who was told that the work is over.
    told: BTreeSet<Fqcn>,
}

struct Posted {
    told: Task,
    body: Bytes,
    check: Option<Arc<Check>>,
    /// Has a place for the one result of each site.
    results: mpsc::Sender<Waiting>,
    /// What sites say about how far they are.
    said: BTreeMap<Fqcn, String>,
}

/// A result that counts and that nobody has taken yet.
struct Waiting {
    submitted: Submitted,
    _room: OwnedSemaphorePermit,
}

type Check = dyn Fn(&Submitted) -> Result<(), String> + Send + Sync;

/// A task that is being described.
#[must_use = "an order does nothing until it is posted"]
pub struct Order {
    name: String,
    posting: Posting,
    round: Option<(u32, Option<u32>)>,
    content_type: Option<String>,
    body: Bytes,
    check: Option<Arc<Check>>,
}

/// A result that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// Who sent it, as verified.
    pub site: Fqcn,
    /// How much it counts beside the results of others, if it says.
    pub weight: Option<f64>,
    /// Figures about it.
    pub metrics: BTreeMap<String, f64>,
    /// Media type of the body.
    pub content_type: Option<String>,
    /// The result.
    pub body: Bytes,
}

/// A task that sites work on. Dropping it ends the task.
pub struct Running {
    tasks: Tasks,
    id: TaskId,
    results: mpsc::Receiver<Waiting>,
    end: Option<TaskEnd>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Whether it did what was wanted.
    pub end: End,
    /// Sites that brought no result that counts.
    pub missing: Missing,
}

/// Whether a task did what was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every site's result is there.
    Complete,
    /// Enough results are there.
    Enough,
    /// Too few came in time.
    Failed,
}

impl Order {
    /// A task called `name` for `sites`. Every one's result is wanted, for as long as `patience`.
    pub fn new(
        name: impl Into<String>,
        sites: impl IntoIterator<Item = Fqcn>,
        patience: Duration,
    ) -> Self {
        Self {
            name: name.into(),
            posting: Posting::of_all(sites.into_iter().collect::<BTreeSet<_>>(), patience),
            round: None,
            content_type: None,
            body: Bytes::new(),
            check: None,
        }
    }

    /// What the sites are given, and its media type. Shared by all answers, never copied for one. Default: nothing.
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        (self.content_type, self.body) = (Some(content_type.to_owned()), body.into());
        self
    }

    /// Which round it is, from 0, and of how many. Default: none.
    pub fn round(mut self, round: u32, of: Option<u32>) -> Self {
        self.round = Some((round, of));
        self
    }

    /// So many results are enough; the others are waited for `grace` longer. Default: all are wanted.
    pub fn quorum(mut self, results: usize, grace: Duration) -> Self {
        (self.posting.quorum, self.posting.grace) = (results, Some(grace));
        self
    }

    /// Looks at every result before it counts; the text of an error is told to the worker, which may submit
    /// again. Runs where messages are handled, so it must not block for long. Default: every result counts.
    pub fn check(
        mut self,
        check: impl Fn(&Submitted) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Arc::new(check));
        self
    }
}

impl Tasks {
    /// Bytes of results that are held at a cell before they are taken, unless it says otherwise: 1 GiB.
    pub const RESULTS_BYTES: usize = 1 << 30;

    /// Serves the exchange at the cell of `bus`.
    ///
    /// # Errors
    /// [`HandleError`] when somebody else serves it there.
    pub async fn serve(bus: &Bus) -> Result<Self, HandleError> {
        Self::serve_within(bus, Self::RESULTS_BYTES).await
    }

    /// As [`serve`](Self::serve). Results of all tasks that were accepted and that nobody has
    /// [taken](Running::next) yet have at most `bytes_max` bytes together, or are one; who brings another waits,
    /// and is refused with `OVERLOADED` when its budget is nearly spent. At most 4 GiB.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub async fn serve_within(bus: &Bus, bytes_max: usize) -> Result<Self, HandleError> {
        let bytes_max = bytes_max.clamp(1, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            state: Mutex::default(),
            news: watch::Sender::default(),
            room: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
        };
        let tasks = Self { inner: Arc::new(inner) };
        let options = HandlerOptions::concurrent(CONCURRENT);
        let (fetching, submitting, advancing) = (tasks.clone(), tasks.clone(), tasks.clone());
        let handler = from_fn(move |delivery| fetching.clone().answer_fetch(delivery));
        bus.handle_with(fetch(), options, handler).await?;
        let handler = from_fn(move |delivery| submitting.clone().take(delivery));
        bus.handle_with(submit(), options, handler).await?;
        let handler =
            from_fn(move |delivery: Delivery| std::future::ready(advancing.advance(&delivery)));
        bus.handle_with(progress(), options, handler).await?;
        Ok(tasks)
    }

    /// Hands out a task.
    pub fn post(&self, order: Order) -> Running {
        let (sender, results) = mpsc::channel(order.posting.sites.len().max(1));
        let (round, rounds) = order.round.unzip();
        let mut state = self.state();
        let id = state.board.post(Instant::now().into_std(), order.posting);
        let told = Task {
            id,
            attempt: 0,
            name: order.name,
            round,
            rounds: rounds.flatten(),
            content_type: order.content_type,
        };
        let said = BTreeMap::new();
        let posted = Posted { told, body: order.body, check: order.check, results: sender, said };
        state.posted.insert(id, posted);
        drop(state);
        self.tell();
        Running { tasks: self.clone(), id, results, end: None }
    }

    /// Says to every worker that asks, and has nothing left to do, that the work is over.
    pub fn close(&self) {
        self.state().board.close();
        self.tell();
    }

    /// Waits until a worker of each of `sites` was told that the work is over, at most for `limit`, and a moment longer:
    /// the last answer may still be on its way out of this process, or get lost and be asked for again. `false` where
    /// that has not come to all. Job code whose process ends then ends with [`Bus::finish`].
    pub async fn farewell(&self, sites: &[Fqcn], limit: Duration) -> bool {
        let mut news = self.inner.news.subscribe();
        let until = Instant::now() + limit;
        loop {
            news.mark_unchanged();
            if sites.iter().all(|site| self.state().told.contains(site)) {
                sleep_until(until.min(Instant::now() + LINGER)).await;
                return true;
            }
            if !matches!(timeout_at(until, news.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.inner.news.send_modify(|news| *news += 1);
    }

    async fn answer_fetch(self, delivery: Delivery) -> Result<Reply, Failure> {
        let (asked, _) = decode::<wire::Fetch>(&delivery)?;
        let patience = Duration::from_millis(asked.wait_ms.into());
        let until = Instant::now() + patience.min(delivery.budget.saturating_sub(MARGIN));
        let mut news = self.inner.news.subscribe();
        loop {
            news.mark_unchanged();
            let message = {
                let mut state = self.state();
                match state.board.fetch(&delivery.origin.name, asked.worker) {
                    Fetched::Nothing => None,
                    Fetched::Over => {
                        state.told.insert(delivery.origin.name.clone());
                        self.tell();
                        Some(wire::encode(&Given::Over, b""))
                    }
                    Fetched::Task(given) => state.posted.get(&given.task).map(|posted| {
                        let task = Task { attempt: given.attempt, ..posted.told.clone() };
                        wire::encode(&Given::Task(task), &posted.body)
                    }),
                }
            };
            if let Some(message) = message {
                return Ok(reply(message));
            }
            if !matches!(timeout_at(until, news.changed()).await, Ok(Ok(()))) {
                return Ok(reply(wire::encode(&Given::Nothing, b"")));
            }
        }
    }

    async fn take(self, delivery: Delivery) -> Result<Reply, Failure> {
        let (submit, body) = decode::<wire::Submit>(&delivery)?;
        let site = &delivery.origin.name;
        let verdict = self.state().board.judge(site, submit.worker, submit.task, submit.attempt);
        if let Err(verdict) = verdict {
            return Ok(reply(wire::encode(&verdict, b"")));
        }
        let bytes = u32::try_from(body.len().clamp(1, self.inner.bytes_max)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.inner.room).acquire_many_owned(bytes);
        let room = timeout(delivery.budget.saturating_sub(MARGIN), room).await;
        // The semaphore is never closed.
        let Ok(Ok(room)) = room else { return Err(Failure::Refused(Status::Overloaded)) };
        let submitted = Submitted {
            site: delivery.origin.name.clone(),
            weight: submit.weight,
            metrics: submit.metrics,
            content_type: submit.content_type,
            body,
        };
        let verdict = self.judge(submit.worker, submit.task, submit.attempt, submitted, room);
        Ok(reply(wire::encode(&verdict, b"")))
    }

    fn judge(
        &self,
        worker: cellbus_proto::task::Worker,
        task: TaskId,
        attempt: u32,
        submitted: Submitted,
        room: OwnedSemaphorePermit,
    ) -> Verdict {
        let judge = |state: &State| state.board.judge(&submitted.site, worker, task, attempt);
        let check = {
            let state = self.state();
            if let Err(verdict) = judge(&state) {
                return verdict;
            }
            state.posted.get(&task).and_then(|posted| posted.check.clone())
        };
        // Looked at without the lock: it may take a while.
        if let Some(Err(why)) = check.map(|check| check(&submitted)) {
            return Verdict::Rejected(why);
        }
        let mut state = self.state();
        if let Err(verdict) = judge(&state) {
            return verdict;
        }
        let accepted = state.board.accept(Instant::now().into_std(), &submitted.site, task);
        let Some(posted) = state.posted.get(&task).filter(|_| accepted.is_ok()) else {
            return Verdict::Late;
        };
        // Fails only when the task is being dropped, and its result with it.
        let taken = posted.results.try_send(Waiting { submitted, _room: room });
        drop(state);
        self.tell();
        if taken.is_ok() { Verdict::Accepted } else { Verdict::Late }
    }

    /// Who asks hears what a result would meet that came now.
    fn advance(&self, delivery: &Delivery) -> Result<Reply, Failure> {
        let (said, _) = decode::<wire::Progress>(delivery)?;
        let site = &delivery.origin.name;
        let mut state = self.state();
        let judged = state.board.judge(site, said.worker, said.task, said.attempt);
        let outlook = judged.err().unwrap_or(Verdict::Accepted);
        let moved = state.board.advance(site, said.worker, said.task, said.attempt, said.done);
        if moved.is_some() {
            // The board knows the site, so that there are no more texts than sites.
            if let (Some(posted), Some(mut text)) = (state.posted.get_mut(&said.task), said.text) {
                text.truncate(text.floor_char_boundary(TEXT_MAX));
                posted.said.insert(site.clone(), text);
            }
            drop(state);
            self.tell();
        }
        Ok(reply(wire::encode(&outlook, b"")))
    }
}

impl Running {
    /// The next result that counts; `None` when the task has ended, which [`Self::end`] then explains.
    ///
    /// # Cancellation
    /// Dropping the future loses no result.
    pub async fn next(&mut self) -> Option<Submitted> {
        let mut news = self.tasks.inner.news.subscribe();
        loop {
            news.mark_unchanged();
            let now = Instant::now();
            let standing = self.tasks.state().board.standing(now.into_std(), self.id);
            if let Ok(Waiting { submitted, .. }) = self.results.try_recv() {
                return Some(submitted);
            }
            let until = match standing {
                Ok(Standing::Waiting { until }) => Instant::from_std(until),
                Ok(Standing::Complete) => return self.finish(End::Complete, Missing::new()),
                Ok(Standing::Enough(missing)) => return self.finish(End::Enough, missing),
                Ok(Standing::Failed(missing)) => return self.finish(End::Failed, missing),
                Err(_) => return None,
            };
            tokio::select! {
                _ = news.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// How far each site says that it is, 0 to 1; empty when the task has ended.
    #[must_use]
    pub fn progress(&self) -> BTreeMap<Fqcn, f64> {
        self.tasks.state().board.progress(self.id).unwrap_or_default()
    }

    /// What each site has last said about how far it is, for people, in at most 512 bytes; empty when the task has
    /// ended. Nobody has to be believed: print it as what it is.
    #[must_use]
    pub fn said(&self) -> BTreeMap<Fqcn, String> {
        let state = self.tasks.state();
        state.posted.get(&self.id).map(|posted| posted.said.clone()).unwrap_or_default()
    }

    /// Waits until something has changed: a result, a progress, another task.
    pub async fn changed(&self) {
        // The sender lives as long as `self` does.
        let _ = self.tasks.inner.news.subscribe().changed().await;
    }

    /// Waits for the end; results that nobody has taken are lost.
    pub async fn end(&mut self) -> TaskEnd {
        while self.next().await.is_some() {}
        let failed = TaskEnd { end: End::Failed, missing: Missing::new() };
        self.end.clone().unwrap_or(failed)
    }

    fn finish(&mut self, end: End, missing: Missing) -> Option<Submitted> {
        self.end = Some(TaskEnd { end, missing });
        self.over();
        // One may have been accepted between the look and the end.
        self.results.try_recv().ok().map(|waiting| waiting.submitted)
    }

    fn over(&self) {
        let mut state = self.tasks.state();
        state.board.end(self.id);
        state.posted.remove(&self.id);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.over();
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("id", &self.id).finish_non_exhaustive()
    }
}

fn decode<T: wire::Header>(delivery: &Delivery) -> Result<(T, Bytes), Failure> {
    wire::decode(&delivery.payload).map_err(|bad| Failure::failed(bad.to_string()))
}

fn reply(payload: Bytes) -> Reply {
    Reply { payload, content_type: Some(wire::CONTENT_TYPE.into()) }
}
