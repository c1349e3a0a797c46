//! A job as its server sees it: one part in every place, one end.
//!
//! The first part that does not do what it is for decides how the job ends, and ends the others. The job has
//! ended when no part of it can run any longer. What a place says counts for its own part of the attempt
//! that it was given, and for nothing else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{End, JobId, JobState, Outcome, Wanted, Why};
use crate::name::Fqcn;

/// How long a job may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeTimes {
    /// From its beginning until every part must run.
    pub start: Duration,
    /// From its beginning until it must be over; `None` for ever.
    pub total: Option<Duration>,
    /// From the end of the server's part until the sites' must have ended.
    pub finish: Duration,
    /// Time without a word of a site after which its part is lost.
    pub silence: Duration,
    /// From being told to end until a part counts as lost.
    pub stop: Duration,
}

/// What is to be done about a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The cell that runs it is to be told to end it.
    Stop {
        /// That cell.
        runner: Fqcn,
        /// Why.
        why: Why,
    },
}

/// Why what a cell says about a job changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The cell was given no part of the job.
    #[error("this cell runs no part of the job")]
    NotDeployed,
    /// The cell speaks of another run of the job.
    #[error("this is another attempt of the job")]
    OtherAttempt,
}

/// A job as its server sees it.
#[derive(Clone, Debug)]
pub struct Whole {
    id: JobId,
    server: Fqcn,
    begun: Instant,
    times: WholeTimes,
    parts: BTreeMap<Fqcn, PartView>,
    /// Why it ends, once something has decided that.
    verdict: Option<(Why, Instant)>,
    /// What the verdict came from, where it was a part's own end.
    cause: Option<End>,
    is_late: bool,
}

/// One part, as its server sees it.
#[derive(Clone, Debug)]
struct PartView {
    state: JobState,
    end: Option<End>,
    /// When its site was last heard of.
    heard: Instant,
    /// The site has taken it on.
    is_confirmed: bool,
    /// Tables of the site, one after the other, in which it was missing.
    misses: u8,
    ended_at: Option<Instant>,
}

impl Whole {
    /// Tables in which a part is missing before it counts as gone: one may have been on its way already.
    const MISSES: u8 = 2;

    /// A job with a part at `server` and at each of `sites`; nothing of it runs.
    #[must_use]
    pub fn new(
        id: JobId,
        server: Fqcn,
        sites: impl IntoIterator<Item = Fqcn>,
        now: Instant,
        times: WholeTimes,
    ) -> Self {
        let part = |runner| {
            let view = PartView {
                state: JobState::Staged,
                end: None,
                heard: now,
                is_confirmed: false,
                misses: 0,
                ended_at: None,
            };
            (runner, view)
        };
        let parts = sites.into_iter().chain([server.clone()]).map(part).collect();
        Self { id, server, begun: now, times, parts, verdict: None, cause: None, is_late: false }
    }

    /// Which job it is.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// How far it is: as far as the part that is least far, but for one that is told to end.
    #[must_use]
    pub fn state(&self) -> JobState {
        if self.parts.values().all(|part| part.end.is_some()) {
            return JobState::Ended;
        }
        if self.verdict.is_some() {
            return JobState::Stopping;
        }
        let living = self.parts.values().filter(|part| part.end.is_none());
        let least = living.map(|part| part.state).min();
        least.map_or(JobState::Ended, |state| state.min(JobState::Running))
    }

