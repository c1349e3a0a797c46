//! The parts of jobs that one cell runs: each a process of a job cell, watched until nothing of it is left.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cellbus_channels::{Event, JobChange};
use cellbus_launch::{
    ControlGroup, Handle, HandleError, Lifetime, Order, Output, ProcessLauncher, Progress, Signal,
};
use cellbus_proto::{
    causes::with_sources,
    codec::body::Blob,
    directory::Directory,
    identity::{CellKind, Identity},
    job::{
        Action, End, Exit, Input, JobId, JobState, LauncherKind, LogLine, Outcome, Part,
        PartProgress, PartSpec, PartTimes, Refusal, Resolved, ResolvedRun, TableRow, Why,
    },
    name::{Fqcn, Segment},
    topology::Topology,
};
use cellbus_runtime::{
    authority::{AuthorityError, mint_job},
    clock,
    quic::QuicPortError,
    secret_file::{SecretFileError, create_private_dir, write_secret_file},
};
use tokio::{sync::watch, task::JoinHandle};

use self::record::{PartRecord, PartRecords};
use super::{
    bootstrap::{Birth, JobBootstrap, Work},
    child_log,
    files::{StageError, Staging, remove_dir},
    launchers::{Launchers, Patience},
    process,
};
use crate::{
    node::{JobDoor, Node, NodeCell},
    programs::object,
};

mod adopt;
mod attach;
mod group;
mod progress;
mod record;

pub use self::attach::AttachError;

/// Files of a job that arrive, and when the last of them came.
type Staged = BTreeMap<JobId, (Staging, std::time::Instant)>;

/// File in the state directory of a cell that says where its job cells come back.
const DOOR_FILE: &str = "job-door";
/// Jobs whose files may arrive at a time.
const STAGED_MAX: usize = 16;
/// How long files wait for their job.
const STAGED_FOR: Duration = Duration::from_secs(120);

