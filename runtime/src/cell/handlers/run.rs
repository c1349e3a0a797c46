//! Handlers at work: started in order, polled once in place, and then in a task of their own.

use std::{
    sync::Arc,
    task::{Context as Poller, Poll, Waker},
    time::{Duration, Instant},
};

use actix::{Addr, AsyncContext, Context, Handler, Message};
use cellbus_channels::{
    Delivery, Line,
    call::{Call, Outcome, Step},
    trace,
};
use cellbus_proto::{dedupe::RequestId, envelope::Header, name::ChannelTopic, route::Hop};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::{LaneKey, Registration, accept::OVERHEAD, request_key, stream::HandlerReply};
use crate::{cell::Cell, clock, seam::post, spans, stats};

/// Time that a handler has to clean up, if it has asked to be told that nobody waits.
const CLEAN_UP: Duration = Duration::from_secs(1);
/// Messages of one sequence that are started in one go.
const TURN: usize = 64;

/// What is needed to answer a message, and to give back what it holds.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) request: Header,
    pub(super) lane: LaneKey,
    pub(super) size: usize,
    pub(super) purpose: Purpose,
    /// Where the message may come more than once.
    pub(super) id: Option<RequestId>,
    pub(super) arrived: Hop,
    /// Replies have left that more follow.
    pub(super) is_stream: bool,
    /// The last answer has left before the handler has ended.
    pub(super) is_answered: bool,
}

/// What the end of a handler is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is the answer, where somebody waits for one.
    Alone,
    /// Nobody waits for it any more: the receipt has been given.
    Receipted,
    /// It is one of the outcomes of a batch.
    Part {
        /// Number of the batch.
        batch: u64,
        /// Place in it.
        index: usize,
    },
}

/// A message that has been taken on and not been started.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) ticket: Ticket,
    pub(super) delivery: Delivery,
    pub(super) deadline: Instant,
    pub(super) registration: Arc<Registration>,
}

/// A handler that has been polled once.
pub(super) struct Begun {
    pub(super) call: Call,
    /// What came of that.
    pub(super) first: Option<Step>,
    /// When it was started.
    pub(super) since: Instant,
    pub(super) deadline: Instant,
}

/// A message whose handler was not ready at once.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) ticket: Ticket,
    /// Sent to, or dropped, it ends the handler.
    pub(super) cancel: Option<oneshot::Sender<()>>,
}

/// How work on a message ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// As its handler says.
    Ended(Outcome),
    /// Its budget was spent while the handler ran.
    TooLate,
    /// Its budget was spent before the handler ran.
    Expired,
    /// Nobody waits for it any more.
    Cancelled,
}

/// A handler has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HandlerDone {
    number: u64,
    ending: Ending,
}

/// Goes on starting what waits in a sequence.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Resume(LaneKey);

impl Ticket {
    pub(super) fn new(
        request: Header,
        size: usize,
        purpose: Purpose,
        id: Option<RequestId>,
        arrived: Hop,
    ) -> Self {
        let lane = LaneKey::of(&request);
        Self { request, lane, size, purpose, id, arrived, is_stream: false, is_answered: false }
    }

    pub(super) fn payload_len(&self) -> usize {
        self.size.saturating_sub(OVERHEAD)
    }
}

impl Cell {
    /// Calls the handler of a message whose turn it is. `is_held` where room is held for it already.
    pub(super) fn start(
        &mut self,
        number: u64,
        work: Work,
        is_held: bool,
        ctx: &mut Context<Self>,
    ) {
        let Work { ticket, mut delivery, deadline, registration } = work;
        let now = self.now();
        if deadline <= now {
            return self.end_at_once(ticket, Ending::Expired, is_held);
        }
        delivery.budget = deadline.saturating_duration_since(now);
        let line = match ticket.purpose {
            Purpose::Alone => self.handlers.line(),
            Purpose::Receipted | Purpose::Part { .. } => Line::for_one_reply(),
        };
        let traced = spans::of_handler(&self.own.name, &ticket.request);
        delivery.trace = traced.trace;
        let (call, polled) = traced.run(|| {
            let mut call = Call::new(&*registration.handler, delivery, line);
            let polled = call.poll_step(&mut Poller::from_waker(Waker::noop()));
            (call, polled)
        });
        let then = clock::now();
        self.moment = self.moment.map(|_| then);
        let spent = then.saturating_duration_since(now);
        stats::note_kept(&ticket.request.target, spent);
        let first = match polled {
            Poll::Ready(Step::End(outcome)) => {
                self.own.stats.handled(spent);
                self.handlers.keep_line(call.into_line());
                return self.end_at_once(ticket, Ending::Ended(outcome), is_held);
            }
            Poll::Ready(Step::Reply(reply)) => Some(Step::Reply(reply)),
            Poll::Pending => None,
        };
        traced.run(|| {
            let begun = Begun { call, first, since: now, deadline };
            self.go_on(number, ticket, begun, is_held, ctx);
        });
    }

