//! What the filter does when the signed lists change: who is on them is turned out at once.

use std::collections::BTreeSet;

use actix::{Handler, Message};
use cellbus_proto::{
    admission::Peer,
    identity::CellKind,
    name::Fqcn,
    route::LinkId,
    status::Status,
    trust::{Subject, View},
};

use super::AuthFilter;
use crate::{
    conn::CloseCode,
    link::{CheckTrust, Misbehaved, Say},
    seam::post,
};

/// The signed lists that are in force from now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetLists(pub View);

/// What a neighbour is told as it is turned out: by which list, if it was registered. A probe learns nothing.
pub(crate) fn parting_word(status: Status, was_active: bool) -> &'static str {
    if was_active && is_by_list(status) { status.code() } else { "" }
}

/// By which list the parent has turned this cell out, as the text of its close says.
pub(crate) fn turned_out_by(word: &str) -> Option<Status> {
    [Status::CertRevoked, Status::Disabled].into_iter().find(|status| status.code() == word)
}

/// Whether a list is why somebody is refused with this.
pub(crate) fn is_by_list(status: Status) -> bool {
    matches!(status, Status::CertRevoked | Status::Disabled)
}

fn refused(lists: &View, peer: &Peer, own: &Fqcn, now_unix: u64) -> Option<Status> {
    let subject = Subject { kind: peer.kind, name: &peer.name, leaf: &peer.leaf };
    lists.refuses(subject, now_unix).or_else(|| {
        let roster = lists.roster.as_ref()?;
        let stays = if peer.is_parent {
            // Whom this cell dials, its own configuration says.
            true
        } else {
            roster.child_kind(own, &peer.name) == Some(peer.kind)
        };
        (!stays).then_some(Status::NotDirect)
    })
}

impl AuthFilter {
    /// Turns the neighbour out where a list says that it may not take part.
    pub(super) fn turn_out_if_listed(&mut self, link: LinkId) {
        let now = self.own.wall.unix();
        let Some(neighbour) = self.neighbours.get(&link) else { return };
        let Some(status) = refused(&self.lists, &neighbour.peer, &self.own.name, now) else {
            return;
        };
        self.own.counters.refuse(status);
        // Fails only when the link has ended already.
        let _ = post(&neighbour.link, Misbehaved(status));
    }

    /// Ends the links of those whose registrations were ended since `before`; they may come back.
    fn end_registrations(&self, before: &View) {
        let Some(bans) = self.lists.bans.as_ref() else { return };
        let known = |base: &str| before.bans.as_ref().and_then(|list| list.ended_until(base));
        for neighbour in self.neighbours.values().filter(|neighbour| !neighbour.peer.is_parent) {
            let peer = &neighbour.peer;
            let site = match peer.kind {
                CellKind::Job => continue,
                CellKind::Server | CellKind::Relay | CellKind::Client | CellKind::Admin => {
                    peer.name.base()
                }
            };
            if bans.ended_until(site) > known(site) {
                tracing::info!(
                    cell = %self.own.name, peer = %peer.name, link = peer.link.0,
                    "the registration of a neighbour was ended; it has to register again"
                );
                let close = Say::Close(CloseCode::Later, "the registration was ended");
                // Fails only when the link has ended already.
                let _ = post(&neighbour.link, close);
            }
        }
    }

    /// Breaks what runs between cells of which a list names one.
    fn break_conduits(&self) {
        let now = self.own.wall.unix();
        let listed: BTreeSet<Fqcn> = self.gate.listed(now);
        let directory = self.gate.directory();
        self.own.conduits.break_all_that(|ends| {
            ends.iter().any(|end| {
                let kind = directory.kind_of(end).unwrap_or(CellKind::Client);
                let subject = Subject { kind, name: end, leaf: &[0; 32] };
                listed.contains(end) || self.lists.refuses(subject, now).is_some()
            })
        });
    }
}

impl Handler<SetLists> for AuthFilter {
    type Result = ();

    fn handle(&mut self, SetLists(lists): SetLists, _: &mut Self::Context) {
        self.own.advance_generation();
        let before = std::mem::replace(&mut self.lists, lists.clone());
        self.gate.set_lists(lists);
        let links: Vec<LinkId> = self.neighbours.keys().copied().collect();
        links.into_iter().for_each(|link| self.turn_out_if_listed(link));
        let version = |lists: &View| lists.versions().roots;
        if version(&before) != version(&self.lists) {
            for neighbour in self.neighbours.values() {
                // Fails only when the link has ended already.
                let _ = post(&neighbour.link, CheckTrust);
            }
        }
        self.end_registrations(&before);
        self.break_conduits();
    }
}
