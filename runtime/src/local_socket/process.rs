//! The one process that may connect, where it is known which.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

/// A process, by its number or by what stands for it beyond its number.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// Numbers are given again: only for a process that cannot end unnoticed.
    Pid(u32),
    /// The kernel says its number, and none once it has ended.
    Pidfd(Arc<OwnedFd>),
}

impl Expected {
    /// Whether the process with this number is the one.
    pub(super) fn is(&self, pid: u32) -> bool {
        match self {
            Self::Pid(expected) => *expected == pid,
            Self::Pidfd(fd) => pid_of(fd) == Some(pid),
        }
    }
}

/// The number of the process that a pidfd stands for, as long as it lives or is not waited for.
fn pid_of(fd: &OwnedFd) -> Option<u32> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let pid = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    // -1 for one that has been waited for.
    pid.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn c_01_a_process_that_has_ended_is_nobody_even_if_its_number_comes_again() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let expected = Expected::Pidfd(Arc::new(pidfd_open(pid, PidfdFlags::empty()).unwrap()));
        assert!(expected.is(child.id()) && !expected.is(std::process::id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!expected.is(child.id()));
        assert!(Expected::Pid(child.id()).is(child.id()));
    }

    #[test]
    fn c_01_a_descriptor_that_is_no_pidfd_stands_for_nobody() {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(!Expected::Pidfd(Arc::new(file)).is(std::process::id()));
    }
}
