//! What descends from a process, and what has fallen to this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{
    Pid, Signal, WaitOptions, child_subreaper, getpid, kill_process, kill_process_group, waitpid,
};

/// Children of this process that a launcher has started and not reaped yet.
static KNOWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A child of this process, which is therefore no orphan that has fallen to it.
pub(super) struct Known(i32);

/// A process that leads a group, with what descends from it.
#[derive(Clone, Copy)]
pub(super) struct Family {
    leader: Pid,
}

/// What the system says about one process.
struct Row {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    started: u64,
    has_ended: bool,
}

fn known() -> MutexGuard<'static, BTreeSet<i32>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    /// Starts a child, which nobody can take for an orphan at any moment.
    pub(super) fn spawn(command: &mut Command) -> io::Result<(Child, Self)> {
        let mut known = known();
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        known.insert(pid);
        Ok((child, Self(pid)))
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        known().remove(&self.0);
    }
}

impl Family {
    pub(super) fn of(leader: Pid) -> Self {
        Self { leader }
    }

    /// Signals every process of the group.
    pub(super) fn signal_group(self, signal: Signal) {
        // Fails only for a group that is gone.
        let _ = kill_process_group(self.leader, signal);
    }

    /// Ends the group, and what descends from its leader, whatever group that has taken.
    pub(super) fn kill(self) {
        // With the leader, what it has started falls to somebody else, and is found no longer.
        let before = processes();
        self.signal_group(Signal::KILL);
        let is_same = |row: &&Row| Pid::from_raw(row.pid).and_then(started) == Some(row.started);
        self.members(&before).filter(is_same).for_each(|row| kill(row.pid));
        self.members(&processes()).for_each(|row| kill(row.pid));
    }

    /// Whether anything of it has not ended.
    pub(super) fn lives(self) -> bool {
        self.members(&processes()).next().is_some()
    }

    /// The group, its session, and what descends from the leader; not what has ended.
    fn members(self, all: &[Row]) -> impl Iterator<Item = &Row> {
        let leader = self.leader.as_raw_nonzero().get();
        let parents: BTreeMap<i32, i32> = all.iter().map(|row| (row.pid, row.parent)).collect();
        let descends = move |row: &Row| {
            let (mut at, mut steps) = (row.pid, 0);
            while at != leader && steps < 64 {
                let Some(parent) = parents.get(&at) else { return false };
                (at, steps) = (*parent, steps + 1);
            }
            at == leader
        };
        all.iter().filter(move |row| {
            let belongs = row.group == leader || row.session == leader || descends(row);
            belongs && !row.has_ended
        })
    }

    /// Ends every process whose environment has all of `marks`, and what those start meanwhile; gives how many.
    pub(super) fn end_marked(marks: &[(&str, &str)]) -> usize {
        /// What is killed may have started others in that moment.
        const ROUNDS: usize = 16;
        let marks: Vec<String> =
            marks.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if marks.is_empty() {
            return 0;
        }
        let own = getpid().as_raw_nonzero().get();
        let is_marked = |row: &&Row| {
            // Of what may not be read, nobody but its own user or root decides.
            let environ = fs::read(format!("/proc/{}/environ", row.pid)).unwrap_or_default();
            let words: BTreeSet<&[u8]> = environ.split(|byte| *byte == 0).collect();
            row.pid != own && marks.iter().all(|mark| words.contains(mark.as_bytes()))
        };
        let mut killed = BTreeSet::new();
        for _ in 0..ROUNDS {
            let all = processes();
            let found: Vec<&Row> =
                all.iter().filter(|row| !row.has_ended).filter(is_marked).collect();
            if found.is_empty() {
                break;
            }
            for row in found {
                kill(row.pid);
                killed.insert((row.pid, row.started));
            }
        }
        killed.len()
    }

    /// Ends what has fallen to this process: its children that no launcher knows, in sessions of their own, and what
    /// descends from them. Does nothing in a process that adopts nobody.
    pub(super) fn sweep() {
        /// What is killed may leave children of its own; few generations do.
        const ROUNDS: usize = 16;
        if !matches!(child_subreaper(), Ok(Some(_))) {
            return;
        }
        for _ in 0..ROUNDS {
            let known = known();
            let all = processes();
            let own = getpid().as_raw_nonzero().get();
            // Not from `getsid`: a session that began outside this namespace of processes has the number 0, which
            // is no number of a process.
            let Some(session) = all.iter().find(|row| row.pid == own).map(|row| row.session) else {
                return;
            };
            let orphans = all.iter().filter(|row| {
                row.parent == own && row.session != session && !known.contains(&row.pid)
            });
            let mut is_clean = true;
            for orphan in orphans {
                is_clean = false;
                if orphan.has_ended {
                    // Taken, so that its number can be given again.
                    let _ = waitpid(Pid::from_raw(orphan.pid), WaitOptions::NOHANG);
                } else if let Some(leader) = Pid::from_raw(orphan.pid) {
                    for row in (Self { leader }).members(&all) {
                        kill(row.pid);
                    }
                }
            }
            if is_clean {
                return;
            }
        }
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Fails only for a process that has ended.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// When a process was started, in ticks since the machine was; `None` when there is none, or it has ended.
pub(super) fn started(pid: Pid) -> Option<u64> {
    row(pid.as_raw_nonzero().get()).filter(|row| !row.has_ended).map(|row| row.started)
}

fn processes() -> Vec<Row> {
    // A file system of another namespace gives other numbers to the processes: signals would reach strangers.
    let own = fs::read_link("/proc/self").ok();
    if own.and_then(|own| own.to_str()?.parse().ok()) != Some(getpid().as_raw_nonzero().get()) {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(row).collect()
}

fn row(pid: i32) -> Option<Row> {
    const STARTED: usize = 19;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may have brackets and spaces of its own.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let [state, parent, group, session, ..] = fields[..] else { return None };
    Some(Row {
        pid,
        parent: parent.parse().ok()?,
        group: group.parse().ok()?,
        session: session.parse().ok()?,
        started: fields.get(STARTED)?.parse().ok()?,
        has_ended: matches!(state, "Z" | "X"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known_with_its_beginning() {
        let own = getpid();
        let since = started(own).expect("it runs");
        assert_eq!(started(own), Some(since));
        assert!(processes().iter().any(|row| row.pid == own.as_raw_nonzero().get()));
    }
}
