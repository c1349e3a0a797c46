//! Registration: challenges for children, their proofs, their records and their tokens.
//!
//! The server decides itself. Every other cell carries its child's own proof to the server, in a message
//! of its own; it can neither make a child up nor move one.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message, ResponseFuture};
use bytes::Bytes;
use cellbus_channels::{Outgoing, Reply, RequestError};
use cellbus_proto::{
    admission::{Admitted, Verified},
    codec::{
        CodecError, Octets,
        body::{
            self, Blob, ChallengeChild, ChildChallenge, ChildRegistered, DetachChild,
            RegisterChild, RenewChild, SignedServerKey,
        },
    },
    envelope::Incarnation,
    identity::{CellKind, Identity},
    name::Fqcn,
    registry::{Record, Registry, Verdict},
    route::LinkId,
    status::Status,
    transcript::EndToEndFacts,
    well_known::{self, SystemTopic},
};
use rustls_pki_types::CertificateDer;
use tokio::sync::oneshot;

use super::{Cell, Holder, root::Subject};
use crate::{
    certificate::{identity_of, leaf_hash},
    clock,
    conn::CloseCode,
    filter::RevokeSubject,
    link::Say,
    seam::post,
    tls::{Direction, verify_chain, verify_leaf_signature},
};

/// Time that the server has to answer a registration.
const BUDGET: Duration = Duration::from_secs(5);

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

