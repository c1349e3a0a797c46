//! The end of a link that dialled: it proves itself, and checks that the parent does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{AsyncContext, Context, Handler, Message};
use cellbus_proto::{
    codec::{
        Frame, Octets,
        body::{
            self, Answer, Blob, Echo, Hello, HelloOk, Register, Registered, SignedServerKey,
            VERSION, WireChallenge,
        },
    },
    identity::CellKind,
    link::{LaneProbe, Phase},
    status::Status,
    token::{Claims, ServerKey, Token, TokenError},
    transcript::{EndToEndFacts, Purpose, RegisterFacts, Signable},
    well_known,
};
use rustls_pki_types::CertificateDer;

use super::{Link, Role};
use crate::{
    cell::{CompareLists, announcement_signable, random_nonce},
    clock,
    conn::CloseCode,
    filter::{SetServerKey, VerifyToken},
    seal::Leaf,
    seam::post,
    tls::{Direction, verify_chain, verify_leaf_signature},
};

/// What this end remembers of its registration.
#[derive(Debug)]
pub(super) struct ChildSide {
    nonce: [u8; 32],
    probe: LaneProbe,
    expects: Option<Expected>,
    epoch: u64,
    refused: Option<Status>,
    /// When the parent was last asked for lists, because it seemed to hold others.
    compared: Option<Instant>,
}

impl ChildSide {
    pub(super) fn new(now: Instant) -> Self {
        let probe = LaneProbe::new(now);
        Self { nonce: [0; 32], probe, expects: None, epoch: 0, refused: None, compared: None }
    }

    /// The registration in force, and the probe of the lane.
    pub(super) fn lane_probe(&mut self) -> (u64, &mut LaneProbe) {
        (self.epoch, &mut self.probe)
    }
}

#[derive(Debug)]
enum Expected {
    Challenge {
        sequence: u64,
    },
    Registered {
        sequence: u64,
        challenge: WireChallenge,
    },
    /// The answer has come and its token is being checked.
    Checked,
}

/// A token of this cell has been checked by its own filter.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct TokenChecked {
    token: Token,
    /// The epoch that came with it; `None` for a renewal.
    epoch: Option<u64>,
    outcome: Result<Arc<Claims>, TokenError>,
}

impl Link {
    fn child_side(&mut self) -> Option<&mut ChildSide> {
        match &mut self.role {
            Role::Child(side) => Some(side),
            Role::Parent(_) => None,
        }
    }

    pub(super) fn refusal(&self) -> Option<Status> {
        match &self.role {
            Role::Child(side) => side.refused,
            Role::Parent(_) => None,
        }
    }

