//! A federation whose cells offer small programs of the shell, and jobs made of them.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;

use super::{Answer, Exit, Federation, Process, Running, SOON, descendants, until};

/// What cells offer to jobs in these tests.
pub const PROGRAMS: &str = r#"
[[program]]
name = "hold"
cells = ["server", "site-*"]
argv = ["sh", "-c", "echo \"$CELLBUS_CELL of $CELLBUS_JOB with $CELLBUS_SERVER_CELL and $CELLBUS_SITES\"; exec sleep \"$1\"", "sh", "{seconds}"]
parameters = { seconds = "integer" }

[[program]]
name = "exits"
cells = ["server", "site-*"]
argv = ["sh", "-c", "exit \"$1\"", "sh", "{code}"]
parameters = { code = "integer" }

[[program]]
name = "stubborn"
cells = ["site-*"]
argv = ["sh", "-c", "trap '' TERM INT HUP; echo stubborn; while :; do sleep 1; done"]

[[program]]
name = "forks"
cells = ["site-*"]
argv = ["sh", "-c", "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000; sleep 1000' >/dev/null 2>&1 &); echo forked; exec sleep 1000"]

[[program]]
name = "limited"
cells = ["site-*"]
argv = ["sh", "-c", "echo begun; exec sleep 1000"]
processes = 4000
memory_mib = 512
cpus = 2

[[program]]
name = "floods"
cells = ["site-*"]
argv = ["yes", "a line that comes again and again"]

[[program]]
name = "shows"
cells = ["site-*"]
argv = ["sh", "-c", "ls /proc/self/fd; env; ulimit -n; ulimit -c; pwd; printf 'a\\033[2Jb\\n'"]
environment = ["OMP_NUM_THREADS"]
open_files = 77

[[program]]
name = "code"
cells = ["site-*"]
argv = ["sh", "main.sh"]
custom_code = true

[[program]]
name = "notebook"
cells = ["site-*"]
attach = true
parameters = { rounds = "integer" }

[[program]]
name = "patient"
cells = ["site-*"]
argv = ["sh", "-c", "echo begun; while [ ! -e \"$1\" ]; do sleep 0.1; done; echo done", "sh", "{file}"]
parameters = { file = "text" }
detach_s = 600

[[program]]
name = "stubborn-patient"
cells = ["site-*"]
argv = ["sh", "-c", "trap '' TERM INT HUP; echo begun; while :; do sleep 0.1; done"]
detach_s = 600
"#;

/// A server, a relay and two sites, each a process of its own, and jobs.
pub struct Study {
    /// The cells.
    pub cells: Federation,
}

impl Study {
    /// All cells, started and registered.
    pub fn up() -> Self {
        Self { cells: Federation::up_with(PROGRAMS) }
    }

    /// Describes a job in a directory of its own: which program runs at the server and which at the sites, with
    /// their arguments, and more tables.
    pub fn describe(&self, name: &str, server: &str, site: &str, more: &str) -> PathBuf {
        let dir = self.cells.place.dir().join(format!("job-{name}"));
        fs::create_dir_all(&dir).expect("the place takes directories");
        let part = |words: &str| {
            let (program, arguments) = words.split_once(' ').unwrap_or((words, ""));
            format!("program = \"{program}\"\narguments = {{ {arguments} }}\n")
        };
        let text = format!(
            "[job]\nname = \"{name}\"\n[server]\nfiles = false\n{}[site]\n{}{more}",
            part(server),
            part(site)
        );
        fs::write(dir.join("job.toml"), text).expect("the directory takes files");
        dir
    }

    /// Starts `job run`, with events.
    pub fn run(&self, dir: &std::path::Path) -> Running {
        let state = self.cells.place.state();
        let words = ["job", "run", text(dir), "--state", text(&state), "-o", "jsonl"];
        self.cells.place.start(&words)
    }

    /// Asks about jobs.
    pub fn ask(&self, words: &[&str]) -> Answer {
        self.cells.place.ask_cell(&[&["job"], words].concat())
    }

    /// What is known of a job.
    pub fn show(&self, job: &str) -> Value {
        self.ask(&["show", job]).data()
    }

    /// Every process that the cells have started for jobs.
    pub fn processes(&self) -> BTreeSet<Process> {
        let cells = Federation::CELLS.into_iter();
        cells.flat_map(|cell| self.cells.of(cell).descendants()).collect()
    }

    /// The job cell that `cell` has started.
    pub fn job_cell(&self, cell: &str) -> Process {
        let is_cell = |process: &Process| last_word(*process).as_deref() == Some("job-cell");
        let found = || self.cells.of(cell).descendants().into_iter().find(is_cell);
        until("a job cell", SOON, found)
    }

    /// What the job cell of `cell` has started.
    pub fn program(&self, cell: &str) -> Process {
        let found = || {
            let below = descendants(self.job_cell(cell));
            below.into_iter().find(|process| {
                let words = process.arguments().unwrap_or_default();
                words.first().is_none_or(|word| word != "launch-shim")
            })
        };
        until("a program of a job", SOON, found)
    }

    /// Waits until every part of the job that `running` follows runs, and each has its program.
    pub fn wait_running(&self, running: &Running) {
        running.out.wait_json("a running job", 2 * SOON, |line| {
            (line["event"] == "job" && line["state"] == "running").then_some(())
        });
        for cell in ["server", "site-1", "site-2"] {
            self.program(cell);
        }
    }

    /// Waits until no process of a job is left, and no file.
    pub fn assert_nothing_left(&self) {
        until("the end of every process of a job", SOON, || {
            self.processes().is_empty().then_some(())
        });
        for cell in Federation::CELLS {
            let jobs = self.cells.place.state().join(cell).join("jobs");
            until("no file of a job", SOON, || (!jobs.exists()).then_some(()));
        }
    }
}

/// The last argument of a process.
pub fn last_word(process: Process) -> Option<String> {
    process.arguments()?.pop()
}

/// The outcome that an exit of `job run` states, and its code.
pub fn outcome(exit: &Exit) -> (Option<i32>, String, Value) {
    let envelope = exit.envelope();
    let outcome = envelope["data"]["outcome"].as_str().unwrap_or("none").to_owned();
    (exit.code, outcome, envelope)
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("temporary paths are text")
}
