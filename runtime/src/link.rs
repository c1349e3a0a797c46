//! One link: the connection to a direct neighbour, its registration, its heartbeat and its end.
//!
//! The actor decides (with `proto::link`) and signs; reading and writing are tasks of their own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, SpawnHandle};
use cellbus_proto::{
    admission::{Admitted, Peer},
    codec::{
        CodecError, Frame, FrameLimits,
        body::{Answer, Beat, Blob, Drain, Echo},
    },
    envelope::{Address, Common, Envelope, Flags, Header, Incarnation, Kind, Lane},
    identity::CellKind,
    link::{CloseReason, Due, Input, Link as LinkState, Phase, Side, Timers},
    name::Fqcn,
    route::LinkId,
    status::Status,
    well_known::{self, SystemTopic},
};
use tokio::sync::{oneshot, watch};

use crate::{
    cell::{Cell, LinkDown, LinkLeft, LinkUp, Roster},
    clock,
    conn::{CarrierStats, CloseCode, Connection, End},
    filter::{AuthFilter, RemovePeer, SetPeer},
    outbox::Outbox,
    own::{Own, Shown},
    seam::post,
    tls::root_of,
};

mod child;
mod conduits;
mod lanes;
mod parent;
mod reader;
mod renewal;
mod writer;
mod written;

use self::{child::ChildSide, parent::ParentSide, written::Written};

/// The actor of one link.
#[derive(Debug)]
pub struct Link {
    id: LinkId,
    own: Arc<Own>,
    connection: Connection,
    state: LinkState,
    cell: Addr<Cell>,
    filter: Addr<AuthFilter>,
    outbox: Arc<Outbox>,
    conduits: Arc<LinkConduits>,
    health: Arc<Health>,
    settings: LinkSettings,
    role: Role,
    /// The certificate that the neighbour knows this end by.
    shown: Shown,
    /// Set until the link is registered, and while it registers again: messages wait.
    hold: watch::Sender<bool>,
    peer_incarnation: Option<Incarnation>,
    /// Ends when everything that was queued on the lanes of applications has arrived.
    lanes_written: Written,
    /// Ends when everything that was queued for the control stream has arrived.
    control_written: Written,
    timer: Option<SpawnHandle>,
    /// Sequence number of the bye that this end has said.
    bye: Option<u64>,
    /// Whether messages have flowed.
    was_active: bool,
    /// What this end has closed the connection with.
    closed_with: Option<CloseCode>,
    ended: Option<oneshot::Sender<LinkEnd>>,
}

#[derive(Debug)]
enum Role {
    Parent(ParentSide),
    Child(ChildSide),
}

/// What a link needs to start.
#[derive(Debug)]
pub struct LinkStart {
    /// Its number, new in this process.
    pub id: LinkId,
    /// The cell's own side.
    pub own: Arc<Own>,
    /// The connection.
    pub connection: Connection,
    /// The cell.
    pub cell: Addr<Cell>,
    /// The filter in front of it.
    pub filter: Addr<AuthFilter>,
    /// Figures.
    pub settings: LinkSettings,
    /// Who may attach.
    pub roster: Arc<dyn Roster>,
    /// Challenges that wait for their answer, of all links of this cell.
    pub challenges: parent::Challenges,
    /// Told when the link has ended, and how.
    pub ended: Option<oneshot::Sender<LinkEnd>>,
}

pub use self::{
    conduits::LinkConduits,
    parent::Challenges,
    renewal::{NeighbourRenews, ProposeRenewal, ShowOnLink},
};

/// Figures of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkSettings {
    /// Timers of the link.
    pub timers: Timers,
    /// Sizes that the neighbour may send.
    pub limits: FrameLimits,
    /// Bytes that wait to leave, on each lane.
    pub outbox_max: usize,
    /// Bytes read and not yet decided on.
    pub inbound_max: usize,
    /// Conduits that this end has open at once; whoever wants more waits.
    pub conduits_max: usize,
    /// Bytes a second of all its conduits together that this end may send; `None` for as many as go.
    pub conduit_rate: Option<u64>,
    /// Registrations that one neighbour may begin within a minute.
    pub registrations_per_minute: usize,
    /// Age at which a child's token is renewed.
    pub renew_after: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            timers: Timers::default(),
            limits: FrameLimits::default(),
            outbox_max: 8 << 20,
            inbound_max: 4 << 20,
            conduits_max: 16,
            conduit_rate: None,
            registrations_per_minute: 30,
            renew_after: Duration::from_secs(450),
        }
    }
}

