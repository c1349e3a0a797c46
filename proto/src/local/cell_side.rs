//! What the cell makes of the frames of a peer that it does not trust.
//!
//! ```text
//!            HELLO, right secret          BYE, violation, end of stream
//!  Greeting ─────────────────────▶ Open ─────────────────────────────────▶ over
//! ```
//! [`greet`] is the first state, [`CellSide`] the second. Whatever job code asks is ended once, and so is
//! every DELIVER; what exceeds the [`Limits`] is ended at once and not kept.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::{Body, Hello, Limits, Outcome, Serve, ToCell};
use crate::{
    name::{ChannelTopic, Fqcn},
    status::Status,
    well_known,
};

mod step;
#[cfg(test)]
mod tests;

pub use self::step::{Answer, Registration, ServeStep, Step};

/// One connection after its HELLO.
///
/// `R` is what the caller keeps for a request of job code that is being worked on, `D` what it keeps
/// for a delivery that job code is working on.
#[derive(Debug)]
pub struct CellSide<R, D> {
    limits: Limits,
    last_id: u64,
    requests: BTreeMap<u64, Entry<R>>,
    bytes: usize,
    attached: u64,
    handlers: u32,
    deliveries: BTreeMap<u64, D>,
    last_delivery: u64,
}

#[derive(Debug)]
struct Entry<R> {
    bytes: usize,
    attached: u64,
    can_be_cancelled: bool,
    ticket: Option<R>,
}

/// A frame that must not come now. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something came before HELLO.
    #[error("{0} before HELLO")]
    NoHello(&'static str),
    /// HELLO came again.
    #[error("a second HELLO")]
    SecondHello,
    /// An id that is not higher than the one before it.
    #[error("id {id} after {last}")]
    StaleId {
        /// The id.
        id: u64,
        /// The one before it.
        last: u64,
    },
    /// An answer to a delivery that is not outstanding.
    #[error("answer to delivery {0}, which is not outstanding")]
    Unsolicited(u64),
}

impl Violation {
    /// The code that the peer is told.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::NoHello(_) => Status::NoHello,
            Self::SecondHello => Status::BadFrame,
            Self::StaleId { .. } => Status::StaleId,
            Self::Unsolicited(_) => Status::ReplyUnsolicited,
        }
    }
}

/// Takes the first frame of a connection.
///
/// # Errors
/// [`Violation::NoHello`] for every other frame.
pub fn greet(frame: ToCell) -> Result<Hello, Violation> {
    use super::Frame as _;
    if let ToCell::Hello(hello) = frame { Ok(hello) } else { Err(Violation::NoHello(frame.name())) }
}

