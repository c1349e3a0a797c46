//! Which running cell a command means, and the way to it.

use std::{
    io,
    path::{Path, PathBuf},
};

use cellbus_cells::control::{
    ControlClient, ControlError, Conversation, LocalCode, Place, Reply, Request, SOCKET_FILE,
    StatusReport, WrongReply, default_root, project_root, projects_under, sockets_under,
};
use cellbus_proto::{
    identity::CellKind,
    name::{Fqcn, Segment},
};

use crate::{args::Target, codes::CliCode, files, output::Failure};

/// Asks the cell that `target` means.
///
/// # Errors
/// When no such cell runs, several could be meant, or the cell refuses.
pub async fn ask<T>(target: &Target, request: Request) -> Result<T, Box<Failure>>
where
    T: TryFrom<Reply, Error = WrongReply>,
{
    let socket = socket(target).await?;
    Ok(ControlClient::connect(&socket).await?.ask(request).await?)
}

/// Begins a request that goes on with the cell that `target` means.
///
/// # Errors
/// As [`ask`].
pub async fn converse(target: &Target, request: Request) -> Result<Conversation, Box<Failure>> {
    let socket = socket(target).await?;
    Ok(ControlClient::connect(&socket).await?.converse(request).await?)
}

/// The full name of the cell that a person calls `name`: its base name is enough where the topology
/// file is given.
pub fn full_name(target: &Target, name: Fqcn) -> Result<Fqcn, Box<Failure>> {
    let Some(file) = &target.topology else { return Ok(name) };
    let topology = files::load(file)?.topology;
    let by_base = topology.cell(name.as_str()).map(|cell| cell.fqcn.clone());
    Ok(by_base.unwrap_or(name))
}

async fn socket(target: &Target) -> Result<PathBuf, Box<Failure>> {
    if let Some(socket) = &target.socket {
        return Ok(socket.clone());
    }
    let state = state_of(target)?;
    if target.at.is_none() && state.join(SOCKET_FILE).symlink_metadata().is_ok() {
        return Ok(state.join(SOCKET_FILE));
    }
    let places = sockets_under(&state).map_err(|error| unreadable(&state, &error))?;
    match (&target.at, &places[..]) {
        (Some(cell), places) => named(cell, places, &state),
        (None, []) => Err(not_running(format!("no cell runs under {}", state.display()))),
        (None, [place]) => Ok(place.socket.clone()),
        (None, places) => the_server(places, &state).await,
    }
}

/// The control sockets of the cells that `target` means: of one, where one is named, and else of every cell
/// of the project, each with the base name of its cell.
///
/// # Errors
/// When the project is not known, or no such cell has a socket.
pub async fn sockets(target: &Target) -> Result<Vec<(Option<String>, PathBuf)>, Box<Failure>> {
    if target.socket.is_some() || target.at.is_some() {
        return Ok(vec![(None, socket(target).await?)]);
    }
    let state = state_of(target)?;
    if state.join(SOCKET_FILE).symlink_metadata().is_ok() {
        return Ok(vec![(None, state.join(SOCKET_FILE))]);
    }
    let places = sockets_under(&state).map_err(|error| unreadable(&state, &error))?;
    if places.is_empty() {
        return Err(not_running(format!("no cell runs under {}", state.display())));
    }
    let place = |place: Place| (Some(place.cell.to_string()), place.socket);
    Ok(places.into_iter().map(place).collect())
}

/// The directory with one directory per cell.
fn state_of(target: &Target) -> Result<PathBuf, Box<Failure>> {
    if let Some(state) = &target.state {
        return Ok(state.clone());
    }
    let xdg = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let Some(root) = default_root(xdg.as_deref(), home.as_deref()) else {
        let text = "neither XDG_STATE_HOME nor HOME is an absolute path";
        return Err(Failure::new(CliCode::CellAmbiguous, text).hint("say where with --state DIR"));
    };
    if let Some(project) = &target.project {
        return Ok(project_root(&root, project));
    }
    if let Some(file) = &target.topology {
        return Ok(project_root(&root, &files::load(file)?.topology.project));
    }
    the_project(&root)
}

/// The only project below `root` with a control socket.
fn the_project(root: &Path) -> Result<PathBuf, Box<Failure>> {
    let mut found: Vec<(Segment, PathBuf)> = Vec::new();
    for project in projects_under(root).map_err(|error| unreadable(root, &error))? {
        let state = project_root(root, &project);
        let places = sockets_under(&state).map_err(|error| unreadable(&state, &error))?;
        if !places.is_empty() {
            found.push((project, state));
        }
    }
    match &found[..] {
        [] => Err(not_running(format!("no cell runs under {}", root.display()))),
        [(_, state)] => Ok(state.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|(project, _)| project.as_str()).collect();
            let text = format!("projects under {}: {}", root.display(), names.join(", "));
            Err(Failure::new(CliCode::CellAmbiguous, text).hint("choose one with --project NAME"))
        }
    }
}

fn named(cell: &Fqcn, places: &[Place], state: &Path) -> Result<PathBuf, Box<Failure>> {
    let found = places.iter().find(|place| place.cell.as_str() == cell.base());
    found.map(|place| place.socket.clone()).ok_or_else(|| {
        let failure = not_running(format!("cell `{cell}` does not run under {}", state.display()));
        if places.is_empty() {
            failure
        } else {
            failure.hint(format!("cells there: {}", names(places)))
        }
    })
}

/// The one running server among several cells.
async fn the_server(places: &[Place], state: &Path) -> Result<PathBuf, Box<Failure>> {
    let (mut servers, mut others) = (Vec::new(), Vec::new());
    for place in places {
        // A socket that nobody answers on is left by a cell that died; it is not what is meant.
        let Ok(client) = ControlClient::connect(&place.socket).await else { continue };
        let Ok(status) = client.ask::<StatusReport>(Request::Status).await else { continue };
        let kind = if status.kind == CellKind::Server { &mut servers } else { &mut others };
        kind.push(place.clone());
    }
    match (&servers[..], &others[..]) {
        ([server], _) => Ok(server.socket.clone()),
        ([], [only]) => Ok(only.socket.clone()),
        ([], []) => Err(not_running(format!("no cell answers under {}", state.display()))),
        (servers, others) => {
            let names = names(&[servers, others].concat());
            let text = format!("cells under {}: {names}", state.display());
            Err(Failure::new(CliCode::CellAmbiguous, text).hint("choose one with --at CELL"))
        }
    }
}

fn names(places: &[Place]) -> String {
    places.iter().map(|place| place.cell.as_str()).collect::<Vec<_>>().join(", ")
}

/// The failure of a command that finds nobody to ask.
pub fn not_running(text: String) -> Box<Failure> {
    let error = ControlError::local(LocalCode::CellNotRunning, text);
    error.hint("say where its state is with --state DIR, --topology FILE or --socket PATH").into()
}

fn unreadable(dir: &Path, error: &io::Error) -> Box<Failure> {
    Failure::new(CliCode::Input, format!("{}: {error}", dir.display()))
}
