//! Requests that nobody waits for any longer.

use actix::Context;
use cellbus_proto::{
    admission::Admitted,
    codec::body::{self, Cancel},
    status::Status,
};

use super::{request_key, run::Ending};
use crate::cell::Cell;

impl Cell {
    /// Ends what the same start of the same cell has sent and waits for no longer. Answered with nothing.
    pub(in crate::cell) fn take_cancel(&mut self, admitted: &Admitted, ctx: &mut Context<Self>) {
        let Ok(Cancel { requests }) = body::decode_exact(&admitted.envelope().payload) else {
            self.own.counters.refuse(Status::BadFrame);
            return;
        };
        let (nonce, _) = request_key(admitted.header());
        let origin = &admitted.header().origin;
        for sequence in requests {
            let of_request = (nonce, sequence, 0)..=(nonce, sequence, u64::MAX);
            let numbers: Vec<u64> =
                self.handlers.by_request.range(of_request).map(|(_, _, number)| *number).collect();
            for number in numbers {
                let waiting = self.handlers.waiting.get(&number).map(|work| &work.ticket);
                let running = self.handlers.running.get(&number).map(|run| &run.ticket);
                let is_theirs = waiting.or(running).is_some_and(|ticket| {
                    ticket.request.origin.name == origin.name
                        && ticket.request.origin.incarnation == origin.incarnation
                });
                if is_theirs {
                    self.cancel_handler(number, ctx);
                }
            }
        }
    }

    fn cancel_handler(&mut self, number: u64, ctx: &mut Context<Self>) {
        if let Some(running) = self.handlers.running.get_mut(&number) {
            if let Some(cancel) = running.cancel.take() {
                // Fails where it has just ended.
                let _ = cancel.send(());
            }
            return;
        }
        let lane = self.handlers.waiting.get(&number).map(|work| work.ticket.lane.clone());
        self.drop_waiting(number, Ending::Cancelled);
        if let Some(lane) = lane {
            self.resume(&lane, ctx);
        }
    }
}
