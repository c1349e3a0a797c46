//! What a cell does for messages that are protected from end to end: before they are handled, proofs are
//! verified and sealed payloads opened; before they leave, messages are signed and answers sealed.
//!
//! The work is done by one task, in order, off the actor. What it finds is decided on here: a proof counts
//! once ([`Replays`]), and what is refused is executed by nobody.

use std::{collections::BTreeMap, sync::Arc};

use actix::{AsyncContext, Context, Handler, Message};
use bytes::Bytes;
use cellbus_proto::{
    admission::{Admitted, Verified},
    codec::body::{self, Blob},
    envelope::{Address, Envelope, Flags, Header, Kind, cost},
    proof::{self, Proved, Replays},
    sealing::Sealed,
    status::Status,
    well_known,
};
use tokio::sync::mpsc;

use super::Cell;
use crate::{
    clock,
    own::Own,
    seal::{Leaf, Unsealed, message},
    throttle::LogThrottle,
};

mod ask;
mod work;

pub(crate) use self::ask::{KeyOf, SubmitProtected};
use self::work::{Found, Work, run};

/// What a cell remembers for the protection of its messages.
#[derive(Debug)]
pub(super) struct Protector {
    replays: Replays,
    /// Whom answers to sealed requests are sealed to, by start of the requester.
    requesters: BTreeMap<Arc<Address>, Arc<Leaf>>,
    work: Option<mpsc::UnboundedSender<Work>>,
    /// Messages that are being worked on, and their bytes.
    held: (usize, usize),
    throttle: LogThrottle,
}

/// What the work on a few messages has found, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Worked {
    found: Vec<Found>,
    /// Messages that were worked on, and their bytes.
    held: (usize, usize),
}

impl Protector {
    /// Messages that are worked on or wait for it.
    const MESSAGES_MAX: usize = 1024;
    /// Bytes of these.
    const BYTES_MAX: usize = 32 << 20;
    /// Requesters whose certificates are kept for answers.
    const REQUESTERS_MAX: usize = 4096;

    pub(super) fn new(own: &Own) -> Self {
        if let Some(der) = own.certificate().chain().first() {
            let (identity, dates) = (own.identity.clone(), own.certificate().dates());
            let leaf = Leaf::verified(der, identity, dates);
            let hash = leaf.hash();
            own.protection.keep(Arc::new(leaf), || [hash].into());
        }
        Self {
            replays: Replays::new(own.wall.unix_ms()),
            requesters: BTreeMap::new(),
            work: None,
            held: (0, 0),
            throttle: LogThrottle::default(),
        }
    }

    /// Messages that are being worked on.
    pub(super) fn len(&self) -> usize {
        self.held.0
    }

    fn has_room(&self, size: usize) -> bool {
        self.held.0 < Self::MESSAGES_MAX && self.held.1 + size <= Self::BYTES_MAX
    }

    fn keep_requester(&mut self, origin: &Arc<Address>, leaf: Arc<Leaf>) {
        if self.requesters.len() >= Self::REQUESTERS_MAX && !self.requesters.contains_key(origin) {
            self.requesters.pop_first();
        }
        self.requesters.insert(Arc::clone(origin), leaf);
    }
}

impl Cell {
    /// Has a protected message checked first; gives back what needs no check.
    pub(super) fn protect_in(
        &mut self,
        admitted: Admitted,
        ctx: &mut Context<Self>,
    ) -> Option<Admitted> {
        let header = admitted.header();
        let work = if header.flags.contains(Flags::SEALED) {
            Work::Open
        } else if proof::must_be_signed(header) {
            Work::Verify
        } else if self.was_unmarked(admitted.envelope()) {
            let why = "sealed to this cell, and the flag is gone";
            self.refuse_protected(admitted, Status::SealBroken, &why);
            return None;
        } else if self.must_be_sealed(header) {
            self.refuse_protected(admitted, Status::NotSealed, &"an answer that is not sealed");
            return None;
        } else {
            return Some(admitted);
        };
        if self.protector.has_room(cost(admitted.envelope())) {
            self.begin_work(work(Box::new(admitted)), ctx);
        } else {
            self.refuse_protected(admitted, Status::Overloaded, &"too many to be checked");
        }
        None
    }

    /// Whether the payload is one that was sealed to this cell: nobody may take it for what was sent.
    fn was_unmarked(&self, envelope: &Envelope) -> bool {
        Sealed::recipient_of(&envelope.payload) == Some(&self.own.certificate().hash())
    }

    /// Whether this is an answer that only the one who was asked can have given, to a request that was
    /// sealed. What a cell on the way says of its fate is not.
    fn must_be_sealed(&self, header: &Header) -> bool {
        let to = match header.kind {
            Kind::Reply { to } | Kind::Return { to, status: Status::HandlerFailed, .. } => to,
            Kind::Return { .. } | Kind::Publish | Kind::Request => return false,
        };
        self.own.protection.awaits_sealed(to)
    }

