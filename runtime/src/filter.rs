//! The auth filter: the actor in front of a cell, and the only address that a neighbour holds.
//!
//! It owns the gate and decides on every message, whoever it is from; what passes goes to an outbox, to
//! the cell, or, for challenge, register and bye, to the link that it came by.

use std::{collections::BTreeMap, sync::Arc};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message};
use cellbus_proto::{
    admission::{Admitted, Arrival, Consequence, Gate, Peer, Permit, Refused},
    bundle,
    envelope::{Envelope, Header, Kind},
    fan,
    inflight::InFlight,
    link::Phase,
    route::{Hop, LinkId, Routes},
    status::Status,
    trust::View,
};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    cell::{Cell, Deliver},
    clock,
    ingress::Way,
    link::{Exempted, Link, LinkConduits, Misbehaved},
    outbox::Outbox,
    own::Own,
    seam::{EndNotice, Pacer, post},
    stats::Tally,
    throttle::LogThrottle,
};

mod conduits;
mod departures;
mod listed;
mod observed;
mod told;

pub(crate) use self::conduits::{Course, JudgeConduit, JudgeConduitAnswer, Onward, ReturnConduit};
use self::departures::Departures;
pub(crate) use self::listed::{is_by_list, parting_word, turned_out_by};
pub use self::{
    listed::SetLists,
    told::{
        Explain, InTransit, RemovePeer, RevokeSubject, SetCell, SetPeer, SetPolicy, SetRoutes,
        SetServerKey, StopTaking, Sweep, VerifyToken,
    },
};

/// The actor in front of a cell.
#[derive(Debug)]
pub struct AuthFilter {
    own: Arc<Own>,
    gate: Gate,
    routes: Arc<Routes>,
    neighbours: BTreeMap<LinkId, Neighbour>,
    cell: Option<Addr<Cell>>,
    in_flight: InFlight,
    draining: bool,
    pacer: Pacer,
    throttle: LogThrottle,
    tally: Tally,
    lists: View,
    _end: EndNotice,
}

#[derive(Debug)]
struct Neighbour {
    peer: Peer,
    outbox: Arc<Outbox>,
    conduits: Arc<LinkConduits>,
    link: Addr<Link>,
}

impl Neighbour {
    /// Whether this is a new request, for a neighbour that neither takes nor passes on any more.
    fn refuses(&self, admitted: &Admitted) -> bool {
        self.peer.phase == Phase::Draining && admitted.header().wants_answer()
    }
}

/// Messages from one place, in the order in which they came.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Inbound {
    /// Where they came from.
    pub from: Hop,
    /// The messages.
    pub batch: Vec<Envelope>,
    /// Bytes of the sender's allowance, given back when the batch is done.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// One message of this cell itself, whose sender wants to know whether it was let out.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Status>")]
pub struct Pass(pub Envelope);

/// Something waits in the cell's own ingress. Dropped by an actor that ends, it drops that too.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeIngress(Option<Arc<Own>>);

impl TakeIngress {
    pub(crate) fn of(own: &Arc<Own>) -> Self {
        Self(Some(Arc::clone(own)))
    }
}

impl Drop for TakeIngress {
    fn drop(&mut self) {
        if let Some(own) = self.0.take() {
            drop(own.ingress.take(&own));
        }
    }
}

/// Whether messages like this one of this cell itself would pass now, and which way they would take.
#[derive(Debug, Message)]
#[rtype(result = "Result<Way, Status>")]
pub struct AskLease(pub Envelope);

/// The budget of these messages was spent before they could be written.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Expired {
    /// The link that they waited for.
    pub link: LinkId,
    /// The messages.
    pub messages: Vec<Admitted>,
}

impl AuthFilter {
    /// A filter that refuses everything until it is told the cell's links.
    #[must_use]
    pub fn new(own: Arc<Own>, gate: Gate, end: EndNotice) -> Self {
        let routes = Arc::new(Routes::new(own.name.clone(), own.is_root()));
        Self {
            own,
            gate,
            routes,
            neighbours: BTreeMap::new(),
            cell: None,
            in_flight: InFlight::new(InFlight::MAX),
            draining: false,
            pacer: Pacer::default(),
            throttle: LogThrottle::default(),
            tally: Tally::default(),
            lists: View::default(),
            _end: end,
        }
    }

    /// Takes a message for one cell or for many. What becomes of each is answered, counted and logged
    /// inside; the error is that of the first that was not let in.
    fn take_whole(
        &mut self,
        from: Hop,
        envelope: Envelope,
        out: &mut Departures,
    ) -> Result<(), Status> {
        if envelope.header.fan().is_empty() {
            return self.take(from, envelope, out);
        }
        let mut parts = Departures::new(out.at);
        let mut first = Ok(());
        for part in fan::split(envelope) {
            first = first.and(self.take(from, part, &mut parts));
        }
        out.append_joined(parts);
        first
    }

