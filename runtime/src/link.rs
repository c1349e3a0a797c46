//! One link: the connection to a direct neighbour, its registration, its heartbeat and its end.
//!
//! The actor decides (with `proto::link`) and signs; reading and writing are tasks of their own.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, SpawnHandle};
use cellbus_proto::{
    admission::Peer,
    codec::{
        Frame, FrameLimits,
        body::{Answer, Beat, Blob, Echo},
    },
    envelope::{Address, Common, Envelope, Flags, Header, Incarnation, Kind, Lane},
    identity::CellKind,
    link::{CloseReason, Due, Input, Link as LinkState, Phase, Side, Timers},
    name::Fqcn,
    route::LinkId,
    status::Status,
    well_known::SystemTopic,
};
use tokio::sync::{oneshot, watch};

use crate::{
    cell::{Cell, LinkDown, LinkLeft, LinkUp, Roster},
    clock,
    conn::{CloseCode, Connection, End},
    filter::{AuthFilter, SetPeer},
    outbox::Outbox,
    own::{Own, Shown},
    seam::post,
};

mod child;
mod conduits;
mod health;
mod lanes;
mod parent;
mod reader;
mod renewal;
mod told;
mod writer;
mod written;

use self::{
    child::ChildSide,
    parent::ParentSide,
    told::{Control, Ended, LaneAccepted, LanesEnded, Unreadable},
    written::Written,
};
pub use self::{
    health::Health,
    told::{CheckTrust, Exempted, Misbehaved, Say},
};

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
