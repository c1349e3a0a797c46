//! The end of a link that was dialled: it challenges, verifies and lets in.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix::{AsyncContext, Context, Handler, Message};
use cellbus_proto::{
    challenge::{Challenge, ChallengeBook},
    codec::{
        Frame, Octets,
        body::{
            self, Blob, Echo, FEATURE_CLOCK, Hello, HelloOk, Register, Registered, VERSION,
            WireChallenge,
        },
    },
    link::Phase,
    route::LinkId,
    status::Status,
    transcript::{Purpose, RegisterFacts, Signable},
};

use super::{Link, Role};
use crate::{
    cell::{ChallengeFor, LinkDown, RegisterPeer, RegisteredPeer, RenewPeer, Roster, random_nonce},
    clock,
    conn::CloseCode,
    seam::post,
    tls::verify_leaf_signature,
};

/// The challenges of all links of one cell.
pub type Challenges = Arc<Mutex<ChallengeBook<LinkId>>>;

/// What this end remembers of the child.
#[derive(Debug)]
pub(super) struct ParentSide {
    roster: Arc<dyn Roster>,
    challenges: Challenges,
    child_nonce: [u8; 32],
    /// It has asked what time it is here.
    asks_time: bool,
    server_nonce: [u8; 32],
    begun: VecDeque<Instant>,
    renew_at: Option<Instant>,
    renewal: Option<Blob>,
}

/// The server's nonce for a child has come, or not.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ChallengeMade {
    /// The challenge request that is answered; `None` for HELLO.
    answers: Option<u64>,
    outcome: Result<Option<[u8; 32]>, Status>,
}

/// The registration has been decided.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Decided {
    answers: u64,
    challenge: Challenge,
    outcome: Result<RegisteredPeer, Status>,
}

/// A new token for the child has come.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Renewed(Blob);

/// No new token for the child has come.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct NotRenewed(Status);

impl ParentSide {
    pub(super) fn new(roster: Arc<dyn Roster>, challenges: Challenges) -> Self {
        Self {
            roster,
            challenges,
            child_nonce: [0; 32],
            asks_time: false,
            server_nonce: [0; 32],
            begun: VecDeque::new(),
            renew_at: None,
            renewal: None,
        }
    }

    fn book(&self) -> MutexGuard<'_, ChallengeBook<LinkId>> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another registration may begin now.
    fn may_begin(&mut self, now: Instant, per_minute: usize) -> bool {
        const WINDOW: Duration = Duration::from_secs(60);
        while self.begun.front().is_some_and(|at| now.saturating_duration_since(*at) > WINDOW) {
            self.begun.pop_front();
        }
        let may = self.begun.len() < per_minute;
        if may {
            self.begun.push_back(now);
        }
        may
    }
}

impl Link {
    fn parent_side(&mut self) -> Option<&mut ParentSide> {
        match &mut self.role {
            Role::Parent(side) => Some(side),
            Role::Child(_) => None,
        }
    }

    pub(super) fn forget_challenge(&mut self) {
        let id = self.id;
        if let Some(side) = self.parent_side() {
            side.book().forget(&id);
        }
    }

    pub(super) fn handle_hello(&mut self, hello: &Hello, ctx: &mut Context<Self>) {
        if let Err((status, what)) = self.check_hello(hello) {
            return self.close_for(status, what);
        }
        if self.own.epoch() == 0 {
            return self.close(CloseCode::Later, "this cell is not registered yet");
        }
        self.peer_incarnation = Some(hello.incarnation.into());
        if let Some(side) = self.parent_side() {
            side.child_nonce = hello.nonce.0;
            side.asks_time = hello.features.iter().any(|feature| feature == FEATURE_CLOCK);
        }
        self.begin_challenge(None, ctx);
    }

