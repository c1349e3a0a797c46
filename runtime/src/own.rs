//! What a running cell knows about itself, shared by its actors.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use cellbus_channels::{Payload, filter::Filters, transfer::Shelf};
use cellbus_proto::{
    bundle::{self, Joiner},
    envelope::{Address, Common, Envelope, Flags, Header, Incarnation, Kind, Lane},
    identity::{CellKind, Identity},
    name::{ChannelTopic, Fqcn},
    renewal::RenewedBy,
    token::Token,
};

use self::commons::Commons;
use crate::{
    authority::{IssuingAuthority, OwnCertificate},
    cell::Ask,
    cell::Notices,
    certificate::LeafHash,
    clock::WallClock,
    conduits::Conduits,
    counters::Counters,
    dead_letters::DeadLetterOffice,
    ingress::Ingress,
    lists::Lists,
    seal::Protection,
    seam::Inbox,
    stats::Stats,
    tap::Taps,
    tls::{LeafSigner, Roots},
};

mod commons;

/// A running cell's own side of every decision.
#[derive(Debug)]
pub struct Own {
    /// Full name.
    pub name: Fqcn,
    /// Full name of the server.
    pub server: Fqcn,
    /// Full name of the parent; the server has none.
    pub parent: Option<Fqcn>,
    /// What its certificate says.
    pub identity: Identity,
    /// This start of its process.
    pub incarnation: Incarnation,
    /// Name and incarnation, as messages carry them.
    pub address: Arc<Address>,
    /// The authorities of the project.
    pub roots: Arc<Roots>,
    /// The signed lists that it holds.
    pub lists: Lists,
    /// Seconds since 1970.
    pub wall: WallClock,
    /// What it has counted.
    pub counters: Arc<Counters>,
    /// What it has measured.
    pub stats: Arc<Stats>,
    /// Who looks at what passes its filter.
    pub taps: Taps,
    /// What its messages pass at the ends of their way.
    pub filters: Filters,
    /// Who wants to know of its links and neighbours is told here.
    pub notices: Notices,
    /// What it knows for the protection of messages from end to end.
    pub protection: Protection,
    /// What ended here without anybody being told.
    pub dead_letters: DeadLetterOffice,
    /// Its requests whose streams stay open, and those that pass.
    pub conduits: Conduits,
    /// What its applications serve and receive.
    pub shelf: Shelf,
    /// What its senders publish, on the way to its filter.
    pub ingress: Ingress,
    /// What its senders ask, on the way to the cell.
    pub(crate) asks: Inbox<Ask>,
    sequence: AtomicU64,
    epoch: AtomicU64,
    generation: AtomicU64,
    /// Bytes in the largest payload of a message; none while nobody has said.
    payload_max: AtomicUsize,
    token: Mutex<Option<Token>>,
    shown: RwLock<Shown>,
    /// The certificate that the cell is about to go on with.
    next: Mutex<Option<LeafHash>>,
    /// Certificates that it has shown, or was about to show: tokens for them may still be on their way.
    past: Mutex<Vec<LeafHash>>,
    /// What certifies cells again; only a server has one.
    issuer: RwLock<Option<Arc<IssuingAuthority>>>,
    /// Where its next certificate comes from, as far as is known.
    renewed_by: Mutex<Option<RenewedBy>>,
    commons: Commons,
}

/// A certificate, and what signs with its key.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The certificate.
    pub certificate: OwnCertificate,
    /// Signs with its key.
    pub signer: LeafSigner,
}

impl Shown {
    pub(crate) fn new(certificate: OwnCertificate) -> Self {
        Self { signer: LeafSigner::new(&certificate), certificate }
    }
}

impl Own {
    /// Puts the parts together; the name must fit the certificate, which the caller has checked.
    #[must_use]
    pub fn new(
        name: Fqcn,
        server: Fqcn,
        parent: Option<Fqcn>,
        incarnation: Incarnation,
        certificate: OwnCertificate,
        roots: Arc<Roots>,
        wall: WallClock,
    ) -> Self {
        let lists =
            Lists::new(&name, &server, parent.as_ref(), certificate.identity(), &roots, wall);
        Self {
            lists,
            address: Address::exact(name.clone(), incarnation),
            identity: certificate.identity().clone(),
            counters: Arc::new(Counters::default()),
            stats: Arc::default(),
            taps: Taps::default(),
            filters: Filters::default(),
            notices: Notices::default(),
            protection: Protection::default(),
            dead_letters: DeadLetterOffice::new(wall),
            conduits: Conduits::default(),
            shelf: Shelf::default(),
            ingress: Ingress::default(),
            asks: Inbox::default(),
            generation: AtomicU64::new(0),
            payload_max: AtomicUsize::new(0),
            commons: Commons::default(),
            sequence: AtomicU64::new(1),
            epoch: AtomicU64::new(u64::from(parent.is_none())),
            token: Mutex::new(None),
            shown: RwLock::new(Shown::new(certificate)),
            next: Mutex::default(),
            past: Mutex::default(),
            issuer: RwLock::default(),
            renewed_by: Mutex::default(),
            name,
            server,
            parent,
            incarnation,
            roots,
            wall,
        }
    }

