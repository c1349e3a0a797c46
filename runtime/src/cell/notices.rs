//! What a cell tells whoever wants to know of its links and jobs, and of the cells that are registered with it.

use cellbus_channels::Event;
use cellbus_proto::{
    envelope::Incarnation,
    name::Fqcn,
    registry::{Record, Verdict},
};
use tokio::sync::broadcast;

use super::{Cell, Holder};

/// Tells events to all who have asked for them.
#[derive(Debug)]
pub struct Notices {
    events: broadcast::Sender<Event>,
    turned_out: broadcast::Sender<Fqcn>,
}

impl Notices {
    /// Events that wait for a reader before the oldest give way.
    const WAITING_MAX: usize = 1024;

    /// The events from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Cells that may no longer take part, from now on: those that were registered here, and this very cell once
    /// it knows.
    #[must_use]
    pub fn turned_out(&self) -> broadcast::Receiver<Fqcn> {
        self.turned_out.subscribe()
    }

    /// Tells that `cell` may no longer take part.
    pub(crate) fn tell_turned_out(&self, cell: Fqcn) {
        // Fails only where nobody listens.
        let _ = self.turned_out.send(cell);
    }

    /// Tells `event` to all who listen now.
    pub fn tell(&self, event: Event) {
        // Fails only where nobody listens.
        let _ = self.events.send(event);
    }
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            events: broadcast::Sender::new(Self::WAITING_MAX),
            turned_out: broadcast::Sender::new(Self::WAITING_MAX),
        }
    }
}

impl Cell {
    /// Tells of a registration. A cell that comes back on another connection has not been away.
    pub(super) fn notice_verdict(
        &self,
        cell: &Fqcn,
        verdict: &Verdict<Holder>,
        incarnation: Incarnation,
    ) {
        if let Verdict::Replaced(former) = verdict {
            if former.incarnation == incarnation {
                return;
            }
            self.own.notices.tell(Event::CellDown(cell.clone()));
        }
        self.own.notices.tell(Event::CellUp(cell.clone()));
    }

    /// Tells of records that were removed.
    pub(super) fn notice_down<'a>(
        &self,
        removed: impl IntoIterator<Item = &'a (Fqcn, Record<Holder>)>,
    ) {
        for (cell, _) in removed {
            self.own.notices.tell(Event::CellDown(cell.clone()));
        }
    }
}
