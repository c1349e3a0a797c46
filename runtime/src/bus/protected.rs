//! Messages that leave protected from end to end: each to one cell, sealed or signed on its own.

use std::sync::Arc;

use actix::Addr;
use cellbus_channels::{
    BoxFuture, BoxStream, Flags, OneOfMany, Outgoing, Probe, PublishError, Reply, RequestError,
    replies,
};
use cellbus_proto::{envelope::Kind, name::Fqcn, status::Status};
use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::{CellTransport, Taking, Waiting, tell};
use crate::{
    cell::{Answer, Ask, Cell, KeyOf, SubmitProtected},
    clock,
    seal::{Awaited, Known, Leaf, message},
};

/// A message that is ready to be handed to the cell.
struct Ready {
    cell: Addr<Cell>,
    sequence: u64,
    outgoing: Outgoing,
    awaited: Option<Awaited>,
    /// What is sealed to a cell leaves in the order in which it was sealed.
    _turn: Option<OwnedMutexGuard<Option<Known>>>,
}

impl CellTransport {
    /// Whether a message needs protection that only one at a time can be given.
    pub(super) fn protects(&self, to: &[Fqcn], outgoing: &Outgoing) -> bool {
        self.own.protects(outgoing) || to.iter().any(|to| self.seals(to, outgoing))
    }

    fn seals(&self, to: &Fqcn, outgoing: &Outgoing) -> bool {
        outgoing.flags.contains(Flags::SEALED)
            || (*to != self.own.name && self.own.protection.requires_seal(&outgoing.target))
    }

    /// Seals what must be sealed, and gives it its number.
    async fn ready(
        &self,
        kind: Kind,
        to: &Fqcn,
        mut outgoing: Outgoing,
    ) -> Result<Ready, RequestError> {
        let cell = self.current().ok_or(RequestError::Closed)?;
        if !self.seals(to, &outgoing) {
            let sequence = self.own.next_sequence();
            return Ok(Ready { cell, sequence, outgoing, awaited: None, _turn: None });
        }
        let begun = clock::now();
        let mut turn = self.own.protection.place(to).lock_owned().await;
        let leaf = self.leaf(&cell, to, &outgoing, &mut turn).await?;
        outgoing.flags = outgoing.flags.with(Flags::SEALED);
        if outgoing.retry().is_some() {
            outgoing.flags = outgoing.flags.with(Flags::RETRY);
        }
        let sequence = self.own.next_sequence();
        let own = Arc::clone(&self.own);
        let header = own.envelope(kind, sequence, to, &outgoing, 1).header;
        let payload = outgoing.payload.clone();
        let seal = move || message::seal(&own, &header, &payload, &leaf);
        let sealed = tokio::task::spawn_blocking(seal).await;
        let sealed = sealed.map_err(|_ended| RequestError::Closed)?;
        outgoing.payload = sealed.map_err(|status| self.not_sealed(status))?;
        outgoing.budget = outgoing
            .budget
            .map(|budget| budget.saturating_sub(clock::now().saturating_duration_since(begun)));
        let awaited = Some(Awaited::new(&self.own, sequence));
        Ok(Ready { cell, sequence, outgoing, awaited, _turn: Some(turn) })
    }

    /// The certificate of `to`, asked for where it is not known.
    pub(super) async fn leaf(
        &self,
        cell: &Addr<Cell>,
        to: &Fqcn,
        outgoing: &Outgoing,
        known: &mut Option<Known>,
    ) -> Result<Arc<Leaf>, RequestError> {
        let now = || (clock::now(), self.own.wall.unix());
        let kept = known.as_ref().and_then(|known| {
            let (now, unix) = now();
            known.leaf(now, unix)
        });
        if let Some(leaf) = kept {
            return Ok(leaf);
        }
        let asked = KeyOf { cell: to.clone(), budget: outgoing.budget };
        let leaf = cell.send(asked).await.map_err(|_ended| RequestError::Closed)??;
        *known = Some(Known::new(Arc::clone(&leaf), clock::now()));
        Ok(leaf)
    }

    fn not_sealed(&self, status: Status) -> RequestError {
        let detail = if status == Status::SealKey {
            "the key of the destination's certificate is not one to seal to"
        } else {
            "this cell's own key did not sign"
        };
        RequestError::Returned { by: self.own.name.clone(), status, detail: detail.into() }
    }

    /// Whether a message came back because its destination has another certificate by now.
    fn is_outdated(&self, to: &Fqcn, error: &RequestError) -> bool {
        let is = error.status() == Status::SealKey && error.by() == Some(to);
        if is {
            self.own.protection.forget(to);
        }
        is
    }