    fn take(&mut self, from: Hop, envelope: Envelope, out: &mut Departures) -> Result<(), Status> {
        let (now, unix) = out.at;
        let arrival = match from {
            Hop::Local => Arrival::Local,
            Hop::Link(link) => match self.neighbours.get(&link) {
                Some(neighbour) => Arrival::Link(&neighbour.peer),
                None => {
                    self.count_refusal(Status::PeerUnknown, &envelope, from);
                    return Err(Status::PeerUnknown);
                }
            },
        };
        match self.gate.admit(now, unix, envelope, arrival) {
            Ok(admitted) => {
                self.observe(&admitted);
                self.pass(admitted, out)
            }
            Err(refused) => {
                let status = refused.status;
                self.refuse(refused, from, out);
                Err(status)
            }
        }
    }

    fn deliver(&self, batch: Vec<Admitted>, permit: Option<OwnedSemaphorePermit>) {
        if batch.is_empty() {
            return;
        }
        let delivered = self.cell.as_ref().map(|cell| post(cell, Deliver { batch, permit }));
        if !matches!(delivered, Some(Ok(()))) {
            tracing::debug!(cell = %self.own.name, "messages outlived their cell");
        }
    }

    /// Sends an admitted message where it goes next.
    fn pass(&mut self, mut admitted: Admitted, out: &mut Departures) -> Result<(), Status> {
        if let Permit::Exempt(topic) = admitted.permit() {
            self.own.counters.exempt();
            if let Hop::Link(link) = admitted.arrived()
                && let Some(neighbour) = self.neighbours.get(&link)
                && post(&neighbour.link, Exempted { topic, admitted }).is_err()
            {
                tracing::debug!(link = link.0, "an exempt message outlived its link");
            }
            return Ok(());
        }
        let arrived = admitted.arrived();
        let permit = admitted.permit();
        admitted.note(&self.own.name, || self.gate.reason(permit));
        let next = admitted.next();
        if let Hop::Link(link) = arrived
            && next != Ok(Hop::Local)
        {
            self.in_flight.answered(admitted.envelope(), link);
        }
        // What handlers that still run ask of others is a part of what was accepted before.
        let is_new =
            admitted.header().wants_answer() && (arrived != Hop::Local || next == Ok(Hop::Local));
        let outcome = match next {
            Ok(_) if self.draining && is_new => Err(Status::Draining),
            Ok(Hop::Local) => {
                out.local.push(admitted);
                return Ok(());
            }
            Ok(Hop::Link(link)) => admitted.spend_hop().and(match self.neighbours.get(&link) {
                None => Err(Status::NoRoute),
                // It would say no itself; this saves the way there.
                Some(neighbour) if neighbour.refuses(&admitted) => Err(Status::Draining),
                Some(_) => Ok(link),
            }),
            Err(status) => Err(status),
        };
        match outcome {
            Ok(link) => {
                out.leave(link, admitted);
                Ok(())
            }
            Err(status) => self.turn_back(admitted, status, out),
        }
    }

    fn refuse(&mut self, refused: Refused, from: Hop, out: &mut Departures) {
        let Refused { mut envelope, status, consequence, ruling } = refused;
        let why = ruling.map(|ruling| ruling.to_string()).unwrap_or_default();
        envelope.header.note(&self.own.name, || match ruling {
            Some(_) => format!("refused: {}: {why}", status.code()),
            None => format!("refused: {}", status.code()),
        });
        self.count_refusal(status, &envelope, from);
        if consequence != Consequence::Answer || !envelope.header.wants_answer() {
            self.own.dead_letters.bury_all(&envelope.header, &envelope.payload, status, from);
        }
        match consequence {
            Consequence::Answer => {
                let detail = bytes::Bytes::from(why);
                for one in bundle::split(*envelope) {
                    self.give_back_with(&one.header, from, status, detail.clone(), out);
                }
            }
            Consequence::Silence => {}
            Consequence::Close => {
                if let Hop::Link(link) = from
                    && let Some(neighbour) = self.neighbours.get(&link)
                    && post(&neighbour.link, Misbehaved(status)).is_err()
                {
                    tracing::debug!(link = link.0, "a refused message outlived its link");
                }
            }
        }
    }

    fn count_refusal(&mut self, status: Status, envelope: &Envelope, from: Hop) {
        let publishes = bundle::count(&envelope.header, &envelope.payload);
        let count = self.own.counters.refuse_many(status, publishes);
        self.observe_refused(status, envelope, from);
        let Some(suppressed) = self.throttle.allow(status, clock::now()) else { return };
        let header = &envelope.header;
        // What a rule forbids, or comes by a link that has just ended, is everyday business; what no
        // honest neighbour sends is not.
        let hostile = matches!(
            status,
            Status::OriginMismatch
                | Status::NotDirect
                | Status::BadToken
                | Status::TokenWrongConn
                | Status::ReplyUnsolicited
                | Status::NoHello
        ) && from != Hop::Local;
        if hostile {
            tracing::warn!(
                cell = %self.own.name, code = status.code(), origin = %header.origin.name,
                destination = %header.destination.name, target = %header.target, ?from, count, suppressed,
                "message refused"
            );
        } else {
            tracing::info!(
                cell = %self.own.name, code = status.code(), origin = %header.origin.name,
                destination = %header.destination.name, target = %header.target, ?from, count, suppressed,
                "message refused"
            );
        }
    }

