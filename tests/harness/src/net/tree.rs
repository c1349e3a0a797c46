//! The shape of a network, from its one-line description.

use std::collections::BTreeMap;

use cellbus_proto::{directory::Directory, identity::CellKind, name::Fqcn};

/// Who stands below whom.
#[derive(Debug)]
pub(super) struct Tree {
    root: Fqcn,
    /// Parents before their children.
    order: Vec<Fqcn>,
    parents: BTreeMap<Fqcn, Fqcn>,
}

impl Tree {
    /// Reads `parent -> child -> ..` paths between `;` or line ends.
    pub(super) fn parse(text: &str) -> Self {
        let mut paths =
            text.split([';', '\n']).map(str::trim).filter(|path| !path.is_empty()).peekable();
        let first = paths.peek().expect("a tree has a path");
        let root_name = first.split("->").next().expect("split gives a part").trim();
        let root: Fqcn = root_name.parse().expect("a cell name");
        let mut tree = Self { order: vec![root.clone()], root, parents: BTreeMap::new() };
        for path in paths {
            let mut bases = path.split("->").map(str::trim);
            let mut above = tree.full(bases.next().expect("split gives a part"));
            for base in bases {
                above = tree.insert(&above, base);
            }
        }
        tree
    }

    fn insert(&mut self, parent: &Fqcn, base: &str) -> Fqcn {
        let is_job = base.starts_with("job");
        let name: Fqcn = if *parent == self.root && !is_job {
            base.parse().expect("a cell name")
        } else {
            parent.child(&base.parse().expect("a segment")).expect("a name below its parent")
        };
        if !self.order.contains(&name) {
            self.order.push(name.clone());
            self.parents.insert(name.clone(), parent.clone());
        }
        name
    }

    pub(super) fn root(&self) -> &Fqcn {
        &self.root
    }

    pub(super) fn names(&self) -> Vec<Fqcn> {
        self.order.clone()
    }

    pub(super) fn parent_of(&self, name: &Fqcn) -> Option<&Fqcn> {
        self.parents.get(name)
    }

    /// The full name of the cell that is called `name` in full or by its last segment.
    #[track_caller]
    pub(super) fn full(&self, name: &str) -> Fqcn {
        let found = self
            .order
            .iter()
            .find(|full| full.as_str() == name)
            .or_else(|| self.order.iter().find(|full| full.base() == name));
        found.unwrap_or_else(|| panic!("no cell is called {name}")).clone()
    }

    pub(super) fn kind_of(&self, name: &Fqcn) -> Option<CellKind> {
        if *name == self.root {
            return Some(CellKind::Server);
        }
        self.parents.get(name)?;
        if name.base().starts_with("job") {
            return Some(CellKind::Job);
        }
        let has_cells = self
            .parents
            .iter()
            .any(|(child, parent)| parent == name && !child.base().starts_with("job"));
        Some(if has_cells { CellKind::Relay } else { CellKind::Client })
    }

    pub(super) fn directory(&self) -> Directory {
        self.order
            .iter()
            .filter_map(|name| Some((name.clone(), self.kind_of(name)?)))
            .filter(|(_, kind)| *kind != CellKind::Job)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_with_its_kinds_and_full_names() {
        let tree =
            Tree::parse("server -> relay -> site-1 -> job-1; relay -> site-2\nserver -> job-1");
        let kind = |name: &str| tree.kind_of(&tree.full(name));
        assert_eq!(kind("server"), Some(CellKind::Server));
        assert_eq!(kind("relay"), Some(CellKind::Relay));
        assert_eq!(kind("relay.site-1"), Some(CellKind::Client));
        assert_eq!(kind("server.job-1"), Some(CellKind::Job));
        assert_eq!(kind("relay.site-1.job-1"), Some(CellKind::Job));
        assert_eq!(tree.full("site-2").as_str(), "relay.site-2");
        assert_eq!(tree.names().len(), 6);
    }
}