    /// Asks, and waits for what `answer` is the other end of.
    async fn ask_ready<T>(
        &self,
        to: Fqcn,
        ready: Ready,
        answer: fn(oneshot::Sender<T>) -> Answer,
    ) -> Result<T, RequestError> {
        let Ready { cell, sequence, outgoing, awaited, _turn: turn } = ready;
        let (sender, result) = oneshot::channel();
        let ask = Ask { sequence, to, outgoing, answer: answer(sender) };
        let begun = clock::now();
        tell(&self.own, &cell, ask).map_err(|_gone| RequestError::Closed)?;
        drop(turn);
        let mut waiting = Waiting { cell, sequence, done: false };
        let outcome = result.await;
        waiting.done = true;
        self.own.stats.asked(begun);
        drop(awaited);
        outcome.map_err(|_gone| RequestError::Closed)
    }

    /// A request, or a publish with a receipt. Sealed to a certificate that is no longer the destination's,
    /// it was certainly not executed, and is sealed once more.
    pub(super) async fn ask_protected(
        self,
        to: Fqcn,
        outgoing: Outgoing,
    ) -> Result<Reply, RequestError> {
        let kind = outgoing.awaited_kind();
        let ready = self.ready(kind.clone(), &to, outgoing.clone()).await?;
        let outcome = self.ask_ready(to.clone(), ready, Answer::Once).await.flatten();
        match outcome {
            Err(error) if self.is_outdated(&to, &error) => {
                let ready = self.ready(kind, &to, outgoing).await?;
                self.ask_ready(to, ready, Answer::Once).await.flatten()
            }
            outcome => outcome,
        }
    }

    pub(super) async fn publish_protected(
        self,
        to: Fqcn,
        outgoing: Outgoing,
    ) -> Result<(), PublishError> {
        if outgoing.flags.contains(Flags::RECEIPT) {
            return self.ask_protected(to, outgoing).await.map(|_empty| ()).map_err(Into::into);
        }
        let by = self.own.name.clone();
        let ready = self.ready(Kind::Publish, &to, outgoing).await?;
        let Ready { cell, sequence, outgoing, awaited, _turn: turn } = ready;
        drop(awaited);
        let submit = SubmitProtected { sequence, to, outgoing };
        let taken = cell.send(submit).await.map_err(|_ended| PublishError::Closed)?;
        drop(turn);
        taken.map_err(|status| PublishError::Refused { by, status })
    }

    pub(super) fn replies_protected(
        self,
        to: Fqcn,
        outgoing: Outgoing,
    ) -> BoxStream<Result<Reply, RequestError>> {
        let begin = async move {
            let kind = outgoing.awaited_kind();
            let ready = self.ready(kind, &to, outgoing).await?;
            let Ready { cell, sequence, outgoing, awaited, _turn: turn } = ready;
            let (sink, buffer) = replies::buffer();
            let ask = Ask { sequence, to, outgoing, answer: Answer::Replies(sink) };
            tell(&self.own, &cell, ask).map_err(|_gone| RequestError::Closed)?;
            drop(turn);
            let taking = Taking { buffer, waiting: Waiting { cell, sequence, done: false } };
            Ok::<_, RequestError>(taking.map(move |reply| {
                let _until_the_end = &awaited;
                reply
            }))
        };
        let all = stream::once(begin).flat_map(|begun| match begun {
            Ok(replies) => replies.left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        });
        Box::pin(all)
    }

    pub(super) fn each_protected(
        &self,
        to: Vec<Fqcn>,
        outgoing: &Outgoing,
    ) -> BoxStream<OneOfMany> {
        let one = |to: Fqcn| {
            let asked = self.clone().ask_protected(to.clone(), outgoing.clone());
            async move { (to, asked.await) }
        };
        Box::pin(to.into_iter().map(one).collect::<FuturesUnordered<_>>())
    }

    pub(super) async fn publish_each_protected(
        self,
        to: Vec<Fqcn>,
        outgoing: Outgoing,
    ) -> Result<(), PublishError> {
        let mut first = Ok(());
        for to in to {
            first = first.and(self.clone().publish_protected(to, outgoing.clone()).await);
        }
        first
    }

    pub(super) fn probe_protected(self, to: Fqcn, outgoing: Outgoing) -> BoxFuture<Probe> {
        Box::pin(async move {
            let none = |error| Probe { path: Vec::new(), outcome: Err(error) };
            let ready = match self.ready(outgoing.awaited_kind(), &to, outgoing).await {
                Ok(ready) => ready,
                Err(error) => return none(error),
            };
            self.ask_ready(to, ready, Answer::Probe).await.unwrap_or_else(none)
        })
    }
}
