//! Registration: challenges for children, their proofs, their records and their tokens.
//!
//! The server decides itself. Every other cell carries its child's own proof to the server, in a message
//! of its own; it can neither make a child up nor move one.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message, ResponseFuture};
use bytes::Bytes;
use cellbus_channels::{Outgoing, Reply, RequestError};
use cellbus_proto::{
    codec::{
        CodecError,
        body::{
            self, Blob, ChallengeChild, ChildChallenge, ChildRegistered, RegisterChild, RenewChild,
            SignedServerKey,
        },
    },
    envelope::Incarnation,
    identity::{CellKind, Identity},
    name::Fqcn,
    registry::{Claim, Record, Registry, Returns},
    route::LinkId,
    status::Status,
    well_known::{self, SystemTopic},
};
use tokio::sync::oneshot;

use self::holder::Probing;
pub use self::records::LinkLeft;
pub(super) use self::records::rows;
use super::{Cell, Holder, ping::Pings};
use crate::clock;

mod holder;
mod records;
mod server;

/// Time that the server has to answer a registration.
const BUDGET: Duration = Duration::from_secs(5);

/// What a cell remembers for registrations, besides the records themselves.
#[derive(Debug)]
pub(super) struct Registrar {
    /// How often its children left and came back.
    returns: Returns,
    /// Names whose holders are being asked whether they live.
    probing: Probing,
    /// Pings of the cell itself that are outstanding.
    pub(super) pings: Pings,
    /// Whether the cell has said bye: what becomes of its children is nobody's business any more.
    pub(super) leaving: bool,
}

impl Registrar {
    pub(super) fn new(returns_per_minute: usize) -> Self {
        Self {
            returns: Returns::new(returns_per_minute, Registry::<Holder>::MAX),
            probing: Probing::default(),
            pings: Pings::default(),
            leaving: false,
        }
    }
}

/// Asks for a nonce of the server for a child that has said HELLO; `None` from the server itself, whose
/// link nonce serves.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<[u8; 32]>, Status>")]
pub struct ChallengeFor(pub Fqcn);

/// A child has proven itself on its link.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Result<RegisteredPeer, Status>")]
pub struct RegisterPeer {
    /// Its link.
    pub link: LinkId,
    /// Its full name.
    pub name: Fqcn,
    /// What its certificate says.
    pub identity: Identity,
    /// SHA-256 of its leaf certificate.
    pub leaf: [u8; 32],
    /// The chain that it presented.
    pub chain: Vec<Bytes>,
    /// Start of its process.
    pub incarnation: Incarnation,
    /// The nonce that its end-to-end proof is over.
    pub server_nonce: [u8; 32],
    /// Its end-to-end proof.
    pub end_to_end: Vec<u8>,
}

/// What a registered child is told.
#[derive(Clone, Debug)]
pub struct RegisteredPeer {
    /// Its session token.
    pub token: Blob,
    /// The key that verifies it.
    pub server_key: SignedServerKey,
    /// How often this cell itself had registered.
    pub epoch: u64,
}

/// A direct child's token is past half of its life.
#[derive(Debug, Message)]
#[rtype(result = "Result<Blob, Status>")]
pub struct RenewPeer {
    /// The child.
    pub name: Fqcn,
    /// Start of its process.
    pub incarnation: Incarnation,
}

/// The holder of the name that a child wants has been asked whether it lives.
#[derive(Debug, Message)]
#[rtype(result = "Result<RegisteredPeer, Status>")]
struct Proceed {
    register: RegisterPeer,
    /// The holder, if it is silent.
    holder: Result<Incarnation, Status>,
}

/// The server has let a child in; its record can be made.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Status>")]
struct Commit {
    register: RegisterPeer,
    silent: Option<Incarnation>,
}

impl RegisterPeer {
    fn record(&self, via: &Fqcn) -> Record<Holder> {
        Record {
            incarnation: self.incarnation,
            leaf: self.leaf,
            kind: self.identity.kind,
            org: self.identity.org.clone(),
            job: self.job(),
            since: clock::now(),
            holder: Holder { link: Some(self.link), via: via.clone() },
        }
    }

    fn job(&self) -> Option<cellbus_proto::name::Segment> {
        (self.identity.kind == CellKind::Job).then(|| super::base_segment(&self.name))
    }
}

impl Cell {
    fn to_server(&self, topic: SystemTopic, payload: Bytes) -> Outgoing {
        Outgoing { payload, budget: Some(BUDGET), ..Outgoing::new(topic.into()) }
    }

    fn tell_server(&self, topic: SystemTopic, payload: Bytes) {
        let outgoing = self.to_server(topic, payload);
        let sequence = self.own.next_sequence();
        let kind = cellbus_proto::envelope::Kind::Publish;
        let (server, budget_ms) = (&self.own.server, BUDGET.as_millis() as u32);
        self.emit(self.own.envelope(kind, sequence, server, &outgoing, budget_ms));
    }

    fn ask_server(
        &mut self,
        topic: SystemTopic,
        payload: Bytes,
        ctx: &mut Context<Self>,
    ) -> oneshot::Receiver<Result<Reply, RequestError>> {
        let outgoing = self.to_server(topic, payload);
        self.ask_own(self.own.server.clone(), outgoing, ctx)
    }