/// How a link ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEnd {
    /// Whether it had been registered.
    pub was_active: bool,
    /// What happened to the connection.
    pub end: End,
    /// What the parent answered to the registration, where it refused it.
    pub refused: Option<Status>,
}

/// How a link is doing, readable from anywhere.
#[derive(Debug)]
pub struct Health {
    connection: Connection,
    start: Instant,
    heard_ms: AtomicU64,
    rtt_us: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    lane_written: Arc<AtomicU64>,
    lane_read: AtomicU64,
    closed: watch::Sender<bool>,
}

impl Health {
    fn new(connection: Connection) -> Arc<Self> {
        Arc::new(Self {
            connection,
            start: clock::now(),
            heard_ms: AtomicU64::new(0),
            rtt_us: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            lane_written: Arc::default(),
            lane_read: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        })
    }

    fn hear(&self) {
        let since = clock::now().saturating_duration_since(self.start).as_millis();
        self.heard_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the neighbour was heard within `span`.
    #[must_use]
    pub fn heard_within(&self, span: Duration) -> bool {
        let last = self.start + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        clock::now().saturating_duration_since(last) < span && !*self.closed.borrow()
    }

    /// Round trip of the last beat, in microseconds, at the end that sends them.
    #[must_use]
    pub fn rtt_us(&self) -> Option<u64> {
        Some(self.rtt_us.load(Ordering::Relaxed)).filter(|rtt| *rtt > 0)
    }

    /// Half the round trip that the transport has measured, in microseconds.
    pub(crate) fn wire_us(&self) -> u32 {
        u32::try_from(self.connection.stats().rtt_us / 2).unwrap_or(u32::MAX)
    }

    /// Bytes of the interactive lane that the transport has taken.
    fn lane_written(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lane_written)
    }

