//! Pings of this cell itself: whether a neighbour, or the holder of a name, lives.

use std::{sync::Arc, time::Duration};

use actix::{Context, Handler, Message, ResponseFuture, dev::MessageResponse};
use bytes::Bytes;
use cellbus_channels::{Reply, RequestError};
use cellbus_proto::{
    envelope::{Address, Common, Envelope, Flags, Header, Kind, Lane},
    status::Status,
    well_known,
};
use tokio::sync::oneshot;

use super::{Cell, ask::Waiter};

/// Pings of the cell itself that are outstanding.
#[derive(Debug, Default)]
pub(super) struct Pings(Arc<()>);

impl Pings {
    fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// Asks a neighbour whether it lives, on a lane.
#[derive(Debug, Message)]
#[rtype(result = "PingAnswer")]
pub struct PingNeighbour {
    /// Which start of the neighbour.
    pub to: Arc<Address>,
    /// The lane.
    pub lane: Lane,
    /// Time that it has to answer.
    pub budget: Duration,
}

/// What became of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, MessageResponse)]
pub enum PingAnswer {
    /// The neighbour answered, whatever it said.
    Came,
    /// Nothing came in time.
    None,
    /// It was not sent, or its way ended.
    NotSent,
}

impl Cell {
    /// Asks the cell at exactly this address whether it lives.
    pub(super) fn ping(
        &mut self,
        to: Arc<Address>,
        lane: Lane,
        budget: Duration,
        ctx: &mut Context<Self>,
    ) -> oneshot::Receiver<Result<Reply, RequestError>> {
        let (answer, result) = oneshot::channel();
        let mark = Arc::clone(&self.registrar.pings.0);
        let waiter = Waiter::of_ping(answer, to.name.clone(), budget, mark);
        let header = Header {
            kind: Kind::Request,
            sequence: self.own.next_sequence(),
            common: Arc::new(Common {
                origin: Arc::clone(&self.own.address),
                destination: to,
                target: well_known::PING.into(),
                token: self.own.token(),
                lane,
                flags: Flags::default(),
            }),
            budget_ms: u32::try_from(budget.as_millis()).unwrap_or(u32::MAX),
            hops_left: 0,
            extras: None,
        };
        let envelope = Envelope { header, payload: Bytes::new() };
        self.begin(waiter, envelope, ctx);
        result
    }

    /// Requests of this cell that somebody waits for.
    pub(super) fn outstanding(&self) -> usize {
        self.exchange.len() - self.registrar.pings.count().min(self.exchange.len())
    }
}

impl Handler<PingNeighbour> for Cell {
    type Result = ResponseFuture<PingAnswer>;

    fn handle(&mut self, ping: PingNeighbour, ctx: &mut Self::Context) -> Self::Result {
        let PingNeighbour { to, lane, budget } = ping;
        let (own, answer) = (self.own.name.clone(), self.ping(to, lane, budget, ctx));
        Box::pin(async move {
            match answer.await {
                Ok(Ok(_)) => PingAnswer::Came,
                Ok(Err(RequestError::TimedOut { .. })) => PingAnswer::None,
                Ok(Err(RequestError::Returned { by, status: Status::ExpiredInQueue, .. }))
                    if by == own =>
                {
                    PingAnswer::None
                }
                Ok(Err(RequestError::Returned { by, .. })) if by != own => PingAnswer::Came,
                Ok(Err(_)) | Err(_) => PingAnswer::NotSent,
            }
        })
    }
}
