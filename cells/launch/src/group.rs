//! Control groups (version 2) for what jobs run, where this process has been handed some.
//!
//! A part of a job gets a group of its own below that of the cell, with one group for its job cell and one for its
//! program. The system ends all that is in it at once, whatever a process has done to hide from its parent, and holds
//! the program to what it may use. Where nobody has handed groups to this process, there are none, and everything else
//! is as it is with them.

mod place;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::write,
};

pub use self::place::NoGroups;
use crate::ProgramLimits;

/// What stands in front of the name of each group of a part.
const PREFIX: &str = "cellbus-";
/// The group that this process moves to: one that has groups below it with limits has no processes itself.
const OWN: &str = "cellbus-self";
/// The group of a part's job cell, and that of its program.
const CELL: &str = "cell";
const PROGRAM: &str = "program";
/// Bytes of the longest name that the system takes.
const NAME_MAX: usize = 255;

/// What the system can count and limit for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// Processor time.
    Cpu,
}

/// The groups that this process can make.
#[derive(Debug)]
pub struct Groups {
    base: PathBuf,
    controllers: BTreeSet<Controller>,
}

/// The group of a part of a job, or of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlGroup {
    /// All of it.
    whole: PathBuf,
    /// Where its first process begins.
    entrance: PathBuf,
}

impl Controller {
    /// Every controller that is made use of.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// The system's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

impl Groups {
    /// The groups of this process, prepared at the first call. That it has none is said once, at level INFO.
    ///
    /// # Errors
    /// Why it has none.
    pub fn of_this_process() -> Result<&'static Self, &'static NoGroups> {
        static FOUND: OnceLock<Result<Groups, NoGroups>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let found = place::find().map(|(base, is_own)| Self::prepare(base, is_own));
            match &found {
                Ok(groups) => {
                    let (base, limits) = (groups.base.display(), groups.words());
                    tracing::info!(%base, limits, "parts of jobs get control groups of their own");
                }
                Err(why) => {
                    tracing::info!(%why, "parts of jobs get no control groups; each process has its limits");
                }
            }
            found
        });
        found.as_ref()
    }

    /// Where this process could make groups, and what could be limited there; changes nothing.
    ///
    /// # Errors
    /// Why it could make none.
    pub fn look() -> Result<(PathBuf, BTreeSet<Controller>), NoGroups> {
        let (base, _is_own) = place::find()?;
        let offered = listed(&base.join("cgroup.controllers"));
        Ok((base, offered))
    }

    /// Makes limits possible below `base`, as far as its other processes let it.
    fn prepare(base: PathBuf, is_own: bool) -> Self {
        let offered = listed(&base.join("cgroup.controllers"));
        let switch = base.join("cgroup.subtree_control");
        let missing: Vec<Controller> = offered.difference(&listed(&switch)).copied().collect();
        let leaf = base.join(OWN);
        let moved = is_own && !missing.is_empty() && enter_new(&leaf);
        for controller in missing {
            // Refused where somebody else's processes are in the group, too: then only the rest is made use of.
            if let Err(error) = tell(&switch, &format!("+{}", controller.as_str())) {
                tracing::debug!(%error, controller = controller.as_str(), "not for groups of jobs");
            }
        }
        let controllers = listed(&switch);
        if moved && controllers.is_empty() && enter(&base).is_ok() {
            // Fails only where another process has come.
            let _ = fs::remove_dir(&leaf);
        }
        Self { base, controllers }
    }

    /// What is limited, in the system's words.
    fn words(&self) -> String {
        let words: Vec<&str> = self.controllers.iter().map(|one| one.as_str()).collect();
        words.join(" ")
    }

    /// Makes the group of the part `part` of the run `run`, and holds its program to `limits`.
    ///
    /// # Errors
    /// When the system makes none; nothing of it is left then.
    pub fn make(&self, run: &str, part: &str, limits: &ProgramLimits) -> io::Result<ControlGroup> {
        let group = self.find(run, part);
        let made = group.make(&self.controllers, limits);
        made.inspect_err(|_| group.remove())?;
        Ok(group)
    }

    /// The group of the part `part` of the run `run`, whether or not it is there.
    #[must_use]
    pub fn find(&self, run: &str, part: &str) -> ControlGroup {
        let whole = self.base.join(name(run, part));
        ControlGroup { entrance: whole.join(CELL), whole }
    }
}

impl ControlGroup {
    /// The group of the program of a part, by what [`program`](Self::program) gave.
    #[must_use]
    pub fn of_program(path: PathBuf) -> Self {
        Self { entrance: path.clone(), whole: path }
    }

    /// Where the program of a part runs.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.whole.join(PROGRAM)
    }

    /// Where the first process has to go.
    pub(crate) fn entrance(&self) -> &Path {
        &self.entrance
    }

    fn make(&self, controllers: &BTreeSet<Controller>, limits: &ProgramLimits) -> io::Result<()> {
        fs::create_dir(&self.whole)?;
        fs::create_dir(&self.entrance)?;
        let program = self.program();
        fs::create_dir(&program)?;
        for controller in controllers {
            let word = format!("+{}", controller.as_str());
            tell(&self.whole.join("cgroup.subtree_control"), &word)?;
        }
        for (file, value) in settings(controllers, limits) {
            tell(&program.join(file), &value)?;
        }
        Ok(())
    }

    /// Ends every process in it. One that is not there has none.
    pub fn kill(&self) {
        if let Err(error) = tell(&self.whole.join("cgroup.kill"), "1")
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, group = %self.whole.display(), "not told to end");
        }
    }

    /// Whether a process is in it.
    #[must_use]
    pub fn lives(&self) -> bool {
        let events = fs::read_to_string(self.whole.join("cgroup.events"));
        events.is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    /// Whether it is there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.whole.is_dir()
    }

    /// Removes it, once nothing is in it.
    pub fn remove(&self) {
        for path in [self.program(), self.entrance.clone(), self.whole.clone()] {
            // A group is removed without its files, which are no files; those that a program has made are below.
            if let Err(error) = remove_all(&path, 0)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(%error, group = %path.display(), "a control group stays");
            }
        }
    }
}