    /// Work is done in a task that ends with the actor.
    fn begin_work(&mut self, work: Work, ctx: &mut Context<Self>) {
        let (own, cell) = (Arc::clone(&self.own), ctx.address());
        let held = &mut self.protector.held;
        *held = (held.0 + 1, held.1 + work.size());
        let sender = self.protector.work.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            actix::spawn(run(own, cell, receiver));
            sender
        });
        // The task lives as long as this actor.
        let _ = sender.send(work);
    }

    /// Takes a message whose proof is there, once.
    fn take_proved(&mut self, admitted: Admitted, unix_ms: u64, ctx: &mut Context<Self>) {
        let header = admitted.header();
        let system = header.target.system();
        let proved = Proved {
            origin: &header.origin,
            sequence: header.sequence,
            unix_ms,
            // Where messages go to handlers, copies are recognised and answered alike.
            may_repeat: proof::may_be_repeated(header) && !system.is_some_and(is_registration),
            survives_restart: system.is_some_and(proof::survives_restart)
                || header.kind.is_answer(),
        };
        match self.protector.replays.take(self.own.wall.unix_ms(), &proved) {
            Ok(()) => self.take_clear(admitted, ctx),
            Err(replay) => self.refuse_protected(admitted, replay.status(), &replay),
        }
    }

    fn take_unsealed(
        &mut self,
        mut admitted: Admitted,
        unsealed: Unsealed,
        ctx: &mut Context<Self>,
    ) {
        let Unsealed { payload, leaf, unix_ms } = unsealed;
        if admitted.header().wants_answer() {
            let origin = Arc::clone(&admitted.header().origin);
            self.protector.keep_requester(&origin, leaf);
        }
        admitted.open(payload);
        self.take_proved(admitted, unix_ms, ctx);
    }

    /// Ends a message that is not what its origin sent, or comes again. An answer that is refused is none:
    /// the request goes on.
    fn refuse_protected(
        &mut self,
        admitted: Admitted,
        status: Status,
        why: &dyn std::fmt::Display,
    ) {
        let count = self.own.counters.refuse(status);
        let header = admitted.header();
        if let Some(suppressed) = self.protector.throttle.allow(status, clock::now()) {
            tracing::warn!(
                cell = %self.own.name, code = status.code(), origin = %header.origin.name,
                target = %header.target, kind = header.kind.as_str(), %why, count, suppressed,
                "message refused at its end"
            );
        }
        // Of what has been taken before, the first copy is the one that is answered.
        if header.wants_answer() && status != Status::Duplicate {
            self.answer_failed(header, status, Bytes::new());
        } else {
            let payload = &admitted.envelope().payload;
            self.own.dead_letters.bury_all(header, payload, status, admitted.arrived());
        }
    }

    /// Signs a message of this cell that must be.
    pub(super) fn sign(&self, envelope: &mut Envelope) {
        let header = &envelope.header;
        let needs = proof::must_be_signed(header) && !header.flags.contains(Flags::SEALED);
        if needs && let Err(status) = message::sign(&self.own, envelope) {
            tracing::error!(
                cell = %self.own.name, code = status.code(), target = %envelope.header.target,
                "the certificate's key does not sign; the message will be refused"
            );
        }
    }

    /// Sends an answer: sealed, where its request was.
    pub(super) fn emit_answer(&self, request: &Header, mut answer: Envelope) {
        let is_word_of_handler = match answer.header.kind {
            Kind::Return { status, .. } => status == Status::HandlerFailed,
            Kind::Reply { .. } | Kind::Publish | Kind::Request => true,
        };
        if !request.flags.contains(Flags::SEALED) || !is_word_of_handler {
            return self.emit(answer);
        }
        answer.header.flags = answer.header.flags.with(Flags::SEALED);
        let leaf = self.protector.requesters.get(&request.origin).cloned();
        match (leaf, &self.protector.work) {
            (Some(leaf), Some(work)) => {
                let seal = Work::Seal { answer: Box::new(answer), leaf };
                // The task lives as long as this actor.
                let _ = work.send(seal);
            }
            _ => self.answer_failed(request, Status::HandlerGone, Bytes::new()),
        }
    }

    /// Tells whoever wants to seal messages to this cell which certificate is its own.
    pub(super) fn answer_certificate(&self, request: &Header) {
        let Some(token) = self.own.token() else {
            return self.answer_failed(request, Status::NoToken, Bytes::new());
        };
        let chain = self.own.certificate().chain().iter().map(|der| Blob(der.to_vec())).collect();
        let certificate = body::Certificate { chain, token: Blob(token.as_bytes().to_vec()) };
        self.answer(request, body::encode(&certificate), None);
    }
}

fn is_registration(topic: well_known::SystemTopic) -> bool {
    proof::SIGNED.contains(&topic) && proof::survives_restart(topic)
}

/// Who verified the sender of a message, which for these is always by a token.
fn claims(admitted: &Admitted) -> Result<&cellbus_proto::token::Claims, Status> {
    match admitted.verified() {
        Verified::Claims(claims) => Ok(claims),
        Verified::Neighbour(_) => Err(Status::NoToken),
    }
}

impl Handler<Worked> for Cell {
    type Result = ();

    fn handle(&mut self, Worked { found, held }: Worked, ctx: &mut Self::Context) {
        let now = &mut self.protector.held;
        *now = (now.0.saturating_sub(held.0), now.1.saturating_sub(held.1));
        let weight = u32::try_from(found.len()).unwrap_or(u32::MAX);
        self.gathering(|cell| {
            for found in found {
                match found {
                    Found::Opened(admitted, Ok(unsealed)) => {
                        cell.take_unsealed(*admitted, unsealed, ctx);
                    }
                    Found::Verified(admitted, Ok(unix_ms)) => {
                        cell.take_proved(*admitted, unix_ms, ctx);
                    }
                    Found::Opened(admitted, Err(status))
                    | Found::Verified(admitted, Err(status)) => {
                        cell.refuse_protected(*admitted, status, &status.meaning());
                    }
                    Found::Sealed(answer) => cell.emit(*answer),
                }
            }
        });
        self.pacer.pace(weight, ctx);
    }
}
