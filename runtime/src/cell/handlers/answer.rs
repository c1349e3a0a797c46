//! What goes back for a message: every way out passes the same filters and limits.

use std::sync::Arc;

use bytes::Bytes;
use cellbus_channels::{
    Failure, Reply,
    call::Outcome,
    filter::{FilterMessage, Point},
};
use cellbus_proto::{
    dedupe::RequestId,
    envelope::{Envelope, Extras, Flags, Header, Kind},
    status::Status,
};

use super::run::{Ending, Purpose, Ticket};
use crate::cell::Cell;

/// Bytes of a failure's detail that travel.
const DETAIL_MAX: usize = 4096;

/// What goes back for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cell) enum Answer {
    /// A reply.
    Reply {
        /// What it carries.
        payload: Bytes,
        /// Media type of that.
        content_type: Option<Arc<str>>,
    },
    /// A return.
    Failed {
        /// Why.
        status: Status,
        /// What goes with it.
        detail: Bytes,
    },
}

impl Answer {
    pub(super) fn failed(status: Status, detail: Bytes) -> Self {
        Self::Failed { status, detail }
    }

    pub(super) fn nothing() -> Self {
        Self::Reply { payload: Bytes::new(), content_type: None }
    }

    fn size(&self) -> usize {
        match self {
            Self::Reply { payload, .. } => payload.len(),
            Self::Failed { detail, .. } => detail.len(),
        }
    }

    /// The same in memory of its own: what is kept must not keep alive what it was cut from.
    fn detached(&self) -> Self {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        match self {
            Self::Reply { payload, content_type } => {
                Self::Reply { payload: copy(payload), content_type: content_type.clone() }
            }
            Self::Failed { status, detail } => Self::failed(*status, copy(detail)),
        }
    }
}

impl Cell {
    /// Ends a message as its handler did, or as it ended without one.
    pub(super) fn settle_message(&mut self, ticket: Ticket, ending: Ending) {
        if let Ending::Ended(Outcome::Panicked) = ending {
            let target = &ticket.request.target;
            tracing::error!(cell = %self.own.name, %target, "a handler panicked");
            if self.handlers.note_panic(self.now(), target) {
                tracing::error!(
                    cell = %self.own.name, code = Status::NoHandler.code(), %target,
                    "a handler has panicked too often and is given nothing until the next reload"
                );
            }
        }
        match (ticket.purpose, ending) {
            (Purpose::Alone, Ending::Cancelled) => {
                // For the cells on the way, which remember the request until it is answered.
                if !ticket.is_answered {
                    self.answer_failed(&ticket.request, Status::Deadline, Bytes::new());
                }
                if let Some(id) = &ticket.id {
                    self.handlers.dedupe.finish_unanswered(id);
                }
            }
            (Purpose::Part { batch, .. }, Ending::Cancelled) => self.forget_batch(batch),
            (Purpose::Receipted, ending) => self.note_unheard(&ticket, &ending),
            (Purpose::Alone | Purpose::Part { .. }, Ending::Expired) => {
                let answer = Answer::failed(Status::ExpiredInQueue, Bytes::new());
                self.refuse_ticket(ticket, answer);
            }
            (Purpose::Alone | Purpose::Part { .. }, Ending::TooLate) => {
                // The requester's own clock has ended the request; this end only says so.
                self.give(ticket, Answer::failed(Status::Deadline, Bytes::new()));
            }
            (Purpose::Alone | Purpose::Part { .. }, Ending::Ended(outcome)) => {
                let answer = self.answer_of(&ticket.request, outcome);
                self.give(ticket, answer);
            }
        }
    }

    /// Gives the answer to a message that a handler has seen.
    fn give(&mut self, ticket: Ticket, answer: Answer) {
        if let Purpose::Part { batch, index } = ticket.purpose {
            return self.settle_part(batch, index, answer);
        }
        self.send_answer(&ticket.request, &answer);
        match &ticket.id {
            // The last of several replies is not the answer.
            Some(id) if ticket.is_stream => self.handlers.dedupe.finish_unanswered(id),
            id => self.remember(id.as_ref(), &answer),
        }
    }

    /// Ends a message that no handler has seen.
    pub(super) fn refuse_ticket(&mut self, ticket: Ticket, answer: Answer) {
        if let Purpose::Part { batch, index } = ticket.purpose {
            return self.settle_part(batch, index, answer);
        }
        if let Some(id) = &ticket.id {
            self.handlers.dedupe.undo(id);
        }
        if let Answer::Failed { status, .. } = &answer
            && !ticket.request.wants_answer()
        {
            let len = ticket.payload_len();
            self.own.dead_letters.bury(&ticket.request, len, *status, ticket.arrived);
        }
        self.send_answer(&ticket.request, &answer);
    }

