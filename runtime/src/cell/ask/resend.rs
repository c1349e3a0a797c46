//! Requests of this cell that are sent again, with the same number, while nothing is heard of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::Context;
use cellbus_channels::{Outgoing, Reply, RequestError};
use cellbus_proto::{
    admission::Admitted,
    envelope::{Address, Flags, Incarnation, Kind},
    exchange::{Copies, RetryPolicy, Verdict, retry_after},
    name::Fqcn,
    route::Hop,
    status::{Class, Status},
    well_known,
};

use super::{
    Answer, GRACE, millis,
    waiter::{Waiter, Waits, error_of},
};
use crate::{cell::Cell, clock};

/// A request of which more than one copy may leave.
#[derive(Debug)]
pub(super) struct Resending {
    answer: Answer,
    outgoing: Outgoing,
    /// The end of its budget.
    deadline: Instant,
    copies: Copies,
    start: Start,
    /// Where the latest copy went.
    via: Hop,
    /// Why a copy was lost that may have been executed.
    lost: Option<RequestError>,
    /// The latest refusal that was not the end.
    refused: Option<RequestError>,
}

/// Which start of the destination the request is for.
#[derive(Debug)]
enum Start {
    /// Any: executing it twice does no harm.
    Any,
    /// Not known yet; the number of the ping that asks.
    Unknown(Option<u64>),
    /// This one, and no other.
    Known(Incarnation),
}

/// Starts of other cells that are remembered.
const STARTS_MAX: usize = 4096;

impl Resending {
    pub(super) fn into_answer(self) -> Answer {
        self.answer
    }

    pub(super) fn ping(&self) -> Option<u64> {
        match self.start {
            Start::Unknown(ping) => ping,
            Start::Any | Start::Known(_) => None,
        }
    }

    /// The error of a request whose time is over, where no copy can have been executed.
    pub(super) fn certain_end(&self, me: &Fqcn) -> Option<RequestError> {
        let never_left = || RequestError::Returned {
            by: me.clone(),
            status: Status::ExpiredInQueue,
            detail: bytes::Bytes::new(),
        };
        let is_certain = self.copies.certainly_not_run();
        is_certain.then(|| self.refused.clone().unwrap_or_else(never_left))
    }
}

impl Cell {
    /// Begins a request that is sent again while nothing is heard of it.
    pub(super) fn ask_again_and_again(
        &mut self,
        waiter: Waiter,
        sequence: u64,
        mut outgoing: Outgoing,
        policy: RetryPolicy,
        ctx: &mut Context<Self>,
    ) {
        let Some((to, budget, answer)) = waiter.into_answer() else { return };
        outgoing.flags = outgoing.flags.with(Flags::RETRY);
        let is_idempotent = outgoing.flags.contains(Flags::IDEMPOTENT);
        let deadline = clock::now() + budget;
        let resending = Resending {
            answer,
            outgoing,
            deadline,
            copies: Copies::new(policy),
            start: if is_idempotent { Start::Any } else { Start::Unknown(None) },
            via: Hop::Local,
            lost: None,
            refused: None,
        };
        let address = self.own.address_of(&to);
        let waiter = Waiter::of(to, budget, Waits::Copies(Box::new(resending)));
        match self.exchange.begin(sequence, address, Hop::Local, deadline + GRACE, waiter) {
            Ok(()) => {
                self.arm_expiry(deadline + GRACE, ctx);
                self.send_copy(sequence, ctx);
            }
            Err(waiter) => self.refuse_own(waiter, Status::Overloaded),
        }
    }

