//! What a cell needs of the machine that it runs on.

use std::{
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    path::Path,
};

use cellbus_launch::group::Groups;
use cellbus_proto::topology::CellSpec;
use cellbus_runtime::secret_file::{SecretFileError, check_private, read_bounded_file};
use rustix::process::{Resource, getrlimit};

use crate::{
    check::{Check, Finding},
    kit::chain,
};

/// Free bytes below which a disk is warned about.
const DISK_WARN_BYTES: u64 = 1 << 30;
/// Free bytes below which a cell should not be started.
const DISK_LEAST_BYTES: u64 = 64 << 20;
/// Descriptors that a cell with many neighbours and jobs needs.
const DESCRIPTORS_WARN: u64 = 4096;
/// Descriptors without which a cell cannot work.
const DESCRIPTORS_LEAST: u64 = 128;
/// Bytes that a socket buffer should have.
const BUFFER_BYTES: u64 = 4 << 20;

/// This machine.
#[derive(Debug)]
pub struct Host<'a> {
    /// State directory of the cell.
    pub state: Option<&'a Path>,
}

impl Host<'_> {
    /// Examines what does not depend on others. `cell` is what the topology says of the cell, where it is known.
    #[must_use]
    pub fn examine(&self, cell: Option<&CellSpec>) -> Vec<Finding> {
        let mut findings = vec![descriptors(), buffers(), groups()];
        if let Some(state) = self.state {
            findings.push(directory(state));
            findings.push(disk(state));
        }
        if let Some(listen) = cell.and_then(|cell| cell.listen) {
            findings.push(self.port(listen));
        }
        findings
    }

    /// Whether the address is free, or taken by the cell itself.
    fn port(&self, listen: SocketAddr) -> Finding {
        match UdpSocket::bind(listen) {
            Ok(_) => Finding::ok(Check::Port, format!("{listen} is free")),
            Err(error) => {
                let socket = self.state.map(|state| state.join("control.sock"));
                if socket.is_some_and(|socket| UnixStream::connect(socket).is_ok()) {
                    return Finding::ok(
                        Check::Port,
                        format!("{listen} is used by the running cell"),
                    );
                }
                Finding::fail(Check::Port, format!("{listen}: {error}"))
            }
        }
    }
}

fn directory(state: &Path) -> Finding {
    match check_private(state) {
        Ok(()) => Finding::ok(Check::State, state.display().to_string()),
        Err(SecretFileError::Missing { .. }) => {
            Finding::ok(Check::State, format!("{} will be made", state.display()))
        }
        Err(error) => Finding::fail(Check::State, chain(&error)),
    }
}

fn disk(state: &Path) -> Finding {
    let there = state.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let found = format!("{} MiB free", free >> 20);
            if free < DISK_LEAST_BYTES {
                Finding::fail(Check::Disk, found)
            } else if free < DISK_WARN_BYTES {
                Finding::warn(Check::Disk, found)
            } else {
                Finding::ok(Check::Disk, found)
            }
        }
        Err(errno) => Finding::warn(Check::Disk, format!("cannot be asked: {errno}")),
    }
}

fn descriptors() -> Finding {
    let limit = getrlimit(Resource::Nofile).current;
    let Some(limit) = limit else { return Finding::ok(Check::Descriptors, "no limit") };
    let found = format!("at most {limit}");
    if limit < DESCRIPTORS_LEAST {
        Finding::fail(Check::Descriptors, found)
    } else if limit < DESCRIPTORS_WARN {
        Finding::warn(Check::Descriptors, found)
    } else {
        Finding::ok(Check::Descriptors, found)
    }
}

/// Whether a cell that is started like this process could give jobs control groups of their own.
fn groups() -> Finding {
    match Groups::look() {
        Ok((base, limited)) => {
            let words: Vec<&str> = limited.iter().map(|one| one.as_str()).collect();
            let words = if words.is_empty() { "nothing".to_owned() } else { words.join(", ") };
            Finding::ok(Check::Groups, format!("below {}, limiting {words}", base.display()))
        }
        // It is as good a place for a cell as any.
        Err(why) => Finding::skipped(Check::Groups, why.to_string()),
    }
}

fn buffers() -> Finding {
    let read = |name: &str| -> Option<u64> {
        let path = Path::new("/proc/sys/net/core").join(name);
        // The kernel calls these files empty, so their length says nothing.
        let text = read_bounded_file(&path, 64).ok().filter(|text| !text.is_empty());
        let text = text.or_else(|| std::fs::read(&path).ok())?;
        std::str::from_utf8(&text).ok()?.trim().parse().ok()
    };
    match (read("rmem_max"), read("wmem_max")) {
        (Some(receive), Some(send)) => {
            let found = format!("rmem_max {receive}, wmem_max {send}");
            if receive.min(send) < BUFFER_BYTES {
                Finding::warn(Check::Buffers, found)
            } else {
                Finding::ok(Check::Buffers, found)
            }
        }
        _ => Finding::skipped(Check::Buffers, "this system does not say"),
    }
}
