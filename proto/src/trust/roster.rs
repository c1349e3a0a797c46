//! The roster: which cells a project has, and below whom each of them attaches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{List, ListKind};
use crate::{
    directory::Directory,
    identity::CellKind,
    name::{Fqcn, Segment},
    topology::{CELLS_MAX, Topology},
};

/// The cells of a project, as they are signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterList {
    /// The project.
    pub project: Segment,
    /// Grows with every list; from 1.
    pub version: u64,
    /// When it was signed, in seconds since 1970.
    pub issued: u64,
    /// Ascending by name, none twice; one server, and below it a tree.
    pub cells: Vec<RosterCell>,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterCell {
    /// Base name.
    pub name: Segment,
    /// Server, relay or client.
    pub kind: CellKind,
    /// Base name of its parent; the server alone has none.
    pub parent: Option<Segment>,
    /// Who runs it.
    pub org: Segment,
}

/// A roster whose cells are a tree, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    list: RosterList,
    directory: Arc<Directory>,
}

impl RosterList {
    /// The cells of a topology.
    #[must_use]
    pub fn of(topology: &Topology, version: u64, issued: u64) -> Self {
        let cell = |spec: &crate::topology::CellSpec| RosterCell {
            name: spec.name.clone(),
            kind: spec.kind,
            parent: spec.parent.clone(),
            org: spec.org.clone(),
        };
        let mut cells: Vec<RosterCell> = topology.cells().iter().map(cell).collect();
        cells.sort_by(|a, b| a.name.cmp(&b.name));
        Self { project: topology.project.clone(), version, issued, cells }
    }

    /// The full names, by base name; `None` where the cells are no tree below one server.
    fn paths(&self) -> Option<BTreeMap<&Segment, Fqcn>> {
        let mut below: BTreeMap<&Segment, Vec<&RosterCell>> = BTreeMap::new();
        let mut servers = Vec::new();
        for cell in &self.cells {
            match (cell.kind, &cell.parent) {
                (CellKind::Server, None) => servers.push(cell),
                (CellKind::Relay | CellKind::Client, Some(parent)) => {
                    below.entry(parent).or_default().push(cell);
                }
                _ => return None,
            }
        }
        let [server] = servers.as_slice() else { return None };
        let mut paths = BTreeMap::from([(&server.name, Fqcn::from(server.name.clone()))]);
        let mut waiting = vec![*server];
        while let Some(parent) = waiting.pop() {
            let children = below.remove(&parent.name).unwrap_or_default();
            if !children.is_empty() && !parent.kind.accepts_cells() {
                return None;
            }
            let above = paths.get(&parent.name)?.clone();
            for child in children {
                let path = if parent.kind == CellKind::Server {
                    Fqcn::from(child.name.clone())
                } else {
                    above.child(&child.name).ok()?
                };
                paths.insert(&child.name, path);
                waiting.push(child);
            }
        }
        // What is left hangs below nobody.
        below.is_empty().then_some(paths)
    }
}

impl Roster {
    /// The roster that a list is; `None` where its cells are no tree below one server.
    #[must_use]
    pub fn new(list: RosterList) -> Option<Self> {
        let paths = list.paths()?;
        let cells = list
            .cells
            .iter()
            .filter_map(|cell| Some((paths.get(&cell.name)?.clone(), cell.kind, cell.org.clone())));
        let directory: Directory = cells.collect();
        Some(Self { directory: Arc::new(directory), list })
    }

    /// The list.
    #[must_use]
    pub fn list(&self) -> &RosterList {
        &self.list
    }

    /// The cells by full name.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The kind that `name` must be of, if it may attach directly below `parent`. Job cells may below any
    /// cell that has them.
    #[must_use]
    pub fn child_kind(&self, parent: &Fqcn, name: &Fqcn) -> Option<CellKind> {
        let kind = self.directory.kind_of(name)?;
        let below = match kind {
            CellKind::Job => name.parent().as_ref() == Some(parent),
            CellKind::Server | CellKind::Relay | CellKind::Client | CellKind::Admin => {
                self.parent_of(name).as_ref() == Some(parent)
            }
        };
        below.then_some(kind)
    }

    /// The parent of a provisioned cell, by full name.
    #[must_use]
    pub fn parent_of(&self, name: &Fqcn) -> Option<Fqcn> {
        let root = self.directory.root().filter(|root| *root != name)?;
        Some(name.parent().unwrap_or_else(|| root.clone()))
    }

    /// Whether the roster says of `name` that it is of this kind and attaches below `parent`.
    #[must_use]
    pub fn has(&self, name: &Fqcn, kind: CellKind, parent: Option<&Fqcn>) -> bool {
        self.directory.kind_of(name) == Some(kind) && self.parent_of(name).as_ref() == parent
    }

    /// Cells that are here and not in `other`, by full name.
    #[must_use]
    pub fn beyond(&self, other: &Directory) -> BTreeSet<Fqcn> {
        let here = self.directory.iter().map(|(name, _)| name);
        here.filter(|name| other.kind_of(name).is_none()).cloned().collect()
    }
}

impl List for RosterList {
    const KIND: ListKind = ListKind::Roster;

    fn project(&self) -> &Segment {
        &self.project
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn issued(&self) -> u64 {
        self.issued
    }

    fn is_well_formed(&self) -> bool {
        self.cells.len() <= CELLS_MAX
            && self.cells.is_sorted_by(|a, b| a.name < b.name)
            && self.paths().is_some()
    }
}
