//! Requests of this cell itself: how they begin, and how each of them ends once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::BuildHasherDefault,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{AsyncContext, Context, Handler, Message};
use bytes::Bytes;
use cellbus_channels::{Outgoing, Reply, RequestError};
use cellbus_proto::{
    admission::Admitted,
    bundle,
    envelope::{Address, Common, Envelope, Extras, Header, Incarnation, Kind, Lane},
    exchange::{Completed, Stray},
    folded::Folded,
    name::Fqcn,
    route::{Hop, LinkId},
    status::Status,
    well_known,
};
use tokio::sync::oneshot;

use super::Cell;
use crate::{clock, own::Own};

mod cancel;
mod many;
mod publish;
mod resend;
mod waiter;

use self::waiter::More;
pub(super) use self::waiter::Waiter;
pub use self::{
    many::{AskMany, Below, GiveUpMany, SubmitMany},
    publish::LeaseFor,
    waiter::Answer,
};

/// How much longer than its budget a request waits for the answer of the cell where it died.
pub const GRACE: Duration = Duration::from_millis(150);

/// Which way leads to an address, which is held so that nothing else can come to live where it is.
type Way = (Arc<Address>, Result<Hop, Status>);

/// What the requests of this cell need beside the exchange.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// When which request is to be sent again.
    resends: BTreeSet<(Instant, u64)>,
    /// Which start of a cell was the latest to answer; kept for requests that are sent again.
    starts: BTreeMap<Fqcn, Incarnation>,
    /// Which way leads to whom, by where the address lives; emptied when the routes change.
    pub(super) ways: HashMap<usize, Way, BuildHasherDefault<Folded>>,
    /// Requests that were given up on, by destination, of whom their destinations are still to be told.
    cancels: BTreeMap<Fqcn, Vec<u64>>,
}

/// Requests of this cell wait to be taken. Dropped by an actor that ends, it ends them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeAsks(Option<Arc<Own>>);

impl TakeAsks {
    pub(crate) fn of(own: &Arc<Own>) -> Self {
        Self(Some(Arc::clone(own)))
    }
}

impl Drop for TakeAsks {
    fn drop(&mut self) {
        if let Some(own) = self.0.take() {
            drop(own.asks.take());
        }
    }
}

/// A request of this cell.
#[derive(Debug)]
pub struct Ask {
    /// Sequence number, from [`Own::next_sequence`].
    pub sequence: u64,
    /// Whom to ask.
    pub to: Fqcn,
    /// What to send.
    pub outgoing: Outgoing,
    /// Who waits.
    pub answer: Answer,
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

/// A publish of which everything in common with others is known.
pub(crate) fn publish_of(
    common: Arc<Common>,
    sequence: u64,
    outgoing: &Outgoing,
    budget_ms: u32,
) -> Envelope {
    let extras = extras(outgoing);
    let header = Header { kind: Kind::Publish, sequence, common, budget_ms, hops_left: 0, extras };
    Envelope { header, payload: outgoing.payload.clone() }
}

impl Own {
    /// A message of this cell.
    pub(crate) fn envelope(
        &self,
        kind: Kind,
        sequence: u64,
        to: &Fqcn,
        outgoing: &Outgoing,
        budget_ms: u32,
    ) -> Envelope {
        let system = well_known::lookup(&outgoing.target).is_some();
        let lane = if system { Lane::Control } else { outgoing.lane };
        let header = Header {
            kind,
            sequence,
            common: self.common(to, &outgoing.target, lane, outgoing.flags),
            budget_ms,
            hops_left: 0,
            extras: extras(outgoing),
        };
        Envelope { header, payload: outgoing.payload.clone() }
    }
}

fn extras(outgoing: &Outgoing) -> Option<Box<Extras>> {
    let content_type = outgoing.content_type.clone();
    match &outgoing.rare {
        Some(rare) => {
            let (headers, trace) = (rare.headers.clone(), rare.trace);
            Extras { content_type, headers, trace, ..Extras::default() }.boxed()
        }
        None => {
            let content_type = content_type?;
            Some(Box::new(Extras { content_type: Some(content_type), ..Extras::default() }))
        }
    }
}

/// Checks what no other cell can be expected to check for the sender's.
pub(crate) fn check_outgoing(outgoing: &Outgoing, payload_max: usize) -> Result<(), Status> {
    let content_type = outgoing.content_type.as_ref().map_or("", |text| text);
    let headers = outgoing.rare.as_ref().map_or(0, |rare| rare.headers.len());
    if outgoing.payload.len() > payload_max
        || content_type.len() > Extras::CONTENT_TYPE_MAX
        || headers > Extras::HEADERS_MAX
    {
        return Err(Status::TooLarge);
    }
    if content_type.bytes().any(|byte| !(0x20..0x7f).contains(&byte)) {
        return Err(Status::BadHeader);
    }
    Ok(())
}

/// Whole milliseconds, as headers carry them.
pub(crate) fn millis(budget: Duration) -> u32 {
    u32::try_from(budget.as_millis()).unwrap_or(u32::MAX)
}

impl Cell {
    /// Checks what no other cell can be expected to check for this one.
    fn check_outgoing(&self, outgoing: &Outgoing) -> Result<(), Status> {
        check_outgoing(outgoing, self.settings.payload_max)
    }

