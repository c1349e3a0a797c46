//! A directory of its own for one test: topology files, state, and what the binary is told of the world.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Running, SOON};

/// Where one test happens; gone at its end.
pub struct Place {
    dir: TempDir,
}

/// What a command said with `-o json`.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code.
    pub exit: i32,
    /// Its envelope.
    pub envelope: Value,
    /// Everything on its standard error.
    pub err: Vec<String>,
    /// Time from its start to its end.
    pub took: Duration,
}

impl Place {
    /// An empty one.
    pub fn new() -> Self {
        let private = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("cb-").permissions(private).tempdir();
        let place = Self { dir: dir.expect("there is a directory for temporary files") };
        fs::create_dir(place.temporary()).expect("the place is new");
        place
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where cells keep their state; not there until they make it.
    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Where the binary puts temporary files.
    pub fn temporary(&self) -> PathBuf {
        self.dir().join("tmp")
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir().join(name);
        fs::write(&path, content).expect("the place takes files");
        path
    }

    /// The binary with `arguments`, with this place for home.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        self.at_home(Command::new(env!("CARGO_BIN_EXE_cellbus")), arguments)
    }

    /// As [`command`](Self::command), after these words of a shell, such as `umask 000`.
    pub fn command_after<S: AsRef<OsStr>>(&self, words: &str, arguments: &[S]) -> Command {
        let mut shell = Command::new("sh");
        let script = format!("{words} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_cellbus")]);
        self.at_home(shell, arguments)
    }

    /// As [`command_after`](Self::command_after), in namespaces of its own for users and mounts.
    pub fn command_in_namespaces<S: AsRef<OsStr>>(&self, words: &str, arguments: &[S]) -> Command {
        let mut unshare = Command::new("unshare");
        let script = format!("{words} && exec \"$0\" \"$@\"");
        let own = ["--user", "--map-root-user", "--mount", "sh", "-c", &script];
        unshare.args(own).arg(env!("CARGO_BIN_EXE_cellbus"));
        self.at_home(unshare, arguments)
    }

    /// As [`command`](Self::command), as a container has it: with process numbers of its own, in a session that began
    /// outside.
    pub fn command_in_container<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
        unshare.args(["--mount-proc", "sh", "-c", "\"$0\" \"$@\"; exit $?"]);
        unshare.arg(env!("CARGO_BIN_EXE_cellbus"));
        self.at_home(unshare, arguments)
    }

    /// As [`command`](Self::command), in the namespaces of this process.
    pub fn command_beside<S: AsRef<OsStr>>(&self, pid: u32, arguments: &[S]) -> Command {
        let mut enter = Command::new("nsenter");
        enter.args(["--user", "--mount", "--preserve-credentials", "--target", &pid.to_string()]);
        enter.arg(env!("CARGO_BIN_EXE_cellbus"));
        self.at_home(enter, arguments)
    }

    fn at_home<S: AsRef<OsStr>>(&self, mut command: Command, arguments: &[S]) -> Command {
        command
            .args(arguments)
            .current_dir(self.dir())
            .env("HOME", self.dir())
            .env("TMPDIR", self.temporary())
            .env_remove("XDG_STATE_HOME")
            .env("NO_COLOR", "1");
        command
    }

    /// Starts the binary with `arguments`.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Runs a command to its end, with `-o json`.
    pub fn ask(&self, arguments: &[&str]) -> Answer {
        let begun = Instant::now();
        let arguments = [arguments, &["-o", "json"]].concat();
        let exit = self.start(&arguments).exit(4 * SOON);
        let took = begun.elapsed();
        let code = exit.code.unwrap_or_else(|| panic!("{arguments:?} was killed: {exit:?}"));
        Answer { exit: code, envelope: exit.envelope(), err: exit.err, took }
    }

    /// Asks the cells whose state lies here.
    pub fn ask_cell(&self, arguments: &[&str]) -> Answer {
        let state = self.state();
        let state = state.to_str().expect("temporary paths are text");
        self.ask(&[arguments, &["--state", state]].concat())
    }
}

impl Answer {
    /// What was found.
    ///
    /// # Panics
    /// When the command failed.
    pub fn data(self) -> Value {
        assert_eq!(self.exit, 0, "{self:#?}");
        self.envelope["data"].clone()
    }

    /// The exit code and the error's code.
    pub fn refusal(&self) -> (i32, &str) {
        (self.exit, self.envelope["error_code"].as_str().unwrap_or("no error"))
    }

    /// The cell that refused.
    pub fn by(&self) -> &str {
        self.envelope["by"].as_str().unwrap_or("nobody")
    }

    /// What happened, for people.
    pub fn message(&self) -> &str {
        self.envelope["message"].as_str().unwrap_or("")
    }
}

/// An address of this machine that no other test uses, on a port that the kernel gives to nobody by itself.
pub fn own_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORT: u16 = 7447;
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let host = 1 + u8::try_from(next % 250).expect("it is less than 250");
    // Processes of one machine differ in the lower bytes; few machines count beyond three.
    format!("127.{}.{low}.{host}:{PORT}", 1 + (high ^ middle) % 250)
}
