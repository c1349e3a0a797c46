//! Signed lists for a network of cells.

use std::time::Duration;

use cellbus_proto::{
    identity::CellKind,
    name::Fqcn,
    trust::{BanChange, Bundle, List, Reason, RevocationList, RevokedName, RosterCell, RosterList},
};
use cellbus_runtime::{
    cell::ListsTaken,
    host::{RenewError, Renewal},
    lists::{ChangeRefused, ListSigner},
};

use super::{NOW, Net};

impl Net {
    /// What signs the project's lists.
    #[must_use]
    pub fn signer(&self) -> ListSigner {
        self.authority.list_signer()
    }

    /// A list that revokes the cells with these base names.
    ///
    /// # Panics
    /// For what is no name.
    #[must_use]
    pub fn revocations(&self, version: u64, names: &[&str]) -> RevocationList {
        let mut list = RevocationList::empty("harness".parse().expect("a project"));
        for name in names {
            let name = name.parse().expect("a base name");
            list.revoke_name(RevokedName { name, reason: Reason::Ceased, until: None });
        }
        RevocationList { version, issued: NOW, ..list }
    }

    /// A roster of the cells of the tree but these, which are given by base name.
    ///
    /// # Panics
    /// For a tree with names that are none.
    #[must_use]
    pub fn roster(&self, version: u64, without: &[&str]) -> RosterList {
        let segment = |name: &Fqcn| name.base().parse().expect("a segment");
        let cell = |name: &Fqcn| {
            let kind = self.tree.kind_of(name).expect("a cell of the tree");
            let parent = self.tree.parent_of(name).map(segment);
            let org = "org".parse().expect("an org");
            (kind != CellKind::Job && !without.contains(&name.base())).then(|| RosterCell {
                name: segment(name),
                kind,
                parent,
                org,
            })
        };
        let mut cells: Vec<RosterCell> = self.tree.names().iter().filter_map(cell).collect();
        cells.sort_by(|a, b| a.name.cmp(&b.name));
        let project = "harness".parse().expect("a project");
        RosterList { project, version, issued: NOW, cells }
    }

    /// Gives a running cell a list that the authority has signed.
    ///
    /// # Errors
    /// [`ChangeRefused`] when the cell does not take it over.
    ///
    /// # Panics
    /// When the library does not sign.
    pub async fn give<L: List>(&self, cell: &str, list: &L) -> Result<ListsTaken, ChangeRefused> {
        let signed = self.signer().sign(list).expect("signing needs nothing");
        self.cell(cell).running.take_lists(Bundle::of(L::KIND, signed)).await
    }

    /// Has a running cell go on with another certificate, of another key for each number.
    ///
    /// # Errors
    /// [`RenewError`].
    ///
    /// # Panics
    /// When no such cell runs.
    pub async fn renew(&self, cell: &str, number: u32) -> Result<Renewal, RenewError> {
        let running = self.cell(cell).running.clone();
        let next = self.authority.another(&running.own().identity, number);
        running.renew(next).await
    }

    /// Gives the server an issuing authority.
    ///
    /// # Arguments
    /// `life`: how long it counts. `leaf_life`: how long what it issues counts.
    pub fn issues(&self, life: Duration, leaf_life: Duration) {
        let own = self.cell(self.tree.root().as_str()).running.own().clone();
        own.set_issuer(self.authority.issuing(life, leaf_life));
    }

    /// Has the server change whom it lets in.
    ///
    /// # Errors
    /// [`ChangeRefused`].
    pub async fn change_bans(&self, change: BanChange) -> Result<ListsTaken, ChangeRefused> {
        self.cell(self.tree.root().as_str()).running.change_bans(change).await
    }
}
