//! Which site works on which task, and whose result is accepted.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{Worker, wire::Verdict};
use crate::name::Fqcn;

/// Number of a task; counted from 1, never used again on one board.
pub type TaskId = u64;

/// Tasks that are over and still known, so that who is late or asks twice is told so.
const REMEMBERED: usize = 256;

/// What is wanted of whom, and how long it is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// The sites that are to do it.
    pub sites: BTreeSet<Fqcn>,
    /// How many results are enough; more than there are sites counts as all of them, and so does 0.
    pub quorum: usize,
    /// How much longer the others are waited for when so many are there; `None` waits for all.
    pub grace: Option<Duration>,
    /// How long it is waited for at all.
    pub patience: Duration,
}

/// Tasks, and how far each site is with them.
#[derive(Debug, Default)]
pub struct Board {
    tasks: BTreeMap<TaskId, Posted>,
    over: BTreeMap<TaskId, Posted>,
    last: TaskId,
    closed: bool,
}

#[derive(Debug)]
struct Posted {
    posting: Posting,
    since: Instant,
    enough_since: Option<Instant>,
    places: BTreeMap<Fqcn, Place>,
}

/// A site, and the task.
#[derive(Debug, Default)]
struct Place {
    attempt: u32,
    worker: Option<Worker>,
    done: f64,
    accepted: bool,
}

/// A task that is given to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which task.
    pub task: TaskId,
    /// Which time it is given to the site, from 1.
    pub attempt: u32,
    /// Whether it was given to this very worker before.
    pub again: bool,
}

/// What a worker gets that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing at present.
    Nothing,
    /// A task.
    Task(Assignment),
    /// Nothing any more.
    Over,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Results are missing. Look again at the time given, or when something has come.
    Waiting {
        /// When waiting for more ends.
        until: Instant,
    },
    /// Every site's result is there.
    Complete,
    /// Enough results are there; the others were waited for as long as was wished.
    Enough(Missing),
    /// Too few results came in time.
    Failed(Missing),
}

/// Sites without an accepted result.
pub type Missing = Vec<Fqcn>;

/// No task of this number is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no task {0} is open")]
pub struct Unknown(pub TaskId);

impl Posting {
    /// Wants a result of every one of `sites`, for as long as `patience`.
    #[must_use]
    pub fn of_all(sites: BTreeSet<Fqcn>, patience: Duration) -> Self {
        Self { sites, quorum: 0, grace: None, patience }
    }

    fn enough(&self) -> usize {
        if self.quorum == 0 { self.sites.len() } else { self.quorum.min(self.sites.len()) }
    }
}

impl Board {
    /// Opens a task, to be fetched by its sites.
    pub fn post(&mut self, now: Instant, posting: Posting) -> TaskId {
        self.last += 1;
        let places = posting.sites.iter().map(|site| (site.clone(), Place::default())).collect();
        let posted = Posted { posting, since: now, enough_since: None, places };
        self.tasks.insert(self.last, posted);
        self.last
    }

    /// What `worker` of `site` is to do: the oldest open task that wants a result of the site.
    ///
    /// The same worker gets the same attempt until its result is accepted, since the answer that told it may
    /// have been lost. Another worker of the site is another attempt, which takes the task over.
    pub fn fetch(&mut self, site: &Fqcn, worker: Worker) -> Fetched {
        let open = self.tasks.iter_mut().find_map(|(task, posted)| {
            posted.places.get_mut(site).filter(|place| !place.accepted).map(|place| (*task, place))
        });
        match open {
            Some((task, place)) => {
                let again = place.worker == Some(worker);
                if !again {
                    place.attempt = place.attempt.saturating_add(1);
                    place.worker = Some(worker);
                    place.done = 0.0;
                }
                Fetched::Task(Assignment { task, attempt: place.attempt, again })
            }
            None if self.closed => Fetched::Over,
            None => Fetched::Nothing,
        }
    }

