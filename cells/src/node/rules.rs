//! The rules that the cells of this process decide by, and how others take their place while they run.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cellbus_channels::RequestError;
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    policy::Policy,
    topology::{Change, Topology, diff},
};
use cellbus_runtime::host::RunningCell;
use tokio::sync::{Mutex as Turn, watch};

use super::renewal::OnDisk;
use crate::{
    config::{self, ConfigReport, Loaded},
    control::{ControlError, LocalCode, ProblemRow, ReloadOutcome, ReloadReply, next_step},
};

/// The rules of the cells of one process.
#[derive(Debug)]
pub struct LiveRules {
    held: Mutex<Held>,
    /// One reload at a time, so that each knows what it replaces.
    turn: Turn<()>,
    news: watch::Sender<Option<Reload>>,
}

#[derive(Debug)]
struct Held {
    file: Option<PathBuf>,
    source: Option<RulesSource>,
    /// What runs: the topology that was started, with the rules that hold now.
    topology: Arc<Topology>,
    policy: Arc<Policy>,
    cells: Vec<RunningCell>,
    on_disk: Vec<OnDisk>,
}

/// Reads the topology of a process again, from wherever it came.
#[derive(Clone)]
pub struct RulesSource(Arc<dyn Fn() -> Result<Loaded, ConfigReport> + Send + Sync>);

impl RulesSource {
    /// Reads it by `read`.
    pub fn new(read: impl Fn() -> Result<Loaded, ConfigReport> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }
}

impl fmt::Debug for RulesSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RulesSource")
    }
}

/// A reload that was tried, and who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// A signal, or who asked over the control socket.
    pub by: String,
    /// What became of it.
    pub reply: ReloadReply,
}

impl LiveRules {
    /// The rules of `topology`, before any cell runs.
    pub(super) fn new(topology: &Arc<Topology>) -> Self {
        let policy = Arc::new(topology.policy(1));
        let topology = Arc::clone(topology);
        let (cells, on_disk) = (Vec::new(), Vec::new());
        let held = Held { file: None, source: None, topology, policy, cells, on_disk };
        Self { held: Mutex::new(held), turn: Turn::new(()), news: watch::Sender::new(None) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the rules are read again from.
    pub(super) fn read_from(&self, file: &Path) {
        self.held().file = Some(file.to_owned());
    }

    /// How the rules are read again, where they are not in one file.
    pub(super) fn read_by(&self, source: RulesSource) {
        self.held().source = Some(source);
    }

    /// Takes a cell that was started with [`Self::policy`].
    pub(super) fn add(&self, cell: RunningCell, on_disk: OnDisk) {
        let mut held = self.held();
        held.cells.push(cell);
        held.on_disk.push(on_disk);
    }

    /// The policy that holds now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.held().policy)
    }

    /// Whether this cell runs in this process, and so decides by these rules.
    #[must_use]
    pub fn is_here(&self, cell: &Fqcn) -> bool {
        self.held().cells.iter().any(|running| running.own().name == *cell)
    }

    /// Told of every reload that was tried and not only thought of.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<Option<Reload>> {
        self.news.subscribe()
    }

