//! The outcomes of one message to many cells: as they come, until enough are there.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use cellbus_proto::name::{ChannelTopic, Fqcn};
use futures_core::Stream;
use futures_util::{StreamExt, stream::SelectAll};
use tokio::time::{Sleep, sleep};

use crate::{
    bus::Bus,
    error::RequestError,
    handler::Reply,
    passage,
    transport::{BoxStream, OneOfMany},
};

/// What becomes of cells that have not answered when enough others have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Straggler {
    /// They are waited for, as long as the budget lasts.
    #[default]
    Wait,
    /// They are waited for so much longer, then given up on.
    Grace(Duration),
    /// They are given up on at once.
    Drop,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GatherPolicy {
    pub(crate) quorum: Option<usize>,
    pub(crate) stragglers: Straggler,
}

/// The outcomes of one message to many cells, in the order in which they come.
///
/// Every cell has exactly one. Those that are given up on come last, with [`RequestError::Cancelled`]; their
/// handlers are told. Dropping the stream gives up on all that is outstanding.
#[must_use = "a stream does nothing until it is polled"]
pub struct Gather {
    outcomes: SelectAll<BoxStream<OneOfMany>>,
    left: BTreeMap<Fqcn, usize>,
    policy: GatherPolicy,
    replies: usize,
    grace: Option<Pin<Box<Sleep>>>,
    /// Why all that is left has no other outcome.
    over: Option<Over>,
    bus: Bus,
    target: ChannelTopic,
}

#[derive(Clone, Copy)]
enum Over {
    Enough,
    Closed,
}

impl Gather {
    pub(crate) fn new(
        streams: Vec<BoxStream<OneOfMany>>,
        to: Vec<Fqcn>,
        policy: GatherPolicy,
        (bus, target): (Bus, ChannelTopic),
    ) -> Self {
        let mut left = BTreeMap::new();
        for to in to {
            *left.entry(to).or_insert(0) += 1;
        }
        let outcomes = streams.into_iter().collect();
        let mut gather =
            Self { outcomes, left, policy, replies: 0, grace: None, over: None, bus, target };
        gather.look_at_quorum();
        gather
    }

    /// The next outcome; `None` when every cell had its own.
    ///
    /// # Cancellation
    /// Dropping the future loses no outcome.
    pub async fn next(&mut self) -> Option<OneOfMany> {
        StreamExt::next(self).await
    }

    /// All outcomes, in the order in which they came.
    pub async fn all(self) -> Vec<OneOfMany> {
        self.collect().await
    }

    /// Messages that have no outcome yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.left.values().sum()
    }

    fn look_at_quorum(&mut self) {
        if self.policy.quorum.is_none_or(|quorum| self.replies < quorum) || self.over.is_some() {
            return;
        }
        match self.policy.stragglers {
            Straggler::Wait => {}
            Straggler::Grace(grace) => {
                self.grace.get_or_insert_with(|| Box::pin(sleep(grace)));
            }
            Straggler::Drop => self.end(Over::Enough),
        }
    }

    fn end(&mut self, over: Over) {
        self.over = Some(over);
        self.grace = None;
        // Dropping what is outstanding gives it up.
        self.outcomes.clear();
    }

    /// The outcome of a cell that has no other.
    fn take_left(&mut self, over: Over) -> Option<OneOfMany> {
        let (to, _) = self.left.first_key_value()?;
        let to = to.clone();
        self.settle(&to);
        let error = match over {
            Over::Enough => RequestError::Cancelled { to: to.clone() },
            Over::Closed => RequestError::Closed,
        };
        Some((to, Err(error)))
    }

    /// `false` for an outcome that no message is left for.
    fn settle(&mut self, to: &Fqcn) -> bool {
        let Some(left) = self.left.get_mut(to) else { return false };
        *left -= 1;
        if *left == 0 {
            self.left.remove(to);
        }
        true
    }
}

impl Stream for Gather {
    type Item = (Fqcn, Result<Reply, RequestError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(over) = self.over {
                return Poll::Ready(self.take_left(over));
            }
            match self.outcomes.poll_next_unpin(cx) {
                Poll::Ready(Some((to, outcome))) => {
                    if !self.settle(&to) {
                        continue;
                    }
                    let me = self.bus.name();
                    let outcome =
                        passage::back(self.bus.filters(), &me, &to, &self.target, outcome);
                    self.replies += usize::from(outcome.is_ok());
                    self.look_at_quorum();
                    return Poll::Ready(Some((to, outcome)));
                }
                Poll::Ready(None) => self.end(Over::Closed),
                Poll::Pending => match &mut self.grace {
                    Some(grace) => {
                        std::task::ready!(grace.as_mut().poll(cx));
                        self.end(Over::Enough);
                    }
                    None => return Poll::Pending,
                },
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.outstanding(), Some(self.outstanding()))
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gather({} of {} outstanding)", self.outstanding(), self.target)
    }
}
