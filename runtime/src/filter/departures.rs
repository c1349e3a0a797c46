//! What leaves a cell after one batch: gathered by where it goes, so that every outbox is locked and every
//! writer woken once, and a message for many takes one place on each link.

use std::time::Instant;

use cellbus_proto::{admission::Admitted, route::LinkId, status::Status};

use super::AuthFilter;
use crate::{clock, outbox::NotTaken};

/// Messages that have been let in and know where they go.
#[derive(Debug)]
pub(super) struct Departures {
    /// When the batch came: by the monotonic clock, and in seconds since 1970.
    pub(super) at: (Instant, u64),
    /// For this cell itself.
    pub(super) local: Vec<Admitted>,
    /// By link, in the order in which they came. A cell has few links that one batch leaves by.
    links: Vec<(LinkId, Vec<Admitted>)>,
}

impl Departures {
    pub(super) fn new(at: (Instant, u64)) -> Self {
        Self { at, local: Vec::new(), links: Vec::new() }
    }

    /// Adds a message that leaves by `link`.
    pub(super) fn leave(&mut self, link: LinkId, admitted: Admitted) {
        match self.links.iter_mut().find(|(known, _)| *known == link) {
            Some((_, messages)) => messages.push(admitted),
            None => self.links.push((link, vec![admitted])),
        }
    }

    /// The one message that there is, wherever it goes.
    pub(super) fn into_one(mut self) -> Option<Box<Admitted>> {
        let by_link = self.links.pop().and_then(|(_, mut messages)| messages.pop());
        by_link.or_else(|| self.local.pop()).map(Box::new)
    }

    /// Adds the parts of one message for many: one message again on every link.
    pub(super) fn append_joined(&mut self, parts: Self) {
        let Self { at: _, local, links } = parts;
        self.local.extend(local);
        for (link, parts) in links {
            if let Some(whole) = Admitted::join(parts) {
                self.leave(link, whole);
            }
        }
    }
}

impl AuthFilter {
    /// Nothing yet, for a batch that comes now.
    pub(super) fn departures(&self) -> Departures {
        Departures::new((clock::now(), self.own.wall.unix()))
    }

    /// Puts what leaves into the outboxes. What finds no place there goes back to its sender.
    ///
    /// # Errors
    /// The status of the first message that found no place.
    pub(super) fn depart(&mut self, out: &mut Departures) -> Result<(), Status> {
        self.count_admitted();
        let mut outcome = Ok(());
        while let Some((link, messages)) = out.links.pop() {
            let (now, _) = out.at;
            let Some(neighbour) = self.neighbours.get(&link) else {
                for admitted in messages {
                    outcome = outcome.and(self.turn_back(admitted, Status::NoRoute, out));
                }
                continue;
            };
            for admitted in &messages {
                self.in_flight.pass(now, admitted, link);
            }
            for NotTaken { message, status } in neighbour.outbox.push_all(messages) {
                for part in message.split() {
                    self.in_flight.not_passed(part.header(), link);
                    outcome = outcome.and(self.turn_back(part, status, out));
                }
            }
        }
        outcome
    }

    /// Ends an admitted message here and tells its sender.
    pub(super) fn turn_back(
        &mut self,
        admitted: Admitted,
        status: Status,
        out: &mut Departures,
    ) -> Result<(), Status> {
        for mut part in admitted.split() {
            self.own.counters.bury(status, part.count() as u64);
            part.note(&self.own.name, || format!("not passed on: {}", status.code()));
            let arrived = part.arrived();
            self.observe_refused(status, part.envelope(), arrived);
            if !part.header().wants_answer() {
                let payload = &part.envelope().payload;
                self.own.dead_letters.bury_all(part.header(), payload, status, arrived);
            }
            self.give_back(&part.into_envelope().header, arrived, status, out);
        }
        Err(status)
    }
}
