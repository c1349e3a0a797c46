//! A cell of this process as a transport of the bus.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actix::Addr;
use cellbus_channels::{
    BoxFuture, BoxStream, Event, Flags, HandleError, Handler, HandlerOptions, OneOfMany, Outgoing, Probe,
    PublishError, Reply, RequestError, Selector, Transport,
    filter::Filters,
    replies::{self, Buffer},
};
use cellbus_proto::name::Fqcn;
use futures_util::{Stream, stream};
use tokio::sync::{broadcast::error::RecvError, mpsc, oneshot, watch};

use crate::{
    cell::{
        Answer, Ask, AskMany, Below, Cell, CellState, GiveUp, GiveUpMany, HandlerTable, Submit,
        SubmitMany,
    },
    own::Own,
    seam::post,
};

/// Carries the messages of a bus through a cell of this process.
#[derive(Debug)]
pub(crate) struct CellTransport {
    pub(crate) own: Arc<Own>,
    pub(crate) cell: watch::Receiver<Option<Addr<Cell>>>,
    pub(crate) handlers: HandlerTable,
    pub(crate) state: watch::Receiver<CellState>,
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

impl CellTransport {
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
        let sequence = self.own.next_sequence();
        Box::pin(async move {
            let (sender, result) = oneshot::channel();
            let ask = Ask { sequence, to, outgoing, answer: answer(sender) };
            post(&cell, ask).ok()?;
            let mut waiting = Waiting { cell, sequence, done: false };
            let outcome = result.await.ok();
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
        let Some(cell) = self.current() else {
            return Box::pin(std::future::ready(Err(RequestError::Closed)));
        };
        let sequence = self.own.next_sequence();
        Box::pin(async move {
            let (answer, result) = oneshot::channel();
            if post(&cell, Ask { sequence, to, outgoing, answer: Answer::Once(answer) }).is_err() {
                return Err(RequestError::Closed);
            }
            let mut waiting = Waiting { cell, sequence, done: false };
            let outcome = result.await.unwrap_or(Err(RequestError::Closed));
            waiting.done = true;
            outcome
        })
    }

    fn publish(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<(), PublishError>> {
        if outgoing.flags.contains(Flags::RECEIPT) {
            let receipt = self.ask(to, outgoing, Answer::Once);
            return Box::pin(async move {
                let receipt = receipt.await.unwrap_or(Err(RequestError::Closed));
                receipt.map(|_empty| ()).map_err(PublishError::from)
            });
        }
        let (cell, by) = (self.current(), self.own.name.clone());
        Box::pin(async move {
            let cell = cell.ok_or(PublishError::Closed)?;
            let submit = Submit { to, outgoing };
            let taken = cell.send(submit).await.map_err(|_| PublishError::Closed)?;
            taken.map_err(|status| PublishError::Refused { by, status })
        })
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
        let sequence = self.own.next_sequence();
        let (sink, buffer) = replies::buffer();
        let ask = Ask { sequence, to, outgoing, answer: Answer::Replies(sink) };
        match self.current() {
            Some(cell) if post(&cell, ask).is_ok() => {
                Box::pin(Taking { buffer, waiting: Waiting { cell, sequence, done: false } })
            }
            Some(_) | None => Box::pin(stream::iter([Err(RequestError::Closed)])),
        }
    }

    fn multicast(&self, to: Vec<Fqcn>, outgoing: Outgoing) -> BoxStream<OneOfMany> {
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
        let (cell, by) = (self.current(), self.own.name.clone());
        Box::pin(async move {
            let cell = cell.ok_or(PublishError::Closed)?;
            let submit = SubmitMany { to, outgoing };
            let taken = cell.send(submit).await.map_err(|_| PublishError::Closed)?;
            taken.map_err(|status| PublishError::Refused { by, status })
        })
    }

    fn probe(&self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Probe> {
        let asked = self.ask(to, outgoing, Answer::Probe);
        Box::pin(async move {
            let closed = || Probe { path: Vec::new(), outcome: Err(RequestError::Closed) };
            asked.await.unwrap_or_else(closed)
        })
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
