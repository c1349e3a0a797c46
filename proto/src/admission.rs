//! The auth decision: what may pass this cell, and why. The heart of the project.
//!
//! ```text
//!  envelope ─▶ exempt topic? ─▶ direct, own name, request, right state, small ─▶ Admitted(Exempt)
//!      │ no
//!      ▼
//!  link active ─▶ origin on the reverse path ─▶ token good and bound ─▶ policy ─▶ Admitted
//! ```
//! [`Gate::admit`] is the only way to an [`Admitted`]; handlers and outboxes take nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use crate::{
    directory::Directory,
    envelope::{Envelope, FanTarget, Flags, Header, Kind, Lane},
    identity::CellKind,
    link::Phase,
    name::{Fqcn, Segment},
    policy::{Policy, Ruling},
    route::{Hop, LinkId, Neighbour, Routes},
    status::Status,
    token::{Claims, TokenVerifier},
    trust::View,
    well_known::{self, SystemTopic},
};

mod former;
mod rules;
mod verdicts;

pub use self::rules::{Account, account, judge_names};
use self::{
    former::Former,
    rules::{Case, Party},
    verdicts::Verdicts,
};

/// What the receiver knows about the other end of a link, from the connection and its registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The link.
    pub link: LinkId,
    /// Full name, from the certificate and the place in the tree.
    pub name: Fqcn,
    /// Kind, from the certificate.
    pub kind: CellKind,
    /// Organisation, from the certificate.
    pub org: Segment,
    /// SHA-256 of the leaf certificate.
    pub leaf: [u8; 32],
    /// Whether it is this cell's parent; otherwise a child.
    pub is_parent: bool,
    /// State of the link.
    pub phase: Phase,
}

/// Where an envelope came from.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'a> {
    /// This cell made it.
    Local,
    /// It came over a link.
    Link(&'a Peer),
}

/// Why a message was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// One of the three exempt topics, from a direct neighbour.
    Exempt(SystemTopic),
    /// A topic of the system, by its fixed rule.
    System(SystemTopic),
    /// A rule of the policy.
    Rule {
        /// Revision of the policy.
        revision: u64,
        /// Position of the rule.
        rule: usize,
    },
    /// Both ends belong to one job, or are a job cell and its parent.
    Job,
}

/// Who sent an admitted message, as this cell verified it.
#[derive(Clone, Debug)]
pub enum Verified {
    /// A registered cell: what its token says.
    Claims(Arc<Claims>),
    /// The neighbour at the other end of the link, not registered yet or leaving.
    Neighbour(Box<Peer>),
}

/// A message that was let in. Nothing but [`Gate::admit`] makes one.
#[derive(Clone, Debug)]
pub struct Admitted {
    envelope: Envelope,
    verdict: Arc<Verdict>,
    at: Instant,
}

/// What was decided on a message, and on others that are the same in all that was decided on.
#[derive(Debug)]
struct Verdict {
    verified: Verified,
    permit: Permit,
    arrived: Hop,
    next: Result<Hop, Status>,
}

/// A message that was not let in, handed back so that its sender can be told.
#[derive(Debug, thiserror::Error)]
#[error("message refused: {status}")]
pub struct Refused {
    /// The message.
    pub envelope: Box<Envelope>,
    /// Why.
    pub status: Status,
    /// What the refusal calls for.
    pub consequence: Consequence,
    /// What in the rules decided, where rules did.
    pub ruling: Option<Ruling>,
}

/// What a refusal calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// The origin is genuine: a request is answered.
    Answer,
    /// The origin may be a lie: an answer would go to the victim.
    Silence,
    /// The neighbour broke the protocol: its connection ends.
    Close,
}

/// Largest bodies of the exempt topics, in bytes.
fn exempt_body_max(topic: SystemTopic) -> usize {
    match topic {
        well_known::CHALLENGE => 8 << 10,
        well_known::REGISTER => 64 << 10,
        _ => 0,
    }
}