    /// What becomes of a result, before anybody has looked into it. `Ok` when it is to be looked into, and
    /// accepted with [`Self::accept`] if it is sound; else what the worker is told. Changes nothing.
    ///
    /// # Errors
    /// The verdict on a result that does not count.
    pub fn judge(
        &self,
        site: &Fqcn,
        worker: Worker,
        task: TaskId,
        attempt: u32,
    ) -> Result<(), Verdict> {
        let (posted, is_open) = match (self.tasks.get(&task), self.over.get(&task)) {
            (Some(posted), _) => (posted, true),
            (None, Some(posted)) => (posted, false),
            // What was over long ago is forgotten; what was never posted was given to nobody.
            (None, None) if (1..=self.last).contains(&task) => return Err(Verdict::Late),
            (None, None) => return Err(Verdict::Stale),
        };
        let place = posted.places.get(site).ok_or(Verdict::Stale)?;
        match () {
            () if place.worker != Some(worker) || place.attempt != attempt => Err(Verdict::Stale),
            () if place.accepted => Err(Verdict::Before),
            () if !is_open => Err(Verdict::Late),
            () => Ok(()),
        }
    }

    /// Accepts the result of `site`, which [`Self::judge`] has let through.
    ///
    /// # Errors
    /// [`Unknown`] when the task is not open, or not the site's.
    pub fn accept(&mut self, now: Instant, site: &Fqcn, task: TaskId) -> Result<(), Unknown> {
        let posted = self.tasks.get_mut(&task).ok_or(Unknown(task))?;
        let place = posted.places.get_mut(site).ok_or(Unknown(task))?;
        (place.accepted, place.done) = (true, 1.0);
        if posted.accepted() >= posted.posting.enough() {
            posted.enough_since.get_or_insert(now);
        }
        Ok(())
    }

    /// Notes how far a worker says that it is. `None` when that is nothing new or not its task.
    pub fn advance(
        &mut self,
        site: &Fqcn,
        worker: Worker,
        task: TaskId,
        attempt: u32,
        done: f64,
    ) -> Option<f64> {
        let place = self.tasks.get_mut(&task)?.places.get_mut(site)?;
        let is_theirs = place.worker == Some(worker) && place.attempt == attempt;
        if !is_theirs || place.accepted || !(place.done..=1.0).contains(&done) {
            return None;
        }
        place.done = done;
        Some(done)
    }

    /// Where the task stands.
    ///
    /// # Errors
    /// [`Unknown`] when it is not open.
    pub fn standing(&self, now: Instant, task: TaskId) -> Result<Standing, Unknown> {
        let posted = self.tasks.get(&task).ok_or(Unknown(task))?;
        let missing = posted.missing();
        if missing.is_empty() {
            return Ok(Standing::Complete);
        }
        let end = posted.since + posted.posting.patience;
        let until = match (posted.enough_since, posted.posting.grace) {
            (Some(since), Some(grace)) => end.min(since + grace),
            (Some(_) | None, _) => end,
        };
        Ok(match () {
            () if now < until => Standing::Waiting { until },
            () if posted.enough_since.is_some() => Standing::Enough(missing),
            () => Standing::Failed(missing),
        })
    }

    /// Ends a task: further results are late. Does nothing if it is not open.
    pub fn end(&mut self, task: TaskId) {
        if let Some(posted) = self.tasks.remove(&task) {
            self.over.insert(task, posted);
        }
        while self.over.len() > REMEMBERED {
            self.over.pop_first();
        }
    }

    /// No task will be posted any more: who asks, and has none open, is told so.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// How far each site says that it is with the task, 0 to 1.
    ///
    /// # Errors
    /// [`Unknown`] when it is not open.
    pub fn progress(&self, task: TaskId) -> Result<BTreeMap<Fqcn, f64>, Unknown> {
        let posted = self.tasks.get(&task).ok_or(Unknown(task))?;
        Ok(posted.places.iter().map(|(site, place)| (site.clone(), place.done)).collect())
    }
}

impl Posted {
    fn accepted(&self) -> usize {
        self.places.values().filter(|place| place.accepted).count()
    }

    fn missing(&self) -> Missing {
        let left = self.places.iter().filter(|(_, place)| !place.accepted);
        left.map(|(site, _)| site.clone()).collect()
    }
}
