//! Who may attach below a cell: what the signed roster says, and without one what the configuration says.

use std::sync::Arc;

use cellbus_proto::{identity::CellKind, name::Fqcn};

use crate::{cell::Roster, own::Own};

#[derive(Debug)]
pub(super) struct ListedRoster {
    own: Arc<Own>,
    configured: Arc<dyn Roster>,
}

impl ListedRoster {
    pub(super) fn new(own: &Arc<Own>, configured: Arc<dyn Roster>) -> Self {
        Self { own: Arc::clone(own), configured }
    }
}

impl Roster for ListedRoster {
    fn child_kind(&self, name: &Fqcn) -> Option<CellKind> {
        match self.own.lists.view().roster {
            Some(roster) => roster.child_kind(&self.own.name, name),
            None => self.configured.child_kind(name),
        }
    }

    fn kind_of(&self, name: &Fqcn) -> Option<CellKind> {
        match self.own.lists.view().roster {
            Some(roster) => roster.directory().kind_of(name),
            None => self.configured.kind_of(name),
        }
    }
}
