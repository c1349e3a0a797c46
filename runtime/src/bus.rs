//! A cell of this process as a transport of the bus.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use actix::Addr;
use bytes::Bytes;
use cellbus_channels::{
    BoxFuture, BoxStream, Conduit, ConduitHandler, ConduitOptions, Event, Flags, HandleError,
    Handler, HandlerOptions, OneOfMany, Outgoing, Passage, Probe, PublishError, Reply,
    RequestError, Selector, Transport,
    filter::Filters,
    replies::{self, Buffer},
    transfer::Shelf,
};
use cellbus_proto::{
    name::{Fqcn, Segment},
    status::Status,
    transcript::Signable,
};
use futures_util::{Stream, stream};
use tokio::sync::{broadcast::error::RecvError, mpsc, oneshot, watch};

use crate::{
    cell::{
        Answer, Ask, AskMany, Below, Cell, CellState, GiveUp, GiveUpMany, HandlerTable, LeaseFor,
        SubmitMany, TakeAsks, check_outgoing, millis, publish_of,
    },
    clock, conduits,
    ingress::{self, Lease, Leases, NotPushed, PlainWay},
    own::Own,
    seam::{Gone, post},
};

mod protected;
mod signed;

/// Carries the messages of a bus through a cell of this process.
#[derive(Clone, Debug)]
pub(crate) struct CellTransport {
    pub(crate) own: Arc<Own>,
    pub(crate) cell: watch::Receiver<Option<Addr<Cell>>>,
    pub(crate) handlers: HandlerTable,
    pub(crate) state: watch::Receiver<CellState>,
    pub(crate) leases: Arc<Leases>,
}

/// Tells the cell when nobody waits for a request any more.
struct Waiting {
    cell: Addr<Cell>,
    sequence: u64,
    done: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done {
            // Fails only when the cell has ended, and the request with it.
            let _ = post(&self.cell, GiveUp(self.sequence));
        }
    }
}

/// A request that has been handed to the cell, and its end; gives up when dropped before.
struct Asked {
    own: Arc<Own>,
    result: oneshot::Receiver<Result<Reply, RequestError>>,
    waiting: Waiting,
    begun: Instant,
}

impl Future for Asked {
    type Output = Result<Reply, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.result).poll(cx));
        self.waiting.done = true;
        self.own.stats.asked(self.begun);
        Poll::Ready(outcome.unwrap_or(Err(RequestError::Closed)))
    }
}

/// The replies to one request; gives up when dropped before the end.
struct Taking {
    buffer: Buffer,
    waiting: Waiting,
}

impl Stream for Taking {
    type Item = Result<Reply, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.buffer.poll(cx);
        if self.buffer.is_ended() {
            self.waiting.done = true;
        }
        next
    }
}

/// The outcomes of one message to many; gives up on those that have none when dropped.
struct Collecting {
    cell: Addr<Cell>,
    left: BTreeMap<Fqcn, u64>,
    answers: mpsc::UnboundedReceiver<OneOfMany>,
}

impl Stream for Collecting {
    type Item = OneOfMany;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.answers.poll_recv(cx));
        if let Some((to, _)) = &next {
            self.left.remove(to);
        }
        Poll::Ready(next)
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        if !self.left.is_empty() {
            let sequences = std::mem::take(&mut self.left).into_values().collect();
            // Fails only when the cell has ended, and the requests with it.
            let _ = post(&self.cell, GiveUpMany(sequences));
        }
    }
}

/// Hands a request to the cell.
fn tell(own: &Arc<Own>, cell: &Addr<Cell>, ask: Ask) -> Result<(), Gone> {
    if own.asks.push(ask) { post(cell, TakeAsks::of(own)) } else { Ok(()) }
}

impl CellTransport {
    /// Publishes where the way is known and has room. The lease is of a message with the same flags, so what
    /// needs protection, or is waited for, is not among it.
    fn publish_now(&self, to: &Fqcn, outgoing: &Outgoing) -> Option<Result<(), PublishError>> {
        let generation = self.own.generation();
        let pushed = self.leases.with(to, &outgoing.target, generation, |lease| {
            let budget = outgoing.budget.unwrap_or(lease.budget);
            let sendable = lease.common.flags == outgoing.flags
                && lease.lane == outgoing.lane
                && check_outgoing(outgoing, lease.payload_max).is_ok()
                && millis(budget) > 0
                && lease.has_room(outgoing.lane)
                && self.own.ingress.has_room();
            if !sendable {
                return None;
            }
            let sequence = self.own.next_sequence();
            let common = Arc::clone(&lease.common);
            let envelope = publish_of(common, sequence, outgoing, millis(budget));
            Some(ingress::push(&self.own, envelope, &lease.filter))
        })??;
        match pushed {
            Ok(()) => Some(Ok(())),
            Err(NotPushed::Full) => None,
            Err(NotPushed::Gone) => Some(Err(PublishError::Closed)),
        }
    }

