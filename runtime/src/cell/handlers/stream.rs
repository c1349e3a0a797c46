//! Replies that more follow: each waits until the way back has room.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};
use cellbus_channels::Reply;
use cellbus_proto::{
    envelope::{Header, Kind},
    route::Hop,
};
use tokio::sync::oneshot;

use super::answer::Answer;
use crate::cell::Cell;

/// Bytes on the way back beyond which replies that more follow wait.
const BACKLOG: usize = 1 << 20;
/// Time after which the way is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A handler has a reply that more follow.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HandlerReply {
    pub(super) number: u64,
    pub(super) reply: Reply,
    /// Told when the reply has left: until then the handler is not asked for more.
    pub(super) left: oneshot::Sender<()>,
}

/// A reply that waits for room.
pub(super) type Held = HandlerReply;

impl Cell {
    fn has_room_towards(&self, request: &Header) -> bool {
        match self.routes.next_hop(&request.origin.name, Hop::Local) {
            Ok(Hop::Link(link)) => {
                self.links.get(&link).is_none_or(|info| info.outbox.bytes() < BACKLOG)
            }
            Ok(Hop::Local) | Err(_) => true,
        }
    }

    /// Sends the reply if there is room, or hands it back.
    fn send_more(&mut self, held: Held) -> Option<Held> {
        let running = self.handlers.running.get_mut(&held.number)?;
        running.cancel.as_ref()?;
        if running.ticket.request.kind != Kind::Request {
            // Nobody waits for a reply; and it is no reason to make the handler wait.
            let _ = held.left.send(());
            return None;
        }
        let request = running.ticket.request.clone();
        if !self.has_room_towards(&request) {
            return Some(held);
        }
        let HandlerReply { number, reply, left } = held;
        match self.filter_reply(&request, reply) {
            Ok(reply) => {
                if let Some(running) = self.handlers.running.get_mut(&number) {
                    running.ticket.is_stream = true;
                }
                self.answer_more(&request, reply);
                // Fails only where the handler has ended in the meantime.
                let _ = left.send(());
            }
            Err(stopped) => self.cut_short(number, &stopped),
        }
        None
    }

    /// Ends a stream of replies with a failure, and its handler.
    fn cut_short(&mut self, number: u64, answer: &Answer) {
        let Some(running) = self.handlers.running.get_mut(&number) else { return };
        running.cancel = None;
        running.ticket.is_answered = true;
        let request = running.ticket.request.clone();
        self.send_answer(&request, answer);
    }

    fn look_again(&mut self, ctx: &mut Context<Self>) {
        if self.handlers.held.is_empty() || self.handlers.looks_again {
            return;
        }
        self.handlers.looks_again = true;
        ctx.run_later(LOOK_AGAIN, |cell, ctx| {
            cell.handlers.looks_again = false;
            for held in std::mem::take(&mut cell.handlers.held) {
                let still = cell.send_more(held);
                cell.handlers.held.extend(still);
            }
            cell.look_again(ctx);
        });
    }
}

impl Handler<HandlerReply> for Cell {
    type Result = ();

    fn handle(&mut self, reply: HandlerReply, ctx: &mut Self::Context) {
        if let Some(held) = self.send_more(reply) {
            self.handlers.held.push_back(held);
            self.look_again(ctx);
        }
        self.pacer.pace(1, ctx);
    }
}