/// What a cell decides with.
#[derive(Debug)]
pub struct Gate {
    routes: Option<Arc<Routes>>,
    policy: Arc<Policy>,
    former: Former,
    directory: Arc<Directory>,
    tokens: TokenVerifier,
    verdicts: Verdicts,
    hops_max: u8,
    /// Certificates that neighbours have gone by on their links before the present one.
    former_leaves: BTreeMap<LinkId, [u8; 32]>,
}

/// Why a message is not let in, and what that calls for.
struct Denial {
    status: Status,
    consequence: Consequence,
    ruling: Option<Ruling>,
}

impl From<(Status, Consequence)> for Denial {
    fn from((status, consequence): (Status, Consequence)) -> Self {
        Self { status, consequence, ruling: None }
    }
}

impl Gate {
    /// Forwarding steps that a message may take.
    pub const HOPS_MAX: u8 = 16;

    /// A gate that refuses everything until [`Self::set_routes`] tells it which cell it stands in
    /// front of.
    #[must_use]
    pub fn new(policy: Arc<Policy>, directory: Arc<Directory>, tokens: TokenVerifier) -> Self {
        let (verdicts, former) = (Verdicts::default(), Former::default());
        Self {
            routes: None,
            policy,
            former,
            directory,
            tokens,
            verdicts,
            hops_max: Self::HOPS_MAX,
            former_leaves: BTreeMap::new(),
        }
    }

    /// Takes a new snapshot of the cell's links.
    pub fn set_routes(&mut self, routes: Arc<Routes>) {
        self.verdicts.forget();
        self.routes = Some(routes);
    }

    /// Takes a new policy; the next message is decided by it. Only answers, which somebody waits for who
    /// was let in before, are let in by the former one too, for an hour.
    pub fn set_policy(&mut self, policy: Arc<Policy>, now_unix: u64) {
        self.verdicts.forget();
        let former = std::mem::replace(&mut self.policy, policy);
        self.former.keep(former, now_unix);
    }

    /// The policy that decides now.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Forwarding steps allowed, at most [`Self::HOPS_MAX`].
    pub fn set_hops_max(&mut self, hops: u8) {
        self.hops_max = hops.min(Self::HOPS_MAX);
    }

    /// Takes the signed lists that are in force; what they refuse is let in no more.
    pub fn set_lists(&mut self, lists: View) {
        self.verdicts.forget();
        if let Some(directory) = lists.directory() {
            self.directory = Arc::clone(directory);
        }
        self.tokens.set_lists(lists);
    }

    /// Cells whose tokens were good here and are refused by a list.
    #[must_use]
    pub fn listed(&self, now_unix: u64) -> BTreeSet<Fqcn> {
        self.tokens.listed(now_unix)
    }

    /// What is known of the cells of the project.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Tokens that were issued for `former` are good on this link too: its neighbour goes on with another
    /// certificate, and what it sent before is on its way.
    pub fn keep_former_leaf(&mut self, link: LinkId, former: [u8; 32]) {
        self.verdicts.forget();
        self.former_leaves.insert(link, former);
    }

    /// The link is gone.
    pub fn forget_link(&mut self, link: LinkId) {
        self.former_leaves.remove(&link);
    }

    /// The tokens that this gate accepts, to change what it accepts.
    pub fn tokens(&mut self) -> &mut TokenVerifier {
        self.verdicts.forget();
        &mut self.tokens
    }

    /// Lets a message in, or hands it back.
    ///
    /// # Errors
    /// [`Refused`], with the code and with what is to be done about it.
    pub fn admit(
        &mut self,
        now: Instant,
        now_unix: u64,
        mut envelope: Envelope,
        arrival: Arrival<'_>,
    ) -> Result<Admitted, Refused> {
        let judged = match self.verdicts.recall(now_unix, &envelope, arrival) {
            Some(verdict) => Ok(verdict),
            None => self.weigh(now_unix, &envelope, arrival).map(|(verified, permit)| {
                let arrived = arrival.hop();
                let next = self.next_hop(&envelope.header, arrived);
                let verdict = Arc::new(Verdict { verified, permit, arrived, next });
                if !self.is_former(permit) {
                    self.verdicts.remember(&envelope, arrival, &verdict);
                }
                verdict
            }),
        };
        match judged {
            Ok(verdict) => {
                let header = &mut envelope.header;
                if arrival.is_first_hop(header) || header.hops_left > self.hops_max {
                    header.hops_left = self.hops_max;
                }
                // The system's own lane is not for others to choose.
                if header.lane == Lane::Control && well_known::lookup(&header.target).is_none() {
                    header.lane = Lane::Interactive;
                }
                Ok(Admitted { envelope, verdict, at: now })
            }
            Err(Denial { status, consequence, ruling }) => {
                Err(Refused { envelope: Box::new(envelope), status, consequence, ruling })
            }
        }
    }