    fn count_lane_read(&self, bytes: usize) {
        self.lane_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_sent(&self, messages: u64) {
        self.sent.fetch_add(messages, Ordering::Relaxed);
    }

    fn count_received(&self, messages: usize) {
        self.received.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Messages written to and read from this link.
    #[must_use]
    pub fn messages(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// What the transport knows.
    #[must_use]
    pub fn carrier(&self) -> CarrierStats {
        self.connection.stats()
    }

    /// The neighbour's organisation, as its certificate says.
    #[must_use]
    pub fn org(&self) -> String {
        self.connection.peer().identity.org.to_string()
    }

    /// End of the neighbour's certificate, in seconds since 1970.
    #[must_use]
    pub fn cert_expires_unix(&self) -> u64 {
        self.connection.peer().dates.not_after
    }

    /// Waits until the link has ended.
    pub async fn wait_closed(&self) {
        let mut closed = self.closed.subscribe();
        // Ends also when the link itself is gone.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// A challenge, register or bye that the filter let in.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Exempted {
    /// Which of the three.
    pub topic: SystemTopic,
    /// The message.
    pub admitted: Admitted,
}

/// The neighbour sent what its turn did not allow; the connection ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Misbehaved(pub Status);

/// Other authorities count from now on: the neighbour's certificate is looked at again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CheckTrust;

/// What others want of a link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Say {
    /// Tell the neighbour that this cell takes no new requests.
    Drain,
    /// Say bye and close.
    Bye,
    /// Close, with this code and text.
    Close(CloseCode, &'static str),
}

/// A control frame has been read.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Control(Frame);

/// A stream cannot be read on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Unreadable(CodecError);

/// The neighbour has opened a lane stream.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct LaneAccepted;

/// What waited on the lanes has arrived.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct LanesEnded;

/// The connection has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Ended(End);

impl Link {
    /// Starts the link of a connection that has just been established, dialled or accepted.
    pub fn start(start: LinkStart, side: Side) -> Addr<Self> {
        let LinkStart { id, own, connection, cell, filter, settings, roster, challenges, ended } =
            start;
        let role = match side {
            Side::Parent => Role::Parent(ParentSide::new(roster, challenges)),
            Side::Child => Role::Child(ChildSide::new(clock::now())),
        };
        let health = Health::new(connection.clone());
        let link = Self {
            id,
            conduits: LinkConduits::new(id, &own, &connection, &health, &settings),
            state: LinkState::new(clock::now(), side, settings.timers),
            outbox: Outbox::new(settings.outbox_max, Arc::clone(&own.counters)),
            health,
            shown: own.shown(),
            own,
            connection,
            cell,
            filter,
            settings,
            role,
            hold: watch::Sender::new(true),
            peer_incarnation: None,
            lanes_written: Written::default(),
            control_written: Written::default(),
            timer: None,
            bye: None,
            was_active: false,
            closed_with: None,
            ended,
        };
        Actor::start(link)
    }

    fn side(&self) -> Side {
        self.state.side()
    }

    /// The full name that the neighbour has on this link, from its certificate and its place.
    fn peer_name(&self) -> Option<Fqcn> {
        let facts = self.connection.peer();
        let identity = &facts.identity;
        match self.side() {
            Side::Child => self.own.parent.clone(),
            Side::Parent if identity.kind == CellKind::Job => Some(identity.name.clone()),
            Side::Parent if self.own.is_root() => Some(identity.name.clone()),
            Side::Parent => {
                let base = identity.name.as_str().parse().ok()?;
                self.own.name.child(&base).ok()
            }
        }
    }

    fn send(&mut self, frame: Frame) {
        if !self.outbox.push_frame(frame) {
            self.close(CloseCode::HeartbeatLost, "the neighbour takes nothing");
        }
    }

    fn answer(&mut self, to: u64, outcome: Result<Blob, Status>) {
        let (status, body) = match outcome {
            Ok(body) => (0, body),
            Err(status) => (status as u8, Blob(Vec::new())),
        };
        self.send(Frame::Answer(Answer { to, status, body }));
    }

    /// Tells the filter who is at the other end and in which state.
    fn publish_peer(&self, ctx: &mut Context<Self>) {
        let Some(name) = self.peer_name() else { return };
        let facts = self.connection.peer();
        let peer = Peer {
            link: self.id,
            name,
            kind: facts.identity.kind,
            org: facts.identity.org.clone(),
            leaf: facts.leaf,
            is_parent: self.side() == Side::Child,
            phase: self.state.phase(),
        };
        let outbox = Arc::clone(&self.outbox);
        let (conduits, link) = (Arc::clone(&self.conduits), ctx.address());
        if post(&self.filter, SetPeer { peer, outbox, conduits, link }).is_err() {
            tracing::debug!(link = self.id.0, "the filter has ended");
        }
    }

    /// The neighbour is registered: messages flow from now on.
    fn activate(&mut self, ctx: &mut Context<Self>) {
        self.state.enter_active();
        self.was_active = true;
        self.hold.send_replace(false);
        self.publish_peer(ctx);
        let (Some(name), Some(incarnation)) = (self.peer_name(), self.peer_incarnation) else {
            return;
        };
        let up = LinkUp {
            id: self.id,
            name,
            kind: self.connection.peer().identity.kind,
            is_parent: self.side() == Side::Child,
            incarnation,
            link: ctx.address(),
            outbox: Arc::clone(&self.outbox),
            health: Arc::clone(&self.health),
        };
        if post(&self.cell, up).is_err() {
            self.close(CloseCode::Later, "the cell has ended");
        }
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        if self.state.phase() != Phase::Closed {
            self.state.enter_closed();
            self.closed_with = Some(code);
            self.connection.close(code, reason);
        }
    }

    /// Closes when what was said last has arrived, or soon; hears nothing any more.
    fn close_when_said(&mut self, code: CloseCode, reason: &'static str) {
        const PATIENCE: Duration = Duration::from_millis(250);
        if self.state.phase() == Phase::Closed {
            return;
        }
        self.state.enter_closed();
        self.closed_with = Some(code);
        self.outbox.end_control();
        let written = self.control_written.ended.take();
        let connection = self.connection.clone();
        actix::spawn(async move {
            // A neighbour that acknowledges nothing is not waited for.
            let _ = tokio::time::timeout(PATIENCE, Written::wait(written)).await;
            connection.close(code, reason);
        });
    }

    /// Closes for a reason that is the neighbour's fault, and says so in the log.
    fn close_for(&mut self, status: Status, what: &str) {
        if self.state.phase() == Phase::Closed {
            return;
        }
        self.own.counters.refuse(status);
        let facts = self.connection.peer();
        tracing::warn!(
            cell = %self.own.name, peer = %facts.identity, link = self.id.0, code = status.code(), what,
            "link closed"
        );
        let code = if self.state.phase().carries_messages() {
            CloseCode::Protocol
        } else {
            CloseCode::Unauthenticated
        };
        self.close(code, if code == CloseCode::Protocol { status.code() } else { "" });
    }

    fn arm_timer(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let next = self.state.poll_timeout();
        self.state.plan(next);
        let Some(at) = next else { return };
        let wait = at.saturating_duration_since(clock::now());
        self.timer = Some(ctx.run_later(wait, |link, ctx| {
            link.timer = None;
            link.handle_timer();
            link.arm_timer(ctx);
        }));
    }

    fn handle_timer(&mut self) {
        match self.state.handle_timeout(clock::now()) {
            None => {}
            Some(Due::Beat(number)) => self.send(Frame::Beat(Beat { number })),
            Some(Due::Close(CloseReason::NoHello | CloseReason::NotRegistered))
                if self.side() == Side::Child =>
            {
                // The parent, or its way to the server, is slow; whoever dialled tries again.
                tracing::info!(cell = %self.own.name, link = self.id.0, "not let in in time");
                self.close(CloseCode::Later, "not let in in time");
            }
            Some(Due::Close(CloseReason::NoHello)) => {
                self.close_for(Status::NoHello, "no HELLO in time")
            }
            Some(Due::Close(CloseReason::NotRegistered)) => {
                self.close_for(Status::NoToken, "no registration in time");
            }
            Some(Due::Close(CloseReason::Silent)) => {
                tracing::info!(
                    cell = %self.own.name, peer = %self.connection.peer().identity, link = self.id.0,
                    "the neighbour was silent for too long"
                );
                self.close(CloseCode::HeartbeatLost, "no beat in time");
            }
        }
    }

    fn handle_frame(&mut self, frame: Frame, ctx: &mut Context<Self>) {
        let input = match &frame {
            Frame::Hello(_) => Input::Hello,
            Frame::HelloOk(_) => Input::HelloOk,
            Frame::Beat(_) => Input::Beat,
            Frame::Echo(_) => Input::Echo,
            Frame::Answer(_) => Input::ExemptAnswer,
            Frame::Drain(_) => Input::Drain,
            Frame::Lane(_) | Frame::Conduit(_) => Input::LaneOpen,
            Frame::Message(_) => Input::Message,
        };
        if let Err(out_of_turn) = self.state.handle_input(input) {
            return self.close_for(out_of_turn.status(), &out_of_turn.to_string());
        }
        self.health.hear();
        match frame {
            Frame::Hello(hello) => self.handle_hello(&hello, ctx),
            Frame::HelloOk(ok) => self.handle_hello_ok(&ok, ctx),
            Frame::Beat(Beat { number }) => match self.state.handle_beat(clock::now(), number) {
                Ok(()) => self.echo(number, ctx),
                Err(bad) => self.close_for(Status::BadFrame, &bad.to_string()),
            },
            Frame::Echo(echo) => self.handle_echo(echo, ctx),
            Frame::Answer(answer) => self.handle_answer(answer, ctx),
            Frame::Drain(_) => {
                self.state.enter_draining();
                self.publish_peer(ctx);
            }
            // Read by the reader and never handed on.
            Frame::Lane(_) | Frame::Conduit(_) | Frame::Message(_) => {
                self.close_for(Status::BadFrame, "a frame on the wrong stream");
            }
        }
    }

    fn handle_echo(&mut self, echo: Echo, ctx: &mut Context<Self>) {
        if let Err(bad) = self.state.handle_echo(clock::now(), echo.number) {
            return self.close_for(Status::BadFrame, &bad.to_string());
        }
        if let Some(rtt) = self.state.rtt() {
            let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
            self.health.rtt_us.store(micros.max(1), Ordering::Relaxed);
        }
        self.follow_parent(echo, ctx);
        self.probe_lane(ctx);
    }

    fn handle_answer(&mut self, answer: Answer, ctx: &mut Context<Self>) {
        if self.bye == Some(answer.to) {
            return self.close(CloseCode::Done, "bye");
        }
        match self.side() {
            Side::Child => self.handle_registration_answer(answer, ctx),
            Side::Parent => self.close_for(Status::ReplyUnsolicited, "an answer to nothing"),
        }
    }

    /// The neighbour goes away: it is out of the tables before the answer leaves.
    fn handle_bye(&mut self, sequence: u64) {
        self.state.enter_draining();
        self.leave(true);
        self.withdraw();
        self.answer(sequence, Ok(Blob(Vec::new())));
    }

    /// A challenge, register or bye request to the neighbour, and its sequence number.
    fn exempt_request(&self, topic: SystemTopic, payload: bytes::Bytes) -> Option<(u64, Frame)> {
        let sequence = self.own.next_sequence();
        let header = Header {
            kind: Kind::Request,
            sequence,
            common: Arc::new(Common {
                origin: Arc::clone(&self.own.address),
                destination: Address::any(self.peer_name()?),
                target: topic.into(),
                token: None,
                lane: Lane::Control,
                flags: Flags::default(),
            }),
            budget_ms: 5000,
            hops_left: 1,
            extras: None,
        };
        Some((sequence, Frame::Message(Envelope { header, payload })))
    }

    /// Tells the cell that a registered child goes, and whether that was meant.
    fn leave(&self, meant: bool) {
        if self.was_active && self.side() == Side::Parent {
            // Fails only when the cell has ended.
            let _ = post(&self.cell, LinkLeft { id: self.id, meant });
        }
    }

    /// Whether the neighbour ended the link, or was turned out; otherwise the link was lost, or ended here.
    fn was_meant(&self, end: &End) -> bool {
        match end {
            End::ByPeer(code, _) => {
                !matches!(code, CloseCode::HeartbeatLost | CloseCode::SlowConsumer)
            }
            End::Here => {
                matches!(self.closed_with, Some(CloseCode::Protocol | CloseCode::Unauthenticated))
            }
            End::Broken(_) => false,
        }
    }

    fn withdraw(&self) {
        if post(&self.cell, LinkDown(self.id)).is_err() {
            tracing::debug!(link = self.id.0, "the cell has ended");
        }
    }

    /// Goes away: first everything that waits on the lanes arrives, then the neighbour is told.
    fn say_bye(&mut self, ctx: &mut Context<Self>) {
        const PATIENCE: Duration = Duration::from_secs(1);
        if !self.state.phase().takes_bye() || self.bye.is_some() {
            return self.close(CloseCode::Done, "bye");
        }
        self.outbox.end_lanes();
        let written = self.lanes_written.ended.take();
        let link = ctx.address();
        actix::spawn(async move {
            // A neighbour that takes nothing is not waited for.
            let _ = tokio::time::timeout(PATIENCE, Written::wait(written)).await;
            let _ = post(&link, LanesEnded);
        });
    }
}

impl Actor for Link {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.conduits.belong_to(ctx.address());
        self.publish_peer(ctx);
        self.arm_timer(ctx);
        let link = ctx.address();
        let connection = self.connection.clone();
        actix::spawn(async move {
            let end = connection.ended().await;
            if post(&link, Ended(end)).is_err() {
                tracing::debug!("the link has ended before its connection");
            }
        });
        self.start_streams(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.health.closed.send_replace(true);
    }
}

impl Handler<Control> for Link {
    type Result = ();

    fn handle(&mut self, Control(frame): Control, ctx: &mut Self::Context) {
        if !self.filter.connected() {
            // The cell knows, and closes, only the links that were registered with it.
            return self.close(CloseCode::Later, "the cell has ended");
        }
        self.handle_frame(frame, ctx);
        self.arm_timer(ctx);
    }
}

impl Handler<Exempted> for Link {
    type Result = ();

    fn handle(&mut self, Exempted { topic, admitted }: Exempted, ctx: &mut Self::Context) {
        let input = match topic {
            well_known::CHALLENGE => Input::Challenge,
            well_known::REGISTER => Input::Register,
            _ => Input::Bye,
        };
        // The gate saw the link as it was when the message came; it may have moved on since.
        if let Err(out_of_turn) = self.state.handle_input(input) {
            return self.close_for(out_of_turn.status(), &out_of_turn.to_string());
        }
        self.health.hear();
        let envelope = admitted.into_envelope();
        let sequence = envelope.header.sequence;
        match topic {
            well_known::CHALLENGE => self.handle_challenge(sequence, ctx),
            well_known::REGISTER => self.handle_register(sequence, &envelope.payload, ctx),
            _ => self.handle_bye(sequence),
        }
        self.arm_timer(ctx);
    }
}

impl Handler<Misbehaved> for Link {
    type Result = ();

    fn handle(&mut self, Misbehaved(status): Misbehaved, _: &mut Self::Context) {
        // Counted by the filter already.
        if self.state.phase() != Phase::Closed {
            tracing::warn!(
                cell = %self.own.name, peer = %self.connection.peer().identity, link = self.id.0,
                code = status.code(), "link closed"
            );
            self.close(CloseCode::Unauthenticated, "");
        }
    }
}

impl Handler<CheckTrust> for Link {
    type Result = ();

    fn handle(&mut self, _: CheckTrust, _: &mut Self::Context) {
        let peer = Arc::clone(&self.connection.peer());
        let counts = peer.identity.kind == CellKind::Job
            || root_of(&self.own.roots, &peer.chain, self.own.wall.unix()).is_some();
        if !counts && self.state.phase() != Phase::Closed {
            self.close_for(Status::CertRevoked, "the authority of the certificate counts no more");
        }
    }
}

impl Handler<Unreadable> for Link {
    type Result = ();

    fn handle(&mut self, Unreadable(error): Unreadable, _: &mut Self::Context) {
        if self.bye.is_some() {
            // Who was told bye goes away too: its streams can end before its connection does.
            return self.close(CloseCode::Done, "bye");
        }
        self.close_for(error.status, error.what);
    }
}

impl Handler<LaneAccepted> for Link {
    type Result = ();

    fn handle(&mut self, _: LaneAccepted, _: &mut Self::Context) {
        // A parent may open its lanes before its answer to the registration has been read here; a child
        // that is not registered has nothing to send.
        if self.side() == Side::Parent && !self.was_active {
            self.close_for(Status::NoHello, "a lane before the registration");
        }
    }
}

impl Handler<LanesEnded> for Link {
    type Result = ();

    fn handle(&mut self, _: LanesEnded, ctx: &mut Self::Context) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let Some((sequence, frame)) = self.exempt_request(well_known::BYE, bytes::Bytes::new())
        else {
            return self.close(CloseCode::Done, "bye");
        };
        self.bye = Some(sequence);
        self.send(frame);
        ctx.run_later(PATIENCE, |link, _| link.close(CloseCode::Done, "bye"));
    }
}

impl Handler<Say> for Link {
    type Result = ();

    fn handle(&mut self, say: Say, ctx: &mut Self::Context) {
        match say {
            Say::Drain => {
                const COME_BACK_MS: u32 = 2000;
                if self.state.phase().carries_messages() {
                    self.send(Frame::Drain(Drain { retry_after_ms: COME_BACK_MS }));
                }
            }
            Say::Bye => self.say_bye(ctx),
            Say::Close(code, reason) => self.close(code, reason),
        }
    }
}

impl Handler<Ended> for Link {
    type Result = ();

    fn handle(&mut self, Ended(end): Ended, ctx: &mut Self::Context) {
        let was_active = self.was_active;
        self.state.enter_closed();
        self.leave(self.was_meant(&end));
        self.withdraw();
        if post(&self.filter, RemovePeer(self.id)).is_err() {
            tracing::debug!(link = self.id.0, "the filter has ended");
        }
        self.forget_challenge();
        let refused = self.refusal();
        if let Some(ended) = self.ended.take() {
            // Nobody may wait any more.
            let _ = ended.send(LinkEnd { was_active, end, refused });
        }
        ctx.stop();
    }
}
