//! Which messages are taken on: what is known already, what filters stop, and what there is no room for.

use std::{sync::Arc, time::Duration};

use actix::Context;
use bytes::Bytes;
use cellbus_channels::{
    Delivery, Origin,
    filter::{FilterMessage, Point},
};
use cellbus_proto::{
    admission::{Admitted, Verified},
    bundle,
    dedupe::{RequestId, Seen},
    envelope::{Envelope, Flags, Header, Kind},
    exchange::retry_after_detail,
    load::Load,
    name::Fqcn,
    order::Turn,
    route::Hop,
    status::Status,
    token::Claims,
};

use super::{
    Registration,
    answer::Answer,
    request_key,
    run::{Purpose, Ticket, Work},
};
use crate::cell::Cell;

/// Bytes that a message is counted as besides its payload.
pub(super) const OVERHEAD: usize = 256;

/// One message, or one of a batch, with all that is known of it.
pub(super) struct Incoming {
    pub(super) request: Header,
    pub(super) payload: Bytes,
    pub(super) claims: Arc<Claims>,
    pub(super) arrived: Hop,
    pub(super) deadline: std::time::Instant,
    pub(super) registration: Arc<Registration>,
    pub(super) purpose: Purpose,
    pub(super) id: Option<RequestId>,
}

impl Incoming {
    /// What its handler gets, but for the payload.
    pub(super) fn delivery(&self) -> Delivery {
        let Self { request, claims, .. } = self;
        let origin = Origin {
            name: claims.subject.clone(),
            kind: claims.kind,
            org: claims.org.clone(),
            job: claims.job.clone(),
        };
        let mut delivery = Delivery::new(origin, request.target.clone(), Bytes::new());
        delivery.content_type = request.content_type().cloned();
        if let Some(extras) = &request.extras {
            delivery.headers = extras.headers.clone();
        }
        delivery.expects_reply = request.kind == Kind::Request;
        delivery.is_sealed = request.flags.contains(Flags::SEALED);
        delivery
    }
}

impl Cell {
    /// Gives a message to its handler, now or when its turn comes.
    pub(in crate::cell) fn dispatch(
        &mut self,
        admitted: Admitted,
        budget_ms: u32,
        ctx: &mut Context<Self>,
    ) {
        let Some(registration) = self.handlers.find(&admitted.header().target) else {
            return self.refuse_delivered(admitted, Status::NoHandler);
        };
        let Verified::Claims(claims) = admitted.verified().clone() else {
            // Only challenge, register and bye are verified otherwise, and these go to their link.
            return self.refuse_delivered(admitted, Status::NoToken);
        };
        let arrived = admitted.arrived();
        let deadline = self.now() + Duration::from_millis(budget_ms.into());
        let Envelope { header: request, payload } = admitted.into_envelope();
        let mut id = None;
        if request.flags.contains(Flags::RETRY) {
            id = RequestId::new(&request.origin, request.sequence);
            if !self.is_new(id.as_ref(), &request, deadline) {
                return;
            }
        }
        let purpose = Purpose::Alone;
        let is_batch = request.flags.contains(Flags::BATCH);
        let incoming =
            Incoming { request, payload, claims, arrived, deadline, registration, purpose, id };
        if bundle::is_bundle(&incoming.request) {
            self.accept_bundle(incoming, ctx);
        } else if is_batch {
            self.accept_batch(incoming, ctx);
        } else {
            self.accept(incoming, ctx);
        }
    }

    /// Whether a message that may come more than once is to be executed; else it is answered here, now or
    /// with the copy that came before.
    fn is_new(
        &mut self,
        id: Option<&RequestId>,
        request: &Header,
        deadline: std::time::Instant,
    ) -> bool {
        let Some(id) = id else { return true };
        let idempotent = request.flags.contains(Flags::IDEMPOTENT);
        match self.handlers.dedupe.begin(self.now(), id, deadline, idempotent) {
            Seen::New => return true,
            Seen::Running => self.attach(request),
            Seen::Done(answer) => self.send_answer(request, &answer),
            // It has been executed: no status of class refused would be the truth.
            Seen::Forgotten => {
                let detail = Bytes::from_static(b"executed before, and the answer is not kept");
                self.answer_failed(request, Status::HandlerGone, detail);
            }
            Seen::Stale => self.answer_failed(request, Status::StaleId, Bytes::new()),
            Seen::Full => {
                let detail = self.retry_after(request);
                self.answer_failed(request, Status::Overloaded, detail);
            }
        }
        false
    }