    /// Sends a copy, or what has to come before the first.
    fn send_copy(&mut self, sequence: u64, ctx: &mut Context<Self>) {
        let now = clock::now();
        let Some(waiter) = self.exchange.waiter(sequence) else { return };
        let to = waiter.to().clone();
        let Waits::Copies(resending) = waiter.waits() else { return };
        let left = millis(resending.deadline.saturating_duration_since(now));
        if left == 0 {
            return;
        }
        if let (Start::Unknown(_), Some(known)) = (&resending.start, self.asking.starts.get(&to)) {
            resending.start = Start::Known(*known);
        }
        let via = match self.routes.next_hop(&to, Hop::Local) {
            Ok(via) => via,
            Err(status) => return self.find_no_way(sequence, status, ctx),
        };
        let address = match resending.start {
            Start::Any => self.own.address_of(&to),
            Start::Known(start) => Address::exact(to.clone(), start),
            Start::Unknown(former) => {
                let ping = self.own.next_sequence();
                resending.start = Start::Unknown(Some(ping));
                resending.copies.prepared(now);
                let due = resending.copies.due();
                let wait = Duration::from_millis(left.into());
                if let Some(former) = former {
                    self.exchange.give_up(former);
                }
                self.schedule(sequence, due, ctx);
                return self.ask_for_start(ping, sequence, to, wait, ctx);
            }
        };
        resending.copies.sent(now);
        resending.via = via;
        let due = resending.copies.due();
        let mut envelope =
            self.own.envelope(Kind::Request, sequence, &to, &resending.outgoing, left);
        envelope.header.destination = Arc::clone(&address);
        self.exchange.redirect(sequence, address, via);
        self.schedule(sequence, due, ctx);
        self.emit(envelope);
    }

    /// Learns which start of `to` is running, for the request `sequence`.
    fn ask_for_start(
        &mut self,
        ping: u64,
        sequence: u64,
        to: Fqcn,
        wait: Duration,
        ctx: &mut Context<Self>,
    ) {
        let outgoing = Outgoing::new(well_known::PING.into());
        let envelope = self.own.envelope(Kind::Request, ping, &to, &outgoing, millis(wait));
        self.begin(Waiter::of(to, wait, Waits::Learns(sequence)), envelope, ctx);
    }

    /// No link leads to the destination of `sequence` now.
    fn find_no_way(&mut self, sequence: u64, status: Status, ctx: &mut Context<Self>) {
        let (now, error) = (clock::now(), self.refusal(status));
        let Some(waiter) = self.exchange.waiter(sequence) else { return };
        let is_cut_off = is_cut_off(self.own.is_root(), &self.routes, waiter.to());
        let Waits::Copies(resending) = waiter.waits() else { return };
        if is_cut_off || !resending.copies.certainly_not_run() {
            resending.copies.not_sent(now);
            resending.refused = Some(error);
            let due = resending.copies.due();
            self.schedule(sequence, due, ctx);
        } else if let Some(waiter) = self.exchange.give_up(sequence) {
            self.end(waiter, error);
        }
    }

    fn schedule(&mut self, sequence: u64, due: Option<Instant>, ctx: &mut Context<Self>) {
        if let Some(due) = due {
            self.asking.resends.insert((due, sequence));
            self.arm_expiry(due, ctx);
        }
    }

    /// Sends every copy that is due.
    pub(super) fn resend_due(&mut self, ctx: &mut Context<Self>) {
        let now = clock::now();
        while let Some((at, sequence)) = self.asking.resends.first().copied()
            && at <= now
        {
            self.asking.resends.remove(&(at, sequence));
            let due = self.exchange.waiter(sequence).and_then(|waiter| match waiter.waits() {
                Waits::Copies(resending) => resending.copies.due(),
                Waits::Plain(_) | Waits::Learns(_) | Waits::Ping(..) => None,
            });
            if due.is_some_and(|due| due <= now) {
                self.send_copy(sequence, ctx);
            }
        }
    }

    /// The links have changed: what found no way may find one now.
    pub(in crate::cell) fn look_for_ways(&mut self, ctx: &mut Context<Self>) {
        let now = clock::now();
        let waiting: Vec<u64> = self.asking.resends.iter().map(|(_, sequence)| *sequence).collect();
        for sequence in waiting {
            let Some(waiter) = self.exchange.waiter(sequence) else { continue };
            let Waits::Copies(resending) = waiter.waits() else { continue };
            resending.copies.links_changed(now);
            let due = resending.copies.due();
            self.schedule(sequence, due, ctx);
        }
    }

    /// An answer to a copy, or to the ping before it.
    pub(super) fn take_last(
        &mut self,
        sequence: u64,
        waiter: Waiter,
        admitted: Admitted,
        ctx: &mut Context<Self>,
    ) {
        let origin = &admitted.header().origin;
        let start = origin.incarnation.filter(|_| origin.name == *waiter.to());
        if let Some(start) = start {
            self.learn(waiter.to().clone(), start);
        }
        match error_of(admitted) {
            Ok(reply) => self.take_reply(waiter, reply, ctx),
            Err(error) => self.take_error(sequence, waiter, error, ctx),
        }
    }

