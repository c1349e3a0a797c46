//! Requests and publishes of this cell itself, and the registration of its handlers.

use std::{sync::Arc, time::Instant};

use actix::{AsyncContext, Context, Handler, Message, ResponseFuture};
use bytes::Bytes;
use cellbus_channels::{Outgoing, Reply, RequestError};
use cellbus_proto::{
    admission::Admitted,
    envelope::{Address, Envelope, Extras, Flags, Header, Kind, Lane},
    name::Fqcn,
    route::Hop,
    status::Status,
    well_known,
};
use tokio::sync::oneshot;

use super::Cell;
use crate::{clock, filter::Pass, own::Own};

/// Whoever waits for the end of a request.
#[derive(Debug)]
pub(super) struct Waiter {
    answer: oneshot::Sender<Result<Reply, RequestError>>,
    to: Fqcn,
    budget: std::time::Duration,
}

impl Waiter {
    /// Ends with what a reply or a return says.
    pub(super) fn finish(self, admitted: Admitted) {
        let content_type = admitted.header().content_type().cloned();
        let Envelope { header, payload } = admitted.into_envelope();
        let result = match header.kind {
            Kind::Return { status, by, .. } => {
                Err(RequestError::Returned { by, status, detail: payload })
            }
            Kind::Reply { .. } | Kind::Publish | Kind::Request => {
                Ok(Reply { payload, content_type })
            }
        };
        // Whoever waited may have given up in the meantime.
        let _ = self.answer.send(result);
    }

    pub(super) fn fail(self, error: RequestError) {
        let _ = self.answer.send(Err(error));
    }

    fn time_out(self) {
        let error = RequestError::TimedOut { to: self.to.clone(), budget: self.budget };
        self.fail(error);
    }
}

/// A request of this cell.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ask {
    /// Sequence number, from [`Own::next_sequence`].
    pub sequence: u64,
    /// What to send.
    pub outgoing: Outgoing,
    /// Who waits.
    pub answer: oneshot::Sender<Result<Reply, RequestError>>,
}

/// The waiter of this request is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GiveUp(pub u64);

/// Ends a request of this cell that its own filter did not let out.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FailOwn {
    /// Sequence number.
    pub sequence: u64,
    /// Why.
    pub status: Status,
}

/// A publish of this cell.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Status>")]
pub struct Submit(pub Outgoing);

impl Own {
    pub(super) fn envelope(
        &self,
        kind: Kind,
        sequence: u64,
        outgoing: &Outgoing,
        budget_ms: u32,
    ) -> Envelope {
        let system = well_known::lookup(&outgoing.target).is_some();
        let extras = Extras { content_type: outgoing.content_type.clone(), ..Extras::default() };
        Envelope {
            header: Header {
                kind,
                sequence,
                origin: Arc::clone(&self.address),
                destination: Address::any(outgoing.to.clone()),
                target: outgoing.target.clone(),
                token: self.token(),
                budget_ms,
                hops_left: 0,
                lane: if system { Lane::Control } else { Lane::Interactive },
                flags: Flags::default(),
                extras: extras.boxed(),
            },
            payload: outgoing.payload.clone(),
        }
    }
}