impl<R, D> CellSide<R, D> {
    /// A connection on which nothing has happened yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            last_id: 0,
            requests: BTreeMap::new(),
            bytes: 0,
            attached: 0,
            handlers: 0,
            deliveries: BTreeMap::new(),
            last_delivery: 0,
        }
    }

    /// Feeds one frame and says what to do about it.
    ///
    /// # Errors
    /// [`Violation`]: the caller tells the peer its status and closes; `self` is spent.
    pub fn handle_frame(&mut self, frame: ToCell) -> Result<Step<D>, Violation> {
        Ok(match frame {
            ToCell::Hello(_) => return Err(Violation::SecondHello),
            ToCell::Request { id, to, channel, topic, budget_ms, body, options } => {
                self.take_id(id)?;
                let checked = address(&to, &channel, &topic);
                match checked.and_then(|found| self.admit(id, &body).map(|()| found)) {
                    Ok((to, target)) => {
                        let (budget, options) =
                            (self.budget(budget_ms), options.unwrap_or_default());
                        Step::Request { id, to, target, budget, body, options }
                    }
                    Err(status) => Step::Refuse { id, status },
                }
            }
            ToCell::Publish { id, to, channel, topic, body, options } => {
                self.take_id(id)?;
                let checked = address(&to, &channel, &topic);
                match checked.and_then(|found| self.admit(id, &body).map(|()| found)) {
                    Ok((to, target)) => {
                        let options = options.unwrap_or_default();
                        Step::Publish { id, to, target, body, options }
                    }
                    Err(status) => Step::Refuse { id, status },
                }
            }
            ToCell::Multicast { id, to, channel, topic, publish, budget_ms, body, options } => {
                self.take_id(id)?;
                let checked = names(to).and_then(|to| Ok((to, place(&channel, &topic)?)));
                match checked.and_then(|found| self.admit(id, &body).map(|()| found)) {
                    Ok((to, target)) => {
                        let (budget, options) =
                            (self.budget(budget_ms), options.unwrap_or_default());
                        Step::Multicast { id, to, target, publish, budget, body, options }
                    }
                    Err(status) => Step::Refuse { id, status },
                }
            }
            ToCell::Handle { id, channel, topic, concurrency } => {
                self.take_id(id)?;
                let concurrency = concurrency.unwrap_or(NonZeroU32::MIN);
                match self.register(id, channel.as_deref(), topic.as_deref()) {
                    Ok(registration) => Step::Handle { id, registration, concurrency },
                    Err(outcome) => Step::RefuseHandler { id, outcome },
                }
            }
            ToCell::Events { id } => {
                self.take_id(id)?;
                match self.admit(id, &Body::default()) {
                    Ok(()) => Step::Events { id },
                    Err(status) => Step::Refuse { id, status },
                }
            }
            ToCell::Serve(serve) => {
                self.take_id(serve.id)?;
                self.serve(serve)
            }
            ToCell::Fetch { id, size_max, patience_s, reference } => {
                self.take_id(id)?;
                let size_max = size_max.unwrap_or(self.limits.attachment_max);
                let patience = patience_s.map(|seconds| Duration::from_secs(seconds.into()));
                match self.admit(id, &Body::inline(reference.clone())) {
                    Ok(()) => Step::Fetch { id, reference, size_max, patience },
                    Err(status) => Step::Refuse { id, status },
                }
            }
            ToCell::DeliverPart { id, body } => {
                if !self.deliveries.contains_key(&id) {
                    return Err(Violation::Unsolicited(id));
                }
                Step::Part { id, body }
            }
            ToCell::DeliverReply { id, body } => self.answered(id, Answer::Reply(body))?,
            ToCell::DeliverFail { id, status, detail } => {
                self.answered(id, Answer::Fail { status, detail })?
            }
            // The answer may have crossed the CANCEL; then there is nothing left to end.
            ToCell::Cancel { id } => match self.requests.get(&id) {
                Some(entry) if entry.can_be_cancelled => Step::Cancel { id },
                Some(_) | None => Step::Nothing,
            },
            ToCell::Pong { .. } => Step::Nothing,
            ToCell::Ping { token } => Step::Pong { token },
            ToCell::Bye { .. } => Step::Bye,
        })
    }

    /// Keeps `ticket` for a request that is still being worked on; hands it back for one that has ended.
    pub fn attach(&mut self, id: u64, ticket: R) -> Option<R> {
        match self.requests.get_mut(&id) {
            Some(entry) => {
                entry.ticket = Some(ticket);
                None
            }
            None => Some(ticket),
        }
    }

    /// Ends what job code has asked, and gives what was kept for it.
    ///
    /// `None` when it has ended already: whoever is second must not answer.
    pub fn end_request(&mut self, id: u64) -> Option<Option<R>> {
        let entry = self.requests.remove(&id)?;
        self.bytes -= entry.bytes;
        self.attached -= entry.attached;
        Some(entry.ticket)
    }

    /// What is kept for a request that is still being worked on.
    #[must_use]
    pub fn ticket(&self, id: u64) -> Option<&R> {
        self.requests.get(&id)?.ticket.as_ref()
    }

    /// Whether something that job code has asked has not ended.
    #[must_use]
    pub fn is_outstanding(&self, id: u64) -> bool {
        self.requests.contains_key(&id)
    }

    /// Counts what was attached to a message that has ended, and is still on its way.
    pub fn hold_attached(&mut self, bytes: u64) {
        self.attached += bytes;
    }

    /// Counts it no longer.
    pub fn release_attached(&mut self, bytes: u64) {
        self.attached -= bytes;
    }

    /// Counts a handler as not registered after all.
    pub fn forget_handler(&mut self) {
        self.handlers -= 1;
    }

    /// Opens a delivery and gives its id. How many may be open is the caller's to hold.
    pub fn begin_delivery(&mut self, ticket: D) -> u64 {
        self.last_delivery += 1;
        self.deliveries.insert(self.last_delivery, ticket);
        self.last_delivery
    }

    /// Ends a delivery that never reached job code.
    pub fn end_delivery(&mut self, id: u64) -> Option<D> {
        self.deliveries.remove(&id)
    }

    /// What a delivery that job code has not answered is for.
    #[must_use]
    pub fn delivery(&self, id: u64) -> Option<&D> {
        self.deliveries.get(&id)
    }

    /// Bytes that job code has attached to what has not ended.
    #[must_use]
    pub fn attached(&self) -> u64 {
        self.attached
    }

    /// What job code has asked and is not ended, and the bytes that these hold.
    #[must_use]
    pub fn outstanding(&self) -> (usize, usize) {
        (self.requests.len(), self.bytes)
    }

    /// Deliveries that job code has not answered yet.
    #[must_use]
    pub fn deliveries(&self) -> usize {
        self.deliveries.len()
    }

    fn take_id(&mut self, id: u64) -> Result<(), Violation> {
        if id <= self.last_id {
            return Err(Violation::StaleId { id, last: self.last_id });
        }
        self.last_id = id;
        Ok(())
    }

    fn admit(&mut self, id: u64, body: &Body) -> Result<(), Status> {
        let (bytes, attached) = (body.payload.len(), body.attached.unwrap_or(0));
        let fits = self.requests.len() < self.limits.requests_max as usize
            && self.bytes + bytes <= self.limits.bytes_max as usize
            && attached <= self.limits.attached_max.saturating_sub(self.attached);
        if !fits {
            return Err(Status::Overloaded);
        }
        self.bytes += bytes;
        self.attached += attached;
        let entry = Entry { bytes, attached, can_be_cancelled: true, ticket: None };
        self.requests.insert(id, entry);
        Ok(())
    }

    fn budget(&self, budget_ms: Option<u32>) -> Duration {
        Duration::from_millis(budget_ms.unwrap_or(self.limits.budget_ms).into())
    }

    /// A file is not memory of anybody: it counts as one that is outstanding, and its bytes for nothing.
    fn serve(&mut self, serve: Serve) -> Step<D> {
        let Serve { id, to, channel, topic, lifetime_s, content_type, headers, size } = serve;
        let checked = names(to).and_then(|to| Ok((to, place(&channel, &topic)?)));
        let admitted = checked.and_then(|found| self.admit(id, &Body::default()).map(|()| found));
        let (to, target) = match admitted {
            Ok(found) => found,
            Err(status) => return Step::Refuse { id, status },
        };
        let lifetime = lifetime_s.map(|seconds| Duration::from_secs(seconds.into()));
        Step::Serve { id, serve: ServeStep { to, target, lifetime, content_type, headers, size } }
    }

    fn register(
        &mut self,
        id: u64,
        channel: Option<&str>,
        topic: Option<&str>,
    ) -> Result<Registration, Outcome> {
        let registration = registration(channel, topic)?;
        let is_full = self.handlers >= self.limits.handlers_max;
        if is_full || self.admit(id, &Body::default()).is_err() {
            return Err(Outcome::TooMany);
        }
        if let Some(entry) = self.requests.get_mut(&id) {
            entry.can_be_cancelled = false;
        }
        self.handlers += 1;
        Ok(registration)
    }

    fn answered(&mut self, id: u64, answer: Answer) -> Result<Step<D>, Violation> {
        let ticket = self.deliveries.remove(&id).ok_or(Violation::Unsolicited(id))?;
        Ok(Step::Answered { ticket, answer })
    }
}