    /// What it shows now, and signs with.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> OwnCertificate {
        self.shown().certificate
    }

    /// Signs with the key of its certificate.
    #[must_use]
    pub fn signer(&self) -> LeafSigner {
        self.shown().signer
    }

    /// Goes on with another certificate.
    pub(crate) fn show(&self, next: Shown) {
        self.remember(self.certificate().hash());
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// The cell is about to go on with this certificate, or not any more.
    pub(crate) fn set_next(&self, next: Option<LeafHash>) {
        next.into_iter().for_each(|next| self.remember(next));
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// The certificate that it is about to go on with.
    pub(crate) fn next(&self) -> Option<LeafHash> {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, leaf: LeafHash) {
        const REMEMBERED: usize = 8;
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.retain(|known| *known != leaf);
        if past.len() >= REMEMBERED {
            past.remove(0);
        }
        past.push(leaf);
    }

    /// Whether a token for this certificate was one for this cell a moment ago, or nearly became one.
    pub(crate) fn was_shown_or_next(&self, leaf: &LeafHash) -> bool {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).contains(leaf)
    }

    /// Whether a token for this certificate is one for this cell, now or in a moment.
    pub(crate) fn is_shown_or_next(&self, leaf: &LeafHash) -> bool {
        self.certificate().hash() == *leaf || self.next() == Some(*leaf)
    }

    /// What certifies cells again, if this one does.
    #[must_use]
    pub fn issuer(&self) -> Option<Arc<IssuingAuthority>> {
        self.issuer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Certifies cells again from now on, by this authority. Only the server is asked.
    pub fn set_issuer(&self, issuer: IssuingAuthority) {
        *self.issuer.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(issuer));
    }

    /// Where its next certificate comes from; none while nobody has said.
    #[must_use]
    pub fn renewed_by(&self) -> Option<RenewedBy> {
        *self.renewed_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its next certificate comes from there. It asks the server all the same: this is what people are told.
    pub fn set_renewed_by(&self, by: RenewedBy) {
        *self.renewed_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(by);
    }

    /// The kind of this cell.
    #[must_use]
    pub fn kind(&self) -> CellKind {
        self.identity.kind
    }

    /// Whether this cell is the server.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// The sequence number of the next message of this incarnation. Never given twice.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// How often this cell has registered; the server counts as registered from the start, and zero
    /// means that nobody can be let in yet.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// This cell has registered (again): whoever registered through it has to follow.
    pub fn advance_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the changes of what its filter decides with.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Something that the filter decides with has changed.
    pub fn advance_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The address of `name`, whichever start of its process answers: the same allocation as long as the
    /// caller's name is.
    #[must_use]
    pub fn address_of(&self, name: &Fqcn) -> Arc<Address> {
        self.commons.address_of(name)
    }

    /// What messages of this cell to `to` have in common, whichever start of its process answers.
    #[must_use]
    pub fn common(
        &self,
        to: &Fqcn,
        target: &ChannelTopic,
        lane: Lane,
        flags: Flags,
    ) -> Arc<Common> {
        self.commons.of(to, target, lane, flags, |destination| Common {
            origin: Arc::clone(&self.address),
            destination,
            target: target.clone(),
            token: self.token(),
            lane,
            flags,
        })
    }

    /// The header of this cell's answer to `request`; `None` when nobody waits for one.
    #[must_use]
    pub fn answer(&self, request: &Header, kind: Kind) -> Option<Header> {
        request.answer(kind, self.next_sequence(), || {
            let answer = || request.common.answer(&self.address, self.token());
            self.commons.of_answer(&request.common, answer)
        })
    }

    /// The messages of this cell, with those that go together put into bundles.
    #[must_use]
    pub fn bundle(&self, messages: Vec<Envelope>) -> Vec<Envelope> {
        if messages.len() < 2 {
            return messages;
        }
        let payload_max = self.payload_max.load(Ordering::Relaxed);
        bundle::join(messages, payload_max, |common, flags| self.commons.of_bundle(common, flags))
    }

    /// Puts a message of this cell to those before it, in a bundle where they go together.
    pub(crate) fn join(&self, joiner: &mut Joiner, message: Envelope) {
        let payload_max = self.payload_max.load(Ordering::Relaxed);
        joiner.push(message, payload_max, |common, flags| self.commons.of_bundle(common, flags));
    }

    /// The same of a publish that has nothing beside its payload.
    pub(crate) fn join_plain(
        &self,
        joiner: &mut Joiner,
        common: &Arc<Common>,
        budget_ms: u32,
        payload: Payload<'_>,
    ) {
        let payload_max = self.payload_max.load(Ordering::Relaxed);
        if joiner.put(common, budget_ms, &payload, payload_max) {
            return;
        }
        let (common, sequence) = (Arc::clone(common), self.next_sequence());
        let (kind, hops_left, extras) = (Kind::Publish, 0, None);
        let header = Header { kind, sequence, common, budget_ms, hops_left, extras };
        self.join(joiner, Envelope { header, payload: payload.into_bytes() });
    }

    /// What has been joined.
    pub(crate) fn joined(&self, joiner: &mut Joiner) -> Vec<Envelope> {
        joiner.finish(|common, flags| self.commons.of_bundle(common, flags))
    }

    /// Says how large the payload of a message may be.
    pub(crate) fn set_payload_max(&self, bytes: usize) {
        self.payload_max.store(bytes, Ordering::Relaxed);
    }

    /// The session token in force.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a new session token.
    pub fn set_token(&self, token: Option<Token>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
        self.commons.forget();
        // Leases hold what carries the token.
        self.advance_generation();
    }
}
