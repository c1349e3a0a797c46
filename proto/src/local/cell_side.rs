//! What the cell makes of the frames of a peer that it does not trust.
//!
//! ```text
//!            HELLO, right secret          BYE, violation, end of stream
//!  Greeting ─────────────────────▶ Open ─────────────────────────────────▶ over
//! ```
//! [`greet`] is the first state, [`CellSide`] the second. Every REQUEST, PUBLISH and HANDLE is
//! answered once, and so is every DELIVER; what exceeds the [`Limits`] is answered at once and not
//! kept.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Hello, Limits, Outcome, ToCell};
use crate::{
    name::{Channel, ChannelTopic, Fqcn},
    status::Status,
    well_known,
};

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
    handlers: u32,
    deliveries: BTreeMap<u64, D>,
    last_delivery: u64,
}

#[derive(Debug)]
struct Entry<R> {
    bytes: usize,
    can_be_cancelled: bool,
    ticket: Option<R>,
}

/// What a frame asks the caller to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<D> {
    /// Send a request; end it with [`CellSide::end_request`].
    Request {
        /// Its id.
        id: u64,
        /// Where to.
        to: Fqcn,
        /// Where there.
        target: ChannelTopic,
        /// Time until job code gives up.
        budget: Duration,
        /// Media type of the payload.
        content_type: Option<Arc<str>>,
        /// The message.
        payload: Bytes,
    },
    /// Send a publish; end it with [`CellSide::end_request`].
    Publish {
        /// Its id.
        id: u64,
        /// Where to.
        to: Fqcn,
        /// Where there.
        target: ChannelTopic,
        /// Media type of the payload.
        content_type: Option<Arc<str>>,
        /// The message.
        payload: Bytes,
    },
    /// Register a handler; end it with [`CellSide::end_request`].
    Handle {
        /// Its id.
        id: u64,
        /// What for.
        registration: Registration,
    },
    /// Answer with RETURN; nothing is kept for the id.
    Refuse {
        /// Of the REQUEST or PUBLISH.
        id: u64,
        /// Why.
        status: Status,
    },
    /// Answer with HANDLED; nothing is kept for the id.
    RefuseHandler {
        /// Of the HANDLE.
        id: u64,
        /// Why.
        outcome: Outcome,
    },
    /// Hand the answer to whoever waits for it.
    Answered {
        /// What was kept for the delivery.
        ticket: D,
        /// The answer.
        answer: Answer,
    },
    /// Stop working on a REQUEST or PUBLISH: end it, and answer it with a RETURN.
    Cancel {
        /// Its id.
        id: u64,
    },
    /// Answer with PONG.
    Pong {
        /// Of the PING.
        token: u64,
    },
    /// Nothing.
    Nothing,
    /// Job code is done.
    Bye,
}

/// How job code ended a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With a reply.
    Reply {
        /// Media type of the payload.
        content_type: Option<Arc<str>>,
        /// The reply.
        payload: Bytes,
    },
    /// Without one.
    Fail {
        /// Why.
        status: Status,
        /// A text for the requester.
        detail: Bytes,
    },
}

