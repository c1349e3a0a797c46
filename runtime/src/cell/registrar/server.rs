//! What the server decides: the registrations that parents bring, and the tokens that it gives.

use std::sync::Arc;

use actix::{AsyncContext, Context, Handler, Message};
use bytes::Bytes;
use cellbus_channels::Event;
use cellbus_proto::{
    admission::{Admitted, Verified},
    codec::{
        Octets,
        body::{
            self, Blob, ChallengeChild, ChildChallenge, ChildRegistered, DetachChild,
            RegisterChild, RenewChild,
        },
    },
    envelope::{Header, Incarnation},
    identity::{CellKind, Identity},
    name::Fqcn,
    registry::{Claim, Record},
    route::LinkId,
    status::Status,
    transcript::EndToEndFacts,
    well_known::{self, SystemTopic},
};
use rustls_pki_types::CertificateDer;

use super::{RegisterPeer, RegisteredPeer, decode, random_nonce};
use crate::{
    cell::{Cell, Holder, root::Subject},
    certificate::{identity_of, leaf_hash},
    clock,
    filter::RevokeSubject,
    seal::Leaf,
    seam::post,
    tls::{ChainError, Direction, root_of, verify_chain, verify_leaf_signature},
};

/// A registration that a parent has brought and that is good, but for the name.
#[derive(Debug)]
struct Brought {
    request: Header,
    via: Fqcn,
    register: RegisterPeer,
    registered: RegisteredPeer,
}

/// The holder of the name that a brought child wants has been asked whether it lives.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Settle {
    brought: Box<Brought>,
    /// The holder, if it is silent.
    holder: Result<Incarnation, Status>,
}