    /// The answer goes out once, to the copy that came last.
    fn attach(&mut self, request: &Header) {
        let (nonce, sequence) = request_key(request);
        let of_request = (nonce, sequence, 0)..=(nonce, sequence, u64::MAX);
        let numbers: Vec<u64> =
            self.handlers.by_request.range(of_request).map(|(_, _, number)| *number).collect();
        for number in numbers {
            let waiting = self.handlers.waiting.get_mut(&number).map(|work| &mut work.ticket);
            let running = self.handlers.running.get_mut(&number).map(|run| &mut run.ticket);
            let Some(ticket) = waiting.or(running) else { continue };
            if ticket.request.origin.name != request.origin.name {
                continue;
            }
            ticket.request = request.clone();
            if let Purpose::Part { batch, .. } = ticket.purpose
                && let Some(batch) = self.handlers.batches.get_mut(&batch)
            {
                batch.request = request.clone();
            }
        }
    }

    /// Takes on a message, or says why not.
    pub(super) fn accept(&mut self, incoming: Incoming, ctx: &mut Context<Self>) {
        let mut delivery = incoming.delivery();
        let Incoming { request, payload, arrived, deadline, registration, purpose, id, .. } =
            incoming;
        delivery.payload = payload;
        let size = delivery.payload.len() + OVERHEAD;
        let mut ticket = Ticket::new(request, size, purpose, id, arrived);
        delivery = match self.filter_in(delivery) {
            Ok(delivery) => delivery,
            Err(refused) => return self.refuse_ticket(ticket, refused),
        };
        let origin: &Fqcn = &ticket.request.origin.name;
        if self.handlers.load.check(origin, size).is_err() {
            self.drop_expired();
            let origin: &Fqcn = &ticket.request.origin.name;
            if self.handlers.load.check(origin, size).is_err() {
                return self.refuse_overload(ticket);
            }
        }
        let number = self.handlers.next_number();
        let options = registration.options;
        match self.handlers.order.enter(&ticket.lane, number, options.concurrency) {
            Turn::Now => {
                self.give_receipt(&mut ticket);
                let work = Work { ticket, delivery, deadline, registration };
                self.start(number, work, false, ctx);
            }
            Turn::Later => {
                let queued = self.handlers.queued.entry(registration.number).or_default();
                if *queued + size > options.queue_bytes {
                    self.handlers.order.withdraw(&ticket.lane, number);
                    return self.refuse_overload(ticket);
                }
                *queued += size;
                self.give_receipt(&mut ticket);
                self.handlers.load.hold(&ticket.request.origin.name, size);
                let (nonce, sequence) = request_key(&ticket.request);
                self.handlers.by_request.insert((nonce, sequence, number));
                let work = Work { ticket, delivery, deadline, registration };
                self.handlers.waiting.insert(number, work);
            }
        }
    }

    fn filter_in(&self, mut delivery: Delivery) -> Result<Delivery, Answer> {
        let filters = &self.own.filters;
        if !filters.applies(Point::RequestIn, &delivery.target) {
            return Ok(delivery);
        }
        let peer = delivery.origin.name.clone();
        let (target, payload) = (delivery.target.clone(), std::mem::take(&mut delivery.payload));
        let message = FilterMessage::new(Point::RequestIn, peer, target, payload)
            .with_content_type(delivery.content_type.take())
            .with_headers(std::mem::take(&mut delivery.headers));
        let stopped = |error: cellbus_channels::filter::FilterError| {
            Answer::failed(error.status(), error.detail())
        };
        let message = filters.apply(message).map_err(stopped)?;
        delivery.payload = message.payload;
        delivery.content_type = message.content_type;
        delivery.headers = message.headers;
        Ok(delivery)
    }

    fn refuse_overload(&mut self, ticket: Ticket) {
        let detail = self.retry_after(&ticket.request);
        self.refuse_ticket(ticket, Answer::failed(Status::Overloaded, detail));
    }

    /// When a sender that is refused for want of room may come again.
    fn retry_after(&self, request: &Header) -> Bytes {
        let (nonce, sequence) = request_key(request);
        let random = self.own.incarnation.nonce ^ nonce.rotate_left(32) ^ sequence;
        let after = Load::<Fqcn>::retry_after_ms(random);
        retry_after_detail(Duration::from_millis(after.into()))
    }

    /// Ends a message that the filter had let in and no handler has seen.
    pub(in crate::cell) fn refuse_delivered(&self, admitted: Admitted, status: Status) {
        let arrived = admitted.arrived();
        let Envelope { header, payload } = admitted.into_envelope();
        if header.wants_answer() {
            for one in bundle::split(Envelope { header, payload }) {
                self.answer_failed(&one.header, status, Bytes::new());
            }
            return;
        }
        // Answering below counts one of them.
        let others = bundle::count(&header, &payload) - 1;
        self.own.counters.refuse_many(status, others);
        self.own.dead_letters.bury_all(&header, &payload, status, arrived);
        self.answer_failed(&header, status, Bytes::new());
    }
}