/// Why a part of a job is not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The job's name does not fit below this cell.
    #[error("job name")]
    Name(#[from] cellbus_proto::name::NameError),
    /// A job of this name runs here already.
    #[error("job `{0}` runs here already")]
    Running(Segment),
    /// This attempt, or a later one, was here before.
    #[error("job {0} is over here")]
    Over(JobId),
    /// What it asks for is not what this cell lets jobs do.
    #[error("COMPONENT_NOT_ALLOWED")]
    Refused(#[from] Refusal),
    /// Its files are not here, or not as they must be.
    #[error("files of the job")]
    Files(#[from] StageError),
    /// Its directory cannot be made.
    #[error(transparent)]
    Directory(#[from] SecretFileError),
    /// The certificate cannot be minted.
    #[error("certificate of the job")]
    Certificate(#[from] AuthorityError),
    /// The port for job cells cannot be opened.
    #[error("port for job cells")]
    Port(#[from] QuicPortError),
    /// The system refuses something basic.
    #[error("process of the job cell")]
    Process(#[from] std::io::Error),
    /// It cannot be written down, so that nobody would know it later.
    #[error("record of the part")]
    Record(#[source] SecretFileError),
    /// The system makes no control group for it, although it was to have one.
    #[error("control group of the part")]
    Group(#[source] std::io::Error),
    /// This process ends.
    #[error("this process ends")]
    Unfinished,
    /// The cluster of this cell cannot be used.
    #[error("the cluster cannot be used: {0}")]
    Cluster(String),
    /// The process cannot be started.
    #[error(transparent)]
    Launch(#[from] cellbus_launch::LaunchError),
}

/// Who is told what a part has printed.
pub(super) type LogSink =
    Box<dyn Fn(JobId, Vec<LogLine>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The parts of jobs that one cell runs.
#[derive(Clone)]
pub(super) struct Parts {
    inner: Arc<Inner>,
}

struct Inner {
    own: Arc<cellbus_runtime::own::Own>,
    running: cellbus_runtime::host::RunningCell,
    door: Arc<JobDoor>,
    directory: Arc<Directory>,
    topology: Arc<Topology>,
    /// Where the directories of jobs are.
    dir: PathBuf,
    /// The file that says where job cells come back.
    door_file: PathBuf,
    records: PartRecords,
    launchers: Launchers,
    table: Mutex<Table>,
    changed: watch::Sender<u64>,
    sink: Mutex<Option<Arc<LogSink>>>,
    staged: Mutex<Staged>,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<Segment, Entry>,
    /// The last attempt of each job that was here.
    last: BTreeMap<Segment, u32>,
}

struct Entry {
    id: JobId,
    state: JobState,
    end: Option<End>,
    /// Whether its program is one that somebody else attaches.
    is_attached_to: bool,
    /// Whether it has a control group of its own.
    is_grouped: bool,
    /// What its program has said last.
    progress: Option<PartProgress>,
    stop: watch::Sender<Option<Why>>,
}

/// A part that is watched to its end.
struct Watched {
    record: PartRecord,
    /// Whether an earlier life of this cell has started it.
    is_adopted: bool,
}

impl Parts {
    pub(super) fn new(cell: &NodeCell, node: &Node) -> std::io::Result<Self> {
        ProcessLauncher::adopt_orphans()?;
        let (topology, base) = (node.topology(), cell.spec().name.as_str());
        let own_dir = cell.dir().join("jobs");
        let (launchers, dir) = Launchers::of(topology, base, node.clusters(), own_dir)?;
        let records = PartRecords::of(cell.dir());
        let known = records.read();
        if let Err(error) = adopt::clear(&dir, &known) {
            tracing::warn!(%error, dir = %dir.display(), "what old jobs left cannot be removed");
        }
        let parts = Self {
            inner: Arc::new(Inner {
                own: Arc::clone(cell.running().own()),
                running: cell.running().clone(),
                door: Arc::clone(cell.jobs()),
                directory: Arc::clone(node.directory()),
                topology: Arc::clone(node.topology()),
                dir,
                door_file: cell.dir().join(DOOR_FILE),
                records,
                launchers,
                table: Mutex::default(),
                changed: watch::Sender::default(),
                sink: Mutex::default(),
                staged: Mutex::default(),
            }),
        };
        parts.hear_progress();
        parts.adopt(known);
        Ok(parts)
    }

    /// Lets job cells in, writes down where, and says it.
    fn open_door(&self) -> Result<SocketAddr, LaunchError> {
        let address = self.inner.door.open()?;
        write_secret_file(&self.inner.door_file, address.to_string().as_bytes())?;
        Ok(address)
    }

    /// From now on `sink` is told what parts print.
    pub(super) fn log_to(&self, sink: LogSink) {
        let mut own = self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner);
        *own = Some(Arc::new(sink));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever a row of the table has changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    fn change(&self) {
        self.inner.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Every part that is here, with those whose end is not yet known elsewhere.
    pub(super) fn rows(&self) -> Vec<TableRow> {
        let table = self.table();
        let row = |entry: &Entry| TableRow {
            id: entry.id.clone(),
            state: entry.state,
            end: entry.end.clone(),
            is_grouped: entry.is_grouped,
            progress: entry.progress.clone(),
        };
        table.entries.values().map(row).collect()
    }

    /// Forgets parts that have ended.
    pub(super) fn forget(&self, known: &[JobId]) {
        let mut table = self.table();
        let is_known = |entry: &mut Entry| entry.end.is_some() && known.contains(&entry.id);
        for (job, _) in table.entries.extract_if(.., |_, entry| is_known(entry)) {
            self.inner.records.remove(&job);
        }
    }

    /// Has a part end. `false` where it is not here.
    pub(super) fn stop(&self, id: &JobId, why: Why) -> bool {
        let table = self.table();
        let entry = table.entries.get(&id.job).filter(|entry| entry.id == *id);
        // Fails only for one that has ended.
        entry.is_some_and(|entry| entry.stop.send(Some(why)).is_ok())
    }

    /// Has every part end at once: this cell may no longer take part. Gives how many there were.
    pub(super) fn turn_out(&self) -> usize {
        self.staged().clear();
        let living = self.rows().into_iter().filter(|row| row.end.is_none());
        let why = || Why::TurnedOut("its cell may no longer take part".to_owned());
        living.filter(|row| self.stop(&row.id, why())).count()
    }

    /// Has every part end, and waits until they have.
    pub(super) async fn stop_all(&self) {
        let mut changes = self.changes();
        loop {
            let rows = self.rows();
            let living: Vec<&TableRow> = rows.iter().filter(|row| row.end.is_none()).collect();
            if living.is_empty() {
                return;
            }
            for row in living {
                self.stop(&row.id, Why::Abort);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes a piece of a file of a job that is about to start here.
    pub(super) async fn stage(
        &self,
        chunk: cellbus_proto::job::FileChunk,
    ) -> Result<(), StageError> {
        let taken = {
            let mut staged = self.staged();
            let now = clock::now();
            staged.retain(|_, (_, since)| now.saturating_duration_since(*since) < STAGED_FOR);
            staged.remove(&chunk.id)
        };
        let id = chunk.id.clone();
        let place = self.inner.dir.join(format!(".{}-{}", id.job, id.attempt));
        let jobs = self.inner.dir.clone();
        let work = move || {
            let mut staging = match (taken, chunk.manifest) {
                (_, Some(manifest)) => {
                    create_private_dir(&jobs)?;
                    Staging::begin(place, manifest)?
                }
                (Some((staging, _)), None) => staging,
                (None, None) => return Err(StageError::Order),
            };
            staging.take(chunk.index, &chunk.bytes.0)?;
            Ok(staging)
        };
        let staging = tokio::task::spawn_blocking(work).await.map_err(|_| StageError::Order)??;
        let mut staged = self.staged();
        if staged.len() >= STAGED_MAX {
            return Err(StageError::Order);
        }
        staged.insert(id, (staging, clock::now()));
        Ok(())
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.inner.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this cell would launch for such a part.
    pub(super) fn resolve(&self, program: &Segment, spec: &PartSpec) -> Result<Resolved, Refusal> {
        let Inner { topology, own, .. } = &*self.inner;
        topology.resolve(own.name.base(), program.as_str(), spec)
    }

    /// Starts a part of `job`, and watches it; also where nobody waits for that any more.
    pub(super) async fn start(
        &self,
        job: Segment,
        program: &Segment,
        spec: PartSpec,
    ) -> Result<(), LaunchError> {
        let begun = tokio::spawn(self.clone().begin(job, program.clone(), spec));
        begun.await.unwrap_or(Err(LaunchError::Unfinished))
    }

    async fn begin(
        self,
        job: Segment,
        program: Segment,
        spec: PartSpec,
    ) -> Result<(), LaunchError> {
        let id = JobId { job, attempt: spec.attempt };
        let resolved = self.resolve(&program, &spec)?;
        let name = self.inner.own.name.child(&id.job)?;
        let (stop, stops) = watch::channel(None);
        {
            let mut table = self.table();
            if table.entries.get(&id.job).is_some_and(|entry| entry.end.is_none()) {
                return Err(LaunchError::Running(id.job));
            }
            if table.last.get(&id.job).is_some_and(|last| *last >= id.attempt) {
                return Err(LaunchError::Over(id));
            }
            table.last.insert(id.job.clone(), id.attempt);
            let is_attached_to = resolved.run == ResolvedRun::Attached;
            let entry = Entry {
                id: id.clone(),
                state: JobState::Staged,
                end: None,
                is_attached_to,
                is_grouped: false,
                progress: None,
                stop,
            };
            table.entries.insert(id.job.clone(), entry);
        }
        let events = self.inner.running.bus().events();
        match self.launch(&id, &name, &spec, resolved).await {
            Ok(record) => {
                let start = Duration::from_secs(u64::from(spec.start_s));
                let times = PartTimes { start, grace: Patience::with(&record.handle).grace };
                let mut part = Part::new(times);
                let _nothing_to_do = part.handle(clock::now(), Input::Launched);
                self.show(&id, &part);
                self.notice(&name, JobChange::Started);
                let handle = record.handle.clone();
                let watched = Watched { record, is_adopted: false };
                let watched = tokio::spawn(self.clone().watch(watched, part, stops, events));
                tokio::spawn(self.clone().stand_by(id, handle, watched));
                Ok(())
            }
            Err(error) => {
                self.table().entries.remove(&id.job);
                Self::end_group(spec.run, &name).await;
                self.inner.records.remove(&id.job);
                // What was made for it is nobody's.
                let _ = remove_dir(&self.inner.dir.join(id.job.as_str()));
                Err(error)
            }
        }
    }

    async fn launch(
        &self,
        id: &JobId,
        name: &Fqcn,
        spec: &PartSpec,
        resolved: Resolved,
    ) -> Result<PartRecord, LaunchError> {
        let inner = &self.inner;
        let launcher = inner.launchers.of_kind(resolved.launcher)?;
        let is_on_cluster = resolved.launcher == LauncherKind::Slurm;
        let detach_s = resolved.detach_s;
        let is_attached_to = resolved.run == ResolvedRun::Attached;
        let work_dir = self.prepare(id, spec).await?;
        let group = match resolved.launcher {
            LauncherKind::Process => Self::make_group(spec.run, name, &resolved.limits)?,
            LauncherKind::Slurm => None,
        };
        self.note_group(&id.job, group.is_some());
        let identity = Identity {
            project: inner.own.identity.project.clone(),
            kind: CellKind::Job,
            name: name.clone(),
            org: inner.own.identity.org.clone(),
            role: None,
        };
        let issued = mint_job(&identity, inner.own.wall.unix())?;
        let below = |site: &Fqcn| site.child(&id.job).ok();
        let work = match resolved.run {
            ResolvedRun::Builtin(program) => {
                let told = match spec.payload.0.as_slice() {
                    [] => object(&spec.arguments).to_vec(),
                    payload => payload.to_vec(),
                };
                Work::Builtin { program, payload: Blob(told) }
            }
            ResolvedRun::Argv(argv) => Work::Program {
                argv,
                environment: resolved.environment,
                limits: resolved.limits.into(),
                arguments: spec.arguments.clone(),
            },
            ResolvedRun::Attached => Work::Attached { arguments: spec.arguments.clone() },
        };
        let lists = inner.own.lists.view();
        let cells = lists.directory().unwrap_or(&inner.directory);
        let birth = Birth {
            id: id.clone(),
            name: name.clone(),
            address: if detach_s > 0 { self.open_door()? } else { inner.door.open()? },
            cells: cells.iter().map(|(name, kind)| (name.clone(), kind)).collect(),
            socket_dir: inner.dir.join(id.job.as_str()),
            work_dir: work_dir.clone(),
            server_cell: spec.server.clone(),
            site_cells: spec.sites.iter().filter_map(below).collect(),
            idle_s: spec.idle_s,
            detach_s,
            door: (detach_s > 0).then(|| inner.door_file.clone()),
            group: group.as_ref().map(ControlGroup::program),
            run: spec.run,
            work,
            is_on_cluster,
        };
        let bootstrap = JobBootstrap::new(&inner.own, &issued, birth).to_bytes()?;
        let pin = issued.hash();
        // One that may outlive this process comes in only once it is written down: until then it follows its
        // launcher.
        if detach_s == 0 {
            inner.door.pins.add(pin);
        }
        let program = std::env::current_exe()?;
        let words = ["-o", "json", process::VERB].map(OsString::from);
        let order = Order {
            label: name.to_string(),
            argv: [program.into_os_string()].into_iter().chain(words).collect(),
            environment: process::allowed_environment().collect(),
            dir: work_dir,
            bootstrap,
            output: Output::Kept,
            limits: cellbus_launch::ProgramLimits::default(),
            lifetime: if detach_s > 0 { Lifetime::Detached } else { Lifetime::Bound },
            group,
            resources: spec.resources.clone(),
        };
        let handle = match launcher.launch(order).await {
            Ok(handle) => handle,
            Err(error) => {
                inner.door.pins.remove(&pin);
                return Err(error.into());
            }
        };
        let (id, name, at) = (id.clone(), name.clone(), handle.clone());
        let record = PartRecord::new(id, spec.run, name, at, pin, detach_s, is_attached_to);
        if let Err(error) = self.write_down(&record).await {
            inner.door.pins.remove(&pin);
            if let Err(error) = launcher.reap(&handle).await {
                tracing::warn!(id = %record.id, %error, "a job cell is not gone");
            }
            return Err(error);
        }
        inner.door.pins.add(pin);
        Ok(record)
    }

    fn note_group(&self, job: &Segment, is_grouped: bool) {
        if let Some(entry) = self.table().entries.get_mut(job) {
            entry.is_grouped = is_grouped;
        }
    }

    /// Waiting for a disk keeps nobody on this thread from his work.
    async fn write_down(&self, record: &PartRecord) -> Result<(), LaunchError> {
        let (records, record) = (self.inner.records.clone(), record.clone());
        let written = tokio::task::spawn_blocking(move || records.write(&record)).await;
        written.map_err(|_ended| LaunchError::Unfinished)?.map_err(LaunchError::Record)
    }

    /// Makes the directory of a job, with its files.
    async fn prepare(&self, id: &JobId, spec: &PartSpec) -> Result<PathBuf, LaunchError> {
        let dir = self.inner.dir.join(id.job.as_str());
        let work_dir = dir.join("work");
        remove_dir(&dir)?;
        create_private_dir(&self.inner.dir)?;
        create_private_dir(&dir)?;
        let staging = self.staged().remove(id);
        match staging {
            Some((staging, _)) => staging.finish(&spec.files, &work_dir)?,
            None if spec.files.0.is_empty() => create_private_dir(&work_dir)?,
            None => return Err(StageError::Order.into()),
        }
        Ok(work_dir)
    }

    /// Has a part end even if whoever watches it does not come to its end.
    async fn stand_by(self, id: JobId, handle: Handle, watched: JoinHandle<()>) {
        let Err(error) = watched.await else { return };
        tracing::error!(%id, %error, "nobody watches a part of a job any more");
        let lost = adopt::unwatched();
        if let Some(entry) = self.table().entries.get_mut(&id.job).filter(|entry| entry.id == id) {
            entry.state = JobState::Ended;
            entry.end.get_or_insert(lost);
        }
        self.change();
        let launcher = self.inner.launchers.of_handle(&handle);
        if let Err(error) = launcher.signal(&handle, Signal::Kill).await {
            tracing::warn!(%id, %error, "the process of a job cell may go on");
        }
    }

    /// Watches a part until it has ended; ends it when it is to be stopped.
    async fn watch(
        self,
        watched: Watched,
        mut part: Part,
        mut stops: watch::Receiver<Option<Why>>,
        mut events: cellbus_channels::Events,
    ) {
        /// The longest look at a process without news.
        const LOOK: Duration = Duration::from_secs(60);
        let Watched { record, is_adopted } = watched;
        let (id, name, handle) = (record.id.clone(), record.name.clone(), record.handle.clone());
        let last_words = Patience::with(&handle).last_words;
        let launcher = Arc::clone(self.inner.launchers.of_handle(&handle));
        let log = child_log::relay(Arc::clone(&launcher), handle.clone(), id.job.clone());
        let log = tokio::spawn(log);
        let printed = tokio::spawn(self.clone().tell_output(id.clone(), handle.clone()));
        let mut is_listening = true;
        while part.end().is_none() {
            let deadline = part.deadline().map(tokio::time::Instant::from_std);
            let due = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let action = tokio::select! {
                biased;
                Ok(()) = stops.changed() => {
                    let why = stops.borrow_and_update().clone();
                    why.and_then(|why| part.handle(clock::now(), Input::Stop(why)))
                }
                () = due => part.poll(clock::now()),
                // In front of its end: what came up and ended was there.
                event = events.next(), if is_listening => {
                    match event {
                        Some(Event::LinkUp(up)) if up == name => part.handle(clock::now(), Input::Ready),
                        Some(_) => None,
                        None => {
                            is_listening = false;
                            None
                        }
                    }
                }
                progress = launcher.poll(&handle, LOOK) => {
                    let exit = match progress {
                        Ok(Progress::Ended(exit)) => Some(exit),
                        Ok(Progress::Waiting | Progress::Running | Progress::Unknown) => None,
                        Err(_unknown) => Some(Exit::Unknown),
                    };
                    if let Some(mut exit) = exit {
                        if exit == Exit::Unknown {
                            exit = self.last_word(&record);
                        }
                        // Nothing that it started is left when its end is told.
                        let _ = tokio::time::timeout(last_words, launcher.signal(&handle, Signal::Kill)).await;
                        part.handle(clock::now(), Input::Exited(exit))
                    } else {
                        None
                    }
                }
            };
            if let Some(action) = action {
                let signal = match action {
                    Action::Terminate => Signal::Terminate,
                    Action::Kill => Signal::Kill,
                };
                // What is gone is seen by the next look.
                let _ = launcher.signal(&handle, signal).await;
            }
            if part.end().is_none() {
                self.show(&id, &part);
            }
        }
        // Its last words first: who hears of the end has heard them.
        let words = async {
            let _ = printed.await;
            let _ = log.await;
        };
        let _ = tokio::time::timeout(last_words, words).await;
        match launcher.reap(&handle).await {
            Ok(_) => {}
            Err(HandleError::Unknown(_)) if is_adopted => {}
            Err(error) => tracing::warn!(%id, %error, "a job cell is not gone"),
        }
        if is_adopted {
            self.sweep(&record);
        }
        Self::end_group(record.run, &record.name).await;
        self.inner.door.pins.remove(&record.pin);
        let dir = self.inner.dir.join(id.job.as_str());
        if let Err(error) = remove_dir(&dir) {
            tracing::warn!(%id, %error, "the directory of a job stays");
        }
        // Fails where another job is, or has been.
        let _ = fs::remove_dir(&self.inner.dir);
        let end = part.end().cloned().unwrap_or_else(End::completed);
        tracing::info!(cell = %self.inner.own.name, %id, %end, "part of a job has ended");
        self.note_end(record, &end).await;
        self.notice(&name, change_of(&end));
        self.show(&id, &part);
    }

    async fn tell_output(self, id: JobId, handle: Handle) {
        let sink = self.inner.sink.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let launcher = Arc::clone(self.inner.launchers.of_handle(&handle));
        child_log::output(launcher, handle, |lines| {
            let told = sink.as_ref().map(|sink| sink(id.clone(), lines));
            async move {
                if let Some(told) = told {
                    told.await;
                }
            }
        })
        .await;
    }

    /// Makes the table say how far a part is.
    fn show(&self, id: &JobId, part: &Part) {
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(&id.job).filter(|entry| entry.id == *id) else {
            return;
        };
        if (entry.state, &entry.end) == (part.state(), &part.end().cloned()) {
            return;
        }
        (entry.state, entry.end) = (part.state(), part.end().cloned());
        drop(table);
        self.change();
    }

    /// Tells those who listen to events of this cell what has become of a job cell.
    fn notice(&self, cell: &Fqcn, change: JobChange) {
        self.inner.own.notices.tell(Event::Job { cell: cell.clone(), change });
    }
}

pub(super) fn change_of(end: &End) -> JobChange {
    match end.outcome {
        Outcome::Completed => JobChange::Completed,
        Outcome::Failed | Outcome::Aborted | Outcome::Lost => JobChange::Failed(end.to_string()),
    }
}

/// Why a part was not started, for whoever asked.
pub(super) fn refusal_of(error: &LaunchError) -> String {
    with_sources(error)
}