    /// Its end, once nothing of it can run any longer.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        if self.state() != JobState::Ended {
            return None;
        }
        match (&self.cause, &self.verdict) {
            (Some(cause), _) => Some(cause.clone()),
            (None, Some((why, _))) => Some(why.end()),
            (None, None) => Some(End::completed()),
        }
    }

    /// Whether it ends because its time was up.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// Its parts: the cell that runs each, how far it is, and its end.
    pub fn parts(&self) -> impl Iterator<Item = (&Fqcn, JobState, Option<&End>)> {
        self.parts.iter().map(|(runner, part)| (runner, part.state, part.end.as_ref()))
    }

    /// What the server wants of this job at `runner`: `None` where nothing of it may run there, or no more.
    #[must_use]
    pub fn wanted(&self, runner: &Fqcn) -> Option<Wanted> {
        let part = self.parts.get(runner)?;
        let runs = part.end.is_none() && part.state != JobState::Staged;
        let is_to_end = self.verdict.is_some();
        let PartView { is_confirmed, .. } = *part;
        runs.then_some(Wanted { attempt: self.id.attempt, is_confirmed, is_to_end })
    }

    /// `runner` is about to be asked to run its part. `false` where it must not be asked any longer.
    pub fn handle_asked(&mut self, now: Instant, runner: &Fqcn) -> bool {
        let is_wanted = self.verdict.is_none();
        match self.parts.get_mut(runner) {
            Some(part) if is_wanted && part.state == JobState::Staged => {
                part.state = JobState::Starting;
                part.heard = now;
                true
            }
            Some(_) | None => false,
        }
    }

    /// `runner` has taken its part on.
    pub fn handle_confirmed(&mut self, now: Instant, runner: &Fqcn) -> Vec<Step> {
        if let Some(part) = self.parts.get_mut(runner) {
            part.heard = now;
            part.is_confirmed = true;
        }
        match &self.verdict {
            Some((why, _)) => self.stop_of(runner, why.clone()).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// `runner` says how far its part of `id` is.
    ///
    /// # Errors
    /// [`ReportError`]; nothing has changed.
    pub fn handle_state(
        &mut self,
        now: Instant,
        runner: &Fqcn,
        id: &JobId,
        state: JobState,
    ) -> Result<(), ReportError> {
        let part = self.part_of(runner, id)?;
        part.heard = now;
        part.misses = 0;
        part.is_confirmed = true;
        if part.end.is_none() && state != JobState::Ended {
            part.state = part.state.max(state);
        }
        Ok(())
    }

    /// `runner` says how its part of `id` has ended. Its first word on that stands.
    ///
    /// # Errors
    /// [`ReportError`]; nothing has changed.
    pub fn handle_end(
        &mut self,
        now: Instant,
        runner: &Fqcn,
        id: &JobId,
        end: End,
    ) -> Result<Vec<Step>, ReportError> {
        self.part_of(runner, id)?;
        Ok(self.end_part(now, runner, end))
    }

    /// The table of `runner` does not have its part.
    pub fn handle_missing(&mut self, now: Instant, runner: &Fqcn) -> Vec<Step> {
        let why = self.verdict.as_ref().map(|(why, _)| why.clone());
        let Some(part) = self.parts.get_mut(runner) else { return Vec::new() };
        part.heard = now;
        part.misses = part.misses.saturating_add(1);
        if part.misses < Self::MISSES {
            return Vec::new();
        }
        let end = why.map_or_else(
            || End::new(Outcome::Lost, "the cell that ran it has it no longer"),
            |why| why.end(),
        );
        self.end_part(now, runner, end)
    }

    /// The job is to end.
    pub fn stop(&mut self, now: Instant, why: Why) -> Vec<Step> {
        if self.verdict.is_some() || self.state() == JobState::Ended {
            return Vec::new();
        }
        self.verdict = Some((why.clone(), now));
        for part in self.parts.values_mut().filter(|part| part.state == JobState::Staged) {
            // Nobody was asked to run it, and nobody will be.
            (part.state, part.end, part.ended_at) = (JobState::Ended, Some(why.end()), Some(now));
        }
        let runners: Vec<Fqcn> = self.parts.keys().cloned().collect();
        runners.iter().filter_map(|runner| self.stop_of(runner, why.clone())).collect()
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Instant) -> Vec<Step> {
        if self.state() == JobState::Ended {
            return Vec::new();
        }
        let mut steps = Vec::new();
        let since = |then: Instant| now.saturating_duration_since(then);
        let stop_since = self.verdict.as_ref().map(|(_, since)| *since);
        let silence = self.times.silence;
        let (server, stop) = (self.server.clone(), self.times.stop);
        let gone: Vec<(Fqcn, String)> = self
            .parts
            .iter()
            .filter(|(_, part)| part.end.is_none() && part.state != JobState::Staged)
            .filter_map(|(runner, part)| {
                if stop_since.is_some_and(|then| since(then) >= stop) {
                    let text = format!("told to end, and not heard of for {stop:?}");
                    return Some((runner.clone(), text));
                }
                let is_silent = *runner != server && since(part.heard) >= silence;
                is_silent.then(|| (runner.clone(), format!("not heard of for {silence:?}")))
            })
            .collect();
        for (runner, detail) in gone {
            steps.extend(self.end_part(now, &runner, End::new(Outcome::Lost, detail)));
        }
        if self.verdict.is_some() {
            return steps;
        }
        let why = self.overdue(now);
        if let Some((detail, is_late)) = why {
            self.is_late = is_late;
            steps.extend(self.stop(now, Why::Failing(detail)));
        }
        steps
    }

    /// Which of its times is up, and whether that is its whole time.
    fn overdue(&self, now: Instant) -> Option<(String, bool)> {
        let age = now.saturating_duration_since(self.begun);
        if let Some(total) = self.times.total
            && age >= total
        {
            return Some((format!("its time of {total:?} is up"), true));
        }
        let is_late = |part: &PartView| part.state < JobState::Running && part.end.is_none();
        if age >= self.times.start
            && let Some((runner, _)) = self.parts.iter().find(|(_, part)| is_late(part))
        {
            let text = format!("{runner}: not running after {:?}", self.times.start);
            return Some((text, false));
        }
        let done = self.parts.get(&self.server)?.ended_at?;
        if now.saturating_duration_since(done) < self.times.finish {
            return None;
        }
        let (runner, _) = self.parts.iter().find(|(_, part)| part.end.is_none())?;
        let finish = self.times.finish;
        Some((format!("{runner}: not ended {finish:?} after the server's part"), false))
    }

    fn part_of(&mut self, runner: &Fqcn, id: &JobId) -> Result<&mut PartView, ReportError> {
        if *id != self.id {
            return Err(ReportError::OtherAttempt);
        }
        let part = self.parts.get_mut(runner).ok_or(ReportError::NotDeployed)?;
        // Who was never asked has nothing to say.
        if part.state == JobState::Staged {
            return Err(ReportError::NotDeployed);
        }
        Ok(part)
    }

    fn end_part(&mut self, now: Instant, runner: &Fqcn, end: End) -> Vec<Step> {
        let Some(part) = self.parts.get_mut(runner) else { return Vec::new() };
        if part.end.is_some() {
            return Vec::new();
        }
        (part.state, part.ended_at) = (JobState::Ended, Some(now));
        part.end = Some(end.clone());
        if end.outcome == Outcome::Completed || self.verdict.is_some() {
            return Vec::new();
        }
        let text =
            format!("{runner}: {}", if end.detail.is_empty() { "ended" } else { &end.detail });
        let cause = End::new(end.outcome, text.clone());
        let steps = self.stop(now, Why::Failing(text));
        // A job of one part has ended with it.
        self.cause = Some(cause.clone());
        if self.verdict.is_none() {
            self.verdict = Some((Why::Failing(cause.detail), now));
        }
        steps
    }

    fn stop_of(&self, runner: &Fqcn, why: Why) -> Option<Step> {
        let part = self.parts.get(runner)?;
        let runs = part.end.is_none() && part.state != JobState::Staged;
        let why =
            if *runner == self.server || matches!(why, Why::Abort) { why } else { Why::NotNeeded };
        runs.then(|| Step::Stop { runner: runner.clone(), why })
    }
}

#[cfg(test)]
mod tests;