    fn next_hop(&self, header: &Header, arrived: Hop) -> Result<Hop, Status> {
        let routes = self.routes.as_ref().ok_or(Status::NoRoute)?;
        routes.next_hop(&header.destination.name, arrived)
    }

    /// What [`Self::admit`] would say, without taking the message.
    ///
    /// # Errors
    /// The code and what is to be done about it.
    pub fn judge(
        &mut self,
        now_unix: u64,
        envelope: &Envelope,
        arrival: Arrival<'_>,
    ) -> Result<(Verified, Permit), (Status, Consequence)> {
        self.weigh(now_unix, envelope, arrival)
            .map_err(|denial| (denial.status, denial.consequence))
    }

    fn weigh(
        &mut self,
        now_unix: u64,
        envelope: &Envelope,
        arrival: Arrival<'_>,
    ) -> Result<(Verified, Permit), Denial> {
        let header = &envelope.header;
        let routes = self.routes.clone().ok_or((Status::Unauthenticated, Consequence::Close))?;
        let exempt = header.target.system().filter(|topic| well_known::EXEMPT.contains(topic));
        // What a return says about an exempt request is for whoever made that request, by the rules
        // for every return.
        if let Some(topic) = exempt.filter(|_| !matches!(header.kind, Kind::Return { .. })) {
            return judge_exempt(topic, envelope, arrival, &routes).map_err(Denial::from);
        }
        if let Arrival::Link(peer) = arrival
            && !peer.phase.carries_messages()
        {
            return Err((Status::NoToken, Consequence::Close).into());
        }
        if !routes.is_reverse_path(&header.origin.name, arrival.neighbour()) {
            return Err((Status::OriginMismatch, Consequence::Silence).into());
        }
        let claims = self.verify_token(now_unix, header, arrival)?;
        let permit = self.permit(now_unix, envelope, &claims).map_err(|(status, ruling)| {
            Denial { status, consequence: Consequence::Answer, ruling: Some(ruling) }
        })?;
        Ok((Verified::Claims(claims), permit))
    }

    /// Whether rules decided that no longer hold for requests.
    fn is_former(&self, permit: Permit) -> bool {
        matches!(permit, Permit::Rule { revision, .. } if revision != self.policy.revision)
    }

    /// Why a message was let in, for people: the rule, where one decided.
    #[must_use]
    pub fn reason(&self, permit: Permit) -> String {
        match permit {
            Permit::Exempt(_) => "a direct neighbour".to_owned(),
            Permit::System(_) => "a topic of the system".to_owned(),
            Permit::Job => "one cell, or one job".to_owned(),
            Permit::Rule { revision, rule } => match self.policy.rules().get(rule) {
                Some(text) if revision == self.policy.revision => {
                    format!("rule {} of revision {revision}: {text}", rule + 1)
                }
                Some(_) | None => format!("an answer, by revision {revision}"),
            },
        }
    }