    /// Confirms that a message has been taken on, where that is all that its sender waits for.
    pub(super) fn give_receipt(&mut self, ticket: &mut Ticket) {
        let is_awaited = ticket.request.kind == Kind::Publish && ticket.request.wants_answer();
        if !is_awaited {
            return;
        }
        let receipt = Answer::nothing();
        match std::mem::replace(&mut ticket.purpose, Purpose::Receipted) {
            Purpose::Part { batch, index } => self.settle_part(batch, index, receipt),
            Purpose::Alone | Purpose::Receipted => {
                self.send_answer(&ticket.request, &receipt);
                self.remember(ticket.id.as_ref(), &receipt);
            }
        }
    }

    /// What a copy of the message will be answered.
    pub(super) fn remember(&mut self, id: Option<&RequestId>, answer: &Answer) {
        if let Some(id) = id {
            self.handlers.dedupe.finish(id, answer.detached(), answer.size());
        }
    }

    /// A message whose sender has its receipt came to nothing. Nobody can be told.
    fn note_unheard(&self, ticket: &Ticket, ending: &Ending) {
        let status = match ending {
            Ending::Ended(Outcome::Replied(_)) => return,
            Ending::Ended(Outcome::Failed(Failure::Refused(status) | Failure::Unknown(status))) => {
                *status
            }
            Ending::Ended(Outcome::Failed(Failure::Failed(_))) => Status::HandlerFailed,
            Ending::Ended(Outcome::Panicked) => Status::HandlerPanic,
            Ending::TooLate | Ending::Cancelled => Status::Deadline,
            Ending::Expired => Status::ExpiredInQueue,
        };
        self.own.counters.refuse(status);
        self.own.dead_letters.bury(&ticket.request, ticket.payload_len(), status, ticket.arrived);
    }

    /// What a handler's outcome is on the wire.
    pub(super) fn answer_of(&self, request: &Header, outcome: Outcome) -> Answer {
        match outcome {
            // Discarded, and so not looked at.
            Outcome::Replied(_) if !request.wants_answer() => Answer::nothing(),
            Outcome::Replied(reply) => match self.filter_reply(request, reply) {
                Ok(Reply { payload, content_type }) => Answer::Reply { payload, content_type },
                Err(stopped) => stopped,
            },
            Outcome::Failed(Failure::Refused(status) | Failure::Unknown(status)) => {
                Answer::failed(status, Bytes::new())
            }
            Outcome::Failed(Failure::Failed(detail)) => self.filter_detail(request, detail),
            Outcome::Panicked => Answer::failed(Status::HandlerPanic, Bytes::new()),
        }
    }

    /// Passes a reply through the filters, and checks what no other cell can be expected to check.
    pub(super) fn filter_reply(&self, request: &Header, reply: Reply) -> Result<Reply, Answer> {
        let filters = &self.own.filters;
        let Reply { mut payload, mut content_type } = reply;
        if filters.applies(Point::ReplyOut, &request.target) {
            let message = self.reply_out(request, payload).with_content_type(content_type);
            let passed = filters
                .apply(message)
                .map_err(|error| Answer::failed(error.status(), error.detail()))?;
            (payload, content_type) = (passed.payload, passed.content_type);
        }
        let failed = |why: &'static str| Answer::failed(Status::HandlerFailed, why.into());
        if payload.len() > self.settings.payload_max {
            return Err(failed("the reply is larger than a message may be"));
        }
        let is_printable = |text: &Arc<str>| {
            text.len() <= Extras::CONTENT_TYPE_MAX
                && text.bytes().all(|b| (0x20..0x7f).contains(&b))
        };
        if !content_type.as_ref().is_none_or(is_printable) {
            return Err(failed("the content type of the reply is none"));
        }
        Ok(Reply { payload, content_type })
    }

    fn filter_detail(&self, request: &Header, mut detail: Bytes) -> Answer {
        let filters = &self.own.filters;
        if filters.applies(Point::ReplyOut, &request.target) {
            let message = self.reply_out(request, detail).with_failure(Status::HandlerFailed);
            detail = match filters.apply(message) {
                Ok(passed) => passed.payload,
                Err(error) => error.detail(),
            };
        }
        detail.truncate(DETAIL_MAX);
        Answer::failed(Status::HandlerFailed, detail)
    }

    fn reply_out(&self, request: &Header, payload: Bytes) -> FilterMessage {
        let (peer, target) = (request.origin.name.clone(), request.target.clone());
        FilterMessage::new(Point::ReplyOut, peer, target, payload)
    }

    /// Sends an answer that has passed the filters.
    pub(super) fn send_answer(&self, request: &Header, answer: &Answer) {
        match answer {
            Answer::Reply { payload, content_type } => {
                self.answer(request, payload.clone(), content_type.clone());
            }
            Answer::Failed { status, detail } => {
                self.answer_failed(request, *status, detail.clone());
            }
        }
    }

    /// Sends a reply that more follow.
    pub(super) fn answer_more(&self, request: &Header, reply: Reply) {
        let kind = Kind::Reply { to: request.sequence };
        if let Some(mut header) = self.own.answer(request, kind) {
            header.flags = header.flags.with(Flags::MORE);
            if reply.content_type.is_some() {
                header.extras.get_or_insert_default().content_type = reply.content_type;
            }
            self.emit_answer(request, Envelope { header, payload: reply.payload });
        }
    }
}
