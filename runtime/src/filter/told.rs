//! What the filter is told about its cell and its neighbours, and what it is asked about itself: links, routes, rules, keys,
//! and the end.

use std::sync::Arc;

use actix::{ActorContext, Addr, Handler, Message};
use cellbus_proto::{
    admission::{Admitted, Arrival, Peer, Permit},
    envelope::Envelope,
    name::Fqcn,
    policy::Policy,
    route::{Hop, LinkId, Routes},
    status::Status,
    token::{Claims, ServerKey, Token, TokenError},
};

use super::{AuthFilter, Neighbour};
use crate::{
    cell::{Cell, Halt},
    clock,
    link::{Link, LinkConduits},
    outbox::Outbox,
};

/// What a link tells the filter about its other end, at every change of phase.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetPeer {
    /// The other end.
    pub peer: Peer,
    /// Where messages to it wait.
    pub outbox: Arc<Outbox>,
    /// What opens its conduits.
    pub conduits: Arc<LinkConduits>,
    /// The link itself.
    pub link: Addr<Link>,
}

/// The link is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RemovePeer(pub LinkId);

/// A new snapshot of the cell's links.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetRoutes(pub Arc<Routes>);

/// A new policy.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetPolicy(pub Arc<Policy>);

/// The cell behind this filter.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetCell(pub Addr<Cell>);

/// The key that verifies session tokens, from a verified announcement.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetServerKey(pub ServerKey);

/// Refuses every token that was issued to a cell until now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RevokeSubject {
    /// The cell.
    pub subject: Fqcn,
    /// The latest time of issue that is refused, in seconds since 1970.
    pub until: u64,
}

/// The claims of a token, if it is good here and now.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Claims>, TokenError>")]
pub struct VerifyToken(pub Token);

/// What the gate would say about a message.
#[derive(Debug, Message)]
#[rtype(result = "Result<(Permit, Hop), Status>")]
pub struct Explain(pub Envelope);

/// How many requests of others this cell has passed on that somebody still waits for.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct InTransit;

/// Takes no new requests, neither for this cell itself nor to pass on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopTaking;

/// Forgets revocations that concern no living token.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Sweep {
    /// Life of the longest token, in seconds.
    pub longest_life_s: u64,
}

impl Handler<SetPeer> for AuthFilter {
    type Result = ();

    fn handle(&mut self, set: SetPeer, _: &mut Self::Context) {
        let SetPeer { peer, outbox, conduits, link } = set;
        self.own.advance_generation();
        let number = peer.link;
        if let Some(known) =
            self.neighbours.get(&number).filter(|known| known.peer.leaf != peer.leaf)
        {
            self.gate.keep_former_leaf(number, known.peer.leaf);
        }
        self.neighbours.insert(number, Neighbour { peer, outbox, conduits, link });
        self.turn_out_if_listed(number);
    }
}

impl Handler<RemovePeer> for AuthFilter {
    type Result = ();

    fn handle(&mut self, RemovePeer(link): RemovePeer, ctx: &mut Self::Context) {
        self.own.advance_generation();
        self.gate.forget_link(link);
        let Some(neighbour) = self.neighbours.remove(&link) else { return };
        // What was never written has certainly not been executed.
        let left = neighbour.outbox.close();
        let mut out = self.departures();
        for part in left.into_iter().flat_map(Admitted::split) {
            self.own.counters.unqueue(1);
            self.in_flight.not_passed(part.header(), link);
            // Told, counted and logged inside.
            let _ = self.turn_back(part, Status::NoRoute, &mut out);
        }
        // What was written may have been executed; its answer will not come.
        for (request, arrived) in self.in_flight.lost(clock::now(), link) {
            self.give_back(&request, arrived, Status::PeerLost, &mut out);
        }
        let _ = self.depart(&mut out);
        self.deliver(out.local, None);
        self.pacer.pace(1, ctx);
    }
}

impl Handler<SetRoutes> for AuthFilter {
    type Result = ();

    fn handle(&mut self, SetRoutes(routes): SetRoutes, _: &mut Self::Context) {
        self.own.advance_generation();
        self.gate.set_routes(Arc::clone(&routes));
        self.routes = routes;
    }
}

impl Handler<SetPolicy> for AuthFilter {
    type Result = ();

    fn handle(&mut self, SetPolicy(policy): SetPolicy, _: &mut Self::Context) {
        self.own.advance_generation();
        self.gate.set_policy(policy, self.own.wall.unix());
    }
}

impl Handler<SetCell> for AuthFilter {
    type Result = ();

    fn handle(&mut self, SetCell(cell): SetCell, _: &mut Self::Context) {
        self.cell = Some(cell);
    }
}

impl Handler<SetServerKey> for AuthFilter {
    type Result = ();

    fn handle(&mut self, SetServerKey(key): SetServerKey, _: &mut Self::Context) {
        self.own.advance_generation();
        self.gate.tokens().set_server(key);
    }
}

impl Handler<RevokeSubject> for AuthFilter {
    type Result = ();

    fn handle(&mut self, revoke: RevokeSubject, _: &mut Self::Context) {
        self.own.advance_generation();
        let RevokeSubject { subject, until } = revoke;
        self.own.conduits.break_of(&subject);
        self.gate.tokens().revoke_subject(subject, until);
    }
}

impl Handler<VerifyToken> for AuthFilter {
    type Result = Result<Arc<Claims>, TokenError>;

    fn handle(&mut self, VerifyToken(token): VerifyToken, _: &mut Self::Context) -> Self::Result {
        let now = self.own.wall.unix();
        self.gate.tokens().verify(&token, now)
    }
}

impl Handler<Explain> for AuthFilter {
    type Result = Result<(Permit, Hop), Status>;

    fn handle(&mut self, Explain(envelope): Explain, _: &mut Self::Context) -> Self::Result {
        let unix = self.own.wall.unix();
        let destination = envelope.header.destination.name.clone();
        let (_, permit) =
            self.gate.judge(unix, &envelope, Arrival::Local).map_err(|(status, _)| status)?;
        let next = self.routes.next_hop(&destination, Hop::Local)?;
        Ok((permit, next))
    }
}

impl Handler<InTransit> for AuthFilter {
    type Result = usize;

    fn handle(&mut self, _: InTransit, _: &mut Self::Context) -> usize {
        self.in_flight.sweep(clock::now());
        self.in_flight.len() + self.own.conduits.len()
    }
}

impl Handler<StopTaking> for AuthFilter {
    type Result = ();

    fn handle(&mut self, _: StopTaking, _: &mut Self::Context) {
        self.own.advance_generation();
        self.draining = true;
    }
}

impl Handler<Halt> for AuthFilter {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        self.own.conduits.break_all();
        ctx.stop();
    }
}

impl Handler<Sweep> for AuthFilter {
    type Result = ();

    fn handle(&mut self, Sweep { longest_life_s }: Sweep, _: &mut Self::Context) {
        let now = self.own.wall.unix();
        self.gate.tokens().sweep(now, longest_life_s);
        self.in_flight.sweep(clock::now());
    }
}