    /// The budget of a message, where it may be sent.
    pub(super) fn check_sendable(&self, outgoing: &Outgoing) -> Result<Duration, Status> {
        self.check_outgoing(outgoing)?;
        let budget = outgoing.budget.unwrap_or(self.settings.budget);
        if millis(budget) == 0 { Err(Status::ExpiredInQueue) } else { Ok(budget) }
    }

    pub(super) fn ask(&mut self, ask: Ask, ctx: &mut Context<Self>) {
        let Ask { sequence, to, outgoing, answer } = ask;
        let budget = match self.check_sendable(&outgoing) {
            Ok(budget) => budget,
            Err(status) => {
                return self.refuse_own(Waiter::new(to, Duration::ZERO, answer), status);
            }
        };
        let waiter = Waiter::new(to, budget, answer);
        if let Some(policy) = outgoing.retry() {
            return self.ask_again_and_again(waiter, sequence, outgoing, policy, ctx);
        }
        let kind = outgoing.awaited_kind();
        let envelope = self.own.envelope(kind, sequence, waiter.to(), &outgoing, millis(budget));
        self.begin(waiter, envelope, ctx);
    }

    /// The error of a request that this cell does not let out.
    fn refusal(&self, status: Status) -> RequestError {
        RequestError::Returned { by: self.own.name.clone(), status, detail: Bytes::new() }
    }

    fn refuse_own(&self, waiter: Waiter, status: Status) {
        waiter.fail(self.refusal(status));
    }

    /// Sends a request, and has `waiter` wait for its end.
    pub(super) fn begin(&mut self, waiter: Waiter, envelope: Envelope, ctx: &mut Context<Self>) {
        if self.register(waiter, &envelope.header, ctx) {
            self.emit(envelope);
        }
    }

    /// Which way messages to `to` leave.
    fn way_to(&mut self, to: &Arc<Address>) -> Result<Hop, Status> {
        const MAX: usize = 4096;
        let key = Arc::as_ptr(to).addr();
        if let Some((_, way)) = self.asking.ways.get(&key) {
            return *way;
        }
        let way = self.routes.next_hop(&to.name, Hop::Local);
        if self.asking.ways.len() >= MAX {
            self.asking.ways.clear();
        }
        self.asking.ways.insert(key, (Arc::clone(to), way));
        way
    }

    /// Has `waiter` wait for the end of a request that is about to leave; `false` when it ends here and now.
    fn register(&mut self, waiter: Waiter, header: &Header, ctx: &mut Context<Self>) -> bool {
        let (sequence, to) = (header.sequence, Arc::clone(&header.destination));
        let via = match self.way_to(&to) {
            Ok(via) => via,
            Err(status) => {
                self.refuse_own(waiter, status);
                return false;
            }
        };
        let deadline = self.now() + waiter.patience();
        if let Err(waiter) = self.exchange.begin(sequence, to, via, deadline, waiter) {
            self.refuse_own(waiter, Status::Overloaded);
            return false;
        }
        self.arm_expiry(deadline, ctx);
        true
    }