    /// What the child says about itself must be what its certificate and the topology say.
    fn check_hello(&mut self, hello: &Hello) -> Result<(), (Status, &'static str)> {
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            return Err((Status::Version, "no version in common"));
        }
        if hello.features.len() > 16 || hello.incarnation.0 == 0 {
            return Err((Status::BadFrame, "malformed HELLO"));
        }
        let identity = self.connection.peer().identity.clone();
        let name = self.peer_name().ok_or((Status::CertName, "the name does not fit here"))?;
        if hello.name != name {
            return Err((Status::CertName, "HELLO says another name than the certificate"));
        }
        if hello.parent != self.own.name {
            return Err((Status::NotDirect, "HELLO means another parent"));
        }
        if identity.project != self.own.identity.project {
            return Err((Status::CertName, "another project"));
        }
        let expected = match &self.role {
            Role::Parent(side) => side.roster.child_kind(&name),
            Role::Child(_) => None,
        };
        match expected {
            None => Err((Status::NotDirect, "the topology puts no such cell here")),
            Some(kind) if kind != identity.kind => {
                Err((Status::CertKind, "a cell of another kind"))
            }
            Some(_) => Ok(()),
        }
    }

    pub(super) fn handle_challenge(&mut self, sequence: u64, ctx: &mut Context<Self>) {
        self.begin_challenge(Some(sequence), ctx);
    }

    fn begin_challenge(&mut self, answers: Option<u64>, ctx: &mut Context<Self>) {
        let per_minute = self.settings.registrations_per_minute;
        let may = self.parent_side().is_some_and(|side| side.may_begin(clock::now(), per_minute));
        let Some(name) = self.peer_name().filter(|_| may) else {
            return self.close_for(Status::RateLimit, "too many registrations");
        };
        let asked = self.cell.send(ChallengeFor(name));
        let link = ctx.address();
        actix::spawn(async move {
            let outcome = asked.await.unwrap_or(Err(Status::ShuttingDown));
            // Fails only when the link has ended.
            let _ = post(&link, ChallengeMade { answers, outcome });
        });
    }

    fn challenge(&mut self, server_nonce: Option<[u8; 32]>) -> Result<WireChallenge, Status> {
        let id = self.id;
        let server = self.own.server.clone();
        let side = self.parent_side().ok_or(Status::Forbidden)?;
        let challenge = side.book().issue(clock::now(), id, random_nonce()?)?;
        side.server_nonce = server_nonce.unwrap_or(challenge.nonce);
        Ok(WireChallenge {
            id: challenge.id,
            nonce: Octets(challenge.nonce),
            server,
            server_nonce: Octets(side.server_nonce),
        })
    }

    fn register_signable(&self, purpose: Purpose, challenge: &Challenge) -> Option<Signable> {
        let child = self.peer_name()?;
        let facts = self.connection.peer();
        let Role::Parent(side) = &self.role else { return None };
        Some(
            RegisterFacts {
                project: self.own.identity.project.as_str(),
                child: child.as_str(),
                child_kind: facts.identity.kind.as_str(),
                parent: self.own.name.as_str(),
                parent_kind: self.own.kind().as_str(),
                child_nonce: &side.child_nonce,
                parent_nonce: &challenge.nonce,
                challenge: challenge.id,
                child_leaf: &facts.leaf,
                parent_leaf: &self.shown.certificate.hash(),
                exporter: &facts.exporter,
            }
            .signable(purpose),
        )
    }

    pub(super) fn handle_register(
        &mut self,
        sequence: u64,
        payload: &[u8],
        ctx: &mut Context<Self>,
    ) {
        match self.check_register(payload) {
            Err(status) => self.refuse_registration(sequence, status),
            Ok((challenge, register)) => {
                let decided = self.cell.send(register);
                let (link, id, cell) = (ctx.address(), self.id, self.cell.clone());
                actix::spawn(async move {
                    let outcome = decided.await.unwrap_or(Err(Status::ShuttingDown));
                    let made = outcome.is_ok();
                    let told = post(&link, Decided { answers: sequence, challenge, outcome });
                    if told.is_err() && made {
                        // The link has ended, perhaps before its record was made.
                        // Fails only when the cell has ended too.
                        let _ = post(&cell, LinkDown(id));
                    }
                });
            }
        }
    }

    /// The proof on this link. The challenge is used up whatever comes of it.
    fn check_register(&mut self, payload: &[u8]) -> Result<(Challenge, RegisterPeer), Status> {
        let id = self.id;
        let name = self.peer_name().ok_or(Status::CertName)?;
        let side = self.parent_side().ok_or(Status::Forbidden)?;
        let challenge = side.book().take(clock::now(), &id)?;
        let server_nonce = side.server_nonce;
        let register: Register = body::decode_exact(payload).map_err(|error| error.status)?;
        let signable =
            self.register_signable(Purpose::Register, &challenge).ok_or(Status::CertName)?;
        let facts = self.connection.peer();
        let leaf = facts.chain.first().ok_or(Status::BadSignature)?;
        if !verify_leaf_signature(leaf, &signable, &register.signature.0) {
            return Err(Status::BadSignature);
        }
        let register = RegisterPeer {
            link: id,
            name,
            identity: facts.identity.clone(),
            leaf: facts.leaf,
            chain: facts.chain.clone(),
            incarnation: self.peer_incarnation.ok_or(Status::NoHello)?,
            server_nonce,
            end_to_end: register.end_to_end.0,
        };
        Ok((challenge, register))
    }

    /// Says no. What may change by itself is said as it is; of the rest a probe learns nothing.
    fn refuse_registration(&mut self, sequence: u64, status: Status) {
        let facts = self.connection.peer();
        let peer = &facts.identity;
        if status == Status::DuplicateName {
            self.own.counters.refuse(status);
            tracing::warn!(
                cell = %self.own.name, %peer, link = self.id.0, code = status.code(),
                "another process holds this name"
            );
            self.answer(sequence, Err(status));
        } else if will_pass(status) {
            tracing::info!(
                cell = %self.own.name, %peer, code = status.code(), "the server cannot be asked now"
            );
            self.answer(sequence, Err(Status::NoRoute));
        } else if status == Status::RateLimit {
            self.own.counters.refuse(status);
            tracing::info!(
                cell = %self.own.name, %peer, link = self.id.0, code = status.code(),
                "a cell that comes back too often waits"
            );
            self.answer(sequence, Err(status));
            self.close_when_said(CloseCode::Later, "too many returns");
        } else {
            self.own.counters.refuse(status);
            tracing::warn!(
                cell = %self.own.name, %peer, link = self.id.0, code = status.code(),
                what = "registration refused", "link closed"
            );
            self.answer(sequence, Err(Status::Unauthenticated));
            self.close_when_said(CloseCode::Unauthenticated, "");
        }
    }

    pub(super) fn echo(&mut self, number: u64, ctx: &mut Context<Self>) {
        let now = clock::now();
        let dates = self.connection.peer().dates;
        if dates.check(self.own.wall.unix()).is_err() {
            return self.close_for(Status::CertExpired, "the certificate has ended");
        }
        let epoch = self.own.epoch();
        let Some(side) = self.parent_side() else { return };
        let renewal = side.renewal.take();
        let due = side.renew_at.is_some_and(|at| at <= now);
        if due {
            side.renew_at = None;
        }
        let revocations = self.own.lists.mark();
        self.send(Frame::Echo(Echo { number, epoch, revocations, renewal }));
        if due {
            self.renew(ctx);
        }
    }

    fn renew(&mut self, ctx: &mut Context<Self>) {
        let (Some(name), Some(incarnation)) = (self.peer_name(), self.peer_incarnation) else {
            return;
        };
        let asked = self.cell.send(RenewPeer { name, incarnation });
        let link = ctx.address();
        actix::spawn(async move {
            match asked.await.unwrap_or(Err(Status::ShuttingDown)) {
                // Fails only when the link has ended.
                Ok(token) => drop(post(&link, Renewed(token))),
                Err(status) => drop(post(&link, NotRenewed(status))),
            }
        });
    }
}

