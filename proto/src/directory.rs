//! Which cells exist, by the topology: what a cell knows about names beyond its own links.

use std::collections::BTreeMap;

use crate::{identity::CellKind, name::Fqcn};

/// The provisioned cells of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    cells: BTreeMap<Fqcn, CellKind>,
}

impl Directory {
    /// The kind of `name`, or `None` where the topology does not know it.
    ///
    /// A cell directly below the server's or a site's own name is one of its job cells.
    #[must_use]
    pub fn kind_of(&self, name: &Fqcn) -> Option<CellKind> {
        if let Some(kind) = self.cells.get(name) {
            return Some(*kind);
        }
        let parent = name.parent()?;
        match self.cells.get(&parent)? {
            CellKind::Server | CellKind::Client => Some(CellKind::Job),
            CellKind::Relay | CellKind::Admin | CellKind::Job => None,
        }
    }

    /// Every provisioned cell.
    pub fn iter(&self) -> impl Iterator<Item = (&Fqcn, CellKind)> {
        self.cells.iter().map(|(name, kind)| (name, *kind))
    }
}

impl FromIterator<(Fqcn, CellKind)> for Directory {
    fn from_iter<I: IntoIterator<Item = (Fqcn, CellKind)>>(cells: I) -> Self {
        Self { cells: cells.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_below_a_site_is_a_job_and_below_a_relay_nothing_unless_provisioned() {
        let name = |text: &str| text.parse::<Fqcn>().unwrap();
        let directory = Directory::from_iter([
            (name("server"), CellKind::Server),
            (name("relay-a"), CellKind::Relay),
            (name("relay-a.site-1"), CellKind::Client),
        ]);
        assert_eq!(directory.kind_of(&name("relay-a.site-1")), Some(CellKind::Client));
        assert_eq!(directory.kind_of(&name("relay-a.site-1.job-1")), Some(CellKind::Job));
        assert_eq!(directory.kind_of(&name("server.job-1")), Some(CellKind::Job));
        assert_eq!(directory.kind_of(&name("relay-a.site-9")), None);
        assert_eq!(directory.kind_of(&name("site-9")), None);
        assert_eq!(directory.kind_of(&name("relay-a.site-1.job-1.x")), None);
    }
}