/// Job code speaks for itself and never for its cell: of the system's topics it may use PING only.
fn address(to: &str, channel: &str, topic: &str) -> Result<(Fqcn, ChannelTopic), Status> {
    let to: Fqcn = to.parse().map_err(|_| Status::BadFqcn)?;
    let target = ChannelTopic::parse(channel, topic).map_err(|_| Status::BadHeader)?;
    if well_known::lookup(&target) == Some(well_known::PING) {
        return Ok((to, target));
    }
    place(channel, topic).map(|target| (to, target))
}

/// A channel and topic that are not the system's.
fn place(channel: &str, topic: &str) -> Result<ChannelTopic, Status> {
    let target = ChannelTopic::parse(channel, topic).map_err(|_| Status::BadHeader)?;
    let is_reserved =
        well_known::lookup(&target).is_some() || well_known::is_reserved(target.channel());
    if is_reserved { Err(Status::Forbidden) } else { Ok(target) }
}

fn names(to: Option<Vec<String>>) -> Result<Option<Vec<Fqcn>>, Status> {
    let parse = |name: &String| name.parse().map_err(|_| Status::BadFqcn);
    to.map(|names| names.iter().map(parse).collect()).transpose()
}

fn registration(channel: Option<&str>, topic: Option<&str>) -> Result<Registration, Outcome> {
    let registration = match (channel, topic) {
        (Some(channel), Some(topic)) => {
            ChannelTopic::parse(channel, topic).map(Registration::Exact)
        }
        (Some(channel), None) => channel.parse().map(Registration::Channel),
        (None, None) => Ok(Registration::All),
        (None, Some(_)) => return Err(Outcome::BadSelector),
    };
    registration.map_err(|_| Outcome::BadSelector)
}