    fn verify_token(
        &mut self,
        now_unix: u64,
        header: &Header,
        arrival: Arrival<'_>,
    ) -> Result<Arc<Claims>, (Status, Consequence)> {
        let answer = |status| (status, Consequence::Answer);
        let token = header.token.as_ref().ok_or(answer(Status::NoToken))?;
        let claims =
            self.tokens.verify(token, now_unix).map_err(|error| answer(Status::from(error)))?;
        let origin = &header.origin.name;
        let bound = match arrival {
            Arrival::Local => true,
            Arrival::Link(peer) if peer.name == *origin => {
                claims.leaf.0 == peer.leaf
                    || self.former_leaves.get(&peer.link) == Some(&claims.leaf.0)
            }
            // Behind a child: registered through a cell that lies at or below it. From the parent:
            // the parent's own gate has checked what this one cannot see.
            Arrival::Link(peer) => peer.is_parent || peer.name.covers(&claims.via),
        };
        if claims.subject != *origin || !bound {
            return Err(answer(Status::TokenWrongConn));
        }
        Ok(claims)
    }

    /// The permit for a message of a genuine origin. An answer is judged as its request would be, or was.
    fn permit(
        &self,
        now_unix: u64,
        envelope: &Envelope,
        claims: &Claims,
    ) -> Result<Permit, (Status, Ruling)> {
        let header = &envelope.header;
        // A return comes from whichever cell on the path gave up, so its origin says nothing about
        // the request. It concerns one outstanding request or nobody.
        if matches!(header.kind, Kind::Return { .. })
            && well_known::lookup(&header.target).is_none()
        {
            return Ok(Permit::Rule { revision: self.policy.revision, rule: usize::MAX });
        }
        let (kind, org) = (Some(claims.kind), Some(&claims.org));
        let origin = Party { name: &header.origin.name, kind, org };
        let destination = Party::known(&header.destination.name, &self.directory);
        let is_answer = header.kind.is_answer();
        let (asks, answers) = if is_answer { (destination, origin) } else { (origin, destination) };
        let is_covered = is_covered(envelope);
        let case = Case { asks, answers, target: &header.target, is_answer, is_covered };
        let root = self.directory.root();
        case.decide(&self.policy, root).or_else(|denied| {
            let mut former = self.former.living(now_unix).filter(|_| is_answer);
            former.find_map(|policy| case.decide(policy, root).ok()).ok_or(denied)
        })
    }
}

/// Whether no cell on the way can read what an application wrote: it is sealed, or there is nothing to
/// read. A receipt is an empty reply; what only asks for the way is not delivered.
fn is_covered(envelope: &Envelope) -> bool {
    let header = &envelope.header;
    let is_receipt = matches!(header.kind, Kind::Reply { .. }) && envelope.payload.is_empty();
    let is_question = is_probe_only(header.flags) && envelope.payload.is_empty();
    header.flags.contains(Flags::SEALED) || is_receipt || is_question
}

fn is_probe_only(flags: Flags) -> bool {
    flags.contains(Flags::PROBE) && !flags.contains(Flags::RECEIPT)
}

/// Challenge, register and bye: without a token, but only from the neighbour itself to this cell.
fn judge_exempt(
    topic: SystemTopic,
    envelope: &Envelope,
    arrival: Arrival<'_>,
    routes: &Routes,
) -> Result<(Verified, Permit), (Status, Consequence)> {
    let header = &envelope.header;
    let Arrival::Link(peer) = arrival else {
        return Err((Status::NotDirect, Consequence::Answer));
    };
    if header.origin.name != peer.name {
        return Err((Status::OriginMismatch, Consequence::Silence));
    }
    if header.destination.name != *routes.me() {
        return Err((Status::NotDirect, Consequence::Answer));
    }
    if header.kind != Kind::Request {
        return Err((Status::ReplyUnsolicited, Consequence::Silence));
    }
    if envelope.payload.len() > exempt_body_max(topic) {
        return Err((Status::TooLarge, Consequence::Close));
    }
    let in_turn = match topic {
        well_known::CHALLENGE => peer.phase.takes_challenge() && !peer.is_parent,
        well_known::REGISTER => peer.phase == Phase::Challenged && !peer.is_parent,
        _ => peer.phase.takes_bye(),
    };
    if !in_turn {
        return Err((Status::NoHello, Consequence::Close));
    }
    Ok((Verified::Neighbour(Box::new(peer.clone())), Permit::Exempt(topic)))
}