    /// One timer for all deadlines and all that is to be sent again, set to the nearest.
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
                cell.time_out(waiter);
            }
            cell.resend_due(ctx);
            let resend = cell.asking.resends.first().map(|(at, _)| *at);
            if let Some(next) = cell.exchange.poll_timeout().into_iter().chain(resend).min() {
                cell.arm_expiry(next, ctx);
            }
        });
        self.expiry = Some((at, timer));
    }

    fn time_out(&mut self, waiter: Waiter) {
        let error = match waiter.certain_end(&self.own.name) {
            Some(error) => error,
            None => waiter.timed_out(),
        };
        self.end(waiter, error);
    }

    /// Ends a request with an error.
    fn end(&mut self, waiter: Waiter, error: RequestError) {
        if let Some(ping) = waiter.ping() {
            self.exchange.give_up(ping);
        }
        waiter.fail(error);
    }

    /// Gives an answer to whoever waits for it.
    pub(super) fn take_answer(&mut self, admitted: Admitted, ctx: &mut Context<Self>) {
        let (Kind::Reply { to: sequence } | Kind::Return { to: sequence, .. }) =
            admitted.header().kind
        else {
            return;
        };
        if bundle::is_bundle(admitted.header()) {
            return self.take_answers(admitted, ctx);
        }
        match self.exchange.complete(admitted.header(), admitted.arrived()) {
            Ok(Completed::Last(waiter)) if waiter.is_plain() => waiter.finish(admitted),
            Ok(Completed::Last(waiter)) => self.take_last(sequence, waiter, admitted, ctx),
            Ok(Completed::More(waiter)) => match waiter.more(admitted) {
                More::Wanted => {}
                More::Enough(end) => self.stop_replies(sequence, end, ctx),
            },
            Err(Stray::Late) => self.own.counters.late_reply(),
            Err(Stray::Unsolicited) => {
                self.own.counters.refuse(Status::ReplyUnsolicited);
                tracing::debug!(cell = %self.own.name, "an answer that nobody waits for");
            }
        }
    }

    /// Gives each of the answers that came together to whoever waits for it.
    fn take_answers(&mut self, admitted: Admitted, ctx: &mut Context<Self>) {
        for one in admitted.split() {
            if bundle::is_bundle(one.header()) {
                self.own.counters.refuse(Status::BadFrame);
                tracing::debug!(cell = %self.own.name, "answers that are none");
            } else {
                self.take_answer(one, ctx);
            }
        }
    }

    /// Whoever waits takes no more replies: the rest is cancelled.
    fn stop_replies(
        &mut self,
        sequence: u64,
        end: Result<Reply, RequestError>,
        ctx: &mut Context<Self>,
    ) {
        let Some(waiter) = self.exchange.give_up(sequence) else { return };
        if let Some(ping) = waiter.ping() {
            self.exchange.give_up(ping);
        }
        self.cancel(waiter.to().clone(), sequence, ctx);
        waiter.end(end);
    }

    /// Every request that went by this link ends, or is sent again by another.
    pub(super) fn fail_link(&mut self, id: LinkId, ctx: &mut Context<Self>) {
        for (sequence, waiter, status) in self.exchange.fail_hop(Hop::Link(id)) {
            let error = self.refusal(status);
            self.fail_asked(sequence, waiter, error, ctx);
        }
    }

    /// A request of this cell that its own filter has refused, or whose link is lost.
    fn fail_asked(
        &mut self,
        sequence: u64,
        waiter: Waiter,
        error: RequestError,
        ctx: &mut Context<Self>,
    ) {
        match waiter.is_plain() {
            true => waiter.fail(error),
            false => self.take_error(sequence, waiter, error, ctx),
        }
    }

    /// A request that this cell makes for itself.
    pub(super) fn ask_own(
        &mut self,
        to: Fqcn,
        outgoing: Outgoing,
        ctx: &mut Context<Self>,
    ) -> oneshot::Receiver<Result<Reply, RequestError>> {
        let (answer, result) = oneshot::channel();
        let sequence = self.own.next_sequence();
        self.ask(Ask { sequence, to, outgoing, answer: Answer::Once(answer) }, ctx);
        result
    }

    fn forget(&mut self, sequence: u64, ctx: &mut Context<Self>) {
        let Some(waiter) = self.exchange.give_up(sequence) else { return };
        if let Some(ping) = waiter.ping() {
            self.exchange.give_up(ping);
        }
        self.cancel(waiter.to().clone(), sequence, ctx);
    }
}

impl Handler<TakeAsks> for Cell {
    type Result = ();

    fn handle(&mut self, mut told: TakeAsks, ctx: &mut Self::Context) {
        told.0 = None;
        let asks = self.own.asks.take();
        let weight = u32::try_from(asks.len()).unwrap_or(u32::MAX);
        self.gathering(|cell| {
            for ask in asks {
                cell.ask(ask, ctx);
            }
        });
        self.pacer.pace(weight, ctx);
    }
}

impl Handler<GiveUp> for Cell {
    type Result = ();

    fn handle(&mut self, GiveUp(sequence): GiveUp, ctx: &mut Self::Context) {
        self.forget(sequence, ctx);
    }
}

impl Handler<FailOwn> for Cell {
    type Result = ();

    fn handle(&mut self, FailOwn { sequence, status }: FailOwn, ctx: &mut Self::Context) {
        if let Some(waiter) = self.exchange.give_up(sequence) {
            let error = self.refusal(status);
            self.fail_asked(sequence, waiter, error, ctx);
        }
    }
}
