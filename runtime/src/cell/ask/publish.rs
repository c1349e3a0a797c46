//! Publishes of this cell itself, to one cell.

use actix::{Handler, Message, ResponseFuture};
use cellbus_channels::Outgoing;
use cellbus_proto::{envelope::Kind, name::Fqcn, status::Status};

use super::millis;
use crate::{cell::Cell, filter::Pass};

/// A publish of this cell.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Status>")]
pub struct Submit {
    /// Whom it is for.
    pub to: Fqcn,
    /// What to send.
    pub outgoing: Outgoing,
}

impl Handler<Submit> for Cell {
    type Result = ResponseFuture<Result<(), Status>>;

    fn handle(&mut self, submit: Submit, ctx: &mut Self::Context) -> Self::Result {
        let Submit { to, outgoing } = submit;
        self.pacer.pace(1, ctx);
        let budget = match self.check_sendable(&outgoing) {
            Ok(budget) => budget,
            Err(status) => return Box::pin(std::future::ready(Err(status))),
        };
        let sequence = self.own.next_sequence();
        let budget_ms = millis(budget);
        let envelope = self.own.envelope(Kind::Publish, sequence, &to, &outgoing, budget_ms);
        let passed = self.filter.send(Pass(envelope));
        Box::pin(async move { passed.await.unwrap_or(Err(Status::ShuttingDown)) })
    }
}
