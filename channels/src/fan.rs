//! One message to many cells, and the outcomes as they come.

use std::collections::BTreeSet;

use bytes::Bytes;
use cellbus_proto::{envelope::Flags, name::Fqcn};
use futures_util::stream;

use crate::{
    bus::Bus,
    error::{PublishError, RequestError},
    filter::Point,
    gather::{Gather, GatherPolicy, Straggler},
    message::{RequestBuilder, without_receipt},
    passage,
    transport::{BoxStream, OneOfMany, Outgoing},
};

/// The cells that a message is for, and how long their outcomes are waited for.
#[derive(Debug)]
pub struct Many {
    targets: Targets,
    policy: GatherPolicy,
}

#[derive(Debug)]
pub(crate) enum Targets {
    /// One message for all of these.
    Named(Vec<Fqcn>),
    /// One message for whatever is registered below.
    Below,
    /// A message for each.
    Each(Vec<(Fqcn, Bytes)>),
}

/// Cells that get the same message.
struct Group {
    to: Vec<Fqcn>,
    outgoing: Outgoing,
}

/// What is to be sent, and to whom it is not sent after all.
#[derive(Default)]
struct Plan {
    groups: Vec<Group>,
    stopped: Vec<(Fqcn, RequestError)>,
}

impl Many {
    pub(crate) fn new(targets: Targets) -> Self {
        Self { targets, policy: GatherPolicy::default() }
    }
}

impl RequestBuilder<Many> {
    /// How many replies are enough; failures do not count. Default: all cells are waited for. What becomes of
    /// the others then, [`Self::stragglers`] says.
    pub fn quorum(mut self, replies: usize) -> Self {
        self.to.policy.quorum = Some(replies);
        self
    }

    /// What becomes of cells that have not answered when the quorum is there. Default: [`Straggler::Wait`].
    pub fn stragglers(mut self, stragglers: Straggler) -> Self {
        self.to.policy.stragglers = stragglers;
        self
    }

    /// Sends the request to all of them and gives the outcomes as they come, exactly one for each message.
    ///
    /// At most one reply of each cell is kept until it is taken.
    ///
    /// # Cancellation
    /// Dropping the future sends nothing more; dropping the stream gives up on all that is outstanding.
    pub async fn send(self) -> Gather {
        let outgoing = without_receipt(self.outgoing.clone());
        self.gather(outgoing).await
    }

    /// Publishes to all of them. Without a receipt, the end says only that this cell has taken the message;
    /// what becomes of each copy is counted where it ends. With one, every cell has accepted it.
    ///
    /// # Errors
    /// [`PublishError`], of the first cell: this cell, or a filter of it, did not take the message for it, or
    /// with a [`receipt`](Self::receipt), that cell did not. The others may have got it;
    /// [`Self::publish_with_receipts`] says which.
    pub async fn publish(self) -> Result<(), PublishError> {
        if self.outgoing.flags.contains(Flags::RECEIPT) {
            let outgoing = self.outgoing.clone();
            let receipts = self.gather(outgoing).await.all().await;
            let mut failed = receipts.into_iter().filter_map(|(_, outcome)| outcome.err());
            return failed.next().map_or(Ok(()), |error| Err(error.into()));
        }
        let me = self.bus.name();
        if !self.is_carried() {
            return Err(passage::not_carried(&me).into());
        }
        let outgoing = self.outgoing;
        let Plan { groups, stopped } = plan(&self.bus, self.to.targets, outgoing).await;
        let mut first = match stopped.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        };
        for Group { to, outgoing } in groups {
            first = first.and(self.bus.transport().publish_many(to, outgoing).await);
        }
        first
    }

    /// Publishes to all of them and gives one outcome for each message: `Ok`, with an empty reply, where the
    /// destination cell has accepted it.
    ///
    /// # Cancellation
    /// As [`Self::send`].
    pub async fn publish_with_receipts(self) -> Gather {
        let builder = self.receipt();
        let outgoing = builder.outgoing.clone();
        builder.gather(outgoing).await
    }

    async fn gather(self, outgoing: Outgoing) -> Gather {
        let is_carried = self.is_carried();
        let Self { bus, to: Many { targets, policy }, .. } = self;
        let target = outgoing.target.clone();
        let Plan { mut groups, mut stopped } = plan(&bus, targets, outgoing).await;
        if !is_carried {
            let me = bus.name();
            let all = groups.drain(..).flat_map(|group| group.to);
            stopped.extend(all.map(|to| (to, passage::not_carried(&me))));
        }
        let mut left: Vec<Fqcn> = stopped.iter().map(|(to, _)| to.clone()).collect();
        let mut streams: Vec<BoxStream<OneOfMany>> = Vec::with_capacity(groups.len() + 1);
        if !stopped.is_empty() {
            streams.push(Box::pin(stream::iter(
                stopped.into_iter().map(|(to, error)| (to, Err(error))),
            )));
        }
        for Group { to, outgoing } in groups {
            left.extend_from_slice(&to);
            streams.push(send_group(&bus, to, outgoing));
        }
        Gather::new(streams, left, policy, (bus, target))
    }
}

/// A message for one cell is a message like any other, with all that it can ask for.
fn send_group(bus: &Bus, mut to: Vec<Fqcn>, outgoing: Outgoing) -> BoxStream<OneOfMany> {
    let wants_receipt = outgoing.flags.contains(Flags::RECEIPT);
    match to.pop() {
        Some(one) if to.is_empty() && !wants_receipt => {
            let asked = bus.transport().request(one.clone(), outgoing);
            Box::pin(stream::once(async move { (one, asked.await) }))
        }
        last => {
            to.extend(last);
            bus.transport().multicast(to, outgoing)
        }
    }
}

/// Who gets what, after the filters.
async fn plan(bus: &Bus, targets: Targets, outgoing: Outgoing) -> Plan {
    let named = match targets {
        Targets::Each(each) => {
            let mut plan = Plan::default();
            for (to, payload) in each {
                let own = Outgoing { payload, ..outgoing.clone() };
                plan.add(bus, to, own, false);
            }
            return plan;
        }
        Targets::Named(named) => named,
        Targets::Below => bus.transport().below().await,
    };
    let mut seen = BTreeSet::new();
    let once: Vec<Fqcn> = named.into_iter().filter(|to| seen.insert(to.clone())).collect();
    if once.is_empty() {
        return Plan::default();
    }
    // Copies that are sent again one by one cannot share a message.
    let is_shared = outgoing.retry().is_none();
    if is_shared && !bus.filters().applies(Point::RequestOut, &outgoing.target) {
        return Plan { groups: vec![Group { to: once, outgoing }], stopped: Vec::new() };
    }
    let mut plan = Plan::default();
    for to in once {
        plan.add(bus, to, outgoing.clone(), is_shared);
    }
    plan
}

impl Plan {
    /// What the filters make alike of one message stays one message.
    fn add(&mut self, bus: &Bus, to: Fqcn, outgoing: Outgoing, is_shared: bool) {
        match passage::out(bus.filters(), &to, outgoing) {
            Ok(outgoing) => match self.groups.last_mut() {
                Some(group) if is_shared && group.outgoing == outgoing => group.to.push(to),
                Some(_) | None => self.groups.push(Group { to: vec![to], outgoing }),
            },
            Err(error) => self.stopped.push((to, passage::stopped(&bus.name(), &error))),
        }
    }
}
