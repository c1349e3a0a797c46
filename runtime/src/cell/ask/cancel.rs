//! Tells destinations that nobody waits for their answers any longer: what was given up on within a
//! millisecond goes to each in one message.

use std::time::Duration;

use actix::{AsyncContext, Context};
use cellbus_channels::Outgoing;
use cellbus_proto::{
    codec::body::{self, CANCEL_MAX},
    envelope::Kind,
    name::Fqcn,
    route::Hop,
    well_known,
};

use super::millis;
use crate::cell::Cell;

/// How long what was given up on waits for more of it.
const GATHER: Duration = Duration::from_millis(1);
/// A handler that nobody waits for ends by its budget at the latest.
const BUDGET: Duration = Duration::from_secs(5);

impl Cell {
    /// Nobody waits for the answer of `to` to the request `sequence` any longer.
    pub(super) fn cancel(&mut self, to: Fqcn, sequence: u64, ctx: &mut Context<Self>) {
        if self.asking.cancels.is_empty() {
            ctx.run_later(GATHER, |cell, _| cell.send_cancels());
        }
        self.asking.cancels.entry(to).or_default().push(sequence);
    }

    fn send_cancels(&mut self) {
        for (to, sequences) in std::mem::take(&mut self.asking.cancels) {
            // Where no way leads now, none led for long: nothing runs there for this cell.
            if self.routes.next_hop(&to, Hop::Local).is_err() {
                continue;
            }
            for requests in sequences.chunks(CANCEL_MAX) {
                let mut outgoing = Outgoing::new(well_known::CANCEL.into());
                outgoing.payload = body::encode(&body::Cancel { requests: requests.to_vec() });
                let sequence = self.own.next_sequence();
                let kind = Kind::Publish;
                self.emit(self.own.envelope(kind, sequence, &to, &outgoing, millis(BUDGET)));
            }
        }
    }
}
