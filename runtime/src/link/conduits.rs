//! The conduits of one link: streams that this end opens, and those that the neighbour does.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix::{Addr, Context, Handler, Message};
use cellbus_proto::{
    admission::Admitted,
    codec::{CodecError, FrameLimits},
    envelope::cost,
    link::Side,
    route::LinkId,
    status::Status,
};
use tokio::sync::{Semaphore, watch};

use super::{Health, Link, LinkSettings, Unreadable};
use crate::{
    conduits::{
        self, Arrived, Permit, Permits,
        head::{self, HeadError},
    },
    conn::{Connection, LinkPace, Lost, RecvStream, SendStream},
    filter::AuthFilter,
    own::Own,
    seam::post,
};

/// Time that a neighbour has for the head of a conduit.
const HEAD: Duration = Duration::from_secs(5);

/// Opens the conduits of one link.
#[derive(Debug)]
pub struct LinkConduits {
    id: LinkId,
    own: Arc<Own>,
    connection: Connection,
    permits: Arc<Permits>,
    /// How fast the bytes of all conduits may leave; `None` for as fast as they do.
    pace: Option<Arc<LinkPace>>,
    limits: FrameLimits,
    health: Arc<Health>,
    link: OnceLock<Addr<Link>>,
}

/// The neighbour has opened a further stream both ways.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ConduitAccepted;

/// What everything that the neighbour opens needs.
#[derive(Clone)]
pub(super) struct Taking {
    pub(super) own: Arc<Own>,
    pub(super) link: Addr<Link>,
    pub(super) filter: Addr<AuthFilter>,
    pub(super) conduits: Arc<LinkConduits>,
    /// Bytes that may be read and not yet decided on.
    pub(super) allowance: Arc<Semaphore>,
    pub(super) inbound_max: usize,
    pub(super) hold: watch::Receiver<bool>,
}

impl LinkConduits {
    pub(super) fn new(
        id: LinkId,
        own: &Arc<Own>,
        connection: &Connection,
        health: &Arc<Health>,
        settings: &LinkSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            own: Arc::clone(own),
            connection: connection.clone(),
            permits: Permits::new(settings.conduits_max),
            pace: settings.conduit_rate.map(LinkPace::new),
            limits: settings.limits,
            health: Arc::clone(health),
            link: OnceLock::new(),
        })
    }

    pub(super) fn belong_to(&self, link: Addr<Link>) {
        // Set once, when the link starts.
        let _ = self.link.set(link);
    }

    /// The link.
    pub(crate) fn id(&self) -> LinkId {
        self.id
    }

    /// Sizes that the neighbour may send.
    pub(crate) fn limits(&self) -> FrameLimits {
        self.limits
    }

    /// Opens a stream when it is its turn.
    ///
    /// # Errors
    /// [`Status::NoRoute`] when the link is gone, [`Status::Overloaded`] when the neighbour grants no
    /// stream.
    pub(crate) async fn open(
        &self,
        priority: u8,
    ) -> Result<((SendStream, RecvStream), Permit), Status> {
        let permit = self.permits.take(priority).await;
        let mut stream = self.connection.open_both_ways().await.map_err(|Lost(_)| {
            if *self.health.closed.borrow() { Status::NoRoute } else { Status::Overloaded }
        })?;
        stream.0.set_priority(stream_priority(priority));
        stream.0.keep_pace(self.pace.as_ref(), priority);
        Ok((stream, permit))
    }

    /// Says in the log that a conduit was not passed on.
    pub(crate) fn refused(&self, status: Status, admitted: &Admitted) {
        let header = admitted.header();
        tracing::info!(
            cell = %self.own.name, code = status.code(), origin = %header.origin.name,
            destination = %header.destination.name, target = %header.target, link = self.id.0,
            "conduit not passed on"
        );
    }

    /// The neighbour answered what is no answer: the link ends.
    pub(crate) fn is_wrong(&self, error: CodecError) {
        if let Some(link) = self.link.get() {
            // Fails only when the link has ended already.
            let _ = post(link, Unreadable(error));
        }
    }

    pub(crate) fn count_sent(&self) {
        self.health.count_sent(1);
    }

    pub(crate) fn count_received(&self) {
        self.health.count_received(1);
    }
}

/// Conduits go behind every lane, and among themselves by what they ask for.
fn stream_priority(priority: u8) -> i32 {
    i32::from(priority) - 256
}

/// Takes every further stream that the neighbour opens, until the connection ends.
pub(super) async fn accept(connection: Connection, taking: Taking) {
    while let Ok(stream) = connection.accept_both_ways().await {
        if post(&taking.link, ConduitAccepted).is_err() {
            return;
        }
        actix::spawn(take(stream, taking.clone()));
    }
}

async fn take(mut stream: (SendStream, RecvStream), mut taking: Taking) {
    // While the neighbour registers (again), what it opens waits.
    if taking.hold.wait_for(|held| !*held).await.is_err() {
        return;
    }
    let Taking { own, conduits, .. } = &taking;
    let reading = head::read_request(&mut stream.1, conduits.limits, &own.counters);
    let (conduit, envelope, rest) = match tokio::time::timeout(HEAD, reading).await {
        Ok(Ok(read)) => read,
        Ok(Err(HeadError::Wrong(error))) => {
            // Fails only when the link has ended already.
            let _ = post(&taking.link, Unreadable(error));
            return;
        }
        // Given up before it began, or the link is gone.
        Ok(Err(HeadError::Broken)) => return,
        Err(_elapsed) => {
            own.counters.refuse(Status::Deadline);
            tracing::info!(
                cell = %own.name, link = conduits.id.0, code = Status::Deadline.code(),
                "the head of a conduit did not come in time"
            );
            return;
        }
    };
    conduits.count_received();
    stream.0.set_priority(stream_priority(conduit.priority));
    stream.0.keep_pace(conduits.pace.as_ref(), conduit.priority);
    let bytes = cost(&envelope).min(taking.inbound_max);
    let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
    let Ok(permit) = Arc::clone(&taking.allowance).acquire_many_owned(wanted).await else { return };
    let Taking { own, filter, conduits, .. } = taking;
    let arrived = Arrived { own, filter, link: conduits.id, stream, conduit, rest };
    conduits::take(arrived, envelope, permit).await;
}

impl Handler<ConduitAccepted> for Link {
    type Result = ();

    fn handle(&mut self, _: ConduitAccepted, _: &mut Context<Self>) {
        // As for a lane: a parent may be ahead of what its child has read.
        if self.side() == Side::Parent && !self.was_active {
            self.close_for(
                Status::NoHello,
                "a second control stream, or a conduit before the registration",
            );
        }
    }
}