impl Arrival<'_> {
    /// The hop that this is.
    #[must_use]
    pub fn hop(&self) -> Hop {
        match self {
            Self::Local => Hop::Local,
            Self::Link(peer) => Hop::Link(peer.link),
        }
    }

    fn neighbour(&self) -> Neighbour<'_> {
        match self {
            Self::Local => Neighbour::This,
            Self::Link(peer) if peer.is_parent => Neighbour::Parent,
            Self::Link(peer) => Neighbour::Child(&peer.name),
        }
    }

    fn is_first_hop(&self, header: &Header) -> bool {
        match self {
            Self::Local => true,
            Self::Link(peer) => peer.name == header.origin.name,
        }
    }
}

impl Admitted {
    /// What every hop may read.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.envelope.header
    }

    /// Who sent it.
    #[must_use]
    pub fn verified(&self) -> &Verified {
        &self.verdict.verified
    }

    /// Why it was let in.
    #[must_use]
    pub fn permit(&self) -> Permit {
        self.verdict.permit
    }

    /// Where it goes next, by the links that there were when it was let in.
    ///
    /// # Errors
    /// The status that it is to be returned with.
    pub fn next(&self) -> Result<Hop, Status> {
        self.verdict.next
    }

    /// Where it came from.
    #[must_use]
    pub fn arrived(&self) -> Hop {
        self.verdict.arrived
    }

    /// When it came.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// The message, for forwarding: read, not taken.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The message, at its end.
    #[must_use]
    pub fn into_envelope(self) -> Envelope {
        self.envelope
    }

    /// Puts what a sealed payload contained in its place.
    pub fn open(&mut self, payload: bytes::Bytes) {
        self.envelope.payload = payload;
    }

    pub(crate) fn set_fan(&mut self, fan: Vec<FanTarget>) {
        self.envelope.header.extras.get_or_insert_default().fan = fan;
    }

    /// The same verdict about each of the messages that `split` takes this one apart into.
    pub(crate) fn apart(self, split: impl FnOnce(Envelope) -> Vec<Envelope>) -> Vec<Self> {
        let Self { envelope, verdict, at } = self;
        let part = |envelope| Self { envelope, verdict: Arc::clone(&verdict), at };
        split(envelope).into_iter().map(part).collect()
    }

    /// Notes that this cell let the message in by `rule`, where the message asks for that.
    pub fn note(&mut self, cell: &Fqcn, rule: impl FnOnce() -> String) {
        self.envelope.header.note(cell, rule);
    }

    /// Whether the message only asks how it would come here, and is not to be delivered.
    #[must_use]
    pub fn is_probe_only(&self) -> bool {
        is_probe_only(self.envelope.header.flags)
    }

    /// Completes this cell's note at `now`: how long the message was here, and how far it is to the
    /// next cell, in microseconds.
    pub fn stamp_departure(&mut self, now: Instant, wire_us: impl FnOnce() -> u32) {
        if !self.envelope.header.flags.contains(Flags::PROBE) {
            return;
        }
        let spent = now.saturating_duration_since(self.at).as_micros();
        let path = self.envelope.header.extras.as_mut().and_then(|extras| extras.path.last_mut());
        if let Some(last) = path {
            last.queue_us = u32::try_from(spent).unwrap_or(u32::MAX);
            last.wire_us = wire_us();
        }
    }

    /// Spends one hop.
    ///
    /// # Errors
    /// [`Status::TtlExceeded`] when none is left.
    pub fn spend_hop(&mut self) -> Result<(), Status> {
        let left = &mut self.envelope.header.hops_left;
        *left = left.checked_sub(1).ok_or(Status::TtlExceeded)?;
        Ok(())
    }

    /// Budget left at `now`, in milliseconds; `None` when it is spent.
    #[must_use]
    pub fn budget_left(&self, now: Instant) -> Option<u32> {
        let spent = now.saturating_duration_since(self.at).as_millis();
        let spent = u32::try_from(spent).unwrap_or(u32::MAX);
        self.envelope.header.budget_ms.checked_sub(spent).filter(|left| *left > 0)
    }
}

#[cfg(test)]
mod tests;
