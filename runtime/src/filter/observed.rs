//! What the filter shows to those who look: figures always, messages where a tap is open.

use cellbus_proto::{
    admission::{Admitted, Permit},
    bundle,
    dead_letters::ChannelClass,
    envelope::Envelope,
    name::Fqcn,
    route::Hop,
    status::Status,
};

use super::AuthFilter;

impl AuthFilter {
    /// Notes a message that was let in.
    pub(super) fn observe(&mut self, admitted: &Admitted) {
        let class = match admitted.permit() {
            Permit::Exempt(_) | Permit::System(_) => ChannelClass::System,
            Permit::Rule { .. } | Permit::Job => ChannelClass::Application,
        };
        let envelope = admitted.envelope();
        self.own.stats.admitted(class, envelope, &mut self.tally);
        if self.own.taps.any() {
            let from = self.neighbour_name(admitted.arrived());
            let reason = || self.gate.reason(admitted.permit());
            for one in bundle::split(envelope.clone()) {
                self.own.taps.show(&self.own.wall, &one, from, Ok(reason));
            }
        }
    }

    /// Counts what has been let in.
    pub(super) fn count_admitted(&mut self) {
        let admitted = self.own.stats.count(&mut self.tally);
        self.own.counters.accept(admitted);
    }

    /// Notes a message that was not let in, or not passed on.
    pub(super) fn observe_refused(&self, status: Status, envelope: &Envelope, from: Hop) {
        if self.own.taps.any() {
            let from = self.neighbour_name(from);
            for one in bundle::split(envelope.clone()) {
                self.own.taps.show(&self.own.wall, &one, from, Err::<fn() -> String, _>(status));
            }
        }
    }

    fn neighbour_name(&self, hop: Hop) -> Option<&Fqcn> {
        match hop {
            Hop::Local => None,
            Hop::Link(link) => self.neighbours.get(&link).map(|neighbour| &neighbour.peer.name),
        }
    }
}