/// Whether a registration that failed so may succeed later: the way to the server is the trouble.
fn will_pass(status: Status) -> bool {
    matches!(
        status,
        Status::NoRoute
            | Status::Draining
            | Status::ShuttingDown
            | Status::Overloaded
            | Status::Deadline
            | Status::PeerLost
            | Status::NoToken
            | Status::TokenRevoked
            | Status::TokenExpired
    )
}

impl Handler<ChallengeMade> for Link {
    type Result = ();

    fn handle(&mut self, made: ChallengeMade, ctx: &mut Self::Context) {
        let ChallengeMade { answers, outcome } = made;
        if self.state.phase() == Phase::Closed {
            return;
        }
        let challenge = match outcome {
            Ok(server_nonce) => self.challenge(server_nonce),
            Err(status) => Err(status),
        };
        match (challenge, answers) {
            (Err(Status::ChallengeLimit), _) => {
                self.close_for(Status::ChallengeLimit, "too many challenges are pending");
            }
            (Err(status), _) => {
                tracing::info!(
                    cell = %self.own.name, peer = %self.connection.peer().identity,
                    code = status.code(), "no challenge can be made now"
                );
                self.close(CloseCode::Later, "not ready");
            }
            (Ok(challenge), answers) => {
                // Lane streams wait while the child registers again.
                self.hold.send_replace(true);
                self.state.enter_challenged(clock::now());
                self.publish_peer(ctx);
                match answers {
                    Some(sequence) => {
                        self.answer(sequence, Ok(Blob(body::encode(&challenge).to_vec())));
                    }
                    None => self.send_hello_ok(challenge),
                }
                self.arm_timer(ctx);
            }
        }
    }
}

