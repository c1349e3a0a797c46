//! What runs between a launcher's fork and the program: this very process, for a moment.
//!
//! A new process is one of this binary with the verb [`VERB`]. It takes a session of its own, ties its life to its
//! parent's, lowers its limits, and becomes the program. Nothing here is secret: what is, waits unread in the standard
//! input.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
    setsid,
};

use crate::{Lifetime, ProgramLimits, group};

/// The argument that makes the binary a shim. Nobody types it.
pub const VERB: &str = "launch-shim";

/// What stands in front of the program in the arguments of a shim.
#[must_use]
pub fn arguments(
    lifetime: Lifetime,
    limits: &ProgramLimits,
    group: Option<&Path>,
) -> Vec<OsString> {
    let parent = match lifetime {
        Lifetime::Bound => std::process::id(),
        Lifetime::Detached => 0,
    };
    let mut arguments = vec![OsString::from(format!("parent={parent}"))];
    arguments.extend(group.map(|group| {
        let mut argument = OsString::from(GROUP);
        argument.push(group);
        argument
    }));
    // What is left to the group alone.
    let ProgramLimits { cpu_s, memory_mib, open_files, processes, file_mib, cpus: _ } = limits;
    for (name, limit) in [
        ("cpu", *cpu_s),
        ("memory", memory_mib.map(|mib| mib.saturating_mul(MIB))),
        ("files", *open_files),
        ("processes", *processes),
        ("file", file_mib.map(|mib| mib.saturating_mul(MIB))),
    ] {
        arguments.extend(limit.map(|limit| OsString::from(format!("{name}={limit}"))));
    }
    arguments.push(OsString::from("--"));
    arguments
}

const MIB: u64 = 1 << 20;
/// In front of the control group that the program runs in.
const GROUP: &str = "group=";

/// Becomes the program that `arguments` name after what [`arguments()`] made. Returns only with the reason why not.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> io::Error {
    let mut arguments = arguments.into_iter();
    if let Err(error) = settle(&mut arguments) {
        return error;
    }
    let Some(program) = arguments.next() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program");
    };
    Command::new(program).args(arguments).exec()
}

/// Applies what stands in front of `--`.
fn settle(arguments: &mut impl Iterator<Item = OsString>) -> io::Result<()> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "a shim is started by a launcher");
    setsid()?;
    // What a program had in memory is not for a file.
    limit(Resource::Core, 0)?;
    for argument in arguments {
        if let Some(path) = argument.as_bytes().strip_prefix(GROUP.as_bytes()) {
            // Before anything else runs, so that nothing ever runs outside of it.
            group::enter(&PathBuf::from(OsStr::from_bytes(path)))?;
            continue;
        }
        let argument = argument.into_string().map_err(|_| bad())?;
        if argument == "--" {
            return Ok(());
        }
        let (name, number) = argument.split_once('=').ok_or_else(bad)?;
        let number: u64 = number.parse().map_err(|_| bad())?;
        match name {
            "parent" if number == 0 => {}
            "parent" => follow(number)?,
            "cpu" => limit(Resource::Cpu, number)?,
            "memory" => limit(Resource::As, number)?,
            "files" => limit(Resource::Nofile, number)?,
            "processes" => limit(Resource::Nproc, number)?,
            "file" => limit(Resource::Fsize, number)?,
            _ => return Err(bad()),
        }
    }
    Err(bad())
}

/// Ends this process when its parent, which has this number, dies; at once if it has.
fn follow(parent: u64) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let now = getppid().and_then(|pid| u64::try_from(pid.as_raw_nonzero().get()).ok());
    if now == Some(parent) {
        return Ok(());
    }
    Err(io::Error::other("whoever launched this process is gone"))
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let now = getrlimit(resource);
    let lower = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    let limit = Rlimit { current: lower(now.current), maximum: lower(now.maximum) };
    Ok(setrlimit(resource, limit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_given_in_the_units_of_the_system() {
        let limits =
            ProgramLimits { memory_mib: Some(2), open_files: Some(64), ..ProgramLimits::default() };
        let words = arguments(Lifetime::Detached, &limits, Some(Path::new("/a b")));
        assert_eq!(words, ["parent=0", "group=/a b", "memory=2097152", "files=64", "--"]);
        let bound = arguments(Lifetime::Bound, &ProgramLimits::default(), None);
        assert_eq!(bound[0], OsString::from(format!("parent={}", std::process::id())));
    }
}