    /// Publishes when the way is known and has room, within the message's budget.
    async fn publish_later(self, to: Fqcn, outgoing: Outgoing) -> Result<(), PublishError> {
        let mut end = None;
        loop {
            let cell = self.current().ok_or(PublishError::Closed)?;
            let asked = LeaseFor { to: to.clone(), outgoing: outgoing.clone() };
            let by = || self.own.name.clone();
            let lease = cell.send(asked).await.map_err(|_| PublishError::Closed)?;
            let lease = lease.map_err(|status| PublishError::Refused { by: by(), status })?;
            let budget = outgoing.budget.unwrap_or(lease.budget);
            let end = *end.get_or_insert_with(|| tokio::time::Instant::now() + budget);
            self.leases.insert(to.clone(), outgoing.target.clone(), lease.clone());
            if let Some(outcome) = self.publish_now(&to, &outgoing) {
                return outcome;
            }
            let room = async {
                lease.wait_room(outgoing.lane).await;
                self.own.ingress.wait_room().await;
            };
            if tokio::time::timeout_at(end, room).await.is_err() {
                return Err(PublishError::Refused { by: by(), status: Status::Overloaded });
            }
        }
    }

    /// Hands a request over; `None` when there is no cell.
    fn ask_now(&self, to: Fqcn, outgoing: Outgoing) -> Option<Asked> {
        let (cell, own) = (self.current()?, Arc::clone(&self.own));
        let sequence = own.next_sequence();
        let begun = clock::now();
        let (answer, result) = oneshot::channel();
        let answer = Answer::Once(answer);
        tell(&own, &cell, Ask { sequence, to, outgoing, answer }).ok()?;
        Some(Asked { own, result, waiting: Waiting { cell, sequence, done: false }, begun })
    }

    fn current(&self) -> Option<Addr<Cell>> {
        self.cell.borrow().clone()
    }

    /// Asks, and waits for what `answer` is the other end of; `None` when the cell has ended.
    fn ask<T: Send + 'static>(
        &self,
        to: Fqcn,
        outgoing: Outgoing,
        answer: fn(oneshot::Sender<T>) -> Answer,
    ) -> BoxFuture<Option<T>> {
        let Some(cell) = self.current() else { return Box::pin(std::future::ready(None)) };
        let (own, sequence) = (Arc::clone(&self.own), self.own.next_sequence());
        Box::pin(async move {
            let (sender, result) = oneshot::channel();
            let ask = Ask { sequence, to, outgoing, answer: answer(sender) };
            let begun = clock::now();
            tell(&own, &cell, ask).ok()?;
            let mut waiting = Waiting { cell, sequence, done: false };
            let outcome = result.await.ok();
            own.stats.asked(begun);
            waiting.done = true;
            outcome
        })
    }
}

impl Transport for CellTransport {
    fn name(&self) -> Fqcn {
        self.own.name.clone()
    }

