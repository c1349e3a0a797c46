//! One process of the binary.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{Doomed, Lines, Process, SOON, descendants, until};

/// A process that was started, with what it prints. It is killed, with all that it has started, when
/// this is dropped.
pub struct Running {
    child: Child,
    process: Process,
    /// Its standard output.
    pub out: Lines,
    /// Its standard error, and that of what it starts.
    pub err: Lines,
}

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; `None` for one that a signal ended.
    pub code: Option<i32>,
    /// Everything on its standard output.
    pub out: Vec<String>,
    /// Everything on its standard error.
    pub err: Vec<String>,
}

impl Running {
    /// Starts `command`.
    pub fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("the binary can be started");
        let out = Lines::read(child.stdout.take().expect("it is piped"));
        let err = Lines::read(child.stderr.take().expect("it is piped"));
        let process = Process::find(child.id()).expect("nobody has waited for it yet");
        Self { child, process, out, err }
    }

    /// Which process it is.
    pub fn process(&self) -> Process {
        self.process
    }

    /// The processes that it has started, at this moment.
    pub fn descendants(&self) -> Vec<Process> {
        descendants(self.process)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for an event of `-o jsonl` with this name, of this cell.
    pub fn wait_event(&self, event: &str, cell: &str) -> Value {
        self.out.wait_json(&format!("{event} of {cell}"), SOON, |line| {
            (line["event"] == event && line["cell"] == cell).then(|| line.clone())
        })
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is ours to wait for")
    }

    /// Waits until it ends, and until nothing that it started can print any longer.
    ///
    /// # Panics
    /// When it does not end within `patience`.
    pub fn exit(mut self, patience: Duration) -> Exit {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            assert!(
                begun.elapsed() < patience,
                "still running after {patience:?}\n{}\n{}",
                self.out.so_far().join("\n"),
                self.err.so_far().join("\n")
            );
            super::leave_the_machine_to_others(Duration::from_millis(5));
        };
        let (out, err) = (self.out.wait_for_end(SOON), self.err.wait_for_end(SOON));
        Exit { code: status.code(), out, err }
    }

    /// Ends it as a crash would, waits until it is gone, and gives what it had started.
    pub fn kill(mut self) -> Doomed {
        let below = Doomed(self.descendants().into_iter().collect());
        self.signal(Signal::KILL);
        let status = until("the end of a killed process", SOON, || self.ended());
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        below
    }
}

impl Exit {
    /// The envelope of `-o json` or `-o jsonl`: the last line.
    pub fn envelope(&self) -> Value {
        let last = self.out.last().unwrap_or_else(|| panic!("no envelope: {self:?}"));
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The lines on standard error that are no event of a log below WARN: warnings, errors, panics. That the
    /// machine had no time for the process is nothing that it did.
    pub fn loud(&self) -> Vec<&String> {
        const STARVED: &str = "the event loop was kept from its work";
        let quiet = |line: &&String| {
            let event: Option<Value> = serde_json::from_str(line).ok();
            event.is_some_and(|event| {
                ["INFO", "DEBUG", "TRACE"].iter().any(|level| event["level"] == *level)
                    || event["fields"]["message"] == STARVED
            })
        };
        self.err.iter().filter(|line| !quiet(line)).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Stopped first, so that it cannot start another one in the meantime.
        self.signal(Signal::STOP);
        let below = self.descendants();
        // Each fails only for a process that has ended.
        let _ = self.child.kill();
        for process in below {
            process.signal(Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
