//! One process per cell, all of this binary.

use std::{io, path::Path, process::Stdio, time::Duration};

use cellbus_proto::{name::Fqcn, topology::Topology};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::{StopSignals, UpEnd, UpEvent, tree_order};

/// Ends this process when the one that started it dies.
///
/// # Errors
/// When the system does not know how.
pub fn follow_launcher() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// A process that was started, and has not been waited for.
#[derive(Clone)]
struct Started {
    cell: Fqcn,
    pid: Option<Pid>,
    asked: bool,
    alive: bool,
}

/// Runs every cell of `topology`, which was read from `file`, in a process of its own, until a signal
/// comes or all have ended. `arguments` stand in front of those that say which cell.
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
    mut tell: impl FnMut(UpEvent),
) -> io::Result<UpEnd> {
    let mut signals = StopSignals::listen()?;
    let mut cells: Vec<Started> = Vec::new();
    let mut ending = FuturesUnordered::new();
    for name in tree_order(topology) {
        let Some(spec) = topology.cell(&name) else { continue };
        let mut child = match command(file, root, &name, arguments).and_then(|mut c| c.spawn()) {
            Ok(child) => child,
            Err(error) => {
                cells.iter().for_each(|cell| signal(cell, Signal::TERM));
                return Err(error);
            }
        };
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let index = cells.len();
        cells.push(Started { cell: spec.fqcn.clone(), pid, asked: false, alive: true });
        tell(UpEvent::Started { cell: spec.fqcn.clone(), address: None });
        ending.push(async move { (index, child.wait().await) });
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
            Some((index, status)) = ending.next() => {
                let clean = status.is_ok_and(|status| status.success());
                if !clean {
                    end = UpEnd::Aborted;
                }
                cells[index].alive = false;
                tell(UpEvent::Stopped { cell: cells[index].cell.clone(), clean });
            }
            // Children first: who is next to go is asked when those after it are gone.
            () = tokio::time::sleep(Duration::from_millis(50)), if asked == 1 => {
                ask_next(&mut cells, &mut tell);
            }
        }
        if cells.iter().all(|cell| !cell.alive) {
            return Ok(end);
        }
    }
}

/// Asks the last cell that still lives to drain, once: it stands below all that were started before.
fn ask_next(cells: &mut [Started], tell: &mut impl FnMut(UpEvent)) {
    let Some(last) = cells.iter().rposition(|cell| cell.alive) else { return };
    let cell = &mut cells[last];
    if !cell.asked {
        cell.asked = true;
        tell(UpEvent::Draining { cell: cell.cell.clone() });
        signal(cell, Signal::TERM);
    }
}

fn signal(cell: &Started, signal: Signal) {
    if let Some(pid) = cell.pid.filter(|_| cell.alive) {
        // Fails only for a process that has ended and will be waited for.
        let _ = kill_process(pid, signal);
    }
}

fn command(file: &Path, root: &Path, name: &str, arguments: &[String]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(arguments)
        .arg("up")
        .arg(file)
        .args(["--only", name, "--with-launcher", "--state"])
        .arg(root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // A terminal's interrupt goes to the whole group; these are to be asked one after the other.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}