    /// Lets a child in whose name is free, or held by nobody who lives.
    fn proceed(
        &mut self,
        register: RegisterPeer,
        silent: Option<Incarnation>,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<RegisteredPeer, Status>> {
        if self.own.is_root() {
            let via = self.own.name.clone();
            let outcome = self
                .register_at_root(&register, &via)
                .and_then(|registered| self.commit(&register, silent).map(|()| registered));
            return Box::pin(std::future::ready(outcome));
        }
        self.leave_former_link(&register, silent);
        let epoch = self.own.epoch();
        let body = body::encode(&RegisterChild {
            child: register.name.clone(),
            incarnation: register.incarnation.into(),
            chain: register.chain.iter().map(|der| Blob(der.to_vec())).collect(),
            signature: Blob(register.end_to_end.clone()),
            job: register.job(),
        });
        let answer = self.ask_server(well_known::REGISTER_CHILD, body, ctx);
        let cell = ctx.address();
        Box::pin(async move {
            let reply = settled(answer).await?;
            let ChildRegistered { token, server_key } = decode(&reply.payload)?;
            let commit = Commit { register, silent };
            cell.send(commit).await.unwrap_or(Err(Status::ShuttingDown))?;
            Ok(RegisteredPeer { token, server_key, epoch })
        })
    }
}

impl Handler<ChallengeFor> for Cell {
    type Result = ResponseFuture<Result<Option<[u8; 32]>, Status>>;

    fn handle(
        &mut self,
        ChallengeFor(child): ChallengeFor,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        if self.own.is_root() {
            return Box::pin(std::future::ready(Ok(None)));
        }
        let body = body::encode(&ChallengeChild { child });
        let answer = self.ask_server(well_known::CHALLENGE_CHILD, body, ctx);
        Box::pin(async move {
            let reply = settled(answer).await?;
            let ChildChallenge { nonce } = decode(&reply.payload)?;
            Ok(Some(nonce.0))
        })
    }
}

impl Handler<RegisterPeer> for Cell {
    type Result = ResponseFuture<Result<RegisteredPeer, Status>>;

    fn handle(&mut self, register: RegisterPeer, ctx: &mut Self::Context) -> Self::Result {
        let claim = self
            .check_returns(&register)
            .and_then(|()| self.claim(&register.name, register.incarnation, &register.leaf));
        let asked = match claim {
            Err(status) => Err(status),
            Ok(Claim::Open) => return self.proceed(register, None, ctx),
            Ok(Claim::Held(holder)) => self.ask_holder(&register.name, holder, ctx),
        };
        let asked = match asked {
            Err(status) => return Box::pin(std::future::ready(Err(status))),
            Ok(asked) => asked,
        };
        let cell = ctx.address();
        Box::pin(async move {
            let holder = asked.await;
            let proceed = Proceed { register, holder };
            cell.send(proceed).await.unwrap_or(Err(Status::ShuttingDown))
        })
    }
}

impl Handler<Proceed> for Cell {
    type Result = ResponseFuture<Result<RegisteredPeer, Status>>;

    fn handle(&mut self, proceed: Proceed, ctx: &mut Self::Context) -> Self::Result {
        let Proceed { register, holder } = proceed;
        self.registrar.probing.end(&register.name);
        match holder {
            Ok(silent) => self.proceed(register, Some(silent), ctx),
            Err(status) => Box::pin(std::future::ready(Err(status))),
        }
    }
}

impl Handler<Commit> for Cell {
    type Result = Result<(), Status>;

    fn handle(&mut self, commit: Commit, _: &mut Self::Context) -> Self::Result {
        let Commit { register, silent } = commit;
        self.commit(&register, silent).inspect_err(|_| {
            // The server holds it for registered.
            self.tell_detached(register.name.clone(), register.incarnation);
        })
    }
}

impl Handler<RenewPeer> for Cell {
    type Result = ResponseFuture<Result<Blob, Status>>;

    fn handle(
        &mut self,
        RenewPeer { name, incarnation }: RenewPeer,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        if self.own.is_root() {
            let outcome = match self.registry.record(&name) {
                Some(record) if record.incarnation == incarnation => {
                    let record = record.clone();
                    self.renew_record(&name, &record)
                }
                Some(_) | None => Err(Status::PeerUnknown),
            };
            return Box::pin(std::future::ready(outcome));
        }
        let body = body::encode(&RenewChild { child: name, incarnation: incarnation.into() });
        let answer = self.ask_server(well_known::RENEW_CHILD, body, ctx);
        Box::pin(async move { settled(answer).await.map(|reply| Blob(reply.payload.to_vec())) })
    }
}

async fn settled(answer: oneshot::Receiver<Result<Reply, RequestError>>) -> Result<Reply, Status> {
    match answer.await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(error.status()),
        Err(_gone) => Err(Status::ShuttingDown),
    }
}

fn decode<T: serde::de::DeserializeOwned + serde::Serialize>(payload: &[u8]) -> Result<T, Status> {
    body::decode_exact(payload).map_err(|CodecError { status, .. }| status)
}

/// 32 bytes from the operating system.
pub(crate) fn random_nonce() -> Result<[u8; 32], Status> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| Status::Overloaded)?;
    Ok(nonce)
}