    fn take_reply(&mut self, mut waiter: Waiter, reply: Reply, ctx: &mut Context<Self>) {
        match waiter.waits() {
            Waits::Learns(request) => {
                let request = *request;
                self.send_copy(request, ctx);
            }
            Waits::Plain(_) | Waits::Copies(_) | Waits::Ping(..) => waiter.end(Ok(reply)),
        }
    }

    fn learn(&mut self, cell: Fqcn, start: Incarnation) {
        let starts = &mut self.asking.starts;
        if starts.len() >= STARTS_MAX && !starts.contains_key(&cell) {
            starts.pop_first();
        }
        starts.insert(cell, start);
    }

    /// A copy of the request `sequence`, or the ping before it, came back or was lost.
    pub(super) fn take_error(
        &mut self,
        sequence: u64,
        mut waiter: Waiter,
        error: RequestError,
        ctx: &mut Context<Self>,
    ) {
        match waiter.waits() {
            Waits::Learns(request) => {
                // A ping that is lost is followed by another; one that is refused says what the request
                // would be told.
                let request = *request;
                if error.class() == Class::Refused
                    && let Some(waiter) = self.exchange.give_up(request)
                {
                    self.take_error(request, waiter, error, ctx);
                }
            }
            Waits::Copies(_) => self.weigh(sequence, waiter, error, ctx),
            Waits::Plain(_) | Waits::Ping(..) => waiter.fail(error),
        }
    }

    /// Whether a copy that came back ends its request.
    fn weigh(
        &mut self,
        sequence: u64,
        mut waiter: Waiter,
        error: RequestError,
        ctx: &mut Context<Self>,
    ) {
        let now = clock::now();
        let is_cut_off = is_cut_off(self.own.is_root(), &self.routes, waiter.to());
        let (to, status) = (waiter.to().clone(), error.status());
        let Waits::Copies(resending) = waiter.waits() else { return };
        let is_new_start = status == Status::PeerRestarted
            && error.by() == Some(&to)
            && self.asking.starts.contains_key(&to);
        if is_new_start && resending.copies.restarted() {
            resending.start = Start::Unknown(None);
            if self.wait_on(sequence, waiter) {
                self.send_copy(sequence, ctx);
            }
            return;
        }
        let after = match &error {
            RequestError::Returned { detail, .. } => retry_after(detail),
            RequestError::TimedOut { .. }
            | RequestError::Cancelled { .. }
            | RequestError::SlowConsumer { .. }
            | RequestError::Closed
            | _ => None,
        };
        match resending.copies.returned(now, status, is_cut_off, after) {
            Verdict::Wait => {
                let due = resending.copies.due();
                match error.class() {
                    Class::Refused => resending.refused = Some(error),
                    Class::Unknown | Class::Failed => resending.lost = Some(error),
                }
                if self.wait_on(sequence, waiter) {
                    self.schedule(sequence, due, ctx);
                }
            }
            Verdict::End => self.end(waiter, error),
            Verdict::EndLost => {
                let error = resending.lost.take().unwrap_or(error);
                self.end(waiter, error);
            }
        }
    }

    /// The request goes on; `false` where it cannot.
    fn wait_on(&mut self, sequence: u64, mut waiter: Waiter) -> bool {
        let Waits::Copies(resending) = waiter.waits() else { return false };
        let (end, via) = (resending.deadline + GRACE, resending.via);
        let address = match resending.start {
            Start::Known(start) => Address::exact(waiter.to().clone(), start),
            Start::Any | Start::Unknown(_) => self.own.address_of(waiter.to()),
        };
        match self.exchange.begin(sequence, address, via, end, waiter) {
            Ok(()) => true,
            Err(waiter) => {
                self.refuse_own(waiter, Status::Overloaded);
                false
            }
        }
    }
}

/// Whether this cell itself has no link by which `to` could be reached, and may have one again.
fn is_cut_off(is_root: bool, routes: &cellbus_proto::route::Routes, to: &Fqcn) -> bool {
    !is_root && routes.uplink().is_none() && !routes.is_below(to) && routes.me() != to
}
