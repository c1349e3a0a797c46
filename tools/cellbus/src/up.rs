//! `up`: runs cells until somebody says stop.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use cellbus_cells::{
    control::{cell_dir, default_root, project_root},
    door::DoorSettings,
    node::{Node, RulesSource, UpError},
    up::{self, Given, SecondSignal, UpEnd, UpEvent, processes},
};
use cellbus_proto::{causes::with_sources, topology::Topology};
use serde_json::json;

use crate::{
    args::{Global, Up},
    clusters,
    codes::CliCode,
    files, kit,
    output::{Failure, Format, Outcome, Success, print_event, printable, say},
    reload,
};

/// Runs the cells of a topology.
pub fn run(global: &Global, args: &Up) -> Outcome {
    if let Some(launcher) = args.with_launcher {
        processes::follow_launcher(launcher).map_err(|error| input(&error))?;
    }
    if let Some(dir) = &args.kit {
        return run_kit(global, args, dir);
    }
    let file = args.file.as_deref().expect("the command line demands a file or a kit");
    let topology = files::load(file)?.topology;
    if let Some(name) = &args.only
        && topology.cell(name).is_none()
    {
        let names: Vec<String> =
            topology.cells().iter().map(|cell| cell.name.to_string()).collect();
        let text = format!("{} has no cell `{name}`", file.display());
        let hint = format!("cells: {}", names.join(", "));
        return Err(Failure::new(CliCode::Config, text).hint(hint));
    }
    let root = state_root(args.state.clone(), &topology)?;
    let format = global.format;
    let tell = move |event: UpEvent| show(format, &event);
    let ended = if args.processes {
        let file = file.canonicalize().map_err(|error| input(&error))?;
        let arguments = passed_on(global);
        // What all of them share is made once, and is wrong once.
        Node::prepare(topology.clone(), root.clone()).map_err(|error| failed(&error))?;
        let not_started = i32::from(CliCode::Start.exit().number());
        let running = processes::run(&topology, &file, &root, &arguments, not_started, tell);
        crate::on_actix(running).map_err(|error| input(&error))?
    } else {
        // Only one of the two is to lose patience: the launcher, which knows them all.
        let metrics = match args.with_launcher {
            Some(_) => own_metrics(&topology, args.only.as_deref()),
            None => topology.metrics,
        };
        let mut topology = topology;
        topology.metrics = metrics;
        let second = match args.with_launcher {
            Some(_) => SecondSignal::SaysNothing,
            None => SecondSignal::Ends,
        };
        // Not resolved: where links lead may be what changes.
        let file = std::path::absolute(file).map_err(|error| input(&error))?;
        let running =
            up::run(topology, &file, root, args.only.as_deref(), second, clusters::open(), tell);
        crate::on_actix(running).map_err(|error| failed(&error))?
    };
    finished(ended, &file.display().to_string())
}

/// Runs the cell of a kit, which has been examined from its first byte to its last.
fn run_kit(global: &Global, args: &Up, dir: &Path) -> Outcome {
    let dir = std::path::absolute(dir).map_err(|error| input(&error))?;
    let given = args.state.clone();
    let state = move |topology: &Topology, cell: &str| state_of(given.clone(), topology, cell);
    let kit = kit::open_with(&dir, args.root.as_deref(), &state)?;
    let Some(cell) = kit.cell().cloned() else {
        let text = format!("{} is the kit of a person, {}", dir.display(), kit.manifest.name);
        return Err(Failure::new(CliCode::Kit, text).hint("name the kit of a cell"));
    };
    let root = state_root(args.state.clone(), &kit.topology)?;
    let format = global.format;
    let again = (dir.clone(), args.root.clone());
    let given = Given {
        credentials: kit.startup(),
        renewed_by: kit.manifest.renewed_by,
        rules: RulesSource::new(move || kit::load_again(&again.0, again.1.as_deref(), &state)),
        door: kit.door.map(|door| DoorSettings { listen: door.listen, address: door.address }),
        clusters: clusters::open(),
    };
    let file = kit::topology_file(&dir);
    let tell = move |event: UpEvent| show(format, &event);
    let running = up::run_given(kit.topology, given, &file, root, cell.name.as_str(), tell);
    let ended = crate::on_actix(running).map_err(|error| failed(&error))?;
    finished(ended, &dir.display().to_string())
}

