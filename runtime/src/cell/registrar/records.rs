//! The records of the cells below this one: how they are made and replaced, and how they end.

use std::time::Duration;

use actix::{Context, Handler, Message};
use cellbus_proto::{
    codec::body::{self, DetachChild},
    envelope::Incarnation,
    name::Fqcn,
    registry::{Registry, Verdict},
    route::LinkId,
    status::Status,
    well_known,
};

use super::RegisterPeer;
use crate::{
    cell::{Cell, Holder, PeerReport},
    clock,
    conn::CloseCode,
    link::Say,
    own::Own,
    seam::post,
};

/// A registered child's link ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LinkLeft {
    /// The link.
    pub id: LinkId,
    /// Whether the child ended it, or was turned out for what it did; otherwise it was lost.
    pub meant: bool,
}

impl Cell {
    /// Whether a child may come back, if this is not the link that it has.
    pub(super) fn check_returns(&mut self, register: &RegisterPeer) -> Result<(), Status> {
        let name = &register.name;
        let held = self.registry.record(name).and_then(|record| record.holder.link);
        if held == Some(register.link) {
            return Ok(());
        }
        self.registrar.returns.check(clock::now(), name).map_err(|often| {
            if often.alert {
                tracing::warn!(
                    cell = %self.own.name, peer = %name, code = Status::RateLimit.code(),
                    wait = ?often.wait, "a cell leaves and comes back too often"
                );
            }
            Status::RateLimit
        })
    }

    /// Makes the record of a direct child, and closes the connection of whoever held the name before.
    pub(super) fn commit(
        &mut self,
        register: &RegisterPeer,
        silent: Option<Incarnation>,
    ) -> Result<(), Status> {
        let record = register.record(&self.own.name);
        let verdict = self
            .registry
            .register(clock::now(), &register.name, record, silent)
            .map_err(|not| self.not_registered(&register.name, not))?;
        self.notice_verdict(&register.name, &verdict, register.incarnation);
        if let Verdict::Replaced(former) = verdict {
            let superseded = former.holder.link.filter(|link| *link != register.link);
            if let Some(info) = superseded.and_then(|link| self.links.get(&link)) {
                let bye = Say::Close(CloseCode::Superseded, "another connection took this name");
                if post(&info.link, bye).is_err() {
                    tracing::debug!(peer = %register.name, "the former link has ended already");
                }
            }
            if former.incarnation != register.incarnation {
                self.registry_remove_below(&register.name);
            }
        }
        Ok(())
    }

    /// A process that is back on another link has left the one that it had, and one that does not answer
    /// has left for good. The server is told now: told when the link ends, after the new registration, it
    /// would take the new record for the old one.
    pub(super) fn leave_former_link(
        &mut self,
        register: &RegisterPeer,
        silent: Option<Incarnation>,
    ) {
        let Some(record) = self.registry.record(&register.name) else { return };
        let same_process =
            record.incarnation == register.incarnation && record.leaf == register.leaf;
        let over = same_process || silent == Some(record.incarnation);
        let former = record.holder.link.filter(|link| over && *link != register.link);
        let Some(former) = former else { return };
        self.forget_child(former);
        if let Some(info) = self.links.get(&former) {
            let bye = Say::Close(CloseCode::Superseded, "another connection took this name");
            // Fails only when the link has ended already.
            let _ = post(&info.link, bye);
        }
    }

    /// Forgets whoever registered through `top`, which is not what it was.
    fn registry_remove_below(&mut self, top: &Fqcn) {
        let own = self.registry.record(top).cloned();
        let mut removed = self.registry.remove_below(top);
        removed.retain(|(name, _)| name != top);
        for (name, _) in &removed {
            tracing::debug!(cell = %self.own.name, peer = %name, "record removed");
        }
        self.notice_down(&removed);
        if let Some(record) = own {
            // The registry was emptied below and at `top`; `top` itself stays.
            let _ = self.registry.register(clock::now(), top, record, None);
        }
    }

    /// A direct child's link has ended: the record that was made on it, and those of cells behind it, end
    /// with it. A child that has come back on another link keeps the record that it made there.
    pub(in crate::cell) fn forget_child(&mut self, link: LinkId) {
        let held = self.registry.iter().find(|(_, record)| record.holder.link == Some(link));
        let Some((name, incarnation)) =
            held.map(|(name, record)| (name.clone(), record.incarnation))
        else {
            return;
        };
        let removed = self.registry.remove_below(&name);
        self.notice_down(&removed);
        self.tell_detached(name, incarnation);
    }

    /// Tells the server that a child is not here any more. A cell that has said bye has taken its children
    /// along.
    pub(super) fn tell_detached(&self, child: Fqcn, incarnation: Incarnation) {
        if self.own.is_root() || self.own.epoch() == 0 || self.registrar.leaving {
            return;
        }
        let body = body::encode(&DetachChild { child, incarnation: incarnation.into() });
        self.tell_server(well_known::DETACH_CHILD, body);
    }
}

impl Handler<LinkLeft> for Cell {
    type Result = ();

    fn handle(&mut self, LinkLeft { id, meant }: LinkLeft, _: &mut Context<Self>) {
        /// A link that is lost is lost by silence, which takes longer.
        const SHORT: Duration = Duration::from_secs(2);
        let Some(info) = self.links.get(&id).filter(|info| !info.is_parent) else { return };
        let now = clock::now();
        if meant || now.saturating_duration_since(info.since) < SHORT {
            self.registrar.returns.note_left(now, &info.name);
        }
    }
}

/// What the registry of a cell holds, for its report.
pub(in crate::cell) fn rows(registry: &Registry<Holder>, own: &Own) -> Vec<PeerReport> {
    let root = |leaf| own.protection.leaf(leaf).and_then(|leaf| leaf.root());
    registry
        .iter()
        .map(|(name, record)| PeerReport {
            name: name.to_string(),
            kind: record.kind.to_string(),
            org: record.org.to_string(),
            via: record.holder.via.to_string(),
            direct: record.holder.link.is_some(),
            root: root(&record.leaf).map(|hash| hex(&hash)),
            incarnation: format!(
                "{}-{:016x}",
                record.incarnation.counter, record.incarnation.nonce
            ),
            since_ms: clock::now().saturating_duration_since(record.since).as_millis() as u64,
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