    pub(super) fn say_hello(&mut self) {
        let Ok(nonce) = random_nonce() else {
            return self.close(CloseCode::Later, "no random bytes");
        };
        if let Some(side) = self.child_side() {
            side.nonce = nonce;
        }
        let Some(parent) = self.own.parent.clone() else { return };
        self.send(Frame::Hello(Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: Vec::new(),
            name: self.own.name.clone(),
            parent,
            incarnation: self.own.incarnation.into(),
            nonce: Octets(nonce),
        }));
    }

    pub(super) fn handle_hello_ok(&mut self, ok: &HelloOk, ctx: &mut Context<Self>) {
        let facts = self.connection.peer();
        let parent = self.own.parent.clone();
        let honest = ok.version == VERSION
            && Some(&ok.name) == parent.as_ref()
            && ok.kind == facts.identity.kind
            && ok.challenge.server == self.own.server
            && ok.incarnation.0 > 0;
        if !honest {
            return self.close_for(Status::CertName, "HELLO_OK is not what was dialled");
        }
        self.peer_incarnation = Some(ok.incarnation.into());
        self.register(ok.challenge.clone());
        self.publish_peer(ctx);
    }

    fn proof_for_parent(&self, purpose: Purpose, challenge: &WireChallenge) -> Option<Signable> {
        let Role::Child(side) = &self.role else { return None };
        let facts = self.connection.peer();
        Some(
            RegisterFacts {
                project: self.own.identity.project.as_str(),
                child: self.own.name.as_str(),
                child_kind: self.own.kind().as_str(),
                parent: self.own.parent.as_ref()?.as_str(),
                parent_kind: facts.identity.kind.as_str(),
                child_nonce: &side.nonce,
                parent_nonce: &challenge.nonce.0,
                challenge: challenge.id,
                child_leaf: &self.shown.certificate.hash(),
                parent_leaf: &facts.leaf,
                exporter: &facts.exporter,
            }
            .signable(purpose),
        )
    }

    fn proof_for_server(&self, challenge: &WireChallenge) -> Option<Signable> {
        Some(
            EndToEndFacts {
                project: self.own.identity.project.as_str(),
                child: self.own.name.as_str(),
                parent: self.own.parent.as_ref()?.as_str(),
                server: self.own.server.as_str(),
                server_nonce: &challenge.server_nonce.0,
                child_leaf: &self.shown.certificate.hash(),
            }
            .signable(),
        )
    }

    /// Answers a challenge with both proofs: one for the parent, one for the server.
    fn register(&mut self, challenge: WireChallenge) {
        let sign = |signable: Option<Signable>| {
            signable.and_then(|signable| self.shown.signer.sign(&signable).ok())
        };
        let proofs = (
            sign(self.proof_for_parent(Purpose::Register, &challenge)),
            sign(self.proof_for_server(&challenge)),
        );
        let (Some(signature), Some(end_to_end)) = proofs else {
            return self.close(CloseCode::Later, "this cell cannot sign");
        };
        self.state.enter_challenged(clock::now());
        let body =
            body::encode(&Register { signature: Blob(signature), end_to_end: Blob(end_to_end) });
        let Some((sequence, frame)) = self.exempt_request(well_known::REGISTER, body) else {
            return;
        };
        if let Some(side) = self.child_side() {
            side.expects = Some(Expected::Registered { sequence, challenge });
        }
        self.send(frame);
    }

    /// The parent tells with each echo whether it holds the same lists. What it has pushed is on its way
    /// or here; this is for what was lost.
    fn compare_lists(&mut self, mark: u64) {
        const AGAIN: Duration = Duration::from_secs(2);
        let (now, id) = (clock::now(), self.id);
        if mark == self.own.lists.mark() || self.state.phase() != Phase::Active {
            return;
        }
        let Some(side) = self.child_side() else { return };
        if side.compared.is_none_or(|at| now.saturating_duration_since(at) >= AGAIN) {
            side.compared = Some(now);
            // Fails only when the cell has ended.
            let _ = post(&self.cell, CompareLists(id));
        }
    }

    /// The parent tells with each echo whether the way to the server is still the same.
    pub(super) fn follow_parent(&mut self, echo: Echo, ctx: &mut Context<Self>) {
        let dates = self.connection.peer().dates;
        if dates.check(self.own.wall.unix()).is_err() {
            return self.close_for(Status::CertExpired, "the certificate of the parent has ended");
        }
        self.compare_lists(echo.revocations);
        if let Some(Blob(token)) = echo.renewal {
            self.check_token(token, None, ctx);
        }
        // The server knows this cell by the next certificate already, and the parent by the one before: whoever registered now
        // would be taken for another process with this name. The next echo asks again.
        let is_between = self.own.next().is_some_and(|next| next != self.shown.certificate.hash());
        let active = self.state.phase() == Phase::Active;
        let Some(side) = self.child_side() else { return };
        if !active || side.epoch == echo.epoch || side.expects.is_some() || is_between {
            return;
        }
        let Some((sequence, frame)) =
            self.exempt_request(well_known::CHALLENGE, bytes::Bytes::new())
        else {
            return;
        };
        tracing::info!(cell = %self.own.name, "registering again");
        if let Some(side) = self.child_side() {
            side.expects = Some(Expected::Challenge { sequence });
        }
        self.send(frame);
    }

    pub(super) fn handle_registration_answer(&mut self, answer: Answer, ctx: &mut Context<Self>) {
        let expected = self.child_side().and_then(|side| side.expects.take());
        let expected = match expected {
            Some(
                expected @ (Expected::Challenge { sequence }
                | Expected::Registered { sequence, .. }),
            ) if sequence == answer.to => expected,
            Some(Expected::Challenge { .. } | Expected::Registered { .. } | Expected::Checked)
            | None => {
                return self.close_for(Status::ReplyUnsolicited, "an answer to nothing");
            }
        };
        if answer.status != 0 {
            let status = Status::from_wire(answer.status).unwrap_or(Status::Forbidden);
            if let Some(side) = self.child_side() {
                side.refused = Some(status);
            }
            tracing::info!(cell = %self.own.name, code = status.code(), "registration refused");
            return self.close(CloseCode::Done, "refused");
        }
        match expected {
            Expected::Challenge { .. } => {
                match body::decode_exact::<WireChallenge>(&answer.body.0) {
                    Ok(challenge) if challenge.server == self.own.server => {
                        self.register(challenge)
                    }
                    Ok(_) => self.close_for(Status::CertName, "a challenge of another server"),
                    Err(error) => self.close_for(error.status, error.what),
                }
            }
            Expected::Registered { challenge, .. } => {
                self.finish_registration(&answer.body.0, &challenge, ctx);
            }
            Expected::Checked => {}
        }
    }

    fn finish_registration(
        &mut self,
        body: &[u8],
        challenge: &WireChallenge,
        ctx: &mut Context<Self>,
    ) {
        let registered: Registered = match body::decode_exact(body) {
            Ok(registered) => registered,
            Err(error) => return self.close_for(error.status, error.what),
        };
        let facts = self.connection.peer();
        let signable = self.proof_for_parent(Purpose::RegisterAck, challenge);
        let acknowledged = signable.is_some_and(|signable| {
            let leaf = facts.chain.first().map_or(&[][..], |leaf| leaf);
            verify_leaf_signature(leaf, &signable, &registered.signature.0)
        });
        if !acknowledged {
            return self.close_for(Status::BadSignature, "the parent did not prove itself");
        }
        if !self.is_server_key(&registered.server_key) {
            return self.close_for(Status::BadSignature, "the server's key is not the server's");
        }
        let SignedServerKey { server, incarnation, key, .. } = registered.server_key;
        let key = ServerKey { server, incarnation: incarnation.into(), key: key.0 };
        if post(&self.filter, SetServerKey(key)).is_err() {
            return self.close(CloseCode::Later, "the filter has ended");
        }
        if let Some(side) = self.child_side() {
            side.expects = Some(Expected::Checked);
        }
        self.check_token(registered.token.0, Some(registered.epoch), ctx);
    }

    /// Whether the announcement was made by the holder of the server's certificate.
    fn is_server_key(&self, announcement: &SignedServerKey) -> bool {
        if announcement.server != self.own.server || announcement.chain.len() > body::CHAIN_MAX {
            return false;
        }
        let chain: Vec<CertificateDer<'_>> =
            announcement.chain.iter().map(|der| CertificateDer::from(&der.0[..])).collect();
        let now = self.own.wall.unix();
        let Ok(peer) = verify_chain(&self.own.roots, &chain, Direction::IsDialled, now) else {
            return false;
        };
        let project = &self.own.identity.project;
        let is_server = peer.identity.kind == CellKind::Server
            && peer.identity.name.as_str() == self.own.server.base()
            && peer.identity.project == *project;
        let signable = announcement_signable(project.as_str(), announcement, &peer.hash);
        let leaf = announcement.chain.first().map_or(&[][..], |leaf| &leaf.0);
        if !is_server || !verify_leaf_signature(leaf, &signable, &announcement.signature.0) {
            return false;
        }
        let leaf = Arc::new(Leaf::verified(leaf, peer.identity, peer.dates));
        let own = self.own.certificate().hash();
        self.own.protection.keep(leaf, || [own].into());
        true
    }

    fn check_token(&mut self, token: Vec<u8>, epoch: Option<u64>, ctx: &mut Context<Self>) {
        let Some(token) = Token::from_bytes(token.into()) else {
            return self.close_for(Status::BadToken, "the parent sent no token");
        };
        let asked = self.filter.send(VerifyToken(token.clone()));
        let link = ctx.address();
        actix::spawn(async move {
            // A filter that has ended says nothing of the token: this cell ends, and the link with it.
            let Ok(outcome) = asked.await else { return };
            // Fails only when the link has ended.
            let _ = post(&link, TokenChecked { token, epoch, outcome });
        });
    }
}

impl Handler<TokenChecked> for Link {
    type Result = ();

    fn handle(&mut self, checked: TokenChecked, ctx: &mut Self::Context) {
        let TokenChecked { token, epoch, outcome } = checked;
        if self.state.phase() == Phase::Closed {
            return;
        }
        let leaf = outcome.ok().filter(|claims| claims.subject == self.own.name);
        let leaf = leaf.map(|claims| claims.leaf.0);
        let ours = leaf.is_some_and(|leaf| self.own.is_shown_or_next(&leaf));
        if !ours {
            // The parent asked for it before this cell went on with another certificate.
            if epoch.is_none() && leaf.is_some_and(|leaf| self.own.was_shown_or_next(&leaf)) {
                tracing::debug!(cell = %self.own.name, "a token for the certificate of before is left alone");
                return;
            }
            return self.close_for(Status::BadToken, "the token is not for this cell");
        }
        self.own.set_token(Some(token));
        let Some(epoch) = epoch else { return };
        if let Some(side) = self.child_side() {
            side.expects = None;
            side.epoch = epoch;
        }
        self.activate(ctx);
        self.arm_timer(ctx);
    }
}
