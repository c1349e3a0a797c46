//! Whoever waits for the end of a request of this cell.

use std::{sync::Arc, time::Duration};

use cellbus_channels::{
    OneOfMany, Probe, Reply, RequestError,
    replies::{Overrun, Sink},
};
use cellbus_proto::{
    admission::Admitted,
    envelope::{Envelope, HopRecord, Kind},
    name::Fqcn,
};
use tokio::sync::{mpsc, oneshot};

use super::{GRACE, resend::Resending};

/// Where the end of a request is told.
#[derive(Debug)]
pub enum Answer {
    /// One reply or error.
    Once(oneshot::Sender<Result<Reply, RequestError>>),
    /// The same, with what the cells on the way have noted.
    Probe(oneshot::Sender<Probe>),
    /// Replies, and the end.
    Replies(Sink),
    /// One reply or error among those of other cells.
    OneOfMany(mpsc::UnboundedSender<OneOfMany>),
}

/// Whoever waits for the end of one request.
#[derive(Debug)]
pub(in crate::cell) struct Waiter {
    to: Fqcn,
    budget: Duration,
    waits: Waits,
}

#[derive(Debug)]
pub(super) enum Waits {
    /// For what comes first.
    Plain(Answer),
    /// For what comes to any copy of the request.
    Copies(Box<Resending>),
    /// The request with this number, for which start of the cell it is.
    Learns(u64),
    /// A ping of the cell itself, which nobody else waits for.
    Ping(
        oneshot::Sender<Result<Reply, RequestError>>,
        #[expect(dead_code, reason = "counted")] Arc<()>,
    ),
}

/// Whether the replies that are still to come are wanted.
pub(super) enum More {
    Wanted,
    Enough(Result<Reply, RequestError>),
}

impl Waiter {
    pub(super) fn new(to: Fqcn, budget: Duration, answer: Answer) -> Self {
        Self { to, budget, waits: Waits::Plain(answer) }
    }

    pub(super) fn of(to: Fqcn, budget: Duration, waits: Waits) -> Self {
        Self { to, budget, waits }
    }

    pub(super) fn to(&self) -> &Fqcn {
        &self.to
    }

    /// A ping of the cell itself, which `mark` counts.
    pub(in crate::cell) fn of_ping(
        answer: oneshot::Sender<Result<Reply, RequestError>>,
        to: Fqcn,
        budget: Duration,
        mark: Arc<()>,
    ) -> Self {
        Self { to, budget, waits: Waits::Ping(answer, mark) }
    }

    /// How long an answer is waited for.
    pub(super) fn patience(&self) -> Duration {
        match self.waits {
            Waits::Plain(_) | Waits::Copies(_) => self.budget + GRACE,
            // What is asked is whether the answer comes in time.
            Waits::Learns(_) | Waits::Ping(..) => self.budget,
        }
    }

    pub(super) fn waits(&mut self) -> &mut Waits {
        &mut self.waits
    }

    /// Whether the first answer is the end.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.waits, Waits::Plain(_) | Waits::Ping(..))
    }

    /// Taken apart, for a request that is to be sent more than once.
    pub(super) fn into_answer(self) -> Option<(Fqcn, Duration, Answer)> {
        match self.waits {
            Waits::Plain(answer) => Some((self.to, self.budget, answer)),
            Waits::Copies(_) | Waits::Learns(_) | Waits::Ping(..) => None,
        }
    }

    /// The number of the ping that this request waits for before it leaves.
    pub(super) fn ping(&self) -> Option<u64> {
        match &self.waits {
            Waits::Copies(resending) => resending.ping(),
            Waits::Plain(_) | Waits::Learns(_) | Waits::Ping(..) => None,
        }
    }

    /// The error of a request whose time is over and that was certainly not executed.
    pub(super) fn certain_end(&self, me: &Fqcn) -> Option<RequestError> {
        match &self.waits {
            Waits::Copies(resending) => resending.certain_end(me),
            Waits::Plain(_) | Waits::Learns(_) | Waits::Ping(..) => None,
        }
    }

    pub(super) fn timed_out(&self) -> RequestError {
        RequestError::TimedOut { to: self.to.clone(), budget: self.budget }
    }

    /// Ends with what a reply or a return says.
    pub(super) fn finish(self, admitted: Admitted) {
        let (path, outcome) = read(admitted);
        self.tell(path, outcome);
    }

    /// A reply that more follow.
    pub(super) fn more(&mut self, admitted: Admitted) -> More {
        let (_, outcome) = read(admitted);
        match (&self.waits, outcome) {
            (Waits::Plain(Answer::Replies(sink)), Ok(reply)) => match sink.push(reply) {
                Ok(()) => More::Wanted,
                Err(Overrun) => {
                    More::Enough(Err(RequestError::SlowConsumer { from: self.to.clone() }))
                }
            },
            (Waits::Plain(_) | Waits::Copies(_) | Waits::Learns(_) | Waits::Ping(..), outcome) => {
                More::Enough(outcome)
            }
        }
    }

    pub(in crate::cell) fn fail(self, error: RequestError) {
        self.end(Err(error));
    }

    pub(super) fn end(self, outcome: Result<Reply, RequestError>) {
        self.tell(Vec::new(), outcome);
    }

    fn tell(self, path: Vec<HopRecord>, outcome: Result<Reply, RequestError>) {
        match self.waits {
            Waits::Plain(answer) => answer.tell(self.to, path, outcome),
            Waits::Copies(resending) => resending.into_answer().tell(self.to, path, outcome),
            Waits::Learns(_) => {}
            Waits::Ping(answer, _) => Answer::Once(answer).tell(self.to, path, outcome),
        }
    }
}

impl Answer {
    fn tell(self, to: Fqcn, path: Vec<HopRecord>, outcome: Result<Reply, RequestError>) {
        // Whoever waited may have given up in the meantime.
        match self {
            Self::Once(answer) => drop(answer.send(outcome)),
            Self::Probe(answer) => drop(answer.send(Probe { path, outcome })),
            Self::Replies(sink) => sink.end(outcome),
            Self::OneOfMany(answers) => drop(answers.send((to, outcome))),
        }
    }
}

/// What an answer says, and what the cells on the way of the request have noted.
fn read(admitted: Admitted) -> (Vec<HopRecord>, Result<Reply, RequestError>) {
    let Envelope { header, payload } = admitted.into_envelope();
    let (content_type, path) = match header.extras {
        Some(extras) => (extras.content_type, extras.path),
        None => (None, Vec::new()),
    };
    let outcome = match header.kind {
        Kind::Return { status, by, .. } => {
            Err(RequestError::Returned { by, status, detail: payload })
        }
        Kind::Reply { .. } | Kind::Publish | Kind::Request => {
            let mut reply = Reply::from(payload);
            reply.content_type = content_type;
            Ok(reply)
        }
    };
    (path, outcome)
}

/// What an answer says of a request that is not over with it.
pub(super) fn error_of(admitted: Admitted) -> Result<Reply, RequestError> {
    read(admitted).1
}
