//! Many small messages that came in one: each handled on its own, and answered together.

use std::sync::Arc;

use actix::Context;
use bytes::Bytes;
use cellbus_proto::{
    batch::{self, BatchError, Outcome},
    dedupe::RequestId,
    envelope::Header,
    status::Status,
};

use super::{
    accept::{Incoming, OVERHEAD},
    answer::Answer,
    run::{Purpose, Ticket},
};
use crate::cell::Cell;

/// A batch of which some are not answered yet.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) request: Header,
    id: Option<RequestId>,
    outcomes: Vec<Option<Outcome>>,
    left: usize,
}

impl Cell {
    /// Takes on every message of a batch, in order.
    pub(super) fn accept_batch(&mut self, whole: Incoming, ctx: &mut Context<Self>) {
        let items = match batch::decode(whole.payload.clone()) {
            Ok(items) => items,
            Err(error) => return self.refuse_batch(whole, error),
        };
        let number = self.handlers.next_number();
        let batch = Batch {
            request: whole.request.clone(),
            id: whole.id.clone(),
            outcomes: items.iter().map(|_| None).collect(),
            left: items.len(),
        };
        self.handlers.batches.insert(number, batch);
        for (index, payload) in items.into_iter().enumerate() {
            let one = Incoming {
                request: whole.request.clone(),
                payload,
                claims: Arc::clone(&whole.claims),
                registration: Arc::clone(&whole.registration),
                purpose: Purpose::Part { batch: number, index },
                id: None,
                arrived: whole.arrived,
                deadline: whole.deadline,
            };
            self.accept(one, ctx);
        }
        self.finish_batch(number);
    }

    /// Ends a message that says to be many and is not.
    pub(super) fn refuse_batch(&mut self, whole: Incoming, error: BatchError) {
        let answer = Answer::failed(Status::BadFrame, error.to_string().into());
        let Incoming { request, payload, purpose, id, arrived, .. } = whole;
        let ticket = Ticket::new(request, payload.len() + OVERHEAD, purpose, id, arrived);
        self.refuse_ticket(ticket, answer);
    }

    /// Notes what became of one message of a batch.
    pub(super) fn settle_part(&mut self, number: u64, index: usize, answer: Answer) {
        let Some(batch) = self.handlers.batches.get_mut(&number) else { return };
        let outcome = match answer {
            Answer::Reply { payload, .. } => Outcome::Done(payload),
            Answer::Failed { status, detail } => Outcome::Failed { status, detail },
        };
        if let Some(place @ None) = batch.outcomes.get_mut(index) {
            *place = Some(outcome);
            batch.left -= 1;
        }
        self.finish_batch(number);
    }

    /// Nobody waits for a batch any more.
    pub(super) fn forget_batch(&mut self, number: u64) {
        let Some(batch) = self.handlers.batches.remove(&number) else { return };
        // For the cells on the way, which remember the request until it is answered.
        self.answer_failed(&batch.request, Status::Deadline, Bytes::new());
        if let Some(id) = &batch.id {
            self.handlers.dedupe.finish_unanswered(id);
        }
    }

    fn finish_batch(&mut self, number: u64) {
        if self.handlers.batches.get(&number).is_none_or(|batch| batch.left > 0) {
            return;
        }
        let Some(batch) = self.handlers.batches.remove(&number) else { return };
        let outcomes = batch.outcomes.into_iter().map(|one| one.expect("none is left"));
        let outcomes = fitting(outcomes, self.settings.payload_max);
        let payload = batch::encode_outcomes(outcomes).expect("as many as a batch had");
        let answer = Answer::Reply { payload, content_type: None };
        self.send_answer(&batch.request, &answer);
        self.remember(batch.id.as_ref(), &answer);
    }
}

/// The outcomes, without the bytes of those for which one message has no room.
fn fitting(
    outcomes: impl ExactSizeIterator<Item = Outcome>,
    payload_max: usize,
) -> impl Iterator<Item = Outcome> {
    const EACH: usize = 5;
    const TOO_MUCH: &[u8] = b"the replies of the batch are larger than a message may be";
    let mut room = payload_max.saturating_sub(4 + outcomes.len() * (EACH + TOO_MUCH.len()));
    outcomes.map(move |outcome| {
        let len = match &outcome {
            Outcome::Done(bytes) | Outcome::Failed { detail: bytes, .. } => bytes.len(),
        };
        let more = len.saturating_sub(TOO_MUCH.len());
        match (more <= room, outcome) {
            (true, outcome) => {
                room -= more;
                outcome
            }
            (false, Outcome::Done(_)) => {
                let detail = Bytes::from_static(TOO_MUCH);
                Outcome::Failed { status: Status::HandlerFailed, detail }
            }
            (false, Outcome::Failed { status, .. }) => {
                Outcome::Failed { status, detail: Bytes::new() }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_do_not_fit_together_are_said_to_be_too_large() {
        let done = |len: usize| Outcome::Done(vec![7; len].into());
        let outcomes: Vec<Outcome> =
            fitting([done(600), done(600), done(100)].into_iter(), 1000).collect();
        let wire = batch::encode_outcomes(outcomes.clone()).unwrap();
        assert!(wire.len() <= 1000, "{}", wire.len());
        assert_eq!(outcomes[0], done(600));
        assert!(matches!(&outcomes[1], Outcome::Failed { status: Status::HandlerFailed, .. }));
        assert_eq!(outcomes[2], done(100));
    }
}
