//! One process per cell, all of this binary.

use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use cellbus_proto::{name::Fqcn, topology::Topology};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rustix::process::{Pid, Signal, getppid, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc::{Sender, channel},
};

use super::{StopSignals, UpEnd, UpEvent, hangups, next_hangup, tree_order};

/// Events that wait to be told. A process that says more waits with the next one; all that it has said are
/// in front of its end.
const EVENTS_MAX: usize = 64;

/// Ends this process when `launcher`, which started it, dies.
///
/// # Errors
/// When the system does not know how, or `launcher` is gone already.
pub fn follow_launcher(launcher: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    let parent = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    if parent == Some(launcher) {
        return Ok(());
    }
    Err(io::Error::other(format!("process {launcher}, which launched this one, is gone")))
}

/// A process that was started, and has not been waited for.
#[derive(Clone)]
struct Started {
    cell: Fqcn,
    pid: Option<Pid>,
    asked: bool,
    alive: bool,
    /// It ended because its cell cannot be started.
    refused: bool,
}

/// Runs every cell of `topology`, which was read from `file`, in a process of its own, until a signal
/// comes or all have ended. `arguments` stand in front of those that say which cell; where they make the
/// processes print their events as JSON lines, these are told here too. A process whose cell cannot be
/// started ends with the exit code `not_started`.
///
/// A process that ends by itself leaves the others running. A second signal ends everything at once.
///
/// # Errors
/// When a process cannot be started; those that were are told to end.
pub async fn run(
    topology: &Topology,
    file: &Path,
    root: &Path,
    arguments: &[String],
    not_started: i32,
    mut tell: impl FnMut(UpEvent),
) -> io::Result<UpEnd> {
    let mut signals = StopSignals::listen()?;
    let mut hangups = hangups();
    let mut cells: Vec<Started> = Vec::new();
    let mut ending = FuturesUnordered::new();
    let (told, mut events) = channel(EVENTS_MAX);
    for name in tree_order(topology) {
        let Some(spec) = topology.cell(&name) else { continue };
        let child = match command(file, root, &name, arguments).and_then(|mut c| c.spawn()) {
            Ok(child) => child,
            Err(error) => {
                cells.iter().for_each(|cell| signal(cell, Signal::TERM));
                return Err(error);
            }
        };
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let index = cells.len();
        cells.push(Started {
            cell: spec.fqcn.clone(),
            pid,
            asked: false,
            alive: true,
            refused: false,
        });
        let told = told.clone();
        ending.push(async move { (index, follow(child, told).await) });
    }
    let mut end = UpEnd::Drained;
    let mut asked = 0u32;
    loop {
        tokio::select! {
            biased;
            () = signals.next() => {
                asked += 1;
                if asked > 1 {
                    end = UpEnd::Aborted;
                    cells.iter().for_each(|cell| signal(cell, Signal::KILL));
                }
            }
            () = next_hangup(&mut hangups) => {
                cells.iter().for_each(|cell| signal(cell, Signal::HUP));
            }
            Some((index, status)) = ending.next() => {
                cells[index].alive = false;
                let code = status.as_ref().ok().and_then(ExitStatus::code);
                cells[index].refused = code == Some(not_started);
                while let Ok(event) = events.try_recv() {
                    tell(event);
                }
                if !status.is_ok_and(|status| status.success()) {
                    end = UpEnd::Aborted;
                    tell(UpEvent::Stopped { cell: cells[index].cell.clone(), clean: false });
                }
            }
            Some(event) = events.recv() => tell(event),
            // Children first: who is next to go is asked when those after it are gone.
            () = tokio::time::sleep(Duration::from_millis(50)), if asked == 1 => {
                ask_next(&mut cells);
            }
        }
        if cells.iter().all(|cell| !cell.alive) {
            let refused = cells.iter().all(|cell| cell.refused);
            return Ok(if refused { UpEnd::NotStarted } else { end });
        }
    }
}

/// Asks the last cell that still lives to drain, once: it stands below all that were started before.
fn ask_next(cells: &mut [Started]) {
    let Some(last) = cells.iter().rposition(|cell| cell.alive) else { return };
    let cell = &mut cells[last];
    if !cell.asked {
        cell.asked = true;
        signal(cell, Signal::TERM);
    }
}

/// Waits for the end of a process, and tells the events that it prints meanwhile.
async fn follow(mut child: Child, told: Sender<UpEvent>) -> io::Result<ExitStatus> {
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            // The last line is no event but the result. How a process ended, its status says as well.
            match serde_json::from_str(&line) {
                Ok(UpEvent::Stopped { clean: false, .. }) | Err(_) => {}
                // Fails only when nobody waits any longer.
                Ok(event) => drop(told.send(event).await),
            }
        }
    }
    child.wait().await
}

fn signal(cell: &Started, signal: Signal) {
    if let Some(pid) = cell.pid.filter(|_| cell.alive) {
        // Fails only for a process that has ended and will be waited for.
        let _ = kill_process(pid, signal);
    }
}

fn command(file: &Path, root: &Path, name: &str, arguments: &[String]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    let launcher = std::process::id().to_string();
    command
        .args(arguments)
        .arg("up")
        .arg(file)
        .args(["--only", name, "--with-launcher", &launcher, "--state"])
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A terminal's interrupt goes to the whole group; these are to be asked one after the other.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_says_more_than_may_wait_is_heard_to_the_last_word_before_its_end() {
        const SAID: u64 = 500;
        let script = r#"i=0; while [ $i -lt 500 ]; do
            printf '{"event":"ready","cell":"server","after_ms":%d}\n' $i; i=$((i+1)); done; exit 7"#;
        let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let (told, mut events) = channel(1);
        let mut heard = Vec::new();
        let mut ending = std::pin::pin!(follow(child, told));
        let status = loop {
            tokio::select! {
                biased;
                status = &mut ending => break status.unwrap(),
                Some(event) = events.recv() => heard.push(event),
            }
        };
        while let Ok(event) = events.try_recv() {
            heard.push(event);
        }
        assert_eq!(status.code(), Some(7));
        let cell: Fqcn = "server".parse().unwrap();
        let said = (0..SAID).map(|after_ms| UpEvent::Ready { cell: cell.clone(), after_ms });
        assert_eq!(heard, said.collect::<Vec<_>>());
    }
}