/// Removes a group and those that were made below it.
fn remove_all(group: &Path, depth: usize) -> io::Result<()> {
    /// Programs rarely make groups, and no deep ones.
    const DEPTH_MAX: usize = 16;
    if depth < DEPTH_MAX {
        for entry in fs::read_dir(group)?.flatten() {
            if entry.file_type()?.is_dir() {
                remove_all(&entry.path(), depth + 1)?;
            }
        }
    }
    fs::remove_dir(group)
}

/// What is written where, so that a program is held to `limits`.
fn settings(
    controllers: &BTreeSet<Controller>,
    limits: &ProgramLimits,
) -> Vec<(&'static str, String)> {
    /// Microseconds in one period.
    const PERIOD: u64 = 100_000;
    const MIB: u64 = 1 << 20;
    let of = |controller: Controller, limit: Option<u64>| {
        limit.filter(|_| controllers.contains(&controller))
    };
    let memory = of(Controller::Memory, limits.memory_mib);
    let pids = of(Controller::Pids, limits.processes);
    let cpu = of(Controller::Cpu, limits.cpus);
    let mut told = Vec::new();
    told.extend(memory.map(|mib| ("memory.max", mib.saturating_mul(MIB).to_string())));
    // Half a program is of no use to anybody.
    told.extend(memory.map(|_| ("memory.oom.group", "1".to_owned())));
    told.extend(pids.map(|pids| ("pids.max", pids.to_string())));
    told.extend(cpu.map(|cpus| ("cpu.max", format!("{} {PERIOD}", cpus.saturating_mul(PERIOD)))));
    told
}

/// The name of the group of a part, which no other part of any run has.
fn name(run: &str, part: &str) -> String {
    let mut name = format!("{PREFIX}{run}-{part}");
    // The run alone says which job; of two parts on one machine the ends of the names differ.
    while name.len() > NAME_MAX {
        let cut = name.len() - NAME_MAX;
        let keep = part.get(part.len().min(cut)..).unwrap_or_default();
        name = format!("{PREFIX}{run}-{keep}");
    }
    name
}

/// The controllers that a file of the system names.
fn listed(file: &Path) -> BTreeSet<Controller> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let words: BTreeSet<&str> = text.split_whitespace().collect();
    Controller::ALL.into_iter().filter(|one| words.contains(one.as_str())).collect()
}

fn enter_new(leaf: &Path) -> bool {
    let made = match fs::create_dir(leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _there => enter(leaf),
    };
    made.inspect_err(|error| tracing::debug!(%error, "this process stays in its group")).is_ok()
}

/// Moves this process into a group.
pub(crate) fn enter(group: &Path) -> io::Result<()> {
    // Whatever its number is elsewhere.
    tell(&group.join("cgroup.procs"), "0")
}

/// Writes a word into a file that the system made; one that is not there is not made.
fn tell(file: &Path, word: &str) -> io::Result<()> {
    let fd = open(file, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let written = write(&fd, word.as_bytes())?;
    if written == word.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j_15_limits_are_told_where_the_controller_is_there_and_nowhere_else() {
        let limits = ProgramLimits {
            memory_mib: Some(3),
            processes: Some(7),
            cpus: Some(2),
            open_files: Some(9),
            ..ProgramLimits::default()
        };
        let all = BTreeSet::from(Controller::ALL);
        let told = |words: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
            words.iter().map(|(file, value)| (*file, (*value).to_owned())).collect()
        };
        let want = [
            ("memory.max", "3145728"),
            ("memory.oom.group", "1"),
            ("pids.max", "7"),
            ("cpu.max", "200000 100000"),
        ];
        assert_eq!(settings(&all, &limits), told(&want));
        let pids = BTreeSet::from([Controller::Pids]);
        assert_eq!(settings(&pids, &limits), told(&[("pids.max", "7")]));
        assert_eq!(settings(&BTreeSet::new(), &limits), []);
        assert_eq!(settings(&all, &ProgramLimits::default()), []);
    }

    #[test]
    fn the_groups_of_two_parts_have_two_names_that_the_system_takes() {
        let run = "00000000-0000-4000-8000-000000000000";
        assert_eq!(name(run, "site-1.fold"), format!("cellbus-{run}-site-1.fold"));
        let long = |end: &str| name(run, &format!("{}{end}", "x".repeat(254)));
        assert_eq!((long("a").len(), long("b").len()), (NAME_MAX, NAME_MAX));
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn a_group_that_is_not_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let groups = Groups { base: dir.path().to_owned(), controllers: BTreeSet::new() };
        let group = groups.find("run", "site-1.fold");
        assert!(!group.is_there() && !group.lives());
        group.kill();
        group.remove();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");
    }

    #[test]
    fn a_group_that_cannot_be_made_leaves_nothing() {
        // No file of the system is there, so that no controller can be switched on.
        let dir = tempfile::tempdir().unwrap();
        let controllers = BTreeSet::from([Controller::Pids]);
        let groups = Groups { base: dir.path().to_owned(), controllers };
        groups.make("run", "site-1.fold", &ProgramLimits::default()).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