    /// Reads the file again and has every cell of this process decide by its rules: all of them, or, where
    /// the file is not good, none. Returns when the rules are in force. `by` says who asked, for the log.
    ///
    /// # Errors
    /// [`LocalCode::ControlBadRequest`] when there is no file, or it is that of another project.
    pub async fn reload(&self, by: &str, dry_run: bool) -> Result<ReloadReply, ControlError> {
        let _turn = self.turn.lock().await;
        let (file, source, running) = {
            let held = self.held();
            (held.file.clone(), held.source.clone(), Arc::clone(&held.topology))
        };
        let Some(file) = file else {
            let text = "these cells were started without a topology file";
            return Err(ControlError::local(LocalCode::ControlBadRequest, text));
        };
        let path = file.clone();
        let load = move || match source {
            Some(RulesSource(read)) => read(),
            None => config::load(&path),
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(|error| {
            ControlError::local(LocalCode::ControlIo, format!("{}: {error}", file.display()))
        })?;
        let reply = match loaded {
            Err(report) => self.reply(&file, ReloadOutcome::Refused, &[], Some(&report)),
            Ok(Loaded { topology, .. }) if topology.project != running.project => {
                let (is, was) = (&topology.project, &running.project);
                let file = file.display();
                let text = format!("{file} is of project {is}; these cells are of {was}");
                return Err(ControlError::local(LocalCode::ControlBadRequest, text));
            }
            Ok(Loaded { topology, warnings }) => {
                let changes = diff(&running, &topology);
                let outcome = match (running.has_rules_of(&topology), dry_run) {
                    (true, _) => ReloadOutcome::Unchanged,
                    (false, true) => ReloadOutcome::WouldApply,
                    (false, false) => ReloadOutcome::Applied,
                };
                let before = self.policy().revision;
                if outcome == ReloadOutcome::Applied {
                    self.apply(&topology).await;
                }
                let reply = self.reply(&file, outcome, &changes, warnings.as_ref());
                ReloadReply { from: before, ..reply }
            }
        };
        if !dry_run && reply.outcome != ReloadOutcome::Refused {
            self.take_up_credentials();
        }
        if !dry_run {
            audit(by, &reply);
            self.news.send_replace(Some(Reload { by: by.to_owned(), reply: reply.clone() }));
        }
        Ok(reply)
    }

    /// Hands the rules of `topology` to every cell, and waits until each decides by them.
    async fn apply(&self, topology: &Topology) {
        let cells = {
            let mut held = self.held();
            held.topology = Arc::new(held.topology.with_rules_of(topology));
            held.policy = Arc::new(held.topology.policy(held.policy.revision + 1));
            // One after the other without a pause: no cell takes a message in between.
            held.cells.iter().for_each(|cell| cell.set_policy(Arc::clone(&held.policy)));
            held.cells.clone()
        };
        for cell in &cells {
            cell.policy_in_force().await;
        }
    }

    /// Has every cell of this process go on with the certificate and the roots that its files have now. It takes
    /// longer than whoever asks waits: the log has what came of it.
    fn take_up_credentials(&self) {
        self.held().on_disk.iter().for_each(OnDisk::ask);
    }

    fn reply(
        &self,
        file: &Path,
        outcome: ReloadOutcome,
        changes: &[Change],
        report: Option<&ConfigReport>,
    ) -> ReloadReply {
        let told = |live: bool| {
            let these = changes.iter().filter(|change| change.is_live() == live);
            these.map(Change::to_string).collect()
        };
        let held = self.held();
        ReloadReply {
            file: file.display().to_string(),
            outcome,
            from: held.policy.revision,
            to: held.policy.revision,
            changes: told(true),
            needs_restart: told(false),
            problems: report.map(problems).unwrap_or_default(),
            cells: held.cells.iter().map(|cell| cell.own().name.clone()).collect(),
        }
    }
}

fn problems(report: &ConfigReport) -> Vec<ProblemRow> {
    let number = |place: Option<usize>| place.and_then(|place| u64::try_from(place).ok());
    let row = |finding: &config::Finding| {
        let problem = finding.problem();
        ProblemRow {
            code: problem.code.as_str().to_owned(),
            severity: problem.severity().to_string(),
            message: problem.message.clone(),
            line: number(finding.line()),
            column: number(finding.column()),
            help: problem.help.clone(),
        }
    };
    report.findings().iter().map(row).collect()
}

/// Says in the log who changed the rules, from which revision to which, and how.
fn audit(by: &str, reply: &ReloadReply) {
    let ReloadReply { file, outcome, from, to, changes, needs_restart, .. } = reply;
    let (changes, needs_restart) = (changes.join("; "), needs_restart.join("; "));
    tracing::info!(target: "audit", %by, file, ?outcome, from, to, changes, needs_restart, "rules read again");
}

/// The error of a request, with the command that says more about it.
pub(super) fn explained(
    error: RequestError,
    from: &Fqcn,
    to: &Fqcn,
    target: &ChannelTopic,
) -> ControlError {
    let hint = next_step(error.status(), error.by(), (from, to, target), false);
    ControlError::from(error).hint(hint)
}