    /// Has a handler that was not ready at once go on in a task of its own.
    pub(super) fn go_on(
        &mut self,
        number: u64,
        ticket: Ticket,
        begun: Begun,
        is_held: bool,
        ctx: &mut Context<Self>,
    ) {
        let Begun { call, first, since, deadline } = begun;
        self.handlers.order.hold(&ticket.lane);
        if !is_held {
            self.handlers.load.hold(&ticket.request.origin.name, ticket.size);
        }
        let (nonce, sequence) = request_key(&ticket.request);
        self.handlers.by_request.insert((nonce, sequence, number));
        let (cancel, cancelled) = oneshot::channel();
        let (stats, target) = (Arc::clone(&self.own.stats), ticket.request.target.clone());
        self.handlers.running.insert(number, Running { ticket, cancel: Some(cancel) });
        // The task, not the actor, waits: an actor's cost per message grows with what it waits for.
        let driven = drive(ctx.address(), number, call, first, deadline, cancelled, target);
        let work = async move {
            driven.await;
            stats.handled(clock::now().saturating_duration_since(since));
        };
        match trace::current() {
            None => actix::spawn(work),
            some => actix::spawn(trace::carried(some, work).in_current_span()),
        };
    }

    fn end_at_once(&mut self, ticket: Ticket, ending: Ending, is_held: bool) {
        if is_held {
            self.handlers.load.release(&ticket.request.origin.name, ticket.size);
        }
        self.settle_message(ticket, ending);
    }

    /// Starts what may start in a sequence.
    pub(super) fn resume(&mut self, lane: &LaneKey, ctx: &mut Context<Self>) {
        for _ in 0..TURN {
            let Some(number) = self.handlers.order.next(lane) else { return };
            if let Some(work) = self.take_waiting(number) {
                self.start(number, work, true, ctx);
            }
        }
        ctx.notify(Resume(lane.clone()));
    }

    /// Takes a message from those that wait. Room is still held for it.
    pub(super) fn take_waiting(&mut self, number: u64) -> Option<Work> {
        let work = self.handlers.waiting.remove(&number)?;
        let (nonce, sequence) = request_key(&work.ticket.request);
        self.handlers.by_request.remove(&(nonce, sequence, number));
        let of_handler = work.registration.number;
        if let Some(queued) = self.handlers.queued.get_mut(&of_handler) {
            *queued -= work.ticket.size;
            if *queued == 0 {
                self.handlers.queued.remove(&of_handler);
            }
        }
        Some(work)
    }

    /// Ends what waits although its budget is spent, when the room is needed.
    pub(super) fn drop_expired(&mut self) {
        let now = clock::now();
        if !self.handlers.may_sweep(now) {
            return;
        }
        let expired = |(number, work): (&u64, &Work)| (work.deadline <= now).then_some(*number);
        let numbers: Vec<u64> = self.handlers.waiting.iter().filter_map(expired).collect();
        for number in numbers {
            self.drop_waiting(number, Ending::Expired);
        }
    }

    /// Ends a message that waits.
    pub(super) fn drop_waiting(&mut self, number: u64, ending: Ending) {
        if let Some(work) = self.take_waiting(number) {
            self.handlers.order.withdraw(&work.ticket.lane, number);
            self.end_at_once(work.ticket, ending, true);
        }
    }
}

/// Polls a handler until its end, or until nobody waits for it.
async fn drive(
    cell: Addr<Cell>,
    number: u64,
    mut call: Call,
    mut first: Option<Step>,
    deadline: Instant,
    mut cancelled: oneshot::Receiver<()>,
    target: ChannelTopic,
) {
    let mut too_late = std::pin::pin!(tokio::time::sleep_until(deadline.into()));
    let ending = loop {
        let work = async {
            match first.take() {
                Some(step) => step,
                None => stats::watched(&target, |cx| call.poll_step(cx)).await,
            }
        };
        let step = tokio::select! {
            biased;
            step = work => step,
            _ = &mut cancelled => break Ending::Cancelled,
            () = &mut too_late => break Ending::TooLate,
        };
        let reply = match step {
            Step::End(outcome) => break Ending::Ended(outcome),
            Step::Reply(reply) => reply,
        };
        let (left, has_left) = oneshot::channel();
        if post(&cell, HandlerReply { number, reply, left }).is_err() {
            return;
        }
        tokio::select! {
            biased;
            _ = has_left => {}
            _ = &mut cancelled => break Ending::Cancelled,
            () = &mut too_late => break Ending::TooLate,
        }
    };
    let is_over = matches!(ending, Ending::Ended(_));
    if !is_over && call.cancel() {
        // What it says now is for nobody.
        let _ = tokio::time::timeout(CLEAN_UP, call.end()).await;
    } else {
        drop(call);
    }
    if post(&cell, HandlerDone { number, ending }).is_err() {
        tracing::debug!("a handler outlived its cell");
    }
}

impl Handler<HandlerDone> for Cell {
    type Result = ();

    fn handle(&mut self, HandlerDone { number, ending }: HandlerDone, ctx: &mut Self::Context) {
        let Some(Running { ticket, .. }) = self.handlers.running.remove(&number) else { return };
        let (nonce, sequence) = request_key(&ticket.request);
        self.handlers.by_request.remove(&(nonce, sequence, number));
        self.handlers.load.release(&ticket.request.origin.name, ticket.size);
        let lane = ticket.lane.clone();
        self.gathering(|cell| {
            cell.settle_message(ticket, ending);
            cell.handlers.order.leave(&lane);
            cell.resume(&lane, ctx);
        });
    }
}

impl Handler<Resume> for Cell {
    type Result = ();

    fn handle(&mut self, Resume(lane): Resume, ctx: &mut Self::Context) {
        self.gathering(|cell| cell.resume(&lane, ctx));
        self.pacer.pace(u32::try_from(TURN).unwrap_or(u32::MAX), ctx);
    }
}
