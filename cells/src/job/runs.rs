//! The jobs of a server: started, followed and ended in all their places.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cellbus_channels::{Failure, Reply, from_fn};
use cellbus_proto::{
    codec::body::{self, Blob, JobStop},
    identity::CellKind,
    job::{
        End, JobId, JobState, LogBatch, LogLine, Manifest, Outcome, PartProgress, PartSpec,
        Reported, RunId, Step, Table, TableAnswer, TableRow, Wanted, Whole, WholeTimes, Why,
        reconcile,
    },
    name::{Fqcn, Segment},
    policy::Pattern,
    topology::{Topology, job_file::JobFile},
    trust::Subject,
    well_known,
};
use cellbus_runtime::{clock, host::RunningCell};
use tokio::sync::{Notify, oneshot, watch};

use self::keep::First;
use super::{
    files::{self, Package},
    parts::Parts,
    report::{JobReport, LogBook, LogRow, PartReport, Records},
    site::register,
};
use crate::config;

mod conduct;
mod keep;
mod plan;

pub use self::plan::{Plan, PlanPart, SubmitError};

/// Time between two looks at what is overdue.
const LOOK: Duration = Duration::from_millis(500);
/// Time without a word of a site after which its part is lost.
const SILENCE: Duration = Duration::from_secs(10);
/// From being told to end until a part counts as lost.
const STOP: Duration = Duration::from_secs(30);
/// Time for a site to take on a part, and for each piece of a file.
const BUDGET: Duration = Duration::from_secs(10);
/// Jobs at a time.
const RUNNING_MAX: usize = 200;

/// The jobs of a server.
#[derive(Clone)]
pub(super) struct Runs {
    inner: Arc<Inner>,
}

struct Inner {
    running: RunningCell,
    topology: Arc<Topology>,
    parts: Parts,
    records: Records,
    jobs: Mutex<BTreeMap<Segment, Run>>,
    /// Told whenever something about a job is to be written down and shown.
    settled: Notify,
    news: watch::Sender<u64>,
}

struct Run {
    /// What people see.
    report: JobReport,
    /// What is known, and told once it is written down.
    latest: JobReport,
    /// The state that the record says; `None` before there is one.
    written: Option<JobState>,
    /// Who waits for the first record.
    first: Option<First>,
    /// What the cells have said about their parts beside how far these are.
    said: BTreeMap<Fqcn, Said>,
    /// `None` for one of an earlier life of this cell.
    whole: Option<Whole>,
    book: LogBook,
}

/// What a cell has said about its part.
#[derive(Clone, Debug, Default)]
struct Said {
    is_grouped: bool,
    progress: Option<PartProgress>,
}

/// What is new about a job.
#[derive(Clone, Debug)]
pub struct JobNews {
    /// The job.
    pub report: JobReport,
    /// Lines after those that were seen.
    pub lines: Vec<LogRow>,
    /// Lines that have come so far.
    pub count: u64,
}

impl Runs {
    /// Serves the sites of `running`, a server, and remembers the jobs of its earlier lives.
    pub(super) fn serve(
        running: &RunningCell,
        topology: &Arc<Topology>,
        parts: &Parts,
        dir: &Path,
    ) -> Result<Self, cellbus_runtime::secret_file::SecretFileError> {
        let records = Records::open(dir)?;
        let mut jobs = BTreeMap::new();
        for mut report in records.read().unwrap_or_default() {
            if report.state != JobState::Ended {
                // Its cell at the server died with the process that launched it; sites end the rest as soon as
                // their tables say that they have it.
                lose(&mut report, running.own().wall.unix());
                records.write(&report)?;
            }
            let run = Run::new(report, None);
            jobs.insert(run.report.job.clone(), Run { written: Some(run.report.state), ..run });
        }
        let inner = Inner {
            running: running.clone(),
            topology: Arc::clone(topology),
            parts: parts.clone(),
            records,
            jobs: Mutex::new(jobs),
            settled: Notify::new(),
            news: watch::Sender::default(),
        };
        let runs = Self { inner: Arc::new(inner) };
        runs.listen();
        tokio::spawn(runs.clone().look_after());
        tokio::spawn(runs.clone().keep());
        Ok(runs)
    }