/// The server has let a child in; its record can be made.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Status>")]
struct Commit(RegisterPeer);

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
    /// Whether the present holder of `name` was heard within the last two seconds.
    fn holder_answers(&self, name: &Fqcn) -> bool {
        const PROBE: Duration = Duration::from_secs(2);
        let Some(record) = self.registry.record(name) else { return false };
        match record.holder.link {
            // Whether a cell behind a child is alive is for that child to know; it says when it is not.
            None => true,
            Some(link) => self.links.get(&link).is_some_and(|info| info.health.heard_within(PROBE)),
        }
    }

    /// Makes the record of a direct child, and closes the connection of whoever held the name before.
    fn commit(&mut self, register: &RegisterPeer) -> Result<(), Status> {
        let answers = self.holder_answers(&register.name);
        let record = register.record(&self.own.name);
        let verdict = self.registry.register(clock::now(), &register.name, record, answers)?;
        if let Verdict::Replaced(former) = verdict {
            let superseded = former.holder.link.filter(|link| *link != register.link);
            if let Some(info) = superseded.and_then(|link| self.links.get(&link)) {
                let bye = Say::Close(CloseCode::Superseded, "another connection took this name");
                if post(&info.link, bye).is_err() {
                    tracing::debug!(peer = %register.name, "the former link has ended already");
                }
            }
            if former.incarnation != register.incarnation {
                self.registry_remove_below(&register.name);
            }
        }
        Ok(())
    }

    /// A process that is back on another link has left the one that it had. The server is told now: told
    /// when the link ends, after the new registration, it would take the new record for the old one.
    fn leave_former_link(&mut self, register: &RegisterPeer) {
        let Some(record) = self.registry.record(&register.name) else { return };
        let same_process =
            record.incarnation == register.incarnation && record.leaf == register.leaf;
        let former = record.holder.link.filter(|link| same_process && *link != register.link);
        let Some(former) = former else { return };
        self.forget_child(former);
        if let Some(info) = self.links.get(&former) {
            let bye = Say::Close(CloseCode::Superseded, "the same process is back");
            // Fails only when the link has ended already.
            let _ = post(&info.link, bye);
        }
    }

    /// Forgets whoever registered through `top`, which is not what it was.
    fn registry_remove_below(&mut self, top: &Fqcn) {
        let own = self.registry.record(top).cloned();
        for (name, _) in self.registry.remove_below(top) {
            tracing::debug!(cell = %self.own.name, peer = %name, "record removed");
        }
        if let Some(record) = own {
            // The registry was emptied below and at `top`; `top` itself stays.
            let _ = self.registry.register(clock::now(), top, record, false);
        }
    }

    /// A direct child's link has ended: the record that was made on it, and those of cells behind it, end
    /// with it. A child that has come back on another link keeps the record that it made there.
    pub(super) fn forget_child(&mut self, link: LinkId) {
        let held = self.registry.iter().find(|(_, record)| record.holder.link == Some(link));
        let Some((name, incarnation)) =
            held.map(|(name, record)| (name.clone(), record.incarnation))
        else {
            return;
        };
        self.registry.remove_below(&name);
        if self.own.is_root() || self.own.epoch() == 0 {
            return;
        }
        let body = body::encode(&DetachChild { child: name, incarnation: incarnation.into() });
        self.tell_server(well_known::DETACH_CHILD, body);
    }

    fn to_server(&self, topic: SystemTopic, payload: Bytes) -> Outgoing {
        Outgoing {
            to: self.own.server.clone(),
            target: topic.into(),
            payload,
            content_type: None,
            budget: Some(BUDGET),
        }
    }

    fn tell_server(&self, topic: SystemTopic, payload: Bytes) {
        let outgoing = self.to_server(topic, payload);
        let sequence = self.own.next_sequence();
        let kind = cellbus_proto::envelope::Kind::Publish;
        self.emit(self.own.envelope(kind, sequence, &outgoing, BUDGET.as_millis() as u32));
    }

    fn ask_server(
        &mut self,
        topic: SystemTopic,
        payload: Bytes,
        ctx: &mut Context<Self>,
    ) -> oneshot::Receiver<Result<Reply, RequestError>> {
        let outgoing = self.to_server(topic, payload);
        self.ask_own(outgoing, ctx)
    }

    /// What the server checks of every registration, and the token that it gives.
    fn register_at_root(
        &mut self,
        register: &RegisterPeer,
        via: &Fqcn,
    ) -> Result<RegisteredPeer, Status> {
        let root = self.root.as_ref().ok_or(Status::Forbidden)?;
        if let Some(job) = register.job()
            && !root.runs(via, &job)
        {
            return Err(Status::JobScope);
        }
        let signable = EndToEndFacts {
            project: self.own.identity.project.as_str(),
            child: register.name.as_str(),
            parent: via.as_str(),
            server: self.own.name.as_str(),
            server_nonce: &register.server_nonce,
            child_leaf: &register.leaf,
        }
        .signable();
        let leaf = register.chain.first().ok_or(Status::BadSignature)?;
        if !verify_leaf_signature(leaf, &signable, &register.end_to_end) {
            return Err(Status::BadSignature);
        }
        let subject = Subject {
            name: &register.name,
            identity: &register.identity,
            via,
            leaf: &register.leaf,
        };
        let token = root.issue(&self.own, &subject, self.settings.token_life_s)?;
        Ok(RegisteredPeer {
            token: Blob(token.as_bytes().to_vec()),
            server_key: root.announcement(),
            epoch: self.own.epoch(),
        })
    }

    /// Requests of parents to the server.
    pub(super) fn take_registration(&mut self, topic: SystemTopic, admitted: Admitted) {
        let Verified::Claims(claims) = admitted.verified().clone() else {
            return self.answer_failed(admitted.header(), Status::NoToken, Bytes::new());
        };
        let sender = &claims.subject;
        let payload = &admitted.envelope().payload;
        let outcome = match topic {
            well_known::CHALLENGE_CHILD => {
                decode(payload).and_then(|b| self.challenge_child(sender, &b))
            }
            well_known::REGISTER_CHILD => {
                decode(payload).and_then(|b| self.register_child(sender, b))
            }
            well_known::RENEW_CHILD => decode(payload).and_then(|b| self.renew_child(sender, &b)),
            well_known::DETACH_CHILD => decode(payload).map(|b| self.detach_child(sender, &b)),
            _ => Ok(self.quit(sender)),
        };
        match outcome {
            Ok(body) => self.answer(admitted.header(), body, None),
            Err(status) => {
                tracing::info!(
                    cell = %self.own.name, %sender, code = status.code(), topic = topic.topic,
                    "registration refused"
                );
                self.own.counters.refuse(status);
                self.answer_failed(admitted.header(), status, Bytes::new());
            }
        }
    }

    fn challenge_child(&mut self, sender: &Fqcn, body: &ChallengeChild) -> Result<Bytes, Status> {
        self.check_parentage(sender, &body.child)?;
        let root = self.root.as_mut().ok_or(Status::Forbidden)?;
        let nonce = random_nonce()?;
        let key = (sender.clone(), body.child.clone());
        let challenge = root.challenges.issue(clock::now(), key, nonce)?;
        Ok(body::encode(&ChildChallenge { nonce: Octets(challenge.nonce) }))
    }

    fn register_child(&mut self, sender: &Fqcn, body: RegisterChild) -> Result<Bytes, Status> {
        self.check_parentage(sender, &body.child)?;
        let root = self.root.as_mut().ok_or(Status::Forbidden)?;
        let key = (sender.clone(), body.child.clone());
        let challenge = root.challenges.take(clock::now(), &key)?;
        if body.chain.len() > body::CHAIN_MAX {
            return Err(Status::TooLarge);
        }
        let chain: Vec<Bytes> = body.chain.into_iter().map(|Blob(der)| der.into()).collect();
        let (identity, leaf) = self.identify(&body.child, &chain)?;
        let register = RegisterPeer {
            link: LinkId(0),
            name: body.child,
            identity,
            leaf,
            chain,
            incarnation: body.incarnation.into(),
            server_nonce: challenge.nonce,
            end_to_end: body.signature.0,
        };
        let registered = self.register_at_root(&register, sender)?;
        let record = Record {
            holder: Holder { link: None, via: sender.clone() },
            ..register.record(sender)
        };
        let answers = self.holder_answers(&register.name);
        self.registry.register(clock::now(), &register.name, record, answers)?;
        let RegisteredPeer { token, server_key, .. } = registered;
        Ok(body::encode(&ChildRegistered { token, server_key }))
    }

    /// Whether the topology puts `child` directly below `sender`.
    fn check_parentage(&self, sender: &Fqcn, child: &Fqcn) -> Result<(), Status> {
        let below = child.parent().as_ref() == Some(sender);
        let provisioned = self.roster.kind_of(child).is_some();
        if !below {
            return Err(Status::NotDirect);
        }
        if !provisioned {
            return Err(Status::CertName);
        }
        Ok(())
    }

    /// Who a presented chain says it is, checked against the project's authority, or for a job cell
    /// against nothing but its own name: its parent, which pinned it, vouches for it.
    fn identify(&self, child: &Fqcn, chain: &[Bytes]) -> Result<(Identity, [u8; 32]), Status> {
        let leaf = chain.first().ok_or(Status::BadSignature)?;
        let kind = self.roster.kind_of(child);
        let (identity, hash) = if kind == Some(CellKind::Job) {
            let (identity, dates) = identity_of(leaf).map_err(|_| Status::CertKind)?;
            dates.check(self.own.wall.unix()).map_err(|_| Status::CertExpired)?;
            (identity, leaf_hash(leaf))
        } else {
            let ders: Vec<CertificateDer<'_>> =
                chain.iter().map(|der| CertificateDer::from(&der[..])).collect();
            let now = self.own.wall.unix();
            let peer = verify_chain(&self.own.roots, &ders, Direction::Dials, now)
                .map_err(|_| Status::BadSignature)?;
            (peer.identity, peer.hash)
        };
        if identity.project != self.own.identity.project || Some(identity.kind) != kind {
            return Err(Status::CertKind);
        }
        let named = match identity.kind {
            CellKind::Job => identity.name == *child,
            CellKind::Server | CellKind::Relay | CellKind::Client | CellKind::Admin => {
                identity.name.as_str() == child.base()
            }
        };
        if named { Ok((identity, hash)) } else { Err(Status::CertName) }
    }

    fn renew_child(&mut self, sender: &Fqcn, body: &RenewChild) -> Result<Bytes, Status> {
        let record = self.registry.record(&body.child).ok_or(Status::PeerUnknown)?;
        let theirs = record.holder.via == *sender && record.incarnation == body.incarnation.into();
        if !theirs {
            return Err(Status::PeerUnknown);
        }
        let record = record.clone();
        self.renew_record(&body.child, &record).map(|blob| blob.0.into())
    }

    fn renew_record(&self, name: &Fqcn, record: &Record<Holder>) -> Result<Blob, Status> {
        let root = self.root.as_ref().ok_or(Status::Forbidden)?;
        let identity = Identity {
            project: self.own.identity.project.clone(),
            kind: record.kind,
            name: name.clone(),
            org: record.org.clone(),
            role: None,
        };
        let via = &record.holder.via;
        let subject = Subject { name, identity: &identity, via, leaf: &record.leaf };
        let token = root.issue(&self.own, &subject, self.settings.token_life_s)?;
        Ok(Blob(token.as_bytes().to_vec()))
    }

    fn detach_child(&mut self, sender: &Fqcn, body: &DetachChild) -> Bytes {
        let theirs =
            self.registry.record(&body.child).is_some_and(|record| record.holder.via == *sender);
        if theirs && self.registry.detach(&body.child, body.incarnation.into()).is_some() {
            self.registry.remove_below(&body.child);
        }
        Bytes::new()
    }

    /// An authenticated cell leaves until it registers again.
    fn quit(&mut self, sender: &Fqcn) -> Bytes {
        self.registry.remove_below(sender);
        let now = self.own.wall.unix();
        let until = self.root.as_mut().map_or(now, |root| root.note_quit(sender, now));
        self.to_filter(RevokeSubject { subject: sender.clone(), until });
        tracing::info!(cell = %self.own.name, peer = %sender, "cell has quit");
        Bytes::new()
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
        if self.own.is_root() {
            let via = self.own.name.clone();
            let outcome = self
                .register_at_root(&register, &via)
                .and_then(|registered| self.commit(&register).map(|()| registered));
            return Box::pin(std::future::ready(outcome));
        }
        self.leave_former_link(&register);
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
            cell.send(Commit(register)).await.unwrap_or(Err(Status::ShuttingDown))?;
            Ok(RegisteredPeer { token, server_key, epoch })
        })
    }
}

impl Handler<Commit> for Cell {
    type Result = Result<(), Status>;

    fn handle(&mut self, Commit(register): Commit, _: &mut Self::Context) -> Self::Result {
        self.commit(&register)
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

/// What the registry of a cell holds, for its report.
pub(super) fn rows(registry: &Registry<Holder>) -> Vec<super::PeerReport> {
    registry
        .iter()
        .map(|(name, record)| super::PeerReport {
            name: name.to_string(),
            kind: record.kind.to_string(),
            org: record.org.to_string(),
            via: record.holder.via.to_string(),
            direct: record.holder.link.is_some(),
            incarnation: format!(
                "{}-{:016x}",
                record.incarnation.counter, record.incarnation.nonce
            ),
            since_ms: clock::now().saturating_duration_since(record.since).as_millis() as u64,
        })
        .collect()
}
