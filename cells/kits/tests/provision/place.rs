//! A directory of its own for one test, and a project in it.

use std::{
    cell::RefCell,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use cellbus_kits::{
    kit::{Kit, Refused},
    passphrase::Passphrase,
    provision::{Order, ProvisionError, Report, Row, Wanted, provision},
};
use cellbus_proto::topology::project::{self, Project};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// The time at which everything here happens.
pub const NOW: u64 = 1_800_000_000;
/// Seconds.
pub const DAY: u64 = 24 * 3600;

/// A server, a relay, two sites and two people.
pub const STUDY: &str = r#"
[project]
name = "study"
org = "hq"
description = "quotes \" and $(commands) `here`"
[[cell]]
name = "server"
kind = "server"
listen = "0.0.0.0:8002"
hosts = ["server.example.org", "192.0.2.7"]
[[cell]]
name = "relay-a"
kind = "relay"
parent = "server"
listen = "0.0.0.0:8003"
hosts = ["relay.example.org"]
[[cell]]
name = "site-1"
kind = "client"
parent = "relay-a"
org = "st-mary"
[[cell]]
name = "site-2"
kind = "client"
parent = "server"
[[admin]]
name = "alice"
role = "project_admin"
[[admin]]
name = "bob"
org = "st-mary"
role = "auditor"
[[allow]]
from = "site-*"
to = "server"
channel = "task"
topics = ["fetch"]
"#;

/// Where one test happens.
pub struct Place {
    dir: TempDir,
    /// Which passphrases were asked for.
    pub asked: RefCell<Vec<Wanted>>,
}

impl Place {
    pub fn new() -> Self {
        let private = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(private).tempdir();
        Self { dir: dir.expect("a temporary directory"), asked: RefCell::default() }
    }

    /// A place in which [`STUDY`] has been provisioned.
    pub fn provisioned() -> Self {
        let place = Self::new();
        place.run(STUDY, NOW).expect("it is a good project");
        place.asked.borrow_mut().clear();
        place
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn out(&self) -> PathBuf {
        self.dir().join("fed")
    }

    /// The kit of `name` in the first directory of kits.
    pub fn kit(&self, name: &str) -> PathBuf {
        self.out().join("kits-0001").join(name)
    }

    pub fn run(&self, text: &str, now_unix: u64) -> Result<Report, ProvisionError> {
        self.run_with(text, now_unix, None, "correct horse battery")
    }

    pub fn add(&self, text: &str, name: &str) -> Result<Report, ProvisionError> {
        self.run_with(text, NOW, Some(name), "correct horse battery")
    }

    pub fn run_with(
        &self,
        text: &str,
        now_unix: u64,
        only: Option<&str>,
        passphrase: &str,
    ) -> Result<Report, ProvisionError> {
        let project = project(text);
        let out = self.out();
        let only = only.map(|name| name.parse().expect("a name"));
        let order = Order {
            project: &project,
            out: &out,
            only: only.as_ref(),
            key: None,
            now_unix,
            work_factor: 2,
        };
        provision(&order, &mut |wanted| {
            self.asked.borrow_mut().push(wanted);
            Passphrase::new(Zeroizing::new(passphrase.to_owned()))
        })
    }

    /// Every file and directory, with mode and content.
    pub fn tree(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        tree(self.dir())
    }
}

pub fn project(text: &str) -> Project {
    project::parse(text).expect("a good project").project
}

/// The row of one participant.
pub fn row<'a>(report: &'a Report, name: &str) -> &'a Row {
    report.participants.iter().find(|row| row.name.as_str() == name).expect("a participant")
}

pub fn open(kit: &Path) -> Result<Kit, Refused> {
    Kit::open(kit, None, NOW)
}

pub fn tree(dir: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let metadata = path.symlink_metadata().expect("it was listed");
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            found.push((path.clone(), mode, Vec::new()));
            found.extend(tree(&path));
        } else {
            let content =
                if metadata.is_file() { fs::read(&path).expect("it is ours") } else { Vec::new() };
            found.push((path, mode, content));
        }
    }
    found.sort();
    found
}
