//! The five verbs on a cluster.
//!
//! A handle is the number of a job and the mark that its comment bears, so it can be used by a later life of the
//! same cell. What Slurm does not say is not known: a controller that does not answer makes it
//! [unknown](Progress::Unknown) how far a job is, is asked again later, and is never the end of a job.

mod asking;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use cellbus_launch::{
    BoxFuture, Exit, Handle, HandleError, LaunchError, Launcher, Order, Printed, Progress, Signal,
    Stream,
};
use cellbus_proto::job::{SlurmRequest, SlurmSpec};
use rustix::process::geteuid;

use self::asking::{Job, Seen};
use crate::{
    SlurmError,
    command::{Commands, PATIENCE},
    parse,
    spool::{Mark, Spool, Work},
    state::Stage,
    submit,
    table::Table,
};

/// How often it is looked whether a step has written something.
const LOOK: Duration = Duration::from_millis(250);
/// How old what the table says may be.
const TABLE_AGE: Duration = Duration::from_secs(2);
/// How long what was killed may take to be gone: Slurm's own wait, which is 30 s, and its clearing up.
const GONE: Duration = Duration::from_secs(90);

/// Gives programs to a Slurm cluster.
///
/// What a program prints is always kept, whatever [`Order::output`] says: there is nobody on the node to pass it to. Nor
/// can a program be [bound](cellbus_launch::Lifetime::Bound) to a process of another machine; it is to end by itself when
/// it has lost its cell, and ends at its time limit.
#[derive(Clone)]
pub struct SlurmLauncher {
    inner: Arc<Inner>,
}

struct Inner {
    spec: SlurmSpec,
    /// The program that becomes a step, as the nodes find it.
    step: String,
    spool: Spool,
    commands: Commands,
    uid: u32,
    table: tokio::sync::Mutex<Table>,
    seen: Mutex<BTreeMap<Job, Seen>>,
}

impl SlurmLauncher {
    /// [`Launcher::name`] of this launcher.
    pub const NAME: &'static str = "slurm";