    fn listen(&self) {
        let running = &self.inner.running;
        let runs = self.clone();
        let table = from_fn(move |delivery| {
            let decoded = body::decode_exact::<Table>(&delivery.payload);
            let site = &delivery.origin.name;
            let answer = decoded.map(|table| runs.hear(site, table.rows));
            async move {
                let answer = answer.map_err(|error| Failure::from(error.status))?;
                Ok(Reply::from(body::encode(&answer)))
            }
        });
        let runs = self.clone();
        let log = from_fn(move |delivery| {
            let decoded = body::decode_exact::<LogBatch>(&delivery.payload);
            let site = &delivery.origin.name;
            let heard = decoded.map(|LogBatch { id, lines }| runs.hear_log(site, &id, lines));
            async move {
                heard.map_err(|error| Failure::from(error.status))?;
                Ok(Reply::default())
            }
        });
        register(running, well_known::JOB_TABLE, table);
        register(running, well_known::JOB_LOG, log);
        let runs = self.clone();
        self.inner.parts.log_to(Box::new(move |id, lines| {
            let own = runs.own();
            runs.hear_log(&own, &id, lines);
            Box::pin(std::future::ready(()))
        }));
    }

    fn own(&self) -> Fqcn {
        self.inner.running.own().name.clone()
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<Segment, Run>> {
        self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever something about a job is new.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.inner.news.subscribe()
    }

    fn tell(&self) {
        self.inner.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A cell tells which parts it has. What it says counts for its own parts alone.
    fn hear(&self, runner: &Fqcn, rows: Vec<TableRow>) -> TableAnswer {
        let now = clock::now();
        let mut answer = TableAnswer::default();
        let mut steps = Vec::new();
        {
            let mut jobs = self.jobs();
            let wanted: BTreeMap<Segment, Wanted> = jobs
                .iter()
                .filter_map(|(job, run)| Some((job.clone(), run.whole.as_ref()?.wanted(runner)?)))
                .collect();
            let reported: Vec<Reported> =
                rows.iter().map(|row| Reported { id: row.id.clone(), state: row.state }).collect();
            let found = reconcile(&wanted, &reported);
            answer.stop = found.strays;
            for row in rows {
                let TableRow { id, state, end, is_grouped, progress } = row;
                if end.is_some() {
                    answer.known.push(id.clone());
                }
                let Some(run) = jobs.get_mut(&id.job) else { continue };
                let Some(whole) = &mut run.whole else { continue };
                if *whole.id() == id && whole.parts().any(|(part, ..)| part == runner) {
                    let progress = progress.map(PartProgress::tidy);
                    run.said.insert(runner.clone(), Said { is_grouped, progress });
                }
                let heard = match end {
                    Some(end) => whole.handle_end(now, runner, &id, end),
                    None => whole.handle_state(now, runner, &id, state).map(|()| Vec::new()),
                };
                match heard {
                    Ok(more) => steps.extend(more.into_iter().map(|step| (id.clone(), step))),
                    Err(error) => tracing::debug!(%runner, %id, %error, "not taken"),
                }
            }
            for id in found.missing {
                if let Some(whole) = jobs.get_mut(&id.job).and_then(|run| run.whole.as_mut()) {
                    let more = whole.handle_missing(now, runner);
                    steps.extend(more.into_iter().map(|step| (id.clone(), step)));
                }
            }
        }
        self.carry_out(steps);
        self.settle();
        answer
    }

    fn hear_log(&self, runner: &Fqcn, id: &JobId, lines: Vec<LogLine>) {
        let mut jobs = self.jobs();
        let Some(run) = jobs.get_mut(&id.job) else { return };
        let is_part = run.whole.as_ref().is_some_and(|whole| {
            whole.id() == id && whole.parts().any(|(part, ..)| part == runner)
        });
        if is_part {
            run.book.take(runner, lines);
            drop(jobs);
            self.tell();
        }
    }

    /// Watches the parts of this cell, and the clock.
    async fn look_after(self) {
        let bus = self.inner.running.bus();
        let mut changes = self.inner.parts.changes();
        let mut turned_out = self.inner.running.own().notices.turned_out();
        let own = self.own();
        loop {
            let mut out = None;
            tokio::select! {
                () = bus.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
                // Of those that are missed here, the lists tell.
                cell = turned_out.recv() => out = cell.ok(),
                () = tokio::time::sleep(LOOK) => {}
            }
            self.turn_out(out.as_ref());
            let known = self.hear(&own, self.inner.parts.rows());
            self.inner.parts.forget(&known.known);
            for id in known.stop {
                self.inner.parts.stop(&id, Why::NotNeeded);
            }
            let mut steps = Vec::new();
            for run in self.jobs().values_mut() {
                let Some(whole) = &mut run.whole else { continue };
                let id = whole.id().clone();
                steps.extend(whole.poll(clock::now()).into_iter().map(|step| (id.clone(), step)));
            }
            self.carry_out(steps);
            self.settle();
        }
    }

    /// Ends the parts of sites that may no longer take part: of those that the lists name, and of `out`, whose
    /// certificate one of them does. Nobody waits for what such a site says.
    fn turn_out(&self, out: Option<&Fqcn>) {
        let own = self.inner.running.own();
        let (lists, wall) = (own.lists.view(), own.wall.unix());
        let is_out = |runner: &Fqcn| {
            let subject = Subject { kind: CellKind::Client, name: runner, leaf: &[0; 32] };
            *runner != own.name && (out == Some(runner) || lists.refuses(subject, wall).is_some())
        };
        let mut steps = Vec::new();
        for run in self.jobs().values_mut() {
            let Some(whole) = &mut run.whole else { continue };
            let runs = |(runner, _, end): (&Fqcn, _, Option<&End>)| {
                (end.is_none() && is_out(runner)).then(|| runner.clone())
            };
            let gone: Vec<Fqcn> = whole.parts().filter_map(runs).collect();
            let id = whole.id().clone();
            for runner in gone {
                let end = End::new(Outcome::Aborted, "its cell may no longer take part");
                // One that was not asked to run it yet will not be reached.
                let ended = whole.handle_end(clock::now(), &runner, &id, end);
                steps.extend(ended.unwrap_or_default().into_iter().map(|step| (id.clone(), step)));
            }
        }
        if !steps.is_empty() {
            self.carry_out(steps);
            self.settle();
        }
    }

    fn carry_out(&self, steps: Vec<(JobId, Step)>) {
        let own = self.own();
        for (id, Step::Stop { runner, why }) in steps {
            if runner == own {
                self.inner.parts.stop(&id, why);
                continue;
            }
            let bus = self.inner.running.bus();
            tokio::spawn(async move {
                let body = body::encode(&JobStop { job: id.job.clone() });
                let request = bus.request(runner.clone(), well_known::JOB_STOP.into());
                // Where it does not arrive, the answer to the next table says it.
                if let Err(error) = request.payload(body).budget(BUDGET).send().await {
                    tracing::debug!(%runner, %id, %error, "not told to end");
                }
            });
        }
    }

    /// Brings what is to be told up to what is known now.
    fn settle(&self) {
        let now = self.inner.running.own().wall.unix();
        let mut ended = Vec::new();
        let mut is_changed = false;
        for run in self.jobs().values_mut() {
            let Some(whole) = &run.whole else { continue };
            let before = run.latest.clone();
            run.latest.state = whole.state();
            run.latest.is_late = whole.is_late();
            run.latest.parts = parts_of(whole, &run.said);
            if let Some(end) = whole.end()
                && run.latest.outcome.is_none()
            {
                run.latest.outcome = Some(end.outcome);
                run.latest.detail = Some(end.detail).filter(|detail| !detail.is_empty());
                run.latest.ended_unix = Some(now);
            }
            is_changed |= run.latest != before;
            if run.latest.state == JobState::Ended && before.state != JobState::Ended {
                ended.push(run.latest.clone());
            }
        }
        for report in ended {
            let outcome = report.outcome.map_or("", Outcome::as_str);
            let (job, attempt, detail) = (&report.job, report.attempt, report.detail.as_deref());
            tracing::info!(%job, attempt, outcome, detail, "job has ended");
            for part in &report.parts {
                self.inner.running.allow_job(part.cell.clone(), report.job.clone(), false);
            }
        }
        if is_changed {
            self.inner.settled.notify_one();
        }
    }

    /// Waits until what has become of this cell's own parts has been written down.
    pub(super) async fn flush(&self) {
        /// Nobody waits longer for a disk.
        const PATIENCE: Duration = Duration::from_secs(5);
        self.hear(&self.own(), self.inner.parts.rows());
        if tokio::time::timeout(PATIENCE, self.kept()).await.is_err() {
            tracing::error!("what became of jobs could not be written down in time");
        }
    }

    /// Reads the job that is described in `dir`.
    pub(super) fn plan(&self, dir: &Path) -> Result<Plan, SubmitError> {
        let file = config::load_job(&dir.join(files::JOB_FILE)).map_err(SubmitError::File)?;
        let package = match &file.files {
            Some(below) if below == "." => files::pack(dir)?,
            Some(below) => files::pack(&dir.join(below))?,
            None => Package::default(),
        };
        self.plan_of(file, package)
    }

    fn plan_of(&self, file: JobFile, package: Package) -> Result<Plan, SubmitError> {
        let JobFile { name, server, relay, relays, site, sites, budget, .. } = file;
        let topology = &self.inner.topology;
        let meant = |kind: CellKind, patterns: &[Pattern]| -> Vec<Fqcn> {
            let cells = topology.cells().iter().filter(|cell| cell.kind == kind);
            let is_meant =
                |base: &str| patterns.iter().any(|pattern| pattern.matches(topology.end_of(base)));
            let meant = cells.filter(|cell| is_meant(cell.name.as_str()));
            meant.map(|cell| cell.fqcn.clone()).collect()
        };
        let in_words = |patterns: &[Pattern]| {
            let words: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            words.join(", ")
        };
        let at = meant(CellKind::Client, &sites);
        if at.is_empty() {
            return Err(SubmitError::NoSites(in_words(&sites)));
        }
        let relay = match relay {
            None => None,
            Some(part) => {
                let mut between = meant(CellKind::Relay, &relays);
                between.retain(|relay| at.iter().any(|site| relay.is_ancestor_of(site)));
                if between.is_empty() && relays != [Pattern::Any] {
                    return Err(SubmitError::NoRelays(in_words(&relays)));
                }
                Some((part.into(), between))
            }
        };
        let (server, site) = (server.into(), site.into());
        Ok(Plan { name, server, relay, site, sites: at, budget, package: Arc::new(package) })
    }

    /// Starts a job. What the topology does not let it do is refused before anything of it is anywhere.
    pub(super) async fn submit(&self, plan: Plan) -> Result<JobId, SubmitError> {
        let own = self.own();
        let topology = &self.inner.topology;
        let last = self.jobs().get(&plan.name).map_or(0, |run| run.report.attempt);
        let id = JobId::next(plan.name.clone(), last);
        let mut drawn = [0; 16];
        getrandom::fill(&mut drawn)
            .map_err(|error| SubmitError::Random(std::io::Error::other(error)))?;
        let run = RunId::from_random(drawn);
        for cell in plan.sites.iter().chain(plan.relays()).chain([&own]) {
            let spec = self.spec(&id, &plan, cell, run)?;
            let program = &plan.part_at(cell, &own).program;
            topology
                .resolve(cell.base(), program.as_str(), &spec)
                .map_err(|source| SubmitError::Refused { cell: cell.clone(), source })?;
        }
        let first = {
            let mut jobs = self.jobs();
            let runs = |run: &Run| run.report.state != JobState::Ended;
            if jobs.get(&plan.name).is_some_and(runs) {
                return Err(SubmitError::Running(plan.name));
            }
            if jobs.values().filter(|run| runs(run)).count() >= RUNNING_MAX {
                return Err(SubmitError::TooMany);
            }
            let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
            let times = WholeTimes {
                start: seconds(plan.budget.start_s),
                total: Some(seconds(plan.budget.total_s)).filter(|total| !total.is_zero()),
                finish: seconds(plan.budget.finish_s),
                silence: silence(&plan),
                stop: STOP,
            };
            let others = plan.sites.iter().chain(plan.relays()).cloned();
            let whole = Whole::new(id.clone(), own, others, clock::now(), times);
            let report = JobReport {
                job: id.job.clone(),
                attempt: id.attempt,
                run: Some(run),
                state: whole.state(),
                outcome: None,
                detail: None,
                is_late: false,
                server_program: plan.server.program.clone(),
                site_program: plan.site.program.clone(),
                parts: parts_of(&whole, &BTreeMap::new()),
                started_unix: self.inner.running.own().wall.unix(),
                ended_unix: None,
            };
            let (first, written) = oneshot::channel();
            let run = Run::new(report, Some(whole));
            jobs.insert(id.job.clone(), Run { first: Some(first), ..run });
            written
        };
        self.inner.settled.notify_one();
        let (runs, at) = (self.clone(), id.clone());
        // Whoever asks may go away; what is written down is started all the same.
        let started = tokio::spawn(async move {
            first.await.unwrap_or(Ok(()))?;
            tracing::info!(id = %at, sites = plan.sites.len(), "job has been accepted");
            tokio::spawn(runs.conduct(at, plan, run));
            Ok::<(), SubmitError>(())
        });
        started.await.unwrap_or(Ok(()))?;
        Ok(id)
    }

    fn spec(
        &self,
        id: &JobId,
        plan: &Plan,
        cell: &Fqcn,
        run: RunId,
    ) -> Result<PartSpec, SubmitError> {
        let own = self.own();
        let part = plan.part_at(cell, &own);
        let hands_on = *cell == own || plan.relays().contains(cell);
        let above = if *cell == own { &own } else { plan.above(cell, &own) };
        let files =
            if part.has_files { plan.package.manifest.clone() } else { Manifest::default() };
        Ok(PartSpec {
            attempt: id.attempt,
            server: above.child(&id.job)?,
            sites: if hands_on { plan.below(cell, &own) } else { plan.sites.clone() },
            arguments: part.arguments.clone(),
            environment: part.environment.clone(),
            memory_mib: part.memory_mib,
            resources: part.resources.clone(),
            start_s: plan.budget.start_s,
            idle_s: plan.budget.idle_s,
            detach_s: part.detach_s,
            run,
            files,
            payload: Blob(part.payload.to_vec()),
        })
    }

    /// Does something with a job of this very attempt.
    fn with<T>(&self, id: &JobId, work: impl FnOnce(&mut Whole) -> T) -> Option<T> {
        let mut jobs = self.jobs();
        let whole = jobs.get_mut(&id.job)?.whole.as_mut()?;
        (whole.id() == id).then(|| work(whole))
    }

    fn steps(&self, id: &JobId, work: impl FnOnce(&mut Whole) -> Vec<Step>) {
        let steps = self.with(id, work).unwrap_or_default();
        self.carry_out(steps.into_iter().map(|step| (id.clone(), step)).collect());
        self.settle();
    }

    /// Ends a job; `None` where there is none of this name, `false` where it has ended.
    pub(super) fn cancel(&self, job: &Segment) -> Option<(bool, JobReport)> {
        let (id, report) = {
            let jobs = self.jobs();
            let run = jobs.get(job)?;
            (run.whole.as_ref().map(|whole| whole.id().clone()), run.report.clone())
        };
        if report.state == JobState::Ended {
            return Some((false, report));
        }
        if let Some(id) = id {
            self.steps(&id, |whole| whole.stop(clock::now(), Why::Abort));
        }
        let report = self.jobs().get(job).map_or(report, |run| run.report.clone());
        Some((true, report))
    }

    /// Every job, the latest first.
    pub(super) fn list(&self) -> Vec<JobReport> {
        let mut reports: Vec<JobReport> =
            self.jobs().values().map(|run| run.report.clone()).collect();
        reports.sort_by(|a, b| (b.started_unix, &b.job).cmp(&(a.started_unix, &a.job)));
        reports
    }

    /// What is known of `job`, with at most `max` of the lines after line `seen`.
    pub(super) fn look(&self, job: &Segment, seen: u64, max: usize) -> Option<JobNews> {
        let jobs = self.jobs();
        let run = jobs.get(job)?;
        let (lines, count) = (run.book.after(seen, max), run.book.count());
        Some(JobNews { report: run.report.clone(), lines, count })
    }
}

impl Run {
    /// One of which this is known, and nothing is written down.
    fn new(report: JobReport, whole: Option<Whole>) -> Self {
        Self {
            latest: report.clone(),
            report,
            written: None,
            first: None,
            said: BTreeMap::new(),
            whole,
            book: LogBook::default(),
        }
    }
}

fn parts_of(whole: &Whole, said: &BTreeMap<Fqcn, Said>) -> Vec<PartReport> {
    let part = |(cell, state, end): (&Fqcn, JobState, Option<&End>)| PartReport {
        cell: cell.clone(),
        state,
        outcome: end.map(|end| end.outcome),
        detail: end.map(|end| end.detail.clone()).filter(|detail| !detail.is_empty()),
        is_grouped: said.get(cell).map(|said| said.is_grouped),
        progress: said.get(cell).and_then(|said| said.progress.clone()),
    };
    whole.parts().map(part).collect()
}

/// How long a site may be silent: longer where its part goes on without it, for it may come back.
fn silence(plan: &Plan) -> Duration {
    SILENCE + Duration::from_secs(u64::from(plan.site.detach_s))
}

/// The record of a job that ran when its server died.
fn lose(report: &mut JobReport, now: u64) {
    let detail = "the cell of the server was started again while it ran";
    (report.state, report.outcome) = (JobState::Ended, Some(Outcome::Lost));
    (report.detail, report.ended_unix) = (Some(detail.to_owned()), Some(now));
    for part in report.parts.iter_mut().filter(|part| part.outcome.is_none()) {
        (part.state, part.outcome) = (JobState::Ended, Some(Outcome::Lost));
        part.detail = Some(detail.to_owned());
    }
}