/// What a handler of job code is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// One channel and topic.
    Exact(ChannelTopic),
    /// Every topic of a channel.
    Channel(Channel),
    /// Everything that is not of the system.
    All,
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
            ToCell::Request { id, to, channel, topic, budget_ms, content_type, payload } => {
                self.take_id(id)?;
                let checked = address(&to, &channel, &topic);
                match checked.and_then(|found| self.admit(id, payload.len(), true).map(|()| found))
                {
                    Ok((to, target)) => {
                        let budget = Duration::from_millis(
                            budget_ms.unwrap_or(self.limits.budget_ms).into(),
                        );
                        Step::Request { id, to, target, budget, content_type, payload }
                    }
                    Err(status) => Step::Refuse { id, status },
                }
            }
            ToCell::Publish { id, to, channel, topic, content_type, payload } => {
                self.take_id(id)?;
                let checked = address(&to, &channel, &topic);
                match checked.and_then(|found| self.admit(id, payload.len(), true).map(|()| found))
                {
                    Ok((to, target)) => Step::Publish { id, to, target, content_type, payload },
                    Err(status) => Step::Refuse { id, status },
                }
            }
            ToCell::Handle { id, channel, topic } => {
                self.take_id(id)?;
                match self.register(id, channel.as_deref(), topic.as_deref()) {
                    Ok(registration) => Step::Handle { id, registration },
                    Err(outcome) => Step::RefuseHandler { id, outcome },
                }
            }
            ToCell::DeliverReply { id, content_type, payload } => {
                self.answered(id, Answer::Reply { content_type, payload })?
            }
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

    /// Ends a REQUEST, PUBLISH or HANDLE and gives what was kept for it.
    ///
    /// `None` when it has ended already: whoever is second must not answer.
    pub fn end_request(&mut self, id: u64) -> Option<Option<R>> {
        let entry = self.requests.remove(&id)?;
        self.bytes -= entry.bytes;
        Some(entry.ticket)
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

    /// REQUEST, PUBLISH and HANDLE frames that have no answer yet, and the bytes they hold.
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

    fn admit(&mut self, id: u64, bytes: usize, can_be_cancelled: bool) -> Result<(), Status> {
        let fits = self.requests.len() < self.limits.requests_max as usize
            && self.bytes + bytes <= self.limits.bytes_max as usize;
        if !fits {
            return Err(Status::Overloaded);
        }
        self.bytes += bytes;
        self.requests.insert(id, Entry { bytes, can_be_cancelled, ticket: None });
        Ok(())
    }

    fn register(
        &mut self,
        id: u64,
        channel: Option<&str>,
        topic: Option<&str>,
    ) -> Result<Registration, Outcome> {
        let registration = registration(channel, topic)?;
        if self.handlers >= self.limits.handlers_max || self.admit(id, 0, false).is_err() {
            return Err(Outcome::TooMany);
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
    match well_known::lookup(&target) {
        Some(well_known::PING) => Ok((to, target)),
        Some(_) => Err(Status::Forbidden),
        None if well_known::is_reserved(target.channel()) => Err(Status::Forbidden),
        None => Ok((to, target)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Secret;

    type Side = CellSide<&'static str, &'static str>;

    fn side() -> Side {
        let limits = Limits {
            payload_max: 100,
            requests_max: 2,
            bytes_max: 150,
            handlers_max: 1,
            ..Limits::default()
        };
        Side::new(limits)
    }

    fn request(id: u64, to: &str, channel: &str, bytes: usize) -> ToCell {
        ToCell::Request {
            id,
            to: to.into(),
            channel: channel.into(),
            topic: "fetch".into(),
            budget_ms: None,
            content_type: None,
            payload: vec![0; bytes].into(),
        }
    }

    fn handle(id: u64, channel: Option<&str>, topic: Option<&str>) -> ToCell {
        ToCell::Handle { id, channel: channel.map(Into::into), topic: topic.map(Into::into) }
    }

    fn hello() -> ToCell {
        ToCell::Hello(Hello::new(Secret::take(&mut [1; 32])))
    }

    #[test]
    fn nothing_comes_before_hello_and_hello_comes_once() {
        assert!(greet(hello()).is_ok());
        let early = greet(ToCell::Ping { token: 1 });
        assert_eq!(early, Err(Violation::NoHello("PING")));
        assert_eq!(early.map_err(Violation::status), Err(Status::NoHello));
        assert_eq!(side().handle_frame(hello()), Err(Violation::SecondHello));
    }

    #[test]
    fn the_version_is_the_highest_that_both_sides_speak() {
        let hello = |version_min, version_max| Hello {
            version_min,
            version_max,
            secret: Secret::take(&mut [1; 32]),
        };
        assert_eq!(hello(1, 1).common_version(), Some(1));
        assert_eq!(hello(0, 9).common_version(), Some(1));
        assert_eq!(hello(2, 9).common_version(), None);
        assert_eq!(hello(0, 0).common_version(), None);
        assert_eq!(hello(2, 1).common_version(), None);
    }

    #[test]
    fn what_exceeds_the_limits_is_refused_and_not_kept() {
        let mut side = side();
        assert!(matches!(
            side.handle_frame(request(1, "server", "task", 100)),
            Ok(Step::Request { id: 1, .. })
        ));
        let too_many_bytes = side.handle_frame(request(2, "server", "task", 51));
        assert_eq!(too_many_bytes, Ok(Step::Refuse { id: 2, status: Status::Overloaded }));
        assert_eq!(side.outstanding(), (1, 100));
        assert!(matches!(
            side.handle_frame(request(3, "server", "task", 50)),
            Ok(Step::Request { id: 3, .. })
        ));
        let too_many = side.handle_frame(request(4, "server", "task", 0));
        assert_eq!(too_many, Ok(Step::Refuse { id: 4, status: Status::Overloaded }));

        assert_eq!(side.end_request(1), Some(None));
        assert_eq!(side.end_request(1), None);
        assert_eq!(side.outstanding(), (1, 50));
    }

    #[test]
    fn an_id_is_never_used_again() {
        let mut side = side();
        side.handle_frame(request(5, "server", "task", 0)).unwrap();
        for id in [5, 4, 0] {
            let stale = Violation::StaleId { id, last: 5 };
            assert_eq!(side.handle_frame(request(id, "server", "task", 0)), Err(stale));
            assert_eq!(side.handle_frame(handle(id, None, None)), Err(stale));
        }
        assert_eq!(side.outstanding().0, 1);
    }

    #[test]
    fn a_name_that_is_none_costs_the_message_and_not_the_connection() {
        let mut side = side();
        let bad_name = side.handle_frame(request(1, "Server", "task", 0));
        assert_eq!(bad_name, Ok(Step::Refuse { id: 1, status: Status::BadFqcn }));
        let bad_channel = side.handle_frame(request(2, "server", "Task", 0));
        assert_eq!(bad_channel, Ok(Step::Refuse { id: 2, status: Status::BadHeader }));
        let bad_selector = side.handle_frame(handle(3, None, Some("fetch")));
        let outcome = Outcome::BadSelector;
        assert_eq!(bad_selector, Ok(Step::RefuseHandler { id: 3, outcome }));
        assert_eq!(side.outstanding(), (0, 0));
    }

    #[test]
    fn c_05_job_code_cannot_speak_for_its_cell() {
        let mut side = Side::new(Limits::default());
        for (id, system) in (1..).zip(well_known::ALL) {
            let frame = ToCell::Publish {
                id,
                to: "server".into(),
                channel: system.channel.into(),
                topic: system.topic.into(),
                content_type: None,
                payload: Bytes::new(),
            };
            let step = side.handle_frame(frame).unwrap();
            if system == well_known::PING {
                assert!(matches!(step, Step::Publish { .. }));
            } else {
                assert_eq!(step, Step::Refuse { id, status: Status::Forbidden }, "{system:?}");
            }
        }
        let unknown = side.handle_frame(request(100, "server", well_known::PING.channel, 0));
        assert_eq!(unknown, Ok(Step::Refuse { id: 100, status: Status::Forbidden }));
    }

    #[test]
    fn handlers_are_counted_until_one_is_forgotten() {
        let mut side = side();
        let first = side.handle_frame(handle(1, Some("task"), None)).unwrap();
        let channel = "task".parse().unwrap();
        assert_eq!(first, Step::Handle { id: 1, registration: Registration::Channel(channel) });
        assert_eq!(side.handle_frame(ToCell::Cancel { id: 1 }), Ok(Step::Nothing));
        side.end_request(1);
        let second = side.handle_frame(handle(2, None, None));
        assert_eq!(second, Ok(Step::RefuseHandler { id: 2, outcome: Outcome::TooMany }));
        side.forget_handler();
        assert!(matches!(side.handle_frame(handle(3, None, None)), Ok(Step::Handle { .. })));
    }

    #[test]
    fn a_delivery_is_answered_once() {
        let mut side = side();
        let id = side.begin_delivery("ticket");
        let reply = ToCell::DeliverReply { id, content_type: None, payload: Bytes::new() };
        let step = side.handle_frame(reply.clone()).unwrap();
        assert!(matches!(step, Step::Answered { ticket: "ticket", .. }));
        assert_eq!(side.handle_frame(reply), Err(Violation::Unsolicited(id)));
        let never = ToCell::DeliverFail { id: 9, status: Status::Draining, detail: Bytes::new() };
        assert_eq!(side.handle_frame(never), Err(Violation::Unsolicited(9)));
        assert_eq!(side.deliveries(), 0);
    }

    #[test]
    fn a_cancel_that_crosses_the_answer_is_no_error() {
        let mut side = side();
        side.handle_frame(request(1, "server", "task", 0)).unwrap();
        assert_eq!(side.attach(1, "work"), None);
        assert_eq!(side.handle_frame(ToCell::Cancel { id: 1 }), Ok(Step::Cancel { id: 1 }));
        assert_eq!(side.end_request(1), Some(Some("work")));
        assert_eq!(side.handle_frame(ToCell::Cancel { id: 1 }), Ok(Step::Nothing));
        assert_eq!(side.attach(1, "late"), Some("late"));
    }
}
