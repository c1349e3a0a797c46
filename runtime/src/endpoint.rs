//! The endpoint of a cell: it accepts children, dials the parent, and dials again.

use std::{sync::Arc, time::Duration};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message};
use cellbus_proto::{
    causes::with_sources,
    link::{Redial, Side, redial_after},
    route::LinkId,
    status::Status,
};

use crate::{
    carrier::{Accept, Dial, DialError},
    cell::{Cell, Halt, Roster},
    conn::{CloseCode, Connection, End},
    filter::{AuthFilter, is_by_list, turned_out_by},
    link::{Challenges, Link, LinkEnd, LinkSettings, LinkStart},
    own::Own,
    seam::{EndNotice, post},
};

/// The actor that makes links.
pub struct Endpoint {
    own: Arc<Own>,
    cell: Addr<Cell>,
    filter: Addr<AuthFilter>,
    roster: Arc<dyn Roster>,
    challenges: Challenges,
    dial: Option<Arc<dyn Dial>>,
    accept: Option<Arc<dyn Accept>>,
    settings: EndpointSettings,
    /// Failures in a row.
    attempt: u32,
    stopping: bool,
    _end: EndNotice,
}

/// Figures of an endpoint.
#[derive(Clone)]
pub struct EndpointSettings {
    /// Figures of its links.
    pub link: LinkSettings,
    /// Time that a handshake may take.
    pub handshake: Duration,
    /// First wait before dialling again.
    pub redial_base: Duration,
    /// Longest wait before dialling again.
    pub redial_cap: Duration,
    /// Draws a random number, uniform over its range, for the waits.
    pub random: Arc<dyn Fn() -> u32 + Send + Sync>,
    /// Numbers the links of this process.
    pub next_link: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            link: LinkSettings::default(),
            handshake: Duration::from_secs(5),
            redial_base: Duration::from_millis(200),
            redial_cap: Duration::from_secs(10),
            random: Arc::new(|| {
                // Without randomness every cell waits the longest; that spreads nothing and harms
                // nobody.
                getrandom::u32().unwrap_or(u32::MAX)
            }),
            next_link: Arc::new(|| {
                static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
                NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            }),
        }
    }
}

/// What an endpoint needs to start.
pub struct EndpointStart {
    /// The cell's own side.
    pub own: Arc<Own>,
    /// The cell.
    pub cell: Addr<Cell>,
    /// The filter in front of it.
    pub filter: Addr<AuthFilter>,
    /// Who may attach.
    pub roster: Arc<dyn Roster>,
    /// Challenges of this cell's links.
    pub challenges: Challenges,
    /// How the parent is dialled; the server dials nobody.
    pub dial: Option<Arc<dyn Dial>>,
    /// How children come; a cell without children accepts nobody.
    pub accept: Option<Arc<dyn Accept>>,
    /// Figures.
    pub settings: EndpointSettings,
    /// Told when the endpoint has ended.
    pub end: EndNotice,
}

/// A child has completed its handshake.
#[derive(Message)]
#[rtype(result = "()")]
struct Accepted(Connection);

/// A handshake with a child has failed.
#[derive(Message)]
#[rtype(result = "()")]
struct NotAccepted(DialError);

/// The parent has been dialled, or not.
#[derive(Message)]
#[rtype(result = "()")]
struct Dialled(Result<Connection, Option<DialError>>);

/// The link to the parent has ended.
#[derive(Message)]
#[rtype(result = "()")]
struct UplinkEnded(LinkEnd);

/// Takes no children and does not dial any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopLinking;

impl Endpoint {
    /// An endpoint; it begins to accept and dial when it is started.
    #[must_use]
    pub fn new(start: EndpointStart) -> Self {
        let EndpointStart { own, cell, filter, roster, challenges, dial, accept, settings, end } =
            start;
        Self {
            own,
            cell,
            filter,
            roster,
            challenges,
            dial,
            accept,
            settings,
            attempt: 0,
            stopping: false,
            _end: end,
        }
    }

    fn link(&self, connection: Connection, side: Side, ctx: &Context<Self>) {
        let id = LinkId((self.settings.next_link)());
        let (sender, ended) = tokio::sync::oneshot::channel();
        let start = LinkStart {
            id,
            own: Arc::clone(&self.own),
            connection,
            cell: self.cell.clone(),
            filter: self.filter.clone(),
            settings: self.settings.link,
            roster: Arc::clone(&self.roster),
            challenges: Arc::clone(&self.challenges),
            ended: Some(sender),
        };
        Link::start(start, side);
        if side == Side::Child {
            let endpoint = ctx.address();
            actix::spawn(async move {
                let broken = LinkEnd {
                    was_active: false,
                    end: End::Broken("the link's actor ended".to_owned()),
                    refused: None,
                };
                let end = ended.await.unwrap_or(broken);
                // Fails only when this cell has ended.
                let _ = post(&endpoint, UplinkEnded(end));
            });
        }
    }

    fn accept_loop(&self, ctx: &Context<Self>) {
        let Some(accept) = self.accept.clone() else { return };
        let endpoint = ctx.address();
        let deadline = self.settings.handshake;
        actix::spawn(async move {
            while let Some(handshake) = accept.accept().await {
                if !endpoint.connected() {
                    return;
                }
                let endpoint = endpoint.clone();
                actix::spawn(async move {
                    // Fails only when this cell has ended.
                    let _ = match tokio::time::timeout(deadline, handshake).await {
                        Ok(Ok(connection)) => post(&endpoint, Accepted(connection)),
                        Ok(Err(error)) => post(&endpoint, NotAccepted(error)),
                        Err(_elapsed) => post(&endpoint, NotAccepted(DialError::Busy)),
                    };
                });
            }
        });
    }