impl Cell {
    /// Checks what no other cell can be expected to check for this one.
    fn check_outgoing(&self, outgoing: &Outgoing) -> Result<(), Status> {
        let content_type = outgoing.content_type.as_ref().map_or("", |text| text);
        if outgoing.payload.len() > self.settings.payload_max
            || content_type.len() > Extras::CONTENT_TYPE_MAX
        {
            return Err(Status::TooLarge);
        }
        if content_type.bytes().any(|byte| !(0x20..0x7f).contains(&byte)) {
            return Err(Status::BadHeader);
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, ask: Ask, ctx: &mut Context<Self>) {
        let Ask { sequence, outgoing, answer } = ask;
        let budget = outgoing.budget.unwrap_or(self.settings.budget);
        let waiter = Waiter { answer, to: outgoing.to.clone(), budget };
        let refuse = |waiter: Waiter, status| {
            let by = self.own.name.clone();
            waiter.fail(RequestError::Returned { by, status, detail: Bytes::new() });
        };
        if let Err(status) = self.check_outgoing(&outgoing) {
            return refuse(waiter, status);
        }
        let budget_ms = u32::try_from(budget.as_millis()).unwrap_or(u32::MAX);
        if budget_ms == 0 {
            return refuse(waiter, Status::ExpiredInQueue);
        }
        let via = match self.routes.next_hop(&outgoing.to, Hop::Local) {
            Ok(via) => via,
            Err(status) => return refuse(waiter, status),
        };
        let deadline = clock::now() + budget;
        let to = Address::any(outgoing.to.clone());
        if let Err(waiter) = self.exchange.begin(sequence, to, via, deadline, waiter) {
            return refuse(waiter, Status::Overloaded);
        }
        self.arm_expiry(deadline, ctx);
        self.emit(self.own.envelope(Kind::Request, sequence, &outgoing, budget_ms));
    }

    /// One timer for all deadlines, set to the nearest.
    fn arm_expiry(&mut self, at: Instant, ctx: &mut Context<Self>) {
        if self.expiry.is_some_and(|(armed, _)| armed <= at) {
            return;
        }
        if let Some((_, timer)) = self.expiry.take() {
            ctx.cancel_future(timer);
        }
        let wait = at.saturating_duration_since(clock::now());
        let timer = ctx.run_later(wait, |cell, ctx| {
            cell.expiry = None;
            for waiter in cell.exchange.expire(clock::now()) {
                waiter.time_out();
            }
            if let Some(next) = cell.exchange.poll_timeout() {
                cell.arm_expiry(next, ctx);
            }
        });
        self.expiry = Some((at, timer));
    }

    /// A request that this cell makes for itself.
    pub(super) fn ask_own(
        &mut self,
        outgoing: Outgoing,
        ctx: &mut Context<Self>,
    ) -> super::Answer<Result<Reply, RequestError>> {
        let (answer, result) = oneshot::channel();
        self.ask(Ask { sequence: self.own.next_sequence(), outgoing, answer }, ctx);
        result
    }
}

impl Handler<Ask> for Cell {
    type Result = ();

    fn handle(&mut self, ask: Ask, ctx: &mut Self::Context) {
        self.ask(ask, ctx);
        self.pacer.pace(1, ctx);
    }
}

impl Handler<GiveUp> for Cell {
    type Result = ();

    fn handle(&mut self, GiveUp(sequence): GiveUp, _: &mut Self::Context) {
        self.exchange.give_up(sequence);
    }
}

impl Handler<FailOwn> for Cell {
    type Result = ();

    fn handle(&mut self, FailOwn { sequence, status }: FailOwn, _: &mut Self::Context) {
        if let Some(waiter) = self.exchange.give_up(sequence) {
            let by = self.own.name.clone();
            waiter.fail(RequestError::Returned { by, status, detail: Bytes::new() });
        }
    }
}

impl Handler<Submit> for Cell {
    type Result = ResponseFuture<Result<(), Status>>;

    fn handle(&mut self, Submit(outgoing): Submit, ctx: &mut Self::Context) -> Self::Result {
        self.pacer.pace(1, ctx);
        if let Err(status) = self.check_outgoing(&outgoing) {
            return Box::pin(std::future::ready(Err(status)));
        }
        let budget = outgoing.budget.unwrap_or(self.settings.budget);
        let budget_ms = u32::try_from(budget.as_millis()).unwrap_or(u32::MAX);
        let sequence = self.own.next_sequence();
        let envelope = self.own.envelope(Kind::Publish, sequence, &outgoing, budget_ms);
        let passed = self.filter.send(Pass(envelope));
        Box::pin(async move { passed.await.unwrap_or(Err(Status::ShuttingDown)) })
    }
}