    /// Tells the sender of a request that it failed. Answers are never answered.
    fn give_back(&mut self, request: &Header, arrived: Hop, status: Status, out: &mut Departures) {
        self.give_back_with(request, arrived, status, bytes::Bytes::new(), out);
    }

    /// As [`Self::give_back`], with what people want to know about it.
    fn give_back_with(
        &mut self,
        request: &Header,
        arrived: Hop,
        status: Status,
        detail: bytes::Bytes,
        out: &mut Departures,
    ) {
        let to = request.sequence;
        let kind = Kind::Return { to, status, by: self.own.name.clone() };
        let Some(mut header) = self.own.answer(request, kind) else {
            return;
        };
        if arrived == Hop::Local && header.token.is_none() {
            // The sender is this cell: it has no need of a token to hear from itself.
            header.token = request.token.clone();
            if header.token.is_none() {
                self.return_unregistered(to, status);
                return;
            }
        }
        let answer = Envelope { header, payload: detail };
        let (now, unix) = (clock::now(), self.own.wall.unix());
        match self.gate.admit(now, unix, answer, Arrival::Local) {
            Ok(admitted) => {
                self.own.counters.accept(1);
                // Counted where it fails; an answer has no answer.
                let _ = self.pass(admitted, out);
            }
            Err(refused) if arrived == Hop::Local => {
                tracing::debug!(code = refused.status.code(), "a return to this cell itself");
                self.return_unregistered(to, status);
            }
            Err(refused) => {
                self.own.counters.refuse(refused.status);
            }
        }
    }

    /// Ends a request of this cell itself before the cell has a good token.
    fn return_unregistered(&self, to: u64, status: Status) {
        if let Some(cell) = &self.cell
            && post(cell, crate::cell::FailOwn { sequence: to, status }).is_err()
        {
            tracing::debug!("the cell has ended");
        }
    }
}

impl Actor for AuthFilter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What waited for a filter before this one.
        ctx.notify(TakeIngress::of(&self.own));
    }
}

impl Handler<Inbound> for AuthFilter {
    type Result = ();

    fn handle(&mut self, inbound: Inbound, ctx: &mut Self::Context) {
        let Inbound { from, batch, permit } = inbound;
        let weight = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let mut out = self.departures();
        for envelope in batch {
            let _ = self.take_whole(from, envelope, &mut out);
        }
        // What could not leave is answered, counted and logged inside.
        let _ = self.depart(&mut out);
        self.deliver(out.local, permit);
        self.pacer.pace(weight, ctx);
    }
}

impl Handler<Pass> for AuthFilter {
    type Result = Result<(), Status>;

    fn handle(&mut self, Pass(envelope): Pass, ctx: &mut Self::Context) -> Self::Result {
        let mut out = self.departures();
        let taken = self.take_whole(Hop::Local, envelope, &mut out);
        let left = self.depart(&mut out);
        let outcome = taken.and(left);
        self.deliver(out.local, None);
        self.pacer.pace(1, ctx);
        outcome
    }
}

impl Handler<TakeIngress> for AuthFilter {
    type Result = ();

    fn handle(&mut self, mut told: TakeIngress, ctx: &mut Self::Context) {
        told.0 = None;
        let (batch, count) = self.own.ingress.take(&self.own);
        let weight = u32::try_from(count).unwrap_or(u32::MAX);
        let mut out = self.departures();
        for envelope in batch {
            let _ = self.take_whole(Hop::Local, envelope, &mut out);
        }
        let _ = self.depart(&mut out);
        self.deliver(out.local, None);
        self.pacer.pace(weight, ctx);
    }
}

impl Handler<AskLease> for AuthFilter {
    type Result = Result<Way, Status>;

    fn handle(&mut self, AskLease(envelope): AskLease, _: &mut Self::Context) -> Self::Result {
        let unix = self.own.wall.unix();
        let judged = self.gate.judge(unix, &envelope, Arrival::Local);
        judged.map_err(|(status, _)| status)?;
        if self.draining {
            return Err(Status::Draining);
        }
        let outbox = match self.routes.next_hop(&envelope.header.destination.name, Hop::Local)? {
            Hop::Local => None,
            Hop::Link(link) => {
                let neighbour = self.neighbours.get(&link).ok_or(Status::NoRoute)?;
                Some(Arc::clone(&neighbour.outbox))
            }
        };
        Ok(Way { generation: self.own.generation(), outbox })
    }
}

impl Handler<Expired> for AuthFilter {
    type Result = ();

    fn handle(&mut self, Expired { link, messages }: Expired, ctx: &mut Self::Context) {
        let mut out = self.departures();
        for part in messages.into_iter().flat_map(Admitted::split) {
            self.in_flight.not_passed(part.header(), link);
            let _ = self.turn_back(part, Status::ExpiredInQueue, &mut out);
        }
        let _ = self.depart(&mut out);
        self.deliver(out.local, None);
        self.pacer.pace(1, ctx);
    }
}
