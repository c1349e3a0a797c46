//! What the filter says about conduits: the same gate, with one difference in what follows. Where a
//! message that came by a conduit goes is told to the task that holds its stream, not to an outbox.

use std::sync::Arc;

use actix::{Context, Handler, Message};
use bytes::Bytes;
use cellbus_proto::{
    admission::{Admitted, Arrival},
    envelope::{Envelope, Flags, Header, Kind},
    route::Hop,
    status::Status,
};

use super::{AuthFilter, departures::Departures};
use crate::{
    conduits::{Asked, Tie},
    link::{LinkConduits, Misbehaved},
    seam::post,
};

/// A request that begins a conduit.
#[derive(Debug, Message)]
#[rtype(result = "Course")]
pub(crate) struct JudgeConduit {
    /// Where it came from.
    pub(crate) from: Hop,
    /// The request.
    pub(crate) envelope: Envelope,
}

/// What becomes of a conduit.
#[derive(Debug, actix::MessageResponse)]
pub(crate) enum Course {
    /// It ends at this cell.
    Here(Box<Admitted>, Arc<Tie>),
    /// It goes to a neighbour.
    Onward(Box<Onward>),
    /// It is not let in, or leads nowhere.
    Refused {
        /// What its sender is told, where it is told anything: let out by this filter.
        back: Option<Box<Admitted>>,
        /// Why.
        status: Status,
    },
}

/// A conduit on its way to a neighbour.
#[derive(Debug)]
pub(crate) struct Onward {
    /// The request, one hop less.
    pub(crate) admitted: Admitted,
    /// The link to the neighbour.
    pub(crate) via: Arc<LinkConduits>,
    /// It.
    pub(crate) tie: Arc<Tie>,
}

/// The answer to a conduit's request.
#[derive(Debug, Message)]
#[rtype(result = "Result<Box<Admitted>, Status>")]
pub(crate) struct JudgeConduitAnswer {
    /// Where it came from.
    pub(crate) from: Hop,
    /// The answer.
    pub(crate) answer: Envelope,
    /// What was asked.
    pub(crate) asked: Asked,
    /// Where the request came from.
    pub(crate) to: Hop,
}

/// This cell has no answer to a conduit's request.
#[derive(Debug, Message)]
#[rtype(result = "Option<Box<Admitted>>")]
pub(crate) struct ReturnConduit {
    /// The request.
    pub(crate) request: Box<Header>,
    /// Where it came from.
    pub(crate) arrived: Hop,
    /// Why.
    pub(crate) status: Status,
    /// What people want to know about it.
    pub(crate) detail: Bytes,
}

impl AuthFilter {
    /// Lets a message in, or says why not; then what there is to be said to its sender is in `out`.
    fn let_in(
        &mut self,
        from: Hop,
        envelope: Envelope,
        out: &mut Departures,
    ) -> Result<Admitted, Status> {
        let (now, unix) = out.at;
        let neighbour = match from {
            Hop::Local => None,
            Hop::Link(link) => match self.neighbours.get(&link) {
                Some(neighbour) => Some(&neighbour.peer),
                None => {
                    self.count_refusal(Status::PeerUnknown, &envelope, from);
                    return Err(Status::PeerUnknown);
                }
            },
        };
        let arrival = neighbour.map_or(Arrival::Local, Arrival::Link);
        match self.gate.admit(now, unix, envelope, arrival) {
            Ok(admitted) => {
                self.observe(&admitted);
                self.count_admitted();
                Ok(admitted)
            }
            Err(refused) => {
                let status = refused.status;
                self.refuse(refused, from, out);
                Err(status)
            }
        }
    }

    fn course(&mut self, from: Hop, envelope: Envelope) -> Course {
        let mut out = self.departures();
        let mut admitted = match self.let_in(from, envelope, &mut out) {
            Ok(admitted) => admitted,
            Err(status) => return Course::Refused { back: out.into_one(), status },
        };
        // What handlers that still run ask of others is a part of what was accepted before.
        let next = admitted.next();
        let is_new = from != Hop::Local || next == Ok(Hop::Local);
        let outcome = match next {
            Ok(_) if self.draining && is_new => Err(Status::Draining),
            Ok(Hop::Local) => {
                let tie = Tie::new(&self.own, admitted.header());
                return Course::Here(Box::new(admitted), tie);
            }
            Ok(Hop::Link(link)) => admitted.spend_hop().and(match self.neighbours.get(&link) {
                None => Err(Status::NoRoute),
                Some(neighbour) if neighbour.refuses(&admitted) => Err(Status::Draining),
                Some(neighbour) => Ok(Arc::clone(&neighbour.conduits)),
            }),
            Err(status) => Err(status),
        };
        match outcome {
            Ok(via) => {
                let tie = Tie::new(&self.own, admitted.header());
                Course::Onward(Box::new(Onward { admitted, via, tie }))
            }
            Err(status) => {
                // Counted and logged inside.
                let _ = self.turn_back(admitted, status, &mut out);
                Course::Refused { back: out.into_one(), status }
            }
        }
    }

    fn answer(&mut self, judge: JudgeConduitAnswer) -> Result<Box<Admitted>, Status> {
        let JudgeConduitAnswer { from, answer, asked, to } = judge;
        let header = &answer.header;
        let fits = matches!(header.kind, Kind::Reply { to } | Kind::Return { to, .. } if to == asked.sequence)
            && header.destination.name == asked.origin.name
            && !header.flags.contains(Flags::MORE);
        if !fits {
            let status = Status::ReplyUnsolicited;
            self.count_refusal(status, &answer, from);
            if let Hop::Link(link) = from
                && let Some(neighbour) = self.neighbours.get(&link)
                && post(&neighbour.link, Misbehaved(status)).is_err()
            {
                tracing::debug!(link = link.0, "a refused answer outlived its link");
            }
            return Err(status);
        }
        let mut out = self.departures();
        let mut admitted = self.let_in(from, answer, &mut out)?;
        let outcome = match admitted.next() {
            Ok(next) if next != to => Err(Status::Loop),
            Ok(Hop::Local) => Ok(()),
            Ok(Hop::Link(_)) => admitted.spend_hop(),
            Err(status) => Err(status),
        };
        match outcome {
            Ok(()) => Ok(Box::new(admitted)),
            Err(status) => {
                self.turn_back(admitted, status, &mut out)?;
                Err(status)
            }
        }
    }
}

impl Handler<JudgeConduit> for AuthFilter {
    type Result = Course;

    fn handle(&mut self, judge: JudgeConduit, ctx: &mut Context<Self>) -> Course {
        let JudgeConduit { from, envelope } = judge;
        self.pacer.pace(1, ctx);
        self.course(from, envelope)
    }
}

impl Handler<JudgeConduitAnswer> for AuthFilter {
    type Result = Result<Box<Admitted>, Status>;

    fn handle(&mut self, judge: JudgeConduitAnswer, ctx: &mut Context<Self>) -> Self::Result {
        self.pacer.pace(1, ctx);
        self.answer(judge)
    }
}

impl Handler<ReturnConduit> for AuthFilter {
    type Result = Option<Box<Admitted>>;

    fn handle(&mut self, back: ReturnConduit, ctx: &mut Context<Self>) -> Self::Result {
        let ReturnConduit { request, arrived, status, detail } = back;
        self.pacer.pace(1, ctx);
        let mut out = self.departures();
        self.give_back_with(&request, arrived, status, detail, &mut out);
        out.into_one()
    }
}