    fn dial_after(&self, wait: Duration, ctx: &mut Context<Self>) {
        let Some(dial) = self.dial.clone().filter(|_| !self.stopping) else { return };
        let endpoint = ctx.address();
        let deadline = self.settings.handshake;
        actix::spawn(async move {
            tokio::time::sleep(wait).await;
            let outcome = match tokio::time::timeout(deadline, dial.dial()).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(error)) => Err(Some(error)),
                Err(_elapsed) => Err(None),
            };
            // Fails only when this cell has ended.
            let _ = post(&endpoint, Dialled(outcome));
        });
    }

    fn dial_again(&mut self, why: Redial, at_least: Duration, ctx: &mut Context<Self>) {
        let EndpointSettings { redial_base, redial_cap, .. } = self.settings;
        let random = (self.settings.random)();
        if why == Redial::Lost {
            self.attempt = 0;
        }
        let wait = redial_after(self.attempt, why, redial_base, redial_cap, random);
        self.attempt = self.attempt.saturating_add(1);
        self.dial_after(wait.max(at_least), ctx);
    }
}

impl Actor for Endpoint {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.accept_loop(ctx);
        self.dial_after(Duration::ZERO, ctx);
    }
}

impl Handler<Accepted> for Endpoint {
    type Result = ();

    fn handle(&mut self, Accepted(connection): Accepted, ctx: &mut Self::Context) {
        if self.stopping {
            return connection.close(CloseCode::Later, "this cell is going away");
        }
        self.link(connection, Side::Parent, ctx);
    }
}

impl Handler<NotAccepted> for Endpoint {
    type Result = ();

    fn handle(&mut self, NotAccepted(error): NotAccepted, _: &mut Self::Context) {
        // Who sends a bad certificate has been counted where it was refused.
        self.own.counters.refuse(Status::Unauthenticated);
        tracing::info!(cell = %self.own.name, %error, "a handshake failed");
    }
}

impl Handler<Dialled> for Endpoint {
    type Result = ();

    fn handle(&mut self, Dialled(outcome): Dialled, ctx: &mut Self::Context) {
        match outcome {
            Ok(connection) if self.stopping => connection.close(CloseCode::Done, "bye"),
            Ok(connection) => self.link(connection, Side::Child, ctx),
            Err(error) => {
                let target = self.dial.as_ref().map(|dial| dial.target()).unwrap_or_default();
                let why = error.as_ref().map_or(Redial::Unanswered, DialError::redial);
                let error =
                    error.map_or_else(|| "no answer in time".to_owned(), |e| with_sources(&e));
                tracing::info!(
                    cell = %self.own.name, target, error, attempt = self.attempt,
                    "the parent cannot be reached"
                );
                self.dial_again(why, Duration::ZERO, ctx);
            }
        }
    }
}

impl Handler<UplinkEnded> for Endpoint {
    type Result = ();

    fn handle(&mut self, UplinkEnded(ended): UplinkEnded, ctx: &mut Self::Context) {
        const STAY_AWAY: Duration = Duration::from_secs(30);
        const SLOW_DOWN: Duration = Duration::from_secs(10);
        let LinkEnd { was_active, end, refused } = ended;
        let taken = refused == Some(Status::DuplicateName)
            || matches!(end, End::ByPeer(CloseCode::Superseded | CloseCode::Duplicate, _));
        if taken && !self.stopping {
            let seconds = STAY_AWAY.as_secs();
            tracing::warn!(
                cell = %self.own.name, code = Status::DuplicateName.code(),
                "another process holds the name of this cell: stop one of them, and where nobody started \
                 it, the key has been copied; dialling again in {seconds} s at the earliest"
            );
        }
        let listed = match &end {
            End::ByPeer(CloseCode::Unauthenticated | CloseCode::Protocol, word) => {
                turned_out_by(word)
            }
            End::ByPeer(..) | End::Here | End::Broken(_) => None,
        };
        if let Some(status) = listed.or(refused.filter(|status| is_by_list(*status))) {
            tracing::info!(
                target: "audit", cell = %self.own.name, code = status.code(),
                "the parent says that this cell may no longer take part"
            );
            self.own.notices.tell_turned_out(self.own.name.clone());
        }
        let why = match end {
            End::ByPeer(CloseCode::Protocol, _) => Redial::Refused,
            _ if was_active => Redial::Lost,
            End::ByPeer(..) => Redial::Refused,
            End::Here | End::Broken(_) if refused.is_some() => Redial::Refused,
            End::Here | End::Broken(_) => Redial::Unanswered,
        };
        let at_least = match refused {
            _ if taken => STAY_AWAY,
            Some(Status::RateLimit) => SLOW_DOWN,
            Some(_) | None => Duration::ZERO,
        };
        self.dial_again(why, at_least, ctx);
    }
}

impl Handler<StopLinking> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: StopLinking, _: &mut Self::Context) {
        self.stopping = true;
        if let Some(accept) = &self.accept {
            accept.close();
        }
    }
}

impl Handler<Halt> for Endpoint {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Self::Context) {
        self.stopping = true;
        ctx.stop();
    }
}