impl Link {
    fn send_hello_ok(&mut self, challenge: WireChallenge) {
        let timers = self.settings.timers;
        let ms = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let payload_max = u32::try_from(self.settings.limits.payload_max).unwrap_or(u32::MAX);
        let asks_time = matches!(&self.role, Role::Parent(side) if side.asks_time);
        self.send(Frame::HelloOk(HelloOk {
            version: VERSION,
            name: self.own.name.clone(),
            kind: self.own.kind(),
            incarnation: self.own.incarnation.into(),
            challenge,
            payload_max,
            beat_ms: ms(timers.beat),
            silence_ms: ms(timers.silence),
            unix_ms: asks_time.then(|| self.own.wall.unix_ms()),
        }));
    }
}

impl Handler<Decided> for Link {
    type Result = ();

    fn handle(&mut self, decided: Decided, ctx: &mut Self::Context) {
        let Decided { answers, challenge, outcome } = decided;
        if self.state.phase() != Phase::Challenged {
            return;
        }
        let RegisteredPeer { token, server_key, epoch } = match outcome {
            Ok(registered) => registered,
            Err(status) => return self.refuse_registration(answers, status),
        };
        let signed = self
            .register_signable(Purpose::RegisterAck, &challenge)
            .and_then(|signable| self.shown.signer.sign(&signable).ok());
        let Some(signature) = signed else {
            return self.refuse_registration(answers, Status::Overloaded);
        };
        let renew_after = self.settings.renew_after;
        if let Some(side) = self.parent_side() {
            side.renew_at = Some(clock::now() + renew_after);
        }
        self.activate(ctx);
        let registered = Registered { signature: Blob(signature), token, server_key, epoch };
        self.answer(answers, Ok(Blob(body::encode(&registered).to_vec())));
        self.arm_timer(ctx);
    }
}

impl Handler<Renewed> for Link {
    type Result = ();

    fn handle(&mut self, Renewed(token): Renewed, _: &mut Self::Context) {
        let renew_after = self.settings.renew_after;
        if let Some(side) = self.parent_side() {
            side.renewal = Some(token);
            side.renew_at = Some(clock::now() + renew_after);
        }
    }
}

impl Handler<NotRenewed> for Link {
    type Result = ();

    fn handle(&mut self, NotRenewed(status): NotRenewed, _: &mut Self::Context) {
        const TRY_AGAIN: Duration = Duration::from_secs(15);
        tracing::info!(
            cell = %self.own.name, peer = %self.connection.peer().identity, code = status.code(),
            "no new token for a child"
        );
        if !will_pass(status) {
            // It has to register before its token ends, and only a new connection makes it.
            return self.close(CloseCode::Later, "the registration has ended");
        }
        if let Some(side) = self.parent_side() {
            side.renew_at = Some(clock::now() + TRY_AGAIN);
        }
    }
}