    /// A launcher that meets its steps below `shared`, a directory that nodes see under the same path, and whose
    /// steps are the program `step` on the nodes: one that calls [`step::run`](crate::step::run) with the arguments
    /// after [`step::VERB`](crate::step::VERB), and is the shim of `cellbus-launch`.
    ///
    /// # Errors
    /// When `spec` has a value that cannot be used, or `shared` is not private to this user.
    pub fn open(spec: SlurmSpec, shared: &Path, step: &Path) -> Result<Self, SlurmError> {
        spec.check()?;
        let step = submit::usable("the program for steps", step)?.to_owned();
        let inner = Inner {
            commands: Commands::new(&spec),
            spec,
            step,
            spool: Spool::open(shared)?,
            uid: geteuid().as_raw(),
            table: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts what `order` says, with what the site allows of `wishes`.
    ///
    /// # Errors
    /// As [`Launcher::launch`]. Nothing is left in the shared directory, and nothing of it runs later.
    pub async fn launch_with(
        &self,
        order: Order,
        wishes: &SlurmRequest,
    ) -> Result<Handle, LaunchError> {
        let Some(program) = order.argv.first() else { return Err(LaunchError::NoProgram) };
        let program = program.to_string_lossy().into_owned();
        let launched = self.inner.launch(order, wishes).await;
        launched.map_err(|error| LaunchError::System { program, source: error.into() })
    }

    /// Ends and forgets what an earlier life of this cell has launched below the same directory, except for `known`,
    /// and gives how many there were. For a cell that has just been started.
    ///
    /// # Errors
    /// When Slurm cannot be told; what was not told is still there.
    pub async fn sweep(&self, known: &[Handle]) -> Result<usize, SlurmError> {
        self.sweep_all(self.left(known)?).await
    }

    /// As [`sweep`](Self::sweep), of what is there now and not of what is launched meanwhile.
    ///
    /// # Errors
    /// When the shared directory cannot be read.
    pub fn sweep_now(
        &self,
        known: &[Handle],
    ) -> Result<impl Future<Output = Result<usize, SlurmError>> + Send + use<>, SlurmError> {
        let (left, launcher) = (self.left(known)?, self.clone());
        Ok(async move { launcher.sweep_all(left).await })
    }

    /// What is in the shared directory, except for `known`.
    fn left(&self, known: &[Handle]) -> Result<Vec<Mark>, SlurmError> {
        let known: Vec<Mark> =
            known.iter().filter_map(|handle| Some(Job::of(handle)?.mark)).collect();
        let marks = self.inner.spool.marks()?.into_iter();
        Ok(marks.filter(|mark| !known.contains(mark)).collect())
    }

    async fn sweep_all(&self, left: Vec<Mark>) -> Result<usize, SlurmError> {
        for mark in &left {
            self.inner.cancel_named(&self.inner.spool.name_of(mark)).await?;
            self.inner.spool.remove(mark);
        }
        Ok(left.len())
    }
}

impl Inner {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<Job, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn launch(&self, order: Order, wishes: &SlurmRequest) -> Result<Handle, SlurmError> {
        let request = self.spec.grant(wishes)?;
        let mark = Mark::random()?;
        let name = submit::name_of(&order.label, &mark);
        let work_dir = submit::usable("the directory of a job", &order.dir)?.to_owned();
        let text = |text: std::ffi::OsString| {
            text.into_string().map_err(|text| SlurmError::Unusable {
                what: text.to_string_lossy().into_owned(),
                why: "it is no UTF-8",
            })
        };
        let argv = order.argv.into_iter().map(text).collect::<Result<_, _>>()?;
        let pairs = order.environment.into_iter();
        let environment = pairs
            .map(|(name, value)| Ok((text(name)?, text(value)?)))
            .collect::<Result<_, SlurmError>>()?;
        let work = Work::new(name.clone(), argv, environment, work_dir.clone(), order.limits);
        let job_dir = self.spool.path_of(&mark);
        let arguments = submit::arguments(&name, &mark, &work_dir, &job_dir, &request)?;
        self.spool.make(&mark, &work, &order.bootstrap)?;
        let unfinished = Unfinished { spool: &self.spool, mark: &mark };
        let script = submit::script(&self.step, &job_dir);
        let said = self.commands.run("sbatch", &arguments, &script, PATIENCE).await;
        let id = said.and_then(|said| said.success()).and_then(|out| parse::submitted(&out));
        let id = match id {
            Ok(id) => id,
            Err(error) => {
                // It may have come through nevertheless; its step would find nothing, and end.
                if let Err(error) = self.cancel_named(&name).await {
                    tracing::debug!(name, %error, "nothing to cancel");
                }
                return Err(error);
            }
        };
        std::mem::forget(unfinished);
        let job = Job { id, mark };
        let handle = job.handle();
        self.seen().insert(job, Seen { is_ours: true, ..Seen::default() });
        tracing::debug!(name, id, "submitted");
        Ok(handle)
    }

    /// Cancels what this user has under a name that only one job has.
    async fn cancel_named(&self, name: &str) -> Result<(), SlurmError> {
        if name.is_empty() || name != name.trim() || name.starts_with('-') {
            return Ok(());
        }
        let arguments =
            ["--quiet".to_owned(), format!("--user={}", self.uid), format!("--name={name}")];
        self.commands.run("scancel", &arguments, "", PATIENCE).await?.success().map(drop)
    }

    async fn signal(&self, job: &Job, signal: Signal) -> Result<(), HandleError> {
        let failed = |error: SlurmError| job.system(error);
        // What has to be told differs with how far it is, which may change meanwhile.
        const ROUNDS: usize = 3;
        let mut last = None;
        for _ in 0..ROUNDS {
            let Some(facts) = self.own_facts(job).await? else { return Ok(()) };
            let id = job.id.to_string();
            let arguments = match (signal, facts.row.state.stage()) {
                (_, Stage::Ended | Stage::Completing) => return Ok(()),
                (Signal::Terminate, Stage::Waiting) => vec![id],
                (Signal::Terminate, Stage::Running) => {
                    vec!["--batch".to_owned(), "--signal=TERM".to_owned(), id]
                }
                (Signal::Kill, Stage::Waiting) => {
                    vec!["--batch".to_owned(), "--signal=KILL".to_owned(), id]
                }
                // The step finds everything that the program has started; the cluster may not.
                (Signal::Kill, Stage::Running) => {
                    let word = if self.is_overdue(job) { "KILL" } else { "USR1" };
                    vec!["--batch".to_owned(), format!("--signal={word}"), id]
                }
            };
            // With a signal that a waiting job does not take, it would try for ever.
            const TELLING: Duration = Duration::from_secs(10);
            let said = self.commands.run("scancel", &arguments, "", TELLING).await;
            self.table.lock().await.forget();
            match said {
                Ok(said) if said.is_success => return Ok(()),
                Ok(said) => last = Some(said.refusal()),
                Err(error) => last = Some(error),
            }
        }
        last.map_or(Ok(()), |error| Err(failed(error)))
    }

    async fn poll(self: &Arc<Self>, job: &Job, wait: Duration) -> Result<Progress, HandleError> {
        let until = Instant::now() + wait;
        loop {
            let now = self.look(job).await;
            let is_late = Instant::now() >= until;
            match now {
                Ok(progress) if is_late || self.is_news(job, progress) => return Ok(progress),
                // What cannot be asked for now has not ended.
                Err(HandleError::System { source, .. }) if is_late => {
                    tracing::warn!(id = job.id, error = %source, "how far a job is, is not known");
                    return Ok(Progress::Unknown);
                }
                Err(error) if !matches!(error, HandleError::System { .. }) => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn logs(
        self: &Arc<Self>,
        job: &Job,
        stream: Stream,
        from: u64,
    ) -> Result<Printed, HandleError> {
        loop {
            let (inner, mark) = (Arc::clone(self), job.mark.clone());
            let is_over = self.is_over(job).await;
            // The shared directory may be another machine's, which answers late.
            let read = tokio::task::spawn_blocking(move || {
                inner.spool.printed(&mark, stream, from, is_over)
            });
            let read = read.await.map_err(io::Error::other).flatten();
            let printed = read.map_err(|error| job.system(error.into()))?;
            if printed.is_end || !printed.bytes.is_empty() {
                return Ok(printed);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn reap(self: &Arc<Self>, job: &Job) -> Result<Exit, HandleError> {
        let until = Instant::now() + GONE;
        let mut told = None;
        let exit = loop {
            let now = self.look(job).await;
            match now {
                Ok(Progress::Ended(exit)) => break exit,
                Err(error @ HandleError::Unknown(_)) => return Err(error),
                Ok(_) | Err(_) if Instant::now() < until => {}
                Ok(_) => return Err(HandleError::StillThere(job.handle().to_string())),
                Err(error) => return Err(error),
            }
            // Said again: a job that is just being started does not hear it.
            const AGAIN: Duration = Duration::from_secs(3);
            if told.is_none_or(|told: Instant| told.elapsed() > AGAIN) {
                told = Some(Instant::now());
                if let Err(error) = self.signal(job, Signal::Kill).await {
                    tracing::warn!(id = job.id, %error, "a job is not killed yet");
                }
            }
            tokio::time::sleep(LOOK).await;
        };
        self.spool.remove(&job.mark);
        self.seen().remove(job);
        Ok(exit)
    }
}

/// The directory of a job that is not submitted yet, and must not stay with its secret.
struct Unfinished<'a> {
    spool: &'a Spool,
    mark: &'a Mark,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.spool.remove(self.mark);
    }
}

impl Launcher for SlurmLauncher {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn launch(&self, order: Order) -> BoxFuture<'_, Result<Handle, LaunchError>> {
        Box::pin(async move {
            let wishes = order.resources.clone();
            self.launch_with(order, &wishes).await
        })
    }

    fn poll<'a>(
        &'a self,
        handle: &'a Handle,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Progress, HandleError>> {
        Box::pin(async move { self.inner.poll(&self.inner.find(handle)?, wait).await })
    }

    fn signal<'a>(
        &'a self,
        handle: &'a Handle,
        signal: Signal,
    ) -> BoxFuture<'a, Result<(), HandleError>> {
        Box::pin(async move { self.inner.signal(&self.inner.find(handle)?, signal).await })
    }

    fn logs<'a>(
        &'a self,
        handle: &'a Handle,
        stream: Stream,
        from: u64,
    ) -> BoxFuture<'a, Result<Printed, HandleError>> {
        Box::pin(async move {
            let job = self.inner.find(handle)?;
            self.inner.own(&job).await?;
            self.inner.logs(&job, stream, from).await
        })
    }

    fn reap<'a>(&'a self, handle: &'a Handle) -> BoxFuture<'a, Result<Exit, HandleError>> {
        Box::pin(async move { self.inner.reap(&self.inner.find(handle)?).await })
    }
}
