//! Publishes, or requests, that came in one message: handed out one by one, and as long as each ends at once,
//! with nothing kept of any.

use std::{
    iter::Enumerate,
    mem,
    sync::Arc,
    task::{Context as Poller, Poll, Waker},
    vec::IntoIter,
};

use actix::Context;
use bytes::Bytes;
use cellbus_channels::{
    call::{AtOnce, Call, Outcome, Step},
    filter::Point,
};
use cellbus_proto::{batch, bundle, envelope::Header, name::Fqcn, status::Status};

use super::{
    LaneKey,
    accept::{Incoming, OVERHEAD},
    answer::Answer,
    run::{Begun, Ending, Purpose, Ticket},
};
use crate::{cell::Cell, clock, stats};

/// Handlers after which the clock is read.
const LOOK: usize = 16;

impl Cell {
    /// Takes on every message of a bundle, in order. Each request is answered on its own.
    pub(super) fn accept_bundle(&mut self, whole: Incoming, ctx: &mut Context<Self>) {
        let items = match batch::decode(whole.payload.clone()) {
            Ok(items) => items,
            Err(error) => return self.refuse_batch(whole, error),
        };
        let is_straight = self.is_straight(&whole, &items);
        let mut items = items.into_iter().enumerate();
        if is_straight {
            self.run_straight(&whole, &mut items, ctx);
        }
        for (place, payload) in items {
            // One of those before it may have been the last panic that its handler is forgiven.
            if self.handlers.answers(&whole.request.target) {
                self.accept(one_of(&whole, place, payload), ctx);
            } else {
                self.refuse_unhandled(&whole, place, payload.len());
            }
        }
    }

    fn refuse_unhandled(&mut self, whole: &Incoming, place: usize, payload_len: usize) {
        let request = whole.numbered(place);
        let size = payload_len + OVERHEAD;
        let ticket = Ticket::new(request, size, Purpose::Alone, None, whole.arrived);
        self.refuse_ticket(ticket, Answer::failed(Status::NoHandler, Bytes::new()));
    }

    /// Whether the messages can be handed out right away: no filter looks at them, none waits before them,
    /// there is room for the largest, and time.
    fn is_straight(&mut self, whole: &Incoming, items: &[Bytes]) -> bool {
        let request = &whole.request;
        let largest = items.iter().map(Bytes::len).max().unwrap_or(0) + OVERHEAD;
        let origin: &Fqcn = &request.origin.name;
        !self.own.filters.applies(Point::RequestIn, &request.target)
            && self.handlers.order.is_idle(&LaneKey::of(request))
            && self.handlers.load.check(origin, largest).is_ok()
            && whole.deadline > self.now()
    }

    /// Hands out messages as long as each ends at once.
    fn run_straight(
        &mut self,
        whole: &Incoming,
        items: &mut Enumerate<IntoIter<Bytes>>,
        ctx: &mut Context<Self>,
    ) {
        let begun = self.now();
        let mut last = begun;
        let handler = &*whole.registration.handler;
        let mut line = self.handlers.line();
        let mut delivery = whole.delivery().over(line.clone());
        delivery.budget = whole.deadline.saturating_duration_since(begun);
        let mut since = 0;
        let is_awaited = whole.request.wants_answer();
        while whole.deadline > last
            && let Some((place, payload)) = items.next()
        {
            let size = payload.len() + OVERHEAD;
            delivery.payload = payload;
            let (call, polled) = match AtOnce::of(handler, &delivery) {
                Some(done) if !line.is_kept() => (None, Poll::Ready(Step::End(done.outcome()))),
                Some(done) => {
                    let used = mem::replace(&mut line, self.handlers.line());
                    delivery = delivery.over(line.clone());
                    poll_once(done.over(used))
                }
                None => {
                    let own = self.handlers.line();
                    poll_once(Call::new(handler, delivery.clone(), own))
                }
            };
            since += 1;
            let is_last = items.len() == 0;
            let ends = matches!(polled, Poll::Ready(Step::End(_)));
            if since == LOOK || is_last || !ends {
                last = self.look(whole, last, since);
                since = 0;
            }
            let ticket = || {
                let request = whole.numbered(place);
                Ticket::new(request, size, Purpose::Alone, None, whole.arrived)
            };
            let first = match polled {
                Poll::Ready(Step::End(outcome)) => {
                    self.handlers.keep_line(call.and_then(Call::into_line));
                    if is_awaited && matches!(outcome, Outcome::Replied(_)) {
                        let request = whole.numbered(place);
                        let answer = self.answer_of(&request, outcome);
                        self.send_answer(&request, &answer);
                    } else if !matches!(outcome, Outcome::Replied(_)) {
                        let is_over = matches!(outcome, Outcome::Panicked);
                        self.settle_message(ticket(), Ending::Ended(outcome));
                        // It may have been given its last message.
                        if is_over {
                            return;
                        }
                    }
                    continue;
                }
                Poll::Ready(Step::Reply(reply)) => Some(Step::Reply(reply)),
                Poll::Pending => None,
            };
            let Some(call) = call else { continue };
            let number = self.handlers.next_number();
            let begun = Begun { call, first, since: last, deadline: whole.deadline };
            return self.go_on(number, ticket(), begun, false, ctx);
        }
        drop(delivery);
        self.handlers.keep_line(line.reuse());
    }

    /// Reads the clock, and notes how long the last `count` handlers took, each its share.
    fn look(
        &mut self,
        whole: &Incoming,
        last: std::time::Instant,
        count: usize,
    ) -> std::time::Instant {
        let then = clock::now();
        self.moment = self.moment.map(|_| then);
        let spent = then.saturating_duration_since(last);
        stats::note_kept(&whole.request.target, spent);
        self.own.stats.handled_many(spent, u32::try_from(count).unwrap_or(u32::MAX));
        then
    }
}

fn poll_once(mut call: Call) -> (Option<Call>, Poll<Step>) {
    let polled = call.poll_step(&mut Poller::from_waker(Waker::noop()));
    (Some(call), polled)
}

impl Incoming {
    /// The header of the message at `place`.
    fn numbered(&self, place: usize) -> Header {
        let mut header = self.request.clone();
        bundle::number(&mut header, place);
        header
    }
}

fn one_of(whole: &Incoming, place: usize, payload: Bytes) -> Incoming {
    Incoming {
        request: whole.numbered(place),
        payload,
        claims: Arc::clone(&whole.claims),
        registration: Arc::clone(&whole.registration),
        purpose: Purpose::Alone,
        id: None,
        arrived: whole.arrived,
        deadline: whole.deadline,
    }
}
