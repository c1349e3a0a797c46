//! One message of this cell to many others: one envelope for as many as fit into it.

use std::sync::Arc;

use actix::{Context, Handler, Message, ResponseFuture};
use cellbus_channels::{OneOfMany, Outgoing};
use cellbus_proto::{
    envelope::{Envelope, Extras, FanTarget, Kind},
    fan,
    name::Fqcn,
    status::Status,
};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::{Answer, Waiter, millis};
use crate::{cell::Cell, filter::Pass};

/// A request of this cell to many others, each named once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AskMany {
    /// Whom to ask, each with a sequence number from [`crate::own::Own::next_sequence`], ascending.
    pub to: Vec<(u64, Fqcn)>,
    /// What to send.
    pub outgoing: Outgoing,
    /// Where every one of the outcomes is told.
    pub answers: mpsc::UnboundedSender<OneOfMany>,
}

/// A publish of this cell to many others, each named once.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Status>")]
pub struct SubmitMany {
    /// Whom it is for.
    pub to: Vec<Fqcn>,
    /// What to send.
    pub outgoing: Outgoing,
}

/// The waiters of these requests are gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GiveUpMany(pub Vec<u64>);

/// The cells that are registered below this one.
#[derive(Debug, Message)]
#[rtype(result = "Vec<Fqcn>")]
pub struct Below;

impl Cell {
    fn ask_many(&mut self, ask: AskMany, ctx: &mut Context<Self>) {
        let AskMany { to, outgoing, answers } = ask;
        let checked = self.check_sendable(&outgoing);
        let kind = outgoing.awaited_kind();
        let Some((first, name)) = to.first() else { return };
        let budget = checked.unwrap_or_default();
        let common = self.own.envelope(kind, *first, name, &outgoing, millis(budget));
        let mut targets = Vec::with_capacity(to.len());
        for (sequence, to) in to {
            let destination = self.own.address_of(&to);
            let waiter = Waiter::new(to, budget, Answer::OneOfMany(answers.clone()));
            if let Err(status) = checked {
                self.refuse_own(waiter, status);
                continue;
            }
            let mut header = common.header.clone();
            (header.sequence, header.destination) = (sequence, Arc::clone(&destination));
            if self.register(waiter, &header, ctx) {
                targets.push(FanTarget { sequence, destination });
            }
        }
        for group in fan::groups(targets) {
            self.emit(to_group(&common, group));
        }
    }
}

/// `common`, for the cells of one group.
fn to_group(common: &Envelope, group: Vec<FanTarget>) -> Envelope {
    let mut envelope = common.clone();
    if let Some(first) = group.first() {
        envelope.header.sequence = first.sequence;
        envelope.header.destination = Arc::clone(&first.destination);
    }
    if group.len() > 1 {
        let extras = envelope.header.extras.take().map_or_else(Extras::default, |all| *all);
        envelope.header.extras = Extras { fan: group, ..extras }.boxed();
    }
    envelope
}

impl Handler<AskMany> for Cell {
    type Result = ();

    fn handle(&mut self, ask: AskMany, ctx: &mut Self::Context) {
        let weight = u32::try_from(ask.to.len()).unwrap_or(u32::MAX);
        self.ask_many(ask, ctx);
        self.pacer.pace(weight, ctx);
    }
}

impl Handler<SubmitMany> for Cell {
    type Result = ResponseFuture<Result<(), Status>>;

    fn handle(&mut self, submit: SubmitMany, ctx: &mut Self::Context) -> Self::Result {
        let SubmitMany { to, outgoing } = submit;
        self.pacer.pace(u32::try_from(to.len()).unwrap_or(u32::MAX), ctx);
        let Some(name) = to.first() else { return Box::pin(std::future::ready(Ok(()))) };
        let budget = match self.check_sendable(&outgoing) {
            Ok(budget) => budget,
            Err(status) => return Box::pin(std::future::ready(Err(status))),
        };
        let common = self.own.envelope(Kind::Publish, 0, name, &outgoing, millis(budget));
        let targets = to.iter().map(|to| FanTarget {
            sequence: self.own.next_sequence(),
            destination: self.own.address_of(to),
        });
        let passing = fan::groups(targets.collect())
            .into_iter()
            .map(|group| self.filter.send(Pass(to_group(&common, group))));
        let passing = join_all(passing);
        Box::pin(async move {
            let mut outcomes = passing.await.into_iter();
            outcomes.try_for_each(|outcome| outcome.unwrap_or(Err(Status::ShuttingDown)))
        })
    }
}

impl Handler<GiveUpMany> for Cell {
    type Result = ();

    fn handle(&mut self, GiveUpMany(sequences): GiveUpMany, ctx: &mut Self::Context) {
        for sequence in sequences {
            self.forget(sequence, ctx);
        }
    }
}

impl Handler<Below> for Cell {
    type Result = Vec<Fqcn>;

    fn handle(&mut self, _: Below, _: &mut Self::Context) -> Self::Result {
        self.registry.iter().map(|(name, _)| name.clone()).collect()
    }
}
