//! Where the state of the cells of this machine lies.
//!
//! `<root>/<project>/<base name of the cell>/control.sock`, where the root is
//! `$XDG_STATE_HOME/cellbus`, or `~/.local/state/cellbus`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cellbus_proto::name::{Fqcn, Segment};

/// Name of the socket file in the state directory of a cell.
pub const SOCKET_FILE: &str = "control.sock";

/// A control socket that was found, alive or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Base name of the cell, by its directory.
    pub cell: Segment,
    /// The socket file.
    pub socket: PathBuf,
}

/// The directory with one directory per project, or `None` when the user has no home.
///
/// `xdg_state_home` and `home` are the environment's; a relative `xdg_state_home` is ignored, as
/// its specification says.
#[must_use]
pub fn default_root(xdg_state_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let absolute = |path: &&Path| path.is_absolute();
    let state = xdg_state_home.filter(absolute).map(Path::to_owned);
    let state = state.or_else(|| home.filter(absolute).map(|home| home.join(".local/state")));
    state.map(|state| state.join("cellbus"))
}

/// The state directory of a project below `root`.
#[must_use]
pub fn project_root(root: &Path, project: &Segment) -> PathBuf {
    root.join(project.as_str())
}

/// The state directory of `cell` below that of its project.
#[must_use]
pub fn cell_dir(project_root: &Path, cell: &Fqcn) -> PathBuf {
    project_root.join(cell.base())
}

/// The projects below `root` that have state, sorted.
///
/// # Errors
/// What reading the directory says; a missing directory has no projects.
pub fn projects_under(root: &Path) -> io::Result<Vec<Segment>> {
    directories(root)
}

/// The control sockets of the cells below a project's state directory, sorted by cell.
///
/// # Errors
/// What reading the directory says; a missing directory has no cells.
pub fn sockets_under(project_root: &Path) -> io::Result<Vec<Place>> {
    let cells = directories(project_root)?.into_iter();
    let places = cells.map(|cell| {
        let socket = project_root.join(cell.as_str()).join(SOCKET_FILE);
        Place { cell, socket }
    });
    Ok(places.filter(|place| fs::symlink_metadata(&place.socket).is_ok()).collect())
}

fn directories(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(name), true) = (name, entry.file_type()?.is_dir()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_follows_the_environment() {
        let root = |xdg: Option<&str>, home: Option<&str>| {
            default_root(xdg.map(Path::new), home.map(Path::new))
        };
        assert_eq!(root(Some("/x"), Some("/h")), Some("/x/cellbus".into()));
        assert_eq!(root(Some("x"), Some("/h")), Some("/h/.local/state/cellbus".into()));
        assert_eq!(root(Some(""), Some("/h")), Some("/h/.local/state/cellbus".into()));
        assert_eq!(root(None, Some("")), None);
        assert_eq!(root(None, None), None);
    }

    #[test]
    fn cells_with_a_socket_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for cell in ["site-1", "server", "Not-a-name", "no-socket"] {
            fs::create_dir(root.join(cell)).unwrap();
        }
        for cell in ["site-1", "server", "Not-a-name"] {
            fs::write(root.join(cell).join(SOCKET_FILE), "").unwrap();
        }
        fs::write(root.join("file"), "").unwrap();
        let found = sockets_under(root).unwrap();
        assert_eq!(
            found.iter().map(|place| place.cell.as_str()).collect::<Vec<_>>(),
            ["server", "site-1"]
        );
        assert_eq!(found[0].socket, cell_dir(root, &"server".parse().unwrap()).join(SOCKET_FILE));
        assert_eq!(sockets_under(&root.join("missing")).unwrap(), []);
        assert!(projects_under(&root.join("file")).is_err());
    }
}