impl Cell {
    /// What the server checks of every registration, and the token that it gives.
    pub(super) fn register_at_root(
        &mut self,
        register: &RegisterPeer,
        via: &Fqcn,
    ) -> Result<RegisteredPeer, Status> {
        let root = self.root.as_ref().ok_or(Status::Forbidden)?;
        self.check_lists(register.identity.kind, &register.name, &register.leaf)?;
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
        let (_, dates) = identity_of(leaf).map_err(|_| Status::CertKind)?;
        let vouched = root_of(&self.own.roots, &register.chain, self.own.wall.unix());
        let leaf = Leaf::verified(leaf, register.identity.clone(), dates).of_root(vouched);
        self.own.protection.keep(Arc::new(leaf), || {
            let registered = self.registry.iter().map(|(_, record)| record.leaf);
            registered.chain([self.own.certificate().hash()]).collect()
        });
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
    pub(in crate::cell) fn take_registration(
        &mut self,
        topic: SystemTopic,
        admitted: Admitted,
        ctx: &mut Context<Self>,
    ) {
        let Verified::Claims(claims) = admitted.verified().clone() else {
            return self.answer_failed(admitted.header(), Status::NoToken, Bytes::new());
        };
        let (sender, request) = (&claims.subject, admitted.header());
        let payload = &admitted.envelope().payload;
        let outcome = match topic {
            well_known::REGISTER_CHILD => decode(payload)
                .and_then(|b| self.register_child(sender, b, request, ctx))
                .map(|()| None),
            well_known::CHALLENGE_CHILD => {
                decode(payload).and_then(|b| self.challenge_child(sender, &b)).map(Some)
            }
            well_known::RENEW_CHILD => {
                decode(payload).and_then(|b| self.renew_child(sender, &b)).map(Some)
            }
            well_known::DETACH_CHILD => {
                decode(payload).map(|b| Some(self.detach_child(sender, &b)))
            }
            well_known::RENEW_CERTIFICATE => {
                decode(payload).and_then(|b| self.renew_certificate(&claims, &b)).map(Some)
            }
            well_known::ISSUE_CERTIFICATE => {
                decode(payload).and_then(|b| self.issue_certificate(&claims, &b)).map(Some)
            }
            _ => Ok(Some(self.quit(sender))),
        };
        match outcome {
            Ok(Some(body)) => self.answer(request, body, None),
            // It is answered when it is decided.
            Ok(None) => {}
            Err(status) => self.refuse_request(request, status),
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

    /// Checks what a parent brings of its child, all but whether the name can be had.
    fn verify_brought(
        &mut self,
        sender: &Fqcn,
        body: RegisterChild,
    ) -> Result<(RegisterPeer, RegisteredPeer), Status> {
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
        Ok((register, registered))
    }

    /// Registers the child of `sender`, at once or when the holder of its name has been asked.
    fn register_child(
        &mut self,
        sender: &Fqcn,
        body: RegisterChild,
        request: &Header,
        ctx: &mut Context<Self>,
    ) -> Result<(), Status> {
        let (register, registered) = self.verify_brought(sender, body)?;
        let claim = self.claim(&register.name, register.incarnation, &register.leaf)?;
        let (via, request) = (sender.clone(), request.clone());
        let brought = Brought { request, via, register, registered };
        match claim {
            Claim::Open => self.settle(brought, Ok(None)),
            Claim::Held(holder) => {
                let asked = self.ask_holder(&brought.register.name, holder, ctx)?;
                let cell = ctx.address();
                actix::spawn(async move {
                    let holder = asked.await;
                    // Fails only when the cell has ended.
                    let _ = post(&cell, Settle { brought: Box::new(brought), holder });
                });
            }
        }
        Ok(())
    }

    /// Makes the record of a child that its parent has brought, and answers the parent.
    fn settle(&mut self, brought: Brought, silent: Result<Option<Incarnation>, Status>) {
        let Brought { request, via, register, registered } = brought;
        let record =
            Record { holder: Holder { link: None, via: via.clone() }, ..register.record(&via) };
        let outcome = silent.and_then(|silent| {
            self.registry
                .register(clock::now(), &register.name, record, silent)
                .map_err(|not| self.not_registered(&register.name, not))
        });
        match outcome {
            Ok(verdict) => {
                self.notice_verdict(&register.name, &verdict, register.incarnation);
                let RegisteredPeer { token, server_key, .. } = registered;
                let body = body::encode(&ChildRegistered { token, server_key });
                self.answer(&request, body, None);
            }
            Err(status) => self.refuse_request(&request, status),
        }
    }

    fn refuse_request(&self, request: &Header, status: Status) {
        tracing::info!(
            cell = %self.own.name, sender = %request.origin.name, code = status.code(),
            topic = %request.target, "registration refused"
        );
        self.own.counters.refuse(status);
        self.answer_failed(request, status, Bytes::new());
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
            let peer =
                verify_chain(&self.own.roots, &ders, Direction::Dials, now).map_err(|error| {
                    let ChainError::Listed(status) = error else { return Status::BadSignature };
                    status
                })?;
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

    pub(in crate::cell) fn renew_record(
        &self,
        name: &Fqcn,
        record: &Record<Holder>,
    ) -> Result<Blob, Status> {
        let root = self.root.as_ref().ok_or(Status::Forbidden)?;
        self.check_lists(record.kind, name, &record.leaf)?;
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
            self.own.notices.tell(Event::CellDown(body.child.clone()));
            let removed = self.registry.remove_below(&body.child);
            self.notice_down(&removed);
        }
        Bytes::new()
    }

    /// An authenticated cell leaves until it registers again.
    fn quit(&mut self, sender: &Fqcn) -> Bytes {
        let removed = self.registry.remove_below(sender);
        self.notice_down(&removed);
        let now = self.own.wall.unix();
        let until = self.root.as_mut().map_or(now, |root| root.note_quit(sender, now));
        self.to_filter(RevokeSubject { subject: sender.clone(), until });
        tracing::info!(cell = %self.own.name, peer = %sender, "cell has quit");
        Bytes::new()
    }
}

impl Handler<Settle> for Cell {
    type Result = ();

    fn handle(&mut self, Settle { brought, holder }: Settle, _: &mut Context<Self>) {
        self.registrar.probing.end(&brought.register.name);
        self.settle(*brought, holder.map(Some));
    }
}
