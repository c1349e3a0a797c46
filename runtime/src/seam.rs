//! Starting, bounding and pacing actors: the one place that knows how actix behaves.
//!
//! A mailbox's capacity bounds nothing (a fresh clone of an address always has a slot), so nothing here
//! counts on it: what a peer can cause is bounded by permits taken before a message is posted. An actor
//! that is flooded starves its arbiter, so every actor that takes outside traffic yields.

use std::sync::{Mutex, MutexGuard, PoisonError};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, dev::ToEnvelope};
use tokio::sync::oneshot;

/// The actor has ended; the message was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the actor has ended")]
pub struct Gone;

/// Posts a message whose memory is bounded already: by a permit that it carries, or by happening
/// once per link, timer or command.
///
/// # Errors
/// [`Gone`] when the actor has ended.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place, and what is posted is bounded"
)]
pub fn post<A, M>(addr: &Addr<A>, message: M) -> Result<(), Gone>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    if !addr.connected() {
        return Err(Gone);
    }
    addr.do_send(message);
    Ok(())
}

/// Makes a busy actor give way.
#[derive(Debug, Default)]
pub struct Pacer {
    handled: u32,
}

impl Pacer {
    /// Messages after which an actor lets others run.
    const TURN: u32 = 64;

    /// Counts `weight` messages and yields when the turn is over.
    pub fn pace<A>(&mut self, weight: u32, ctx: &mut Context<A>)
    where
        A: Actor<Context = Context<A>>,
    {
        self.handled = self.handled.saturating_add(weight.max(1));
        if self.handled >= Self::TURN {
            self.handled = 0;
            ctx.wait(actix::fut::wrap_future::<_, A>(tokio::task::yield_now()));
        }
    }
}

/// A list that an actor takes as a whole: whoever adds to it tells the actor only when it does not know
/// yet that something waits. A mailbox would cost an allocation and a turn for every item.
#[derive(Debug)]
pub struct Inbox<T>(Mutex<Waiting<T>>);

#[derive(Debug)]
struct Waiting<T> {
    items: Vec<T>,
    is_told: bool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self(Mutex::new(Waiting { items: Vec::new(), is_told: false }))
    }
}

impl<T> Inbox<T> {
    /// Adds an item, which must be bounded as what [`post`] takes; `true` when the actor is to be told.
    #[must_use]
    pub fn push(&self, item: T) -> bool {
        let mut waiting = self.lock();
        waiting.items.push(item);
        !std::mem::replace(&mut waiting.is_told, true)
    }

    /// Takes everything; the actor is to be told of what comes next.
    #[must_use]
    pub fn take(&self) -> Vec<T> {
        let mut waiting = self.lock();
        waiting.is_told = false;
        std::mem::take(&mut waiting.items)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that an actor has ended, however it did: kept in the actor, dropped with it.
#[derive(Debug)]
pub struct EndNotice(
    #[expect(dead_code, reason = "dropping it is the notice")] oneshot::Sender<()>,
);

/// Resolves when the actor that holds the other half has ended.
#[derive(Debug)]
pub struct Ended(oneshot::Receiver<()>);

impl EndNotice {
    /// Both halves.
    #[must_use]
    pub fn new() -> (Self, Ended) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), Ended(receiver))
    }
}

impl Ended {
    /// Waits for the end.
    pub async fn wait(self) {
        let Err(_closed) = self.0.await else { return };
    }
}
