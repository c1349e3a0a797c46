//! What the kernel says about processes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};

/// One process; its number alone would be given to another one some day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in ticks since the machine was.
    started: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn find(pid: u32) -> Option<Self> {
        stat(pid).map(|stat| stat.process)
    }

    /// Whether it is there and has not ended. A process that has ended and was not waited for has ended.
    pub fn lives(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.process == self && !stat.ended)
    }

    /// Its arguments, after its own name.
    pub fn arguments(self) -> Option<Vec<String>> {
        let bytes = self.read("cmdline")?;
        let words = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let mut words: Vec<String> = words.map(std::borrow::Cow::into_owned).collect();
        words.pop();
        (!words.is_empty()).then(|| words.split_off(1))
    }

    /// Its environment as it was started with; `None` where this process may not see it.
    pub fn environment(self) -> Option<Vec<u8>> {
        self.read("environ")
    }

    /// The permissions that it keeps from what it makes.
    pub fn umask(self) -> Option<u32> {
        let status = fs::read_to_string(self.file("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
        u32::from_str_radix(line.trim(), 8).ok()
    }

    /// What its descriptors are, by number.
    pub fn descriptors(self) -> Vec<(u32, PathBuf)> {
        let Ok(entries) = fs::read_dir(self.file("fd")) else { return Vec::new() };
        let links = entries.flatten().filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        });
        links.collect()
    }

    /// Sends it a signal, if it is still there.
    pub fn signal(self, signal: Signal) {
        if self.lives()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            // Fails only when it has ended in this moment.
            let _ = kill_process(pid, signal);
        }
    }

    fn read(self, name: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.file(name)).ok()?;
        (!bytes.is_empty() && self.lives()).then_some(bytes)
    }

    /// A file of the kernel about it.
    pub fn file(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }
}

/// Processes that may have lost the one that started them. Those that still live are killed when this
/// is dropped.
#[derive(Debug)]
#[must_use = "they are killed at once otherwise"]
pub struct Doomed(pub BTreeSet<Process>);

impl Drop for Doomed {
    fn drop(&mut self) {
        self.0.iter().for_each(|process| process.signal(Signal::KILL));
    }
}

/// The processes that `root` has started, and those that they have, and so on; not those whose
/// parent has ended.
pub fn descendants(root: Process) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<Stat> = pids.filter_map(stat).filter(|stat| !stat.ended).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = all.iter().filter(|stat| stat.parent == parent.pid);
        found.extend(children.map(|stat| stat.process));
        next += 1;
    }
    found.split_off(1)
}

struct Stat {
    process: Process,
    parent: u32,
    ended: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    const PARENT: usize = 1;
    const STARTED: usize = 19;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may have brackets and spaces of its own.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        process: Process { pid, started: fields.get(STARTED)?.parse().ok()? },
        parent: fields.get(PARENT)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}
