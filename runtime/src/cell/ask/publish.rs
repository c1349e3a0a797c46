//! Publishes of this cell itself, to one cell: the way that a sender is told once and then takes by itself.

use std::sync::Arc;

use actix::{Handler, Message, ResponseFuture};
use cellbus_channels::Outgoing;
use cellbus_proto::{envelope::Kind, name::Fqcn, status::Status};

use super::millis;
use crate::{cell::Cell, filter::AskLease, ingress::Lease};

/// Whether a publish like this one would pass now, and which way it would take.
#[derive(Debug, Message)]
#[rtype(result = "Result<Lease, Status>")]
pub struct LeaseFor {
    /// Whom it is for.
    pub to: Fqcn,
    /// What is to be sent.
    pub outgoing: Outgoing,
}

impl Handler<LeaseFor> for Cell {
    type Result = ResponseFuture<Result<Lease, Status>>;

    fn handle(&mut self, asked: LeaseFor, ctx: &mut Self::Context) -> Self::Result {
        let LeaseFor { to, outgoing } = asked;
        self.pacer.pace(1, ctx);
        let budget = match self.check_sendable(&outgoing) {
            Ok(budget) => budget,
            Err(status) => return Box::pin(std::future::ready(Err(status))),
        };
        let sequence = self.own.next_sequence();
        let envelope = self.own.envelope(Kind::Publish, sequence, &to, &outgoing, millis(budget));
        let (common, lane) = (Arc::clone(&envelope.header.common), outgoing.lane);
        let asked = self.filter.send(AskLease(envelope));
        let (filter, budget) = (self.filter.clone(), self.settings.budget);
        let payload_max = self.settings.payload_max;
        Box::pin(async move {
            let way = asked.await.unwrap_or(Err(Status::ShuttingDown))?;
            Ok(Lease { way, filter, common, lane, budget, payload_max })
        })
    }
}