    fn request(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<Reply, RequestError>> {
        if self.protects(std::slice::from_ref(&to), &outgoing) {
            return Box::pin(self.clone().ask_protected(to, outgoing));
        }
        match self.ask_now(to, outgoing) {
            Some(asked) => Box::pin(asked),
            None => Box::pin(std::future::ready(Err(RequestError::Closed))),
        }
    }

    fn publish_at_once(&self, to: &Fqcn, outgoing: &Outgoing) -> Option<Result<(), PublishError>> {
        self.publish_now(to, outgoing)
    }

    fn passage(&self, to: &Fqcn, outgoing: &Outgoing) -> Option<Box<dyn Passage>> {
        if outgoing.content_type.is_some() || outgoing.rare.is_some() {
            return None;
        }
        let generation = self.own.generation();
        let lease = self.leases.with(to, &outgoing.target, generation, Lease::clone)?;
        let budget_ms = millis(outgoing.budget.unwrap_or(lease.budget));
        let is_alike = lease.common.flags == outgoing.flags && lease.lane == outgoing.lane;
        (is_alike && budget_ms > 0).then(|| {
            let own = Arc::clone(&self.own);
            Box::new(PlainWay { own, lease, budget_ms }) as Box<dyn Passage>
        })
    }

    fn publish(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<(), PublishError>> {
        if self.protects(std::slice::from_ref(&to), &outgoing) {
            return Box::pin(self.clone().publish_protected(to, outgoing));
        }
        if outgoing.flags.contains(Flags::RECEIPT) {
            let receipt = self.ask(to, outgoing, Answer::Once);
            return Box::pin(async move {
                let receipt = receipt.await.unwrap_or(Err(RequestError::Closed));
                receipt.map(|_empty| ()).map_err(PublishError::from)
            });
        }
        Box::pin(self.clone().publish_later(to, outgoing))
    }

    fn register(
        &self,
        selector: Selector,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        self.register_with(selector, HandlerOptions::default(), handler)
    }

    fn register_with(
        &self,
        selector: Selector,
        options: HandlerOptions,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        let outcome = self.handlers.add(selector, options, handler);
        Box::pin(std::future::ready(outcome))
    }

    fn closed(&self) -> BoxFuture<()> {
        let mut state = self.state.clone();
        Box::pin(async move {
            // Ends also when the cell is gone without saying so.
            let _ = state.wait_for(|state| *state == CellState::Stopped).await;
        })
    }

    fn filters(&self) -> Filters {
        self.own.filters.clone()
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn replies(&self, to: Fqcn, outgoing: Outgoing) -> BoxStream<Result<Reply, RequestError>> {
        if self.protects(std::slice::from_ref(&to), &outgoing) {
            return self.clone().replies_protected(to, outgoing);
        }
        let sequence = self.own.next_sequence();
        let (sink, buffer) = replies::buffer();
        let ask = Ask { sequence, to, outgoing, answer: Answer::Replies(sink) };
        match self.current() {
            Some(cell) if tell(&self.own, &cell, ask).is_ok() => {
                Box::pin(Taking { buffer, waiting: Waiting { cell, sequence, done: false } })
            }
            Some(_) | None => Box::pin(stream::iter([Err(RequestError::Closed)])),
        }
    }

    fn multicast(&self, to: Vec<Fqcn>, outgoing: Outgoing) -> BoxStream<OneOfMany> {
        if self.protects(&to, &outgoing) {
            return self.each_protected(to, &outgoing);
        }
        // One outcome comes for each cell that is named, and no more.
        let (sender, answers) = mpsc::unbounded_channel();
        let numbered: Vec<(u64, Fqcn)> =
            to.into_iter().map(|to| (self.own.next_sequence(), to)).collect();
        let left = numbered.iter().map(|(sequence, to)| (to.clone(), *sequence)).collect();
        // What has no outcome when the cell ends is known to whoever gathers them.
        match self.current() {
            Some(cell)
                if post(&cell, AskMany { to: numbered, outgoing, answers: sender }).is_ok() =>
            {
                Box::pin(Collecting { cell, left, answers })
            }
            Some(_) | None => Box::pin(stream::empty()),
        }
    }

    fn publish_many(
        &self,
        to: Vec<Fqcn>,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), PublishError>> {
        if self.protects(&to, &outgoing) {
            return Box::pin(self.clone().publish_each_protected(to, outgoing));
        }
        let (cell, by) = (self.current(), self.own.name.clone());
        Box::pin(async move {
            let cell = cell.ok_or(PublishError::Closed)?;
            let submit = SubmitMany { to, outgoing };
            let taken = cell.send(submit).await.map_err(|_| PublishError::Closed)?;
            taken.map_err(|status| PublishError::Refused { by, status })
        })
    }

    fn probe(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Probe> {
        if self.protects(std::slice::from_ref(&to), &outgoing) {
            return self.clone().probe_protected(to, outgoing);
        }
        let asked = self.ask(to, outgoing, Answer::Probe);
        Box::pin(async move {
            let closed = || Probe { path: Vec::new(), outcome: Err(RequestError::Closed) };
            asked.await.unwrap_or_else(closed)
        })
    }

    fn open_conduit(
        &self,
        to: Fqcn,
        outgoing: Outgoing,
        options: ConduitOptions,
    ) -> BoxFuture<Result<(Reply, Conduit), RequestError>> {
        Box::pin(conduits::open(Arc::clone(&self.own), to, outgoing, options))
    }

    fn serve_conduits(
        &self,
        handler: Arc<dyn ConduitHandler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        Box::pin(std::future::ready(self.own.conduits.serve(handler)))
    }

    fn project(&self) -> Option<Segment> {
        Some(self.own.identity.project.clone())
    }

    fn unix_ms(&self) -> u64 {
        self.own.wall.unix_ms()
    }

    fn shelf(&self) -> Shelf {
        self.own.shelf.clone()
    }

    fn sign(&self, signable: Signable) -> BoxFuture<Result<Bytes, Status>> {
        Box::pin(signed::sign(Arc::clone(&self.own), signable))
    }

    fn verify(
        &self,
        signer: Fqcn,
        signable: Signable,
        signature: Bytes,
    ) -> BoxFuture<Result<(), RequestError>> {
        Box::pin(self.clone().verify_signed(signer, signable, signature))
    }

    fn below(&self) -> BoxFuture<Vec<Fqcn>> {
        let cell = self.current();
        Box::pin(async move {
            match cell {
                Some(cell) => cell.send(Below).await.unwrap_or_default(),
                None => Vec::new(),
            }
        })
    }

    fn events(&self) -> BoxStream<Event> {
        let events = self.own.notices.subscribe();
        let state = self.state.clone();
        Box::pin(stream::unfold((events, state), |(mut events, mut state)| async move {
            let stopped = state.wait_for(|state| *state == CellState::Stopped);
            let event = tokio::select! {
                biased;
                event = events.recv() => event.or_else(|error| match error {
                    RecvError::Lagged(missed) => Ok(Event::Lagged(missed)),
                    RecvError::Closed => Err(()),
                }),
                _stopped = stopped => Err(()),
            };
            Some((event.ok()?, (events, state)))
        }))
    }
}