fn finished(ended: UpEnd, from: &str) -> Outcome {
    match ended {
        UpEnd::Drained => Ok(Success::new(&json!({ "end": "drained" }), String::new())),
        UpEnd::Aborted => {
            let text = "not everything that was accepted was finished";
            Err(Failure::new(CliCode::Unfinished, text))
        }
        UpEnd::NotStarted => {
            let text = format!("no cell of {from} can be started");
            Err(Failure::new(CliCode::Start, text).hint("each has said why above"))
        }
    }
}

/// Where one of several processes on this machine gives its figures: the cell that stands n-th in the file,
/// n ports above the first.
fn own_metrics(topology: &Topology, cell: Option<&str>) -> Option<SocketAddr> {
    let first = topology.metrics?;
    let place = topology.cells().iter().position(|spec| Some(spec.name.as_str()) == cell)?;
    let port = match first.port() {
        0 => 0,
        port => port.checked_add(u16::try_from(place).ok()?)?,
    };
    Some(SocketAddr::new(first.ip(), port))
}

/// Where the state of a project lies: what was said, or the user's own place for it.
pub fn state_root(given: Option<PathBuf>, topology: &Topology) -> Result<PathBuf, Box<Failure>> {
    if let Some(state) = given {
        return std::path::absolute(state).map_err(|error| input(&error));
    }
    let xdg = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let root = default_root(xdg.as_deref(), home.as_deref()).ok_or_else(|| {
        let text = "neither XDG_STATE_HOME nor HOME is an absolute path";
        Failure::new(CliCode::Input, text).hint("say where with --state DIR")
    })?;
    Ok(project_root(&root, &topology.project))
}

/// Where one cell keeps its state, whether or not it is there.
pub fn state_of(given: Option<PathBuf>, topology: &Topology, cell: &str) -> Option<PathBuf> {
    let root = state_root(given, topology).ok()?;
    Some(cell_dir(&root, &topology.cell(cell)?.fqcn))
}

/// Logging is chosen once, for all processes.
fn passed_on(global: &Global) -> Vec<String> {
    let mut arguments = Vec::new();
    if global.verbose > 0 {
        arguments.push(format!("-{}", "v".repeat(global.verbose.into())));
    }
    if let Some(filter) = &global.log {
        arguments.extend(["--log".to_owned(), filter.clone()]);
    }
    let format = match global.format {
        Format::Table => return arguments,
        Format::Json => "json",
        Format::Jsonl => "jsonl",
    };
    arguments.extend(["-o".to_owned(), format.to_owned()]);
    arguments
}

fn show(format: Format, event: &UpEvent) {
    let line = match event {
        UpEvent::Started { cell, address: Some(address) } => format!("{cell} listens on {address}"),
        UpEvent::Started { cell, address: None } => format!("{cell} started"),
        UpEvent::JoinDoor { cell, address } => {
            format!("{cell} takes requests to join on {address}")
        }
        UpEvent::Metrics { address } => format!("figures at http://{address}/metrics"),
        UpEvent::Ready { cell, after_ms } => format!("{cell} ready after {after_ms} ms"),
        UpEvent::Draining { cell } => format!("{cell} drains"),
        UpEvent::Stopped { cell, clean: true } => format!("{cell} stopped"),
        UpEvent::Stopped { cell, clean: false } => format!("{cell} stopped before it was done"),
        UpEvent::Reloaded { by, from, to, changes, needs_restart } => {
            reload::reloaded(by, (*from, *to), changes, needs_restart)
        }
        UpEvent::ReloadRefused { by, problems } => {
            format!("the rules stay as they are ({by}):\n  {}", problems.join("\n  "))
        }
    };
    match format {
        Format::Jsonl => print_event(event),
        Format::Table => say(&printable(&line)),
        Format::Json => {}
    }
}

/// What kept a cell from starting, with everything that it came from.
pub fn failed(error: &UpError) -> Box<Failure> {
    Failure::new(CliCode::Start, with_sources(error))
}

fn input(error: &std::io::Error) -> Box<Failure> {
    Failure::new(CliCode::Input, error.to_string())
}
